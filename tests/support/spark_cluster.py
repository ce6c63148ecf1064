"""A Spark standalone cluster on this machine, of real processes, and drivers that use it.

    with SparkCluster(folder, "4") as cluster:       master and two workers of one core each
        driver = cluster.submit(options)             a script of a user's, who made a session: `main` below
        driver.wait_for(lambda: ...)                 fails at once when the driver ends meanwhile
        cluster.executors(), cluster.python_workers()    process ids, to be killed
        cluster.heal()                               starts what was killed

Master and workers are started from the pyspark that is installed, as the shell scripts of a Spark distribution do.
"3.5" stands for the one that `make venv-tests` puts beside the interpreter. All listens on 127.0.0.1 only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.processes import UNTIL, below, processes, wait_for

from img2dataset_dist import storage
from img2dataset_dist.model import Sample
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.webdataset import WebDatasetWriter

TESTS = Path(__file__).parents[1]
HOST = "127.0.0.1"
OLD = Path(sys.prefix) / "spark-3.5"
VERSIONS = ("4", "3.5")
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"
"""For JVMs that live for seconds."""

CONF = {
    "spark.app.name": "a-script",
    "spark.executor.cores": "1",
    "spark.executor.memory": "512m",
    "spark.driver.memory": "512m",
    "spark.driver.host": HOST,
    "spark.driver.bindAddress": HOST,
    "spark.ui.showConsoleProgress": "false",
    # what is lost is noticed within seconds
    "spark.network.timeout": "20s",
    "spark.network.timeoutInterval": "5s",
    "spark.storage.blockManagerHeartbeatTimeoutMs": "20s",
    "spark.executor.heartbeatInterval": "2s",
}


def have(version: str) -> bool:
    """Whether this pyspark is installed."""
    return importlib.util.find_spec("pyspark") is not None if version == "4" else OLD.is_dir()


def environment(version: str, **more: str) -> dict[str, str]:
    """For a process that uses this pyspark, and finds the plug-ins of the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    path = [*([str(OLD)] if version == "3.5" else []), str(TESTS)]
    own = {
        "PYTHONPATH": os.pathsep.join(path),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": HOST,
        "SPARK_DAEMON_MEMORY": "256m",
        "JAVA_TOOL_OPTIONS": QUICK_START,
    }
    return clean | own | more


def ask(url: str) -> Any:
    """What a REST service of Spark's says; None while nobody answers."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())
    return None


def free_port(preferred: int = 0) -> int:
    """A port that nobody listens on: the preferred one, or any."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise RuntimeError("there is no free port")


class Driver:
    """A process that runs a job; its output goes to a file.

    Attributes:
        ui: port of its Spark UI.
    """

    def __init__(self, command: list[str], env: Mapping[str, str], folder: Path, ui: int) -> None:
        self.log = folder / f"driver-{time.monotonic_ns()}.log"
        self.ui = ui
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=dict(env)
            )
        self.pid = self._process.pid

    def about(self, what: str) -> Any:
        """What the REST service of its Spark UI says: jobs, stages, executors; None while it does not answer."""
        applications = ask(f"http://{HOST}:{self.ui}/api/v1/applications")
        return applications and ask(f"http://{HOST}:{self.ui}/api/v1/applications/{applications[0]['id']}/{what}")

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def jvm(self) -> int:
        """Its JVM, the one that holds the Spark context."""
        return next(pid for pid, command in below(self.pid).items() if "deploy.SparkSubmit" in command)

    def send(self, number: signal.Signals) -> None:
        """To the interpreter alone, not to its JVM."""
        self._process.send_signal(number)

    def wait_for(self, condition: Callable[[], Any], what: str = "") -> Any:
        """What `condition` returns once it is true; fails when the driver ends before."""

        def check() -> Any:
            found = condition()
            assert found or self._process.poll() is None, f"the driver has ended:\n{self.output[-6000:]}"
            return found

        return wait_for(check, what=what)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait_briefly(self, seconds: float) -> None:
        """For its end, so long at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def wait(self, code: int | None = 0, seconds: float = UNTIL) -> str:
        """Its output as one line, when it has ended with that exit code."""
        try:
            ended = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver does not end:\n{self.output[-6000:]}") from None
        assert code is None or ended == code, f"exit code {ended}:\n{self.output[-6000:]}"
        return " ".join(self.output.split())

    def kill(self) -> None:
        """The interpreter and its JVM, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def user_script(folder: Path, version: str, options: Mapping[str, Any], conf: Mapping[str, str]) -> Driver:
    """`main` below in a process of its own. `conf` says at least where: `spark.master`."""
    ui = free_port(4040)
    job = {"conf": {**CONF, "spark.ui.port": str(ui), **conf}, "options": dict(options)}
    return Driver([sys.executable, str(Path(__file__)), json.dumps(job)], environment(version), folder, ui)


class SparkCluster:
    """See the module's docstring."""

    def __init__(self, folder: Path, version: str, workers: int = 2) -> None:
        home = OLD if version == "3.5" else Path(importlib.util.find_spec("pyspark").origin).parents[1]  # type: ignore[union-attr,arg-type]
        self.version = version
        self._home = home / "pyspark"
        self._folder = folder
        self._port, self.webui = free_port(), free_port(8080)
        self.url = f"spark://{HOST}:{self._port}"
        self._drivers: list[Driver] = []
        ports = ["--host", HOST, "--port", str(self._port), "--webui-port", str(self.webui)]
        self._master = self._start("master.Master", *ports)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._wanted = workers
        try:
            wait_for(lambda: ask(f"http://{HOST}:{self.webui}/json/"), what="the master")
            self.heal()
        except BaseException:
            self.close()
            raise

    def _start(self, role: str, *arguments: str, host: str = HOST) -> subprocess.Popen[bytes]:
        command = [str(self._home / "bin" / "spark-class"), f"org.apache.spark.deploy.{role}", *arguments]
        env = environment(self.version) | {"SPARK_HOME": str(self._home), "SPARK_LOCAL_IP": host}
        env["SPARK_WORKER_DIR"] = str(self._folder / "work")
        with (self._folder / "cluster.log").open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env
            )

    def add_worker(self) -> None:
        """One more machine, so to say, of one core."""
        host = f"127.0.0.{len(self._workers) + 1}"  # Spark tries a slow task again only on another host
        arguments = ["--host", host, "--port", str(free_port()), "--webui-port", str(free_port())]
        self._workers.append(
            self._start("worker.Worker", "--cores", "1", "--memory", "600m", *arguments, self.url, host=host)
        )

    def heal(self) -> None:
        """Have as many workers as at the start, all free, and no application."""
        for driver in self._drivers:
            driver.kill()
        self._drivers.clear()
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        for worker in self._workers[self._wanted :]:
            _end(worker)
        del self._workers[self._wanted :]
        while len(self._workers) < self._wanted:
            self.add_worker()
        wait_for(lambda: len(self.alive_workers()) == self._wanted and not self.state()["activeapps"], what="workers")

    def state(self) -> dict[str, Any]:
        """What the master says of itself."""
        state: dict[str, Any] = ask(f"http://{HOST}:{self.webui}/json/") or {"workers": [], "activeapps": []}
        return state

    def alive_workers(self) -> list[dict[str, Any]]:
        """What the master says of its workers."""
        return [worker for worker in self.state()["workers"] if worker["state"] == "ALIVE"]

    def submit(self, options: Mapping[str, Any], conf: Mapping[str, str] | None = None) -> Driver:
        """A user's script, which has made its session when it calls us."""
        driver = user_script(self._folder, self.version, options, {"spark.master": self.url, **(conf or {})})
        self._drivers.append(driver)
        return driver

    def command(self, options: Mapping[str, Any]) -> Driver:
        """The real command, below spark-submit so to say: the session is ours."""
        ui = free_port(4040)
        settings = [f"--conf {name}={value}" for name, value in {**CONF, "spark.ui.port": ui}.items()]
        submit = " ".join(["--master", self.url, *settings, "pyspark-shell"])
        flags = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "img2dataset_dist", *flags]
        self._drivers.append(Driver(command, environment(self.version, PYSPARK_SUBMIT_ARGS=submit), self._folder, ui))
        return self._drivers[-1]

    def start(self, command: list[str]) -> Driver:
        """Any other driver, which brings its own settings."""
        env = environment(self.version, PYSPARK_SUBMIT_ARGS="--driver-memory 512m pyspark-shell")
        self._drivers.append(Driver(command, env, self._folder, 4040))
        return self._drivers[-1]

    def worker_pids(self) -> list[int]:
        """The Worker processes; each leads a group, to which its executors belong."""
        return [worker.pid for worker in self._workers if worker.poll() is None]

    def executors(self) -> list[int]:
        """JVMs that run tasks."""
        family = below(*self.worker_pids())
        return [pid for pid, command in family.items() if "CoarseGrainedExecutorBackend" in command]

    def python_workers(self, executors: list[int] | None = None) -> list[int]:
        """The Python processes in which tasks run."""
        return python_workers(set(self.executors() if executors is None else executors))

    def close(self) -> None:
        """End everything."""
        for driver in self._drivers:
            driver.kill()
        for process in [*self._workers, self._master]:
            _end(process)

    def __enter__(self) -> SparkCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """With its group: an executor belongs to that of its worker."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def python_workers(jvms: set[int]) -> list[int]:
    """Python processes of these JVMs that run tasks: forks of pyspark's daemon."""
    family = {pid for pid, command in below(*jvms).items() if "-m pyspark.daemon" in command}
    return sorted(pid for pid, (parent, _) in processes().items() if pid in family and parent in family)


class Signed(WebDatasetWriter):
    """Leaves a note of the process that wrote a shard, in the folder NOTES."""

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        Path(os.environ["NOTES"], f"{shard_name}.{os.getpid()}").touch()
        super().__init__(opener, shard_name, layout)


class Straggler(WebDatasetWriter):
    """The first shard is written when there are as many receipts as OTHERS says, of all others for example."""

    def write(self, sample: Sample) -> None:
        """Waits within a row, so that the shard is under way."""
        if sample.item.shard_id == 0:
            wait_for(lambda: len(list(Path(os.environ["OUT"]).glob("*_stats.json"))) >= int(os.environ["OTHERS"]))
        super().write(sample)


STEPS = {
    "before a row is written": None,
    "before the claim": ("create_whole", re.compile(r"_img2dataset/commit/(\d+)\.json")),
    "before publishing": ("move_file", re.compile(r"_img2dataset/staging/(\d+)\.")),
    "before the receipt": ("write_whole", re.compile(r"(\d+)_stats\.json")),
}
"""Steps of an attempt, and the calls of `Folder` by which they begin."""


class Slow(WebDatasetWriter):
    """Once at each of `STEPS`, an attempt waits there until another attempt has done the shard, and then goes on.

    One attempt waits at a time, so that another core is free. Who waited leaves a note in the folder NOTES.
    """

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        self._shard = shard_name
        if storage.Folder.create_whole.__name__ == "create_whole":
            for step, call in STEPS.items():
                if call is not None:
                    _hook(step, *call)
        super().__init__(opener, shard_name, layout)

    def write(self, sample: Sample) -> None:
        """The first row waits."""
        _be_slow("before a row is written", self._shard)
        super().write(sample)


def _hook(step: str, name: str, pattern: re.Pattern[str]) -> None:
    real = getattr(storage.Folder, name)

    def slowly(folder: storage.Folder, path: str, *args: Any) -> Any:
        if found := pattern.match(path):
            _be_slow(step, found[1])
        return real(folder, path, *args)

    setattr(storage.Folder, name, slowly)


def _be_slow(step: str, shard: str) -> None:
    notes, out = Path(os.environ["NOTES"]), Path(os.environ["OUT"])
    with contextlib.suppress(FileExistsError):
        turn = os.open(notes / "turn", os.O_CREAT | os.O_EXCL)
        os.close(turn)
        try:
            (notes / step).touch(exist_ok=False)
            wait_for((out / f"{shard}_stats.json").exists, what=f"another attempt at shard {shard}")
        finally:
            (notes / "turn").unlink()


def main() -> None:
    """A script as users write them: `python spark_cluster.py JSON` with `conf` and `options`."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 (only the driver has the right one on its path)

    from img2dataset_dist import cli  # noqa: PLC0415

    job = json.loads(sys.argv[1])
    builder = SparkSession.builder
    for name, value in job["conf"].items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    code = cli.run([f"--{name}={value}" for name, value in job["options"].items()])
    print(f"the session still answers: {session.sparkContext.parallelize(range(3), 1).sum()}")
    session.stop()
    sys.exit(code)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # a script's folder, where a module may have the name of a library
    main()
