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
from pssh_cluster.settings import split_words

_BEGIN = b"@begin\n"
_INTERRUPTED = 130


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
        "SPARK_DEFAULTS": _defaults(cluster),
        "PEX_ROOT": settings.pex_folder,
        "WORK_DIR": settings.work_dir or f"{settings.remote_dir}/work",
        "LOCAL_DIRS": settings.local_dirs,
        "DRIVER_HOST": settings.driver_host,
        "DRIVER_PORT": str(settings.driver_port),
        "BLOCK_MANAGER_PORT": str(settings.block_manager_port),
    }
    started = cluster.run(
        [host], Job(script="spark_conf job_start", values=values, timeout=120, title="run", quiet=True)
    )
    if not started[0].ok:
        return finish("run", started)
    print(f"job {job} on {host.label}: {os.path.basename(settings.script)} (Ctrl-C ends it)", flush=True)
    return Follower(cluster=cluster, host=host, job=job).follow()


def _defaults(cluster: Cluster) -> str:
    from pssh_cluster.lifecycle import spark_defaults  # noqa: PLC0415 (where it is needed)

    return spark_defaults(cluster)


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
        self._interrupts = 0

    def follow(self) -> int:
        """The job's exit code."""
        lost = 0
        with _terminate_is_interrupt():
            while True:
                try:
                    self._stream()
                    ended = self._ask("")
                except KeyboardInterrupt:
                    if self._interrupt():
                        return _INTERRUPTED
                    continue
                if ended.ok and ended.facts.get("running") == "no":
                    return self._finished(int(ended.facts.get("code", "1")))
                if not ended.ok:
                    lost += 1
                    if lost > self._cluster.settings.reconnects:
                        print(f"run: lost {self._host.label} ({ended.why}); the job may go on there", file=sys.stderr)
                        return 1
                    print(
                        f"run: {self._host.label} does not answer, trying again ({ended.why})",
                        file=sys.stderr,
                        flush=True,
                    )
                time.sleep(2 if lost else 0.3)

    def _finished(self, code: int) -> int:
        if code:
            print(f"run: the job ended with exit code {code}", file=sys.stderr)
        return code

    def _interrupt(self) -> bool:
        """Hand an interrupt on: the first asks the job to end, the second ends it. True when it is over."""
        self._interrupts += 1
        if self._interrupts == 1:
            print("\nrun: interrupted: the job is told to end; once more ends it at once", file=sys.stderr, flush=True)
            self._ask("USR1")
            return False
        values = {"NAMES": f"job-{self._job}.pid"}
        self._cluster.run([self._host], Job(script="stop", values=values, timeout=60, title="end the job"))
        return True

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
