"""Decoders in processes of their own: what they do there costs one row at most."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import bad_decoder
from support.photos import picture

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Fetched, FetchFacts, Item, Sample
from img2dataset_dist.transforms.channel import ROOM, Channel
from img2dataset_dist.transforms.pool import InProcess
from img2dataset_dist.transforms.remote import Nursery, RemoteTransform, TransformsBrokenError

pytestmark = pytest.mark.crash
_, PHOTO = picture(0)


def row(body: bytes, **columns: Any) -> Fetched:
    item = Item(shard_id=0, index=0, key="0000", url="http://x/", columns=columns)
    return Fetched(item=item, facts=FetchFacts(http_status=200), body=body)


@contextlib.contextmanager
def remote(timeout: float = 30, **options: Any) -> Iterator[RemoteTransform]:
    config = JobConfig.from_flat({"url_list": "x.txt", **options})
    nursery = Nursery(config)
    try:
        with contextlib.closing(RemoteTransform(nursery, timeout)) as work:
            yield work
    finally:
        nursery.close()


@pytest.fixture
def bugs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bad_decoder.install(tmp_path, monkeypatch)
    return tmp_path


def code(sample: Sample) -> str:
    return sample.failure.code if sample.failure else "success"


def one(work: RemoteTransform, body: bytes) -> Sample:
    (sample,) = work([row(body)])
    return sample


def pid_of(work: RemoteTransform) -> int:
    return work._pid


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_a_sample_is_the_same_as_in_this_process() -> None:
    for body in (PHOTO, b"<html>", PHOTO[:1000], b""):
        fetched = row(body, caption="a cat")
        with remote() as work:
            assert list(work([fetched])) == list(InProcess(JobConfig.from_flat({"url_list": "x.txt"}))([fetched]))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 1, 100, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM, 5 * ROOM]), max_size=12))
def test_a_channel_carries_bytes_of_any_size_both_ways(sizes: list[int]) -> None:
    """Memory that one side gave back must not be written to by the other: that would be the end of the process."""
    ours, (link, memory) = Channel.pair()
    theirs = Channel(socket.socket(fileno=link), memory)
    with contextlib.closing(ours), contextlib.closing(theirs):
        for number, size in enumerate(sizes):
            raw = bytes([number]) * size
            sender, receiver = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            sender.send({"number": number}, [raw, b"", raw])
            assert receiver.receive() == ({"number": number}, [raw, b"", raw])
        (theirs if len(sizes) % 2 else ours).send(None)
        assert os.fstat(memory).st_size <= ROOM


def test_a_message_may_be_long() -> None:
    ours, (link, memory) = Channel.pair()
    with contextlib.closing(ours), contextlib.closing(Channel(socket.socket(fileno=link), memory)) as theirs:
        text = "x" * 10_000_000
        thread = threading.Thread(target=lambda: ours.send(text))
        thread.start()
        assert theirs.receive() == (text, [])
        thread.join()


def test_pictures_of_all_sizes_go_through_one_process() -> None:
    noise = os.urandom(9_000_000)
    bodies = [b"x", noise, noise, PHOTO, noise[:1_100_000], PHOTO, noise[:3], noise, PHOTO]
    with remote(disable_all_reencoding=True) as work:
        for body in bodies:
            assert one(work, body).data == body
        first = pid_of(work)
        assert one(work, PHOTO).data == PHOTO
        assert pid_of(work) == first


@pytest.mark.parametrize(("deed", "how"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "exit code 3")])
def test_a_crash_costs_the_row(bugs: Path, deed: str, how: str) -> None:
    with remote() as work:
        assert code(one(work, PHOTO)) == "success"
        dead = pid_of(work)
        sample = one(work, bad_decoder.photo(deed))
        assert sample.failure is not None
        assert (sample.failure.code, sample.failure.status) == ("decoder_crash", "failed_to_resize")
        assert how in sample.failure.message
        assert sample.facts.http_status == 200
        assert code(one(work, PHOTO)) == "success"
        assert gone(dead)


def test_a_crash_that_does_not_come_again_costs_nothing(bugs: Path) -> None:
    with remote() as work:
        assert code(one(work, bad_decoder.photo("segfault", once=bugs / "once"))) == "success"
        assert (bugs / "once").exists()


@pytest.mark.parametrize(("deed", "expected"), [("segfault", "decoder_crash"), ("hang", "timeout_transform")])
def test_company_is_not_blamed(bugs: Path, deed: str, expected: str) -> None:
    """Rows go to a process together; who ended it is found by trying each alone."""
    bodies = [PHOTO, bad_decoder.photo(deed), PHOTO, b"<html>", bad_decoder.photo(deed), PHOTO]
    with remote(timeout=1) as work:
        samples = list(work([row(body, number=number) for number, body in enumerate(bodies)]))
        assert [code(sample) for sample in samples] == [
            "success",
            expected,
            "success",
            "not_media",
            expected,
            "success",
        ]
        assert [sample.item.columns["number"] for sample in samples] == list(range(6))
        assert code(one(work, PHOTO)) == "success"


@pytest.mark.parametrize("deed", ["hang", "stop"])
def test_a_hang_costs_the_row_and_its_process(bugs: Path, deed: str) -> None:
    """Also one that holds the interpreter lock, as native code may."""
    with remote(timeout=1) as work:
        assert code(one(work, PHOTO)) == "success"
        stuck = pid_of(work)
        began = time.monotonic()
        sample = one(work, bad_decoder.photo(deed))
        assert code(sample) == "timeout_transform"
        assert sample.failure is not None
        assert sample.failure.message == "not done after 1 s; it was given up"
        assert 1 <= time.monotonic() - began < 10
        assert gone(stuck)
        assert code(one(work, PHOTO)) == "success"


def test_memory_is_bounded(bugs: Path) -> None:
    """64 GiB at once, and a real picture that needs more than it may have."""
    large = BytesIO()
    Image.effect_noise((5000, 5000), 50).convert("RGB").save(large, "JPEG", progressive=True, quality=30)
    with remote(max_transform_memory=64 * 2**20) as work:
        assert code(one(work, PHOTO)) == "success"
        assert code(one(work, bad_decoder.photo("eat"))) == "decode_error"
        assert code(one(work, large.getvalue())) in ("decode_error", "media_error", "decoder_crash")
        assert code(one(work, PHOTO)) == "success"
    with remote() as work:
        assert code(one(work, large.getvalue())) == "success"


def test_a_process_that_is_killed_while_idle_costs_nothing() -> None:
    with remote() as work:
        assert code(one(work, PHOTO)) == "success"
        os.kill(pid_of(work), signal.SIGKILL)
        assert code(one(work, PHOTO)) == "success"


def test_nothing_is_left(bugs: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with remote() as work:
        assert code(one(work, PHOTO)) == "success"
        assert code(one(work, bad_decoder.photo("segfault"))) == "decoder_crash"
        assert code(one(work, PHOTO)) == "success"
        pid = pid_of(work)
    gc.collect()
    assert gone(pid)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_process_that_hangs_is_ended_with_the_nursery(bugs: Path) -> None:
    with remote() as work:
        assert code(one(work, PHOTO)) == "success"
        pid = pid_of(work)
        os.kill(pid, signal.SIGSTOP)
    assert gone(pid)


def test_without_a_process_no_row_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with remote() as work, pytest.raises(TransformsBrokenError, match="before it began"):
        one(work, PHOTO)


def test_a_transform_that_cannot_be_built_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['cv2'] = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with remote() as work, pytest.raises(TransformsBrokenError, match="cv2"):
        one(work, PHOTO)


def test_what_cannot_be_sent_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In either direction, and whatever its company is."""
    (tmp_path / "sitecustomize.py").write_text(
        "import hashlib\n"
        "real = hashlib.new\n"
        "class Digest(str):\n"
        "    def __reduce__(self): raise TypeError('a digest of mine')\n"
        "class Hash:\n"
        "    def __init__(self, name, body, **more): self.body, self.hash = body, real(name, body, **more)\n"
        "    def hexdigest(self):\n"
        "        return (Digest if b'unsendable' in self.body else str)(self.hash.hexdigest())\n"
        "hashlib.new = Hash\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = [row(b"a"), row(b"unsendable"), row(b"c"), row(b"d", caption=lambda: None), row(b"e")]
    with remote(disable_all_reencoding=True) as work:
        samples = list(work(rows))
    assert [code(sample) for sample in samples] == ["success", "internal_error", "success", "internal_error", "success"]
    assert samples[1].failure is not None
    assert "a digest of mine" in samples[1].failure.message
