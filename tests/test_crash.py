"""Kill anything at any moment, run the same again, and get the dataset that an undisturbed run gives."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import crash, dataset
from support.server import NastyServer

from img2dataset_dist import download, resume
from img2dataset_dist.commit import output_folder
from img2dataset_dist.config import JobConfig
from img2dataset_dist.plan import make_plan

pytestmark = pytest.mark.crash
CRASH = Path(crash.__file__)


def options(url_list: Path, folder: Path, output_format: str) -> dict[str, Any]:
    return {
        "url_list": str(url_list),
        "output_folder": str(folder),
        "output_format": output_format,
        "number_sample_per_shard": 12,
        "image_size": 64,
        "thread_count": 8,
        "allow_private_addresses": True,
    }


@pytest.fixture(scope="module")
def some_urls(server: NastyServer, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """52 rows in 5 shards, a few of them failures."""
    names = sorted(p.name for p in photo_folder.iterdir())
    urls = [server.url(f"/photo/{names[i % len(names)]}?crash={i}") for i in range(52)]
    urls[7], urls[20], urls[33] = server.url("/status/404"), server.url("/html"), "not a url"
    path = tmp_path_factory.mktemp("list") / "urls.txt"
    path.write_text("\n".join(urls) + "\n")
    return path


@pytest.fixture(scope="module")
def undisturbed(some_urls: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Datasets that nobody disturbed, by format."""
    folders = {}
    for output_format in ("webdataset", "files", "parquet"):
        folders[output_format] = tmp_path_factory.mktemp(output_format) / "out"
        download(**options(some_urls, folders[output_format], output_format), distributor="inline", progress="none")
        assert len(dataset.rows(folders[output_format])) == 52
    return folders


def same(a: Path, b: Path, output_format: str) -> None:
    if output_format == "parquet":
        assert dataset.rows(a) == dataset.rows(b)
    else:
        dataset.assert_same(a, b)
    assert dataset.leftovers(b) == []


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("step", crash.STEPS)
@pytest.mark.parametrize("output_format", ["webdataset", "files"])
def test_kill_at_each_step(
    step: str, nth: int, output_format: str, some_urls: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    job = options(some_urls, tmp_path / "out", output_format)
    died = subprocess.run(
        [sys.executable, str(CRASH), step, str(nth), json.dumps(job)], capture_output=True, text=True, timeout=120
    )
    once_a_job = ("job is noted", "tidy up at the end")
    if not (step in once_a_job and nth > 1):
        assert died.returncode == -signal.SIGKILL, died.stderr
    dataset.check_whole(tmp_path / "out")
    done_before = dataset.done(tmp_path / "out") if (tmp_path / "out").exists() else []
    stats = download(**job, progress="none")
    dataset.check_whole(tmp_path / "out")
    same(undisturbed[output_format], tmp_path / "out", output_format)
    assert stats.count <= 52 - 12 * max(0, len(done_before) - 1)  # what has a receipt was not done again


def test_kill_twice_then_resume(some_urls: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    """A resume that is killed itself, while it rolls a claim forward."""
    job = options(some_urls, tmp_path / "out", "webdataset")
    for step, nth in (("claimed, before publishing", 2), ("published, before the receipt", 1), ("fetch", 5)):
        died = subprocess.run(
            [sys.executable, str(CRASH), step, str(nth), json.dumps(job)], capture_output=True, timeout=120
        )
        assert died.returncode == -signal.SIGKILL
        dataset.check_whole(tmp_path / "out")
    download(**job, progress="none")
    same(undisturbed["webdataset"], tmp_path / "out", "webdataset")


def test_stopping_finishes_a_commit_that_a_dead_worker_began(
    some_urls: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    """Ctrl-C kills the workers, maybe within a commit: its staged files are published, not swept."""
    job = options(some_urls, tmp_path / "out", "webdataset")
    died = subprocess.run(
        [sys.executable, str(CRASH), "claimed, before publishing", "2", json.dumps(job)],
        capture_output=True,
        timeout=120,
    )
    assert died.returncode == -signal.SIGKILL
    claimed = [p.stem for p in (tmp_path / "out" / "_img2dataset" / "commit").glob("*.json")]
    assert claimed
    plan = make_plan(JobConfig.from_flat(job).input)
    resume.leave(output_folder(str(tmp_path / "out")), plan, 0, complete=False)
    assert set(claimed) <= set(dataset.done(tmp_path / "out"))
    assert dataset.leftovers(tmp_path / "out") == []
    download(**job, progress="none")
    same(undisturbed["webdataset"], tmp_path / "out", "webdataset")


def slow_list(server: NastyServer, path: Path, rows: int = 300) -> Path:
    path.write_text("".join(server.url(f"/latency/?ms=150&slow={i}") + "\n" for i in range(rows)))
    return path


def start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The real command, as a user starts it."""
    flags = [f"--{name}={value}" for name, value in job.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "img2dataset_dist", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def workers(driver: int) -> list[int]:
    """Worker processes of a driver."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[1]) == driver and stat[0] != "Z":
            found.append(int(pid))
    return found


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def slow_job(server: NastyServer, tmp_path: Path) -> dict[str, Any]:
    job = options(slow_list(server, tmp_path / "slow.txt"), tmp_path / "out", "webdataset")
    return job | {"number_sample_per_shard": 50, "processes_count": 2}


def finish(job: dict[str, Any], tmp_path: Path) -> None:
    """Run the same again, and compare with a run that was left alone."""
    dataset.check_whole(tmp_path / "out")
    download(**job, progress="none")
    download(**(job | {"output_folder": str(tmp_path / "alone")}), progress="none")
    dataset.check_whole(tmp_path / "out")
    same(tmp_path / "alone", tmp_path / "out", "webdataset")
    assert len(dataset.rows(tmp_path / "out")) == 300


@pytest.mark.parametrize("shards_done", [0, 2])
def test_kill_the_driver(slow_job: dict[str, Any], tmp_path: Path, shards_done: int) -> None:
    """Its workers end by themselves, nothing torn is left, and the same command completes the dataset."""
    driver = start(slow_job)
    out = tmp_path / "out"
    wait_for(lambda: workers(driver.pid) and out.exists() and len(dataset.done(out)) >= shards_done)
    children = workers(driver.pid)
    driver.kill()
    driver.wait()
    wait_for(lambda: all(gone(pid) for pid in children), 10)
    assert len(dataset.done(out)) < 6
    finish(slow_job, tmp_path)


def test_kill_workers(slow_job: dict[str, Any], tmp_path: Path) -> None:
    """A worker that is killed is replaced and its shards are done again: the command itself succeeds."""
    driver = start(slow_job)
    out = tmp_path / "out"
    wait_for(lambda: workers(driver.pid) and out.exists() and len(dataset.done(out)) >= 1)
    os.kill(workers(driver.pid)[0], signal.SIGKILL)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, output.decode()
    assert b"was killed by SIGKILL" in output
    assert len(dataset.done(out)) == 6
    finish(slow_job, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c(slow_job: dict[str, Any], tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Stops within seconds, leaves no process and no torn file, and says how to go on."""
    driver = start(slow_job)
    out = tmp_path / "out"
    wait_for(lambda: workers(driver.pid) and out.exists() and len(dataset.done(out)) >= 1)
    children = workers(driver.pid)
    began = time.monotonic()
    driver.send_signal(number)
    output, _ = driver.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert driver.returncode == code, output.decode()
    assert b"run the same command again" in output
    assert b"Traceback" not in output
    assert all(gone(pid) for pid in children)
    finish(slow_job, tmp_path)


def test_two_drivers_at_once(slow_job: dict[str, Any], tmp_path: Path) -> None:
    """Two runs of the same command on one folder: each shard is one attempt's, whole."""
    first, second = start(slow_job), start(slow_job)
    for driver in (first, second):
        output, _ = driver.communicate(timeout=180)
        assert driver.returncode == 0, output.decode()
    finish(slow_job, tmp_path)


@pytest.mark.parametrize("output_format", ["webdataset", "files", "parquet"])
def test_the_power_fails(output_format: str, some_urls: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    """What the disk holds at that moment is completed: no receipt vouches for a file that is not all there."""
    if os.geteuid() != 0:
        pytest.skip("a disk of one's own takes root")
    disk, later = tmp_path / "disk.img", tmp_path / "later.img"
    with open(disk, "wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True, capture_output=True)
    with mounted(disk, tmp_path / "before") as folder:
        job = options(some_urls, folder / "out", output_format)
        code = "import json, sys; from img2dataset_dist import download; download(**json.loads(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, json.dumps(job)], check=True, capture_output=True)
        shutil.copyfile(disk, later)
    with mounted(later, tmp_path / "after") as folder:
        known = dataset.receipts(folder / "out")
        assert known  # else there is nothing to be wrong about
        download(**options(some_urls, folder / "out", output_format), distributor="inline", progress="none")
        same(undisturbed[output_format], folder / "out", output_format)
        assert known.items() <= dataset.receipts(folder / "out").items()


@contextlib.contextmanager
def mounted(disk: Path, folder: Path) -> Iterator[Path]:
    """The file system in a file, at a folder."""
    folder.mkdir()
    done = subprocess.run(["mount", "-o", "loop", str(disk), str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
