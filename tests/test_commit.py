"""Staging, claims and receipts, with the races laid out step by step."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from img2dataset_dist import commit
from img2dataset_dist.commit import Attempt, CommitLost, claim_name, read_receipt, roll_forward
from img2dataset_dist.model import Stats
from img2dataset_dist.storage import Folder

STATS = Stats(count=1, successes=1, start_time=1.0, end_time=2.0, messages={"success": 1})


@pytest.fixture(params=["disk", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder on a disk, and one on a store without rename or links."""
    if request.param == "disk":
        return commit.output_folder(str(tmp_path / "out"))
    fsspec.filesystem("memory").store.clear()
    return commit.output_folder("memory://bucket/out")


def attempt(output: Folder, content: bytes = b"tar", name: str = "00003.tar") -> Attempt:
    made = Attempt(output, 3, "00003")
    with made.open(name) as file:
        file.write(content)
    with made.open("00003.parquet") as file:
        file.write(b"meta " + content)
    return made


def content(output: Folder) -> dict[str, bytes | None]:
    return {name: output.read(name) for name in output.files_below() if not name.startswith(commit.WORK)}


def test_nothing_is_seen_before_the_commit(output: Folder) -> None:
    made = attempt(output)
    assert content(output) == {}
    receipt = made.commit(STATS, "f")
    assert sorted(content(output)) == ["00003.parquet", "00003.tar", "00003_stats.json"]
    assert receipt == read_receipt(output, "00003")
    assert receipt.files == {"00003.tar": 3, "00003.parquet": 8}
    assert [n for n in output.files_below() if n.startswith(commit.WORK)] == []


def test_discard_leaves_nothing(output: Folder) -> None:
    attempt(output).discard()
    assert output.files_below() == []


def test_second_attempt_finds_the_first_committed(output: Folder) -> None:
    first, second = attempt(output, b"one"), attempt(output, b"two")
    a, b = first.commit(STATS, "f"), second.commit(STATS, "f")
    assert a == b
    assert content(output)["00003.tar"] == b"one"


def test_second_attempt_rolls_the_first_forward(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first dies between claim and publishing; the second completes the first's work and drops its own."""
    first, second = attempt(output, b"one"), attempt(output, b"two")
    with monkeypatch.context() as patch:
        patch.setattr(commit, "_publish", _die)
        with pytest.raises(KeyboardInterrupt):
            first.commit(STATS, "f")
    assert content(output) == {}
    receipt = second.commit(STATS, "f")
    assert receipt.attempt == first.token
    assert content(output)["00003.tar"] == b"one"
    assert content(output)["00003.parquet"] == b"meta one"


def test_half_published_is_completed_by_the_same_attempts_files(
    output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = attempt(output, b"one")
    real, calls = commit._publish, []

    def dies_at_the_second(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(commit, "_publish", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            first.commit(STATS, "f")
    assert read_receipt(output, "00003") is None
    assert attempt(output, b"two").commit(STATS, "f").attempt == first.token
    assert content(output)["00003.tar"] == b"one"
    assert content(output)["00003.parquet"] == b"meta one"


def test_roll_forward_can_be_repeated(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two helpers at the same claim: the second finds everything done and agrees."""
    made = attempt(output)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", lambda *_: None)  # the claim and the staging folder stay
        made.commit(STATS, "f")
    assert output.exists(claim_name("00003"))
    assert roll_forward(output, "00003") == read_receipt(output, "00003")
    assert roll_forward(output, "00003") is None


def test_late_claim_on_a_committed_shard_is_dropped(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other attempt commits and tidies up between our first look and our claim."""
    first, second = attempt(output, b"one"), attempt(output, b"two")
    real = Folder.create_whole

    def create_after_the_first_has_committed(folder: Folder, name: str, data: bytes) -> bool:
        monkeypatch.setattr(Folder, "create_whole", real)
        first.commit(STATS, "f")
        return real(folder, name, data)

    monkeypatch.setattr(Folder, "create_whole", create_after_the_first_has_committed)
    assert second.commit(STATS, "f").attempt == first.token
    assert content(output)["00003.tar"] == b"one"
    assert not output.exists(claim_name("00003"))


def test_lost_staging_is_said_and_can_be_retried(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = attempt(output, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(commit, "_publish", _die)
        with pytest.raises(KeyboardInterrupt):
            first.commit(STATS, "f")
    first.discard()
    with pytest.raises(CommitLost, match="00003"):
        attempt(output, b"two").commit(STATS, "f")
    assert attempt(output, b"three").commit(STATS, "f").attempt != first.token
    assert content(output)["00003.tar"] == b"three"


def test_leftovers_of_another_tool_are_replaced_and_foreign_files_stay(output: Folder) -> None:
    for name in ("00003.tar", "00003.tfrecord", "00003/000030001.jpg", "00003/notes.txt", "holiday.tar", "00004.tar"):
        with output.open_new(name) as file:
            file.write(b"torn")
    made = Attempt(output, 3, "00003")
    with made.open("00003/000030000.jpg") as file:
        file.write(b"jpg")
    made.commit(STATS, "f")
    assert sorted(content(output)) == [
        "00003/000030000.jpg", "00003/notes.txt", "00003_stats.json", "00004.tar", "holiday.tar",
    ]  # fmt: skip


def test_torn_receipt_is_no_receipt(output: Folder) -> None:
    output.write_whole("00003_stats.json", b'{"count": 1, "succ')
    assert read_receipt(output, "00003") is None


def _die(*_: object) -> None:
    raise KeyboardInterrupt
