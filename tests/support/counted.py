"""`counted://`: the local disk as if it were an object store, with every request counted and, if asked for, slow."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from typing import Any

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

REQUESTS: Counter[str] = Counter()
"""Requests by kind, and of each file by its name; `bytes` that were sent."""

DELAY = float(os.environ.get("COUNTED_DELAY", "0"))
"""Seconds that each request takes."""

_LOCK = threading.Lock()


class CountedFile(AbstractBufferedFile):
    """Reads by ranges, as s3fs does, with read-ahead."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start, end)


class CountedFileSystem(AbstractFileSystem):
    """Read-only."""

    protocol = "counted"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(path).removeprefix("counted://").rstrip("/")

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        count("ls")
        path = self._strip_protocol(path)
        if not os.path.isdir(path):
            raise FileNotFoundError(path)
        found = [_info(entry.path) for entry in os.scandir(path)]
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        count("info")
        return _info(self._strip_protocol(path))

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, cache_options: Any = None, **_: Any) -> Any:
        return CountedFile(self, path, mode, block_size or 50 * 2**20, cache_options=cache_options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        path = self._strip_protocol(path)
        with open(path, "rb") as file:
            file.seek(start or 0)
            data = file.read() if end is None else file.read(end - (start or 0))
        count("get", os.path.basename(path), size=len(data))
        return data


def count(*kinds: str, size: int = 0) -> None:
    """One request."""
    with _LOCK:
        REQUESTS.update(kinds)
        REQUESTS["bytes"] += size
    if DELAY:
        time.sleep(DELAY)


def _info(path: str) -> dict[str, Any]:
    stat = os.stat(path)
    kind = "directory" if os.path.isdir(path) else "file"
    return {"name": path, "size": stat.st_size, "type": kind, "ETag": f'"{stat.st_mtime_ns}"'}


fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
