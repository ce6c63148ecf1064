"""A small HTTP server that keeps every byte that it is asked, and every address of its own that was connected to.

    with Recorder(picture, port=80) as site:
        site.heads      [("93.184.216.34", b"GET /x HTTP/1.1\\r\\nHost: ..."), ...]
        site.reached    {"93.184.216.34"}: where connections came in, whether they brought a request or not

`/to?URL` redirects to what is behind the question mark, percent-decoded once, byte by byte; `/busy` is 503; a target in
`site.locations` redirects there; all others are the picture. Every answer sets a cookie.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from typing import Any
from urllib.parse import unquote_to_bytes


class Recorder:
    """See the module. It listens on all addresses, or on `host`."""

    def __init__(
        self, picture: bytes, *, host: str = "::", port: int = 0, context: ssl.SSLContext | None = None
    ) -> None:
        self.picture = picture
        self.context = context
        self.locations: dict[bytes, bytes] = {}
        self._server = _Server(host, port, self)
        self.port: int = self._server.server_address[1]
        self.clear()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def clear(self) -> None:
        """Forget what came so far."""
        self.heads: list[tuple[str, bytes]] = []
        self.reached: set[str] = set()

    @property
    def targets(self) -> list[bytes]:
        """What was asked for, as it stood in the request lines."""
        return [head.split(b"\r\n")[0].split(b" ", 1)[1].rpartition(b" ")[0] for _, head in self.heads]

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def answer(self, target: bytes) -> bytes:
        if target.startswith(b"http://"):  # we are a proxy
            target = b"/" + target.split(b"/", 3)[3]
        path, _, query = target.partition(b"?")
        location = unquote_to_bytes(query) if path == b"/to" else self.locations.get(target)
        if location is not None:
            return reply(b"302 Found", b"", b"Location: " + location)
        if path == b"/busy":
            return reply(b"503 Service Unavailable", b"busy")
        return reply(b"200 OK", self.picture, b"Content-Type: image/jpeg")


def reply(status: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"Set-Cookie: id=7; Path=/", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256
    block_on_close = False

    def __init__(self, host: str, port: int, recorder: Recorder) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.recorder = recorder
        super().__init__((host, port), _Handler, bind_and_activate=False)
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.server_bind()
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        recorder = self.server.recorder
        address = str(self.request.getsockname()[0]).removeprefix("::ffff:")
        recorder.reached.add(address)
        connection = self.request
        with contextlib.suppress(OSError):
            connection.settimeout(30)
            if recorder.context is not None:
                connection = recorder.context.wrap_socket(connection, server_side=True)
            file = connection.makefile("rb")
            while head := _head(file):
                recorder.heads.append((address, head))
                connection.sendall(recorder.answer(head.split(b"\r\n")[0].split(b" ", 1)[1].rpartition(b" ")[0]))


def _head(file: Any) -> bytes:
    lines = []
    while line := file.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""
