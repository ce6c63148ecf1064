"""Whole jobs whose decoder has terrible bugs: each costs its own row, and nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import bad_decoder, dataset
from support.photos import picture
from support.server import NastyServer

from img2dataset_dist import download

pytestmark = pytest.mark.crash


@pytest.fixture
def bugs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bad_decoder.install(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def folder(server: NastyServer, photo_folder: Path) -> Iterator[Path]:
    """Where files for this test can be served from."""
    before = {path.name for path in photo_folder.iterdir()}
    yield photo_folder
    for path in photo_folder.iterdir():
        if path.name not in before:
            path.unlink()


def job(server: NastyServer, folder: Path, tmp_path: Path, deeds: dict[int, bytes], **more: Any) -> dict[str, Any]:
    """40 rows in 4 shards; some get the pictures in `deeds`."""
    _, fine = picture(0)
    urls = []
    for number in range(40):
        name = f"{tmp_path.name}-{number}.jpg"
        (folder / name).write_bytes(deeds.get(number, fine))
        urls.append(server.url(f"/photo/{name}"))
    (tmp_path / "urls.txt").write_text("\n".join(urls) + "\n")
    return {
        "url_list": str(tmp_path / "urls.txt"),
        "output_folder": str(tmp_path / "out"),
        "output_format": "webdataset",
        "number_sample_per_shard": 10,
        "image_size": 32,
        "processes_count": 2,
        "max_shard_retry": 0,
        "progress": "none",
        "allow_private_addresses": True,
    } | more


def codes(folder: Path) -> dict[int, str]:
    """Error codes by number of the row, of the rows that failed."""
    rows = [row for _, row in sorted(dataset.rows(folder).items())]
    assert len(rows) == 40
    return {number: row["error_code"] for number, row in enumerate(rows) if row["error_code"]}


def test_a_row_that_kills_its_decoder_costs_itself(
    bugs: Path, server: NastyServer, folder: Path, tmp_path: Path
) -> None:
    """No shard is tried again (`max_shard_retry=0`), no URL is asked twice."""
    deeds = {3: bad_decoder.photo("segfault"), 4: bad_decoder.photo("abort"), 17: bad_decoder.photo("segfault")}
    deeds[25] = bad_decoder.photo("segfault", once=tmp_path / "once")
    stats = download(**job(server, folder, tmp_path, deeds))
    assert (stats.count, stats.successes) == (40, 37)
    assert codes(tmp_path / "out") == dict.fromkeys((3, 4, 17), "decoder_crash")
    assert (tmp_path / "once").exists()
    asked = [count for target, count in server.counts().items() if tmp_path.name in target]
    assert asked == [1] * 40
    dataset.check_whole(tmp_path / "out")


def test_rows_that_hang_their_decoder_cost_themselves(
    bugs: Path, server: NastyServer, folder: Path, tmp_path: Path
) -> None:
    """More of them than there are processes, and they hold the interpreter lock."""
    deeds = dict.fromkeys(range(0, 40, 5), bad_decoder.photo("hang"))
    began = time.monotonic()
    stats = download(**job(server, folder, tmp_path, deeds, transform_timeout=1))
    assert time.monotonic() - began < 40
    assert stats.count == 40
    assert codes(tmp_path / "out") == dict.fromkeys(range(0, 40, 5), "timeout_transform")


def test_a_worker_whose_rows_all_hang_is_not_taken_for_hung(
    bugs: Path, server: NastyServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is alive as long as it ends them one by one."""
    monkeypatch.setattr("img2dataset_dist.engines.local.PATIENCE", 1.0)
    deeds = dict.fromkeys(range(40), bad_decoder.photo("hang"))
    options = job(server, folder, tmp_path, deeds, transform_timeout=1, timeout=1, retry_max_wait=1)
    stats = download(**options, transform_processes=4)
    assert stats.count == 40
    assert codes(tmp_path / "out") == dict.fromkeys(range(40), "timeout_transform")


def test_a_row_that_eats_memory_costs_itself(bugs: Path, server: NastyServer, folder: Path, tmp_path: Path) -> None:
    stats = download(**job(server, folder, tmp_path, {8: bad_decoder.photo("eat")}, max_transform_memory=2**28))
    assert stats.count == 40
    assert codes(tmp_path / "out") == {8: "decode_error"}


@pytest.mark.parametrize("victim", ["driver", "workers"])
def test_no_process_outlives_the_one_that_started_it(
    bugs: Path, server: NastyServer, folder: Path, tmp_path: Path, victim: str
) -> None:
    """Not even one that hangs, when its driver or its worker is killed without a chance to say so."""
    options = job(server, folder, tmp_path, dict.fromkeys(range(40), bad_decoder.photo("hang")))
    flags = [f"--{name}={value}" for name, value in options.items()]
    before = set(decoders())
    process = subprocess.Popen([sys.executable, "-m", "img2dataset_dist", *flags], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(set(decoders()) - before) >= 2)
        time.sleep(1)  # they hang by now, or soon
        workers = [pid for pid in children_of(process.pid) if "engines.worker" in command(pid)]
        assert workers
        for pid in [process.pid] if victim == "driver" else workers:
            os.kill(pid, signal.SIGKILL)
        ended = set(decoders()) - before
        wait_for(lambda: not [pid for pid in ended if alive(pid)])
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not set(decoders()) - before)


def decoders() -> list[int]:
    """Nurseries and their children."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and "transforms.child" in command(int(name))]


def children_of(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        try:
            stat = Path("/proc", name, "stat").read_text()
        except OSError:
            continue
        if name.isdigit() and int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(name))
    return found


def command(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return bool(command(pid))


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
