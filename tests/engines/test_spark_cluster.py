"""Spark on a standalone cluster of real processes: kill any of them, and get the dataset of an undisturbed run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import dataset
from support.processes import alive, wait_for
from support.server import NastyServer
from support.spark_cluster import HOST, STEPS, VERSIONS, Driver, SparkCluster, free_port, have

from img2dataset_dist import download

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(900)]
ROWS = 240
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
both = pytest.mark.parametrize("running", VERSIONS, indirect=True)
latest = pytest.mark.parametrize("running", VERSIONS[:1], indirect=True)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    """One for all tests of a version of Spark."""
    assert have(request.param), f"pyspark {request.param} is missing: `make venv-tests` installs it"
    with SparkCluster(tmp_path_factory.mktemp("cluster"), request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: SparkCluster) -> SparkCluster:
    """Two workers, nothing on them."""
    running.heal()
    return running


def options(server: NastyServer, tmp_path: Path, rows: int = ROWS, **more: Any) -> dict[str, Any]:
    """Ten rows a shard, of which a core does about one in a second; a few of them fail."""
    urls = [server.url(f"/latency/?ms=200&test={tmp_path.name}&n={n}") for n in range(rows)]
    urls[7], urls[20], urls[33] = server.url("/status/404"), server.url("/html"), "not a url"
    (tmp_path / "urls.txt").write_text("\n".join(urls) + "\n")
    return {
        "url_list": str(tmp_path / "urls.txt"),
        "output_folder": str(tmp_path / "out"),
        "output_format": "webdataset",
        "number_sample_per_shard": 10,
        "image_size": 32,
        "thread_count": 3,
        "progress": "plain",
        "allow_private_addresses": True,
        "distributor": "pyspark",
    } | more


def same_as_undisturbed(job: dict[str, Any], tmp_path: Path, rows: int = ROWS) -> None:
    """The folder is complete and clean, and as the inline engine makes it."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    dataset.check_whole(out)
    assert dataset.leftovers(out) == []
    fast = {"distributor": "inline", "output_folder": str(alone), "thread_count": 100, "output_format": "webdataset"}
    download(**(job | fast))
    dataset.assert_same(alone, out)
    assert len(dataset.rows(out)) == rows


def done(tmp_path: Path) -> list[str]:
    return dataset.done(tmp_path / "out") if (tmp_path / "out").exists() else []


def notes_for(tmp_path: Path, **more: str) -> dict[str, str]:
    """Settings by which the plug-ins of support.spark_cluster know where to leave their notes."""
    (tmp_path / "notes").mkdir()
    env = {"NOTES": str(tmp_path / "notes"), "OUT": str(tmp_path / "out"), **more}
    return {f"spark.executorEnv.{name}": value for name, value in env.items()}


@both
def test_a_job_of_a_users_session(cluster: SparkCluster, server: NastyServer, tmp_path: Path) -> None:
    """Both workers do their part, the Spark UI shows what is going on, and the session is left to its user."""
    job = options(server, tmp_path, processes_count=7)
    driver = cluster.submit(job)
    driver.wait_for(lambda: len(done(tmp_path)) >= 2)
    jobs = driver.wait_for(lambda: driver.about("jobs"), "the Spark UI")
    state = cluster.state()
    output = driver.wait()
    texts = [text["description"] for text in jobs]
    assert all(text.startswith(f"img2dataset {tmp_path / 'out'}: shard") for text in texts), texts
    assert any("shards 2-5" in text for text in texts), "sub-jobs tell their shards, and grow"
    assert len({text["jobGroup"] for text in jobs}) == 1
    assert all(text["jobGroup"].startswith("img2dataset-") for text in jobs)
    assert [worker["coresused"] for worker in state["workers"]] == [1, 1]
    assert [app["name"] for app in state["activeapps"]] == ["a-script"]
    assert output.count("processes_count=7 is not used") == 1
    assert "the session still answers: 3" in output
    connections = {entry["connection"] for entry in server.log() if f"test={tmp_path.name}&" in entry["target"]}
    assert len(connections) <= 2 * 3 + 2, "connections are kept from one task to the next"
    same_as_undisturbed(job, tmp_path)


@both
def test_whatever_is_killed(cluster: SparkCluster, server: NastyServer, tmp_path: Path) -> None:
    """A Python worker, an executor, a host: the driver goes on with the others, and with one that comes later."""
    job = options(server, tmp_path)
    driver = cluster.submit(job)
    driver.wait_for(lambda: len(done(tmp_path)) >= 2 and len(cluster.python_workers()) == 2)
    victim = cluster.python_workers()[0]
    os.kill(victim, signal.SIGKILL)
    driver.wait_for(lambda: len(set(cluster.python_workers()) - {victim}) == 2, "another Python worker")
    before = set(cluster.executors())
    os.kill(min(before), signal.SIGKILL)
    driver.wait_for(lambda: len(set(cluster.executors()) - {min(before)}) == 2, "another executor")
    workers = cluster.worker_pids()
    os.killpg(workers[0], signal.SIGKILL)
    left = set(cluster.executors())
    cluster.add_worker()
    driver.wait_for(lambda: cluster.python_workers(list(set(cluster.executors()) - left)), "work for the new host")
    driver.wait()
    same_as_undisturbed(job, tmp_path)


@latest
def test_kill_the_driver(cluster: SparkCluster, server: NastyServer, tmp_path: Path) -> None:
    """The executors stop by themselves; the next run fetches only what was not done."""
    job = options(server, tmp_path)
    driver = cluster.submit(job)
    driver.wait_for(lambda: len(done(tmp_path)) >= 4 and len(cluster.python_workers()) == 2)
    workers = cluster.python_workers()
    family = [*workers, *cluster.executors()]
    driver.kill()
    wait_for(lambda: not any(alive(pid) for pid in family), what="the end of the executors")
    before, finished = server.counts(), done(tmp_path)
    assert len(finished) < ROWS // 10
    dataset.check_whole(tmp_path / "out")
    cluster.heal()
    cluster.submit(job).wait()
    fetched = [
        int(target.rpartition("=")[2])
        for target, count in server.counts().items()
        if f"test={tmp_path.name}&" in target and count > before.get(target, 0)
    ]
    again = {f"{n // 10:05d}" for n in fetched}
    assert not again & set(finished), "what has a receipt is not fetched again"
    same_as_undisturbed(job, tmp_path)


@latest
def test_speculation(cluster: SparkCluster, server: NastyServer, tmp_path: Path) -> None:
    """At each step of an attempt another one overtakes it, and then it goes on: the dataset is the same."""
    job = options(server, tmp_path, rows=300, output_format="support.spark_cluster:Slow")
    settings = {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.minTaskRuntime": "1s",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.task.duration.threshold": "5s",
    }
    settings |= notes_for(tmp_path)
    for _ in range(3):  # on a busy machine a job may be over before all steps had their turn
        assert "spark.speculation runs slow tasks twice" in cluster.submit(job, settings).wait()
        same_as_undisturbed(job, tmp_path, rows=300)
        met = {path.name for path in (tmp_path / "notes").iterdir()}
        if met == set(STEPS):
            break
        job["incremental_mode"] = "overwrite"
    assert met == set(STEPS)


@latest
def test_ctrl_c(cluster: SparkCluster, server: NastyServer, tmp_path: Path) -> None:
    """Nobody works on when the command has ended, and it says how to go on."""
    job = options(server, tmp_path)
    driver = cluster.command(job)
    driver.wait_for(lambda: len(done(tmp_path)) >= 2 and len(cluster.python_workers()) == 2)
    workers = cluster.python_workers()
    driver.send(signal.SIGINT)
    output = driver.wait(130)
    assert "interrupted; run the same command again to go on" in output
    assert "Traceback" not in output
    wait_for(lambda: not any(alive(pid) for pid in workers), what="the end of the Python workers")
    finished = done(tmp_path)
    assert len(finished) < ROWS // 10
    dataset.check_whole(tmp_path / "out")
    wait_for(lambda: not cluster.state()["activeapps"], what="the end of the application")
    download(**(job | {"distributor": "inline", "thread_count": 100}))
    same_as_undisturbed(job, tmp_path)


def kill_in_the_ui(driver: Driver, what: str) -> None:
    """As the button `(kill)` on the pages of jobs and of stages does it."""

    def running() -> list[dict[str, Any]]:
        return [job for job in driver.about("jobs") or [] if job["status"] == "RUNNING" and job["numActiveTasks"]]

    if not (jobs := running()):
        return
    job = jobs[0]
    page, number = ("jobs/job", job["jobId"]) if what == "a job" else ("stages/stage", job["stageIds"][0])
    ui = f"http://{HOST}:{driver.ui}"
    html = urllib.request.urlopen(f"{ui}/{page.partition('/')[0]}/", timeout=30).read().decode()
    token = re.search(r'name="csrfToken" value="(\w+)"', html)  # 4.3 has it, 3.5 has not
    form = {"id": number, "csrfToken": token[1] if token else ""}
    urllib.request.urlopen(f"{ui}/{page}/kill/", urllib.parse.urlencode(form).encode(), timeout=30).read()


@pytest.mark.parametrize(("running", "what"), [("4", "a stage"), ("3.5", "a job")], indirect=["running"])
def test_a_kill_in_the_spark_ui(what: str, cluster: SparkCluster, server: NastyServer, tmp_path: Path) -> None:
    job = options(server, tmp_path)
    driver = cluster.submit(job)
    driver.wait_for(lambda: len(done(tmp_path)) >= 1)
    tries = 0
    while not driver.ended and tries < 20:  # what was seen to run may end before the click
        with contextlib.suppress(OSError):
            kill_in_the_ui(driver, what)
        driver.wait_briefly(3)
        tries += 1
    output = driver.wait(1)
    assert "Spark ended the job" in output
    assert "run the same command again to go on" in output
    assert "the session still answers: 3" in output
    dataset.check_whole(tmp_path / "out")
    assert len(done(tmp_path)) < ROWS // 10
    download(**(job | {"distributor": "inline", "thread_count": 100}))
    same_as_undisturbed(job, tmp_path)


@latest
def test_the_jvm_of_the_driver_dies(cluster: SparkCluster, server: NastyServer, tmp_path: Path) -> None:
    job = options(server, tmp_path)
    driver = cluster.command(job)
    driver.wait_for(lambda: len(done(tmp_path)) >= 1)
    os.kill(driver.jvm(), signal.SIGKILL)
    output = driver.wait(1)
    assert "the JVM of the driver is gone" in output or "Spark ended the job" in output, output[-3000:]
    assert "run the same command again to go on" in output
    download(**(job | {"distributor": "inline", "thread_count": 100}))
    dataset.check_whole(tmp_path / "out")


def flags_of_the_script(cluster: SparkCluster, job: dict[str, Any]) -> list[str]:
    """For examples/download.py, as on the master of a cluster: nothing but its own settings."""
    ports = {"driver_port": free_port(5678), "block_manager_port": free_port(6678)}
    shown = ("url_list", "output_folder", "number_sample_per_shard")
    options = {"master": cluster.url, "python": sys.executable, "executor_memory": "512m", "driver_host": HOST, **ports}
    flags = [f"--{name}={value}" for name, value in (options | {name: job[name] for name in shown}).items()]
    return [*flags, "--allow_private_addresses"]


@latest
def test_the_script_of_a_cluster_ends_in_order_when_it_is_terminated(
    cluster: SparkCluster, server: NastyServer, tmp_path: Path
) -> None:
    """Tasks are cancelled, the cores are free at once, no half-written file is left, and the same command goes on."""
    job = options(server, tmp_path) | {"image_size": 256}  # the script's
    command = [sys.executable, str(EXAMPLES / "download.py"), *flags_of_the_script(cluster, job)]
    driver = cluster.start(command)
    driver.wait_for(lambda: len(done(tmp_path)) >= 2)
    driver.send(signal.SIGTERM)
    assert "stopped; run the same command again" in driver.wait(130)
    assert dataset.leftovers(tmp_path / "out") == []
    assert cluster.state()["activeapps"] == []
    before = set(done(tmp_path))
    assert len(before) < ROWS // 10
    cluster.start(command).wait()
    same_as_undisturbed(job, tmp_path)


@latest
def test_a_single_machine_tries_again_with_the_settings_of_the_script(
    cluster: SparkCluster, server: NastyServer, tmp_path: Path
) -> None:
    """With Spark's defaults for machines that fail it would have none left, and would throw a whole sub-job away."""
    spec = importlib.util.spec_from_file_location("example_download", EXAMPLES / "download.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    settings = script.settings(script.parse(["--master=spark://127.0.0.1:7077"]))
    exclusion = {name: value for name, value in settings.items() if "exclude" in name or "maxFailures" in name}
    job = options(server, tmp_path, rows=160)
    driver = cluster.submit(job, {**exclusion, "spark.cores.max": "1"})
    victims: set[int] = set()
    for _ in range(3):
        count = len(done(tmp_path))
        driver.wait_for(lambda: len(done(tmp_path)) >= count + 2)  # noqa: B023 (called at once)
        (victim,) = driver.wait_for(lambda: set(cluster.python_workers()) - victims)
        os.kill(victim, signal.SIGKILL)
        victims.add(victim)
        driver.wait_for(lambda: set(cluster.python_workers()) - victims, "another Python worker")
        jobs = driver.about("jobs")
        assert jobs
        assert not [text for text in jobs if text["status"] == "FAILED"], jobs
    driver.wait()
    same_as_undisturbed(job, tmp_path, rows=160)
