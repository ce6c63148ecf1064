"""The Spark engine on a local session, in this process; a cluster is in test_spark_cluster.py."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JNetworkError
from pyspark import SparkContext
from pyspark.sql import SparkSession
from support import dataset
from support.photos import url_list
from support.server import HOSTS, NastyServer
from support.spark_cluster import OLD, TESTS, below, wait_for

from img2dataset_dist import ShardsFailed, about, download
from img2dataset_dist.config import JobConfig
from img2dataset_dist.engines import cluster_task, spark, spark_errors, spark_session
from img2dataset_dist.engines.feed import Dealer
from img2dataset_dist.errors import EngineError, NetworkDownError
from img2dataset_dist.model import Receipt, Shard, ShardFailure, Source, Stats

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def job(server: NastyServer, tmp_path: Path, captions: list[str], **more: Any) -> dict[str, Any]:
    """One row per caption, three rows a shard."""
    urls = [server.url(f"/photo?test={tmp_path.name}&n={n}") for n in range(len(captions))]
    return {
        "url_list": url_list(tmp_path / "urls.jsonl", urls, {"text": captions}),
        "input_format": "jsonl",
        "caption_col": "text",
        "output_folder": str(tmp_path / "out"),
        "output_format": "support.plugins:Poison",
        "number_sample_per_shard": 3,
        "image_size": 32,
        "thread_count": 4,
        "processes_count": 2,
        "progress": "plain",
        "allow_private_addresses": True,
        "distributor": "pyspark",
    } | more


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the plug-ins of support.spark_cluster leave their notes."""
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    return tmp_path / "notes"


@pytest.fixture
def session() -> Iterator[SparkSession]:
    """A user's own."""
    builder = SparkSession.builder.master("local[2]").config("spark.driver.host", "127.0.0.1")
    made = builder.config("spark.ui.enabled", "false").getOrCreate()
    made.sparkContext.environment.update(os.environ)
    yield made
    made.stop()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the console says, lines joined."""
    return " ".join(capsys.readouterr().err.split())


# a session


def test_a_local_session_is_made_and_stopped(server: NastyServer, tmp_path: Path) -> None:
    """Nothing of it is left: no session, no Python process, no growing number of files."""
    assert SparkContext._active_spark_context is None
    download(**job(server, tmp_path, [""] * 9))
    assert SparkContext._active_spark_context is None
    ours = lambda: [c for c in below({os.getpid()}).values() if "pyspark.daemon" in c or "transforms.child" in c]
    wait_for(lambda: not ours(), what="the end of all processes")
    before = len(glob.glob(f"/tmp/img2dataset-{os.getuid()}-*.slots"))
    download(**job(server, tmp_path, [""] * 9, output_folder=str(tmp_path / "second")))
    assert len(glob.glob(f"/tmp/img2dataset-{os.getuid()}-*.slots")) <= before + 1
    assert len(dataset.rows(tmp_path / "second")) == 9


def test_an_active_session_is_used_and_left_running(
    session: SparkSession, server: NastyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when a shard is tried again; what its user should know is said once."""
    captions = [""] * 30
    captions[4] = f"raise {tmp_path / 'once'}"
    session.sparkContext.setJobDescription("the user's")
    assert download(**job(server, tmp_path, captions)).count == 30
    assert SparkContext._active_spark_context is session.sparkContext
    assert session.sparkContext.parallelize(range(4), 2).sum() == 6
    assert session.sparkContext.getLocalProperty("spark.job.description") == "the user's"
    assert said(capsys).count("processes_count=2 is not used") == 1
    download(**job(server, tmp_path, captions, output_folder=str(tmp_path / "second")))
    assert len(dataset.rows(tmp_path / "second")) == 30


def test_a_session_that_was_stopped_from_outside(session: SparkSession, server: NastyServer, tmp_path: Path) -> None:
    session.sparkContext._jsc.stop()
    with pytest.raises(EngineError, match="was stopped"):
        download(**job(server, tmp_path, [""] * 3))


@pytest.mark.parametrize("java", ["nowhere", "JAVA_HOME is wrong"])
def test_no_java(java: str, tmp_path: Path) -> None:
    """The advice comes at once."""
    (tmp_path / "urls.txt").write_text("http://127.0.0.1:9/a.jpg\n")
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "env", "dirname", "basename", "ps", "uname", "sed", "cat", "tr"):
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    env = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "SPARK_HOME")}
    env |= {"PATH": str(tmp_path / "bin")} if java == "nowhere" else {"JAVA_HOME": str(tmp_path)}
    flags = ["urls.txt", "--output_folder=out", "--distributor=pyspark", "--progress=none"]
    command = [sys.executable, "-m", "img2dataset_dist", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=100)
    assert ended.returncode == 1
    assert "install a JRE of version 17" in ended.stderr
    assert "Traceback" not in ended.stderr


# shards


def test_a_straggler_keeps_nobody_waiting(
    notes: Path, server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first shard waits until all others are done, which are many more than a sub-job has."""
    monkeypatch.setenv("OTHERS", "19")
    most = []

    class Watched(Dealer):
        def deal(self, *arguments: Any) -> Any:
            groups = super().deal(*arguments)
            most.append(len(self._open))
            return groups

    monkeypatch.setattr(spark, "Dealer", Watched)
    options = job(server, tmp_path, [""] * 60, output_format="support.spark_cluster:Straggler", subjob_size=8)
    assert download(**options).count == 60
    assert max(most) == 8, "and no more than subjob_size are under way"


def test_a_python_process_keeps_its_pipeline(notes: Path, server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    options = job(server, tmp_path, [""] * 90, output_format="support.spark_cluster:Signed")
    assert download(**options).count == 90
    assert len({path.suffix for path in notes.iterdir()}) <= 4, "two, and some when Spark hands over"
    assert server.connections()[HOSTS[0]] <= 4 * 4


def test_limits_by_host_are_shared_by_the_processes_of_a_machine(server: NastyServer, tmp_path: Path) -> None:
    urls = [server.url(f"/latency/?ms=20&n={n}", host=HOSTS[1]) for n in range(90)]
    options = job(server, tmp_path, [], max_connections_per_host=2, thread_count=8)
    options["url_list"] = url_list(tmp_path / "one.jsonl", urls, {"text": [""] * 90})
    server.clear()
    assert download(**options).successes == 90
    assert server.peak()[HOSTS[1]] <= 2


def test_a_lane_is_at_one_process_at_a_time(server: NastyServer, tmp_path: Path) -> None:
    urls = [server.url(f"/latency/?ms=20&n={n}", host=HOSTS[n % 4]) for n in range(96)]
    options = job(server, tmp_path, [], schedule="by_host", lanes=4, thread_count=3)
    options["url_list"] = url_list(tmp_path / "hosts.jsonl", urls, {"text": [""] * 96})
    server.clear()
    assert download(**options).successes == 96
    assert max(server.peak()[host] for host in HOSTS) <= 3


@pytest.mark.crash
@pytest.mark.parametrize("deed", ["die", "segfault"])
def test_a_poisoned_shard_is_named_and_its_sub_job_completes(deed: str, server: NastyServer, tmp_path: Path) -> None:
    captions = [""] * 30
    captions[16] = deed
    with pytest.raises(ShardsFailed, match="Python worker exited unexpectedly") as caught:
        download(**job(server, tmp_path, captions, max_shard_retry=0))
    assert list(caught.value.failures) == [5]
    assert len(dataset.rows(tmp_path / "out")) == 27
    dataset.check_whole(tmp_path / "out")


@pytest.mark.crash
def test_a_worker_that_dies_once_is_no_failure(server: NastyServer, tmp_path: Path) -> None:
    captions = [""] * 30
    captions[4] = f"die {tmp_path / 'once'}"
    assert download(**job(server, tmp_path, captions, max_shard_retry=0)).count == 30
    assert len(dataset.rows(tmp_path / "out")) == 30
    assert dataset.leftovers(tmp_path / "out") == []


def test_the_network_is_down(server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no shard's fault: the job ends with the error that says so."""
    urls = [f"http://host{n}.invalid/{n}.jpg" for n in range(60)]
    options = job(server, tmp_path, [], network_patience=1, dns_servers=["127.0.0.1:9"], number_sample_per_shard=30)
    options["url_list"] = url_list(tmp_path / "none.jsonl", urls, {"text": [""] * 60})
    with pytest.raises(NetworkDownError):
        download(**options)
    assert dataset.done(tmp_path / "out") == []


# executors that cannot work


@pytest.mark.parametrize("python", ["/nonexistent/python", "bare"])
def test_an_executor_without_our_python(
    python: str,
    server: NastyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if python == "bare":
        python = str(tmp_path / "bare" / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setenv("PYSPARK_PYTHON", python)
    with pytest.raises(EngineError, match=r"PYSPARK_PYTHON"):
        download(**job(server, tmp_path, [""] * 60))
    assert "failed" not in said(capsys), "not a word on shards"


def test_another_version_on_the_executors(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spark, "VERSION", "0.1")
    with pytest.raises(EngineError, match=rf"has img2dataset_dist {re.escape(about.VERSION)}, the driver has 0\.1"):
        download(**job(server, tmp_path, [""] * 60))
    assert "failed" not in said(capsys)


def test_a_folder_that_the_executors_do_not_share(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen from the executors, the folder holds no such job."""
    real = spark.ClusterJob

    def elsewhere(**fields: Any) -> Any:
        return real(**fields | {"job": spark.replace(fields["job"], output_url=str(tmp_path / "elsewhere"))})

    monkeypatch.setattr(spark, "ClusterJob", elsewhere)
    with pytest.raises(EngineError, match="must be on storage that the driver and all workers share"):
        download(**job(server, tmp_path, [""] * 60))
    assert "failed" not in said(capsys)
    assert not (tmp_path / "elsewhere").exists()
