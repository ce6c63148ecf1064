"""A Ray cluster on this machine, of real processes, and drivers that use it.

    with RayCluster(folder) as cluster:              a head and a second node, of one CPU each
        driver = cluster.command(options)            the command, told where the cluster is
        driver = cluster.script(options)             a script of a user's, who has called ray.init: `main` below
        driver.wait_for(lambda: ...)                 fails at once when the driver ends meanwhile
        cluster.workers(node), cluster.raylet(node)  process ids, to be killed
        cluster.heal()                               starts what was killed

The nodes are two machines for Ray: they have the addresses 127.0.0.2 and 127.0.0.3. Who wants to use the cluster needs
a token that only its processes have.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.processes import Driver, below, free_port, wait_for

TESTS = Path(__file__).parents[1]
HEAD, SECOND = "127.0.0.2", "127.0.0.3"


def environment(**more: str) -> dict[str, str]:
    """For a process that uses Ray, and finds the plug-ins of the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return clean | {"PYTHONPATH": str(TESTS), "RAY_USAGE_STATS_ENABLED": "0"} | more


class RayCluster:
    """See the module's docstring."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temp = tempfile.mkdtemp(prefix="rc-", dir="/tmp")  # sockets in it may have 107 characters, with all
        self.address = f"{HEAD}:{free_port(HEAD)}"
        self._token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._drivers: list[Driver] = []
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self.heal()
        except BaseException:
            self.close()
            raise

    def environment(self, **more: str) -> dict[str, str]:
        """For a process that uses this cluster."""
        return environment(**self._token, RAY_ADDRESS=self.address, **more)

    def start(self, node: str) -> None:
        """A node that was stopped, or the first of its name."""
        self._log_away(node)
        if node == HEAD:
            port = self.address.rpartition(":")[2]
            where = ["--head", "--port", port, "--include-dashboard=false", "--temp-dir", self._temp]
        else:
            where = ["--address", self.address]
        sizes = ["--num-cpus", "1", "--object-store-memory", "100000000"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--node-ip-address", node, *where, *sizes]
        env = environment(**self._token)
        with (self._folder / f"{node}.log").open("ab") as log:
            self._nodes[node] = subprocess.Popen(
                [*command, "--disable-usage-stats", "--block"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (one call of libc's)
            )  # fmt: skip
        with contextlib.suppress(AssertionError):  # the log tells more
            wait_for(lambda: self._log(node).count("--block") or self._nodes[node].poll() is not None)
        assert self._nodes[node].poll() is None, self._log(node)

    def _log(self, node: str) -> str:
        return (self._folder / f"{node}.log").read_text(errors="replace")

    def heal(self) -> None:
        """Have both nodes, all free, and no driver."""
        for driver in self._drivers:
            driver.kill()
        self._drivers.clear()
        for node in (HEAD, SECOND):
            if node not in self._nodes or self.raylet(node) is None:
                self.stop(node)
                self.start(node)
        wait_for(lambda: not self.workers(HEAD, busy=True) + self.workers(SECOND, busy=True), what="free nodes")

    def _log_away(self, node: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._folder / f"{node}.log").rename(self._folder / f"{node}-{time.monotonic_ns()}.log")

    def command(self, options: Mapping[str, Any], **env: str) -> Driver:
        """The real command, that connects for itself."""
        flags = [f"--{name}={value}" for name, value in options.items()]
        return self.drive([sys.executable, "-m", "img2dataset_dist", *flags], **env)

    def script(self, options: Mapping[str, Any], **env: str) -> Driver:
        """A user's script, which is connected when it calls us."""
        return self.drive([sys.executable, str(Path(__file__)), json.dumps(dict(options))], **env)

    def drive(self, command: list[str], **env: str) -> Driver:
        """Any process that uses the cluster."""
        log = self._folder / f"driver-{time.monotonic_ns()}.log"
        self._drivers.append(Driver(command, self.environment(**env), log))
        return self._drivers[-1]

    def raylet(self, node: str) -> int | None:
        """The process that is the node; None when it is gone."""
        family = below(self._nodes[node].pid)
        return next((pid for pid, command in family.items() if "raylet/raylet" in command), None)

    def workers(self, node: str, *, busy: bool = True) -> list[int]:
        """Processes of a node that hold a pipeline: they have processes of their own, which decode."""
        raylet = self.raylet(node)
        return [] if raylet is None else workers(raylet, busy=busy)

    def stop(self, node: str) -> None:
        """End a node, and all of its processes, at once."""
        if (process := self._nodes.pop(node, None)) is not None:
            everybody = [process.pid, *below(process.pid)]
            for pid in everybody:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End everything."""
        for driver in self._drivers:
            driver.kill()
        for node in list(self._nodes):
            self.stop(node)
        shutil.rmtree(self._temp, ignore_errors=True)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end_with_parent() -> None:
    """SIGTERM when the tests are killed; `ray start --block` ends its node then."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def workers(ancestor: int, *, busy: bool = True) -> list[int]:
    """Ray's worker processes below another one; with `busy` those that run a task of ours."""
    mark = "ray::img2dataset" if busy else "ray::"
    return sorted(pid for pid, command in below(ancestor).items() if command.startswith(mark))


def impatient() -> None:
    """For a `worker_process_setup_hook`: what takes minutes takes seconds, and the first fetch thread hangs.

    The file that HANG_ONCE names says whether one did.
    """
    from img2dataset_dist import pipeline  # noqa: PLC0415 (all those of the worker)
    from img2dataset_dist.engines import cluster_task, ray  # noqa: PLC0415
    from img2dataset_dist.fetchers.curl import CurlFetcher  # noqa: PLC0415

    cluster_task.patience = lambda _config: 3.0  # type: ignore[attr-defined]
    ray.IDLE_SECONDS = 2.0
    pipeline.LIVELY = 1.0
    fill = CurlFetcher._fill

    def hang_once(self: CurlFetcher, *args: Any) -> None:
        with contextlib.suppress(KeyError, FileExistsError):
            Path(os.environ["HANG_ONCE"]).touch(exist_ok=False)
            time.sleep(3600)
        fill(self, *args)

    CurlFetcher._fill = hang_once  # type: ignore[method-assign]


def main() -> None:
    """A script as users write them: `python ray_cluster.py JSON`, with the options."""
    import ray  # noqa: PLC0415 (only scripts)

    from img2dataset_dist import cli  # noqa: PLC0415

    ray.init(logging_level="ERROR")
    code = cli.run([f"--{name}={value}" for name, value in json.loads(sys.argv[1]).items()])
    print(f"Ray still answers: {ray.get(ray.remote(lambda n: n + 1).remote(1))}")
    sys.exit(code)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # a script's folder, where a module may have the name of a library
    main()
