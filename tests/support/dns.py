"""Real DNS on loopback: dnsmasq for what a good resolver does, and a small server of ours for what it does not.

    with Dnsmasq({"a.test": ["127.0.0.1"], "six.test": ["::1"]}) as dns:
        dns.server          "127.0.0.1:PORT"; every other name does not exist (NXDOMAIN)
    with BadDns({"fine.test": ["127.0.0.1"]}) as bad:
        bad.server          "127.0.0.1:PORT", over UDP and TCP
        bad.queries         [("fine.test", "A"), ...], in the order they came, repeated ones too
        bad.count("x.test") how often a name was asked for, A and AAAA together

`BadDns` answers a name it was given with its addresses, and any other name by the behaviour that its first label is
called after: `silent.test`, or with anything behind a dash to have many of them, `silent-17.test`. A number is part
of some: `delay-1500.test`. They are the functions marked `@behaviour`; their docstrings are the manual. A name that is
called after none does not exist. Where nothing else is said, the answer is 127.0.0.1 for A and nothing for AAAA.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PLACES = ("/usr/sbin", "/usr/local/sbin", "/sbin")
"""Where dnsmasq may be besides PATH, which often lacks these for users."""

A, AAAA, CNAME = 1, 28, 5
TYPES = {A: "A", AAAA: "AAAA"}
NO_ERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
TTL = 300
PUBLIC = "93.184.216.34"


class Dnsmasq:
    """A real resolver that knows the names it is given, all others do not exist. Skips the test when not installed."""

    def __init__(self, names: Mapping[str, Iterable[str]], *, ttl: int = TTL) -> None:
        self._names = names
        self._ttl = ttl
        self.server = ""

    def __enter__(self) -> Dnsmasq:
        binary = shutil.which("dnsmasq") or next(
            (found for place in PLACES if (found := shutil.which("dnsmasq", path=place))), None
        )
        if binary is None:
            pytest.skip("dnsmasq is not installed (`make test` installs the Debian package dnsmasq-base)")
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dnsmasq-"))
            hosts = Path(folder) / "hosts"
            hosts.write_text("".join(f"{ip} {name}\n" for name, ips in self._names.items() for ip in ips))
            hosts.chmod(0o644)
            Path(folder).chmod(0o755)
            for _ in range(5):  # the port may be gone between our look and its start
                port = free_port()
                process = subprocess.Popen(
                    [
                        binary, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                        f"--addn-hosts={hosts}", "--address=/#/", f"--local-ttl={self._ttl}", f"--port={port}",
                        "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file=", "--user=", "--group=",
                        "--log-facility=-", "--cache-size=10000",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
                if answers(process, port):
                    break
                stop(process)
            else:
                raise RuntimeError("dnsmasq did not start")
            stack.callback(stop, process)
            self._stack = stack.pop_all()
        self.server = f"127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a server answers anything at all; False when its process ended or it stays silent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        for _ in range(50):
            if process.poll() is not None:
                return False
            try:
                sock.sendto(
                    struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + packed("up.test") + b"\0\1\0\1", ("127.0.0.1", port)
                )
                sock.recv(512)
            except OSError:  # silence, or nobody there yet
                time.sleep(0.02)
            else:
                return True
    return False


def free_port() -> int:
    """A port of 127.0.0.1 that is free for UDP and for TCP."""
    for _ in range(20):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port
    raise RuntimeError("no free port")


def packed(name: str) -> bytes:
    """A name as it is on the wire."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


class Query(NamedTuple):
    """One question that came in."""

    data: bytes
    name: str
    kind: int
    tcp: bool
    nth: int
    """Which time this name and type are asked for, from 1."""

    @property
    def number(self) -> int:
        """The number in the first label, `delay-1500.test` has 1500."""
        return int((re.findall(r"\d+", self.name.partition(".")[0]) or ["0"])[0])

    def answer(self, *records: bytes, code: int = NO_ERROR, truncated: bool = False) -> bytes:
        """A whole message."""
        end = self.data.index(b"\0", 12) + 5
        flags = 0x8180 | code | (0x0200 if truncated else 0)
        return self.data[:2] + struct.pack("!5H", flags, 1, len(records), 0, 0) + self.data[12:end] + b"".join(records)

    def addresses(self, *addresses: str, ttl: int = TTL) -> list[bytes]:
        """Records of those addresses that are of the type asked for."""
        family = 4 if self.kind == A else 6
        found = [one for one in map(ipaddress.ip_address, addresses) if one.version == family]
        return [record(self.kind, one.packed, ttl) for one in found if self.kind in TYPES]


def record(kind: int, data: bytes, ttl: int = TTL) -> bytes:
    """A resource record of the name that was asked for."""
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


class Reply(NamedTuple):
    """What goes out, one message after the other, and after how many seconds."""

    messages: tuple[bytes, ...] = ()
    after: float = 0.0
    hang_up: bool = False


Behaviour = Callable[[Query], Reply]
BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(function: Behaviour) -> Behaviour:
    BEHAVIOURS[function.__name__] = function
    return function


def good(query: Query, *, ttl: int = TTL) -> Reply:
    return Reply((query.answer(*query.addresses("127.0.0.1", ttl=ttl)),))


@behaviour
def ok(query: Query) -> Reply:
    """A good answer, to be had for 300 seconds."""
    return good(query)


@behaviour
def ttl(query: Query) -> Reply:
    """`ttl-N`: a good answer that lasts N seconds."""
    return good(query, ttl=query.number)


@behaviour
def ip(query: Query) -> Reply:
    """`ip-93-184-216-34`: that IPv4 address."""
    octets = re.findall(r"\d+", query.name.partition(".")[0])
    return Reply((query.answer(*query.addresses(".".join(octets))),))


@behaviour
def silent(_: Query) -> Reply:
    """Nothing, ever."""
    return Reply()


@behaviour
def v4only(query: Query) -> Reply:
    """A good answer for A, and never any for AAAA."""
    return good(query) if query.kind == A else Reply()


@behaviour
def flaky(query: Query) -> Reply:
    """Nothing the first time, a good answer from then on."""
    return good(query) if query.nth > 1 else Reply()


@behaviour
def delay(query: Query) -> Reply:
    """`delay-N`: a good answer after N milliseconds."""
    return good(query)._replace(after=query.number / 1000)


@behaviour
def garbage(query: Query) -> Reply:
    """Bytes that are no DNS message, with the right id in front."""
    return Reply((query.data[:2] + random.Random(query.name).randbytes(200),))


@behaviour
def short(query: Query) -> Reply:
    """Two bytes."""
    return Reply((query.data[:2],))


@behaviour
def cut(query: Query) -> Reply:
    """A good message that ends in the middle of its record, without the truncated bit."""
    return Reply((query.answer(record(A, b"\x7f\0\0\1"))[:-5],))


@behaviour
def spoof(query: Query) -> Reply:
    """A forged answer (6.6.6.6) with another id first, one with another question next, then the good one."""
    other = bytes(byte ^ 0xFF for byte in query.data[:2])
    forged = query.answer(record(A, bytes([6, 6, 6, 6])))
    question = forged[:12] + packed("other.test") + forged[forged.index(b"\0", 12) + 1 :]
    return Reply((other + forged[2:], question, *good(query).messages))


@behaviour
def servfail(query: Query) -> Reply:
    """The resolver could not find out."""
    return Reply((query.answer(code=SERVFAIL),))


@behaviour
def refused(query: Query) -> Reply:
    """The resolver does not work for us."""
    return Reply((query.answer(code=REFUSED),))


@behaviour
def nxdomain(query: Query) -> Reply:
    """There is no such name."""
    return Reply((query.answer(code=NXDOMAIN),))


@behaviour
def nodata(query: Query) -> Reply:
    """The name is there, but it has no addresses."""
    return Reply((query.answer(),))


@behaviour
def rebind(query: Query) -> Reply:
    """93.184.216.34 the first time, 127.0.0.1 from then on, both with a TTL of 0."""
    return Reply((query.answer(*query.addresses(PUBLIC if query.nth == 1 else "127.0.0.1", ttl=0)),))


@behaviour
def tcp(query: Query) -> Reply:
    """Over UDP only the truncated bit, over TCP a good answer."""
    return good(query) if query.tcp else Reply((query.answer(truncated=True),))


@behaviour
def trunc(query: Query) -> Reply:
    """The truncated bit over UDP, silence over TCP."""
    return Reply() if query.tcp else Reply((query.answer(truncated=True),))


@behaviour
def hangup(query: Query) -> Reply:
    """The truncated bit over UDP; over TCP the connection is closed."""
    return Reply(hang_up=True) if query.tcp else Reply((query.answer(truncated=True),))


@behaviour
def many(query: Query) -> Reply:
    """1,000 addresses from 10.0.0.0 on, or N as in `many-N`; truncated over UDP."""
    if not query.tcp and query.kind == A:
        return Reply((query.answer(truncated=True),))
    first = int(ipaddress.IPv4Address("10.0.0.0"))
    addresses = [str(ipaddress.IPv4Address(first + n)) for n in range(query.number or 1000)]
    return Reply((query.answer(*query.addresses(*addresses)),))


@behaviour
def loop(query: Query) -> Reply:
    """An alias of itself."""
    return Reply((query.answer(record(CNAME, b"\xc0\x0c")),))


class BadDns:
    """See the module docstring. `names`: addresses of names that behave."""

    def __init__(self, names: Mapping[str, Iterable[str]] | None = None) -> None:
        self._names = {name: list(addresses) for name, addresses in (names or {}).items()}
        self._counts: dict[tuple[str, int], int] = {}
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.queries: list[tuple[str, str]] = []
        self.server = ""

    def __enter__(self) -> BadDns:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="bad-dns", daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError("the DNS server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def count(self, name: str) -> int:
        """How many questions about a name came in, of any type."""
        return sum(asked == name for asked, _ in list(self.queries))

    def reply(self, data: bytes, *, tcp: bool) -> Reply:
        """What to say to a message."""
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode("latin-1").lower())
            at += 1 + data[at]
        name, kind = ".".join(labels), struct.unpack_from("!H", data, at + 1)[0]
        nth = self._counts[name, kind] = self._counts.get((name, kind), 0) + 1
        self.queries.append((name, TYPES.get(kind, str(kind))))
        query = Query(data, name, kind, tcp, nth)
        if name in self._names:
            return Reply((query.answer(*query.addresses(*self._names[name])),))
        return BEHAVIOURS.get(labels[0].partition("-")[0] if labels else "", nxdomain)(query)

    def _run(self, started: threading.Event) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        port = free_port()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("127.0.0.1", port))
        udp, _ = loop.run_until_complete(loop.create_datagram_endpoint(lambda: _Udp(self), sock=sock))
        tcp = loop.run_until_complete(asyncio.start_server(self._serve_tcp, "127.0.0.1", port))
        self.server = f"127.0.0.1:{port}"
        started.set()
        loop.run_forever()
        udp.close()
        tcp.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                reply = self.reply(await reader.readexactly(size), tcp=True)
                if reply.after:
                    await asyncio.sleep(reply.after)
                for message in reply.messages:
                    writer.write(struct.pack("!H", len(message)) + message)
                if reply.hang_up:
                    break
        writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: BadDns) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.reply(data, tcp=False)
        for message in reply.messages:
            if reply.after:
                asyncio.get_running_loop().call_later(reply.after, self._transport.sendto, message, addr)
            else:
                self._transport.sendto(message, addr)
