"""Inside one worker: shards overlap, one that fails hurts no other, nothing grows without bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support import dataset
from support.server import NastyServer

from img2dataset_dist import commit, pipeline, transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.model import Event, Progress, Receipt, Shard, ShardFailure
from img2dataset_dist.pipeline import Pipeline
from img2dataset_dist.plan import make_plan
from img2dataset_dist.shard import ShardJob


def job(tmp_path: Path, urls: list[str], rows_per_shard: int, **more: Any) -> tuple[ShardJob, list[Shard]]:
    path = tmp_path / "urls.txt"
    path.write_text("".join(url + "\n" for url in urls))
    config = JobConfig.from_flat(
        {
            "url_list": str(path), "output_folder": str(tmp_path / "out"), "output_format": "webdataset",
            "number_sample_per_shard": rows_per_shard, "image_size": 32, "thread_count": 4, "timeout": 5,
            "allow_private_addresses": True,
        } | more
    )  # fmt: skip
    plan = make_plan(config.input)
    spec = ShardJob(config=config, input_schema=plan.schema, fingerprint="f", output_url=str(tmp_path / "out"))
    return spec, list(plan.shards())


def outcomes(events: Iterator[Event]) -> dict[int, Receipt | ShardFailure]:
    found: dict[int, Receipt | ShardFailure] = {}
    for event in events:
        if not isinstance(event, Progress):
            assert event.shard_id not in found, "an outcome per shard, once"
            found[event.shard_id] = event
    return found


def test_the_tail_of_a_shard_overlaps_with_the_next(server: NastyServer, tmp_path: Path) -> None:
    """The first shard waits for one URL; the next is fetched and committed meanwhile, its decoders started first."""
    urls = [server.url("/latency/?ms=6000&tail=1")]
    urls += [server.url(f"/photo/photo_00000.jpg?tail={n}") for n in range(7)]
    spec, shards = job(tmp_path, urls, 4)
    events = [e for e in Pipeline(spec).run(shards) if isinstance(e, Receipt)]
    assert [e.shard_id for e in events] == [1, 0]
    assert events[0].stats.end_time < events[1].stats.end_time - 1


def test_without_overlap_shards_come_one_by_one(server: NastyServer, tmp_path: Path) -> None:
    urls = [server.url("/latency/?ms=500&solo=1")]
    urls += [server.url(f"/photo/photo_00000.jpg?solo={n}") for n in range(7)]
    spec, shards = job(tmp_path, urls, 4)
    events = [e for e in Pipeline(spec, overlap=False).run(shards) if isinstance(e, Receipt)]
    assert [e.shard_id for e in events] == [0, 1]
    assert events[0].stats.end_time <= events[1].stats.start_time


def test_shards_are_asked_for_only_as_there_is_room(server: NastyServer, tmp_path: Path) -> None:
    urls = [server.url(f"/latency/?ms=50&room={n}") for n in range(40)]
    spec, shards = job(tmp_path, urls, 4)
    handed, finished, most = 0, 0, 0
    lock = threading.Lock()

    def feed() -> Iterator[Shard]:
        nonlocal handed, most
        for shard in shards:
            with lock:
                handed += 1
                most = max(most, handed - finished)
            yield shard

    for event in Pipeline(spec).run(feed()):
        if isinstance(event, Receipt):
            with lock:
                finished += 1
    assert finished == 10
    assert most <= pipeline.OPEN_SHARDS + 1  # the outcome of one may still be on its way to us


def test_a_shard_whose_list_is_gone_fails_alone(server: NastyServer, tmp_path: Path) -> None:
    spec, shards = job(tmp_path, [server.url(f"/photo/photo_00000.jpg?gone={n}") for n in range(12)], 4)
    gone = Shard(
        id=1, source=shards[1].source.__class__(path=str(tmp_path / "gone.txt"), format="txt"), start=4, rows=4,
        byte_range=(0, 10),
    )  # fmt: skip
    found = outcomes(Pipeline(spec).run([shards[0], gone, shards[2]]))
    assert isinstance(found[0], Receipt)
    assert isinstance(found[2], Receipt)
    assert isinstance(found[1], ShardFailure)
    assert "gone.txt" in found[1].error


def test_a_list_that_shrank_fails_the_shard_and_loses_no_row_silently(server: NastyServer, tmp_path: Path) -> None:
    spec, shards = job(tmp_path, [server.url(f"/photo/photo_00000.jpg?shrank={n}") for n in range(8)], 4)
    path = tmp_path / "urls.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    found = outcomes(Pipeline(spec).run(shards))
    assert isinstance(found[0], Receipt)
    assert isinstance(found[1], ShardFailure)
    assert "changed" in found[1].error
    assert dataset.done(tmp_path / "out") == ["00000"]


def test_a_bug_in_a_transform_costs_the_row_and_is_seen(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(_config: object) -> Any:
        def transform(_sample: object) -> Any:
            raise ZeroDivisionError("oh no")

        return transform

    monkeypatch.setattr("img2dataset_dist.transforms.hashes.ComputeHash", buggy)
    spec, shards = job(tmp_path, [server.url(f"/photo/photo_00000.jpg?bug={n}") for n in range(4)], 4)
    (receipt,) = outcomes(Pipeline(spec, isolate=False).run(shards)).values()
    assert isinstance(receipt, Receipt)
    assert receipt.stats.count == 4
    assert receipt.stats.codes == {"internal_error": 4}
    assert receipt.stats.messages == {"ZeroDivisionError: oh no": 4}


def test_progress_adds_up(server: NastyServer, tmp_path: Path) -> None:
    spec, shards = job(tmp_path, [server.url(f"/latency/?ms=30&progress={n}") for n in range(60)], 10)
    seen = sum(e.stats.count for e in Pipeline(spec).run(shards) if isinstance(e, Progress))
    assert seen == 60


def test_closing_stops_within_seconds_and_leaves_nothing_staged(server: NastyServer, tmp_path: Path) -> None:
    urls = [server.url("/status/404"), *(server.url(f"/hang?close={n}") for n in range(40))]
    spec, shards = job(tmp_path, urls, 10, timeout=60)
    threads = threading.active_count()
    events = Pipeline(spec).run(shards)
    began = time.monotonic()
    next(events)  # a sign of life
    events.close()
    assert time.monotonic() - began < 10
    while threading.active_count() > threads and time.monotonic() - began < 10:
        time.sleep(0.05)
    assert threading.active_count() <= threads
    assert list((tmp_path / "out").rglob("*.tar")) == []


def test_bodies_wait_under_a_budget() -> None:
    budget = Budget(rows=3, size=100)
    assert budget.take(60)
    assert not budget.full
    assert not budget.take(60)
    assert budget.take(60, force=True), "the one that all wait for"
    assert budget.full
    budget.give(120)
    assert budget.take(1000), "one that is larger than the budget goes alone"
    budget.give(1000)
    for _ in range(3):
        budget.row_in()
    assert budget.full
    budget.row_out(0)
    assert not budget.full


def test_admission_stops_when_transforms_are_behind(
    server: NastyServer, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow transforms and a small budget: transfers wait instead of piling up bodies."""
    gate = threading.Event()
    real = transforms.apply

    def slow(*args: Any) -> Any:
        gate.wait(20)
        return real(*args)

    monkeypatch.setattr(transforms, "apply", slow)
    urls = [server.url(f"/photo/photo_00000.jpg?budget={n}") for n in range(200)]
    spec, shards = job(tmp_path, urls, 200, max_buffered_bytes=200_000)
    before = sum("budget=" in target for target in server.counts())
    running = Pipeline(spec, isolate=False)
    thread = threading.Thread(target=lambda: list(running.run(shards)))
    thread.start()
    size = (photo_folder / "photo_00000.jpg").stat().st_size
    time.sleep(1.5)
    asked = sum("budget=" in target for target in server.counts()) - before
    gate.set()
    thread.join(30)
    assert asked <= 200_000 // size + 1 + spec.config.fetch.thread_count
    assert dataset.receipts(tmp_path / "out")["00000"]["count"] == 200


def test_the_same_shard_twice_at_once_is_committed_once(server: NastyServer, tmp_path: Path) -> None:
    """Speculation, or two drivers: the same receipt for both."""
    spec, (shard,) = job(tmp_path, [server.url(f"/photo/photo_00000.jpg?twice={n}") for n in range(5)], 5)
    found: list[Event] = []
    threads = [
        threading.Thread(target=lambda: found.extend(e for e in Pipeline(spec).run([shard]) if isinstance(e, Receipt)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert found[0] == found[1]
    assert commit.read_receipt(commit.output_folder(str(tmp_path / "out")), "00000") == found[0]
    assert spec.input_schema == pa.schema([pa.field("url", pa.string())])
