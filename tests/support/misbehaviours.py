"""How the nasty server is late, endless, cut off, or breaks HTTP. The docstrings are the manual."""

from __future__ import annotations

import asyncio

from support.behaviours import zeros_gzipped
from support.protocol import LONGEST, MIB, Exchange, behaviour


@behaviour("latency")
async def latency(x: Exchange) -> None:
    """?ms=100: a picture after that time."""
    await asyncio.sleep(min(x.arg("ms", 100) / 1000, LONGEST))
    await x.answer(200, *x.picture())


@behaviour("first-byte")
async def first_byte(x: Exchange) -> None:
    """?s=2: not a byte for that time, then a picture at once."""
    await x.pause("s", 2)
    await x.answer(200, *x.picture())


@behaviour("slow-first-byte")
async def slow_first_byte(x: Exchange) -> None:
    """?s=2: headers at once, the body after that time."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", len(body)))
    await x.pause("s", 2)
    await x.send(body)


@behaviour("hang")
async def hang(x: Exchange) -> None:
    """Takes the request and never answers."""
    await asyncio.sleep(LONGEST)
    x.close()


@behaviour("hang-headers")
async def hang_headers(x: Exchange) -> None:
    """Stops in the middle of the headers."""
    await x.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    await asyncio.sleep(LONGEST)
    x.close()


@behaviour("drip")
async def drip(x: Exchange) -> None:
    """?every=1&n=1000000: announces n bytes and sends one every `every` seconds."""
    total, body = int(x.arg("n", 1_000_000)), x.picture()[0] or b"\xff"
    await x.head(200, ("Content-Type", "image/jpeg"), ("Content-Length", total))
    await x.repeat(lambda i: body[i % len(body) :][:1], x.arg("every", 1), total)


@behaviour("drip-headers")
async def drip_headers(x: Exchange) -> None:
    """?every=1: one byte of a header that never ends, every so many seconds."""
    await x.send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    await x.repeat(lambda _: b"x", x.arg("every", 1))


@behaviour("huge-announce")
async def huge_announce(x: Exchange) -> None:
    """?every=1: announces 10**15 bytes and sends one every so many seconds."""
    await x.head(200, ("Content-Type", "image/jpeg"), ("Content-Length", 10**15))
    await x.repeat(lambda _: b"\xff", x.arg("every", 1))


@behaviour("gzip-drip")
async def gzip_drip(x: Exchange) -> None:
    """?mib=100&n=100&every=0.05: a gzip bomb, n bytes of it at a time; each grows a thousandfold."""
    body, size = await asyncio.to_thread(zeros_gzipped, min(int(x.arg("mib", 100)), 1024)), int(x.arg("n", 100))
    await x.head(200, ("Content-Type", "image/jpeg"), ("Content-Encoding", "gzip"), ("Content-Length", len(body)))
    await x.repeat(lambda i: body[i * size :][:size], x.arg("every", 0.05), -(-len(body) // size))


@behaviour("endless-headers")
async def endless_headers(x: Exchange) -> None:
    """?every=0.01: a hundred headers every so many seconds, without an end."""
    await x.send(b"HTTP/1.1 200 OK\r\n")
    await x.repeat(lambda i: b"".join(b"X-%d-%d: on and on\r\n" % (i, n) for n in range(100)), x.arg("every", 0.01))


@behaviour("endless-chunks")
async def endless_chunks(x: Exchange) -> None:
    """?every=0.001: a chunk of one byte every so many seconds, without an end."""
    await x.head(200, ("Content-Type", "image/jpeg"), ("Transfer-Encoding", "chunked"))
    await x.repeat(lambda _: b"1\r\nx\r\n", x.arg("every", 0.001))


@behaviour("continue-flood")
async def continue_flood(x: Exchange) -> None:
    """?every=0.01: fifty times 100 Continue every so many seconds, and nothing else."""
    await x.repeat(lambda _: b"HTTP/1.1 100 Continue\r\n\r\n" * 50, x.arg("every", 0.01))


@behaviour("reset")
async def reset(x: Exchange) -> None:
    """TCP RST in place of an answer."""
    x.reset()


@behaviour("reset-body")
async def reset_body(x: Exchange) -> None:
    """TCP RST in the middle of the body."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", len(body)))
    await x.send(body[: len(body) // 2])
    await asyncio.sleep(0.05)
    x.reset()


@behaviour("close")
async def close(x: Exchange) -> None:
    """Closes the connection in place of an answer."""
    x.close()


@behaviour("truncated")
async def truncated(x: Exchange) -> None:
    """Half of what Content-Length says, then closes."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", len(body)))
    await x.send(body[: len(body) // 2])
    x.close()


@behaviour("chunked-cut")
async def chunked_cut(x: Exchange) -> None:
    """Chunks without an end."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked"))
    await x.chunks(body[: len(body) // 2])
    x.close()


@behaviour("bad-chunk")
async def bad_chunk(x: Exchange) -> None:
    """A chunk size that is no number."""
    await x.head(200, ("Content-Type", "image/jpeg"), ("Transfer-Encoding", "chunked"))
    await x.send(b"zz\r\nnonsense\r\n")
    x.close()


@behaviour("keepalive-close")
async def keepalive_close(x: Exchange) -> None:
    """?ms=0: a picture and the promise to keep the connection, which is closed after that time all the same."""
    await x.answer(200, *x.picture(), ("Connection", "keep-alive"), ("Keep-Alive", "timeout=60, max=100"))
    await asyncio.sleep(min(x.arg("ms", 0) / 1000, LONGEST))
    x.close()


@behaviour("half-close")
async def half_close(x: Exchange) -> None:
    """A picture that ends when the server closes its side; the other side stays open until the client closes it.

    TLS has no such thing: there the connection is closed.
    """
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind))
    await x.send(body)
    if x.writer.can_write_eof():
        x.writer.write_eof()
        await asyncio.sleep(LONGEST)
    x.close()


@behaviour("upgrade")
async def upgrade(x: Exchange) -> None:
    """101 to a protocol that nobody asked for, a few bytes of that, then silence."""
    await x.head(101, ("Upgrade", "websocket"), ("Connection", "Upgrade"))
    await x.send(b"\x81\x05hello")
    await asyncio.sleep(LONGEST)
    x.close()


@behaviour("negative-length")
async def negative_length(x: Exchange) -> None:
    """A picture with Content-Length: -1, ended by the connection."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", -1))
    await x.send(body)
    x.close()


@behaviour("two-lengths")
async def two_lengths(x: Exchange) -> None:
    """A picture with two Content-Length headers: the right one, then one that is 100 more."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", len(body)), ("Content-Length", len(body) + 100))
    await x.send(body)
    x.close()


@behaviour("length-and-chunked")
async def length_and_chunked(x: Exchange) -> None:
    """A picture in chunks with a Content-Length that is half of it; RFC 9112, 6.3 lets the chunks win."""
    body, kind = x.picture()
    lengths = ("Content-Length", len(body) // 2), ("Transfer-Encoding", "chunked")
    await x.head(200, ("Content-Type", kind), *lengths)
    await x.chunks(body)
    await x.send(b"0\r\n\r\n")
    x.close()


@behaviour("http09")
async def http09(x: Exchange) -> None:
    """A picture without status line and headers, as HTTP/0.9 had it."""
    await x.send(x.picture()[0])
    x.close()


@behaviour("garbage")
async def garbage(x: Exchange) -> None:
    """Not HTTP at all."""
    await x.send(b"\x00\x01SSH-2.0-OpenSSH_9.9\r\n\xff\xfe" * 20)
    x.close()


@behaviour("huge-header")
async def huge_header(x: Exchange) -> None:
    """?n=1000000: a header of that many bytes before the picture."""
    body, kind = x.picture()
    filler = "x" * min(int(x.arg("n", 1_000_000)), 64 * MIB)
    await x.head(200, ("X-Filler", filler), ("Content-Type", kind), ("Content-Length", len(body)))
    await x.send(body)
