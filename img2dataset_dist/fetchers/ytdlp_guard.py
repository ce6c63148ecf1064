"""What yt-dlp may touch: addresses of the open Internet, its own folders, and the code that it is made of.

yt-dlp asks whatever a page tells it to ask. The process that it runs in is told what it may not do by audit hooks (PEP
578): they see every connection, file and process of Python, are asked before it happens, and cannot be taken off
again. They are no sandbox for hostile code, and none runs there; they hold whatever a page can make honest code do.
"""

from __future__ import annotations

import ctypes
import mimetypes
import os
import socket
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from img2dataset_dist.fetchers.addresses import is_public

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CODE = (".py", ".pyc", ".so", ".pem", ".json", ".js", ".txt", "METADATA", "RECORD", "entry_points.txt", ".pth")
_DATA = ("/usr/share/zoneinfo", "/usr/lib/zoneinfo")
_FILES = frozenset({os.devnull, "/dev/urandom", "/dev/random", *mimetypes.knownfiles})


class Refused(PermissionError):
    """Something that must not be done was asked for; networking code takes it for a connection that failed."""


@dataclass(slots=True, kw_only=True)
class Guard:
    """Rules of one process, which may change from row to row; `arm` puts them in force for good.

    Attributes:
        allow_private: addresses that are not of the open Internet are fine, too.
        ignored: whether a host must not be asked.
        folders: where files may be read, made, changed and removed.
        endpoints: `endpoints.now` are addresses and ports that this thread may connect to in any case: the user's own
            proxy for the request that it makes.
        commands: full paths of programs that may be started.
        refused: what was refused since the list was emptied, as an error code and a text.
    """

    allow_private: bool
    ignored: Callable[[str], bool]
    folders: tuple[str, ...]
    endpoints: threading.local = field(default_factory=threading.local)
    commands: frozenset[str] = frozenset()
    refused: list[tuple[str, str]] = field(default_factory=list)
    _code: tuple[str, ...] = ()
    _paths: tuple[str, ...] = ()

    def arm(self) -> None:
        """From now on the rules hold. What is imported later comes from where `sys.path` points now."""
        names = ("stdlib", "platstdlib", "purelib", "platlib")
        installed = [path for name in names if (path := sysconfig.get_path(name))]
        self._code = tuple(_folder(path) for path in (*installed, *_DATA, *_links(installed)))
        self._paths = tuple(_folder(path) for path in sys.path if path)
        mimetypes.init()
        handlers: dict[str, Callable[..., None]] = {
            "socket.connect": self._on_connect,
            "socket.sendto": self._on_connect,
            "socket.sendmsg": self._on_send,
            "socket.bind": self._on_bind,
            "socket.getaddrinfo": self._on_lookup,
            "open": self._on_open,
            "subprocess.Popen": self._on_program,
            "ctypes.dlopen": lambda name: self._deny(f"library {name}"),
            "sqlite3.connect": lambda name: self._deny(f"database {name}"),
            **dict.fromkeys(("os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.mkdir"), self._on_change),
            **dict.fromkeys(("os.rename", "os.link", "os.symlink"), self._on_two),
            **dict.fromkeys(
                ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
                lambda *_: self._deny("a process"),
            ),
        }
        ctypes.CDLL(None)  # what is loaded now needs not be loaded later
        sys.addaudithook(lambda event, arguments: handlers[event](*arguments) if event in handlers else None)

    def refuse(self, code: str, what: str) -> Refused:
        """The exception that says so; it is kept, since it may be caught on its way up."""
        self.refused.append((code, what))
        return Refused(what)

    def _deny(self, what: str) -> None:
        raise Refused(f"{what} is not allowed here")

    def _on_connect(self, link: socket.socket, address: Any) -> None:
        if link.family not in (socket.AF_INET, socket.AF_INET6):
            self._deny("a socket that is not of the Internet")
        host, port = str(address[0]), int(address[1])
        if not (self.allow_private or (host, port) in getattr(self.endpoints, "now", ()) or is_public(host)):
            raise self.refuse("blocked_address", host)

    def _on_send(self, link: socket.socket, address: Any) -> None:
        if address is not None:
            self._on_connect(link, address)

    def _on_bind(self, link: socket.socket, address: Any) -> None:
        if link.family not in (socket.AF_INET, socket.AF_INET6) or address[1]:
            self._deny("listening")

    def _on_lookup(self, host: Any, *_: Any) -> None:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
        if name and self.ignored(name):
            raise self.refuse("ignored_host", name)

    def _on_open(self, path: Any, _mode: Any, flags: int) -> None:
        if isinstance(path, int):
            return
        full = os.path.realpath(os.fsdecode(path))
        if _within(full, self.folders) or full in _FILES:
            return
        if flags & _WRITING or not (_within(full, self._code) or (full.endswith(_CODE) and _within(full, self._paths))):
            self._deny(f"the file {full}")

    def _on_change(self, path: Any, *_: Any) -> None:
        if isinstance(path, int) or not _within(os.path.realpath(os.fsdecode(path)), self.folders):
            self._deny(f"changing {path}")

    def _on_two(self, first: Any, second: Any, *_: Any) -> None:
        self._on_change(first)
        self._on_change(second)

    def _on_program(self, program: Any, *_: Any) -> None:
        if os.fsdecode(program) not in self.commands:
            self._deny(f"the program {program}")


def _folder(path: str) -> str:
    return os.path.realpath(path).rstrip("/")


def _links(folders: Iterable[str]) -> Iterator[str]:
    """Where packages are that only have a link in one of these folders, as in the environment of a pex."""
    for folder in folders:
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                yield from (entry.path for entry in entries if entry.is_symlink())


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
