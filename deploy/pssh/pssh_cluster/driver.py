"""run and ui-tunnel: a job on the master, and its pages here."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from pssh_cluster import fanout, ssh
from pssh_cluster.context import Cluster, finish, read_file
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Job, Outcome
from pssh_cluster.hosts import Host, is_local
from pssh_cluster.lifecycle import GRACE, spark_defaults
from pssh_cluster.settings import split_words

_BEGIN = b"@begin\n"
_INTERRUPTED = 130
_STILL = "make status shows it, make jobs-stop ends it"
_LONGEST_WAIT = 30.0  # seconds between two tries to connect again; the first wait is 2, and each the double of the last


def run_script(cluster: Cluster, hosts: Sequence[Host]) -> int:
    """Run SCRIPT with the pex on the master; its output is ours, and so is its exit code."""
    settings = cluster.settings
    host = cluster.master(hosts)
    known = cluster.state()
    if not known.master_url:
        raise ClusterError(f"the cluster {cluster.name} has no master yet; run make cluster-up first")
    job = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
    values = {
        "JOB": job,
        "SCRIPT": read_file("SCRIPT", settings.script),
        "SCRIPT_NAME": _script_name(settings.script),
        "RUNNER": (fanout.REMOTE / "job_runner.py").read_text(encoding="utf-8"),
        "ARGS": shlex.join(split_words("ARGS", settings.args)),
        "ENVIRONMENT": environment(cluster),
        "MASTER_URL": known.master_url,
        "SPARK_DEFAULTS": spark_defaults(cluster),
        "PEX_ROOT": settings.pex_folder,
        "WORK_DIR": settings.work_dir or f"{settings.remote_dir}/work",
        "LOCAL_DIRS": settings.local_dirs,
        "DRIVER_HOST": settings.driver_host,
        "DRIVER_PORT": str(settings.driver_port),
        "BLOCK_MANAGER_PORT": str(settings.block_manager_port),
    }
    start = Job(script="spark_conf job_start", values=values, timeout=120, title="run", quiet=True)
    try:
        started = cluster.run([host], start)
    except KeyboardInterrupt:
        _complain(f"interrupted; the job may have begun on {host.label}: {_STILL}")
        return _INTERRUPTED
    if not started[0].ok:
        return finish("run", started)
    print(f"job {job} on {host.label}: {os.path.basename(settings.script)} (Ctrl-C ends it)", flush=True)
    return Follower(cluster=cluster, host=host, job=job).follow()


def _script_name(path: str) -> str:
    name = os.path.basename(path)
    if not name.endswith(".py"):
        raise ClusterError(f"SCRIPT={path}: the name of a script must end in .py")
    return name if not name.startswith("-") else f"_{name}"


def environment(cluster: Cluster) -> str:
    """The variables of PASS_ENV as a shell sets them; they travel on stdin.

    Raises:
        ClusterError: One is not set here.
    """
    lines = []
    for name in cluster.settings.pass_env.split():
        if not name.isidentifier() or name not in cluster.environ:
            raise ClusterError(f"PASS_ENV: {name} is not a variable that is set here")
        lines.append(f"export {name}={shlex.quote(cluster.environ[name])}")
    return "\n".join(lines)


class Follower:
    """Shows the output of a job until it ends, over as many connections as it takes."""

    def __init__(self, *, cluster: Cluster, host: Host, job: str) -> None:
        self._cluster = cluster
        self._host = host
        self._job = job
        self._offset = 1  # of tail: the first byte is 1
        self._lost = 0  # tries since the last answer
        self._interrupts = 0
        self._told = False  # whether the job knows of the interrupt

    def follow(self) -> int:
        """The job's exit code.

        The first interrupt asks the job to end, as often as it takes until it has heard; the second ends it.
        """
        with _terminate_is_interrupt():
            while True:
                try:
                    if self._interrupts and not self._told:
                        self._told = self._ask("USR1").ok
                    code = self._look()
                except KeyboardInterrupt:
                    self._interrupts += 1
                    if self._interrupts > 1:
                        return self._end()
                    print(file=sys.stderr)  # after the ^C of the terminal
                    _complain("interrupted: the job is asked to end; once more ends it at once")
                    continue
                if code is not None:
                    return code

    def _look(self) -> int | None:
        """Show output while there is a connection; the exit code, if it is over."""
        self._stream()
        ended = self._ask("")
        if not ended.ok:
            return self._reconnect(ended.why)
        self._lost = 0
        if ended.facts.get("running") == "no":
            code = int(ended.facts.get("code", "1"))
            if code:
                _complain(f"the job ended with exit code {code}")
            return code
        time.sleep(0.3)
        return None

    def _reconnect(self, why: str) -> int | None:
        """Wait before the next try, or give up."""
        self._lost += 1
        if self._lost > self._cluster.settings.reconnects:
            unheard = " and does not know that it shall end" if self._interrupts and not self._told else ""
            _complain(f"lost {self._host.label} ({why}); the job may go on there{unheard}: {_STILL}")
            return 1
        _complain(f"{self._host.label} does not answer, trying again ({why})")
        time.sleep(min(_LONGEST_WAIT, 2.0**self._lost))
        return None

    def _end(self) -> int:
        """End the job at once."""
        values = {"NAMES": f"job-{self._job}.pid", "GRACE": str(GRACE)}
        job = Job(script="stop", values=values, timeout=60, title="end the job")
        try:
            ended = self._cluster.run([self._host], job)[0].ok
        except KeyboardInterrupt:  # a third one
            ended = False
        if not ended:
            _complain(f"the job may still run on {self._host.label}: {_STILL}")
        return _INTERRUPTED

    def _ask(self, signal_name: str) -> Outcome:
        values = {"JOB": self._job, "SIGNAL": signal_name}
        return self._cluster.run([self._host], Job(script="job_end", values=values, timeout=40, quiet=True))[0]

    def _stream(self) -> None:
        """Copy output until the job ends or the connection does."""
        settings = self._cluster.settings
        job = Job(script="job_follow", values={"JOB": self._job, "OFFSET": str(self._offset)}, timeout=0)
        local = settings.local and is_local(self._host)
        command = ["bash", "-s"] if local else [*ssh.command(settings, self._host), "bash -s"]
        address = self._cluster.state().master_address if local else ""
        # In a session of its own: Ctrl-C is ours to hand on, the last lines of the job are still wanted.
        with subprocess.Popen(  # noqa: S603 (no shell here)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(job.payload(settings, address).encode())
                process.stdin.close()
                self._copy(process.stdout.fileno())
            except BrokenPipeError:
                return
            finally:
                process.terminate()

    def _copy(self, source: int) -> None:
        head = b""
        begun = False
        while data := os.read(source, 65536):
            if not begun:
                head += data
                _, mark, data = head.partition(_BEGIN)
                begun = bool(mark)
                if not begun:
                    continue
            self._offset += len(data)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _complain(text: str) -> None:
    print(f"run: {text}", file=sys.stderr, flush=True)


@contextmanager
def _terminate_is_interrupt() -> Iterator[None]:
    """While it lasts SIGTERM is an interrupt too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ui_tunnel(cluster: Cluster, hosts: Sequence[Host]) -> int:
    """The pages of the master and of the driver on this machine, until Ctrl-C."""
    settings = cluster.settings
    host = cluster.master(hosts)
    address = cluster.state().master_address
    if not address:
        raise ClusterError(f"the cluster {cluster.name} has no master yet; run make master-start first")
    pages = {
        "master": (settings.tunnel_master_port or settings.master_ui_port, settings.master_ui_port),
        "driver, while a job runs": (settings.tunnel_ui_port or settings.ui_port, settings.ui_port),
    }
    if settings.local and is_local(host):
        for name, (_, port) in pages.items():
            print(f"http://{address}:{port}  {name} (this machine, no tunnel is needed)")
        return 0
    forwards = [f"-L127.0.0.1:{here}:{address}:{there}" for here, there in pages.values()]
    for name, (here, _) in pages.items():
        print(f"http://127.0.0.1:{here}  {name}", flush=True)
    print("Ctrl-C ends the tunnel", flush=True)
    command = ssh.command(settings, host, "-N", "-o", "ExitOnForwardFailure=yes", *forwards)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process, _terminate_is_interrupt():  # noqa: S603
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            return 0
    if code:
        print(
            "ui-tunnel: ended; is a port taken here? TUNNEL_MASTER_PORT and TUNNEL_UI_PORT choose others",
            file=sys.stderr,
        )
    return code
