"""A real nginx with TLS and HTTP/2 before the nasty server.

    with NastyServer(folder) as upstream, NginxH2(folder, upstream=upstream) as front:
        front.url("/photo/a.jpg")       by nginx itself, from the folder
        front.url("/drip?every=0.1")    by the nasty server, through nginx
        front.ca                        the certificate of its authority
        front.requests(3)               what came, once there are at least three

nginx passes on bodies as they come and does not try again. What it makes of bad HTTP is its own: mostly a 502.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import trustme
from support.server import HOSTS, NastyServer

CONF = """
daemon off;
{user}
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 4096; }}
http {{
    log_format facts escape=json '{{"connection":$connection,"protocol":"$server_protocol","status":$status,'
        '"target":"$request_uri","host":"$host","resumed":"$ssl_session_reused"}}';
    access_log {work}/access.log facts;
    types {{ image/jpeg jpg; image/png png; image/webp webp; image/gif gif; }}
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    keepalive_requests {requests};
    http2_max_concurrent_streams {streams};
    server {{
        listen {host}:{port} ssl http2 backlog=4096;
        ssl_certificate {work}/server.pem;
        ssl_certificate_key {work}/server.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:10m;
        location /photo/ {{ alias {folder}/; }}
        location / {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_buffering off;
            proxy_redirect off;
            proxy_next_upstream off;
            proxy_read_timeout 120s;
        }}
    }}
}}
"""

# Takes nginx with it when its stdin closes, which it does when the parent dies, however it dies.
GUARD = '"$@" </dev/null & cat >/dev/null; kill $!; wait $!'
START_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of nginx's log. `connection` is a number of nginx's own, `protocol` HTTP/2.0 or HTTP/1.1."""

    connection: int
    protocol: str
    status: int
    target: str
    host: str
    resumed: bool


@final
class NginxH2:
    """nginx as a context manager; see the module's docstring.

    Args:
        photo_folder: what it serves under /photo/.
        upstream: who answers everything else.
        streams: how many requests a client may have open on one connection.
        requests: after how many requests it ends a connection (GOAWAY).
    """

    def __init__(self, photo_folder: Path, *, upstream: NastyServer, streams: int = 128, requests: int = 1000) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="nginx-"))
        self.ca = str(self._work / "ca.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        certificate = authority.issue_cert(*HOSTS, "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self._work / "server.pem"))
        with socket.socket() as free:
            free.bind((HOSTS[0], 0))
            self.port: int = free.getsockname()[1]
        conf = CONF.format(
            user="user root;" if os.geteuid() == 0 else "",  # the pictures may be closed to nginx's usual user
            work=self._work,
            folder=photo_folder.absolute(),
            upstream=upstream.url("").rstrip("/"),
            host=HOSTS[0],
            port=self.port,
            streams=streams,
            requests=requests,
        )
        (self._work / "nginx.conf").write_text(conf)
        work = str(self._work)
        nginx = [nginx_program(), "-p", work, "-e", f"{work}/error.log", "-c", f"{work}/nginx.conf"]
        self._process = subprocess.Popen(["/bin/sh", "-c", GUARD, "sh", *nginx], stdin=subprocess.PIPE)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def url(self, path: str, host: str = HOSTS[0]) -> str:
        """Full URL of a path; `host` may be localhost as well."""
        return f"https://{host}:{self.port}{path}"

    def requests(self, at_least: int = 0) -> list[Request]:
        """What was answered so far, in the order of the answers' ends.

        nginx takes down a request just after its answer: wait up to five seconds for so many.
        """
        deadline = time.monotonic() + 5
        while True:
            lines = (self._work / "access.log").read_text().splitlines(keepends=True)
            found = [json.loads(line) for line in lines if line.endswith("\n")]
            if len(found) >= at_least or time.monotonic() > deadline:
                return [Request(**{**entry, "resumed": entry["resumed"] == "r"}) for entry in found]
            time.sleep(0.02)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((HOSTS[0], self.port), timeout=1):
                return
            time.sleep(0.02)
        log = self._work / "error.log"
        raise RuntimeError(f"nginx does not serve: {log.read_text() if log.exists() else 'and wrote no log'}")

    def close(self) -> None:
        """End nginx and remove what it wrote."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> NginxH2:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def nginx_program() -> str:
    """Where nginx is."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError("nginx is missing; install it, for example with: apt-get install nginx-light")
    return found
