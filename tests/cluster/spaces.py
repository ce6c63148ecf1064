"""Namespaces that end with the process that made them, however it ends.

A `Keeper` is process 1 of a pid namespace with a network and mounts of its own. Everything else lives below it. When it
ends, the kernel kills all of that, and with the processes the networks and mounts are gone: nothing has a name outside.
It ends when its stdin closes, which it does when the process that made it dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bare import SBIN, program
from support.processes import processes

STARTED = "started"
HOLD = f"mount -t proc proc /proc; ip link set lo up; echo {STARTED}; while read -r _; do :; done"
"""Of bash: a shell waits for whatever ends below it, so that no zombies are left, and leaves when its stdin closes."""
LATE = 20.0
UNMOUNTED = 200.0
"""Seconds until disks are written back."""


class Space:
    """Namespaces, held by the process `pid`.

    Args:
        process: a chain of nsenter and unshare that says `started` on its stdout. Its last child is the holder.
    """

    def __init__(self, process: subprocess.Popen[str], environment: Mapping[str, str] | None = None) -> None:
        assert process.stdout is not None
        self.process = process
        said = process.stdout.readline()
        if said.strip() != STARTED:
            process.kill()
            raise RuntimeError(f"a namespace did not start: {said}{process.stdout.read()}")
        self.pid = _last_child(process.pid)
        self.environment = {"PATH": SBIN, "LANG": "C.UTF-8", "HOME": "/root", **(environment or {})}

    @property
    def root(self) -> Path:
        """Its root folder, as seen from here."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def alive(self) -> bool:
        """Whether the holder lives."""
        return self.process.poll() is None

    def enter(self, *command: object, cwd: str | Path | None = None) -> list[str]:
        """`command`, inside."""
        there = ["env", "-C", str(cwd)] if cwd else []
        nsenter = [program("nsenter"), f"--target={self.pid}", "--mount", "--net", "--pid", "--uts", "--"]
        return [*nsenter, *there, *map(str, command)]

    def start(
        self,
        command: Sequence[object],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] = subprocess.DEVNULL,
        stdout: int | IO[str] = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """A process inside, leader of a group, with stderr where stdout is."""
        return subprocess.Popen(
            self.enter(*command, cwd=cwd),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env={**self.environment, **(env or {})},
            text=True,
            start_new_session=True,
        )

    def run(
        self,
        *command: object,
        check: bool = True,
        timeout: float = 60.0,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end. What it leaves running holds nobody up."""
        process = subprocess.Popen(
            self.enter(*command, cwd=cwd),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environment, **(env or {})},
            text=True,
            errors="replace",
            start_new_session=True,
        )
        told = " ".join(map(str, command))
        try:
            output, errors = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            output, errors = process.communicate(timeout=LATE)
            raise AssertionError(f"{told}: not done after {timeout:g} s\n{output[-4000:]}\n{errors[-4000:]}") from None
        except BaseException:
            kill_group(process)
            raise
        assert not check or process.returncode == 0, f"{told}: {process.returncode}\n{output[-4000:]}\n{errors[-4000:]}"
        return subprocess.CompletedProcess([*map(str, command)], process.returncode, output, errors)

    def end(self) -> None:
        """Kill the holder, and with it, if it is process 1 of its pid namespace, all that is inside."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(UNMOUNTED)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Keeper(Space):
    """See the module."""

    def __init__(self) -> None:
        command = ["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child=KILL", "--propagation=private"]
        super().__init__(_start([program("unshare"), *command, "bash", "-c", HOLD]))

    def space(self, *binds: tuple[Path, str], hostname: str, environment: Mapping[str, str]) -> Space:
        """A network and mounts of their own within this one; of each pair the first takes the second one's place."""
        mounts = "".join(f'mount --bind "${2 * n + 2}" "${2 * n + 3}"; ' for n in range(len(binds)))
        script = f'hostname "$1"; {mounts}{HOLD}'
        words = [hostname, *(str(word) for pair in binds for word in pair)]
        unshare = ["unshare", "--net", "--mount", "--uts", "--propagation=private", "bash", "-ec", script, "bash"]
        return Space(_start(self.enter(*unshare, *words)), environment)

    def links(self, *lines: str, inside: Space | None = None) -> None:
        """Commands of `ip`, in the network of the keeper or of another; pids are those of the machine."""
        target = f"--net=/proc/{(inside or self).pid}/ns/net"
        command = [program("nsenter"), target, program("ip"), "-batch", "-"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=LATE)
        assert done.returncode == 0, f"{lines}: {done.stderr}"


def kill_group(process: subprocess.Popen[str]) -> None:
    """At once, with all that has not left its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def start_time(pid: int) -> str:
    """When a process began, as /proc tells it; empty when there is none. With the pid it names a process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": SBIN},
        text=True,
        start_new_session=True,
    )


def _last_child(pid: int) -> int:
    """The end of a chain of processes that each only wait for the next."""
    parents = {parent: child for child, (parent, _) in processes().items()}
    while pid in parents:
        pid = parents[pid]
    return pid
