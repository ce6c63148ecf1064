"""The metadata file: row groups by size, typed columns, errors that name the column."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from img2dataset_dist.writers.metadata import GROUP_BYTES, MetadataWriter

PYARROW = int(pa.__version__.split(".")[0])
NEW_ENOUGH = PYARROW >= 16
old_pyarrow = pytest.mark.skipif(not NEW_ENOUGH, reason="this pyarrow cannot have it in parquet")
before_26 = pytest.mark.skipif(PYARROW < 26, reason="this pyarrow cannot read a null of it back from parquet")


def store(folder, schema, rows, **options):
    writer = MetadataWriter(lambda name: (folder / name).open("wb"), "0.parquet", schema, **options)
    for row in rows:
        writer.write(row)
    writer.close()
    return pq.ParquetFile(folder / "0.parquet")


def keyed(kind: pa.DataType) -> pa.Schema:
    return pa.schema([("value", kind), ("key", pa.string())])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int8(), -3),
        (pa.uint64(), 2**64 - 1),
        (pa.float32(), 0.5),
        pytest.param(pa.float16(), 0.5, marks=old_pyarrow),
        (pa.bool_(), False),
        (pa.string(), ""),
        (pa.large_string(), "é"),
        (pa.binary(3), b"abc"),
        (pa.date32(), dt.date(1969, 7, 20)),
        (pa.time64("us"), dt.time(23, 59, 59, 999999)),
        (pa.timestamp("ms"), dt.datetime(1900, 1, 1)),  # noqa: DTZ001 (a column without a zone)
        (pa.duration("us"), dt.timedelta(days=-1, microseconds=5)),
        (pa.decimal128(38, 10), Decimal("-1.5000000000")),
        pytest.param(pa.list_(pa.float32(), 2), [0.5, 1.5], marks=before_26),
        (pa.list_(pa.list_(pa.float64())), [[0.1], [], None]),
        (pa.list_(pa.struct([("a", pa.int64())])), [{"a": None}, None]),
        (pa.map_(pa.string(), pa.int32()), [("a", 1), ("b", None)]),
        (pa.struct([("t", pa.timestamp("us", tz="UTC"))]), {"t": dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)}),
        (pa.dictionary(pa.int32(), pa.string()), "common"),
        (pa.null(), None),
    ],
    ids=str,
)
def test_any_column_type_comes_back(tmp_path, kind, value):
    schema = keyed(kind)
    rows = [{"value": value, "key": "0"}, {"value": None, "key": "1"}]
    found = store(tmp_path, schema, rows).read()
    assert found["value"].to_pylist() == [value, None]
    assert found.schema.field("value").type == kind


def test_values_of_extension_types(tmp_path):
    if not hasattr(pa, "uuid"):
        pytest.skip("this pyarrow has no uuid")
    value = uuid.UUID(int=7)
    found = store(tmp_path, keyed(pa.uuid()), [{"value": value, "key": "0"}]).read()
    assert found["value"].to_pylist() == [value]


def test_a_row_group_is_written_when_it_is_full_and_sorted(tmp_path):
    rows = [{"value": "x" * 1000, "key": f"{index:03}"} for index in reversed(range(30))]
    file = store(tmp_path, keyed(pa.string()), rows, group_bytes=10_000)
    keys = [file.read_row_group(i)["key"].to_pylist() for i in range(file.num_row_groups)]
    assert len(keys) > 1
    assert all(group == sorted(group) for group in keys)
    assert sorted(key for group in keys for key in group) == [f"{index:03}" for index in range(30)]


def test_nested_values_count_too(tmp_path):
    rows = [{"value": [{"a": "x" * 1000}], "key": str(index)} for index in range(20)]
    kind = pa.list_(pa.struct([("a", pa.string())]))
    assert store(tmp_path, keyed(kind), rows, group_bytes=10_000).num_row_groups > 1


def test_a_shard_of_usual_size_is_one_row_group(tmp_path):
    rows = ({"value": "https://example.com/images/picture.jpg", "key": f"{index:09}"} for index in range(10_000))
    assert store(tmp_path, keyed(pa.string()), rows).num_row_groups == 1
    assert GROUP_BYTES == 64 * 2**20


def test_full_groups_leave_no_empty_one(tmp_path):
    rows = [{"value": "x" * 1000, "key": str(index)} for index in range(3)]
    file = store(tmp_path, keyed(pa.string()), rows, group_bytes=1)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [1, 1, 1]


def test_a_value_of_another_type_names_the_column(tmp_path):
    for kind, value in [(pa.int64(), "text"), (pa.string(), 5), (pa.int32(), 2**40), (pa.list_(pa.int8()), 3)]:
        with pytest.raises(TypeError, match=r"column 'value' holds a value that is no "):
            store(tmp_path, keyed(kind), [{"value": value, "key": "0"}])


def test_nothing_is_opened_before_it_is_needed(tmp_path):
    opened = []
    writer = MetadataWriter(opened.append, "0.parquet", keyed(pa.string()))
    writer.write({"value": "a", "key": "0"})
    writer.abort()
    assert opened == []


def test_abort_after_a_row_group_leaves_no_valid_file(tmp_path):
    writer = MetadataWriter(lambda name: (tmp_path / name).open("wb"), "0.parquet", keyed(pa.string()), 1)
    writer.write({"value": "a", "key": "0"})
    writer.abort()
    del writer
    with pytest.raises(pa.ArrowInvalid):
        pq.ParquetFile(tmp_path / "0.parquet")


def test_many_values_of_bytes(tmp_path):
    values = [None if index % 7 == 0 else bytes([index % 256]) * index for index in range(300)]
    rows = [{"value": value, "key": f"{index:03}"} for index, value in enumerate(values)]
    file = store(tmp_path, keyed(pa.binary()), rows)
    assert file.num_row_groups == 1
    assert file.read()["value"].to_pylist() == values
