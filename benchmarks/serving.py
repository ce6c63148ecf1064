"""A folder of files over http and https on loopback, by nginx with one worker process."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import certifi

NGINX_CONF = """
daemon off;
{user}
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    types {{ image/jpeg jpg; image/png png; image/webp webp; }}
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 75s;
    keepalive_requests 100000;
    send_timeout {patience}s;
    open_file_cache max=10000;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    ssl_certificate {work}/server.pem;
    ssl_certificate_key {work}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    root {root};
    server {{
        listen 127.0.0.1:{http} backlog=4096;
        listen 127.0.0.1:{https} ssl backlog=4096;
    }}
    server {{
        listen 127.0.0.1:{http_close} backlog=4096;
        listen 127.0.0.1:{https_close} ssl backlog=4096;
        keepalive_timeout 0;
    }}
    server {{
        listen 127.0.0.1:{https_new} ssl backlog=4096;
        keepalive_timeout 0;
        ssl_session_cache off;
        ssl_session_tickets off;
    }}
    server {{
        listen 127.0.0.1:{https_h2} ssl http2 backlog=4096;
    }}
    server {{
        {slow_hosts}
        limit_rate {slow_rate};
    }}
}}
"""
LISTENERS = ("http", "https", "http-close", "https-close", "https-new", "https-h2", "http-slow")
"""Ports of the server. close: one request per connection; new: the same, and nothing of an earlier one helps, as if it
were another host: each has a full TLS handshake; h2: HTTP/2 for those who ask for it; slow: each answer comes at
`SLOW_RATE`, and the port is open on all of `SLOW_HOSTS`."""

SLOW_HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 41))
SLOW_RATE = 3_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server.

    Attributes:
        ports: listener to port.
        trust: file of certificates that a client should trust: the usual authorities, and this server's own.
        pid: of its master process.
    """

    ports: dict[str, int]
    trust: Path
    pid: int

    def urls(self, listener: str, names: list[str], count: int, hosts: Sequence[str] = ("127.0.0.1",)) -> list[str]:
        """So many distinct URLs, round and round over the files and the hosts."""
        scheme, port = listener.partition("-")[0], self.ports[listener]
        return [
            f"{scheme}://{hosts[i % len(hosts)]}:{port}/{names[i // len(hosts) % len(names)]}?n={i}"
            for i in range(count)
        ]

    def cpu_seconds(self) -> float:
        """What its processes have used so far."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        ticks = 0
        for pid in [str(self.pid), *children]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serve(root: Path, work: Path, *, patience: int = 60) -> Iterator[Server]:
    """Serve the files in `root` while the context lasts; certificates, configuration and logs go to `work`.

    A client that takes nothing for `patience` seconds is dropped; nginx's default is 60.
    """
    nginx = _nginx()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    trust = _certificate(work)
    ports = dict(zip(LISTENERS, _free_ports(len(LISTENERS)), strict=True))
    slow = " ".join(f"listen {host}:{ports['http-slow']} backlog=4096;" for host in SLOW_HOSTS)
    user = "user root;" if os.geteuid() == 0 else ""  # the checkout may be closed to nginx's usual user
    conf = work / "nginx.conf"
    named = {name.replace("-", "_"): port for name, port in ports.items()}
    conf.write_text(
        NGINX_CONF.format(
            user=user, work=work, root=root, slow_hosts=slow, slow_rate=SLOW_RATE, patience=patience, **named
        )
    )
    process = subprocess.Popen(
        [nginx, "-p", str(work), "-e", str(work / "error.log"), "-c", str(conf)], stdin=subprocess.DEVNULL
    )
    try:
        for port in ports.values():
            _wait_for(process, port, work / "error.log")
        yield Server(ports=ports, trust=trust, pid=process.pid)
    finally:
        process.terminate()
        process.wait()


def version() -> str:
    """Of the server, for people."""
    told = subprocess.run([_nginx(), "-v"], check=True, capture_output=True, text=True).stderr.strip()
    return told.rpartition(": ")[2]


def _nginx() -> str:
    """Where nginx is; Debian's package is installed when it is missing and we may."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    if shutil.which("nginx", path=path) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing the Debian package nginx-light")
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "nginx-light"]
        subprocess.run(install, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    found = shutil.which("nginx", path=path)
    if found is None:
        raise SystemExit("nginx is missing; install it, for example with: apt-get install nginx-light")
    return found


def _certificate(work: Path) -> Path:
    """Make a certificate for 127.0.0.1; the result holds it beside the usual authorities, as on any machine.

    Those matter: a client that reads them anew for every connection shows it here as it does on the open web.
    """
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(work / "server.key"), "-out", str(work / "server.pem"), "-days", "30", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    trust = work / "trust.pem"
    trust.write_text((work / "server.pem").read_text() + Path(certifi.where()).read_text())
    return trust


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"nginx does not serve; {log} says why")
