"""Elements of a JSON list, read in pieces of any size, and entered behind any element."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from img2dataset_dist.readers import json_text
from img2dataset_dist.readers.json_text import ListText

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.loads(json.dumps(value).replace("Infinity", "1e999")))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(VALUES, max_size=8),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    space=st.sampled_from(["", " ", "\r\n\t"]),
)
def test_any_list_in_any_pieces_and_from_any_element_on(
    values: list[Any], chunk: int, indent: int | None, ascii_only: bool, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).replace("Infinity", "1e999")
    content = (space + text + space).encode("utf-8", "surrogatepass")
    try:
        content.decode()
    except UnicodeDecodeError:  # half of a pair, written as it is: no UTF-8
        return
    got, ends = [], []
    elements = ListText(io.BufferedReader(io.BytesIO(content)), offset=0, inside=False)
    for value in elements:
        got.append(value)
        ends.append(elements.offset)
        assert json.loads(elements.text) == value
    assert got == values
    for number, end in enumerate(ends, 1):
        stream = io.BytesIO(content)
        stream.seek(end)
        rest = ListText(io.BufferedReader(stream), offset=end, inside=True)
        assert [(value, rest.offset) for value in rest] == list(zip(values[number:], ends[number:], strict=True))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2", "premature EOF"),
        ('[{"a": "b', "premature EOF"),
        ("[1 2]", "expected '\\]'"),
        ("[1,]", "Expecting value"),
        ("[1] x", "behind the end"),
        ("[nul", "premature EOF"),
        ("[Infinity, 1]", "Infinity"),
        ("[" + "[" * 200 + "]" * 201, "deeper than 100"),
    ],
)
def test_what_is_no_list(content: str, says: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    with pytest.raises(ValueError, match=says):
        list(ListText(io.BufferedReader(io.BytesIO(content.encode())), offset=0, inside=False))


def test_damage_early_in_a_long_document_is_found_there() -> None:
    """And not after the rest was read in the hope that it explains it."""
    stream = io.BufferedReader(io.BytesIO(b'[{"url": http://a}, ' + b'{"url": "http://b"},' * 10**6))
    with pytest.raises(ValueError, match="Expecting value"):
        list(ListText(stream, offset=0, inside=False))
    assert stream.tell() <= 2 * json_text.CHUNK


def test_an_endless_element_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_ELEMENT", 1000)
    monkeypatch.setattr(json_text, "CHUNK", 100)
    stream = io.BufferedReader(io.BytesIO(b'["' + b"x" * 10**6), 100)
    with pytest.raises(ValueError, match="more than 1000 characters"):
        list(ListText(stream, offset=0, inside=False))
    assert stream.tell() < 5000
