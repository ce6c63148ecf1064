"""The engine `ray` on a real cluster of two nodes, and on a Ray of its own; what every engine does is tested elsewhere."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import exceptions
from support import dataset
from support.photos import url_list
from support.processes import Driver, alive, below, wait_for
from support.ray_cluster import HEAD, SECOND, RayCluster, environment, impatient, workers
from support.server import HOSTS, NastyServer

from img2dataset_dist import EngineError, download
from img2dataset_dist.engines import ray as ray_engine
from img2dataset_dist.engines import ray_session
from img2dataset_dist.engines.cluster_task import ClusterJob, HungError
from img2dataset_dist.engines.feed import Dealer
from img2dataset_dist.engines.ray_errors import fatal, reason_of
from img2dataset_dist.errors import NetworkDownError
from img2dataset_dist.model import Shard, Source

pytestmark = [pytest.mark.slow, pytest.mark.crash]
ROWS = 120


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("ray")) as running:
        yield running


@pytest.fixture
def cluster(two_nodes: RayCluster) -> RayCluster:
    two_nodes.heal()
    return two_nodes


@pytest.fixture(scope="module")
def some_urls(server: NastyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 shards of six rows, which take a core about 15 s; a few rows fail."""
    names = [f"photo_{n:05d}.jpg" for n in (0, 1, 2, 4, 5, 6)]
    urls = [server.url(f"/latency/{names[i % 6]}?ms=400&ray={i}") for i in range(ROWS)]
    urls[7], urls[80] = server.url("/status/404"), "not a url"
    return url_list(tmp_path_factory.mktemp("list") / "urls.jsonl", urls, {"text": [""] * ROWS})


@pytest.fixture(scope="module")
def undisturbed(some_urls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that nobody disturbed, by the local engine."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    download(**options(some_urls, folder, distributor="multiprocessing", thread_count=12))
    assert len(dataset.rows(folder)) == ROWS
    return folder


def options(urls: Path, folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "url_list": str(urls),
        "input_format": "jsonl",
        "caption_col": "text",
        "output_folder": str(folder),
        "output_format": "support.plugins:Poison",
        "number_sample_per_shard": 6,
        "image_size": 32,
        "thread_count": 3,
        "distributor": "ray",
        "progress": "none",
        "allow_private_addresses": True,
    } | more


def check(folder: Path, undisturbed: Path) -> None:
    dataset.check_whole(folder)
    dataset.assert_same(folder, undisturbed)
    assert dataset.leftovers(folder) == []


def some_done(folder: Path, count: int = 2) -> bool:
    return folder.exists() and len(dataset.done(folder)) >= count


def test_a_job_uses_both_nodes_and_leaves_the_session_of_the_user(
    cluster: RayCluster, some_urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = cluster.script(options(some_urls, out, processes_count=7, progress="plain"))
    driver.wait_for(lambda: cluster.workers(HEAD) and cluster.workers(SECOND), "tasks on both nodes")
    printed = driver.wait()
    assert printed.count("processes_count=7 is not used") == 1
    assert "with 2 task(s) at a time" in printed
    assert "Ray still answers: 2" in printed
    assert "Traceback" not in printed
    check(out, undisturbed)


def test_workers_that_are_killed_cost_nothing(
    cluster: RayCluster, some_urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = cluster.command(options(some_urls, out))
    for count, node in ((1, HEAD), (6, SECOND)):
        driver.wait_for(functools.partial(some_done, out, count), "shards")
        victims = driver.wait_for(functools.partial(cluster.workers, node), "a task")
        children = below(*victims)
        os.kill(victims[0], signal.SIGKILL)
        wait_for(lambda children=children: not any(map(alive, children)), what="the end of its decoders")
    driver.wait()
    check(out, undisturbed)


def test_a_node_is_lost_and_another_one_joins(
    cluster: RayCluster, some_urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = cluster.command(options(some_urls, out, thread_count=2))
    driver.wait_for(lambda: some_done(out) and cluster.workers(SECOND), "work on the second node")
    raylet = cluster.raylet(SECOND)
    assert raylet is not None
    orphans = below(raylet)
    os.kill(raylet, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, orphans)), what="the end of the node's processes")
    cluster.stop(SECOND)
    cluster.start(SECOND)
    driver.wait_for(lambda: cluster.workers(SECOND), "work on the new node")
    driver.wait()
    check(out, undisturbed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_driver_that_is_stopped_goes_on_where_it_was(
    number: signal.Signals, code: int, cluster: RayCluster, some_urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = cluster.command(options(some_urls, out))
    driver.wait_for(lambda: some_done(out) and cluster.workers(SECOND), "work")
    at_work = cluster.workers(HEAD) + cluster.workers(SECOND)
    family = [*at_work, *below(*at_work)]
    os.kill(driver.pid, number)
    printed = driver.wait(None)
    # Ray 2.60 sometimes ends the whole driver when tasks are cancelled: that is as good as being killed
    killed = number == signal.SIGKILL or "task_manager.cc" in printed
    assert driver.code == code or "task_manager.cc" in printed, printed
    assert killed or "Traceback" not in printed
    wait_for(lambda: not any(map(alive, family)), what="the end of the tasks")
    dataset.check_whole(out)
    done = dataset.done(out)
    assert 2 <= len(done) < ROWS // 6
    assert killed or dataset.leftovers(out) == []
    cluster.command(options(some_urls, out, thread_count=12)).wait()
    check(out, undisturbed)


def test_a_shard_that_kills_its_process_is_reported_and_its_neighbours_complete(
    cluster: RayCluster, server: NastyServer, tmp_path: Path
) -> None:
    urls = [server.url(f"/photo/photo_00000.jpg?poison={n}") for n in range(60)]
    listed = url_list(tmp_path / "urls.jsonl", urls, {"text": ["die" if n == 50 else "" for n in range(60)]})
    out = tmp_path / "out"
    job = options(listed, out, max_shard_retry=0, progress="plain")
    printed = cluster.command(job).wait(1)
    assert "1 shard(s) failed, the first is 8: the worker process died" in printed
    assert len(dataset.rows(out)) == 54
    assert dataset.leftovers(out) == []
    cluster.command(job, NO_POISON="1").wait(1)


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_host_is_asked_by_one_task_at_a_time(
    lanes: int, cluster: RayCluster, server: NastyServer, tmp_path: Path
) -> None:
    urls = [server.url(f"/latency/?ms=30&ray={lanes}&n={n}", host=HOSTS[n % 4]) for n in range(96)]
    listed = url_list(tmp_path / "hosts.jsonl", urls, {"text": [""] * 96})
    server.clear()
    cluster.command(options(listed, tmp_path / "out", schedule="by_host", lanes=lanes)).wait()
    assert len(dataset.rows(tmp_path / "out")) == 96
    assert max(server.peak()[host] for host in HOSTS) <= 3


# A Ray of our own


def own(options: dict[str, Any], tmp_path: Path, **env: str) -> Driver:
    """The command where no cluster is."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    settings = environment(**env)
    return Driver([sys.executable, "-m", "img2dataset_dist", *flags], settings, tmp_path / "driver.log")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_local_ray_ends_with_the_job(
    number: signal.Signals, code: int, some_urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal goes to all processes of the group, so it does here."""
    out = tmp_path / "out"
    driver = own(options(some_urls, out, processes_count=2), tmp_path, RAY_ADDRESS="local")
    try:
        driver.wait_for(lambda: some_done(out) and len(workers(driver.pid)) == 2, "work")
        family = below(driver.pid)
        if number == signal.SIGINT:
            os.killpg(driver.pid, number)
        else:
            os.kill(driver.pid, number)
        printed = driver.wait(code)
        assert "Traceback" not in printed
        wait_for(lambda: not any(map(alive, family)), what="the end of Ray's processes")
    finally:
        driver.kill()
    dataset.check_whole(out)
    if number == signal.SIGINT:
        download(**options(some_urls, out, thread_count=12, distributor="multiprocessing"))
        check(out, undisturbed)


def test_a_home_that_cannot_be_written_and_no_name_for_the_machine(server: NastyServer, tmp_path: Path) -> None:
    listed = url_list(tmp_path / "urls.jsonl", [server.url("/photo/photo_00000.jpg?home")], {"text": [""]})
    driver = own(options(listed, tmp_path / "out"), tmp_path, HOME="/proc/none", HOSTNAME="nowhere")
    try:
        assert driver.wait() == ""
    finally:
        driver.kill()
    assert len(dataset.rows(tmp_path / "out")) == 1


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Ray of the user's in this process, with one CPU; the id of its raylet."""
    hung = tmp_path_factory.mktemp("session") / "hung"
    settings = {"RAY_ADDRESS": "local", "PYTHONPATH": str(Path(__file__).parents[1]), "HANG_ONCE": str(hung)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        before = set(below(os.getpid()))
        ray.init(
            num_cpus=1, include_dashboard=False, object_store_memory=ray_session.OBJECT_STORE,
            runtime_env={"worker_process_setup_hook": impatient},
        )  # fmt: skip
        family = below(os.getpid())
        yield next(pid for pid in set(family) - before if "raylet/raylet" in family[pid])
        ray.shutdown()


def test_a_task_that_hangs_is_ended_with_its_process(
    session: int,
    server: NastyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A fetch thread never goes on: it goes with its process, and its shards are done in another one."""
    urls = [server.url(f"/photo/photo_00000.jpg?hang={n}") for n in range(18)]
    listed = url_list(tmp_path / "urls.jsonl", urls, {"text": [""] * 18})
    stats = download(**options(listed, tmp_path / "out", progress="plain"))
    assert stats.count == 18
    assert Path(os.environ["HANG_ONCE"]).exists()
    assert len(dataset.rows(tmp_path / "out")) == 18
    assert ray.is_initialized()
    wait_for(lambda: not ours(session), what="the end of idle workers")
    printed = "".join(capfd.readouterr())
    print(printed)
    assert "no sign of life" in printed


def ours(raylet: int) -> list[int]:
    """Worker processes that run, or ran, tasks of ours: they have processes of their own."""
    return [pid for pid in workers(raylet, busy=False) if below(pid)]


def test_a_worker_that_cannot_do_the_job_ends_it(
    session: int, server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = url_list(tmp_path / "urls.jsonl", [server.url("/photo/photo_00000.jpg?old")], {"text": [""]})
    monkeypatch.setattr(ray_engine, "ClusterJob", functools.partial(ClusterJob, version="0.0.1"))
    with pytest.raises(EngineError, match=r"the driver has 0\.0\.1: give the workers the same"):
        download(**options(listed, tmp_path / "out"))
    assert ray.is_initialized()


@pytest.mark.parametrize("file", [False, True])
def test_a_cluster_that_is_not_there_is_said(file: bool, server: NastyServer, tmp_path: Path) -> None:
    listed = url_list(tmp_path / "urls.jsonl", [server.url("/photo/photo_00000.jpg?gone")], {"text": [""]})
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.2:1")
    where = {"RAY_TMPDIR": str(tmp_path)} if file else {"RAY_ADDRESS": "127.0.0.2:1"}
    driver = own(options(listed, tmp_path / "out"), tmp_path, **where)
    try:
        printed = driver.wait(1, seconds=60)
    finally:
        driver.kill()
    assert "no Ray cluster answers at 127.0.0.2:1" in printed
    assert "RAY_ADDRESS=local starts" in printed
    assert ("ray stop" in printed) == file
    assert "Traceback" not in printed


def test_without_ray_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    command = [sys.executable, "-m", "img2dataset_dist", "--url_list=x.txt", "--distributor=ray"]
    env = environment() | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
    assert ended.returncode == 2
    assert "pip install 'img2dataset_dist[ray]'" in ended.stderr


# What errors mean


def raised(cause: Exception) -> exceptions.RayTaskError:
    return exceptions.RayTaskError(
        "work", f"Traceback ...\n{type(cause).__name__}: {cause}", cause
    ).as_instanceof_cause()


def test_errors_that_end_the_job() -> None:
    assert str(fatal(raised(EngineError("not shared")))) == "not shared"
    assert isinstance(fatal(raised(NetworkDownError("down"))), NetworkDownError)
    assert "install img2dataset_dist[ray]" in str(
        fatal(raised(ModuleNotFoundError("No module named 'img2dataset_dist'")))
    )
    assert "runtime_env" in str(fatal(exceptions.RuntimeEnvSetupError("pip failed")))
    assert "run the same command again" in str(fatal(exceptions.RaySystemError("the GCS is gone")))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (raised(OSError(28, "No space left")), "No space left"),
        (raised(HungError("no sign of life from shard 3")), "no sign of life from shard 3"),
        (exceptions.WorkerCrashedError(), "the worker process died"),
        (exceptions.OutOfMemoryError("the node was short of memory"), "short of memory"),
    ],
)
def test_errors_that_a_shard_may_have_caused(error: Exception, reason: str) -> None:
    assert fatal(error) is None
    assert reason in reason_of(error)
    assert "\n" not in reason_of(error)


def test_no_more_groups_are_dealt_than_there_are_tasks_for() -> None:
    shards = (Shard(id=n, source=Source(path="x", format="txt"), start=0, rows=1) for n in range(100))
    dealer = Dealer(shards, window=50, group=True)
    assert [len(group) for group in dealer.deal(2, dealer.room, tasks=3)] == [1, 1, 1]
    assert dealer.room == 47
    assert next(shards).id < 60, "the list is read no further than the window"
