"""The Spark engine on a local session, in this process; a cluster is in test_spark_cluster.py."""

from __future__ import annotations

import glob
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JNetworkError
from pyspark import SparkContext
from pyspark.sql import SparkSession
from support import dataset
from support.photos import url_list
from support.processes import below, wait_for
from support.server import HOSTS, NastyServer
from support.spark_cluster import OLD, TESTS

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
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[SparkSession]:
    """A user's own."""
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
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
    ours = ("pyspark.daemon", "transforms.child")
    wait_for(
        lambda: not any(name in command for command in below(os.getpid()).values() for name in ours),
        what="the end of all processes",
    )
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


# what Spark says

ABORTED = (
    "An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.\n"
    ": org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 4.0 failed 4 times, most "
    "recent failure: Lost task 0.3 in stage 4.0 (TID 9) (10.0.0.2 executor 1): "
)
RAISED = "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
RAISED_4 = "An exception was thrown from the Python worker:\nTraceback (most recent call last):\n"
WHERE = '  File "/opt/pyspark.zip/pyspark/worker.py", line 1247, in main\n    process()\n'
STACK = "\n\n\tat org.apache.spark.api.python.PythonRunner$$anon$3.read(PythonRunner.scala:784)\n\nDriver stacktrace:\n"
CALL = "An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.\n"
CANCELLED = f"{CALL}: org.apache.spark.SparkException: "
EOF = "Caused by: java.io.EOFException\n"
CRASHED = "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)"
LOST = "ExecutorLostFailure (executor 1 exited caused by one of the running tasks) Reason: Command exited with code 137"
MISMATCH = (
    "pyspark.errors.exceptions.base.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has different "
)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        (
            f"{ABORTED}{RAISED}{WHERE}img2dataset_dist.errors.EngineError: h3: do this{STACK}",
            EngineError,
            "h3: do this",
        ),
        (f"{RAISED_4}{WHERE}img2dataset_dist.errors.EngineError: h3: do this", EngineError, "h3: do this"),
        (f"{ABORTED}{RAISED}{WHERE}img2dataset_dist.errors.NetworkDownError: gone{STACK}", NetworkDownError, "gone"),
        (f"{RAISED_4}{WHERE}ModuleNotFoundError: No module named 'img2dataset_dist.engines'", EngineError, "img2data"),
        (f"{ABORTED}{RAISED}{WHERE}ModuleNotFoundError: No module named 'cv2'{STACK}", EngineError, "not have .* cv2:"),
        (
            f"{RAISED_4}{MISMATCH}version: 3.11 than that in driver: 3.9, PySpark cannot",
            EngineError,
            "different Python",
        ),
        (
            f"{ABORTED}{RAISED}{MISMATCH}version (3, 11) than that in driver 3.9, PySpark{STACK}",
            EngineError,
            "fferent Py",
        ),
        (
            f'{ABORTED}java.io.IOException: Cannot run program "/opt/p": error=2, No such file{STACK}',
            EngineError,
            "cannot run /opt/p as its Python",
        ),
        (
            f"{CANCELLED}[SPARK_JOB_CANCELLED] Job 6 cancelled  SQLSTATE: XXKDA\n\tat org.apache",
            EngineError,
            r"Spark ended the job \(Job 6 cancelled\); run",
        ),
        (f"{CANCELLED}Job 6 cancelled \n\tat org.apache", EngineError, r"\(Job 6 cancelled\); run the same"),
        (
            f"{CANCELLED}Job 7 cancelled because Stage 7 was cancelled\n\tat org",
            EngineError,
            r"Stage 7 was cancelled\)",
        ),
        (f"{CANCELLED}Job 8 cancelled because SparkContext was shut down\n\tat", EngineError, "was shut down"),
    ],
)
def test_what_no_shard_can_be_done_after(text: str, kind: type[Exception], told: str) -> None:
    """Shortened from what pyspark 3.5.9 and 4.3.0 said."""
    found = spark_errors.fatal(RuntimeError(text))
    assert type(found) is kind
    assert re.search(told, str(found)), found


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "refused"), Py4JNetworkError("Answer from Java is empty")]
)
def test_the_jvm_is_gone(error: Exception) -> None:
    assert "the JVM of the driver is gone" in str(spark_errors.fatal(error))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{ABORTED}{CRASHED}{STACK}Caused by: {CRASHED}\n{EOF}", "Python worker exited unexpectedly (crashed)"),
        (
            f"{ABORTED}{CRASHED}. Consider setting 'spark.python.worker.faulthandler.enabled'\n\tat x\n{EOF}",
            "Python worker exited unexpectedly (crashed)",
        ),
        (f"{RAISED_4}{WHERE}OSError: [Errno 111] Connection refused", "OSError: [Errno 111] Connection refused"),
        (f"{ABORTED}{RAISED}{WHERE}RuntimeError: Job 3 cancelled\n{STACK}", "RuntimeError: Job 3 cancelled"),
        (
            f"{ABORTED}{LOST}\nDriver stacktrace:\n\tat org.apache.spark",
            LOST,
        ),
    ],
)
def test_what_only_these_shards_suffer_from(text: str, reason: str) -> None:
    assert spark_errors.fatal(RuntimeError(text)) is None
    assert spark_errors.reason_of(text).startswith(reason)


def test_a_reason_is_short() -> None:
    assert len(spark_errors.reason_of(f"{RAISED_4}{WHERE}RuntimeError: {'x' * 5000}")) < 500


# settings


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("384", 384 << 20),
        ("512m", 512 << 20),
        ("512MB", 512 << 20),
        ("1g", 1 << 30),
        ("1.5g", 3 << 29),
        ("2t", 2 << 40),
        ("1024k", 1 << 20),
        ("100b", 100),
        (" 1 g ", 1 << 30),
    ],
)
def test_sizes_as_spark_writes_them(text: str, size: int) -> None:
    assert spark_session.parse_size(text) == size


def config(**more: Any) -> JobConfig:
    return JobConfig.from_flat({"url_list": "x", "output_folder": "y", **more})


def test_memory_advice() -> None:
    """Says what is there, what is needed and what to set; and is silent when that was set."""
    text = spark_session.memory_advice({"spark.executor.cores": "4", "spark.executor.memory": "8g"}, config())
    assert text is not None
    assert f"an executor has {8192 // 10} MiB" in text
    advised = re.search(r"spark\.executor\.memoryOverhead=(\d+m)", text)
    assert advised
    for name in ("spark.executor.memoryOverhead", "spark.executor.pyspark.memory"):
        assert spark_session.memory_advice({"spark.executor.cores": "4", name: advised[1]}, config()) is None
    small = config(max_buffered_bytes=2**20, thread_count=8, transform_processes=1)
    assert spark_session.memory_advice({"spark.executor.memory": "5g"}, small) is None
    assert spark_session.memory_advice({"spark.executor.memory": "2g"}, small) is not None


# what is dealt


def shards(count: int) -> Iterator[Shard]:
    return (Shard(id=n, source=Source(path="x", format="txt"), start=0, rows=1) for n in range(count))


def receipt(shard_id: int, seconds: float = 1.0) -> Receipt:
    return Receipt(shard_id=shard_id, stats=Stats(start_time=0, end_time=seconds), attempt="a", fingerprint="f")


def test_groups_grow_with_short_shards_and_shrink_towards_the_end() -> None:
    dealer = Dealer(shards(400), window=1000, group=True)
    sizes = [len(group) for group in dealer.deal(4, 4)]
    assert sizes == [1, 1, 1, 1], "nothing is known yet"
    for n in range(4):
        assert dealer.heard(receipt(n, seconds=2.0))
    sizes = []
    while groups := dealer.deal(4, 1000):
        sizes += [len(group) for group in groups]
    assert sum(sizes) == 396
    assert 396 // 16 <= max(sizes) <= 396 // 8
    assert sizes[-8:] == [1] * 8
    assert all(a >= b for a, b in itertools.pairwise(sizes)), sizes


def test_the_window_bounds_what_is_out_and_an_outcome_counts_once() -> None:
    dealer = Dealer(shards(30), window=8, group=True)
    out = [shard for group in dealer.deal(2, 100) for shard in group]
    assert len(out) == 8
    assert dealer.deal(2, 100) == []
    assert dealer.heard(receipt(3))
    assert not dealer.heard(receipt(3)), "a second attempt's"
    assert not dealer.heard(ShardFailure(shard_id=3, error="late"))
    assert [shard.id for group in dealer.deal(2, 100) for shard in group] == [8]
    assert [shard.id for shard in dealer.unheard(out)] == [0, 1, 2, 4, 5, 6, 7]
    assert not dealer.over()


# the slots file of a machine


def test_slots_files_do_not_pile_up(tmp_path: Path) -> None:
    for run in range(5):
        code = f"from img2dataset_dist.engines.cluster_task import machine_slots; machine_slots('{run}', {str(tmp_path)!r})"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_slots_file_in_use_is_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_task, "_held", [])
    first = cluster_task.machine_slots("first", str(tmp_path))
    assert cluster_task.machine_slots("first", str(tmp_path)) == first
    second = cluster_task.machine_slots("second", str(tmp_path))
    assert {str(path) for path in tmp_path.iterdir()} == {first, second}
    for file in cluster_task._held:
        os.close(file)


@pytest.mark.skipif(not OLD.is_dir(), reason="pyspark 3.5 is not there: `make venv-tests`")
def test_the_contract_holds_with_pyspark_3_5(tmp_path: Path) -> None:
    """And what this file tests of sessions and shards."""
    suites = [str(TESTS / "engines" / name) for name in ("test_engine_contract.py", "test_spark.py")]
    chosen = "pyspark or session or poisoned or version or without_our_python"
    command = [sys.executable, "-m", "pytest", *suites, "-x", "-k", f"({chosen}) and not 3_5", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": f"{OLD}{os.pathsep}{TESTS}"}
    ended = subprocess.run([*command, f"--basetemp={tmp_path / 'base'}"], capture_output=True, text=True, env=env)
    assert ended.returncode == 0, ended.stdout[-6000:]
