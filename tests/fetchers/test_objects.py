"""Reads through fsspec: every kind of end, threads that hang, and one result for each start."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from img2dataset_dist.errors import EmptyBody, FetchError, NotFound, RowError, TooLarge, TotalTimeout
from img2dataset_dist.fetchers import objects
from img2dataset_dist.fetchers.objects import GIVEN_UP, ObjectReader, read_object

LIMIT = 1000


class Panic(BaseException):
    """As drivers written in Rust raise it."""


class OddStore(AbstractFileSystem):
    """A store that does what the name of the object says."""

    protocol = "odd"
    gate = threading.Event()
    entered = threading.Semaphore(0)
    asked: ClassVar[list[tuple[int | None, int | None]]] = []
    raises: ClassVar[dict[str, BaseException]] = {
        "denied": PermissionError("odd://secret"),
        "gone": FileNotFoundError("odd://secret"),
        "timeout": asyncio.TimeoutError(),
        "bug": KeyError("odd://secret"),
        "panic": Panic("odd://secret"),
        "exit": SystemExit(1),
    }

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        name = path.rpartition("/")[2]
        if name in self.raises:
            raise self.raises[name]
        if name == "folder":
            return {"name": path, "size": 0, "type": "directory"}
        size = {"liar": 5, "unknown": None, "big": LIMIT + 1, "empty": 0}.get(name, 10)
        return {"name": path, "size": size, "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        self.asked.append((start, end))
        name = path.rpartition("/")[2]
        if name.startswith("hang"):
            self.entered.release()
            self.gate.wait(30)
        if name == "read-denied":
            raise PermissionError
        length = {"liar": 10**6, "unknown": 10, "unknown-big": 10**6, "empties": 0}.get(name, 10)
        return (b"x" * length)[start:end]


@pytest.fixture(autouse=True)
def odd_store() -> Iterator[type[OddStore]]:
    fsspec.register_implementation("odd", OddStore, clobber=True)
    OddStore.gate = threading.Event()
    OddStore.entered = threading.Semaphore(0)
    OddStore.asked = []
    yield OddStore
    OddStore.gate.set()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def reader_of(threads: int = 4, timeout: float = 60.0, **kwargs: Any) -> Iterator[tuple[ObjectReader, threading.Event]]:
    woken = threading.Event()
    reader = ObjectReader(timeout=timeout, max_body_bytes=LIMIT, wake=woken.set, threads=threads, **kwargs)
    try:
        yield reader, woken
    finally:
        reader.close()


def drain(reader: ObjectReader, count: int) -> dict[object, bytes | RowError]:
    """The next `count` results; that there are no more is for the caller to see."""
    found: dict[object, bytes | RowError] = {}
    until(lambda: found.update(pairs(reader)) or len(found) >= count)
    assert len(found) == count
    return found


def pairs(reader: ObjectReader) -> dict[object, bytes | RowError]:
    listed = reader.collect()
    assert all(seconds >= 0 for _, _, seconds in listed)
    assert len({id(token) for token, _, _ in listed}) == len(listed)
    return {token: outcome for token, outcome, _ in listed}


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def threads_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """Threads that others leave behind end when they like, so they are told apart and not counted."""
    return set(threading.enumerate()) - before


def same(outcome: bytes | RowError, expected: bytes | RowError) -> bool:
    return (type(outcome), str(outcome)) == (type(expected), str(expected))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ok", b"x" * 10),
        ("unknown", b"x" * 10),
        ("a::file:///etc/passwd", b"x" * 10),
        ("liar", TooLarge("body too large")),
        ("big", TooLarge("body too large")),
        ("empty", EmptyBody("empty body")),
        ("empties", EmptyBody("empty body")),
        ("folder", NotFound("no such file or object")),
        ("gone", NotFound("no such file or object")),
        ("denied", FetchError("not permitted")),
        ("read-denied", FetchError("not permitted")),
        ("timeout", TotalTimeout("timeout")),
        ("bug", FetchError("could not be read: KeyError")),
        ("panic", FetchError("could not be read: Panic")),
        ("exit", FetchError("could not be read: SystemExit")),
    ],
)
def test_ends(name: str, expected: bytes | RowError) -> None:
    assert same(read_object(f"odd://bucket/{name}", LIMIT), expected)
    assert set(OddStore.asked) <= {(0, LIMIT + 1)}


@pytest.mark.parametrize("url", ["nosuchscheme://a/b", "://x", "s3:", "", "memory://none", "memory://", "file://", "~"])
def test_any_text_has_an_end(url: str) -> None:
    assert isinstance(read_object(url, LIMIT), RowError)


def test_what_is_too_large_is_not_asked_for() -> None:
    read_object("odd://bucket/big", LIMIT)
    assert OddStore.asked == []


def test_memory_objects() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/objects-test/a b%20ü.jpg", b"body")
    fs.pipe_file("/objects-test/big", b"x" * (LIMIT + 1))
    fs.pipe_file("/objects-test/most", b"x" * LIMIT)
    try:
        assert read_object("memory://objects-test/a b%20ü.jpg", LIMIT) == b"body"
        assert read_object("memory://objects-test/most", LIMIT) == b"x" * LIMIT
        assert same(read_object("memory://objects-test/big", LIMIT), TooLarge("body too large"))
        assert same(read_object("memory://objects-test", LIMIT), NotFound("no such file or object"))
    finally:
        fs.rm("/objects-test", recursive=True)


def test_local_files(tmp_path: Path) -> None:
    (tmp_path / "a b::c.jpg").write_bytes(b"body")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "most").write_bytes(b"x" * LIMIT)
    (tmp_path / "big").write_bytes(b"x" * (LIMIT + 1))
    (tmp_path / "link").symlink_to(tmp_path / "most")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo")
    for url in (f"file://{tmp_path}/", f"{tmp_path}/", f"local://{tmp_path}/"):
        assert read_object(f"{url}a b::c.jpg", LIMIT) == b"body"
        assert read_object(f"{url}most", LIMIT) == b"x" * LIMIT
        assert read_object(f"{url}link", LIMIT) == b"x" * LIMIT
        assert same(read_object(f"{url}big", LIMIT), TooLarge("body too large"))
        assert same(read_object(f"{url}empty", LIMIT), EmptyBody("empty body"))
        assert same(read_object(f"{url}fifo", LIMIT), FetchError("not a regular file"))
        assert same(read_object(f"{url}loop", LIMIT), FetchError("could not be read: OSError"))
        for name in ("none", "", "most/x", "a\0b"):
            assert same(read_object(url + name, LIMIT), NotFound("no such file or object")), name
    assert same(read_object("file:///dev/zero", LIMIT), FetchError("not a regular file"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert same(read_object(f"file://{tmp_path}/socket", LIMIT), FetchError("not a regular file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    assert same(read_object(str(tmp_path / "secret"), LIMIT), FetchError("not permitted"))


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"x" * 10)
    real = objects._check_size

    def grow(size: int, limit: int) -> None:
        real(size, limit)
        path.write_bytes(b"x" * more)

    monkeypatch.setattr(objects, "_check_size", grow)
    more = 500
    assert read_object(str(path), LIMIT) == b"x" * 500
    path.write_bytes(b"x" * 10)
    more = 10**6
    assert same(read_object(str(path), LIMIT), TooLarge("body too large"))


def test_results_come_with_their_tokens() -> None:
    with reader_of() as (reader, woken):
        tokens = [object() for _ in range(300)]
        for number, token in enumerate(tokens):
            reader.start(token, f"odd://bucket/{'gone' if number % 3 else 'ok'}")
        assert reader.active == 300
        found = drain(reader, 300)
        assert woken.is_set()
        assert [found[token] == b"x" * 10 for token in tokens] == [number % 3 == 0 for number in range(300)]
        assert reader.active == 0
        assert reader.collect() == []


def test_wake_comes_after_the_result_is_there() -> None:
    with reader_of() as (reader, woken):
        reader.start(1, "odd://bucket/ok")
        assert woken.wait(20)
        assert len(reader.collect()) == 1


def test_a_wake_that_fails_costs_nothing() -> None:
    def broken() -> None:
        raise OSError("the socket is closed")

    reader = ObjectReader(timeout=60, max_body_bytes=LIMIT, wake=broken, threads=1)
    for number in range(5):
        reader.start(number, "odd://bucket/ok")
    drain(reader, 5)
    reader.close()


def test_no_more_threads_than_asked_for_and_none_before_they_are_needed() -> None:
    before = set(threading.enumerate())
    with reader_of(threads=3) as (reader, _):
        assert not threads_since(before)
        reader.start(0, "odd://bucket/ok")
        drain(reader, 1)
        assert len(threads_since(before)) == 1
        for number in range(10):
            reader.start(number, "odd://bucket/hang")
        for _ in range(3):
            assert OddStore.entered.acquire(timeout=20)
        assert len(threads_since(before)) == 3
        assert not OddStore.entered.acquire(timeout=0.05)
        OddStore.gate.set()
        assert len(drain(reader, 10)) == 10


def test_overdue_reads_fail_and_their_threads_are_replaced() -> None:
    clock = Clock()
    with reader_of(threads=2, timeout=10, clock=clock) as (reader, _):
        for number in range(2):
            reader.start(f"hang{number}", "odd://bucket/hang")
            assert OddStore.entered.acquire(timeout=20)
        reader.start("waits", "odd://bucket/ok")
        clock.now = 9.9
        assert reader.collect() == []
        clock.now = 10.5
        found = reader.collect()
        assert {token for token, _, _ in found} == {"hang0", "hang1"}
        assert all(same(outcome, TotalTimeout("timeout")) and seconds == 10.5 for _, outcome, seconds in found)
        assert drain(reader, 1) == {"waits": b"x" * 10}, "it waited for a thread, and its time began only then"
        OddStore.gate.set()
        until(lambda: reader._hanging == 0)
        assert reader.collect() == [], "what comes too late is dropped"
        assert reader.active == 0


def test_when_too_many_hang_the_others_fail_at_once_until_some_come_back() -> None:
    clock = Clock()
    before = set(threading.enumerate())
    with reader_of(threads=2, timeout=10, clock=clock) as (reader, woken):
        for _ in range(GIVEN_UP):
            for number in range(2):
                reader.start(number, "odd://bucket/hang")
                assert OddStore.entered.acquire(timeout=20)
            reader.start("queued", "odd://bucket/hang-not")
            clock.now += 11
            if reader._hanging < (GIVEN_UP - 1) * 2:
                reader._queue.clear()
                reader._active -= 1
                assert len(reader.collect()) == 2
        found = {token: outcome for token, outcome, _ in reader.collect()}
        assert same(found.pop("queued"), FetchError("too many reads hang"))
        assert all(same(outcome, TotalTimeout("timeout")) for outcome in found.values())
        assert len(found) == 2
        woken.clear()
        reader.start("new", "odd://bucket/ok")
        assert woken.is_set()
        assert same(drain(reader, 1)["new"], FetchError("too many reads hang"))
        assert len(threads_since(before)) <= (GIVEN_UP + 1) * 2
        OddStore.gate.set()
        until(lambda: reader._hanging == 0)
        reader.start("again", "odd://bucket/ok")
        assert drain(reader, 1) == {"again": b"x" * 10}
        assert reader.active == 0


def test_a_system_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with reader_of() as (reader, woken):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none)
            reader.start(1, "odd://bucket/ok")
            assert woken.is_set()
            assert same(drain(reader, 1)[1], FetchError("too many reads hang"))
        reader.start(2, "odd://bucket/ok")
        assert drain(reader, 1) == {2: b"x" * 10}


def test_close_returns_at_once_and_ends_the_threads() -> None:
    before = set(threading.enumerate())
    with reader_of(threads=2) as (reader, woken):
        reader.start(1, "odd://bucket/ok")
        drain(reader, 1)
        for number in range(5):
            reader.start(number, "odd://bucket/hang")
        assert OddStore.entered.acquire(timeout=20)
        woken.clear()
        began = time.monotonic()
        reader.close()
        assert time.monotonic() - began < 1
        reader.start(9, "odd://bucket/ok")
        assert reader.collect() == []
        assert reader.active == 0
        OddStore.gate.set()
        until(lambda: not threads_since(before))
        assert not woken.is_set()


def test_threads_keep_no_token_when_they_are_done() -> None:
    class Token:
        pass

    with reader_of(threads=1) as (reader, _):
        token = Token()
        kept = weakref.ref(token)
        reader.start(token, "odd://bucket/ok")
        drain(reader, 1)
        del token
        until(lambda: gc.collect() is not None and kept() is None)


def test_a_process_ends_although_a_read_hangs(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
import fsspec
from test_objects import OddStore, ObjectReader
fsspec.register_implementation("odd", OddStore)
reader = ObjectReader(timeout=60, max_body_bytes=99, wake=print)
reader.start(1, "odd://bucket/hang")
assert OddStore.entered.acquire(timeout=20)
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - began < 25


@pytest.mark.slow
def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://127.0.0.1:{port}"})
        fs = fsspec.filesystem("s3")
        fs.mkdir("pictures")
        for name, size in (("a b", 10), ("most", LIMIT), ("big", LIMIT + 1), ("empty", 0), ("d/x", 1)):
            fs.pipe_file(f"pictures/{name}", b"x" * size)
        assert read_object("s3://pictures/a b", LIMIT) == b"x" * 10
        assert read_object("s3://pictures/most", LIMIT) == b"x" * LIMIT
        assert same(read_object("s3://pictures/big", LIMIT), TooLarge("body too large"))
        assert same(read_object("s3://pictures/empty", LIMIT), EmptyBody("empty body"))
        for name in ("pictures/none", "pictures/d", "pictures", "nobucket/x"):
            assert same(read_object(f"s3://{name}", LIMIT), NotFound("no such file or object")), name
        with reader_of() as (reader, _):
            for number in range(40):
                reader.start(number, "s3://pictures/most")
            assert set(drain(reader, 40).values()) == {b"x" * LIMIT}
    finally:
        server.stop()
