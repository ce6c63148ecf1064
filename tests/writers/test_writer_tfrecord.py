"""The hand-written TFRecord and protobuf encoding, against the generated classes of the `tfrecord` package."""

from __future__ import annotations

import datetime as dt
import math
import struct
from decimal import Decimal

import google_crc32c
import pyarrow as pa
import pytest
import tfrecord
from hypothesis import given
from hypothesis import strategies as st
from tfrecord import example_pb2

from img2dataset_dist.model import Item, Sample
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.tfrecord import FLOATS, INTS, TFRecordWriter, example, feature, record

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


def parse(content: bytes) -> tuple[str, list]:
    """Kind and values of an encoded feature."""
    message = example_pb2.Feature()
    message.ParseFromString(content)
    kind = message.WhichOneof("kind")
    return kind, list(getattr(message, kind).value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ("bytes_list", [b""])),
        ("é", ("bytes_list", ["é".encode()])),
        ("\ud800", ("bytes_list", [b"\xef\xbf\xbd"])),
        (b"\x00\xff", ("bytes_list", [b"\x00\xff"])),
        (True, ("int64_list", [1])),
        (-1, ("int64_list", [-1])),
        (2**64 - 1, ("int64_list", [-1])),
        (0.5, ("float_list", [0.5])),
        (1e300, ("float_list", [math.inf])),
        ([1, 2, 3], ("int64_list", [1, 2, 3])),
        ([True, False], ("int64_list", [1, 0])),
        ([0.5, 1.5], ("float_list", [0.5, 1.5])),
        ([1, 0.5], ("float_list", [1.0, 0.5])),
        (["a", None, "b"], ("bytes_list", [b"a", b"", b"b"])),
        ([1, None], ("bytes_list", [b"1", b""])),
        ([None, None], ("bytes_list", [b"", b""])),
        ([[0.5, 1.0], [0.25]], ("bytes_list", [b"[0.5, 1.0]", b"[0.25]"])),
        ({"a": 1, "b": b"\xff"}, ("bytes_list", [b'{"a": 1, "b": "/w=="}'])),
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc), ("bytes_list", [b"2024-01-02T03:04:05+00:00"])),
        (dt.date(2024, 1, 2), ("bytes_list", [b"2024-01-02"])),
        (Decimal("1.50"), ("bytes_list", [b"1.50"])),
        ([], ("bytes_list", [])),
    ],
    ids=repr,
)
def test_kinds(value, expected):
    assert parse(feature(value)) == expected


def test_null_among_floats_is_nan():
    kind, values = parse(feature([None, 0.5]))
    assert (kind, values[1]) == ("float_list", 0.5)
    assert math.isnan(values[0])


def test_an_empty_list_has_the_kind_of_its_column():
    assert parse(feature([], FLOATS)) == ("float_list", [])
    assert parse(feature([], INTS)) == ("int64_list", [])


@given(
    st.dictionaries(
        st.text(min_size=1),
        st.one_of(
            st.text(), st.binary(), INT64, FLOAT32,
            st.lists(INT64, min_size=1), st.lists(FLOAT32, min_size=1), st.lists(st.text(), min_size=1),
        ),
    )
)  # fmt: skip
def test_protobuf_reads_what_we_encode(values):
    message = example_pb2.Example()
    message.ParseFromString(example({name: feature(value) for name, value in values.items()}))
    found = message.features.feature
    assert set(found) == set(values)
    for name, value in values.items():
        wanted = value if isinstance(value, list) else [value]
        stored = list(getattr(found[name], found[name].WhichOneof("kind")).value)
        assert stored == [item.encode() if isinstance(item, str) else item for item in wanted]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(INT64, min_size=1) | st.lists(FLOAT32, min_size=1), max_size=1)
)
def test_our_bytes_are_those_of_protobuf(values):
    theirs = example_pb2.Example()
    for name, value in values.items():
        kind = "int64_list" if isinstance(value[0], int) else "float_list"
        getattr(theirs.features.feature[name], kind).value.extend(value)
    if not values:
        theirs.features.SetInParent()
    assert example({name: feature(value) for name, value in values.items()}) == theirs.SerializeToString()


def test_a_record_is_framed_as_tensorflow_does():
    # From the TFRecord documentation of TensorFlow: uint64 length, masked crc of it, data, masked crc of it.
    data = b"some data" * 100
    framed = record(data)
    length, length_crc = struct.unpack("<QI", framed[:12])
    assert length == len(data)
    assert framed[12:-4] == data
    for crc, content in [(length_crc, framed[:8]), (struct.unpack("<I", framed[-4:])[0], data)]:
        unmasked = (crc - 0xA282EAD8) & 0xFFFFFFFF
        assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == google_crc32c.value(content)


def test_a_known_record():
    # What tf.io.TFRecordWriter writes for an empty record: both checksums, of eight zero bytes and of nothing.
    assert record(b"").hex() == "0000000000000000" + "29039807" + "d8ea82a2"


def test_records_equal_those_of_the_tfrecord_package(tmp_path):
    path = tmp_path / "theirs.tfrecord"
    writer = tfrecord.TFRecordWriter(str(path))
    writer.write({"length": (7, "int")})
    writer.close()
    assert path.read_bytes() == record(example({"length": feature(7)}))


def test_loader_gives_typed_columns(tmp_path):
    schema = pa.schema(
        [
            ("n", pa.int64()),
            ("x", pa.float64()),
            ("ys", pa.list_(pa.float64())),
            ("flag", pa.bool_()),
            ("url", pa.string()),
        ]
    )
    layout = Layout(input_schema=schema, exif=False, hash_name=None, encode_format="jpg", caption=False)
    writer = TFRecordWriter(lambda name: (tmp_path / name).open("wb"), "0", layout)
    for index, ys in enumerate(([0.5, 1.5], [])):
        columns = {"n": 2**40, "x": 0.25, "ys": ys, "flag": True}
        writer.write(
            Sample(
                item=Item(shard_id=7, index=index, key=f"{index:09}", url="u", columns=columns), data=b"media", width=3
            )
        )
    writer.close()
    wanted = {"key": "byte", "jpg": "byte", "n": "int", "x": "float", "ys": "float", "flag": "int", "width": "int"}
    found = list(tfrecord.tfrecord_loader(str(tmp_path / "0.tfrecord"), None, wanted))
    assert [bytes(row["key"]) for row in found] == [b"000000000", b"000000001"]
    assert [row["ys"].tolist() for row in found] == [[0.5, 1.5], []]
    first = {name: found[0][name].tolist() for name in ("n", "x", "flag", "width")}
    assert first == {"n": [2**40], "x": [0.25], "flag": [1], "width": [3]}


def test_media_win_over_a_column_of_the_same_name(tmp_path):
    schema = pa.schema([("jpg", pa.string()), ("txt", pa.string()), ("url", pa.string())])
    layout = Layout(input_schema=schema, exif=False, hash_name=None, encode_format="jpg", caption=False)
    writer = TFRecordWriter(lambda name: (tmp_path / name).open("wb"), "0", layout)
    columns = {"jpg": "a column", "txt": "another"}
    writer.write(Sample(item=Item(shard_id=7, index=0, key="0", url="u", columns=columns), data=b"media"))
    writer.close()
    (row,) = tfrecord.tfrecord_loader(str(tmp_path / "0.tfrecord"), None)
    assert (bytes(row["jpg"]), bytes(row["txt"])) == (b"media", b"another")
