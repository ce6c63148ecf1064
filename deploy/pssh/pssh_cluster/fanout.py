"""Run a step on many hosts at once, through parallel-ssh.

The step is a script of remote/, which goes to `bash -s` on stdin, after the settings that it needs as quoted
assignments: nothing of it is on a command line, here or there. A host that is this machine gets the same script in a
shell of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pssh_cluster import ssh
from pssh_cluster.errors import ClusterError
from pssh_cluster.hosts import Host, distinct, is_local, own_address
from pssh_cluster.settings import Settings

REMOTE = Path(__file__).resolve().parent.parent / "remote"
GRACE = 10  # seconds that a step has to end by itself on the host, before its ssh is killed here
UNREACHABLE = 255  # exit code of ssh
TIMED_OUT = (124, 137)  # exit codes of timeout(1)

_REPORT = re.compile(r"\[\d+\] \S+ \[(SUCCESS|FAILURE)\] (\S+) ?(.*)")
_FACT = re.compile(r"@([a-z_]+)=(.*)")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step came to on one host."""

    host: Host
    ok: bool
    seconds: float
    text: str = ""
    """What the script printed, without its facts."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Its lines `@name=value`."""
    why: str = ""
    """In case of failure: the reason."""
    unreachable: bool = False
    """Whether nothing was done there, because ssh did not get there."""
    at: float = field(default_factory=time.time, compare=False)
    """When it was there, by the clock of this machine."""

    @property
    def note(self) -> str:
        """The last line."""
        return next((line for line in reversed(self.text.splitlines()) if line.strip()), "")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A script with its settings and how long it may take."""

    script: str
    values: Mapping[str, str]
    timeout: int
    title: str = ""
    quiet: bool = False
    show: Callable[[Outcome], str] = lambda outcome: outcome.note

    @property
    def files(self) -> tuple[str, ...]:
        """Of remote/: what all need, then those that the script is made of."""
        return ("common.sh", *(f"{name}.sh" for name in self.script.split()))

    def payload(self, settings: Settings, address: str = "") -> str:
        """What goes to the shell. It is parsed to its end before it begins, and reads nothing more from there."""
        common = {"REMOTE_DIR": settings.remote_dir, "CLUSTER": settings.cluster, "ADDRESS": address}
        assigned = "\n".join(f"{name}={shlex.quote(value)}" for name, value in {**common, **self.values}.items())
        body = "\n".join((REMOTE / name).read_text() for name in self.files)
        return f"set -eu\n{assigned}\nmain() {{\n{body}\n}}\nmain </dev/null 2>&1\n"


def run(settings: Settings, hosts: Sequence[Host], job: Job, peers: Sequence[Host] = ()) -> list[Outcome]:
    """The outcomes of a job, in the order of the hosts, one a machine; each is printed when it is there.

    `peers` are other hosts that must reach this machine, if it is among the hosts.
    """
    hosts = distinct(hosts)
    timeout = settings.step_timeout or job.timeout
    outcomes: dict[Host, Outcome] = {}
    lock = threading.Lock()

    def done(outcome: Outcome) -> None:
        with lock:
            outcomes[outcome.host] = outcome
            if not job.quiet:
                print(summary(outcome, job), flush=True)

    if not job.quiet:
        print(f"== {job.title or job.script} ({len(hosts)} host{'s' if len(hosts) != 1 else ''})", flush=True)
    local = [host for host in hosts if settings.local and is_local(host)]
    remote = [host for host in hosts if host not in local]
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = [pool.submit(_run_local, settings, host, job, timeout, [*peers, *hosts]) for host in local]
        if remote:
            _run_remote(settings, remote, job, timeout, done)
        for future in waiting:
            done(future.result())
    return [outcomes[host] for host in hosts]


def summary(outcome: Outcome, job: Job) -> str:
    """The line of one host."""
    what = job.show(outcome) if outcome.ok else outcome.why
    return (
        f"  {'ok    ' if outcome.ok else 'FAILED'} {outcome.host.label:<21} {outcome.seconds:6.1f} s  {what}".rstrip()
    )


def _run_local(settings: Settings, host: Host, job: Job, timeout: int, peers: Sequence[Host]) -> Outcome:
    begin = time.monotonic()
    try:
        address = own_address(host, peers)
    except ClusterError as error:
        return Outcome(host=host, ok=False, seconds=time.monotonic() - begin, why=str(error))
    environ = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
    try:
        done = subprocess.run(  # noqa: S603 (our own script)
            ["timeout", "-k", "5", str(timeout), "bash", "-s"],  # noqa: S607 (as in the user's shell)
            input=job.payload(settings, address),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environ,
            check=False,
            timeout=timeout + GRACE,
        )
    except subprocess.TimeoutExpired:
        return _outcome(host, TIMED_OUT[0], ("", ""), time.monotonic() - begin, timeout)
    return _outcome(host, done.returncode, (done.stdout, ""), time.monotonic() - begin, timeout)


def _run_remote(
    settings: Settings, hosts: Sequence[Host], job: Job, timeout: int, done: Callable[[Outcome], None]
) -> None:
    """Run a job with parallel-ssh, and hand on each outcome when it is there."""
    by_spec = {host.spec: host for host in hosts}
    with tempfile.TemporaryDirectory(prefix="img2dataset-pssh-") as folder:
        listed, out, err = (os.path.join(folder, name) for name in ("hosts", "out", "err"))
        Path(listed).write_text("".join(f"{spec}\n" for spec in by_spec))
        # It has no name: keys and secrets in it are gone with us, however we end.
        with tempfile.TemporaryFile("w+") as payload:
            payload.write(job.payload(settings))
            payload.flush()
            payload.seek(0)
            process = subprocess.Popen(  # noqa: S603 (no shell is involved)
                [
                    *(parallel_ssh(), "-h", listed, "-o", out, "-e", err, "-I"),
                    *("-p", str(settings.hosts_at_once), "-t", str(timeout + GRACE)),
                    *(f"--extra-arg={argument}" for argument in ssh.options(settings)),
                    f"timeout -k 5 {timeout} bash -s",
                ],
                stdin=payload,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=_environment(),
            )
        complaints: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: complaints.extend(process.stderr or ()), daemon=True)
        reader.start()
        begin = time.monotonic()
        for line in process.stdout:
            found = _REPORT.match(line)
            host = by_spec.pop(found.group(2), None) if found else None
            if found and host:
                code = 0 if found.group(1) == "SUCCESS" else _exit_code(found.group(3))
                _settle(os.path.join(out, host.spec), 3 if code not in {UNREACHABLE, *TIMED_OUT} else 0.3)
                files = (_read(os.path.join(out, host.spec)), _read(os.path.join(err, host.spec)))
                done(_outcome(host, code, files, time.monotonic() - begin, timeout))
        process.wait()
        reader.join(5)
        for host in by_spec.values():
            done(_outcome(host, -1, ("", "".join(complaints)), time.monotonic() - begin, timeout))


def parallel_ssh() -> str:
    """The path of parallel-ssh.

    Raises:
        ClusterError: It is not installed.
    """
    for name in ("parallel-ssh", "pssh"):
        found = shutil.which(name)
        if found:
            return found
    raise ClusterError("there is no parallel-ssh on this machine; install it (Debian, Ubuntu, Fedora: package pssh)")


def _environment() -> dict[str, str]:
    """Ours, without what would steer parallel-ssh, and so that it reports each host at once."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PSSH_")}
    return {**environ, "PYTHONUNBUFFERED": "1"}


def _read(path: str) -> str:
    """A file that parallel-ssh's writer may still be at; empty when there was no output."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _settle(path: str, seconds: float) -> None:
    """Wait until the output of a host is whole: parallel-ssh reports it before its writer is through."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and "@done=" not in _read(path)[-40:]:
        time.sleep(0.02)


def _exit_code(message: str) -> int:
    """What parallel-ssh says of a failure, as an exit code."""
    if "Timed out" in message:
        return TIMED_OUT[0]
    found = re.search(r"error code (\d+)", message)
    return int(found.group(1)) if found else -1


def _outcome(host: Host, code: int, output: tuple[str, str], seconds: float, timeout: int) -> Outcome:
    """What the exit code, stdout and stderr of a host amount to."""
    facts = {}
    lines = []
    out, err = output
    for line in out.splitlines():
        fact = _FACT.fullmatch(line)
        if fact:
            facts[fact.group(1)] = fact.group(2)
        else:
            lines.append(line)
    text = "\n".join(lines)
    why = "" if code == 0 else _reason(code, text, err, timeout)
    unreachable = code == UNREACHABLE and not facts
    return Outcome(host=host, ok=code == 0, seconds=seconds, text=text, facts=facts, why=why, unreachable=unreachable)


def _reason(code: int, out: str, err: str, timeout: int) -> str:
    """Why it failed, in one line."""
    said = [line.strip() for line in out.splitlines() if line.strip()]
    complaints = [line.strip() for line in err.splitlines() if line.strip()]
    if code == UNREACHABLE and not said:  # of ssh itself
        last = " ".join(complaints[-2:]) or "ssh says nothing more"
        advice = ""
        if "has changed" in err:
            advice = " (make hosts-keys says more)"
        elif "Host key verification failed" in err:
            advice = " (make hosts-keys fetches the keys of hosts that are not known yet)"
        elif "Permission denied" in err:
            advice = " (SSH_USER and SSH_KEY say who we are)"
        return f"cannot be reached: {last}{advice}"
    if code == UNREACHABLE:
        return f"the connection was lost; it said last: {said[-1] if said else 'nothing'}"
    if code in TIMED_OUT:
        last = f"; it said last: {said[-1]}" if said else ""
        return f"took longer than {timeout} s (STEP_TIMEOUT=seconds gives it more){last}"
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        return errors[-1]
    last = (said or complaints or ["no output"])[-1]
    return f"exit code {code}: {last}"


def report(title: str, failed: Mapping[Host, str], total: int, details: Sequence[Outcome] = ()) -> int:
    """The end of a target: nothing, or which hosts failed; the exit code."""
    if not failed:
        return 0
    sys.stdout.flush()
    for outcome in details:
        lines = outcome.text.splitlines()[-5:]
        if outcome.host in failed and len(lines) > 1:
            print(f"-- last lines of {outcome.host.label}", *lines, sep="\n   ", file=sys.stderr)
    print(f"{title}: FAILED on {len(failed)} of {total} host{'s' if total != 1 else ''}:", file=sys.stderr)
    for host, why in failed.items():
        print(f"  {host.label}: {why}", file=sys.stderr)
    return 1
