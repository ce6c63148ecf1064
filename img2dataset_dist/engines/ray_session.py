"""The Ray that a job runs on, ours or the user's, and what we know of the cluster behind it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import EngineError

LOOK_SECONDS = 5.0
"""How long what the cluster said of itself is taken for true."""

OBJECT_STORE = 100 * 2**20
"""Bytes for the object store of a Ray of ours: only jobs and receipts pass through it. Ray wants 75 MiB at least."""

PROBE_SECONDS = 10.0
LOCAL_ADVICE = "RAY_ADDRESS=local starts a Ray on this machine alone"

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""What Ray should not print beside our progress; workers' own messages are in its log folder."""


class Cluster:
    """A Ray that is connected.

    Args:
        connected: it was us who connected to it; else it is left as it is.
        is_local: it was us who started it, for this job alone.
    """

    def __init__(self, *, connected: bool, is_local: bool) -> None:
        self.connected = connected
        self.is_local = is_local
        self._looked = -LOOK_SECONDS
        self._slots = self._machines = 1
        self._cpus = 0
        self.busy_at_start = _cpus(ray.available_resources()) < 1

    @property
    def path(self) -> tuple[str, ...]:
        """See `ClusterJob.path`."""
        return tuple(sys.path) if self.is_local else ()

    def slots(self) -> int:
        """How many tasks of one CPU run at the same time when nobody else has any."""
        self._look()
        return self._slots

    def machines(self) -> int:
        """On how many machines; the most that were seen."""
        self._look()
        return self._machines

    def cpus(self) -> int:
        """CPUs of the nodes that live; there may be none for now."""
        self._look()
        return self._cpus

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        nodes = [node for node in ray.nodes() if node["Alive"] and _cpus(node["Resources"]) >= 1]
        self._cpus = sum(_cpus(node["Resources"]) for node in nodes)
        self._slots = max(1, self._cpus)
        self._machines = max(self._machines, len({node["NodeManagerAddress"] for node in nodes}))

    def close(self) -> None:
        """End what we made: the connection, and with it a Ray that is ours."""
        if self.connected:
            ray.shutdown()


def _cpus(resources: dict[str, Any]) -> int:
    return int(resources.get("CPU", 0))


def connect(config: JobConfig) -> Cluster:
    """The Ray that is initialized, else the one that Ray itself would find, else a local one of ours.

    Raises:
        EngineError: there should be a cluster and it cannot be reached, or it has another Ray or Python.
    """
    if ray.is_initialized():
        return Cluster(connected=False, is_local=False)
    _probe()
    try:
        with _sigterm_kept():
            is_local = "://" not in os.environ.get("RAY_ADDRESS", "") and _start(config.processes())
            if not is_local:
                ray.init(**QUIET)
    except (ConnectionError, RuntimeError, ValueError, OSError, ImportError, ray.exceptions.RayError) as error:
        ray.shutdown()
        address = os.environ.get("RAY_ADDRESS")
        where = f"RAY_ADDRESS={address}" if address else "no RAY_ADDRESS is set"
        token = "A cluster may want its token, in RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token. " if address else ""
        raise EngineError(f"cannot use Ray ({where}): {' '.join(str(error).split())}. {token}{LOCAL_ADVICE}") from error
    return Cluster(connected=True, is_local=is_local)


def _probe() -> None:
    """Say within seconds that nobody answers where a cluster should be: Ray tries for minutes."""
    address, name = os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS"
    if address in ("", "auto"):
        name = os.path.join(_temp(), "ray", "ray_current_cluster")
        with contextlib.suppress(OSError), open(name) as file:
            address = file.read().strip()
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        stale = "" if name == "RAY_ADDRESS" else "`ray stop` forgets a cluster that has ended. "
        raise EngineError(
            f"no Ray cluster answers at {address}, which {name} names ({error}). {stale}{LOCAL_ADVICE}"
        ) from error


def _temp() -> str:
    """Where Ray keeps its files."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 (Ray's default)


def _start(processes: int) -> bool:
    """Start a Ray of this machine alone, which nobody else can reach; False where Ray finds a cluster to use."""
    with _loopback(), _environment(_settings()):
        try:
            ray.init(num_cpus=processes, object_store_memory=OBJECT_STORE, include_dashboard=False, **QUIET)
        except ValueError as error:
            if "existing cluster" not in str(error):
                raise
            return False
    return True


def _settings() -> dict[str, str]:
    """Environment that Ray's processes are started with."""
    settings = {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),  # what a pex added is not in it
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # our workers run this Python, there is nothing to make for them
    }
    if not os.access(os.path.expanduser("~"), os.W_OK):  # else Ray writes a token there by itself
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return settings


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for as long as Ray's processes start."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let a Ray that starts listen on 127.0.0.1 alone: it would take this machine's address, and run what is sent.

    It is Ray's own setting for other systems, read from the environment when ray is imported.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself; ours ends the job in order, with the right exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def advice(cluster: Cluster, config: JobConfig) -> list[str]:
    """What the user should know before the job starts."""
    found = []
    if not cluster.is_local and config.engine.processes_count is not None:
        found.append(
            f"processes_count={config.engine.processes_count} is not used: the Ray that is there decides, with "
            f"{cluster.slots()} task(s) at a time"
        )
    window, slots = config.engine.subjob_size, cluster.slots()
    if window < 2 * slots:
        found.append(
            f"subjob_size={window} keeps at most so many shards under way, and {slots} tasks can run at a time; with "
            f"{2 * slots} or more no core waits"
        )
    machines, most = cluster.machines(), config.fetch.max_connections_per_host
    if machines > most and config.input.schedule != "by_host":
        found.append(
            f"max_connections_per_host={most} cannot be divided among {machines} machines: each opens at least one "
            "connection to a host. schedule=by_host keeps the limit"
        )
    return found
