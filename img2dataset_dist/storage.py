"""The few file-system calls that we allow ourselves, on any fsspec path.

Everything else in the package goes through these, so that what a store must be able to do is this list, and tests
can stop the world at each call. A disk has rename and hard links, S3 has the requests of `s3.py`; of any other store
we know no more than fsspec.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import posixpath
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import fsspec

from img2dataset_dist.s3 import S3, is_s3, passes

_FEW = 16
"""Files that are flushed one by one; of more, each would wait for a commit of the disk's journal."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on some file system. Names given to its methods are relative to it, with forward slashes.

    Picklable: fsspec file systems are, and a worker makes its own connections.

    Attributes:
        scratch: where half-written small files are put before they are moved into place; named by `own_name`, so that
            those of a dead process can be told and swept.
    """

    fs: Any
    path: str
    scratch: str

    @classmethod
    def at(cls, url: str, scratch: str = "") -> Folder:
        """The folder that `url` (fsspec URL or local path) names; it need not exist. `scratch` is relative to it."""
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False) if "://" in url else fsspec.core.url_to_fs(url)
        path = path.rstrip("/") or path
        return cls(fs, path, posixpath.join(path, scratch) if scratch else path)

    @property
    def is_local(self) -> bool:
        """Whether this is a disk of this machine, with atomic rename and hard links."""
        return is_local(self.fs)

    @property
    def s3(self) -> S3 | None:
        """The store, when it is S3."""
        return S3(self.fs) if is_s3(self.fs) else None

    def full(self, name: str) -> str:
        """`name` as a path for `fs`."""
        return posixpath.join(self.path, name) if name else self.path

    def url(self, name: str) -> str:
        """`name` as a path that `open_input` understands anywhere: absolute, with its protocol unless local."""
        return self.full(name) if self.is_local else str(self.fs.unstrip_protocol(self.full(name)))

    def name_of(self, url: str) -> str:
        """The inverse of `url`, for files directly in this folder."""
        return posixpath.basename(url)

    def sub(self, name: str) -> Folder:
        """A folder below this one."""
        return Folder(self.fs, self.full(name), self.scratch)

    def open_new(self, name: str) -> IO[bytes]:
        """A binary file to write, with its parent folders made. On object stores it appears when closed."""
        path = self.full(name)
        if self.is_local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return self.fs.open(path, "wb")  # type: ignore[no-any-return]

    def read(self, name: str) -> bytes | None:
        """The whole content, None when there is no such file."""
        if self.s3:
            return self.s3.read(self.full(name))
        try:
            return self.fs.cat_file(self.full(name))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None

    def write_whole(self, name: str, content: bytes) -> None:
        """Replace a small file so that a reader sees the old content or the new, never a part."""
        path = self.full(name)
        if self.s3:
            self.s3.write(path, content)
            return
        if not self.is_local:
            self.fs.pipe_file(path, content)
            return
        os.replace(self._write_beside(path, content), path)

    def create_whole(self, name: str, content: bytes) -> bool:
        """Write a small file unless it exists; says whether this call made it. Atomic on disks.

        S3 gets a conditional put, and other stores where their fsspec driver has one, else a check before the put.
        `content` must be what nobody else would write.
        """
        path = self.full(name)
        if self.s3:
            return self.s3.create(path, content)
        if not self.is_local:
            if self.exists(name):
                return False
            try:
                self.fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            except (TypeError, NotImplementedError, ValueError):
                self.fs.pipe_file(path, content)
            return True
        temporary = self._write_beside(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def _write_beside(self, path: str, content: bytes) -> str:
        """`content`, whole and on disk, under a temporary name on the same disk as `path`."""
        for folder in (os.path.dirname(path), self.scratch):
            os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(self.scratch, own_name(re.split(r"[._]", os.path.basename(path))[0]))
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name exists."""
        if self.s3:
            path = self.full(name)
            return self.s3.head(path) is not None or any(True for _ in self.s3.keys(_inside(path), deep=False))
        return bool(self.fs.exists(self.full(name)))

    def size(self, name: str) -> int | None:
        """Bytes in a file, None when there is no such file."""
        if self.s3:
            head = self.s3.head(self.full(name))
            return head.size if head else None
        try:
            return int(self.fs.size(self.full(name)))
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """What the folder holds, sorted; [] when it does not exist."""
        try:
            found = self._keys("", deep=False) if self.s3 else self.fs.ls(self.path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({posixpath.basename(p.rstrip("/")) for p in found} - {""})

    def files_below(self) -> list[str]:
        """All files in it, at any depth, relative; [] when it does not exist."""
        if self.s3:
            return self.files_starting_with("")
        try:
            found = self.fs.find(self.path)
        except FileNotFoundError:
            return []
        prefix = self.fs._strip_protocol(self.path).rstrip("/") + "/"  # noqa: SLF001
        return sorted(p.removeprefix(prefix) for p in found)

    def files_starting_with(self, start: str) -> list[str]:
        """All files whose name in this folder begins so, at any depth, relative. One request of S3; not for others."""
        return sorted(path.removeprefix(_inside(self.path)) for path in self._keys(start, deep=True))

    def _keys(self, start: str, *, deep: bool) -> list[str]:
        assert self.s3 is not None
        try:
            return [path for path, _ in self.s3.keys(_inside(self.path) + start, deep=deep)]
        except FileNotFoundError:  # no such bucket
            return []

    def flush(self, names: Sequence[str]) -> None:
        """Have the disk hold what these files contain, before anything is written that vouches for them.

        Other stores hold what they have taken. A disk may lose content that is newer than a name for it when the power
        fails: without this a receipt could stand beside an empty tar.
        """
        if not self.is_local:
            return
        if len(names) > _FEW and sys.platform == "linux":
            _on(self.full(names[0]), _syncfs)
            return
        for name in names:
            _on(self.full(name), os.fsync)

    def move_file(self, source: str, target: str) -> None:
        """Move a file inside the folder, replacing what is there. Atomic on disks; elsewhere copy, then delete.

        Raises:
            FileNotFoundError: there is no `source`.
        """
        if self.is_local:
            os.makedirs(os.path.dirname(self.full(target)), exist_ok=True)
            os.replace(self.full(source), self.full(target))
            return
        self.fs.cp_file(self.full(source), self.full(target))
        self.fs.rm_file(self.full(source))

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all it holds; it may be gone already."""
        if self.s3:
            self.remove_files([name, *self.files_starting_with(f"{name}/")])
            return
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.full(name), recursive=True)

    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files that may be gone already. One request of S3 for up to 1,000 of them."""
        if self.s3:
            self.s3.delete(map(self.full, names))
            return
        for name in names:
            self.remove(name)

    def make(self) -> None:
        """Make the folder and its parents where the store has such a thing. Makes no bucket of S3."""
        if self.s3:
            return
        self.fs.makedirs(self.path, exist_ok=True)


def _inside(folder: str) -> str:
    """What the paths of all that a folder holds begin with."""
    return folder.rstrip("/") + "/"


def _on(path: str, call: Callable[[int], None]) -> None:
    """`call` with the descriptor of a file."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        call(file)
    finally:
        os.close(file)


def _syncfs(file: int) -> None:
    """Flush the whole file system that a file is on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(file):
        raise OSError(ctypes.get_errno(), f"syncfs: {os.strerror(ctypes.get_errno())}")


def is_local(fs: Any) -> bool:
    """Whether `fs` is the local disk."""
    protocol = fs.protocol if isinstance(fs.protocol, (list, tuple)) else (fs.protocol,)
    return "file" in protocol


def absolute(url: str) -> str:
    """A local path made absolute; other URLs as they are."""
    fs, path = fsspec.core.url_to_fs(url)
    return os.path.abspath(path) if is_local(fs) else url


def open_input(path: str) -> IO[bytes]:
    """Open an input file for reading, seekable where the store is."""
    fs, name = fsspec.core.url_to_fs(path)
    if is_local(fs):
        return open(name, "rb")  # fsspec's wrapper reads lines byte by byte
    if "memory" in fs.protocol:
        return io.BytesIO(fs.cat_file(name))  # all who open a file of this store share one position in it
    return io.BufferedReader(fs.open(name, "rb"), 1 << 20)


def may_pass(error: BaseException) -> bool:
    """Whether the same access to a store may succeed later; not when it refuses, or has no such thing."""
    return isinstance(error, (ConnectionError, TimeoutError)) or ("s3fs" in sys.modules and passes(error))


def own_name(stem: str) -> str:
    """A name that nobody else uses, and that says which process it belongs to."""
    return f"{stem}.{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}"


def owner_is_dead(name: str) -> bool:
    """Whether `name` is an `own_name` of a process that ran on this machine and is gone."""
    host, _, pid = name.partition(".")[2].rpartition(".")[0].rpartition(".")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
