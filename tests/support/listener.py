"""The process of the nasty server: its sockets, its connections, and the port on which tests ask what it saw.

    python -m support.listener FOLDER [--port 8080] [--ca FILE]

prints the number of its ports, see `Ports`, and ends when its stdin is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import errno
import functools
import itertools
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from support import behaviours, misbehaviours
from support.protocol import BEHAVIOURS, HOST6, HOSTS, LONGEST, MIB, Exchange, Gone, Robots, Site

__all__ = ["Ports", "behaviours", "ipv6_loopback", "main", "misbehaviours"]
LIFETIME = 3600.0


class Ports(NamedTuple):
    """Where the server listens: as it should, on a port that never speaks, nowhere, and for its owner's questions."""

    main: int
    silent: int
    refused: int
    control: int


class Reader(asyncio.StreamReader):
    """A stream that tells its conversation at once when the client goes away."""

    conversation: Conversation | None = None
    left = False

    def feed_eof(self) -> None:
        super().feed_eof()
        self._leave()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._leave()

    def _leave(self) -> None:
        self.left = True
        if self.conversation:
            self.conversation.client_left()


class Conversation:
    """One connection, from accept to close. A client that closes its side gets no answer any more."""

    def __init__(self, site: Site, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.site = site
        self.number = number
        self.reader = reader
        self.writer = writer
        self.host: str = writer.get_extra_info("sockname")[0]
        self.task = asyncio.current_task()
        self.open = True
        self.exchange: Exchange | None = None
        tls = writer.get_extra_info("ssl_object")
        if tls:
            site.handshakes["resumed" if tls.session_reused else "full"] += 1
        site.opened(self.host)
        if isinstance(reader, Reader):
            reader.conversation = self

    async def run(self) -> None:
        counted = False
        try:
            while x := await read_request(self.site, self.reader, self.writer):
                self.site.connections[self.host] += not counted
                counted = True
                await self.respond(x)
                if not x.keep:
                    break
        except (Gone, ConnectionError, ValueError, KeyError, asyncio.CancelledError):
            pass
        finally:
            self.end()
            with contextlib.suppress(OSError, ssl.SSLError):
                self.writer.close()

    async def respond(self, x: Exchange) -> None:
        self.exchange = x
        self.site.began(x, self.number)
        try:
            if isinstance(self.reader, Reader) and self.reader.left:
                x.close()
            handler = BEHAVIOURS.get(x.behaviour)
            await (handler(x) if handler else x.not_found())
        finally:
            self.end_exchange()

    def end_exchange(self) -> None:
        if self.exchange:
            self.site.ended(self.exchange)
            self.exchange = None

    def end(self) -> None:
        """Neither this connection nor its request count as open any more."""
        self.end_exchange()
        self.site.open[self.host] -= self.open
        self.open = False

    def client_left(self) -> None:
        """Count that at once, before the client's next connection is counted; then leave off what is going on."""
        busy = self.exchange is not None
        self.end()
        if busy and self.task:
            self.task.cancel()


async def read_request(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    """The next request of a connection; None at its end."""
    try:
        block = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONGEST)
        first, *lines = block.decode("latin-1").rstrip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        method, target, _ = first.split(" ", 2)
        x = Exchange(site, writer, target, [(name, value.strip()) for name, _, value in pairs])
        x.content = await asyncio.wait_for(reader.readexactly(int(x.header("content-length") or 0)), LONGEST)
    except (TimeoutError, asyncio.TimeoutError, EOFError, ConnectionError, ssl.SSLError, asyncio.LimitOverrunError):
        return None
    x.head_only = method == "HEAD"
    x.keep = x.header("connection").lower() != "close"
    return x


async def control(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One question of the server's owner; none of them is counted."""
    with contextlib.suppress(Gone, ConnectionError):
        x = await read_request(site, reader, writer)
        if x:
            content = COMMANDS[x.behaviour](site, json.loads(x.content or b"null"))
            await x.answer(200, json.dumps(content).encode(), "application/json")
    writer.close()


def set_robots(site: Site, rules: dict[str, Any]) -> None:
    host, body = rules.pop("host"), base64.b64decode(rules.pop("body"))
    site.robots[host] = Robots(body=body, **rules)


COMMANDS: dict[str, Callable[[Site, Any], Any]] = {
    "facts": getattr,
    "log": lambda site, _: list(site.log),
    "starts": lambda site, host: list(site.starts.get(host, ())),
    "clear": lambda site, _: site.forget(),
    "robots": set_robots,
    "no-robots": lambda site, _: site.robots.clear(),
}


def bind(port: int) -> list[socket.socket]:
    """One listening socket per host that this machine has, all on one port."""
    hosts = [*HOSTS[1:], *([HOST6] if ipv6_loopback() else [])]
    for _ in range(50):
        socks = [listening(HOSTS[0], port)]
        try:
            for host in hosts:
                try:
                    socks.append(listening(host, socks[0].getsockname()[1]))
                except PermissionError:
                    continue
                except OSError as error:
                    if error.errno != errno.EADDRNOTAVAIL:  # not every system has all of 127.0.0.0/8
                        raise
        except OSError:
            for sock in socks:
                sock.close()
            continue
        return socks
    raise RuntimeError("no port is free on all hosts")


def listening(host: str, port: int, backlog: int = 1024) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY on those only
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    if backlog:
        sock.listen(backlog)
    return sock


@functools.cache
def ipv6_loopback() -> bool:
    """Whether this machine has ::1."""
    try:
        listening(HOST6, 0, backlog=0).close()
    except OSError:
        return False
    return True


def make_certificate(ca_file: str) -> ssl.SSLContext:
    """A TLS context for our hosts; the authority that signed it goes to `ca_file`."""
    import trustme  # noqa: PLC0415 (only https needs it)

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS, HOST6, "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(ca_file)
    return context


async def serve(folder: Path, port: int, ca_file: str | None) -> None:
    """Run for `LIFETIME` at most. Prints the ports."""
    site, numbers, loop = Site(folder), itertools.count(), asyncio.get_running_loop()
    context = make_certificate(ca_file) if ca_file else None
    silent, refused, control_port = (listening(HOSTS[0], 0, backlog) for backlog in (1024, 0, 1024))
    socks = bind(port)

    def protocol() -> asyncio.StreamReaderProtocol:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Conversation(site, next(numbers), reader, writer).run()

        return asyncio.StreamReaderProtocol(Reader(limit=4 * MIB, loop=loop), talk, loop)

    servers = [await loop.create_server(protocol, sock=sock, ssl=context, backlog=1024) for sock in socks]
    servers.append(await asyncio.start_server(functools.partial(control, site), sock=control_port))
    print(*(sock.getsockname()[1] for sock in (socks[0], silent, refused, control_port)), flush=True)
    await asyncio.sleep(LIFETIME)
    for server in servers:
        server.close()


def end_with_parent() -> None:
    """Leave as soon as stdin closes, which it does when the parent dies, however it dies."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pictures")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ca", help="serve https, and write the certificate of the authority there")
    args = parser.parse_args()
    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(serve(args.folder, args.port, args.ca))


if __name__ == "__main__":
    main()
