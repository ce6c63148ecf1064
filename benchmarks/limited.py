"""Run a command to its end or to a limit of time or memory, and watch the memory of all its processes meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.2
"""Seconds between two looks at the processes."""
PSS_SHARE = 0.02
"""Of one core, to add up shared pages: the kernel has to walk through all of them, 10 ms for a large process."""
REAPER = Path(__file__).with_name("reaper.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Resident memory at one moment, in 10^6 bytes: of the largest process, and of all of them together.

    What processes share counts in each of them. `gauge` is whatever the caller has measured besides. `pss_mb`: of all
    together, with what they share counted once; it is looked at less often, and None in between.
    """

    seconds: float
    largest_mb: float
    total_mb: float
    gauge: float
    pss_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; None when a limit ended it.
        limit: the limit that ended it: "time", "memory" or "".
        wall: seconds from start to end.
        cpu: CPU seconds of all its processes; when a limit ended it, as they were at the last look before.
        peak_mb: the most that any one of its processes ever had resident, by the kernel's own account, in 10^6 bytes.
        orphans: processes that outlived their parents; they are in `cpu` and `peak_mb` too.
        samples: memory over time.
    """

    code: int | None
    limit: str
    wall: float
    cpu: float
    peak_mb: float
    orphans: int
    samples: list[Sample]

    @property
    def pss_mb(self) -> float:
        """The most that all processes together had at a look, with what they share counted once; 10^6 bytes."""
        return max((each.pss_mb for each in self.samples if each.pss_mb is not None), default=0.0)

    @property
    def how(self) -> str:
        """For people."""
        return f"ended by the {self.limit} limit" if self.limit else f"exit code {self.code}"


@dataclass(slots=True)
class Watch:
    """Looks at the processes below `pid` from a thread of its own, and ends them when a limit is passed."""

    pid: int
    seconds: float
    megabytes: float
    gauge: Callable[[], float]
    start: float = field(default_factory=time.perf_counter)
    peak_mb: float = 0.0
    cpu: float = 0.0
    limit: str = ""
    samples: list[Sample] = field(default_factory=list)
    pss_due: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until `over` is set."""
        while not self.over.wait(INTERVAL):
            members = family(self.pid)[1:]
            sizes = [size for size in map(_memory_mb, members) if size[0]]
            passed = time.perf_counter() - self.start
            if sizes:
                now = [size[0] for size in sizes]
                self.samples.append(
                    Sample(
                        seconds=round(passed, 2), largest_mb=round(max(now), 1), total_mb=round(sum(now), 1),
                        gauge=self.gauge(), pss_mb=self._pss_mb(members),
                    )
                )  # fmt: skip
                self.peak_mb = max(self.peak_mb, *(size[1] for size in sizes))
            if not self.limit:
                self.cpu = max(self.cpu, sum(map(_cpu_seconds, members)))
            if not self.limit and (passed > self.seconds or self.peak_mb > self.megabytes):
                self.limit = "time" if passed > self.seconds else "memory"
                end(self.pid)

    def _pss_mb(self, members: Sequence[int]) -> float | None:
        start = time.perf_counter()
        if start < self.pss_due:
            return None
        total = sum(map(_pss_mb, members))
        self.pss_due = start + (time.perf_counter() - start) / PSS_SHARE
        return round(total, 1)


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
    report = folder / "usage.json"
    report.unlink(missing_ok=True)
    wrapped = [sys.executable, "-I", "-S", str(REAPER), str(report), *command]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            wrapped, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=dict(env), start_new_session=True
        )
        watch = Watch(process.pid, seconds, megabytes, gauge)
        thread = threading.Thread(target=watch.run, daemon=True)
        thread.start()
        try:
            process.wait()
            wall = time.perf_counter() - watch.start
        except BaseException:
            end(process.pid)
            raise
        finally:
            watch.over.set()
            thread.join()
    if watch.limit or not report.exists():
        return Ended(
            code=None if watch.limit else process.returncode, limit=watch.limit, wall=wall, cpu=watch.cpu,
            peak_mb=watch.peak_mb, orphans=0, samples=watch.samples,
        )  # fmt: skip
    return Ended(limit="", samples=watch.samples, **json.loads(report.read_text()))


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


def _pss_mb(pid: int) -> float:
    """What a process has resident, a page that n processes share counted as 1/n, in 10^6 bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1]) * 1024 / 1e6
    return 0.0
