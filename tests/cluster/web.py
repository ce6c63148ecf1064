"""What the hosts find on their network: names, pictures, packages and files, in a namespace of its own.

| Name | What is there |
| --- | --- |
| photos0.example.test to photos15.example.test | the pictures, each name with an address of its own, of those that are public |
| packages.example.test | the repository of Debian packages |
| files.example.test | what is in the folder `files` |
| h1.example.test, ... | the hosts |

Names are told by knotd, which knows this zone only; nginx has the rest.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bare import program
from spaces import Space, kill_group

ZONE = "example.test"
DNS = "10.77.0.5"
PHOTO_NAMES = 16
PHOTO_NET = "93.184.216"
"""Public addresses, so that jobs need no leave for private ones. Nothing leaves the namespaces."""
HOST_NET = "10.77.0"
FIRST_HOST = 10
LATE = 10.0

NGINX = """
daemon off;
user root;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 4096; }}
http {{
    log_format facts escape=json '{{"client":"$remote_addr","host":"$host","target":"$request_uri","status":$status,'
        '"range":"$http_range","at":$msec}}';
    access_log {work}/access.log facts;
    types {{ image/jpeg jpg; image/png png; image/webp webp; }}
    server_names_hash_bucket_size 128;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{ listen 80 default_server backlog=4096; root "{photos}"; include {work}/rate.conf; }}
    server {{ listen 80; server_name packages.{zone}; root "{packages}"; }}
    server {{ listen 80; server_name files.{zone}; root "{files}"; }}
}}
"""
KNOT = """
server:
    rundir: {work}/knot
    listen: {dns}@53
log:
  - target: stderr
    any: warning
database:
    storage: {work}/knot
zone:
  - domain: {zone}
    storage: {work}
    file: zone
    journal-content: none
"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that was answered; `at` is in seconds since 1970."""

    client: str
    host: str
    target: str
    status: int
    range: str
    at: float


class Web:
    """See the module.

    Args:
        space: where to run.
        work: a folder for its own.
        photos: the pictures.
        packages: the repository.
    """

    def __init__(self, space: Space, work: Path, *, photos: Path, packages: Path) -> None:
        self._space = space
        self._work = work
        self.files = work / "files"
        """What is put here is served as http://files.example.test/NAME."""
        for folder in (self.files, work / "knot"):
            folder.mkdir(parents=True)
        (work / "rate.conf").touch()
        (work / "zone").write_text(_zone())
        conf = {"work": work, "zone": ZONE, "dns": DNS, "photos": photos, "packages": packages, "files": self.files}
        (work / "nginx.conf").write_text(NGINX.format(**conf))
        (work / "knot.conf").write_text(KNOT.format(**conf))
        nginx = [program("nginx"), "-p", work, "-e", f"{work}/error.log", "-c", f"{work}/nginx.conf"]
        self._nginx = self._start("nginx", nginx)
        self._knotd = self._start("knotd", [program("knotd"), "-c", work / "knot.conf"])
        self._wait(DNS, 80)
        self._wait(DNS, 53)

    @staticmethod
    def addresses() -> list[str]:
        """All that must lead here."""
        return [DNS, *(f"{PHOTO_NET}.{n + 1}" for n in range(PHOTO_NAMES))]

    def photo_url(self, name: str, number: int) -> str:
        """A URL of a picture that differs by number, as do the names of the hosts of 16 in a row."""
        return f"http://photos{number % PHOTO_NAMES}.{ZONE}/{name}?{number}"

    def file_url(self, name: str) -> str:
        """Of what is in `files`."""
        return f"http://files.{ZONE}/{name}"

    def limit(self, rate: str) -> None:
        """Send every picture at so many bytes per second, `20k` for example; with an empty rate, as fast as can be."""
        (self._work / "rate.conf").write_text(f"limit_rate {rate};\n" if rate else "")
        workers = self._workers()
        self._nginx_signal(signal.SIGHUP)
        deadline = time.monotonic() + LATE
        while not self._workers() - workers:
            assert time.monotonic() < deadline, "nginx has not taken the new rate"
            time.sleep(0.02)

    def requests(self) -> list[Request]:
        """What was answered so far."""
        lines = (self._work / "access.log").read_text().splitlines(keepends=True)
        return [Request(**json.loads(line)) for line in lines if line.endswith("\n")]

    def close(self) -> None:
        for process in (self._nginx, self._knotd):
            kill_group(process)
            process.wait(LATE)

    def _start(self, name: str, command: Sequence[object]) -> subprocess.Popen[str]:
        with (self._work / f"{name}.log").open("w") as log:
            return self._space.start(command, stdout=log)

    def _workers(self) -> set[int]:
        """Of nginx, those that take requests."""
        return set(map(int, self._space.run("pgrep", "-f", "nginx: worker process$", check=False).stdout.split()))

    def _nginx_signal(self, number: signal.Signals) -> None:
        self._space.run("kill", f"-{int(number)}", (self._work / "nginx.pid").read_text().strip())

    def _wait(self, address: str, port: int) -> None:
        deadline = time.monotonic() + LATE
        while self._space.run("bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}", check=False).returncode:
            if time.monotonic() > deadline:
                logs = "".join(path.read_text() for path in self._work.glob("*.log"))
                raise RuntimeError(f"nobody listens on {address}:{port}: {logs[-3000:]}")
            time.sleep(0.05)


def _zone() -> str:
    lines = [
        f"$ORIGIN {ZONE}.", "$TTL 60", f"@ SOA ns.{ZONE}. root.{ZONE}. 1 3600 600 86400 60", f"@ NS ns.{ZONE}.",
        f"ns A {DNS}", f"packages A {DNS}", f"files A {DNS}",
    ]  # fmt: skip
    lines += [f"photos{n} A {PHOTO_NET}.{n + 1}" for n in range(PHOTO_NAMES)]
    lines += [f"h{n} A {HOST_NET}.{FIRST_HOST + n}" for n in range(1, 100)]
    return "\n".join(lines) + "\n"
