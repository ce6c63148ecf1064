"""Whether a file is all there, as far as its container says how long it is.

Nothing is decoded, and no more than a few hundred bytes are read. Sources: ISO/IEC 14496-12 (boxes), RFC 8794 (EBML),
RIFF (Microsoft, 1991).
"""

from __future__ import annotations

import os
from typing import BinaryIO

_MAX_BOXES = 100_000
_SEGMENT = b"\x18\x53\x80\x67"
_LARGE = 1
_ROW = 8
_UNKNOWN_RIFF = (0, 0xFFFFFFFF)
"""What programs write that do not know yet how much will come."""


def missing(path: str, kind: str) -> int:
    """How many bytes the file lacks at its end; 0 when it is whole, or its kind does not say.

    Raises:
        OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if kind in ("mp4", "mov", "m4a", "3gp"):
            end = _boxes(file, size)
        elif kind in ("webm", "mkv"):
            end = _segment(file)
        elif kind in ("avi", "wav"):
            end = _riff(file)
        else:
            end = size
    return max(end - size, 0)


def _boxes(file: BinaryIO, size: int) -> int:
    """Where the last box ends (section 4.2). Bytes behind it that are no box do not matter."""
    at = 0
    for _ in range(_MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < _ROW or not head[4:8].isalnum():
            break
        length = int.from_bytes(head[:4], "big")
        if length == _LARGE:
            length = int.from_bytes(head[8:16], "big")
        if length < _ROW:
            return size  # 0: to the end of the file; or damaged, which the demuxer will say
        at += length
        if at >= size:
            break
    return at


def _segment(file: BinaryIO) -> int:
    """Where the segment ends, 0 when it does not say; the EBML header before it has two sizes to be read."""
    head = file.read(256)
    at = head.find(_SEGMENT)
    if at < 0 or at + 5 > len(head):
        return 0
    at += len(_SEGMENT)
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return 0 if value == (1 << 7 * width) - 1 else at + width + value


def _riff(file: BinaryIO) -> int:
    """Where the first RIFF chunk ends; a padding byte may be left out."""
    head = file.read(8)
    length = int.from_bytes(head[4:8], "little")
    return 0 if head[:4] != b"RIFF" or length in _UNKNOWN_RIFF else 8 + length
