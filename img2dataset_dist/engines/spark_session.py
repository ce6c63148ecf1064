"""The Spark session that a job runs in, and what we know of the cluster behind it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from py4j.clientserver import ClientServer  # type: ignore[import-untyped]
from pyspark import SparkContext
from pyspark.sql import SparkSession
from pyspark.sql.utils import is_remote

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import EngineError
from img2dataset_dist.pipeline import TRANSFORM_PROCESSES

SETTLED = 2.0
"""Seconds without another machine after which all those that a new session will have are taken to be there."""

YOUNG = 30.0
"""Seconds after its start in which a session's executors may still be on their way."""

LOOK_SECONDS = 5.0
"""How long what the cluster said of itself is taken for true."""

LATEST = 300
"""Jobs of a group that are looked at for tasks which still run."""

TRIES = 4
"""How often a local session tries a task, as clusters do by default."""

MIB = 2**20
TASK_MEMORY = 250 * MIB
"""What a task's process needs besides bodies, and what each of its decoding processes does (docs/spark.md)."""

DECODER_MEMORY = 150 * MIB
MIN_OVERHEAD = 384 * MIB
"""Spark's own least memoryOverhead."""


class Cluster:
    """A Spark context, ours or the user's."""

    def __init__(self, context: Any, session: Any = None) -> None:
        """`session` is given when it is ours to stop."""
        self.context = context
        self._session = session
        self._looked = -LOOK_SECONDS
        self._slots = self._machines = 1
        self._machines_now = 0

    @property
    def ours(self) -> bool:
        """Whether we made the session."""
        return self._session is not None

    @property
    def is_local(self) -> bool:
        """Whether everything runs on this machine, in the driver's JVM."""
        return str(self.context.master).startswith("local")

    @property
    def path(self) -> tuple[str, ...]:
        """See `ClusterJob.path`."""
        return tuple(sys.path) if self.is_local else ()

    def slots(self) -> int:
        """How many tasks run at the same time."""
        self._look()
        return self._slots

    def machines(self) -> int:
        """On how many machines; the most that were seen, or that there may be."""
        self._look()
        return self._machines

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        with contextlib.suppress(Exception):  # a context that is gone: the sub-jobs will tell
            scala = self.context._jsc.sc()  # noqa: SLF001 (Spark says it nowhere else)
            self._slots = max(1, _slots(scala))
            if not self.is_local:
                names = _strings(scala.getExecutorMemoryStatus().keys().toSeq())
                hosts = [name.rpartition(":")[0] for name in names]
                with contextlib.suppress(ValueError):  # the driver is among them
                    hosts.remove(self.context.getConf().get("spark.driver.host"))
                self._machines_now = len(set(hosts))
                self._machines = max(self._machines, self._machines_now, self._dynamic() or 0)

    def settle(self) -> None:
        """Let the executors of a new session register: limits per host are divided by the number of machines."""
        if self.is_local or self._dynamic() is not None:
            return  # executors come as tasks wait for them
        deadline = self.context.startTime / 1000 + YOUNG
        changed = time.monotonic()
        while time.time() < deadline and (self._machines_now == 0 or time.monotonic() - changed < SETTLED):
            before = self._machines_now
            self._looked = -LOOK_SECONDS
            self._look()
            if self._machines_now != before:
                changed = time.monotonic()
            time.sleep(0.1)

    def _dynamic(self) -> int | None:
        """How many executors there may be by dynamic allocation; None without it, 0 without a bound."""
        conf = self.context.getConf()
        if conf.get("spark.dynamicAllocation.enabled", "false") != "true":
            return None
        return int(conf.get("spark.dynamicAllocation.maxExecutors", "0"))

    def collect(self, rdd: Any, group: str, text: str) -> Any:
        """What the partitions of `rdd` yield, by a Spark job of that group and description."""
        if isinstance(SparkContext._gateway, ClientServer):  # noqa: SLF001 (as pyspark itself asks)
            self.context.setJobGroup(group, text)
            return rdd.collect()
        # PYSPARK_PIN_THREAD=false: two calls may run in two threads of the JVM, and group and job go together in one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return rdd.collectWithJobGroup(group, text)

    def active_tasks(self, group: str) -> int:
        """Tasks of a job group that run now."""
        with contextlib.suppress(Exception):  # the context may be gone
            return self._running(self._stages(group))
        return 0

    def _stages(self, group: str) -> list[int]:
        """Of its latest jobs that did not succeed: tasks of one that was cancelled may still run."""
        tracker = self.context.statusTracker()
        jobs = sorted(tracker.getJobIdsForGroup(group), reverse=True)[:LATEST]
        infos = [tracker.getJobInfo(job) for job in jobs]
        return [stage for info in infos if info is not None and info.status != "SUCCEEDED" for stage in info.stageIds]

    def _running(self, stages: Sequence[int]) -> int:
        infos = [self.context.statusTracker().getStageInfo(stage) for stage in stages]
        return sum(info.numActiveTasks for info in infos if info is not None)

    def cancel(self, group: str, seconds: float, over: Callable[[], bool]) -> None:
        """End all tasks of a job group, and wait so long until they are over, so that nobody writes any more.

        `over` says whether all its jobs have come back. One that was just being submitted is not hit by the first go.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Exception):
            while time.monotonic() < deadline:
                self.context.cancelJobGroup(group)
                if over():
                    break
                time.sleep(0.1)
            stages = self._stages(group)
            while time.monotonic() < deadline and self._running(stages):
                time.sleep(0.2)

    def close(self) -> None:
        """Stop the session if it is ours."""
        if self._session is not None:
            with contextlib.suppress(Exception):
                self._session.stop()


def _slots(scala: Any) -> int:
    """Tasks that a Scala SparkContext runs at the same time."""
    try:
        return int(scala.maxNumConcurrentTasks(scala.resourceProfileManager().defaultResourceProfile()))
    except Exception:  # noqa: BLE001 (not meant for us; may be otherwise in another version)
        return int(scala.defaultParallelism())  # which a user may have set to anything


def _strings(sequence: Any) -> list[str]:
    return [str(sequence.apply(number)) for number in range(sequence.length())]


def connect(config: JobConfig) -> Cluster:
    """The active session, or a local one of ours.

    Raises:
        EngineError: no Java, a session that has no context.
    """
    context = SparkContext._active_spark_context  # noqa: SLF001 (also of a session that another thread made)
    if context is not None:
        if context._jsc.sc().isStopped():  # noqa: SLF001
            raise EngineError(
                "the active Spark session was stopped from outside: make a new one (session.stop() first)"
            )
        return Cluster(context)
    if is_remote():
        raise EngineError(
            "this is a Spark Connect session, which cannot run Python functions on RDDs: use a classic cluster (on "
            "Databricks a dedicated one, access mode 'Dedicated'), or distributor=multiprocessing on one machine"
        )
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ or "--master" in os.environ.get("PYSPARK_SUBMIT_ARGS", "")
    try:
        session = SparkSession.builder.getOrCreate() if submitted else _local_session(config.processes())
    except Exception as error:
        if "JAVA_GATEWAY_EXITED" in str(error) or "Java gateway" in str(error) or isinstance(error, FileNotFoundError):
            raise EngineError(
                "Spark could not start Java: install a JRE of version 17 (Debian: default-jre-headless) or set "
                f"JAVA_HOME; {error}"
            ) from error
        raise
    return Cluster(session.sparkContext, session)


def _local_session(processes: int) -> Any:
    """A session of this machine alone, which nobody else can reach."""
    builder = SparkSession.builder.master(f"local[{processes},{TRIES}]").appName("img2dataset-dist")
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.showConsoleProgress": "false",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    with _environment({"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}):
        session = builder.getOrCreate()
    # the JVM outlives sessions: what the environment has become since it started, its workers would not know
    session.sparkContext.environment.update(os.environ)
    return session


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for as long as the JVM starts."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def advice(cluster: Cluster, config: JobConfig) -> list[str]:
    """What the user should know before the job starts."""
    found = []
    if not cluster.ours and config.engine.processes_count is not None:
        found.append(
            f"processes_count={config.engine.processes_count} is not used: the Spark session that is active decides, "
            f"with {cluster.slots()} task(s) at a time"
        )
    window, slots = config.engine.subjob_size, cluster.slots()
    if window < 2 * slots:
        found.append(
            f"subjob_size={window} keeps at most so many shards under way, and {slots} tasks can run at a time; with "
            f"{2 * slots} or more no core waits"
        )
    conf = dict(cluster.context.getConf().getAll())
    if not cluster.is_local and (text := memory_advice(conf, config)):
        found.append(text)
    machines, most = cluster.machines(), config.fetch.max_connections_per_host
    if machines > most and config.input.schedule != "by_host":
        found.append(
            f"max_connections_per_host={most} cannot be divided among {machines} machines: each opens at least one "
            "connection to a host. schedule=by_host keeps the limit"
        )
    if conf.get("spark.speculation") == "true":
        found.append("spark.speculation runs slow tasks twice: their URLs are fetched twice, limits per host or not")
    return found


def memory_advice(conf: Mapping[str, str], config: JobConfig) -> str | None:
    """A warning when an executor's memory outside of its JVM is too small for the Python processes of its tasks.

    Args:
        conf: settings of the Spark session.
        config: the job; `max_buffered_bytes` bounds the bodies that a task holds, `thread_count` how many.
    """
    cores = int(conf.get("spark.executor.cores", "1")) // int(conf.get("spark.task.cpus", "1"))
    decoders = config.engine.transform_processes or TRANSFORM_PROCESSES
    bodies = config.fetch.max_buffered_bytes + 256 * 1024 * config.fetch.thread_count
    needed = max(1, cores) * (TASK_MEMORY + decoders * DECODER_MEMORY + bodies)
    heap = parse_size(conf.get("spark.executor.memory", "1g"))
    factor = float(conf.get("spark.executor.memoryOverheadFactor", "0.1"))
    given = conf.get("spark.executor.memoryOverhead")
    overhead = parse_size(given) if given else max(MIN_OVERHEAD, int(factor * heap))
    overhead += parse_size(conf.get("spark.executor.pyspark.memory", "0")) * max(1, cores)
    if overhead >= needed:
        return None
    return (
        f"an executor has {overhead // MIB} MiB outside of its JVM (spark.executor.memoryOverhead), and its "
        f"{max(1, cores)} task(s) may need {needed // MIB} MiB with max_buffered_bytes="
        f"{config.fetch.max_buffered_bytes} and thread_count={config.fetch.thread_count}: YARN and Kubernetes end "
        f"executors that go beyond. Set spark.executor.memoryOverhead={needed // MIB}m, or lower these options"
    )


def parse_size(text: str) -> int:
    """Bytes of a size as Spark writes it, `384` (MiB), `512m`, `2g`."""
    units = {"b": 1, "k": 2**10, "m": MIB, "g": 2**30, "t": 2**40}
    text = text.strip().lower().removesuffix("b") if text.strip().lower()[-2:-1].isalpha() else text.strip().lower()
    if text and text[-1] in units:
        return int(float(text[:-1]) * units[text[-1]])
    return int(float(text) * MIB)
