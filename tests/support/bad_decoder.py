"""A JPEG decoder with terrible bugs, for processes that are started from now on.

    bad_decoder.install(tmp_path, monkeypatch)
    body = bad_decoder.photo("segfault")             the process that decodes it dies
    body = bad_decoder.photo("segfault", once=path)  the first one only

The interpreter imports `sitecustomize` at its start, and ours replaces the entry point of the real decoder; the product
is as it is.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.photos import picture

_MARK = "deed="
_BUGS = f"""
import ctypes, os, signal, time
import simplejpeg

real = simplejpeg.decode_jpeg

def buggy(data, *args, **kwargs):
    head = bytes(data[:400])
    if b"{_MARK}" in head:
        deed, _, once = head.partition(b"{_MARK}")[2].partition(b"\\n")[0].decode().partition(" ")
        try:
            first = not once or not os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            first = False
        if first:
            {{"segfault": lambda: ctypes.string_at(0), "abort": os.abort, "exit": lambda: os._exit(3),
             "hang": lambda: ctypes.PyDLL(None).sleep(3600), "eat": lambda: bytearray(2**36),
             "raise": lambda: 1 / 0, "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP)}}[deed]()
    return real(data, *args, **kwargs)

simplejpeg.decode_jpeg = buggy
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes started later have the decoder."""
    (folder / "bugs").mkdir()
    (folder / "bugs" / "sitecustomize.py").write_text(_BUGS)
    monkeypatch.setenv("PYTHONPATH", str(folder / "bugs"))


def photo(deed: str, once: Path | None = None, number: int = 0) -> bytes:
    """A fine photograph, to any other decoder. `hang` holds the interpreter lock for an hour."""
    _, body = picture(number)
    comment = f"{_MARK}{deed} {once or ''}\n".encode()
    return body[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + body[2:]
