"""NNNNN.tfrecord: one tf.train.Example for each success, written without TensorFlow.

Framing: https://www.tensorflow.org/tutorials/load_data/tfrecord ("TFRecords format details"). Messages:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto in the protobuf wire format,
https://protobuf.dev/programming-guides/encoding/. The messages are four levels of "tag, length, content", which is
less code than it takes to have generated classes agree with every version of the protobuf package.
"""

from __future__ import annotations

import functools
import json
import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Any

import google_crc32c
import pyarrow as pa

from img2dataset_dist.model import Sample
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.batches import BatchedFile
from img2dataset_dist.writers.layout import Layout, content_of
from img2dataset_dist.writers.metadata import MetadataWriter
from img2dataset_dist.writers.sample_json import plain, utf8

BYTES, FLOATS, INTS = b"\x0a", b"\x12", b"\x1a"
"""Tags of the three kinds in Feature: bytes_list = 1, float_list = 2, int64_list = 3."""

_FIRST, _SECOND = b"\x0a", b"\x12"
"""Tags of field 1 and field 2 of any message, both with a length before the content."""

_ONE_BYTE = [bytes([number]) for number in range(0x80)]


class TFRecordWriter:
    """Successes to NNNNN.tfrecord, the metadata of all rows to NNNNN.parquet.

    Features: `key`, the media under the name of its format, `txt` with captions, and every column of the metadata. A
    column takes its kind from the value, as in img2dataset: integers and booleans int64_list, floats float_list,
    all else bytes_list, null b"".
    """

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        self._layout = layout
        self._kinds = {field.name: _kind_of_items(field.type) for field in layout.schema()}
        self._metadata = MetadataWriter(opener, f"{shard_name}.parquet", layout.schema())
        self._file = BatchedFile(opener(f"{shard_name}.tfrecord"))

    def write(self, sample: Sample) -> None:
        """Take one sample."""
        row = self._layout.row(sample)
        if sample.failure is None:
            features = {"key": feature(row["key"])}
            if sample.data is not None:
                features[self._layout.encode_format] = feature(sample.data)
            features |= {part.extension: feature(content_of(part)) for part in sample.parts}
            if self._layout.caption:
                features["txt"] = feature(self._layout.caption_text(sample))
            for name, value in row.items():
                if name not in features:
                    features[name] = feature(value, self._kinds[name])
            self._file.write([record(example(features))])
        self._metadata.write(row)

    def close(self) -> None:
        """Write the metadata and close both files, also when one fails."""
        try:
            self._file.close()
        except BaseException:
            self._metadata.abort()
            raise
        self._metadata.close()

    def abort(self) -> None:
        """Close the files as they are; never raises."""
        self._file.abort()
        self._metadata.abort()


def record(data: bytes) -> bytes:
    """`data` framed as one record: length, its checksum, data, its checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def example(features: dict[str, bytes]) -> bytes:
    """A tf.train.Example of encoded features by name."""
    entries = [_field(_FIRST, _name(name) + _field(_SECOND, content)) for name, content in features.items()]
    return _field(_FIRST, b"".join(entries))


@functools.lru_cache(1024)
def _name(name: str) -> bytes:
    return _field(_FIRST, utf8(name))


def feature(value: Any, kind_if_empty: bytes = BYTES) -> bytes:
    """A tf.train.Feature of one value or of a list of values.

    Beyond img2dataset, which fails there: null in a list of floats is NaN, a list of integers with null is text, items
    that are lists or structs are JSON, an empty list has the kind `kind_if_empty`.
    """
    kind = type(value)
    if kind is str or kind is bytes or value is None:  # most values, without the questions that lists need
        return _field(BYTES, _field(_FIRST, utf8(value) if kind is str else value or b""))
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not values:
        return _field(kind_if_empty, b"")
    if all(isinstance(item, int) for item in values):
        return _field(INTS, _field(_FIRST, b"".join(_varint(item & 2**64 - 1) for item in values)))
    if all(item is None or isinstance(item, (int, float)) for item in values) and any(
        isinstance(item, float) for item in values
    ):
        return _field(FLOATS, _field(_FIRST, _floats(values)))
    return _field(BYTES, b"".join(_field(_FIRST, _text(item)) for item in values))


def _floats(values: Iterable[float | None]) -> bytes:
    """32-bit little-endian floats; what is too large becomes infinity, as a C cast does."""
    numbers = array("f", [float("nan") if value is None else value for value in values])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _text(value: Any) -> bytes:
    """A value that is no number, as bytes: null empty, bytes as they are, all else like its form in KEY.json."""
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    value = plain(value)
    return utf8(value if isinstance(value, str) else json.dumps(value))


def _kind_of_items(column: pa.DataType) -> bytes:
    """The kind that an empty list of this column gets: that of its lists which have items."""
    kind = getattr(column, "value_type", column)
    if pa.types.is_floating(kind):
        return FLOATS
    return INTS if pa.types.is_integer(kind) or pa.types.is_boolean(kind) else BYTES


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    if number < len(_ONE_BYTE):
        return _ONE_BYTE[number]
    out = bytearray()
    while number >= len(_ONE_BYTE):
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _masked_crc(data: bytes) -> bytes:
    """The checksum of TFRecord: CRC-32C, rotated and offset so that a checksum of checksums stays useful."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
