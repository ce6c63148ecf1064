"""KEY.json: the text of json.dumps(indent=4), and always valid JSON."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2dataset_dist.writers.sample_json import dump_row, utf8, well_formed

TEXT = st.text(st.characters())  # with lone surrogates
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
NESTED = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)
ANYTHING = st.recursive(
    st.one_of(
        SCALARS, st.floats(), st.binary(), st.datetimes(), st.dates(), st.times(), st.timedeltas(), st.decimals(), st.uuids()
    ),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(TEXT | st.integers() | st.floats(), inner),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(TEXT, SCALARS))
def test_a_flat_row_is_what_json_dumps_gives(row):
    assert dump_row(row) == json.dumps(row, indent=4)


@given(st.dictionaries(TEXT, NESTED))
def test_a_nested_row_is_what_json_dumps_gives(row):
    assert dump_row(row) == json.dumps(row, indent=4)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@given(st.dictionaries(TEXT, ANYTHING))
def test_anything_gives_valid_json_in_the_order_of_the_row(row):
    assert list(json.loads(dump_row(row), parse_constant=refuse)) == list(row)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.timezone.utc), "2024-02-29T01:02:03+00:00"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (dt.time(1, 2, 3), "01:02:03"),
        (dt.timedelta(minutes=1, microseconds=500000), 60.5),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x00\xff", "AP8="),
        (float("nan"), None),
        (float("-inf"), None),
        ([1.0, float("inf")], [1.0, None]),
        ([("a", b"x")], [["a", "eA=="]]),
        ({1: Decimal(1), None: {"t": dt.date(2024, 1, 1)}}, {"1": "1", "null": {"t": "2024-01-01"}}),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.float32("nan"), None),
        (np.int64(3), 3),
    ],
    ids=repr,
)
def test_values_that_json_has_no_form_for(value, stored):
    row = {"before": 1, "value": value, "after": "x"}
    assert dump_row(row) == json.dumps(row | {"value": stored}, indent=4)


@given(TEXT)
def test_text_is_always_utf8(text):
    assert utf8(text).decode() == well_formed(text)


@given(st.text())
def test_good_text_is_left_alone(text):
    assert well_formed(text) == text
    assert utf8(text) == text.encode()


def test_surrogates_are_joined_or_replaced():
    assert utf8("\ud83d\ude00 \ud83d \udc80") == "😀 \ufffd \ufffd".encode()
    assert well_formed([{"\udc80": ("\ud800", 1)}]) == [{"\ufffd": ("\ufffd", 1)}]
