"""Pictures over http, each a fixed time after it was asked for: `latency_server.py FOLDER SECONDS`.

nginx has nothing that waits. This one prints its port, serves 127.0.0.1 to 127.0.0.40 from one process, keeps
connections, and ends when its stdin closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import certifi

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 41))
"""More than one, as no polite client has hundreds of connections to one host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server."""

    port: int
    pid: int
    trust: Path

    def urls(self, count: int) -> list[str]:
        """So many distinct URLs, round and round over the hosts and the pictures."""
        return [f"http://{HOSTS[i % len(HOSTS)]}:{self.port}/{i}.jpg" for i in range(count)]

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serve(folder: Path, seconds: float) -> Iterator[Server]:
    """Serve the pictures of `folder` from another process while the context lasts."""
    command = [sys.executable, str(Path(__file__)), str(folder), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server that waits did not start")
        try:
            yield Server(port=int(line), pid=process.pid, trust=Path(certifi.where()))
        finally:
            process.stdin.close()


class _Connection(asyncio.Protocol):
    """One connection, for as many requests as come, one after another."""

    def __init__(self, pictures: list[bytes], seconds: float) -> None:
        self._pictures = pictures
        self._seconds = seconds
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            number = int(self._head.partition(b"/")[2].partition(b".")[0])
            close = b"connection: close" in self._head.lower()
            self._head = b""
            asyncio.get_running_loop().call_later(self._seconds, self._answer, number, close)

    def _answer(self, number: int, close: bool) -> None:
        body = self._pictures[number % len(self._pictures)]
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.writelines([head.encode(), body])
        if close:
            self._transport.close()


async def _main(pictures: list[bytes], seconds: float) -> None:
    loop, port = asyncio.get_running_loop(), 0
    for host in HOSTS:
        server = await loop.create_server(lambda: _Connection(pictures, seconds), host, port, backlog=4096)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main([file.read_bytes() for file in sorted(Path(sys.argv[1]).glob("*.jpg"))], float(sys.argv[2])))
