"""The files that `url_list` names: finding them, reading parts of them, and what tells one from a changed one.

A list may have tens of thousands of files on a store where every request takes tens of milliseconds. So a file's size
and version come from the listing, and the plan reads a file as few times as can be: parquet once, its footer.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import fsspec

from img2dataset_dist import braces, storage
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import ConfigError

WHOLE_HASH = 8 * 2**20
"""Input files up to this many bytes are fingerprinted whole, larger ones by size, date or ETag, and samples."""

WHOLE_TOTAL = 128 * 2**20
"""Bytes that are read for it from all files together at most: with very many files only the small ones count whole."""

SAMPLES = 16
SAMPLE_BYTES = 64 * 2**10
SAMPLES_TOTAL = 1024
"""Samples of all large files together; at least two of each."""

LISTED_FILES = 1000
"""Files that are told apart in `job.json`; of more it keeps one digest."""

BLOCK = 2**20
"""Bytes a store is asked for at once, where a shard is read: more would be thrown away."""

WALK_BLOCK = 8 * 2**20
"""The same where a whole file is read from its beginning to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file of a list.

    Attributes:
        path: full fsspec URL, or absolute path on this machine.
        size: bytes.
        version: ETag, or the time of its last change; "" where the store knows neither.
        among: how many files the list has; what is read of each is less when there are many.
    """

    path: str
    size: int
    version: str = ""
    among: int = 1

    @property
    def whole(self) -> bool:
        """Whether all its bytes are in the fingerprint."""
        return self.size <= min(WHOLE_HASH, WHOLE_TOTAL // self.among)


def input_files(config: InputConfig) -> list[InputFile]:
    """The files that `url_list` names, sorted: one file, a folder's `*.<input_format>`, or a glob.

    Raises:
        ConfigError: there are none.
    """
    try:
        fs, path = fsspec.core.url_to_fs(storage.absolute(config.url_list))
        found = _find(fs, path, config)
    except ConfigError:
        raise
    except Exception as error:  # a store's driver may raise anything, botocore's NoCredentialsError for example
        raise ConfigError(f"url_list: cannot read {config.url_list}: {error}") from error
    if not found:
        raise ConfigError(f"url_list: there is no file or folder {config.url_list}")
    return [_input_file(fs, name, found[name], len(found)) for name in sorted(found)]


def input_file(path: str) -> InputFile:
    """One file by its path.

    Raises:
        OSError: there is none.
    """
    fs, name = fsspec.core.url_to_fs(path)
    return _input_file(fs, name, fs.info(name), 1)


def _find(fs: Any, path: str, config: InputConfig) -> dict[str, Any]:
    """Path to what the store says of the file; one listing, and no request per file."""
    try:
        here = fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        here = None
    if here is not None and here["type"] == "file":
        return {path: here}
    if here is None and braces.has_braces(path):
        return _expanded(fs, path)
    if here is None or here["type"] != "directory":
        matches = fs.glob(path, detail=True) if any(c in path for c in "*?[") else {}
        return {name: info for name, info in matches.items() if _is_file(fs, info)}
    suffix = ".tar" if config.input_format == "webdataset" else f".{config.input_format}"
    inside = {info["name"]: info for info in fs.ls(path, detail=True) if info["name"].endswith(suffix)}
    found = {name: info for name, info in inside.items() if _is_file(fs, info)}
    if not found:
        raise ConfigError(
            f"url_list: no file matches {path.rstrip('/')}/*{suffix}; is input_format={config.input_format!r} right?"
        )
    return found


def _expanded(fs: Any, path: str) -> dict[str, Any]:
    """The files that `{00000..00004}.tar` names; every one must be there. One listing for each folder."""
    wanted = braces.expand(path)
    folders = dict.fromkeys(name.rpartition("/")[0] for name in wanted)
    there = {info["name"]: info for folder in folders for info in fs.ls(folder, detail=True)}
    for name in wanted:
        if name not in there:
            raise ConfigError(f"url_list: there is no file {name}")
    return {name: there[name] for name in wanted if _is_file(fs, there[name])}


def _is_file(fs: Any, info: Mapping[str, Any]) -> bool:
    """Of a link on this machine the listing does not tell where it leads."""
    return os.path.isfile(info["name"]) if storage.is_local(fs) else info["type"] == "file"


def _input_file(fs: Any, name: str, info: Mapping[str, Any], among: int) -> InputFile:
    if storage.is_local(fs):  # of a link the listing tells the link's date, not the file's
        stat = os.stat(name)
        return InputFile(path=name, size=stat.st_size, version=str(stat.st_mtime), among=among)
    version = str(info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or "")
    return InputFile(path=fs.unstrip_protocol(name), size=int(info["size"]), version=version, among=among)


def read_range(path: str, begin: int, end: int) -> bytes:
    """Bytes from-to of a file, in one request.

    Raises:
        OSError: the file cannot be read.
    """
    fs, name = fsspec.core.url_to_fs(path)
    if storage.is_local(fs):
        with open(name, "rb") as file:
            file.seek(begin)
            return file.read(end - begin)
    return fs.cat_file(name, start=begin, end=end) if end > begin else b""


def open_input(path: str, block: int = BLOCK) -> IO[bytes]:
    """Open an input file for reading, seekable; a store is asked for no more than `block` bytes beyond a read."""
    fs, name = fsspec.core.url_to_fs(path)
    if storage.is_local(fs) or "memory" in fs.protocol:
        return storage.open_input(path)
    return io.BufferedReader(fs.open(name, "rb", block_size=block), min(block, BLOCK))


def version_of(stream: Any) -> str:
    """What tells the content of an opened input file from a later one; costs no request."""
    stream.seek(0, io.SEEK_END)
    size = stream.tell()
    stream.seek(0)
    raw = getattr(stream, "raw", stream)
    details = getattr(raw, "details", None) or {}
    if isinstance(raw, io.FileIO):
        return f"{size} {os.fstat(raw.fileno()).st_mtime_ns}"
    return f"{size} {details.get('ETag') or details.get('mtime') or details.get('LastModified')}"


def identity(file: InputFile, content: bytes | None = None) -> dict[str, Any]:
    """What tells an input file from a changed one, without its path: a list may be moved.

    Args:
        file: the file.
        content: all of it, if that has been read already.
    """
    if file.whole:
        content = read_range(file.path, 0, file.size) if content is None else content
        return {"size": file.size, "sha256": hashlib.sha256(content).hexdigest()}
    digest = hashlib.sha256()
    samples = max(2, min(SAMPLES, SAMPLES_TOTAL // file.among))
    for number in range(samples):
        begin = (file.size - SAMPLE_BYTES) * number // (samples - 1)
        digest.update(read_range(file.path, max(0, begin), max(0, begin) + SAMPLE_BYTES))
    return {"size": file.size, "version": file.version, "sha256": digest.hexdigest()}


def listed(identities: Iterable[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Any]:
    """What the identity of a plan says about its files: each, or with very many of them a digest of all."""
    every = list(identities)
    if len(every) <= LISTED_FILES:
        return every
    digest = hashlib.sha256()
    for each in every:
        digest.update(repr(sorted(each.items())).encode())
    return {"files": len(every), "size": sum(each["size"] for each in every), "sha256": digest.hexdigest()}
