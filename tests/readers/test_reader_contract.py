"""What every reader in the registry promises, also for compressed lists, lists of many files and other stores."""

from __future__ import annotations

import datetime as dt
import gzip
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.lists import FORMATS, config_of, read_all, read_shard, spool_of
from support.photos import url_list

from img2dataset_dist import storage
from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.model import Shard
from img2dataset_dist.plan import make_plan
from img2dataset_dist.readers import lines, parquet
from img2dataset_dist.readers.columns import key_of
from img2dataset_dist.walk import sliced

ROWS = 23
TABLES = [name for name in FORMATS if not name.startswith("txt")]
SLICED = [name for name in FORMATS if name.endswith(".gz") or name == "json"]
IN_PLACE = [name for name in FORMATS if name not in SLICED]


def urls(count: int, tag: str = "") -> list[str]:
    return [f"http://a.example/{tag}{n},'{n}.jpg?q=1" for n in range(count)]


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TABLES)
def table_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder on a store that is no disk."""
    store = fsspec.filesystem("memory").store
    store.clear()
    yield "memory://bucket/lists"
    store.clear()


@pytest.mark.parametrize("size", [1, 2, 7, ROWS, ROWS + 1, 10000])
def test_every_row_comes_out_once_and_in_order(kind: str, size: int, tmp_path: Path) -> None:
    path = url_list(tmp_path / f"l.{kind}", urls(ROWS))
    got = read_all(path, size)
    assert got.urls == urls(ROWS)
    assert got.problems == [None] * ROWS
    assert [shard.id for shard in got.shards] == list(range(math.ceil(ROWS / size)))
    assert [shard.rows for shard in got.shards] == [min(size, ROWS - n) for n in range(0, ROWS, size)]
    assert [shard.start for shard in got.shards] == list(range(0, ROWS, size))
    assert [(item.shard_id, item.index) for item in got.items] == [(n // size, n % size) for n in range(ROWS)]


@pytest.mark.parametrize(
    ("size", "digits", "shard_id", "index", "key"),
    [
        (1, 5, 12, 0, "00012"),
        (2, 5, 12, 1, "000121"),
        (10, 5, 12, 9, "000129"),
        (11, 5, 12, 10, "0001210"),
        (1000, 5, 12, 999, "00012999"),
        (1001, 5, 12, 1000, "000121000"),
        (10000, 5, 0, 0, "000000000"),
        (10000, 5, 123456, 7, "1234560007"),
        (10**12, 1, 3, 10**12 - 1, "3999999999999"),
    ],
)
def test_key(size: int, digits: int, shard_id: int, index: int, key: str) -> None:
    """10^k * shard_id + index with k = ceil(log10(size)), of oom_shard_count + k digits."""
    assert key_of(config_of("l.txt", size, oom_shard_count=digits), shard_id, index) == key


def test_keys_are_distinct_and_sorted_as_the_rows(kind: str, tmp_path: Path) -> None:
    keys = [item.key for item in read_all(url_list(tmp_path / f"l.{kind}", urls(ROWS)), 7, oom_shard_count=3).items]
    assert keys == sorted(set(keys))
    assert keys[0] == "0000"
    assert keys[-1] == "0031"
    assert len(keys) == ROWS


COUNTS = {"a": 5, "b": 1, "c": 9}


def folder_of_lists(folder: Path, kind: str) -> list[str]:
    for name, count in COUNTS.items():
        url_list(folder / f"{name}.{kind}", urls(count, name))
    return [url for name, count in COUNTS.items() for url in urls(count, name)]


@pytest.mark.parametrize("name", ["", "/", "/*", "/[ab-d].*"])
def test_each_file_starts_a_new_shard_and_ids_go_on(kind: str, name: str, tmp_path: Path) -> None:
    want = folder_of_lists(tmp_path / "lists", kind)
    got = read_all(f"{tmp_path}/lists{name}", 4, input_format=kind)
    assert got.urls == want
    assert [shard.rows for shard in got.shards] == [4, 1, 1, 4, 4, 1]
    assert [shard.start for shard in got.shards] == [0, 4, 0, 0, 4, 8]
    assert [shard.id for shard in got.shards] == list(range(6))
    assert len({item.key for item in got.items}) == len(want)


def test_list_on_another_store(kind: str, memory: str, tmp_path: Path) -> None:
    want = folder_of_lists(tmp_path, kind)
    fsspec.filesystem("memory").put(f"{tmp_path}/", "/bucket/lists/", recursive=True)
    for name, rows in [("", want), ("/*", want), (f"/b.{kind}", urls(1, "b"))]:
        got = read_all(memory + name, 4, input_format=kind)
        assert got.urls == rows
        assert all(source.path.startswith("memory://") for source in got.plan.sources)


TEXTS = [
    "plain",
    'a "quoted" one, with comma',
    "two\nlines\r\nand more",
    "日本語 😀 é ﷽",
    "  outer space ",
    "\ttab",
    "'",
]


def test_columns_captions_and_unicode(table_kind: str, tmp_path: Path) -> None:
    path = url_list(
        tmp_path / f"l.{table_kind}",
        urls(len(TEXTS)),
        {"text": TEXTS, "größe": list(range(len(TEXTS))), "unused": [None] * len(TEXTS)},
    )
    got = read_all(path, 3, caption_col="text", save_additional_columns=("größe",))
    assert got.urls == urls(len(TEXTS))
    assert got.column("caption") == TEXTS
    assert got.column("größe") == list(range(len(TEXTS)))
    assert set(got.items[0].columns) == {"caption", "größe"}
    assert got.plan.schema.names == ["größe", "caption", "url"]
    assert [str(field.type) for field in got.plan.schema] == ["int64", "string", "string"]


def test_nulls(table_kind: str, tmp_path: Path) -> None:
    path = url_list(tmp_path / f"l.{table_kind}", [None, "http://a/1", None], {"text": ["x", None, None]})
    got = read_all(path, 2, caption_col="text")
    nothing = "" if table_kind.startswith(("csv", "tsv")) else None  # these formats know no null of text
    assert got.urls == [nothing, "http://a/1", nothing]
    assert got.column("caption") == ["x", nothing, nothing]
    assert got.problems == [None] * 3


def test_null_numbers(table_kind: str, tmp_path: Path) -> None:
    path = url_list(tmp_path / f"l.{table_kind}", urls(3), {"n": [None, 2, None], "f": [0.5, None, 1e300]})
    got = read_all(path, 2, save_additional_columns=("n", "f"))
    assert got.column("n") == [None, 2, None]
    assert got.column("f") == [0.5, None, 1e300]


@pytest.mark.parametrize("boxes", [[[[0, 0, 1, 1]], []], [None, [[0.25, 0, 0.5, 1], [0, 0, 1, 1]]], [[], None]])
def test_boxes(table_kind: str, boxes: list[Any], tmp_path: Path) -> None:
    path = url_list(tmp_path / f"l.{table_kind}", urls(2), {"boxes": boxes})
    got = read_all(path, bbox_col="boxes")
    assert got.column("boxes") == boxes
    assert got.problems == [None, None]
    if table_kind != "parquet":
        assert str(got.plan.schema.field("boxes").type) == "list<item: list<item: double>>"


def test_url_col_and_hash_to_verify(table_kind: str, tmp_path: Path) -> None:
    path = url_list(tmp_path / f"l.{table_kind}", ["not this"], {"link": ["http://a/1"], "sum": ["00ff"]})
    got = read_all(path, url_col="link", verify_hash=("sum", "md5"))
    assert got.urls == ["http://a/1"]
    assert got.column("md5") == ["00ff"]


def test_one_column_for_several_uses(table_kind: str, tmp_path: Path) -> None:
    path = url_list(tmp_path / f"l.{table_kind}", urls(2), {"text": ["a", "b"]})
    got = read_all(path, caption_col="text", save_additional_columns=("text",))
    assert got.column("caption") == got.column("text") == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"url_col": "urI"}, r"url_col: no column 'urI' in .*l\..*; did you mean 'url'\? \(its columns: url, text\)"),
        ({"caption_col": "test"}, r"caption_col: no column 'test' .*did you mean 'text'"),
        ({"bbox_col": "faces"}, r"bbox_col: no column 'faces' in [^;]* \(its columns"),
        ({"save_additional_columns": ("text", "zz")}, "save_additional_columns: no column 'zz'"),
        ({"verify_hash": ("sum", "md5")}, "verify_hash: no column 'sum'"),
    ],
)
def test_missing_column_is_named_with_its_option(
    table_kind: str, options: dict[str, Any], want: str, tmp_path: Path
) -> None:
    path = url_list(tmp_path / f"l.{table_kind}", urls(2), {"text": ["a", "b"]})
    with pytest.raises(ConfigError, match=want):
        read_all(path, **options)


def test_file_without_a_column_that_others_have(table_kind: str, tmp_path: Path) -> None:
    url_list(tmp_path / f"a.{table_kind}", urls(2), {"text": ["a", "b"]})
    url_list(tmp_path / f"b.{table_kind}", urls(2))
    with pytest.raises(ConfigError, match=r"'text' in .*/b\."):
        read_all(tmp_path, caption_col="text", input_format=table_kind)


def test_list_without_rows(kind: str, tmp_path: Path) -> None:
    got = read_all(url_list(tmp_path / f"l.{kind}", []))
    assert got.shards == []
    assert got.plan.is_empty()


def test_lists_without_rows_among_others(kind: str, tmp_path: Path) -> None:
    for name, count in [("a", 0), ("b", 3), ("c", 0), ("d", 1)]:
        url_list(tmp_path / f"{name}.{kind}", urls(count, name))
    got = read_all(tmp_path, 2, input_format=kind)
    assert got.urls == [*urls(3, "b"), *urls(1, "d")]
    assert [shard.id for shard in got.shards] == [0, 1, 2]


def test_shards_can_be_read_in_any_order_and_again(kind: str, tmp_path: Path) -> None:
    got = read_all(url_list(tmp_path / f"l.{kind}", urls(ROWS)), 4)
    by_shard = {shard.id: [item.url for item in read_shard(got.plan, shard)] for shard in reversed(got.shards)}
    assert [url for shard_id in sorted(by_shard) for url in by_shard[shard_id]] == urls(ROWS)


def test_planning_twice_gives_the_same(kind: str, tmp_path: Path) -> None:
    path = url_list(tmp_path / f"l.{kind}", urls(ROWS))
    first, second = (read_all(path, 4) for _ in range(2))
    assert first == second


def test_first_shard_moves_all_ids(kind: str, tmp_path: Path) -> None:
    config = config_of(url_list(tmp_path / f"l.{kind}", urls(5)), 2)
    plan = make_plan(config, first_shard=40)
    shards = list(plan.shards(spool_of(config) if sliced(config) else None))
    assert [shard.id for shard in shards] == [40, 41, 42]
    assert [item.key for item in read_shard(plan, shards[-1])] == ["000420"]


@pytest.mark.parametrize("kind", SLICED)
def test_slices_are_written_only_for_shards_that_are_not_done(kind: str, tmp_path: Path) -> None:
    config = config_of(url_list(tmp_path / f"l.{kind}", urls(ROWS)), 5)
    plan, spool = make_plan(config), spool_of(config)
    shards = list(plan.shards(spool, done={0, 2, 3}))
    assert [shard.id for shard in shards] == [1, 4]
    assert all(shard.temporary for shard in shards)
    assert sorted(name.partition("-")[2].partition(".")[0] for name in spool.names()) == ["1", "4"]
    got = [item.url for shard in shards for item in read_shard(plan, shard)]
    assert got == [*urls(ROWS)[5:10], *urls(ROWS)[20:]]


@pytest.mark.parametrize("kind", SLICED)
def test_slice_is_written_when_its_shard_is_asked_for(kind: str, tmp_path: Path) -> None:
    """Otherwise the slices of a long list would fill the disk before the first is done."""
    config = config_of(url_list(tmp_path / f"l.{kind}", urls(ROWS)), 5)
    spool = spool_of(config)
    shards = make_plan(config).shards(spool)
    for count in (1, 2, 3):
        next(shards)
        assert len(spool.names()) == count


@pytest.mark.parametrize("kind", SLICED)
def test_full_disk_of_the_slices_is_not_blamed_on_the_list(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(url_list(tmp_path / f"l.{kind}", urls(3)))
    plan = make_plan(config)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.Folder, "write_whole", full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        list(plan.shards(spool_of(config)))


@pytest.mark.parametrize("kind", IN_PLACE)
def test_no_slice_is_made_of_what_can_be_entered_in_the_middle(kind: str, tmp_path: Path) -> None:
    config = config_of(url_list(tmp_path / f"l.{kind}", urls(ROWS)), 5)
    spool = spool_of(config)
    shards = list(make_plan(config).shards(spool))
    assert not any(shard.temporary for shard in shards)
    assert spool.names() == []


@pytest.mark.parametrize("kind", SLICED)
def test_shards_are_counted_without_a_spool(kind: str, tmp_path: Path) -> None:
    plan = make_plan(config_of(url_list(tmp_path / f"l.{kind}", urls(ROWS)), 5))
    assert [shard.rows for shard in plan.shards()] == [5, 5, 5, 5, 3]


def shrink(path: Path, kind: str) -> None:
    url_list(path, urls(6))


def other_columns(path: Path, kind: str) -> None:
    """One column instead of two, so that text files shift as well."""
    url_list(path.with_name(f"x.{kind}"), [u[:9] for u in urls(ROWS)])
    path.with_name(f"x.{kind}").rename(path)
    if kind == "parquet":
        pq.write_table(pa.table({"link": urls(ROWS)}), path)


def garbage(path: Path, kind: str) -> None:
    path.write_bytes(b"\x00\x01nonsense" * 10)


def vanish(path: Path, kind: str) -> None:
    path.unlink()


def cut_off(path: Path, kind: str) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("change", [shrink, other_columns, garbage, vanish, cut_off])
def test_list_that_changed_between_plan_and_read(
    kind: str, change: Callable[[Path, str], None], tmp_path: Path
) -> None:
    path = Path(url_list(tmp_path / f"l.{kind}", urls(ROWS)))
    got = read_all(path, 10)
    change(path, kind)
    with pytest.raises(InputError, match=rf"l\.{kind}"):
        list(read_shard(got.plan, got.shards[-1]))


def test_list_with_more_rows_in_the_same_bytes(tmp_path: Path) -> None:
    got = read_all(url_list(tmp_path / "l.txt", ["http://aaaaaaaaaaaaaaa"] * 3))
    (tmp_path / "l.txt").write_text("http://a\nhttp://aaaaa\n" * 3)
    with pytest.raises(InputError, match=r"l\.txt: found 6 rows at bytes 0-\d+ where 3 were planned; the file changed"):
        list(read_shard(got.plan, got.shards[0]))


@pytest.mark.parametrize("kind", SLICED)
@pytest.mark.parametrize("change", [garbage, vanish, cut_off])
def test_list_that_changed_between_plan_and_slices(
    kind: str, change: Callable[[Path, str], None], tmp_path: Path
) -> None:
    path = Path(url_list(tmp_path / f"l.{kind}", urls(ROWS)))
    config = config_of(path, 10)
    plan = make_plan(config)
    change(path, kind)
    with pytest.raises(InputError, match=rf"l\.{kind}"):
        list(plan.shards(spool_of(config)))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_list_that_lost_its_column_before_the_shards_were_found(kind: str, tmp_path: Path) -> None:
    """Not a ConfigError: that would say that nothing was written yet."""
    path = tmp_path / f"l.{kind}"
    plan = make_plan(config_of(url_list(path, urls(ROWS), {"text": ["x"] * ROWS}), 10, caption_col="text"))
    url_list(path, urls(ROWS))
    with pytest.raises(InputError, match=rf"'text'.*l\.{kind}|l\.{kind}.*'text'"):
        [item for shard in plan.shards() for item in read_shard(plan, shard)]


@pytest.mark.parametrize("kind", SLICED)
def test_slice_that_vanished(kind: str, tmp_path: Path) -> None:
    got = read_all(url_list(tmp_path / f"l.{kind}", urls(ROWS)), 10)
    spool_of(got.plan.config).remove(got.shards[1].source.path.rpartition("/")[2])
    assert len(list(read_shard(got.plan, got.shards[0]))) == 10
    with pytest.raises(InputError):
        list(read_shard(got.plan, got.shards[1]))


@pytest.mark.parametrize("kind", [name for name in SLICED if name.endswith(".gz")])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_broken_gzip_yields_the_shards_before_the_damage(
    kind: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "SAMPLE_BYTES", 10_000)  # the damage is behind what a plan looks at
    rows = [f"http://a.example/{n * 7919 % 100_003}.jpg" for n in range(40_000)]
    path = Path(url_list(tmp_path / f"l.{kind}", rows))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[-6] ^= 1  # the checksum
    path.write_bytes(content)
    config = config_of(path, 500)
    plan = make_plan(config)
    shards: list[Shard] = []
    with pytest.raises(InputError, match=rf"l\.{kind}: (EOFError|BadGzipFile)"):
        shards.extend(iter(plan.shards(spool_of(config))))
    got = [item.url for shard in shards for item in read_shard(plan, shard)]
    assert len(got) > 15_000
    assert got == rows[: len(got)]


def test_path_that_is_nothing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no file or folder {tmp_path}/l"):
        read_all(tmp_path / f"l.{kind}")


@pytest.mark.parametrize("kind", [name for name in FORMATS if name.endswith(".gz")])
def test_compressed_in_name_only(kind: str, tmp_path: Path) -> None:
    path = Path(url_list(tmp_path / f"l.{kind}", urls(3)))
    path.write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"url_list: .*l\.{kind}: BadGzipFile"):
        read_all(path)


# parquet keeps types of its own


def write_parquet(path: Path, table: pa.Table, groups: list[int]) -> Path:
    """A file with row groups of these sizes."""
    start = 0
    with pq.ParquetWriter(path, table.schema) as writer:
        for size in groups:
            writer.write_table(table.slice(start, size), row_group_size=size or None)
            start += size
    assert start == len(table)
    assert pq.ParquetFile(path).metadata.num_row_groups == len([size for size in groups if size])
    return path


@pytest.mark.parametrize("size", [1, 2, 7, 10, 2500, 5000])
def test_row_groups_need_not_fit_the_shards(size: int, tmp_path: Path) -> None:
    groups = [1, 3, 1024, 7, 1, 1025, 39] if size > 10 else [1, 3, 10, 7, 1, 2]
    count = sum(groups)
    path = write_parquet(tmp_path / "l.parquet", pa.table({"url": urls(count), "n": range(count)}), groups)
    got = read_all(path, size, save_additional_columns=("n",))
    assert got.urls == urls(count)
    assert got.column("n") == list(range(count))


def test_only_the_row_groups_and_columns_of_a_shard_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "l.parquet", pa.table({"url": urls(40), "n": range(40)}), [10, 10, 10, 10])
    asked = []

    class Spy(pq.ParquetFile):
        def iter_batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
            asked.append((options["row_groups"], options["columns"]))
            return super().iter_batches(**options)

    monkeypatch.setattr(parquet.pq, "ParquetFile", Spy)
    assert read_all(path, 15).urls == urls(40)
    assert asked == [([0, 1], ["url"]), ([1, 2], ["url"]), ([3], ["url"])]


DAY = dt.datetime(2024, 5, 6, 7, 8, 9, 123456)  # noqa: DTZ001 (parquet has time stamps without a zone)
NANO = 1_714_979_289_123_456_789
STORED = {
    "dictionary": (pa.array(["a", "b", "a"]).dictionary_encode(), pa.string(), ["a", "b", "a"]),
    "dictionary_in_list": (
        pa.ListArray.from_arrays([0, 1, 1, 3], pa.array(["a", "b", "a"]).dictionary_encode()),
        pa.list_(pa.string()),
        [["a"], [], ["b", "a"]],
    ),
    "large_string": (pa.array(["a", None, "é"], pa.large_string()), pa.large_string(), ["a", None, "é"]),
    "ns": (pa.array([NANO, None, NANO], pa.timestamp("ns")), pa.timestamp("us"), [DAY, None, DAY]),
    "ns_zone": (
        pa.array([NANO] * 3, pa.timestamp("ns", "UTC")),
        pa.timestamp("us", "UTC"),
        [DAY.replace(tzinfo=dt.timezone.utc)] * 3,
    ),
    "ns_in_list": (
        pa.array([[NANO], [], None], pa.list_(pa.timestamp("ns"))),
        pa.list_(pa.timestamp("us")),
        [[DAY], [], None],
    ),
    "ns_in_struct": (
        pa.array([{"t": NANO}, {"t": None}, None], pa.struct({"t": pa.timestamp("ns")})),
        pa.struct({"t": pa.timestamp("us")}),
        [{"t": DAY}, {"t": None}, None],
    ),
    "duration": (pa.array([1001] * 3, pa.duration("ns")), pa.duration("us"), [dt.timedelta(microseconds=1)] * 3),
    "time": (pa.array([1001] * 3, pa.time64("ns")), pa.time64("us"), [dt.time(0, 0, 0, 1)] * 3),
    "day": (pa.array([DAY.date()] * 3), pa.date32(), [DAY.date()] * 3),
    "decimal": (pa.array([Decimal("1.50")] * 3), pa.decimal128(3, 2), [Decimal("1.50")] * 3),
    "float32": (pa.array([0.5, None, 2], pa.float32()), pa.float32(), [0.5, None, 2]),
    "uint64": (pa.array([2**64 - 1] * 3, pa.uint64()), pa.uint64(), [2**64 - 1] * 3),
    "bool": (pa.array([True, None, False]), pa.bool_(), [True, None, False]),
    "binary": (pa.array([b"\xff\x00", None, b""]), pa.binary(), [b"\xff\x00", None, b""]),
    "null": (pa.nulls(3), pa.null(), [None] * 3),
    "map": (
        pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        pa.map_(pa.string(), pa.int64()),
        [[("k", 1)], [], None],
    ),
    "nested": (
        pa.array([[{"a": [1, 2]}, {"a": None}], [], None]),
        pa.list_(pa.struct({"a": pa.list_(pa.int64())})),
        [[{"a": [1, 2]}, {"a": None}], [], None],
    ),
    "dotted.name": (pa.array(["x", "y", "z"]), pa.string(), ["x", "y", "z"]),
}


@pytest.mark.parametrize("name", STORED)
def test_parquet_types(name: str, tmp_path: Path) -> None:
    column, want_type, want = STORED[name]
    pq.write_table(pa.table({"url": urls(3), name: column}), tmp_path / "l.parquet")
    got = read_all(tmp_path / "l.parquet", 2, save_additional_columns=(name,))
    assert got.column(name) == want
    assert got.problems == [None] * 3
    kind = got.plan.schema.field(name).type
    assert kind.equals(want_type) or str(kind).replace("element", "item") == str(want_type).replace("element", "item")
    pa.array(got.column(name), kind)  # a writer can store them


@pytest.mark.parametrize(
    ("column", "want"),
    [
        (pa.array(["http://a", None]).dictionary_encode(), ["http://a", None]),
        (pa.array(["http://a", None], pa.large_string()), ["http://a", None]),
        (pa.array([b"http://\xff", None]), ["http://\ufffd", None]),
        (pa.array([17, None]), ["17", None]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_url_and_caption_are_text_whatever_their_column(column: pa.Array, want: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": column, "text": column}), tmp_path / "l.parquet")
    got = read_all(tmp_path / "l.parquet", caption_col="text")
    assert got.urls == want
    assert got.column("caption") == want


def test_parquet_files_must_agree_on_types_but_for_nulls(tmp_path: Path) -> None:
    for name, column in [("a", pa.nulls(1)), ("b", pa.array([1])), ("c", pa.nulls(1))]:
        pq.write_table(pa.table({"url": urls(1, name), "n": column}), tmp_path / f"{name}.parquet")
    got = read_all(tmp_path, save_additional_columns=("n",), input_format="parquet")
    assert got.plan.schema.field("n").type == pa.int64()
    assert got.column("n") == [None, 1, None]
    pq.write_table(pa.table({"url": urls(1), "n": ["text"]}), tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match=r"column 'n' is int64 in .*/b\.parquet but string in .*/d\.parquet"):
        read_all(tmp_path, save_additional_columns=("n",), input_format="parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\x00" * 40 + b"PAR1", b"http://a\n" * 9])
def test_file_that_is_no_parquet(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "l.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match=r"url_list: .*l\.parquet is not a readable parquet file"):
        read_all(tmp_path / "l.parquet")


def test_damaged_page_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    pq.write_table(pa.table({"url": [f"http://a/{n * 7919 % 10007}" for n in range(5000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[2000:2400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"l\.parquet"):
        read_all(path)
