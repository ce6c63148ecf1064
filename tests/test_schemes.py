"""Schemes other than http and https: off unless they are named, and then files and objects are rows like all others."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from support.fetching import code, fetch
from support.s3 import BUCKET, s3_store
from support.server import NastyServer

from img2dataset_dist import download
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.fetchers.host_table import HostRule, HostTable
from img2dataset_dist.model import Item


def codes(urls: list[str], **options: Any) -> dict[str, str]:
    return {url: code(f) for url, f in zip(urls, fetch(urls, **options), strict=True)}


def job(tmp_path: Path, urls: list[str], **more: Any) -> dict[str, Any]:
    (tmp_path / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
    return {
        "url_list": str(tmp_path / "urls.txt"), "output_folder": str(tmp_path / "out"), "output_format": "parquet",
        "image_size": 32, "allow_private_addresses": True, "processes_count": 1, "progress": "none",
    } | more  # fmt: skip


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    return found


class SlowStore(AbstractFileSystem):  # type: ignore[misc]
    """A store that hangs in one of its calls, whichever the bucket is called after, until the test is over."""

    protocol = "slow"
    cachable = False
    gate = threading.Event()

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        if "info" in path:
            self.gate.wait(60)
        return {"name": path, "size": 10, "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if "open" in path:
            self.gate.wait(60)
        return b"x" * 10


@pytest.fixture
def slow() -> Iterator[type[SlowStore]]:
    fsspec.register_implementation("slow", SlowStore, clobber=True)
    SlowStore.gate = threading.Event()
    yield SlowStore
    SlowStore.gate.set()


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = MemoryFileSystem()
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


# what is allowed


def test_by_default_there_is_nothing_but_the_web(photo_folder: Path, memory: MemoryFileSystem, tmp_path: Path) -> None:
    memory.pipe_file("/x", b"x")
    urls = [
        f"file://{photo_folder}/photo_00000.jpg", f"file:{photo_folder}/photo_00000.jpg", f"{photo_folder}/photo_00000.jpg",
        f"local://{photo_folder}/photo_00000.jpg", "FILE:///etc/passwd", "s3://bucket/x", "gs://bucket/x", "memory://x",
        "ftp://127.0.0.1/x", "data:image/png;base64,AAAA", "data:,x", "sftp://127.0.0.1/x", "github://a:b@c/x",
        "simplecache::file:///etc/passwd", "zip://x::file:///etc/passwd", "reference://x", "dir:///etc",
    ]  # fmt: skip
    assert {url: got for url, got in codes(urls).items() if got != "bad_url"} == {}
    download(**job(tmp_path, urls))
    assert {row["error_code"] for row in rows(tmp_path)} == {"bad_url"}


def test_a_list_of_files_and_urls(server: NastyServer, photo_folder: Path, tmp_path: Path) -> None:
    names = [f"photo_{n:05d}.jpg" for n in (0, 1, 2, 4)]
    urls = [server.url(f"/photo/{names[0]}"), *(f"file://{photo_folder}/{name}" for name in names), "s3://bucket/x"]
    stats = download(**job(tmp_path, urls, allowed_schemes=["http", "https", "file"]))
    found = rows(tmp_path)
    assert [row["error_code"] for row in found] == [None] * 5 + ["bad_url"]
    assert (stats.count, stats.successes) == (6, 5)
    assert found[0]["sha256"] == found[1]["sha256"], "one picture, over both ways"
    assert found[1]["bytes"] == (photo_folder / names[0]).stat().st_size
    assert found[1]["final_url"] == urls[1]
    assert [row["attempts"] for row in found] == [1] * 5 + [0]


def test_ends_of_files(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "great").write_bytes(bytes(2001))
    (tmp_path / "most").write_bytes(bytes(2000))
    (tmp_path / "a b#c?d%20e.jpg").write_bytes(b"odd")
    (tmp_path / "link").symlink_to(tmp_path / "most")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    expected = {
        "most": "success", "link": "success", "a b#c?d%20e.jpg": "success", "great": "too_large", "nothing": "not_found",
        "folder": "not_found", "folder/": "not_found", "most/x": "not_found", "empty": "empty_body", "pipe": "fetch_error",
        "socket": "fetch_error", "broken": "not_found", "loop": "fetch_error", "x" * 300: "fetch_error",
    }  # fmt: skip
    urls = [f"file://{tmp_path}/{name}" for name in expected]
    found = codes([*urls, "file:///dev/zero"], allowed_schemes=["file"], max_body_bytes=2000)
    assert list(found.values()) == [*expected.values(), "fetch_error"]


@pytest.mark.parametrize(
    "url",
    [
        "s3::file:///etc/passwd", "file::memory://x", "simplecache::file:///etc/passwd", "file:///etc/passwd::s3://x",
        "zip://x.jpg::file:///etc/x.zip", "file:///a::b", "s3:/etc/passwd", "s3:etc/passwd", "s3:../../etc/passwd", "s3:",
        "file:/etc/passwd", "file:etc/passwd", "file:", "memory:x", "S3:/x",
    ],
)  # fmt: skip
def test_chains_and_urls_without_an_authority_are_none(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second URL of a chain, or what looks like a path, would be read by another filesystem than the one named."""
    for place in ("s3:", "memory:", "S3:", "file:"):
        for folder in (tmp_path / place, tmp_path / place / "etc"):
            folder.mkdir()
            (folder / "passwd").write_text("secret")
    monkeypatch.chdir(tmp_path)
    (found,) = fetch([url], allowed_schemes=["http", "s3", "file", "memory"])
    assert code(found) == "bad_url"
    assert found.body is None


def test_one_scheme_is_not_another(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("secret")
    found = codes([f"file://{tmp_path}/x", f"local://{tmp_path}/x", "http://127.0.0.1:1/"], allowed_schemes=["memory"])
    assert set(found.values()) == {"bad_url"}


@pytest.mark.parametrize(
    "location", ["file:///etc/hosts", "s3://bucket/x", "memory://x", "FILE:///etc/hosts", "file:/etc/hosts"]
)
def test_no_redirect_leads_to_a_file(server: NastyServer, location: str, memory: MemoryFileSystem) -> None:
    """Whoever wrote the list may name files; whoever runs a server may not."""
    memory.pipe_file("/x", b"secret")
    (found,) = fetch([server.url(f"/redirect-to?url={location}")], allowed_schemes=["http", "file", "s3", "memory"])
    assert code(found) == "redirect_refused"
    assert found.body is None


# stores


def test_objects_in_memory(memory: MemoryFileSystem) -> None:
    for name, size in (("fine", 10), ("a b", 10), ("most", 100), ("great", 101), ("empty", 0), ("folder/x", 1)):
        memory.pipe_file(f"/{name}", b"x" * size)
    names = ["fine", "a b", "most", "great", "empty", "folder", "folder/x", "none", ""]
    found = fetch([f"memory://{name}" for name in names], allowed_schemes=["memory"], max_body_bytes=100)
    assert [code(f) for f in found] == [
        "success", "success", "success", "too_large", "empty_body", "not_found", "success", "not_found", "not_found",
    ]  # fmt: skip
    assert found[0].body == b"x" * 10
    assert found[0].facts.http_status is None


def test_many_objects_and_their_room(memory: MemoryFileSystem) -> None:
    """Bodies of objects are taken from the same budget as others, and retries leave nothing behind."""
    for n in range(200):
        memory.pipe_file(f"/{n}", b"x" * 1000)
    budget = Budget(size=10**6, rows=1000)
    urls = [f"memory://{n}" for n in range(250)]
    found = fetch(urls, FetchContext(budget=budget), allowed_schemes=["memory"], retries=2)
    assert [code(f) for f in found] == ["success"] * 200 + ["not_found"] * 50
    assert {f.facts.attempts for f in found} == {1}
    assert budget.used == 200 * 1000


def test_buckets_have_their_rules(memory: MemoryFileSystem) -> None:
    """The bucket is the host: it may be ignored, and its rate is kept."""
    memory.pipe_file("/fast/x", b"x")
    memory.pipe_file("/never/x", b"x")
    rules = {"never": HostRule(ignore=True), "fast": HostRule(rate=1000.0)}
    context = FetchContext(table=HostTable(rules=rules, ignored=frozenset()))
    found = fetch(["memory://fast/x", "memory://never/x"], context, allowed_schemes=["memory"])
    assert [code(f) for f in found] == ["success", "ignored_host"]


def test_robots_are_not_asked_about_objects(memory: MemoryFileSystem) -> None:
    memory.pipe_file("/b/x", b"x")
    (found,) = fetch(["memory://b/x"], allowed_schemes=["memory"], robots_txt="respect")
    assert (code(found), found.facts.robots_txt) == ("success", None)


@pytest.fixture(scope="module")
def s3(photo_folder: Path) -> Iterator[str]:
    with s3_store("moto") as store:
        store.fs.pipe_file(f"{BUCKET}/a b.jpg", (photo_folder / "photo_00000.jpg").read_bytes())
        store.fs.pipe_file(f"{BUCKET}/great", bytes(2_000_001))
        store.fs.pipe_file(f"{BUCKET}/empty", b"")
        store.fs.pipe_file(f"{BUCKET}/folder/x", b"x")
        yield f"s3://{BUCKET}"


def test_objects_on_s3(s3: str, server: NastyServer, tmp_path: Path) -> None:
    names = ["a b.jpg", "great", "empty", "folder", "none"]
    urls = [*(f"{s3}/{name}" for name in names), "s3://nobucket/x", server.url("/photo/photo_00000.jpg"), "gs://b/x"]
    stats = download(
        **job(tmp_path, urls, allowed_schemes=["http", "https", "s3"], max_body_bytes=2_000_000, timeout=30)
    )
    found = rows(tmp_path)
    assert [row["error_code"] for row in found] == [
        None, "too_large", "empty_body", "not_found", "not_found", "not_found", None, "bad_url",
    ]  # fmt: skip
    assert found[0]["sha256"] == found[6]["sha256"]
    assert (stats.count, stats.successes) == (8, 2)


# deadlines


@pytest.mark.parametrize("call", ["info", "open"])
def test_a_store_that_hangs(slow: type[SlowStore], server: NastyServer, call: str) -> None:
    urls = [f"slow://{call}/{n}" for n in range(5)] + ["slow://fine/x", server.url("/photo/photo_00000.jpg?slow=1")]
    began = time.monotonic()
    found = fetch(urls, allowed_schemes=["http", "slow"], timeout=1)
    assert [code(f) for f in found] == ["timeout_total"] * 5 + ["success"] * 2
    assert time.monotonic() - began < 20
    assert not slow.gate.is_set(), "they hang still"


def test_more_hang_than_there_are_threads(slow: type[SlowStore]) -> None:
    """Each costs a deadline of one thread, and there are only so many; then what is left fails at once."""
    urls = [f"slow://open/{n}" for n in range(150)]
    began = time.monotonic()
    found = fetch(urls, allowed_schemes=["slow"], timeout=0.5)
    assert {code(f) for f in found} == {"timeout_total", "fetch_error"}
    assert time.monotonic() - began < 30


def test_a_job_ends_although_a_store_hangs(slow: type[SlowStore], server: NastyServer, tmp_path: Path) -> None:
    urls = [server.url("/photo/photo_00000.jpg"), "slow://open/x", "slow://fine/x"]
    options = job(tmp_path, urls, allowed_schemes=["http", "slow"], timeout=1, distributor="inline")
    download(**options)
    assert [row["error_code"] for row in rows(tmp_path)] == [None, "timeout_total", "not_media"]


def test_stop_does_not_wait_for_a_store_that_hangs(slow: type[SlowStore]) -> None:
    fetcher = CurlFetcher(FetchConfig(allowed_schemes=["slow"], timeout=60))
    timer = threading.Timer(0.3, fetcher.stop)
    timer.start()
    began = time.monotonic()
    assert list(fetcher.fetch(iter([Item(shard_id=0, index=0, key="0", url="slow://open/x")]))) == []
    fetcher.close()
    assert time.monotonic() - began < 10
