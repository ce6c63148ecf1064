"""Long videos, made by ffmpeg of its test pictures once per session and then packed anew in many ways; and bare indexes.

films = Films(folder)
films("first")              path of ten minutes with the index first; see `FILMS` for the names
index_of(path)              the bytes of its `moov` box, and where that is
Track(...), movie(tracks)   a `moov` box of tables that a test has made up
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

SECONDS = 600
FPS = 5
KEYFRAMES = 25
"""Pictures from one keyframe to the next: five seconds."""

_PICTURES = ("-f", "lavfi", "-i", f"testsrc=size=160x120:rate={FPS}:duration={SECONDS}")
_SOUND = ("-f", "lavfi", "-i", f"aevalsrc=sin(2*PI*t*(200+t)):s=44100:d={SECONDS}")
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", str(KEYFRAMES), "-pix_fmt", "yuv420p")
_PACK = ("-map", "0", "-c", "copy")
_FIRST = ("-movflags", "+faststart")

FILMS: dict[str, tuple[str, tuple[str, ...]]] = {
    # made from nothing
    "last": ("mp4", (*_PICTURES, *_SOUND, *_X264, "-bf", "3", "-c:a", "aac", "-b:a", "32k")),
    "pyramid": ("mp4", (*_PICTURES, *_SOUND, *_X264, "-bf", "8", "-b_strategy", "2", "-c:a", "libmp3lame", "-b:a", "32k")),
    "hevc": ("mp4", (
        *_PICTURES, "-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1",
        "-x265-params", f"log-level=none:open-gop=1:keyint={KEYFRAMES}:bframes=4",
    )),
    "mpeg4": ("mov", (*_PICTURES, *_SOUND, "-c:v", "mpeg4", "-g", "12", "-bf", "2", "-c:a", "pcm_s16le", "-ar", "8000")),
    "webm": ("webm", (*_PICTURES, "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-t", "60")),
    # the same pictures and sounds, packed in another way
    "first": ("mp4", ("-i", "{last}", *_PACK, *_FIRST)),
    "no_edit": ("mp4", ("-i", "{last}", *_PACK, "-use_editlist", "0", *_FIRST)),
    "negative": ("mp4", ("-i", "{last}", *_PACK, "-movflags", "+faststart+negative_cts_offsets")),
    "trimmed": ("mp4", ("-ss", "33.3", "-i", "{last}", *_PACK, *_FIRST)),
    "late": ("mp4", (
        "-i", "{last}", "-itsoffset", "1.5", "-i", "{last}", "-map", "0:a", "-map", "1:v", "-c", "copy", *_FIRST,
    )),
    "two_sounds": ("mp4", ("-i", "{last}", "-map", "0:v", "-map", "0:a", "-map", "0:a", "-c", "copy", *_FIRST)),
    "two_pictures": ("mp4", ("-i", "{last}", "-i", "{pyramid}", "-map", "0:v", "-map", "1", "-c", "copy", *_FIRST)),
    "silent": ("mp4", ("-i", "{last}", "-an", "-c", "copy")),
    "sound": ("m4a", ("-i", "{last}", "-vn", "-c", "copy")),
    "fragmented": ("mp4", ("-i", "{last}", *_PACK, "-movflags", "+frag_keyframe+empty_moov+default_base_moof")),
    "hybrid": ("mp4", ("-i", "{last}", *_PACK, "-movflags", "+frag_keyframe")),
}  # fmt: skip
"""Name to extension and arguments of ffmpeg; a name in braces is another film."""


class Films:
    """Films by name, each made when it is first asked for and not yet in the folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def __call__(self, name: str) -> Path:
        extension, arguments = FILMS[name]
        path = self.folder / f"{name}.{extension}"
        if not path.exists():
            ffmpeg(*(self._argument(each) for each in arguments), str(path))
        return path

    def _argument(self, text: str) -> str:
        return str(self(text[1:-1])) if text.startswith("{") else text

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def wide(self) -> Path:
        """With places of 64 bits; ffmpeg writes those only beyond 4 GB."""
        data = self("last").read_bytes()
        start, end = place_of(data, b"moov")
        return self.file("wide.mp4", data[:start] + with_co64(data[start:end]) + data[end:])


def ffmpeg(*arguments: str) -> None:
    """Run the ffmpeg of the wheel by hand."""
    subprocess.run([get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *arguments], check=True, timeout=240)


def place_of(data: bytes, kind: bytes) -> tuple[int, int]:
    """Where the first box of a kind is, of those that are in no other."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if data[at + 4 : at + 8] == kind:
            return at, at + size
        at += size
    raise ValueError(f"no {kind!r}")


def index_of(path: Path) -> tuple[bytes, int]:
    """The `moov` box of a file, and where it is."""
    data = path.read_bytes()
    start, end = place_of(data, b"moov")
    return data[start:end], start


def with_co64(box: bytes) -> bytes:
    """A box with each `stco` within it made a `co64`."""
    kind = box[4:8]
    if kind == b"stco":
        offsets = np.frombuffer(box, ">u4", offset=16)
        return pack(b"co64", box[8:16] + offsets.astype(">u8").tobytes())
    if kind not in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        return box
    inner, at = b"", 8
    while at < len(box):
        size = int.from_bytes(box[at : at + 4], "big")
        inner += with_co64(box[at : at + size])
        at += size
    return pack(kind, inner)


def pack(kind: bytes, *content: bytes) -> bytes:
    """A box."""
    size = 8 + sum(map(len, content))
    return b"".join((struct.pack(">I4s", size, kind), *content))


@dataclass(frozen=True, kw_only=True)
class Track:
    """Tables of a track.

    Attributes:
        times: runs of samples: how many, and ticks of each.
        delays: runs: how many, and ticks from decoding to showing.
        keyframes: numbers from 0; None for all.
        sizes: bytes of each sample.
        chunks: offset of each, and how many samples it has.
        edits: rows of the edit list: duration in ticks of the movie, and time in ticks of the track.
        size: bytes of all samples, in place of `sizes`; there are `count` of them.
        width: bits of a size, for the compact table.
        wide: places of 64 bits.
    """

    kind: bytes = b"vide"
    scale: int = 1000
    times: Sequence[tuple[int, int]]
    sizes: Sequence[int] = ()
    chunks: Sequence[tuple[int, int]]
    delays: Sequence[tuple[int, int]] = ()
    keyframes: Sequence[int] | None = None
    edits: Sequence[tuple[int, int]] = ()
    size: int = 0
    count: int = 0
    width: int = 0
    wide: bool = False
    boxes: Sequence[bytes] = field(default=())


def movie(tracks: Sequence[Track], *, scale: int = 1000, extra: bytes = b"") -> bytes:
    """A `moov` box."""
    head = pack(b"mvhd", struct.pack(">IIIII", 0, 0, 0, scale, 0), bytes(80))
    return pack(b"moov", head, *map(_track, tracks), extra)


def _track(track: Track) -> bytes:
    tables = [
        pack(b"stsd", struct.pack(">II", 0, 1), pack(b"xxxx", bytes(64))),
        pack(b"stts", _rows(np.array(track.times, ">u4"), len(track.times))),
        _sizes(track),
        pack(b"stsc", _rows(_runs(track.chunks), 0)),
    ]
    offsets = np.array([offset for offset, _ in track.chunks], ">u8" if track.wide else ">u4")
    tables.append(pack(b"co64" if track.wide else b"stco", _rows(offsets, len(offsets))))
    if track.delays:
        tables.append(pack(b"ctts", _rows(np.array(track.delays, ">i4"), len(track.delays))))
    if track.keyframes is not None:
        tables.append(pack(b"stss", _rows(np.array(track.keyframes, ">u4") + 1, len(track.keyframes))))
    edits = b""
    if track.edits:
        rows = b"".join(struct.pack(">IiI", duration, time, 1 << 16) for duration, time in track.edits)
        edits = pack(b"edts", pack(b"elst", struct.pack(">II", 0, len(track.edits)), rows))
    media = pack(
        b"mdia",
        pack(b"mdhd", struct.pack(">IIIIII", 0, 0, 0, track.scale, 0, 0)),
        pack(b"hdlr", struct.pack(">II4s", 0, 0, track.kind), bytes(13)),
        pack(b"minf", *track.boxes, pack(b"stbl", *tables)),
    )
    return pack(b"trak", pack(b"tkhd", bytes(84)), edits, media)


def _rows(rows: np.ndarray, count: int) -> bytes:
    return struct.pack(">II", 0, count or len(rows)) + rows.astype(rows.dtype.newbyteorder(">")).tobytes()


def _runs(chunks: Sequence[tuple[int, int]]) -> np.ndarray:
    """Chunks of the same number of samples in one row."""
    counts = np.array([count for _, count in chunks])
    firsts = np.flatnonzero(np.diff(counts, prepend=-1))
    return np.stack([firsts + 1, counts[firsts], np.ones_like(firsts)], axis=1).astype(">u4")


def _sizes(track: Track) -> bytes:
    if track.size:
        return pack(b"stsz", struct.pack(">III", 0, track.size, track.count))
    sizes = np.array(track.sizes)
    head = struct.pack(">III", 0, track.width, len(sizes))
    if track.width == 4:
        even = np.append(sizes, 0) if len(sizes) % 2 else sizes
        return pack(b"stz2", head, (even[::2] << 4 | even[1::2]).astype(np.uint8).tobytes())
    if track.width:
        return pack(b"stz2", head, sizes.astype(f">u{track.width // 8}").tobytes())
    return pack(b"stsz", head, sizes.astype(">u4").tobytes())
