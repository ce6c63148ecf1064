"""What every engine must do, run over the registry, on real processes and a real server."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from support import dataset
from support.photos import url_list
from support.server import HOSTS, NastyServer

from img2dataset_dist import InputError, ShardsFailed, download, registry
from img2dataset_dist.engines.feed import Feed
from img2dataset_dist.model import Shard, Source

ENGINES = sorted(registry.PLUGINS["engine"])


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def job(server: NastyServer, tmp_path: Path, captions: list[str], **more: Any) -> dict[str, Any]:
    """A job of one row per caption, three rows a shard."""
    names = [f"photo_{n:05d}.jpg" for n in (0, 1, 2, 4, 5, 6)]
    urls = [server.url(f"/photo/{names[n % 6]}?engine={n}") for n in range(len(captions))]
    path = tmp_path / "urls.jsonl"
    url_list(path, urls, {"text": captions})
    return {
        "url_list": str(path),
        "input_format": "jsonl",
        "caption_col": "text",
        "output_folder": str(tmp_path / "out"),
        "output_format": "support.plugins:Poison",
        "number_sample_per_shard": 3,
        "image_size": 32,
        "thread_count": 4,
        "processes_count": 2,
        "progress": "none",
        "allow_private_addresses": True,
    } | more


def test_every_shard_comes_out_once(engine: str, server: NastyServer, tmp_path: Path) -> None:
    stats = download(**job(server, tmp_path, [""] * 31), distributor=engine)
    assert stats.count == stats.successes == 31
    assert dataset.done(tmp_path / "out") == [f"{n:05d}" for n in range(11)]
    dataset.check_whole(tmp_path / "out")
    assert dataset.leftovers(tmp_path / "out") == []


def test_an_exception_in_a_shard_is_retried(engine: str, server: NastyServer, tmp_path: Path) -> None:
    captions = [""] * 9
    captions[4] = f"raise {tmp_path / 'once'}"
    stats = download(**job(server, tmp_path, captions), distributor=engine)
    assert stats.count == 9
    assert len(dataset.rows(tmp_path / "out")) == 9


def test_a_shard_that_keeps_failing_is_reported_and_the_others_complete(
    engine: str, server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [""] * 30
    captions[4] = "raise"
    with pytest.raises(ShardsFailed, match="poisoned") as caught:
        download(**job(server, tmp_path, captions), distributor=engine)
    assert list(caught.value.failures) == [1]
    assert len(dataset.rows(tmp_path / "out")) == 27
    assert dataset.leftovers(tmp_path / "out") == []
    # the cause goes away: the same folder completes
    monkeypatch.setenv("NO_POISON", "1")
    download(**job(server, tmp_path, captions), distributor=engine)
    assert len(dataset.rows(tmp_path / "out")) == 30


def test_a_list_that_breaks_off_completes_what_it_could(engine: str, server: NastyServer, tmp_path: Path) -> None:
    options = job(server, tmp_path, [""] * 9)
    document = Path(options["url_list"]).read_text().strip().replace("\n", ",")
    (tmp_path / "urls.json").write_text(f"[{document}, {{broken")
    options |= {"url_list": str(tmp_path / "urls.json"), "input_format": "json"}
    with pytest.raises((InputError, ValueError), match=r"urls\.json"):
        download(**options, distributor=engine)
    if (tmp_path / "out").exists():
        dataset.check_whole(tmp_path / "out")


def test_a_full_disk_fails_the_shards_and_loses_nothing(
    engine: str, server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISK_HAS_ROOM", str(tmp_path / "room"))
    options = job(server, tmp_path, [""] * 40, output_format="support.plugins:FullDiskWriter")
    options |= {"number_sample_per_shard": 20, "image_size": 256}
    with pytest.raises(ShardsFailed, match="No space left"):
        download(**options, distributor=engine)
    assert dataset.done(tmp_path / "out") == []
    assert dataset.leftovers(tmp_path / "out") == []
    (tmp_path / "room").touch()
    assert download(**options, distributor=engine).count == 40
    dataset.check_whole(tmp_path / "out")


@pytest.mark.crash
@pytest.mark.parametrize("deed", ["die", "segfault"])
def test_a_worker_that_dies_is_replaced_and_its_shard_tried_again(
    deed: str, server: NastyServer, tmp_path: Path
) -> None:
    captions = [""] * 30
    captions[4] = f"{deed} {tmp_path / 'once'}"
    assert download(**job(server, tmp_path, captions)).count == 30
    assert len(dataset.rows(tmp_path / "out")) == 30


@pytest.mark.crash
def test_a_poisoned_shard_is_reported_and_its_neighbours_complete(server: NastyServer, tmp_path: Path) -> None:
    """It kills its worker every time; whoever shared the process with it is not to blame."""
    captions = [""] * 30
    captions[4] = "segfault"
    with pytest.raises(ShardsFailed, match="SIGSEGV") as caught:
        download(**job(server, tmp_path, captions, max_shard_retry=0, processes_count=1))
    assert list(caught.value.failures) == [1]
    assert len(dataset.rows(tmp_path / "out")) == 27


@pytest.mark.crash
def test_a_shard_that_hangs_is_ended(server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("img2dataset_dist.engines.local.PATIENCE", 1.0)
    captions = [""] * 12
    captions[4] = f"hang {tmp_path / 'once'}"
    options = job(server, tmp_path, captions, timeout=1, retry_max_wait=1, output_format="support.plugins:Stuck")
    options |= {"transform_timeout": 1}
    began = time.monotonic()
    assert download(**options).count == 12
    assert time.monotonic() - began < 60


@pytest.mark.crash
def test_a_worker_that_cannot_start_is_said(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(Exception, match="before it began to work"):
        download(**job(server, tmp_path, [""] * 3))


def test_the_feed_looks_no_further_than_asked() -> None:
    pulled = []

    def shards() -> Any:
        for n in range(100):
            pulled.append(n)
            yield Shard(id=n, source=Source(path="x", format="txt"), start=0, rows=1)

    feed = Feed(shards())
    assert feed.has(1)
    assert pulled == [0]
    assert [feed.next().id, feed.next().id] == [0, 1]


def laned(*lanes: int | None) -> Feed:
    """One shard for each lane that is named, numbered from 0."""
    source = Source(path="x", format="lane")
    return Feed(Shard(id=n, source=source, start=0, rows=1, lane=lane) for n, lane in enumerate(lanes))


def taken(feed: Feed, worker: str) -> int | None:
    shard = feed.next(worker)
    return None if shard is None else shard.id


def test_the_feed_gives_a_lane_to_one_worker_at_a_time() -> None:
    feed = laned(0, 1, 0, 1, 0, 1)
    assert (taken(feed, "a"), taken(feed, "b")) == (0, 1)
    assert (taken(feed, "a"), taken(feed, "b")) == (2, 3), "its own lane goes on at a worker that has it open"
    assert (taken(feed, "c"), feed.has(1)) == (None, True), "shards are left, but for others"
    feed.free([0])
    assert taken(feed, "c") is None, "lane 0 has another shard open"
    feed.free([2])
    assert (taken(feed, "c"), taken(feed, "a"), taken(feed, "b")) == (4, None, 5)
    assert not feed.has(1)


def test_the_feed_lets_a_lane_go_to_who_has_nothing_to_do() -> None:
    feed = laned(0, 1, 0, 1)
    assert (taken(feed, "a"), taken(feed, "a")) == (0, 1)
    assert taken(feed, "b") is None
    feed.waiting.append("b")
    assert taken(feed, "a") is None, "it holds two lanes while another waits for one"
    feed.free([0])
    feed.waiting.clear()
    assert (taken(feed, "b"), taken(feed, "a")) == (2, 3)


def test_the_feed_keeps_the_order_of_shards_without_lanes() -> None:
    feed = laned(None, None, None, 3, None)
    assert [taken(feed, worker) for worker in "ababb"] == [0, 1, 2, 3, 4]
    assert (taken(feed, "a"), feed.has(1)) == (None, False)


def test_the_feed_looks_ahead_no_further_than_so_many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("img2dataset_dist.engines.feed.LOOK_AHEAD", 5)
    feed = laned(*[0] * 20, 1)
    assert (taken(feed, "a"), taken(feed, "b")) == (0, None)
    assert len(feed._ahead) == 5


def test_the_feed_never_has_a_lane_at_two_workers_and_gives_out_everything() -> None:
    dice = random.Random(5)
    lanes = [dice.randrange(6) for _ in range(400)]
    feed = laned(*lanes)
    open_at: dict[int, str] = {}
    given = []
    while feed.has(1) or open_at:
        worker = dice.choice("abcd")
        shard = feed.next(worker) if list(open_at.values()).count(worker) < 2 else None
        if shard is not None:
            assert all(who == worker for other, who in open_at.items() if lanes[other] == shard.lane)
            open_at[shard.id] = worker
            given.append(shard.id)
        elif open_at:
            over = dice.choice(sorted(open_at))
            del open_at[over]
            feed.free([over])
    assert sorted(given) == list(range(400))


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_host_is_asked_by_one_worker_at_a_time(lanes: int, server: NastyServer, tmp_path: Path) -> None:
    """Each worker has three transfers at once, so a host never sees more, be there fewer lanes than workers or not."""
    urls = [server.url(f"/latency/?ms=30&lanes={lanes}&n={n}", host=HOSTS[n % 4]) for n in range(96)]
    options = job(server, tmp_path, [], schedule="by_host", lanes=lanes, processes_count=3, thread_count=3)
    options["url_list"] = url_list(tmp_path / "hosts.jsonl", urls, {"text": [""] * len(urls)})
    server.clear()
    stats = download(**options)
    assert stats.count == stats.successes == 96
    assert max(server.peak()[host] for host in HOSTS) <= 3


@pytest.mark.crash
def test_the_lanes_of_a_worker_that_dies_are_free_again(server: NastyServer, tmp_path: Path) -> None:
    captions = [""] * 30
    captions[4] = f"die {tmp_path / 'once'}"
    assert download(**job(server, tmp_path, captions, schedule="by_host", lanes=3)).count == 30
    assert len(dataset.rows(tmp_path / "out")) == 30
    assert dataset.leftovers(tmp_path / "out") == []
