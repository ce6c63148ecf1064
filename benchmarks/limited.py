"""Run a command to its end or to a limit of time or memory, and watch the memory of all its processes meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Resident memory at one moment, in 10^6 bytes: of the largest process, and of all of them together.

    What processes share counts in each of them. `gauge` is whatever the caller has measured besides.
    """

    seconds: float
    largest_mb: float
    total_mb: float
    gauge: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; None when a limit ended it.
        limit: the limit that ended it: "time", "memory" or "".
        wall: seconds from start to end.
        cpu: CPU seconds of its processes; when a limit ended it, as they were at the last look before.
        peak_mb: the most that any one of its processes ever had resident (VmHWM), in 10^6 bytes.
        samples: memory over time.
    """

    code: int | None
    limit: str
    wall: float
    cpu: float
    peak_mb: float
    samples: list[Sample]

    @property
    def how(self) -> str:
        """For people."""
        return f"ended by the {self.limit} limit" if self.limit else f"exit code {self.code}"


@dataclass(slots=True)
class Watch:
    """Looks at the processes of a command from a thread of its own, and ends them when a limit is passed."""

    pid: int
    seconds: float
    megabytes: float
    gauge: Callable[[], float]
    start: float = field(default_factory=time.perf_counter)
    peak_mb: float = 0.0
    cpu: float = 0.0
    limit: str = ""
    samples: list[Sample] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until `over` is set."""
        while not self.over.wait(INTERVAL):
            members = family(self.pid)
            sizes = [size for size in map(_memory_mb, members) if size[0]]
            passed = time.perf_counter() - self.start
            if sizes:
                now = [size[0] for size in sizes]
                self.samples.append(
                    Sample(
                        seconds=round(passed, 2), largest_mb=round(max(now), 1), total_mb=round(sum(now), 1),
                        gauge=self.gauge(),
                    )
                )  # fmt: skip
                self.peak_mb = max(self.peak_mb, *(size[1] for size in sizes))
            if not self.limit:
                self.cpu = max(self.cpu, sum(map(_cpu_seconds, members)))
            if not self.limit and (passed > self.seconds or self.peak_mb > self.megabytes):
                self.limit = "time" if passed > self.seconds else "memory"
                end(self.pid)


def execute(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    *,
    seconds: float,
    megabytes: float = float("inf"),
    gauge: Callable[[], float] = float,
) -> Ended:
    """Run `command` in `folder`, which gets its `log.txt`; beyond a limit it is ended with all its processes."""
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=dict(env),
            start_new_session=True,
        )  # fmt: skip
        watch = Watch(process.pid, seconds, megabytes, gauge)
        thread = threading.Thread(target=watch.run, daemon=True)
        thread.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)  # its usage includes that of all children it waited for
            wall = time.perf_counter() - watch.start
        except BaseException:
            end(process.pid)
            raise
        finally:
            watch.over.set()
            thread.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        code=None if watch.limit else process.returncode, limit=watch.limit, wall=wall,
        cpu=watch.cpu if watch.limit else usage.ru_utime + usage.ru_stime, peak_mb=watch.peak_mb, samples=watch.samples,
    )  # fmt: skip


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as far as their parents still live."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def end(pid: int) -> None:
    """Kill the process group that `pid` leads, and its descendants, which may have groups of their own."""
    doomed = family(pid)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    for each in doomed[1:]:
        with contextlib.suppress(OSError):
            os.kill(each, signal.SIGKILL)


def _cpu_seconds(pid: int) -> float:
    """What a process and those of its children that have ended have used so far; 0 when it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _memory_mb(pid: int) -> tuple[float, float]:
    """What a process has resident now, and the most it ever had, in 10^6 bytes; (0, 0) when it is gone."""
    kilobytes = {"VmRSS": 0.0, "VmHWM": 0.0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in kilobytes:
                kilobytes[name] = float(value.split()[0])
    return kilobytes["VmRSS"] * 1024 / 1e6, kilobytes["VmHWM"] * 1024 / 1e6
