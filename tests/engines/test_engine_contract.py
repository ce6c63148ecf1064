"""What every engine must do, run over the registry, on real processes and a real server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from support import dataset
from support.photos import url_list
from support.server import NastyServer

from img2dataset_dist import InputError, ShardsFailed, download, registry
from img2dataset_dist.engines.local import Feed
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
