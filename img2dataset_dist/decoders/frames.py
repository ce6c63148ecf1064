"""How many pictures a file holds, from its structure alone: nothing is decoded, and no more counted than is asked."""

from __future__ import annotations

import struct
from collections.abc import Callable

_GIF_HEAD = 13
_EXTENSION, _IMAGE, _TRAILER, _TERMINATOR = 0x21, 0x2C, 0x3B, 0
_TABLE, _TABLE_SIZE = 0x80, 7


def more_than(body: bytes, kind: str, most: int) -> bool:
    """Whether an image of `kind` (as `sniff` names it) has more than `most` frames, pages or sizes.

    Of files that are cut off or broken, what is there counts. Kinds of a single picture have one; the items of a HEIC
    file are not counted, as the tiles of one picture are items, too.
    """
    count = _COUNTERS.get(kind)
    return count is not None and count(body, most) > most


def _gif(body: bytes, most: int) -> int:
    """GIF89a, sections 17 to 27. Every frame but the first follows a terminator, which is quickly counted."""
    if body.count(b"\0,") < most:
        return 1
    at = _GIF_HEAD + _colours(body[10:11])
    frames = 0
    while at < len(body) and frames <= most:
        block = body[at]
        if block == _IMAGE:
            frames += 1
            at += 11 + _colours(body[at + 9 : at + 10])
        elif block == _EXTENSION:
            at += 2
        elif block == _TRAILER:
            break
        else:
            at += 1  # stray bytes between blocks are skipped by decoders
            continue
        while at < len(body) and body[at] != _TERMINATOR:
            at += 1 + body[at]
        at += 1
    return frames


def _colours(flags: bytes) -> int:
    """Bytes of the colour table that `flags` announce."""
    return 3 << (1 + (flags[0] & _TABLE_SIZE)) if flags and flags[0] & _TABLE else 0


def _png(body: bytes, _most: int) -> int:
    """APNG: what the acTL chunk before the picture data says."""
    at = 8
    while at + 12 <= len(body):
        size, name = struct.unpack_from(">I4s", body, at)
        if name == b"acTL":
            return int.from_bytes(body[at + 8 : at + 12], "big")
        if name == b"IDAT":
            break
        at += 12 + size
    return 1


def _webp(body: bytes, most: int) -> int:
    """RFC 9649, section 2.7.1.1: one ANMF chunk per frame."""
    if body.count(b"ANMF") <= most:
        return 1
    at, frames = 12, 0
    while at + 8 <= len(body) and frames <= most:
        size = int.from_bytes(body[at + 4 : at + 8], "little")
        frames += body.startswith(b"ANMF", at)
        at += 8 + size + size % 2
    return frames


def _tiff(body: bytes, most: int) -> int:
    """TIFF 6.0, section 2, and BigTIFF: the chain of directories; one that leads back to itself ends there."""
    order = "<" if body[:2] == b"II" else ">"
    big = body[2:4] in (b"\x2b\0", b"\0\x2b")
    count, entry, offset = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(offset, body, 8 if big else 4)
        while at and at not in seen and len(seen) <= most:
            (entries,) = struct.unpack_from(count, body, at)
            seen.add(at)
            (at,) = struct.unpack_from(offset, body, at + struct.calcsize(count) + entry * entries)
    except (struct.error, OverflowError):
        pass  # the chain leads out of the file
    return len(seen)


def _icon(body: bytes, _most: int) -> int:
    return int.from_bytes(body[4:6], "little")


def _sequence(body: bytes, _most: int) -> int:
    """AVIF and HEIC sequences: the largest number of samples of a track, in its stsz box (ISO 14496-12, 8.7.3)."""
    frames, at = 1, body.find(b"moov")
    while at >= 0:
        at = body.find(b"stsz", at + 4)
        if at >= 0:
            frames = max(frames, int.from_bytes(body[at + 12 : at + 16], "big"))
    return frames


_COUNTERS: dict[str, Callable[[bytes, int], int]] = {
    "gif": _gif, "png": _png, "webp": _webp, "tiff": _tiff, "ico": _icon, "avif": _sequence, "heic": _sequence,
}  # fmt: skip
