"""Processes of this machine: who lives, who descends from whom, and drivers whose output goes to a file."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

UNTIL = 200.0
"""Seconds that anything may take before a test gives up waiting for it."""


def wait_for(condition: Callable[[], Any], seconds: float = UNTIL, what: str = "") -> Any:
    """What `condition` returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain{what and ' for '}{what}"
        time.sleep(0.05)
    return found


def free_port(host: str) -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command of all that live, by process id."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state not in "ZX":
                found[int(entry)] = int(parent), command
    return found


def below(*ancestors: int) -> dict[int, str]:
    """Commands of all that descend from these, by process id."""
    everybody, family = processes(), set(ancestors)
    while more := {pid for pid, (parent, _) in everybody.items() if parent in family} - family:
        family |= more
    return {pid: everybody[pid][1] for pid in family - set(ancestors) if pid in everybody}


def alive(pid: int) -> bool:
    return pid in processes()


class Driver:
    """A process that runs a job, in a group of its own."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=dict(env)
            )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, when it has ended."""
        return self._process.poll()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], Any], what: str = "") -> Any:
        """What `condition` returns once it is true; fails when the driver ends before."""

        def check() -> Any:
            found = condition()
            assert found or self._process.poll() is None, f"the driver has ended:\n{self.output[-6000:]}"
            return found

        return wait_for(check, what=what)

    def wait(self, code: int | None = 0, seconds: float = UNTIL) -> str:
        """Its output, when it has ended with that exit code."""
        try:
            ended = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver does not end:\n{self.output[-6000:]}") from None
        assert code is None or ended == code, f"exit code {ended}:\n{self.output[-6000:]}"
        return self.output

    def kill(self) -> None:
        """At once, with its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
