"""The targets of deploy/pssh, as one calls them on the controller of a lab."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from bare import USER
from lab import Host, Lab
from spaces import kill_group
from support import dataset
from support.processes import below, wait_for
from web import DNS, ZONE

ROOT = Path(__file__).resolve().parents[2]
LONG = 400.0
"""Seconds that any target may take."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a target came to."""

    code: int
    said: str
    complained: str
    seconds: float

    @property
    def text(self) -> str:
        """All of it."""
        return f"exit code {self.code}, {self.seconds:.0f} s\n{self.said}\n{self.complained}"

    def ok(self, host: Host) -> list[str]:
        """What its lines of success tell of a host, one a step."""
        return re.findall(rf"^  ok +{re.escape(host.address)} +[\d.]+ s +(.*)$", self.said, re.MULTILINE)


@dataclass(kw_only=True)
class Running:
    """A target that runs on."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def text(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = LONG) -> None:
        """Until it is true; fails when the target ends before."""

        def check() -> bool:
            found = bool(condition())
            assert found or self.process.poll() is None, f"ended before {what}:\n{self.text[-6000:]}"
            return found

        wait_for(check, seconds, f"{what}:\n{self.text[-3000:]}")

    def wait(self, code: int = 0, seconds: float = LONG) -> str:
        """What it said, when it has ended with that exit code."""
        try:
            ended = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end:\n{self.text[-6000:]}") from None
        assert ended == code, f"exit code {ended}:\n{self.text[-6000:]}"
        return self.text

    def interrupt(self) -> None:
        """Ctrl-C: all of its group get it, but for what only leads into the namespace."""
        for pid in below(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) == self.process.pid:
                    os.kill(pid, signal.SIGINT)

    def end(self) -> None:
        """By Ctrl-C, twice if need be: a job on the master would live on when only we were killed."""
        for _ in range(2):
            if self.process.poll() is None:
                self.interrupt()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(20)
        if self.process.poll() is None:
            kill_group(self.process)
            self.process.wait(10)


@final
class Control:
    """The variables are those that every call gets; what is None is not given.

    Args:
        lab: whose controller.
        variables: more of them, and others.
    """

    def __init__(self, lab: Lab, **variables: object) -> None:
        self.lab = lab
        self._variables: dict[str, object] = {
            "SSH_KEY": lab.key,
            "SSH_USER": USER,
            "SSH_OPTS": "-F none",  # not the settings of whoever runs the tests
            "KNOWN_HOSTS": lab.known_hosts,
            "KNOT_ZONES": f"{ZONE}={DNS}",
            "CONNECT_TIMEOUT": 3,
            "CORES": 2,
            "MEMORY": 4096,
            **variables,
        }

    def command(self, target: str, **variables: object) -> list[str]:
        """The call of a target."""
        given = {name: value for name, value in {**self._variables, **variables}.items() if value is not None}
        where = ["-C", str(ROOT)]
        if "deploy/pssh/cluster.mk" not in (ROOT / "Makefile").read_text():
            where += ["-f", "deploy/pssh/cluster.mk"]
        return ["make", *where, target, *(f"{name}={value}".replace("$", "$$") for name, value in given.items())]

    def make(self, target: str, *, code: int | None = 0, timeout: float = LONG, **variables: object) -> Done:
        """Run a target to its end; with code=None any exit code will do."""
        begin = time.monotonic()
        done = self.lab.ctl(*self.command(target, **variables), check=False, timeout=timeout)
        found = Done(code=done.returncode, said=done.stdout, complained=done.stderr, seconds=time.monotonic() - begin)
        assert code is None or done.returncode == code, f"{target}: {found.text[-8000:]}"
        return found

    @contextlib.contextmanager
    def start(self, target: str, log: Path, **variables: object) -> Iterator[Running]:
        """A target that runs until it ends, or the block does."""
        running = Running(process=self.lab.popen(self.command(target, **variables), log=log), log=log)
        try:
            yield running
        finally:
            running.end()

    def master(self, host: Host) -> dict[str, Any]:
        """What the master's page at a host says; empty when there is none."""
        text = self.lab.get(f"http://{host.address}:8080/json/")
        return dict(json.loads(text)) if text else {}

    def alive(self, host: Host) -> list[str]:
        """Addresses of the workers that the master at a host has."""
        return sorted(one["host"] for one in self.master(host).get("workers", []) if one["state"] == "ALIVE")


def ours(host: Host) -> list[str]:
    """Commands that run on a host, except for sshd, and for those that only look."""
    look = r"for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null; echo; done"
    lines = [line.strip() for line in host.exec("bash", "-c", look).stdout.splitlines()]
    return [line for line in lines if line and "sshd" not in line and "/proc/[0-9]" not in line and line[:3] != "tr "]


def facts(host: Host) -> str:
    """What a target that is run again must not change on a host."""
    look = """
        cd /opt/img2dataset; cat /etc/hosts /etc/resolv.conf run/*/*.pid
        find conf -type f -exec sha256sum {} + | sort
        readlink spark; stat -c '%n %i %Y' img2dataset.pex spark conf run
        dpkg-query -W | sha256sum
    """
    return host.exec("bash", "-ec", look).stdout


def receipts(folder: Path) -> int:
    """How many shards are done."""
    return len(dataset.done(folder)) if folder.exists() else 0
