"""Which bytes of an mp4 or mov file hold which seconds of it, from its index alone (the `moov` box).

The format is that of ISO/IEC 14496-12 (boxes: 4.2, sample tables: 8.6 and 8.7, edit lists: 8.6.6), and of the
QuickTime File Format where that differs. Nothing is read here from a file or from the network: `find_index` says which
bytes it has to see, and `read_index` gets those of the box.

What is asked for is what ffmpeg reads with `-ss START -to END` before `-i`, whether it copies or decodes: it seeks to
the keyframe at or before START in one video stream, then in each other stream to the time of that keyframe, and reads
on until all of them have come to END. Whatever is odd is `NoIndex`: the caller fetches the whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from img2dataset_dist.fetchers.mp4_tables import (
    LARGEST,
    Array,
    Box,
    Keyframes,
    NoIndex,
    Places,
    Span,
    Times,
    box_of,
    children,
    fields,
    inside,
    keyframes_of,
    places_of,
    times_of,
)
from img2dataset_dist.model import Clip

__all__ = ["Index", "NoIndex", "Span", "find_index", "merge", "read_index"]

MAX_INDEX = 32 * 2**20
"""Bytes of an index; three hours of video and sound have some 10 MB. To read one may take ten times its memory."""

MAX_TRACKS = 64
"""Tracks that are looked at; films with sound and subtitles in many languages have some twenty."""

TOP_BOXES = 64
"""Boxes before the index; files have up to five."""

FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"uuid"})
"""Kinds of boxes that a file may start with."""

MICRO = 1_000_000
"""Ticks of ffmpeg's own clock in a second; a time that it is told is rounded to them."""

MAX_SPANS = 20_000
"""Pieces of a file; a thousand clips of three hours are in some 3,000."""

SOUND_LEAD = MICRO // 10
"""Microseconds of sound that are read before its time and after: its decoders need a little to settle."""

MORE = 4
"""Samples behind the last one, and of sound before the first one, that are needed: ffmpeg ends a stream when something
beyond the end comes out of the decoder, which may hold some back, and it counts the edges of an edit list otherwise."""

LEAST = 24
"""Samples of a stream that are needed at least. ffmpeg reads ahead into what is not there, and fails when more than two
thirds of what it has read could not be decoded."""

BLOCK = 1024
"""Samples that ffmpeg reads at once of sound that is not compressed."""


_EDITS = 16
"""Rows of an edit list that are read: waits, and one other."""


def find_index(peek: Callable[[int], bytes | None], total: int) -> Span | int:
    """Where the `moov` box is, with its header.

    Args:
        peek: 16 bytes at a place (fewer at the end of the file), None while they are not there.
        total: bytes of the file.

    Returns:
        Its place; or where 16 more bytes have to be seen before it can be said.

    Raises:
        NoIndex: this is no such file, or a fragmented or damaged one.
    """
    at = 0
    for _ in range(TOP_BOXES):
        if at >= total:
            raise NoIndex("no moov")
        header = peek(at)
        if header is None:
            return at
        if at == 0 and header[4:8] not in FIRST:
            raise NoIndex("neither mp4 nor mov")
        box = box_of(header, at, total)
        if box.kind in (b"moof", b"sidx", b"styp"):
            raise NoIndex("fragmented")
        if box.kind == b"moov":
            if box.end - box.start > MAX_INDEX:
                raise NoIndex("a very large index")
            return Span(box.start, box.end)
        at = box.end
    raise NoIndex("too many boxes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One stream of the file.

    Attributes:
        kind: its handler: b"vide", b"soun", b"text" and so on.
        scale: ticks of its clock in a second.
        wait: ticks before anything is shown, by the edit list.
        begin: the sample's own tick that is shown then; those before are not.
        samples: how many there are.
        times, places: its tables.
        keyframes: None when all samples are.
    """

    kind: bytes
    scale: int
    wait: int
    begin: int
    samples: int
    times: Times
    places: Places
    keyframes: Keyframes | None

    @property
    def shift(self) -> int:
        """Ticks from a sample's own time to the time when it is shown."""
        return self.wait - self.begin

    @property
    def start(self) -> int:
        """When its first sample is shown, in microseconds; none is shown before 0."""
        head = np.arange(min(self.samples, BLOCK // 16))
        shown = self.times.decoded(head) + self.times.delays(head) + self.shift
        return max(int(shown.min()) * MICRO // self.scale, 0)

    @property
    def end(self) -> int:
        """When its last sample ends, in microseconds."""
        return (int(self.times.start[-1]) + self.shift) * MICRO // self.scale

    def keyframe(self, micro: int) -> int:
        """The last keyframe that is decoded and shown at a time or before; the first sample when there is none.

        ffmpeg looks for it by the time of decoding and sometimes by that of showing, so it must be so by both.
        """
        tick = _ticks(micro, self.scale) - self.shift
        if self.keyframes is not None:
            return self.keyframes.at(tick)
        return max(min(self.times.at(tick - max(self.times.most, -self.times.least)), self.samples - 1), 0)

    def seen(self, sample: int) -> int:
        """When a sample is decoded, in microseconds, by a clock that is never after that of showing."""
        tick = int(self.times.decoded(np.array([sample]))[0]) + self.times.least + self.shift
        return tick * MICRO // self.scale

    def needed(self, start: int, end: int) -> tuple[int, int]:
        """The samples from number `start` on that are of use for what is shown before `end`, in microseconds."""
        tick = _ticks(end, self.scale) - self.shift
        if self.kind == b"soun":
            # ffmpeg throws away, wherever it begins, as much as it does at the beginning: what is before the edit,
            # up to a second.
            tick += min(max(self.begin, 0), self.scale)
        # What is decoded by then, and what is decoded later but may be shown before that.
        last = self.times.at(tick + self.times.most - self.times.least) + 1
        if self.places.size:
            return max(start - BLOCK, 0), min(last + BLOCK, self.samples)
        start = max(start - (MORE if self.kind == b"soun" else 0), 0)
        return start, min(max(last + MORE, start + LEAST), self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The tracks of a file, and how many bytes it has."""

    tracks: tuple[Track, ...]
    total: int

    @property
    def duration(self) -> float:
        """Seconds until the last sample ends."""
        return max(track.end for track in self.tracks) / MICRO

    def spans(self, clips: Iterable[Clip]) -> list[Span]:
        """The bytes of all samples that are needed for those parts of the file, in order, none of them touching.

        A part that begins behind the end of the file needs nothing of its own.

        Raises:
            NoIndex: they are too many.
        """
        # The first samples are looked at by whoever opens the file: some headers leave the size of pictures to them.
        wanted = [[(0, 1)] if track.kind in (b"vide", b"soun") else [] for track in self.tracks]
        late = min((track.start for track in self.tracks if track.kind in (b"vide", b"soun")), default=0)
        last = max(track.end for track in self.tracks)
        for clip in clips:
            # Seconds count from the first thing shown for ffmpeg; others may count from 0. Both are served.
            start, end = _micro(clip.start), min(_micro(clip.end), last) + late
            if start <= last:
                for ranges, found in zip(wanted, self._samples(start, end), strict=True):
                    ranges.append(found)
        starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for track, ranges in zip(self.tracks, wanted, strict=True):
            for one, other in _joined(ranges):
                begins, finishes = track.places.spans(one, other)
                starts.append(np.minimum(begins, self.total))
                ends.append(np.minimum(finishes, self.total))
        return merge(np.concatenate(starts), np.concatenate(ends))

    def _samples(self, start: int, end: int) -> list[tuple[int, int]]:
        """Of each track, the first sample that is needed, and the one behind the last; times in microseconds."""
        videos = [track for track in self.tracks if track.kind == b"vide"]
        # Any of the videos may be the one that ffmpeg takes first.
        seek = min([start, *(track.seen(track.keyframe(start)) for track in videos)])
        found = []
        for track in self.tracks:
            if track.kind == b"vide":
                found.append(track.needed(track.keyframe(start if len(videos) == 1 else seek), end))
            else:
                found.append(track.needed(track.keyframe(seek - SOUND_LEAD), end + SOUND_LEAD))
        return found


def read_index(moov: bytes, total: int) -> Index:
    """Read the `moov` box.

    Args:
        moov: all of it, with its header.
        total: bytes of the file.

    Raises:
        NoIndex: it is damaged, or of a kind that is not read here: fragmented, compressed, with pieces that are shown
            in another order, or with its media in other files.
    """
    try:
        root = box_of(moov[:16], 0, len(moov))
        boxes = inside(moov, root)
        if b"mvex" in boxes:
            raise NoIndex("fragmented")
        scale = _scale(moov, boxes, b"mvhd")
        tracks = [_track(moov, box, scale) for box in children(moov, root.content, root.end) if box.kind == b"trak"]
    except (ValueError, OverflowError, MemoryError) as error:
        raise NoIndex(f"damaged: {error}") from error
    known = tuple(track for track in tracks if track.samples)
    if not 0 < len(known) <= MAX_TRACKS:
        raise NoIndex("no samples, or too many tracks")
    return Index(tracks=known, total=total)


def merge(starts: Array, ends: Array) -> list[Span]:
    """The bytes that are in any of those spans, in order; spans that overlap or touch become one.

    Raises:
        NoIndex: they are too many.
    """
    real = starts < ends
    starts, ends = starts[real], ends[real]
    if not len(starts):
        return []
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    new = np.flatnonzero(starts[1:] > ends[:-1])
    if len(new) > MAX_SPANS:
        raise NoIndex("scattered all over the file")
    firsts, lasts = np.append(0, new + 1), np.append(new, len(ends) - 1)
    return [Span(int(start), int(end)) for start, end in zip(starts[firsts], ends[lasts], strict=True)]


def _track(data: bytes, box: Box, movie_scale: int) -> Track:
    boxes = inside(data, box)
    media = inside(data, _required(boxes, b"mdia"))
    information = inside(data, _required(media, b"minf"))
    tables = inside(data, _required(information, b"stbl"))
    handler = _required(media, b"hdlr")
    kind = data[handler.content + 8 : handler.content + 12]
    scale = _scale(data, media, b"mdhd")
    _check_reference(data, information)
    places = places_of(data, tables)
    samples = int(places.first[-1])
    if kind == b"soun" and places.size:
        _check_sound(data, _required(tables, b"stsd"), places.size)
    times = times_of(data, tables, samples)
    wait, begin = _edit(data, boxes, scale, movie_scale)
    return Track(
        kind=kind, scale=scale, wait=wait, begin=begin, samples=samples, times=times, places=places,
        keyframes=keyframes_of(data, tables, samples, times),
    )  # fmt: skip


def _scale(data: bytes, boxes: dict[bytes, Box], kind: bytes) -> int:
    """Ticks in a second, of a movie (`mvhd`) or a track (`mdhd`); 14496-12, 8.2.2 and 8.4.2."""
    box = _required(boxes, kind)
    (version,) = fields(data, box, ">B")
    (scale,) = fields(data, box, ">I", 20 if version == 1 else 12)
    if scale == 0:
        raise NoIndex("a clock without ticks")
    return scale


def _edit(data: bytes, boxes: dict[bytes, Box], scale: int, movie_scale: int) -> tuple[int, int]:
    """An edit list of waits and one stretch of samples (14496-12, 8.6.6): how long to wait, and where that begins."""
    if b"edts" not in boxes:
        return 0, 0
    lists = inside(data, boxes[b"edts"])
    if b"elst" not in lists:
        return 0, 0
    box = lists[b"elst"]
    version, count = fields(data, box, ">B3xI")
    form, row = (">Qqi", 20) if version == 1 else (">Iii", 12)
    wait, begin = 0, None
    for number in range(min(count, _EDITS)):
        duration, time, rate = fields(data, box, form, 8 + row * number)
        if begin is not None or rate != 1 << 16:
            raise NoIndex("an edit list of several pieces, or of another speed")
        if time == -1:
            wait += duration
        else:
            begin = time
    wait = wait * scale // movie_scale
    if count > _EDITS or wait > LARGEST // 2 or abs(begin or 0) > LARGEST // 2:
        raise NoIndex("an edit list that makes no sense")
    return wait, begin or 0


def _check_reference(data: bytes, information: dict[bytes, Box]) -> None:
    """The samples must be in this file, not in another one (`dref`: 14496-12, 8.7.2)."""
    if b"dinf" not in information:
        return
    found = inside(data, information[b"dinf"])
    if b"dref" not in found:
        return
    box = found[b"dref"]
    for entry in children(data, box.content + 8, box.end):
        if not fields(data, entry, ">I")[0] & 1:
            raise NoIndex("media in another file")


def _check_sound(data: bytes, box: Box, size: int) -> None:
    """Sound of samples of one size: what QuickTime calls samples may be pieces of packets of another size."""
    entry = Box(b"", 0, box.content + 8, box.end)
    (version,) = fields(data, entry, ">H", 16)
    if version == 1:
        packet, _, frame = fields(data, entry, ">III", 36)
        if packet != 1 or frame != size:
            raise NoIndex("sound in packets of QuickTime")


def _required(boxes: dict[bytes, Box], kind: bytes) -> Box:
    if kind not in boxes:
        raise NoIndex(f"no {kind.decode()}")
    return boxes[kind]


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of numbers, in order, those that overlap or touch joined."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        elif start < end:
            joined.append((start, end))
    return joined


def _micro(seconds: float) -> int:
    """Microseconds, as ffmpeg rounds what it is told; far beyond any file they are all the same."""
    return round(min(max(seconds, 0.0), 1e9) * MICRO)


def _ticks(micro: int, scale: int) -> int:
    """Rounded to the nearest, like `av_rescale_q`."""
    return (micro * scale + MICRO // 2) // MICRO
