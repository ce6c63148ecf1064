"""A real HTTP server that misbehaves on purpose, byte by byte, in a process of its own.

    with NastyServer(folder) as server:
        server.url("/photo/a.jpg"), server.url("/drip", host="127.0.0.2"), server.url("/hang", host="::1")
        server.count("/photo/a.jpg?x=1"), server.log(), server.peak(), server.connections()
        server.starts("127.0.0.1"), server.max_rate("127.0.0.1", window=1.0)
        server.set_robots("127.0.0.1", body="User-agent: *\\nDisallow: /photo/")
        server.silent()     URL of a port that completes TCP and then never says a word, not even a TLS hello
        server.refused()    URL of a port that refuses connections

The first part of a path names the behaviour (the functions marked `@behaviour` in behaviours.py and misbehaviours.py;
their docstrings are the manual), `/photo/NAME` is the well-behaved one. Wherever a behaviour sends a picture,
`/behaviour/NAME` chooses it and `/behaviour` sends the first one of the folder. Add a query string of your own to tell
your requests from others'.

It listens on 127.0.0.1 to 127.0.0.4, so that tests can have several hosts, and on ::1 where there is IPv6. What is
counted by host is counted for the address that was connected to, and for the name of the Host header when a client
used a name. Nothing lasts longer than `LONGEST` seconds or until the client closes the connection, and the process ends
with its parent, when its stdin closes.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from support.listener import Ports, ipv6_loopback
from support.protocol import BEHAVIOURS, HOST6, HOSTS, LONGEST

__all__ = ["BEHAVIOURS", "HOST6", "HOSTS", "LONGEST", "NastyServer"]
TESTS = Path(__file__).parents[1]


@final
class NastyServer:
    """The server as a context manager; see the module's docstring."""

    has_ipv6: ClassVar[bool] = ipv6_loopback()

    def __init__(self, folder: Path, *, https: bool = False) -> None:
        self.scheme = "https" if https else "http"
        self.ca: str | None = None
        command = [sys.executable, "-m", "support.listener", str(Path(folder).absolute())]
        if https:
            handle, self.ca = tempfile.mkstemp(suffix=".pem")
            os.close(handle)
            command += ["--ca", self.ca]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=TESTS
        )
        assert self._process.stdout is not None
        ports = self._process.stdout.readline().split()
        if len(ports) != len(Ports._fields):
            raise RuntimeError(f"the test server did not start, exit code {self._process.wait(10)}")
        self._ports = Ports(*map(int, ports))
        self.port = self._ports.main

    def url(self, path: str, host: str = HOSTS[0]) -> str:
        """Full URL of a path."""
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{path}"

    def silent(self, path: str = "/x.jpg") -> str:
        """A URL on a port that completes TCP connections and never reads or writes."""
        return f"{self.scheme}://{HOSTS[0]}:{self._ports.silent}{path}"

    def refused(self, path: str = "/x.jpg") -> str:
        """A URL on a port that refuses connections."""
        return f"{self.scheme}://{HOSTS[0]}:{self._ports.refused}{path}"

    def count(self, target: str) -> int:
        """How many requests came for exactly this path and query."""
        return self.counts().get(target, 0)

    def counts(self) -> dict[str, int]:
        """Requests by path and query."""
        return dict(self._ask("facts", "counts"))

    def connections(self) -> dict[str, int]:
        """Connections that brought at least one request, by address of ours."""
        return dict(self._ask("facts", "connections"))

    def peak(self) -> dict[str, int]:
        """Most requests in flight at once, by host."""
        return dict(self._ask("facts", "peak"))

    def peak_connections(self) -> dict[str, int]:
        """Most connections open at once, by address of ours; those that brought no request count as well.

        A connection counts from accept, over TLS from the end of its handshake, until either side closed it.
        """
        return dict(self._ask("facts", "peak_connections"))

    def handshakes(self) -> dict[str, int]:
        """TLS handshakes that were done, by kind: full and resumed. All zero without https."""
        return {"full": 0, "resumed": 0, **self._ask("facts", "handshakes")}

    def starts(self, host: str = HOSTS[0]) -> list[float]:
        """When the last 100,000 requests to a host came, /robots.txt included; monotonic seconds, in order."""
        return list(self._ask("starts", host))

    def max_rate(self, host: str = HOSTS[0], window: float = 1.0) -> float:
        """The most requests that came to a host within `window` seconds, wherever that window begins."""
        return most_within(self.starts(host), window)

    def set_robots(
        self,
        host: str = HOSTS[0],
        *,
        status: int = 200,
        body: str | bytes = "",
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """What `host`, a name or an address, answers to /robots.txt after `delay` seconds. Stays until changed."""
        content = body.encode() if isinstance(body, str) else body
        rules = {"status": status, "body": base64.b64encode(content).decode(), "delay": delay}
        self._ask("robots", {"host": host, "headers": dict(headers or {}), **rules})

    def clear_robots(self) -> None:
        """All hosts answer 404 to /robots.txt again."""
        self._ask("no-robots")

    def robots_count(self, host: str = HOSTS[0]) -> int:
        """How often /robots.txt of a host was asked for."""
        return int(self._ask("facts", "robots_counts").get(host, 0))

    def log(self) -> list[dict[str, Any]]:
        """The last 100,000 requests: time (monotonic seconds), target, host, connection, headers as pairs."""
        return list(self._ask("log"))

    def clear(self) -> None:
        """Forget all requests so far. What `set_robots` said stays."""
        self._ask("clear")

    def _ask(self, command: str, question: object = None) -> Any:
        connection = http.client.HTTPConnection(HOSTS[0], self._ports.control, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", f"/{command}", json.dumps(question))
            return json.loads(connection.getresponse().read())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()
        if self.ca:
            Path(self.ca).unlink(missing_ok=True)

    def __enter__(self) -> NastyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def most_within(times: list[float], window: float) -> int:
    """The most of these ascending times in any half-open window of that length."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - window:
            first += 1
        most = max(most, last - first + 1)
    return most
