"""Boxes of an mp4 or mov file, and the sample tables of one of its tracks; see `mp4_index.py`.

The tables stay as the file has them, run by run: when samples are decoded (`stts`) and shown (`ctts`), which are
keyframes (`stss`), how long they are (`stsz`, `stz2`), and in which chunks they lie (`stsc`, `stco`, `co64`). Only the
lengths are one number per sample. Nothing that a file says is believed before it was found to fit into its box.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]

LARGEST = 2**62
"""Times and places beyond this are nonsense, and sums of them would not fit."""

MAX_BOXES = 200
"""Boxes within one box; files have some ten. Tracks are boxes, too."""

_LONG, _TO_THE_END = 1, 0
_HEADER, _LONG_HEADER = 8, 16


class NoIndex(Exception):
    """There is no index that we can use; the message says why. The whole file must be fetched."""


class Span(NamedTuple):
    """Bytes of a file: the first, and the one behind the last."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.end - self.start


class Box(NamedTuple):
    """A box in a file, or in the bytes of another box: its kind, where it starts, its content starts, and it ends."""

    kind: bytes
    start: int
    content: int
    end: int


def box_of(header: bytes, at: int, limit: int) -> Box:
    """The box whose header (16 bytes, or 8 where no more are left) is at `at`; it must end at `limit` or before.

    Raises:
        NoIndex: there is no box.
    """
    if len(header) < _HEADER:
        raise NoIndex("a box is cut off")
    size, content = int.from_bytes(header[:4], "big"), at + _HEADER
    if size == _LONG:
        size, content = int.from_bytes(header[8:16], "big"), at + _LONG_HEADER
        if len(header) < _LONG_HEADER:
            raise NoIndex("a box is cut off")
    end = limit if size == _TO_THE_END else at + size
    if not content <= end <= limit:
        raise NoIndex(f"a box of {size} bytes where there is no room for it")
    return Box(bytes(header[4:8]), at, content, end)


def children(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes within `data[start:end]`.

    Raises:
        NoIndex: they do not fit, or are too many.
    """
    for _ in range(MAX_BOXES):
        # QuickTime ends a list of boxes with four zero bytes, and writers leave a few of some kind behind.
        if end - start < _HEADER:
            return
        box = box_of(data[start : min(start + _LONG_HEADER, end)], start, end)
        yield box
        start = box.end
    raise NoIndex("too many boxes")


def inside(data: bytes, box: Box) -> dict[bytes, Box]:
    """The first box of each kind within `box`."""
    found: dict[bytes, Box] = {}
    for each in children(data, box.content, box.end):
        found.setdefault(each.kind, each)
    return found


def table(data: bytes, box: Box, row: str, *, skip: int = 4) -> npt.NDArray[Any]:
    """The rows of a table: a version and flags (and more, `skip` bytes in all), a count, and so many rows.

    Args:
        data: what `box` lies in.
        box: the table.
        row: as numpy names it, such as ">u4".
        skip: bytes before the count.

    Raises:
        NoIndex: the box is shorter than that.
    """
    (count,) = fields(data, box, ">I", skip)
    kind = np.dtype(row)
    first = box.content + skip + 4
    if first + count * kind.itemsize > box.end:
        raise NoIndex(f"a table of {count} rows where there is no room for them")
    return np.frombuffer(data, kind, count, first)


def fields(data: bytes, box: Box, form: str, at: int = 0) -> tuple[int, ...]:
    """Numbers at a place in the content of a box.

    Raises:
        NoIndex: the box is shorter than that.
    """
    if box.content + at + struct.calcsize(form) > box.end:
        raise NoIndex("a box is too short")
    return tuple(struct.unpack_from(form, data, box.content + at))


def running(values: npt.NDArray[Any]) -> Array:
    """Sums of the values before each one, and of all: one more than there are values.

    Raises:
        NoIndex: they are larger than any file.
    """
    if float(np.sum(values, dtype=np.float64)) > LARGEST:
        raise NoIndex("numbers beyond all measure")
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, dtype=np.int64, out=sums[1:])
    return sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When the samples of a track are decoded and shown, in ticks of the track's clock.

    Attributes:
        first: number of the first sample of each run, and how many there are in all.
        start: when each run begins, and when the last one ends.
        step: ticks from one sample to the next, of each run.
        delay_first: number of the first sample of each run of delays, and where the last one ends.
        delay: ticks from decoding to showing, of each run, and 0 for the samples behind the last one.
        least, most: of the delays and 0.
    """

    first: Array
    start: Array
    step: Array
    delay_first: Array
    delay: Array
    least: int
    most: int

    def decoded(self, samples: Array) -> Array:
        """When samples are decoded."""
        run = np.minimum(np.searchsorted(self.first, samples, "right") - 1, len(self.step) - 1)
        return self.start[run] + (samples - self.first[run]) * self.step[run]

    def delays(self, samples: Array) -> Array:
        """How long after that they are shown; may be negative."""
        return self.delay[np.searchsorted(self.delay_first, samples, "right") - 1]

    def at(self, tick: int) -> int:
        """The last sample that is decoded at `tick` or before; -1 when there is none."""
        if tick < 0:
            return -1
        run = int(np.searchsorted(self.start, min(tick, LARGEST), "right")) - 1
        if run >= len(self.step):
            return int(self.first[-1]) - 1
        # Never a step of 0: such a run begins where the next one does.
        return int(min(self.first[run] + (tick - self.start[run]) // max(self.step[run], 1), self.first[run + 1] - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframes:
    """The keyframes of a track.

    Attributes:
        number: of each, in order.
        ready: ticks at which each has been decoded and shown, or a later one has if that is earlier; never falls.
    """

    number: Array
    ready: Array

    def at(self, tick: int) -> int:
        """The last one that has been decoded and shown at `tick`; the first sample when there is none."""
        found = int(np.searchsorted(self.ready, tick, "right"))
        return int(self.number[found - 1]) if found else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the samples of a track are in the file.

    Attributes:
        offset: of each chunk.
        first: number of the first sample of each chunk, and how many samples there are in all.
        size: bytes of each sample, when it is the same for all.
        sizes: bytes of all samples before each one, and of all; empty when `size` says it.
    """

    offset: Array
    first: Array
    size: int
    sizes: Array

    def before(self, samples: Array) -> Array:
        """Bytes of all samples before each of those, counted as if all lay in one piece."""
        return self.sizes[samples] if len(self.sizes) else samples * self.size

    def spans(self, start: int, end: int) -> tuple[Array, Array]:
        """Where the samples from `start` to before `end` are: starts and ends of spans, one for each chunk."""
        if start >= end:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        one = int(np.searchsorted(self.first, start, "right")) - 1
        other = int(np.searchsorted(self.first, end, "left"))
        heads = self.before(self.first[one:other])
        starts, ends = heads.copy(), self.before(self.first[one + 1 : other + 1]).copy()
        starts[0], ends[-1] = self.before(np.array([start, end]))
        shift = self.offset[one:other] - heads
        return starts + shift, ends + shift


def times_of(data: bytes, boxes: dict[bytes, Box], samples: int) -> Times:
    """From `stts` and `ctts` (14496-12, 8.6.1).

    Raises:
        NoIndex: they are missing, or do not fit to the number of samples.
    """
    runs = table(data, _of(boxes, b"stts"), ">u4,>u4")
    counts, steps = runs["f0"], runs["f1"]
    if len(steps) and int(steps.max()) >= 2**31:
        raise NoIndex("samples that go back in time")  # as some writers mean it
    first = running(counts)
    if int(first[-1]) < samples:
        raise NoIndex("fewer times than samples")
    if float(np.dot(counts.astype(np.float64), steps.astype(np.float64))) > LARGEST:
        raise NoIndex("times beyond all measure")
    start = running(counts.astype(np.int64) * steps.astype(np.int64))
    delays = table(data, boxes[b"ctts"], ">u4,>i4") if b"ctts" in boxes else np.zeros(0, ">u4,>i4")
    delay = np.append(delays["f1"], 0).astype(np.int64)
    return Times(
        first=first, start=start, step=steps.astype(np.int64), delay_first=running(delays["f0"]), delay=delay,
        least=int(delay.min()), most=int(delay.max()),
    )  # fmt: skip


def places_of(data: bytes, boxes: dict[bytes, Box]) -> Places:
    """From `stsz` or `stz2`, `stsc`, and `stco` or `co64` (14496-12, 8.7).

    Raises:
        NoIndex: they are missing, or do not fit together.
    """
    if b"co64" in boxes:
        offsets = table(data, boxes[b"co64"], ">u8")
        if len(offsets) and int(offsets.max()) > LARGEST:
            raise NoIndex("a chunk that lies beyond all files")
    else:
        offsets = table(data, _of(boxes, b"stco"), ">u4")
    size, count, sizes = _sizes(data, boxes)
    runs = table(data, _of(boxes, b"stsc"), ">u4,>u4,>u4")
    starts, each = runs["f0"].astype(np.int64), runs["f1"].astype(np.int64)
    if count and (not len(starts) or starts[0] != 1 or np.any(np.diff(starts) < 1)):
        raise NoIndex("chunks out of order")
    used = int(np.searchsorted(starts, len(offsets), "right"))
    lengths = np.diff(np.append(starts[:used], len(offsets) + 1))
    first = running(np.repeat(each[:used], lengths))
    if int(first[-1]) < count:
        raise NoIndex("fewer places than samples")
    return Places(offset=offsets.astype(np.int64), first=np.minimum(first, count), size=size, sizes=sizes)


def keyframes_of(data: bytes, boxes: dict[bytes, Box], samples: int, times: Times) -> Keyframes | None:
    """From `stss` (14496-12, 8.6.2); None when all samples are keyframes.

    Raises:
        NoIndex: the table is damaged, or not in order.
    """
    if b"stss" not in boxes:
        return None
    numbers = table(data, boxes[b"stss"], ">u4").astype(np.int64) - 1
    if np.any(np.diff(numbers) < 0):
        raise NoIndex("keyframes out of order")
    numbers = numbers[(numbers >= 0) & (numbers < samples)]
    latest = times.decoded(numbers) + np.maximum(times.delays(numbers), -times.least)
    return Keyframes(number=numbers, ready=np.minimum.accumulate(latest[::-1])[::-1])


def _sizes(data: bytes, boxes: dict[bytes, Box]) -> tuple[int, int, Array]:
    """One size for all samples or 0, how many they are, and else the sums of their sizes."""
    nothing = np.zeros(0, np.int64)
    if b"stsz" in boxes:
        box = boxes[b"stsz"]
        size, count = fields(data, box, ">II", 4)
        if size * count > LARGEST:
            raise NoIndex("samples beyond all measure")
        if size:
            return size, count, nothing
        return 0, count, running(table(data, box, ">u4", skip=8))
    box = _of(boxes, b"stz2")
    width, count = fields(data, box, ">7xBI")
    if width == 4:  # noqa: PLR2004 (two samples in a byte)
        pairs = table_of_bytes(data, box, (count + 1) // 2)
        return 0, count, running(np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:count])
    if width == 8:  # noqa: PLR2004 (bits)
        return 0, count, running(table_of_bytes(data, box, count))
    if width == 16:  # noqa: PLR2004 (bits)
        return 0, count, running(table(data, box, ">u2", skip=8))
    raise NoIndex(f"sizes of samples in {width} bits")


def table_of_bytes(data: bytes, box: Box, count: int) -> npt.NDArray[np.uint8]:
    """The bytes of a compact table of sizes."""
    if box.content + 12 + count > box.end:
        raise NoIndex(f"a table of {count} bytes where there is no room for them")
    return np.frombuffer(data, np.uint8, count, box.content + 12)


def _of(boxes: dict[bytes, Box], kind: bytes) -> Box:
    if kind not in boxes:
        raise NoIndex(f"no {kind.decode()}")
    return boxes[kind]
