"""Tars from front to back: what is in them and where, in constant memory, and an error for what is torn.

`tarfile` is not used to walk: it keeps every member, and it takes a broken header in the middle for the end of the
archive, so that samples would be lost in silence. Formats: POSIX.1-2001 (ustar and pax) and GNU's long names.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from img2dataset_dist import kinds
from img2dataset_dist.errors import InputError

CHUNK = 2**20
"""Bytes of a member that are in memory at a time."""

_LONGEST_HEADER = 2**20
"""Bytes of names and the like that may stand before a member."""

_ALIASES = {
    "jpg": "jpeg", "tif": "tiff", "heif": "heic", "m4v": "mp4", "mpeg": "mpg", "oga": "ogg", "opus": "ogg",
    "aif": "aiff",
}  # fmt: skip
_SUBTITLES = frozenset({"vtt", "srt"})
_BESIDE = frozenset({"json", "txt", "npy", "npz", "cls", "pkl", "pyd", "pth"})
"""Parts that say something of the media, and are none."""

_PAX, _GLOBAL_PAX, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        key: path up to the first dot of its last component, as webdataset has it; without a leading `./`.
        extension: what follows that dot, in lower case: `jpg`, `en.vtt`.
        offset: of its first byte in the tar.
        size: in bytes.
    """

    key: str
    extension: str
    offset: int
    size: int


class Tar:
    """A tar that is read.

    Args:
        path: what errors call it.
        stream: seekable; it belongs to the caller.
    """

    def __init__(self, path: str, stream: IO[bytes]) -> None:
        self._path = path
        self._stream = stream

    def members(self) -> Iterator[Member]:
        """The files in their order; whoever reads one before asking for the next never seeks back.

        Raises:
            InputError: the tar is torn or none, naming it and the offset.
        """
        at, special = 0, _Special()
        while True:
            info = self._header(at)
            if info is None:
                return
            at += tarfile.BLOCKSIZE
            if info.type in (_PAX, _GLOBAL_PAX, _GNU_NAME, _GNU_LINK):
                if info.size > _LONGEST_HEADER:
                    raise InputError(f"{self._path}: torn at byte {at}: an extended header of {info.size} bytes")
                special.add(info.type, self._exactly(at, info.size))
                at += _padded(info.size)
                continue
            size = special.size if special.size is not None else info.size
            name = special.name or info.name
            special = _Special()
            if not info.isreg():
                at += 0 if info.isdir() or info.issym() or info.islnk() else _padded(size)
                continue
            key, extension = split(name)
            if extension and posixpath.basename(key):  # others, such as .DS_Store, are no part of a sample
                yield Member(key, extension, at, size)
            at += _padded(size)

    def content(self, member: Member) -> Iterator[bytes]:
        """The bytes of a file, in chunks.

        Raises:
            InputError: the tar ends before.
        """
        self._stream.seek(member.offset)
        left = member.size
        while left:
            chunk = self._stream.read(min(CHUNK, left))
            if not chunk:
                raise InputError(f"{self._path}: torn at byte {member.offset + member.size - left}: within a file")
            left -= len(chunk)
            yield chunk

    def _header(self, at: int) -> tarfile.TarInfo | None:
        """The header at an offset; None for the end of the archive, a block of zeros."""
        self._stream.seek(at)
        block = self._stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            end = self._stream.seek(0, io.SEEK_END)
            raise InputError(f"{self._path}: torn at byte {end}: {'within a file' if end < at else 'no end mark'}")
        if not any(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            what = "not a tar" if at == 0 else f"torn at byte {at}"
            raise InputError(f"{self._path}: {what}: {error}") from error

    def _exactly(self, at: int, size: int) -> bytes:
        return b"".join(self.content(Member("", "", at, size)))


class _Special:
    """What extended headers say of the member after them."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.size: int | None = None

    def add(self, kind: bytes, content: bytes) -> None:
        """One more header."""
        if kind == _GNU_NAME:
            self.name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == _PAX:
            for keyword, value in _records(content):
                if keyword == b"path":
                    self.name = value.decode("utf-8", "surrogateescape")
                elif keyword == b"size" and value.isdigit():
                    self.size = int(value)


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of a pax header: length, space, keyword, equals sign, value and newline; POSIX.1-2001."""
    at = 0
    while at < len(content):
        length, space, _ = content[at : at + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 1:
            return
        record = content[at + len(length) + 1 : at + int(length) - 1]
        keyword, _, value = record.partition(b"=")
        yield keyword, value
        at += int(length)


def split(name: str) -> tuple[str, str]:
    """Key and extension of a member's name, as webdataset splits it: at the first dot of the last component."""
    while name.startswith("./"):
        name = name[2:]
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem), extension.lower()


def role_of(extension: str) -> str:
    """What a part is by its name: "image", "video", "audio", "other", "subtitles" or, beside the media, "beside"."""
    last = extension.rpartition(".")[2]
    if last in _SUBTITLES:
        return "subtitles"
    if last in _BESIDE:
        return "beside"
    kind = kinds.class_of(_ALIASES.get(last, last))
    return kind if kind in ("image", "video", "audio") else "other"


def is_a_name(key: str | None) -> bool:
    """Whether files may be called by this key: a dataset of somebody else's must not choose where we write."""
    if not key or len(key) > 1024 or key.startswith("/") or "\0" in key or "\\" in key:  # noqa: PLR2004
        return False
    return not {"", ".", ".."} & set(key.split("/"))


def _padded(size: int) -> int:
    return size + -size % tarfile.BLOCKSIZE
