"""What the nasty server answers in good HTTP: pictures, statuses, redirects and encodings, of all sorts.

What is late, endless, cut off or no HTTP is in misbehaviours.py. The docstrings are the manual: they say which query
string and path a behaviour takes.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import hashlib
import json
import math
import time
import zlib
from email.utils import formatdate
from urllib.parse import quote, urlencode

from support.protocol import HOSTS, LONGEST, MIB, Exchange, Robots, behaviour


@behaviour("photo")
async def photo(x: Exchange) -> None:
    """A picture, fast; the query string is ignored."""
    found = x.site.load(x.rest)
    await (x.answer(200, *found) if found else x.not_found())


@behaviour("status")
async def status(x: Exchange) -> None:
    """/status/503?retry_after=1: that status, with that Retry-After (seconds or a date)."""
    code = int(x.rest)
    after = [("Retry-After", value) for value in x.query.get("retry_after", [])]
    if code in (204, 304):
        await x.head(code, *after)
    else:
        await x.answer(code, f"status {code}".encode(), "text/plain", *after)


@behaviour("flaky")
async def flaky(x: Exchange) -> None:
    """/flaky/ID?fail=2&status=503: the first `fail` requests for this ID fail, then a picture."""
    name = x.rest
    x.rest = ""
    x.site.flaky[name] += 1
    if x.site.flaky[name] <= x.arg("fail", 1):
        await x.answer(int(x.arg("status", 503)), b"try again", "text/plain")
    else:
        await x.answer(200, *x.picture())


@behaviour("throttle")
async def throttle(x: Exchange) -> None:
    """/throttle/ID?limit=5&per=1: a picture, but 429 to more than `limit` requests for this ID in `per` seconds.

    Retry-After says after how many whole seconds the next one is welcome. Requests that were refused do not count.
    """
    granted, now, per = x.site.granted[x.rest], time.monotonic(), x.arg("per", 1)
    x.rest = ""
    while granted and granted[0] <= now - per:
        granted.popleft()
    if len(granted) < x.arg("limit", 5):
        granted.append(now)
        await x.answer(200, *x.picture())
    else:
        wait = math.ceil(granted[0] + per - now) if granted else math.ceil(per)
        await x.answer(429, b"too fast", "text/plain", ("Retry-After", max(1, wait)))


@behaviour("retry-date")
async def retry_date(x: Exchange) -> None:
    """?s=2&status=503: that status, with a Retry-After that is the HTTP date so many seconds ahead, or a bit more."""
    date = formatdate(math.ceil(time.time() + x.arg("s", 2)), usegmt=True)
    await x.answer(int(x.arg("status", 503)), b"later", "text/plain", ("Retry-After", date))


@behaviour("auth")
async def auth(x: Exchange) -> None:
    """?user=user&password=secret or ?token=TOKEN: 401 unless these come as Basic or Bearer authorization.

    What came is in the header X-Authorization of the answer.
    """
    came = x.header("authorization")
    pair = f"{x.word('user', 'user')}:{x.word('password', 'secret')}"
    basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
    echo = ("X-Authorization", came)
    if came == (f"Bearer {x.query['token'][0]}" if "token" in x.query else basic):
        await x.answer(200, *x.picture(), echo)
    else:
        await x.answer(401, b"who are you?", "text/plain", ("WWW-Authenticate", 'Basic realm="nasty"'), echo)


@behaviour("robots.txt")
async def robots_txt(x: Exchange) -> None:
    """What `NastyServer.set_robots` said for the host by its name, else by its address; else 404."""
    for host in x.hosts:
        x.site.robots_counts[host] += 1
    rules = x.site.robots.get(x.name) or x.site.robots.get(x.address) or Robots()
    await asyncio.sleep(min(rules.delay, LONGEST))
    await x.answer(rules.status, rules.body, "text/plain", *rules.headers.items())


@behaviour("robots")
async def robots(x: Exchange) -> None:
    """?tag=noai&tag=mybot: noindex: a picture with these X-Robots-Tag headers."""
    await x.answer(200, *x.picture(), *(("X-Robots-Tag", tag) for tag in x.query.get("tag", [])))


@behaviour("echo-headers")
async def echo_headers(x: Exchange) -> None:
    """The request's headers as JSON: a list of [name, value]."""
    await x.answer(200, json.dumps(x.headers).encode(), "application/json")


@behaviour("206")
async def partial(x: Exchange) -> None:
    """206 with the first half of a picture, though nobody asked for a part."""
    body, kind = x.picture()
    half = body[: len(body) // 2]
    await x.answer(206, half, kind, ("Content-Range", f"bytes 0-{len(half) - 1}/{len(body)}"))


@behaviour("304")
async def not_modified(x: Exchange) -> None:
    """304, though nobody asked whether it changed."""
    await x.head(304, ("ETag", '"nasty"'))


@behaviour("text-404")
async def text_404(x: Exchange) -> None:
    """404 with a picture as its body, the way sites show that there is none."""
    await x.answer(404, *x.picture())


@behaviour("early-hints")
async def early_hints(x: Exchange) -> None:
    """103 first, then a picture."""
    await x.head(103, ("Link", "</style.css>; rel=preload; as=style"))
    await x.answer(200, *x.picture())


@behaviour("chunked")
async def chunked(x: Exchange) -> None:
    """A picture in chunks, as it should be."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked"))
    await x.chunks(body)
    await x.send(b"0\r\n\r\n")


@behaviour("trailers")
async def trailers(x: Exchange) -> None:
    """A picture in chunks with headers after it."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked"), ("Trailer", "X-Sha256"))
    await x.chunks(body)
    await x.send(b"0\r\nX-Sha256: %b\r\n\r\n" % hashlib.sha256(body).hexdigest().encode())


@behaviour("no-length")
async def no_length(x: Exchange) -> None:
    """A picture that ends with the connection."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Connection", "close"))
    await x.send(body)
    x.close()


@behaviour("typed")
async def typed(x: Exchange) -> None:
    """/typed/a.png?type=text/html: a picture under a wrong Content-Type; an empty type leaves it out."""
    body, kind = x.picture()
    kind = x.query.get("type", [kind])[0]
    await x.head(200, *([("Content-Type", kind)] if kind else []), ("Content-Length", len(body)))
    await x.send(body)


@behaviour("html")
async def html(x: Exchange) -> None:
    """200 with a page in place of a picture, the way hotlink protection does it."""
    await x.answer(200, b"<!doctype html><html><body>Please log in to see this picture</body></html>", "text/html")


@behaviour("empty")
async def empty(x: Exchange) -> None:
    """200 without a single byte."""
    await x.answer(200, b"", "image/jpeg")


@behaviour("half-picture")
async def half_picture(x: Exchange) -> None:
    """HTTP is fine, but the picture is only the first half of its file."""
    body, kind = x.picture()
    await x.answer(200, body[: len(body) // 2], kind)


@behaviour("big")
async def big(x: Exchange) -> None:
    """?n=1000000&length=1: n bytes of nothing; length=0 leaves out Content-Length (chunked)."""
    total, block = min(int(x.arg("n", MIB)), 1024 * MIB), bytes(65536)
    announced = x.arg("length", 1)
    size = ("Content-Length", total) if announced else ("Transfer-Encoding", "chunked")
    await x.head(200, ("Content-Type", "image/jpeg"), size)
    for start in range(0, total, len(block)):
        part = block[: total - start]
        await (x.send(part) if announced else x.chunks(part, len(block)))
    if not announced:
        await x.send(b"0\r\n\r\n")


@behaviour("gzip")
async def gzipped(x: Exchange) -> None:
    """A picture with Content-Encoding: gzip, whether asked for or not."""
    body, kind = x.picture()
    await x.answer(200, gzip.compress(body), kind, ("Content-Encoding", "gzip"))


@behaviour("deflate")
async def deflate(x: Exchange) -> None:
    """?raw=0: a picture with Content-Encoding: deflate; raw=1 without the zlib header, as some servers have it."""
    body, kind = x.picture()
    packed = zlib.compress(body)
    await x.answer(200, packed[2:-4] if x.arg("raw", 0) else packed, kind, ("Content-Encoding", "deflate"))


@behaviour("bad-gzip")
async def bad_gzip(x: Exchange) -> None:
    """Says gzip, but it is not."""
    await x.answer(200, *x.picture(), ("Content-Encoding", "gzip"))


@behaviour("bad-brotli")
async def bad_brotli(x: Exchange) -> None:
    """Says brotli, but it is not."""
    await x.answer(200, *x.picture(), ("Content-Encoding", "br"))


@functools.cache
def zeros_gzipped(mib: int) -> bytes:
    return gzip.compress(bytes(mib * MIB), compresslevel=6)


@behaviour("gzip-bomb")
async def gzip_bomb(x: Exchange) -> None:
    """?mib=100: about a thousandth of that on the wire."""
    body = await asyncio.to_thread(zeros_gzipped, min(int(x.arg("mib", 100)), 1024))
    await x.answer(200, body, "image/jpeg", ("Content-Encoding", "gzip"))


async def redirect_to(x: Exchange, location: str) -> None:
    await x.head(int(x.arg("code", 302)), ("Location", location), ("Content-Length", 0))


@behaviour("redirect")
async def redirect(x: Exchange) -> None:
    """/redirect/3/photo/a.jpg?code=302: three redirects, then /photo/a.jpg."""
    left, _, target = x.rest.partition("/")
    code = int(x.arg("code", 302))
    more = f"/redirect/{int(left) - 1}/{target}?code={code}"
    await redirect_to(x, quote(f"/{target}") if int(left) <= 1 else quote(more, safe="/?=&"))


@behaviour("redirect-loop")
async def redirect_loop(x: Exchange) -> None:
    """Redirects to itself."""
    await redirect_to(x, x.target)


@behaviour("redirect-to")
async def redirect_anywhere(x: Exchange) -> None:
    """?url=URL&code=302: redirects there."""
    await redirect_to(x, x.query["url"][0])


@behaviour("redirect-file")
async def redirect_file(x: Exchange) -> None:
    """Redirects to a file of the client's machine."""
    await redirect_to(x, "file:///etc/passwd")


@behaviour("redirect-ftp")
async def redirect_ftp(x: Exchange) -> None:
    """To an ftp URL of this host."""
    await redirect_to(x, f"ftp://{x.address}:{x.port}/photo.jpg")


@behaviour("redirect-private")
async def redirect_private(x: Exchange) -> None:
    """?to=10.0.0.1: to an address that nobody outside should reach."""
    await redirect_to(x, f"http://{x.word('to', '10.0.0.1')}/")


@behaviour("redirect-host")
async def redirect_host(x: Exchange) -> None:
    """/redirect-host/photo/a.jpg?to=127.0.0.2&code=302: to /photo/a.jpg of the same server under that host."""
    query = urlencode({name: values[0] for name, values in x.query.items() if name not in {"to", "code"}})
    to = x.word("to", HOSTS[1])
    host = f"[{to}]" if ":" in to else to
    await redirect_to(x, f"{x.scheme}://{host}:{x.port}/{quote(x.rest or 'photo/')}{'?' * bool(query)}{query}")


@behaviour("redirect-relative")
async def redirect_relative(x: Exchange) -> None:
    """/redirect-relative/a.jpg: to ../photo/a.jpg."""
    await redirect_to(x, quote(f"../photo/{x.rest}"))


@behaviour("redirect-slow")
async def redirect_slow(x: Exchange) -> None:
    """/redirect-slow/3/a.jpg?s=1: three redirects that take a second each, then /photo/a.jpg.

    No single request takes long: only a deadline over all of them ends it.
    """
    left, _, name = x.rest.partition("/")
    await x.pause("s", 1)
    if int(left or 3) <= 1:
        await redirect_to(x, quote(f"/photo/{name}"))
    else:
        await redirect_to(x, f"/redirect-slow/{int(left or 3) - 1}/{quote(name)}?s={x.arg('s', 1)}")


@behaviour("redirect-empty")
async def redirect_empty(x: Exchange) -> None:
    """?code=302: that status without a Location."""
    await x.answer(int(x.arg("code", 302)), b"elsewhere", "text/plain")


BAD_LOCATIONS = {
    "no-host": "http://",
    "port": "http://127.0.0.1:99999/",
    "scheme": "://photo",
    "brackets": "http://[::1/photo/",
    "control": "/photo/\x01\x1b\x7f?bad",
    "nul": "/photo/?bad\x00bad",
    "cr": "/photo/?bad\rX-Injected: yes",
    "crlf": "/photo/?bad%0d%0aX-Injected:%20yes",
    "space": "/photo/?bad and bad",
    "latin1": "/photo/?b\xe4d",
    "utf8": "/photo/?b\xc3\xa4d",
}


@behaviour("redirect-bad")
async def redirect_bad(x: Exchange) -> None:
    """/redirect-bad/KIND: to something that is no URL, or hardly one; the kinds are those of `BAD_LOCATIONS`.

    `crlf`, `space`, `latin1` and `utf8` lead to a picture when they are taken for what they mean.
    """
    await redirect_to(x, BAD_LOCATIONS[x.rest or "no-host"])
