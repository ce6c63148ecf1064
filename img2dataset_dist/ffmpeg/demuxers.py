"""Which of libav's demuxers reads which kind of file, and how it is kept from opening others.

A demuxer that is named is not guessed from the content: a text that says `#EXTM3U` or `ffconcat` is broken media and
nothing else. That leaves QuickTime's references to other files, which libav follows only with `enable_drefs`, off by
default and said here again, and protocols, of which only `file` is allowed.
"""

from __future__ import annotations

DEMUXERS = {
    "mp4": "mov", "mov": "mov", "m4a": "mov", "3gp": "mov", "webm": "matroska", "mkv": "matroska", "avi": "avi",
    "flv": "flv", "wmv": "asf", "mpg": "mpeg", "ts": "mpegts", "m2ts": "mpegts", "gif": "gif",
    "mp3": "mp3", "flac": "flac", "ogg": "ogg", "wav": "wav", "aac": "aac", "amr": "amr", "aiff": "aiff", "ac3": "ac3",
}  # fmt: skip
"""Kinds as `kinds.sniff` names them, and names of demuxers."""

SEEKABLE = frozenset({"mp4", "mov", "m4a", "3gp", "webm", "mkv", "wav", "flac", "mp3", "aac", "ogg", "aiff"})
"""Kinds in which a time is found. The others have no index, or one without times."""


def input_options(kind: str, max_pixels: int) -> dict[str, str]:
    """Options for reading a file of `kind`, for PyAV and for ffmpeg alike.

    Args:
        kind: one of `DEMUXERS`.
        max_pixels: a picture with more is not decoded, whatever the header said.
    """
    options = {"protocol_whitelist": "file", "max_pixels": str(max_pixels)}
    if DEMUXERS[kind] == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    return options
