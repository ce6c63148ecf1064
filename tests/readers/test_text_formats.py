"""txt, csv, tsv, jsonl and json as people and programs really write them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.lists import Reading, config_of, read_all, read_shard, spool_of

from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.model import Shard
from img2dataset_dist.plan import make_plan
from img2dataset_dist.readers import delimited, json_array, lines
from img2dataset_dist.readers.lines import MAX_LINE

Read = Callable[..., Reading]
BOM = b"\xef\xbb\xbf"
NEVER_CLOSED = "a quoted field is never closed"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a list of some format and read it back over all its shards."""

    def write_and_read(kind: str, content: str | bytes, rows_per_shard: int = 2, **options: Any) -> Reading:
        path = tmp_path / f"list.{kind}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return read_all(path, rows_per_shard, **options)

    return write_and_read


# txt


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (b"http://a/1\nhttp://a/2\n", ["http://a/1", "http://a/2"]),
        (b"http://a/1\nhttp://a/2", ["http://a/1", "http://a/2"]),
        (b"http://a/1\r\nhttp://a/2\r\n", ["http://a/1", "http://a/2"]),
        (b"\n\n  \nhttp://a/1\n\r\n\t\nhttp://a/2\n\n", ["http://a/1", "http://a/2"]),
        (b"  http://a/1 \n\thttp://a/2\t", ["http://a/1", "http://a/2"]),
        (b'http://a/1,2?x="y"\n"http://a/2"\n', ['http://a/1,2?x="y"', '"http://a/2"']),
        (BOM + b"http://a/1\n", ["http://a/1"]),
        (BOM + b"\nhttp://a/1", ["http://a/1"]),
        (b"http://a/\xff\xfe\nhttp://a/2\n", ["http://a/\ufffd\ufffd", "http://a/2"]),
        ("http://é.example/日本\n".encode(), ["http://é.example/日本"]),
        (b"http://a/\x00\x01\n", ["http://a/\x00\x01"]),
        (b"url\n", ["url"]),
        (b"http://a/1\rhttp://a/2", ["http://a/1\rhttp://a/2"]),
        (b"", []),
        (b"\n \n", []),
        (BOM, []),
    ],
)
def test_txt(read: Read, content: bytes, want: list[str]) -> None:
    for size in (1, 2, 10):
        got = read("txt", content, size)
        assert got.urls == want
        assert got.problems == [None] * len(want)


LONG = b"http://a/" + b"x" * 5_000_000


@pytest.mark.parametrize("kind", ["txt", "txt.gz"])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_overlong_line_is_a_bad_row(read: Read, kind: str, end: bytes) -> None:
    content = b"http://a/1\n" + LONG + b"\nhttp://a/2\n" + 2 * LONG + end
    got = read(kind, gzip.compress(content, 1) if kind.endswith("gz") else content, 3)
    assert got.urls == ["http://a/1", None, "http://a/2", None]
    assert got.problems == [None, "line too long", None, "line too long"]


def test_line_just_below_the_limit_is_fine(read: Read) -> None:
    lines = [b"http://" + b"x" * (size - 8) + b"\n" for size in (MAX_LINE - 1, MAX_LINE, MAX_LINE + 1)]
    assert read("txt", b"".join(lines)).problems == [None, "line too long", "line too long"]


# csv and tsv


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ('url,text\nhttp://a,"x, y"\n', ["x, y"]),
        ('url,text\nhttp://a,"x\ny\r\n\nz"\nhttp://b,w', ["x\ny\r\n\nz", "w"]),
        ('url,text\nhttp://a,"say ""hi"""\n', ['say "hi"']),
        ('url,text\nhttp://a,6" pipe\n', ['6" pipe']),
        ('url,text\nhttp://a,"bold" claim\nhttp://b,x\n', ["bold claim", "x"]),
        ("url,text\nhttp://a,''\n", ["''"]),
        ("url,text\r\nhttp://a,x\r\nhttp://b,y\r\n", ["x", "y"]),
        ("url,text\n\nhttp://a,x\n \n\t\n\r\nhttp://b,y\n\n", ["x", "y"]),
        ("text,url\nx,http://a\n", ["x"]),
        (" url , text \nhttp://a, x \n", [" x "]),
        ('"url","te""xt","text"\nhttp://a,1,x\n', ["x"]),
        ("url,text\nhttp://a\n", [None]),
        ("url,text\nhttp://a,\n", [""]),
        ('url,text\nhttp://a,""\n', [""]),
        ("url,text\nhttp://a,NULL\n", ["NULL"]),
        ("url,text\nhttp://a,é日😀\n", ["é日😀"]),
        ("url,text\nhttp://a,a\x00b\n", ["a\ufffdb"]),
        ("\n\nurl,text\nhttp://a,x\n", ["x"]),
        ("url,text,\nhttp://a,x,\n", ["x"]),
        ("url,text,z,z\nhttp://a,x,1,2\n", ["x"]),
        ("\ufeffurl,text\nhttp://a,x\n", ["x"]),
        ('\ufeff"url",text\nhttp://a,x\n', ["x"]),
        ("url,text\n", []),
        ("url,text", []),
    ],
)
def test_csv(read: Read, content: str, want: list[Any]) -> None:
    for size in (1, 2, 10):
        got = read("csv", content, size, caption_col="text")
        assert got.column("caption") == want
        assert got.urls == [f"http://{letter}" for letter in "abc"[: len(want)]]
        assert got.problems == [None] * len(want)
        assert read("csv.gz", gzip.compress(content.encode()), size, caption_col="text").items == got.items


def test_tsv(read: Read) -> None:
    content = 'url\ttext\tn\nhttp://a,b\tone, "two"\t1\nhttp://c\t"tab\there\nand line"\t\n\n\t\t\n'
    got = read("tsv", content, caption_col="text", save_additional_columns=("n",))
    assert got.urls == ["http://a,b", "http://c", ""]
    assert got.column("caption") == ['one, "two"', "tab\there\nand line", ""]
    assert got.column("n") == [1, None, None]


def test_row_of_empty_fields_is_a_row_and_a_blank_line_is_none(read: Read) -> None:
    assert read("csv", "url,a\n,\n\n \t\n , \nhttp://a\n").urls == ["", " ", "http://a"]
    assert read("tsv", "url\ta\n\t\n\n  \n \t \nhttp://a\n").urls == ["", " ", "http://a"]
    assert read("csv", 'url\n""\n\nhttp://a\n').urls == ["", "http://a"]


def test_rows_with_too_many_fields_are_bad_rows(read: Read) -> None:
    got = read("csv", "url,n\nhttp://a,1\nhttp://b,x,3\nhttp://c,4,\nhttp://d,5\n", save_additional_columns=("n",))
    assert got.urls == [f"http://{letter}" for letter in "abcd"]
    too_many = "the row has more fields than the header"
    assert got.problems == [None, too_many, too_many, None]
    assert [item.failure and item.failure.code for item in got.items] == [None, "bad_row", "bad_row", None]


@pytest.mark.parametrize(
    ("rows", "broken"),
    [
        (['http://x,"oops'], [0]),
        (["http://x,1", 'http://y,"oops', "http://z,2"], [1]),
        (["http://x,1", 'http://y,"oops', "http://z,2", 'http://w,"fine, this"', "http://v,3"], [1]),
        (["http://x,1", 'http://y,"oops', "http://z,2", 'http://w,"fine ""this"""', "http://v,3"], [1]),
        (['http://x,"oops', 'http://y,"oops', 'http://z,"oops'], [0, 1, 2]),
        (["http://x,1", '"http://y,oops'], [1]),
        (['http://x,"a"b,"oops', "http://y,1"], [0]),
    ],
)
@pytest.mark.parametrize("end", ["\n", ""])
def test_quote_that_is_never_closed_costs_its_row_alone(
    read: Read, rows: list[str], broken: list[int], end: str
) -> None:
    """Whatever the shard size: a shard ends where the quote is open, or goes on behind it."""
    for size in (1, 2, 3, 10):
        got = read("csv", "url,text\n" + "\n".join(rows) + end, size, caption_col="text")
        assert got.problems == [NEVER_CLOSED if n in broken else None for n in range(len(rows))]
        assert [url for n, url in enumerate(got.urls) if n not in broken] == [
            row.partition(",")[0] for n, row in enumerate(rows) if n not in broken
        ]


@pytest.mark.parametrize("width", [40, 5_000, 90_000, 300_000])
def test_open_quote_in_a_long_list(read: Read, width: int) -> None:
    """The search for its end stops after MAX_RECORD bytes, wherever in a line that is."""
    rows = [f"http://{n},{'x' * width}" for n in range(3 * delimited.MAX_RECORD // width)]
    rows[1] = rows[1].replace(",", ',"')
    got = read("csv", "url,text\n" + "\n".join(rows), 10_000, caption_col="text")
    assert len(got.items) == len(rows)
    assert [n for n, problem in enumerate(got.problems) if problem] == [1]
    assert got.urls[2:] == [row.partition(",")[0] for row in rows[2:]]


def test_open_quote_and_a_far_quote_that_could_close_it(read: Read) -> None:
    rows = ['http://a,"x', *["http://b,y" * 100] * 2000, 'http://c,z"']
    got = read("csv", "url,text\n" + "\n".join(rows), 10_000, caption_col="text")
    assert len(got.items) == len(rows)


def test_huge_field(read: Read) -> None:
    sizes = [delimited.MAX_RECORD - 100, delimited.MAX_RECORD + 100, 3_000_000, 5_000_000, 10]
    for quote in ("", '"'):
        rows = [f"http://a,{quote}{'x' * size}{quote}" for size in sizes]
        got = read("csv", "url,text\n" + "\n".join(rows), caption_col="text")
        assert got.problems == [None, None, None, "line too long", None]
        assert [caption and len(caption) for caption in got.column("caption")] == [*sizes[:3], None, 10]


def test_quoted_field_of_many_lines(read: Read) -> None:
    value = "line\n" * (delimited.MAX_RECORD // 5 - 10)
    assert read("csv", f'url,text\nhttp://a,"{value}"\nhttp://b,x', caption_col="text").column("caption") == [
        value,
        "x",
    ]


def test_lone_carriage_return_inside_a_row_is_a_bad_row(read: Read) -> None:
    got = read("csv", "url,text\nhttp://a,x\ry\nhttp://b,z\n", caption_col="text")
    assert got.problems == ["not valid csv", None]
    assert got.column("caption") == [None, "z"]


@pytest.mark.parametrize(
    ("values", "kind", "want"),
    [
        (["1", "-2", "0"], "int64", [1, -2, 0]),
        (["1", "", "NA"], "int64", [1, None, None]),
        ([str(2**63 - 1), str(-(2**63))], "int64", [2**63 - 1, -(2**63)]),
        ([str(2**63)], "string", [str(2**63)]),
        (["1", "2.5", "-3e2", ".5", "1."], "double", [1.0, 2.5, -300.0, 0.5, 1.0]),
        (["1.5", "inf", "-inf", "nan", ""], "double", [1.5, float("inf"), -float("inf"), None, None]),
        (["1.5", "1234567890123456789"], "string", ["1.5", "1234567890123456789"]),
        (["true", "false", "True", "False", ""], "bool", [True, False, True, False, None]),
        (["true", "1"], "string", ["true", "1"]),
        (["007", "8"], "string", ["007", "8"]),
        (["00.5", "1.5"], "string", ["00.5", "1.5"]),
        (["1_000", "2"], "string", ["1_000", "2"]),
        (["+1", "2"], "string", ["+1", "2"]),
        ([" 1", "2"], "string", [" 1", "2"]),
        (["٣", "2"], "string", ["٣", "2"]),
        (["0x10"], "string", ["0x10"]),
        (["", ""], "string", ["", ""]),
        (["NA", ""], "string", ["NA", ""]),
        (["2024-05-06"], "string", ["2024-05-06"]),
    ],
)
@pytest.mark.parametrize("kind_of_list", ["csv", "tsv"])
def test_types_are_the_narrowest_that_lose_nothing(
    read: Read, values: list[str], kind: str, want: list[Any], kind_of_list: str
) -> None:
    between = "," if kind_of_list == "csv" else "\t"
    content = "".join(f"{url}{between}{value}\n" for url, value in [("url", "n"), *(("http://a", v) for v in values)])
    got = read(kind_of_list, content, save_additional_columns=("n",))
    assert str(got.plan.schema.field("n").type) == kind
    assert got.column("n") == want
    assert [type(value) for value in got.column("n")] == [type(value) for value in want]
    pa.array(got.column("n"), got.plan.schema.field("n").type)
    untyped = read(kind_of_list, content, save_additional_columns=("n",), infer_types=False)
    assert untyped.column("n") == values
    assert untyped.plan.schema.field("n").type == pa.string()


@pytest.mark.parametrize(
    ("first", "later", "kind"),
    [
        ("1", "x", "int64"),
        ("1", "1.5", "int64"),
        ("1", "007", "int64"),
        ("1", "9" * 30, "int64"),
        ("1", "1_000", "int64"),
        ("1.5", "x", "double"),
        ("1.5", "1_0.5", "double"),
        ("true", "2", "bool"),
    ],
)
def test_later_value_of_another_type_is_a_bad_row(
    read: Read, first: str, later: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later: behind the rows that the type was guessed from."""
    monkeypatch.setattr(lines, "SAMPLE_BYTES", 1000)
    values = [first] * 1001 + [later, first]
    got = read("csv", "url,n\n" + "".join(f"http://a,{v}\n" for v in values), 500, save_additional_columns=("n",))
    assert str(got.plan.schema.field("n").type) == kind
    assert [(n, problem) for n, problem in enumerate(got.problems) if problem] == [
        (1001, f"column 'n': a value is no {kind}")
    ]
    assert got.column("n")[1000:] == [got.column("n")[0], None, got.column("n")[0]]
    assert got.urls[1001] == "http://a"


@pytest.mark.parametrize(
    ("kinds", "want"),
    [
        (["1", "2.5"], "double"),
        (["1", "x"], "string"),
        (["1", ""], "string"),
        (["true", "1"], "string"),
        (["1", "2"], "int64"),
        (["2.5", "x", "1"], "string"),
    ],
)
def test_types_agree_across_files(tmp_path: Path, kinds: list[str], want: str) -> None:
    for number, value in enumerate(kinds):
        (tmp_path / f"{number}.csv").write_text(f"url,n\nhttp://a,{value}\n")
    got = read_all(tmp_path, input_format="csv", save_additional_columns=("n",))
    assert str(got.plan.schema.field("n").type) == want
    assert got.column("n") == ([float(v) for v in kinds] if want == "double" else kinds if want == "string" else [1, 2])
    assert got.problems == [None] * len(kinds)


def test_columns_of_files_may_stand_in_another_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,x,y\nhttp://a,1,2\n")
    (tmp_path / "b.csv").write_text("more,y,url,x\n0,2,http://b,1\n")
    got = read_all(tmp_path, input_format="csv", save_additional_columns=("x", "y"))
    assert [(item.url, dict(item.columns)) for item in got.items] == [
        ("http://a", {"x": 1, "y": 2}),
        ("http://b", {"x": 1, "y": 2}),
    ]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ("", "list.csv has no header line"),
        ("\n \n", "list.csv has no header line"),
        (BOM, "list.csv has no header line"),
        ("http://a/1\nhttp://a/2\n", "no column 'text' in .*list.csv"),
        ("Url,text\nhttp://a,x\n", "no column 'url' in .*list.csv; did you mean 'Url'"),
        ("url,text,url\nhttp://a,x,http://b\n", "url_col: .*list.csv has 2 columns named 'url'"),
        ("url,text, text \nhttp://a,x,y\n", "caption_col: .*list.csv has 2 columns named 'text'"),
        ("url;text\nhttp://a;x\n", r"no column 'text' .*\(its columns: url;text\)"),
    ],
)
def test_headers_that_will_not_do(read: Read, content: str | bytes, want: str) -> None:
    with pytest.raises(ConfigError, match=want):
        read("csv", content, caption_col="text")


def test_boxes_in_csv(read: Read) -> None:
    cells = ["[[0, 0, 1, 0.5]]", "[]", "", "NaN", "[[0, 0", "7", '{"a": 1}', '[["x"]]', "[" * 100_000]
    rows = io.StringIO()
    csv.writer(rows).writerows([["url", "faces"], *(["http://a", cell] for cell in cells)])
    got = read("csv", rows.getvalue(), bbox_col="faces")
    assert got.column("faces") == [[[0.0, 0.0, 1.0, 0.5]], [], None, None, *[None] * 5]
    broken, other = "column 'faces' is not valid JSON", "column 'faces': a value is no list<item: list<item: double>>"
    assert got.problems == [None] * 4 + [broken, other, other, other, broken]


# jsonl


def test_jsonl_lines_that_are_no_objects_are_bad_rows(read: Read) -> None:
    lines = [
        b'{"url": "http://a"}',
        b"",
        b'{"url": "http://a"',
        b"nonsense",
        b'["http://a"]',
        b'"http://a"',
        b"null",
        b"[" * 200_000,
        b'{"url": "http://' + b"x" * MAX_LINE + b'"}',
        b'  {"url": "http://b"}  \r',
        b'{"url": "http://\xff"}',
        b'{"url": "http://c"}{"url": "http://d"}',
    ]
    for size in (1, 4, 100):
        got = read("jsonl", b"\n".join(lines), size)
        invalid, other = "line is not valid JSON", "line is not a JSON object"
        assert got.problems == [None, *[invalid] * 2, *[other] * 3, invalid, "line too long", None, None, invalid]
        assert got.urls == ["http://a", *[None] * 7, "http://b", "http://\ufffd", None]


def test_jsonl_values(read: Read) -> None:
    rows = [
        {"url": "http://a", "m": {"k": [1, 2], "s": "é"}, "n": 1, "l": ["x"], "mixed": 1, "big": 2**63},
        {"url": "http://b", "m": {"k": []}, "n": None, "l": [], "mixed": "one", "big": 2**80},
        {"url": 17, "m": None, "n": 2, "l": None, "mixed": [1, {"a": None}], "big": None},
        {"url": None},
        {},
    ]
    names = ("m", "n", "l", "mixed", "big")
    got = read("jsonl", "\n".join(map(json.dumps, rows)), save_additional_columns=names)
    assert got.urls == ["http://a", "http://b", "17", None, None]
    assert got.column("m") == [{"k": [1, 2], "s": "é"}, {"k": [], "s": None}, None, None, None]
    assert got.column("n") == [1, None, 2, None, None]
    assert got.column("l") == [["x"], [], None, None, None]
    assert got.column("mixed") == ["1", "one", '[1, {"a": null}]', None, None]
    assert got.column("big") == [str(2**63), str(2**80), None, None, None]
    assert got.problems == [None] * 5


def test_jsonl_escapes_and_surrogates(read: Read) -> None:
    """A pair is one character; half of one, which UTF-8 cannot hold, is U+FFFD wherever it stands."""
    lines = [
        '{"url": "http://\\u00e9", "t": "\\ud83d\\ude00", "m": {"k": ["\\ud83d\\ude00"]}, "x": 1}',
        '{"url": "http://\\ud83d", "t": "a\\uDE00b", "m": {"k": ["\\ud83d"]}, "x": {"\\ud83d": "\\ud83d"}}',
    ]
    got = read("jsonl", "\n".join(lines), caption_col="t", save_additional_columns=("m", "x"))
    assert got.urls == ["http://é", "http://\ufffd"]
    assert got.column("caption") == ["😀", "a\ufffdb"]
    assert got.column("m") == [{"k": ["😀"]}, {"k": ["\ufffd"]}]
    assert got.column("x") == ["1", '{"\ufffd": "\ufffd"}']
    assert got.problems == [None, None]


def test_jsonl_of_a_repeated_key_the_last_counts(read: Read) -> None:
    assert read("jsonl", '{"url": "http://a", "url": "http://b"}').urls == ["http://b"]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (1, "x"),
        (1, 1.5),
        (1, 2**70),
        (1.5, [1]),
        ([1], "x"),
        ({"a": 1}, 5),
        ([1], [0.5]),
        ({"a": 1}, {"b": 1}),
        ({"a": [1]}, {"a": [1.5]}),
        (True, 1),
        (True, "x"),
    ],
)
def test_jsonl_later_value_of_another_type_is_a_bad_row(
    read: Read, first: Any, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "SAMPLE_BYTES", 1000)
    values = [first] * 1001 + [later, None, first]
    content = "\n".join(json.dumps({"url": "http://a", "n": value}) for value in values)
    got = read("jsonl", content, 1000, save_additional_columns=("n",))
    assert [n for n, problem in enumerate(got.problems) if problem] == [1001]
    assert got.column("n")[1000:] == [first, None, None, first]


def test_jsonl_without_any_object(read: Read) -> None:
    with pytest.raises(ConfigError, match=r"url_col: no column 'url' in .*list\.jsonl"):
        read("jsonl", "http://a\nhttp://b\n")


# json

COLUMNS = {
    "url": ["http://a/1", "http://a/é", None],
    "n": [1, 2, 3],
    "m": [{"a": [1]}, None, {"a": []}],
    "unused": [[[]], "x", {"url": {"0": "trap"}}],
}
FORMS = {
    "records": json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]),
    "indented": json.dumps([dict(zip(COLUMNS, r, strict=True)) for r in zip(*COLUMNS.values(), strict=True)], indent=2),
    "lists": json.dumps(COLUMNS),
    "columns": json.dumps({name: {str(n): v for n, v in enumerate(values)} for name, values in COLUMNS.items()}),
    "pandas": pd.DataFrame(COLUMNS).to_json(),
    "pandas records": pd.DataFrame(COLUMNS).to_json(orient="records"),
    "labels": json.dumps({name: dict(zip("xyz", values, strict=True)) for name, values in COLUMNS.items()}),
    "other keys": json.dumps({"version": 1, "x": None, **COLUMNS, "more": {"url": ["trap"], "n": 5}}),
    "white space": "\n\r\t " + json.dumps(COLUMNS, indent=1) + "\n\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", [b"", BOM])
def test_json_forms(read: Read, form: str, prefix: bytes) -> None:
    for kind, size in [("json", 1), ("json", 2), ("json", 10), ("json.gz", 2)]:
        content = prefix + FORMS[form].encode()
        got = read(
            kind, gzip.compress(content) if kind == "json.gz" else content, size, save_additional_columns=("n", "m")
        )
        assert got.urls == COLUMNS["url"]
        assert got.column("n") == COLUMNS["n"]
        assert got.column("m") == COLUMNS["m"]
        assert got.problems == [None] * 3
        assert [shard.rows for shard in got.shards] == {1: [1, 1, 1], 2: [2, 1], 10: [3]}[size]


def test_json_numbers_keep_their_value(read: Read) -> None:
    got = read("json", '[{"url":"http://a","i":18446744073709551615,"f":1.5,"e":1e400,"z":123456789012345678901234}]',
               save_additional_columns=("i", "f", "e", "z"))  # fmt: skip
    assert dict(got.items[0].columns) == {
        "i": "18446744073709551615",
        "f": 1.5,
        "e": float("inf"),
        "z": "123456789012345678901234",
    }


def test_json_elements_that_are_no_objects_are_bad_rows(read: Read) -> None:
    got = read("json", '[{"url": "http://a"}, 1, null, "http://b", [], {}, {"url": "http://c"}]')
    assert got.urls == ["http://a", None, None, None, None, None, "http://c"]
    assert got.problems == [None, *["line is not a JSON object"] * 4, None, None]


@pytest.mark.parametrize("content", ["[]", " [ ] ", "", " \n"])
def test_json_without_rows(read: Read, content: str) -> None:
    assert read("json", content).shards == []


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ('"http://a"', "is neither a JSON list nor a JSON object; is it jsonl"),
        ("http://a", "is neither a JSON list"),
        ('[{"url": "http://a"}', "not valid JSON"),
        ('[{"url": "http://a"}] x', "not valid JSON"),
        ('[{"url": "http://a"},]', "not valid JSON"),
        ('[{"url": http://a}]', "not valid JSON"),
        ('[{"url": "http://a"}, NaN]', "not valid JSON"),
        (b'[{"url": "http://\xff"}]', "not valid JSON"),
        ('{"url": "http://a"}\n{"url": "http://b"}\n', "not valid JSON"),
        ('{"url": "http://a"}', r"no column 'url' .*\(its columns: none\)"),
        ('["http://a", "http://b"]', "no column 'url'"),
        ('{"link": ["http://a"]}', r"no column 'url' .*\(its columns: link\)"),
        ('{"url": ["http://a"], "url": ["http://b"]}', "has 2 columns named 'url'"),
        ("{}", "no column 'url'"),
        ("[" * 100_000, "nested deeper than 100 levels"),
        ('{"url": [' + "[" * 100_000, "not valid JSON"),
        ('[{"url": ' + '{"a":' * 150 + "1" + "}" * 151 + "]", "nested deeper than 100 levels"),
    ],
)
def test_json_documents_that_will_not_do(read: Read, content: str | bytes, want: str) -> None:
    with pytest.raises(ConfigError, match=f"list.json {want}|{want}"):
        read("json", content)


@pytest.mark.parametrize(
    "columns",
    [
        {"url": ["http://a", "http://b"], "n": [1]},
        {"url": {"0": "http://a"}, "n": {"1": 1}},
        {"url": {"0": "http://a", "1": "http://b"}, "n": {"1": 1, "0": 2}},
    ],
)
def test_json_columns_with_other_row_labels(read: Read, columns: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"list\.json: its columns have different row labels"):
        read("json", json.dumps(columns), save_additional_columns=("n",))


def test_json_that_breaks_off_late_yields_the_shards_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "SAMPLE_ROWS", 100)
    rows = [f"http://a/{n}" for n in range(5000)]
    (tmp_path / "list.json").write_text(json.dumps([{"url": url} for url in rows])[:-1])
    config = config_of(tmp_path / "list.json", 500)
    plan = make_plan(config)
    shards: list[Shard] = []
    with pytest.raises(InputError, match=r"list\.json is not valid JSON: .*premature EOF"):
        shards.extend(iter(plan.shards(spool_of(config))))
    assert [item.url for shard in shards for item in read_shard(plan, shard)] == rows


# what is plainly another format


def parquet_bytes() -> bytes:
    out = io.BytesIO()
    pd.DataFrame({"url": ["http://a"]}).to_parquet(out)
    return out.getvalue()


FOREIGN = {
    "parquet": (parquet_bytes(), "looks like parquet"),
    "gzip": (gzip.compress(b"url\nhttp://a\n"), r"looks like gzip; use input_format=txt\.gz"),
    "utf-16": ('url\n[{"url": "http://a"}]'.encode("utf-16"), "looks like UTF-16 text; convert it to UTF-8"),
    "utf-16-be": (b"\xfe\xff" + "url\nhttp://a".encode("utf-16-be"), "looks like UTF-16"),
    "zip": (b"PK\x03\x04" + bytes(40), "looks like a zip archive"),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "json", "jsonl"])
def test_file_of_another_format_is_refused(read: Read, kind: str, what: str) -> None:
    content, want = FOREIGN[what]
    with pytest.raises(ConfigError, match=rf"input_format='{kind}', but .*list\.{kind} {want}"):
        read(kind, content)
    with pytest.raises(ConfigError, match=f"list.{kind}.gz {want}"):
        read(f"{kind}.gz", gzip.compress(content))


# any rows, any bytes

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = st.integers(1, 12)
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30) | st.text(
    " \",\n\r\t'ab\u2028\x85", max_size=8
)


@FEW
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=30), size=SIZES, kind=st.sampled_from(["csv", "tsv"]))
@example(rows=[('"', "\r", "\n"), ('"\r\n"', "\r\n", "")], size=1, kind="csv")
def test_any_text_survives_csv(read: Read, rows: list[tuple[str, str, str]], size: int, kind: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="," if kind == "csv" else "\t").writerows([("url", "t", "x"), *rows])
    got = read(kind, out.getvalue(), size, caption_col="t", save_additional_columns=("x",), infer_types=False)
    assert [(i.url, i.columns["caption"], i.columns["x"]) for i in got.items] == rows
    assert got.problems == [None] * len(rows)


@FEW
@given(
    lines=st.lists(st.binary(max_size=20) | st.sampled_from([b"", b" ", b"http://a", BOM]), max_size=30),
    size=SIZES,
    end=st.sampled_from([b"\n", b""]),
)
def test_any_lines_survive_txt(read: Read, lines: list[bytes], size: int, end: bytes) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    content = b"http://first\n" + b"\n".join(lines) + end
    want = [line.decode("utf-8", "replace").strip() for line in lines if line.strip()]
    assert read("txt", content, size).urls == ["http://first", *want]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@FEW
@given(rows=st.lists(st.fixed_dictionaries({"url": st.none() | TEXT, "t": JSON}), min_size=1, max_size=20), size=SIZES)
def test_json_jsonl_and_columns_read_alike(read: Read, rows: list[dict[str, Any]], size: int) -> None:
    lines = read("jsonl", "\n".join(map(json.dumps, rows)), size, caption_col="t", save_additional_columns=("t",))
    assert lines.urls == [row["url"] for row in rows]
    assert lines.problems == [None] * len(rows)
    for document in (rows, {name: [row[name] for row in rows] for name in ("url", "t")}):
        got = read("json", json.dumps(document), size, caption_col="t", save_additional_columns=("t",))
        assert got.items == lines.items
        assert got.plan.schema == lines.plan.schema


SOUP = st.lists(
    st.sampled_from([b'"', b",", b"\n", b"\r", b"\t", b"\0", b"{", b"}", b"[", b"]", b":", b'"url"', b"1", b"\\ud800", BOM])
    | st.binary(max_size=3),
    max_size=40,
).map(b"".join)  # fmt: skip
HEADS = {"csv": b"url,x\n", "tsv": b"url\tx\n", "jsonl": b'{"url": "http://a", "x": 1}\n', "json": b"", "txt": b""}


@FEW
@given(kind=st.sampled_from(sorted(HEADS)), soup=SOUP, size=SIZES, head=st.booleans())
def test_any_bytes_give_the_rows_that_were_planned_or_one_of_our_errors(
    read: Read, kind: str, soup: bytes, size: int, head: bool
) -> None:
    def outcome() -> Reading | str:
        columns = () if kind == "txt" else ("x",)
        try:
            return read(kind, (HEADS[kind] if head else b"") + soup, size, save_additional_columns=columns)
        except (ConfigError, InputError) as error:
            return str(error)

    got = outcome()
    if isinstance(got, Reading):
        assert len(got.items) == sum(shard.rows for shard in got.shards)
        for name in got.items[0].columns if got.items else ():
            pa.array(got.column(name), got.plan.schema.field(name).type)
        pa.array(got.urls, pa.string())
    assert outcome() == got


@FEW
@given(soup=SOUP, sizes=st.tuples(SIZES, SIZES))
def test_shard_size_does_not_change_what_a_csv_says(read: Read, soup: bytes, sizes: tuple[int, int]) -> None:
    one, other = (read("csv", b"url,x\n" + soup, size, infer_types=False) for size in sizes)
    assert [(i.url, i.failure) for i in one.items] == [(i.url, i.failure) for i in other.items]
