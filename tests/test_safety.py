"""A list is hostile input: where it may lead, what goes out with a request, and which bytes a request is made of.

Most of it happens in a network of its own, in which every private address is at hand and answers: a connection that
should not be made would arrive.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import trustme
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import dns, fetching
from support.dns import BadDns, Dnsmasq
from support.fetching import code
from support.namespace import Namespace
from support.recorder import Recorder
from support.server import NastyServer

from img2dataset_dist import download
from img2dataset_dist.errors import BadUrl
from img2dataset_dist.fetchers import FetchContext, curl, resolver
from img2dataset_dist.fetchers.host_table import HostRule, HostTable
from img2dataset_dist.model import Fetched
from img2dataset_dist.urls import MAX_URL_LENGTH, parse

PUBLIC, PUBLIC6 = "93.184.216.34", "2606:2800:220:1::1"
OPEN = {PUBLIC, PUBLIC6}
INTERNAL = (
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.200", "169.254.169.254", "169.254.170.2",
    "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "203.0.113.1", "240.0.0.1", "fd00:ec2::254", "fec0::1",
    "2001:db8::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2001:0:5db8:d822::f5ff:fffe",
    "::127.0.0.1", "::ffff:0:7f00:1",
)  # fmt: skip


def fetch(urls: list[str | None], context: FetchContext | None = None, **options: Any) -> list[Fetched]:
    """As a list is fetched by default: not from this machine."""
    return fetching.fetch(urls, context, **({"allow_private_addresses": False} | options))


def codes(urls: list[str], context: FetchContext | None = None, **options: Any) -> dict[str, str]:
    return {url: code(f) for url, f in zip(urls, fetch([*urls], context, **options), strict=True)}


def rules(**by_host: HostRule) -> FetchContext:
    """Keyword arguments cannot have dots: `a_test` is `a.test`, `any` is `*`."""
    table = {"*" if name == "any" else name.replace("_", "."): rule for name, rule in by_host.items()}
    return FetchContext(table=HostTable(rules=table, ignored=frozenset()))


@dns.behaviour
def cnamelocal(query: dns.Query) -> dns.Reply:
    """An alias of localhost, with the address of that."""
    alias = dns.record(dns.CNAME, dns.packed("localhost"))
    address = dns.packed("localhost") + dns.record(dns.A, b"\x7f\0\0\1")[2:]
    return dns.Reply((query.answer(alias, *([address] if query.kind == dns.A else [])),))


@dns.behaviour
def cnamebare(query: dns.Query) -> dns.Reply:
    """An alias of localhost, whose address everybody knows."""
    return dns.Reply((query.answer(dns.record(dns.CNAME, dns.packed("localhost"))),))


NAMES = {
    "open.test": [PUBLIC],
    "six.test": [PUBLIC6],
    "both.test": ["127.0.0.1", PUBLIC, "10.0.0.1", "::1", "fd00:ec2::254"],
    "home.test": ["127.0.0.1"],
    "home6.test": ["::1"],
    "inside.test": ["10.0.0.1", "192.168.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"],
    "metadata.test": ["169.254.169.254"],
    "zero.test": ["0.0.0.0", "::"],
}


class World(NamedTuple):
    """A network in which everything is reachable on port 80."""

    space: Namespace
    site: Recorder
    dns: BadDns

    def fetch(self, urls: list[str], context: FetchContext | None = None, **options: Any) -> list[Fetched]:
        with self.space.inside():
            return fetch([*urls], context, **({"dns_servers": (self.dns.server,)} | options))

    def codes(self, urls: list[str], context: FetchContext | None = None, **options: Any) -> dict[str, str]:
        return {url: code(f) for url, f in zip(urls, self.fetch(urls, context, **options), strict=True)}


@pytest.fixture(scope="module")
def picture(photo_folder: Path) -> bytes:
    return (photo_folder / "photo_00000.jpg").read_bytes()


@pytest.fixture(scope="module")
def the_world(picture: bytes) -> Iterator[World]:
    with Namespace([PUBLIC, PUBLIC6, *INTERNAL]) as space, contextlib.ExitStack() as stack:
        with space.inside():
            site = stack.enter_context(Recorder(picture, port=80))
            names = stack.enter_context(BadDns(NAMES))
        yield World(space, site, names)


@pytest.fixture
def world(the_world: World) -> World:
    the_world.site.clear()
    the_world.site.locations.clear()
    return the_world


@pytest.fixture
def site(picture: bytes) -> Iterator[Recorder]:
    with Recorder(picture, host="127.0.0.1") as running:
        yield running


# where a list may lead

LITERALS = [
    "127.0.0.1", "127.0.0.2", "127.1", "127.0.1", "0x7f000001", "0X7F.1", "2130706433", "017700000001", "0177.0.0.1",
    "127.0.0.1.", "0.0.0.0", "0", "localhost", "localhost.", "LocalHost", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0.0.0.0]", "[::ffff:169.254.169.254]", "[::127.0.0.1]",
    "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1", "\uff11\uff12\uff17.0.0.1", "127\u20240\u20240\u20241",
    "\uff10x7f.1", "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "l\xadocalhost",
    "2852039166", "0xa9fea9fe", "169.16689662", "255.255.255.255", "224.0.0.1", "[ff02::1]", "[fe80::1]",
    *(f"[{address}]" if ":" in address else address for address in INTERNAL),
]  # fmt: skip
DISGUISES = [
    "http://example.com@127.0.0.1/", "http://93.184.216.34@127.0.0.1/", "http://93.184.216.34:80@127.0.0.1:80/",
    "http://127.0.0.1#@example.com/", "http://127.0.0.1?@93.184.216.34/", "http://127.0.0.1/@93.184.216.34/",
    "http://93.184.216.34\\@127.0.0.1/", "http://a@93.184.216.34@127.0.0.1/", "http://[::1]:80/", "http://127.0.0.1:/",
    "http://127.0.0.1:00080/", "HTTP://127.0.0.1/", "http://home.test/", "http://home6.test/", "http://inside.test/",
    "http://metadata.test/", "http://zero.test/", "http://home.test./", "http://HOME.test/", "http://cnamelocal.test/",
]  # fmt: skip
NONSENSE = [
    "http:\\\\127.0.0.1/", "http:/127.0.0.1/", "http:///127.0.0.1/", "http:127.0.0.1", "http://[::1%25lo]/",
    "http://[fe80::1%25lo]/", "http://[127.0.0.1]/", "http://127.0.0.1\\/", "http://127.0.0.1%2f@93.184.216.34:x/",
    "http://127.0.0.1\t/", "http://127.0.0.\n1/", "http://127.0.0.1%00.example.com/",
    "http://127.0.0.1:0/",
]  # fmt: skip
PRIVATE = [*(f"http://{host}/" for host in LITERALS), *DISGUISES]


def test_no_private_address_is_connected_to(world: World) -> None:
    found = world.codes(PRIVATE)
    assert {url: got for url, got in found.items() if got != "blocked_address"} == {}
    assert list(world.codes(["http://cnamebare.test/"]).values()) == ["dns"]
    assert world.site.reached == set()


def test_what_is_no_url_leads_nowhere(world: World) -> None:
    found = world.codes(NONSENSE)
    assert {url: got for url, got in found.items() if got != "bad_url"} == {}
    assert world.site.reached == set()


def test_the_error_says_how_it_is_allowed_and_where_the_row_ended(world: World) -> None:
    direct, redirected = world.fetch(["http://127.1/x", f"http://{PUBLIC}/to?http://10.0.0.1/y"])
    for found, url in ((direct, "http://127.0.0.1/x"), (redirected, "http://10.0.0.1/y")):
        assert found.failure is not None
        assert "allow_private_addresses=True" in found.failure.message
        assert not found.failure.transient
        assert (found.facts.final_url, found.facts.attempts, found.facts.http_status) == (url, 1, None)


def test_public_addresses_are_connected_to(world: World) -> None:
    urls = [
        f"http://{PUBLIC}/",
        f"http://[{PUBLIC6}]/",
        "http://open.test/",
        "http://six.test/",
        "http://\u24deopen.test/",
    ]
    found = list(world.codes(urls).values())
    assert found == ["success"] * 4 + ["dns"]
    assert world.site.reached == OPEN


def test_all_of_it_is_there_for_those_who_allow_it(world: World) -> None:
    """So the tests above would notice a connection."""
    unreachable = ("255.255.255.255", "224.0.0.1", "[ff02::1]", "[fe80::1]")
    urls = [url for url in PRIVATE if not any(host in url for host in unreachable)]
    found = world.codes(urls, allow_private_addresses=True)
    odd = {url: got for url, got in found.items() if got != "success"}
    assert set(odd) <= {"http://[::ffff:0.0.0.0]/"}, "which the kernel does not do"
    assert {"127.0.0.1", "::1", "169.254.169.254", "10.0.0.1", "64:ff9b::7f00:1"} <= world.site.reached


def test_redirects_do_not_lead_inside(world: World) -> None:
    """From a host that is allowed, and over several of them."""
    to = [f"http://{PUBLIC}/to?{quote(url)}" for url in PRIVATE]
    found = world.codes(to)
    assert {url: got for url, got in found.items() if got != "blocked_address"} == {}
    more = [
        f"http://{PUBLIC}/to?{quote(f'http://[{PUBLIC6}]/to?' + quote('http://127.0.0.1/'))}",
        f"http://{PUBLIC}/to?//127.0.0.1/",
        f"http://open.test/to?{quote('http://home.test/')}",
    ]
    assert set(world.codes(more).values()) == {"blocked_address"}
    assert world.site.reached == OPEN


def test_nonsense_in_a_redirect_leads_nowhere_else(world: World) -> None:
    """What is no URL is an error or a path of the same host."""
    nonsense = [*NONSENSE, "\\\\127.0.0.1/", "/\\127.0.0.1/", "http:\\/127.0.0.1/", ":80@127.0.0.1/", "@127.0.0.1/"]
    found = world.codes([f"http://{PUBLIC}/to?{quote(url)}" for url in nonsense])
    assert set(found.values()) <= {"protocol", "success", "blocked_address"}
    assert world.site.reached == {PUBLIC}


def test_redirects_lead_inside_for_those_who_allow_it(world: World) -> None:
    found = world.codes([f"http://{PUBLIC}/to?http://{host}/" for host in ("10.0.0.1", "[::1]", "169.254.169.254")],
                        allow_private_addresses=True)  # fmt: skip
    assert set(found.values()) == {"success"}
    assert world.site.reached == {PUBLIC, "10.0.0.1", "::1", "169.254.169.254"}


def test_of_several_addresses_only_the_public_one_is_tried(world: World, picture: bytes) -> None:
    assert world.codes(["http://both.test/"] * 1) == {"http://both.test/": "success"}
    assert world.site.reached == {PUBLIC}
    with world.space.inside():
        inside = [Recorder(picture, host=host, port=81) for host in ("127.0.0.1", "10.0.0.1", "::1", "fd00:ec2::254")]
    for one in inside:
        one.__enter__()
    try:
        assert world.codes(["http://both.test:81/"], retries=3) == {"http://both.test:81/": "connect"}
        assert [one.reached for one in inside] == [set()] * 4
    finally:
        for one in inside:
            one.__exit__()


def test_a_name_that_moves_home_between_two_tries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is to be kept for no time at all; a connection that is open already may be used on."""
    monkeypatch.setattr(resolver, "SHORTEST", 0.0)
    (found,) = world.fetch(["http://rebind.test/busy"], retries=4)
    assert (code(found), found.facts.attempts) == ("blocked_address", 2)
    assert world.site.reached == {PUBLIC}


def test_a_name_that_moves_home_is_kept_where_it_was(world: World) -> None:
    (found,) = world.fetch(["http://rebind-2.test/busy"], retries=3)
    assert (code(found), found.facts.attempts) == ("http_503", 4)
    assert world.site.reached == {PUBLIC}


def test_many_rows_of_names_that_move(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "SHORTEST", 0.0)
    urls = [f"http://rebind-{n % 40 + 10}.test/to?http://rebind-{n % 40 + 50}.test/{n}" for n in range(400)]
    found = world.fetch(urls)
    assert {code(f) for f in found} == {"success", "blocked_address"}
    assert world.site.reached == {PUBLIC}


@pytest.mark.parametrize("names", [{"home.test": ["127.0.0.1"], "six.test": ["::1"], "inside.test": ["10.9.8.7"]}])
def test_names_of_a_real_resolver(names: dict[str, list[str]], server: NastyServer) -> None:
    before = server.connections()
    with Dnsmasq(names) as real:
        found = codes([f"http://{name}:{server.port}/photo/" for name in names], dns_servers=[real.server])
    assert set(found.values()) == {"blocked_address"}
    assert server.connections() == before


def test_the_last_word_is_at_the_socket(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should anything before it ever be wrong, the address that is connected to is looked at once more."""
    monkeypatch.setattr(curl, "is_public", lambda _: True)
    found = world.codes([*PRIVATE, *(f"http://{PUBLIC}/to?{quote(url)}" for url in PRIVATE)])
    assert {url: got for url, got in found.items() if got != "blocked_address"} == {}
    assert world.site.reached == {PUBLIC}


def test_robots_txt_is_no_way_inside(world: World) -> None:
    world.site.locations[b"/robots.txt"] = b"http://10.0.0.1/robots.txt"
    assert list(world.codes([f"http://{PUBLIC}/x"], robots_txt="respect").values()) == ["disallowed_by_robots"]
    assert world.site.targets == [b"/robots.txt"]
    assert world.site.reached == {PUBLIC}
    world.site.clear()
    assert list(world.codes(["http://10.0.0.1/x"], robots_txt="respect").values()) == ["blocked_address"]
    assert world.site.reached == set()


def job(tmp_path: Path, urls: list[str], **more: Any) -> dict[str, Any]:
    (tmp_path / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
    return {
        "url_list": str(tmp_path / "urls.txt"), "output_folder": str(tmp_path / "out"), "output_format": "parquet",
        "image_size": 32, "timeout": 5, "progress": "none",
    } | more  # fmt: skip


def test_a_whole_job(world: World, tmp_path: Path) -> None:
    urls = [f"http://{PUBLIC}/x", "http://127.0.0.1/", f"http://{PUBLIC}/to?http://[::1]/", "http://home.test/"]
    with world.space.inside():
        stats = download(**job(tmp_path, urls, dns_servers=[world.dns.server], distributor="inline"))
    rows = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert [row["error_code"] for row in rows] == [None, *["blocked_address"] * 3]
    assert "allow_private_addresses=True" in rows[1]["error_message"]
    assert (stats.count, stats.successes) == (4, 1)
    assert world.site.reached == {PUBLIC}


def test_a_whole_job_of_processes(server: NastyServer, tmp_path: Path) -> None:
    before = server.connections()
    urls = [server.url("/photo/"), server.url("/photo/", host="localhost"), server.url("/photo/", host="127.1")]
    download(**job(tmp_path, urls, processes_count=1))
    rows = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert [row["error_code"] for row in rows] == ["blocked_address"] * 3
    assert server.connections() == before


# proxies

ENVIRONMENT = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def test_proxies_of_the_environment_are_none_of_ours(
    site: Recorder, monkeypatch: pytest.MonkeyPatch, picture: bytes
) -> None:
    with Recorder(picture, host="127.0.0.1") as proxy:
        for name in ENVIRONMENT:
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        url = f"http://127.0.0.1:{site.port}/x"
        assert codes([url], allow_private_addresses=True) == {url: "success"}
        assert codes(["https://127.0.0.1:1/x"], allow_private_addresses=True) == {"https://127.0.0.1:1/x": "connect"}
        assert (site.targets, proxy.reached) == ([b"/x"], set())


PROXY = HostRule(proxy="http://10.0.0.1:80")


@pytest.mark.parametrize("no_proxy", [None, "*", "127.0.0.1,localhost,.test,proxied.test"])
def test_the_proxy_of_the_host_table_may_be_anywhere(
    world: World, monkeypatch: pytest.MonkeyPatch, no_proxy: str | None
) -> None:
    """`no_proxy` of the environment would have us connect to the host itself, whose address nobody has looked at."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        if no_proxy is not None:
            monkeypatch.setenv(name, no_proxy)
    urls = ["http://proxied.test/x", "http://localhost/y"]
    assert set(world.codes(urls, rules(any=PROXY)).values()) == {"success"}
    assert sorted(world.site.targets) == [b"http://localhost/y", b"http://proxied.test/x"]
    assert world.site.reached == {"10.0.0.1"}


def test_the_proxy_of_one_host_is_no_way_to_others(world: World) -> None:
    """Handles are used again, and what one host may must not stay with them."""
    context = rules(proxied_test=PROXY)
    urls = [f"http://proxied.test/to?http://{host}/" for host in ("127.0.0.1", "10.0.0.1", "home.test", "open.test")]
    found = world.codes([*urls, "http://10.0.0.1/", "http://home.test/"], context, thread_count=1)
    assert list(found.values()) == [*["blocked_address"] * 3, "success", *["blocked_address"] * 2]
    assert {address for address, head in world.site.heads if b"proxied" not in head} == {PUBLIC}


# what goes out with a request


def headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


USER, KEY = "Basic dXNlcjpzZWNyZXQ=", "Bearer 123"


@pytest.mark.parametrize(
    ("location", "last"),
    [
        ("/x", USER),
        ("?/x", USER),
        (f"http://{PUBLIC}/x", None),
        (f"//{PUBLIC}/x", None),
        (f"http://[{PUBLIC6}]/x", None),
        (f"//[{PUBLIC6}]/x", None),
        ("http://six.test/x", None),
        ("http://open.test/x", None),
    ],
)
def test_user_and_password_go_no_further_than_a_relative_redirect(
    world: World, location: str, last: str | None
) -> None:
    world.site.locations[b"/from"] = location.encode()
    (found,) = world.fetch([f"http://user:secret@{PUBLIC}/from"])
    assert code(found) == "success"
    assert [headers(head).get("authorization") for _, head in world.site.heads] == [USER, last]
    for _, head in world.site.heads[1:]:
        assert last or b"secret" not in head
        assert b"referer" not in head.lower()


def test_headers_of_the_host_table_are_for_their_host(world: World) -> None:
    context = rules(open_test=HostRule(headers=(("Authorization", KEY), ("X-Key", "7"))))
    urls = [f"http://open.test/to?http://{host}/x" for host in (PUBLIC, f"[{PUBLIC6}]", "six.test", "open.test")]
    for thread_count in (1, 4):
        world.site.clear()
        assert set(world.codes([*urls, "http://six.test/"], context, thread_count=thread_count).values()) == {"success"}
        assert len(world.site.heads) == 9
        for _, head in world.site.heads:
            sent = headers(head)
            ours = sent["host"] == "open.test"
            assert (sent.get("authorization"), sent.get("x-key")) == ((KEY, "7") if ours else (None, None))


def test_no_cookie_is_kept(world: World) -> None:
    urls = [f"http://{PUBLIC}/{n}" for n in range(20)] + [f"http://{PUBLIC}/to?/x"]
    assert set(world.codes(urls, thread_count=2).values()) == {"success"}
    assert len(world.site.heads) == 22
    assert not any("cookie" in headers(head) for _, head in world.site.heads)


def test_no_netrc_is_read(site: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\nlogin user\npassword secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert code(fetch([f"http://127.0.0.1:{site.port}/"], allow_private_addresses=True)[0]) == "success"
    assert "authorization" not in headers(site.heads[0][1])


# TLS


class Tls(NamedTuple):
    site: Recorder
    url: str
    ca: str


Start = Callable[..., Tls]


@pytest.fixture
def tls(picture: bytes, tmp_path: Path) -> Iterator[Start]:
    running: list[Recorder] = []

    def start(*names: str, **certificate: Any) -> Tls:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or ("127.0.0.1",)), **certificate).configure_cert(context)
        path = tmp_path / f"ca-{len(running)}.pem"
        authority.cert_pem.write_to_path(str(path))
        running.append(Recorder(picture, host="127.0.0.1", context=context))
        running[-1].__enter__()
        return Tls(running[-1], f"https://127.0.0.1:{running[-1].port}", str(path))

    yield start
    for one in running:
        one.__exit__()


def tls_code(url: str, **options: Any) -> str:
    (found,) = fetch([url], allow_private_addresses=True, **options)
    return code(found)


def test_certificates_are_verified(tls: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    fine, other, expired = tls(), tls("other.test"), tls(not_after=yesterday)
    assert tls_code(fine.url) == "tls", "nobody trusts its authority"
    for one, expected in ((fine, "success"), (other, "tls"), (expired, "tls")):
        monkeypatch.setenv("SSL_CERT_FILE", one.ca)
        assert tls_code(one.url) == expected
    assert (other.site.heads, expired.site.heads) == ([], []), "not a byte of a request"
    for one in (fine, other, expired):
        assert tls_code(one.url, ignore_ssl_certificate=True) == "success"
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    assert tls_code(fine.url) == "tls"


def test_a_name_is_compared_with_the_certificate(tls: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one = tls("fine.test")
    monkeypatch.setenv("SSL_CERT_FILE", one.ca)
    with BadDns({"fine.test": ["127.0.0.1"], "wrong.test": ["127.0.0.1"]}) as names:
        for host, expected in (("fine.test", "success"), ("FINE.test.", "success"), ("wrong.test", "tls")):
            assert tls_code(f"https://{host}:{one.site.port}/", dns_servers=[names.server]) == expected, host


def test_redirects_between_http_and_https(tls: Start, site: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    one = tls()
    monkeypatch.setenv("SSL_CERT_FILE", one.ca)
    assert tls_code(f"{one.url}/to?http://127.0.0.1:{site.port}/x") == "success"
    assert tls_code(f"http://127.0.0.1:{site.port}/to?{one.url}/y") == "success"
    assert (site.targets[0], one.site.targets[-1]) == (b"/x", b"/y")


# which bytes a request is made of

BAD = "bad_url"
LONG = MAX_URL_LENGTH
REQUESTS: list[tuple[str, str]] = [
    ("/plain", "/plain"),
    ("/a\rb", BAD),
    ("/a\nb", BAD),
    ("/a\r\nX-Injected: yes", BAD),
    ("/a HTTP/1.1\r\nHost: evil\r\n\r\nGET /b", BAD),
    ("/a\0b", BAD),
    ("/a\tb", BAD),
    *((f"/a{chr(control)}b", BAD) for control in (1, 8, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F)),
    ("/a\x80b\x9f", "/a%C2%80b%C2%9F"),
    ("/a\u2028b\u2029", "/a%E2%80%A8b%E2%80%A9"),
    ("/a\u560a\u560d", "/a%E5%98%8A%E5%98%8D"),  # of which the last bytes alone would be LF and CR
    ("/a b  c", "/a%20b%20%20c"),
    ("/a HTTP/1.1", "/a%20HTTP/1.1"),
    ("/a\u00a0b\u3000", "/a%C2%A0b%E3%80%80"),
    ("/\u00fc/\u65e5\u672c.jpg?q=\u00e9&r=\U0001f600", "/%C3%BC/%E6%97%A5%E6%9C%AC.jpg?q=%C3%A9&r=%F0%9F%98%80"),
    ("/%0d%0aX-Injected:%20yes", "/%0D%0AX-Injected:%20yes"),  # libcurl writes them in capitals
    ("/?%0d%0aX-Injected:%20yes", "/?%0d%0aX-Injected:%20yes"),
    ("/%00%0A?%0D%0A", "/%00%0A?%0D%0A"),
    ("/%zz%", "/%zz%"),
    ("/\ud800", BAD),
    ("/?\udfff", BAD),
    ("/\ufffd", BAD),
    ('/"<>`{}|^', "/%22%3C%3E%60%7B%7D%7C%5E"),
    ("/a\\b\\..\\c", "/a%5Cb%5C..%5Cc"),
    ("/a#b\u00e9", "/a"),
    ("", "/"),
    ("?", "/"),
    ("?a b", "/?a%20b"),
    ("//" * 1000, "//" * 1000),
    ("/" * (LONG - 50), "/" * (LONG - 50)),
    ("/" + "x" * 10_000, BAD),
    ("/" + "\u00e9" * 2000, BAD),
    ("/../../etc/passwd", "/etc/passwd"),
    ("/a/./b/../c", "/a/c"),
    ("/@b:c@d", "/@b:c@d"),
    (" \r\n\t", "/"),
]  # fmt: skip


def test_which_bytes_are_sent(site: Recorder) -> None:
    for text, expected in REQUESTS:
        site.clear()
        (found,) = fetch([f"http://127.0.0.1:{site.port}{text}"], allow_private_addresses=True)
        if expected == BAD:
            assert (code(found), site.reached) == (BAD, set()), repr(text)
        else:
            assert (code(found), site.targets) == ("success", [expected.encode()]), repr(text)
            assert only_what_we_send(site.heads[0][1])


@pytest.mark.parametrize("length", [LONG - 1, LONG, LONG + 1])
def test_the_longest_url(site: Recorder, length: int) -> None:
    url = f"http://127.0.0.1:{site.port}/".ljust(length, "x")
    assert codes([url], allow_private_addresses=True) == {url: "success" if length <= LONG else BAD}
    assert [len(target) for target in site.targets] == (
        [length - len(f"http://127.0.0.1:{site.port}")] if length <= LONG else []
    )


@pytest.mark.parametrize(
    "url",
    [
        None, "", " ", "http://", "http:///x", "http://:80/", "http://@/", "http://user@/", "http://?x", "http://#x",
        "http://{}:0/", "http://{}:65536/", "http://{}:abc/", "http://{}:-1/", "http://{}:8 0/", "http://{}:80:80/",
        "http://{}:\uff18\uff10/", "http://{} /", "http://{}%0d%0a/", "http://{}\r\nX: y/", "http://{}\0/", "http://{}\t.x/",
        "http://[{}]/", "http://[/", "http://]/", "http://..../", "http:{}", "//{}/", "{}/x", "http//{}/", "://{}/",
        "http://\u00e9" + "x" * 300 + ".test/", "http://" + "a." * 200 + "test/x" * 2000, "http://\ud800/", "http://a\u2100b/",
        "http://" + "/" * 5000, "javascript:alert(1)", "gopher://{}/", "dict://{}:1/", "ldap://{}/", "HTTPX://{}/",
    ],
)  # fmt: skip
def test_what_is_no_url(site: Recorder, url: str | None) -> None:
    text = None if url is None else url.replace("{}", "127.0.0.1")
    (found,) = fetch([text], allow_private_addresses=True)
    assert code(found) in ((BAD,) if url is None or "a." * 200 not in url else (BAD, "dns"))
    assert site.reached == set()


def test_international_hosts_are_asked_for_in_ascii(site: Recorder) -> None:
    urls = [f"http://{host}:{site.port}/" for host in ("b\u00fccher.test", "B\u00dcCHER.test", "xn--bcher-kva.test")]
    with BadDns({"xn--bcher-kva.test": ["127.0.0.1"]}) as names:
        found = codes(urls, dns_servers=[names.server], allow_private_addresses=True)
    assert set(found.values()) == {"success"}
    assert {headers(head)["host"] for _, head in site.heads} == {f"xn--bcher-kva.test:{site.port}"}


LOCATIONS: list[tuple[bytes, bytes | None]] = [
    (b"/x", b"/x"),
    (b"/a%0d%0aX-Injected:%20yes", b"/a%0D%0AX-Injected:%20yes"),
    (b"/a b", b"/a%20b"),
    (b"/a\tb", b"/ab"),  # as browsers do, these are left out (WHATWG URL)
    (b"/a\rX-Injected: yes", None),
    (b"/a\0b", None),
    (b"/a\x01b", None),
    (b"/a\x7fb", None),
    (b"/b\xe4d", b"/b%C3%A4d"),
    (b"/b\xc3\xa4d", b"/b%C3%A4d"),
    (b"/\xed\xa0\x80", b"/%C3%AD%C2%A0%C2%80"),
    (b"\\\\evil\\x", b"/%5C%5Cevil%5Cx"),
    (b"#x", None),  # back to where it was
    (b"", None),
    (b"?q", b"/from?q"),
    (b"http:", None),
    (b"http://", None),
    (b"http://[::1", None),
    (b"http://127.0.0.1:99999/", None),
    (b"http://127.0.0.1:0/", None),
    (b"/" + b"x" * 9000, None),
    (b"/" * 3000, b"/" * 2998),  # the first two are before the host, which is left out
    (b"file:///etc/passwd", None),
    (b"FILE:/etc/passwd", None),
    (b"gopher://127.0.0.1/", None),
    (b"data:image/png;base64,AAAA", None),
    (b"javascript:alert(1)", None),
]


def test_which_bytes_a_redirect_makes_us_send(site: Recorder) -> None:
    for location, expected in LOCATIONS:
        site.clear()
        site.locations[b"/from"] = location
        (found,) = fetch([f"http://127.0.0.1:{site.port}/from"], allow_private_addresses=True)
        assert all(only_what_we_send(head) for _, head in site.heads), location
        if expected is None:
            assert found.failure is not None, location
            assert not any(b"Injected" in head for _, head in site.heads), location
            assert code(found) in ("protocol", "redirect_refused", "redirect_loop", "http_302"), location
            assert site.targets == [b"/from"], location
        else:
            assert (code(found), site.targets) == ("success", [b"/from", expected]), location


HEAD = re.compile(
    rb"GET [!-~]+ HTTP/1\.1\r\nHost: [!-~]+\r\n(?:Authorization: Basic [0-9A-Za-z+/=]*\r\n)?User-Agent: [ -~]+\r\n"
    rb"Accept: \*/\*\r\nAccept-Encoding: [a-z, ]+\r\n\r\n"
)


def only_what_we_send(head: bytes) -> bool:
    """One request line and our own headers, each once."""
    return HEAD.fullmatch(head) is not None


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=30)
PIECES = st.lists(
    st.sampled_from(["\r", "\n", "\r\n", "\0", "\t", " ", "%0d%0a", "X-Injected: yes", " HTTP/1.1", "/", "?", "#", "@", ":", "\\",
                     "..", "\u560a", "\u2028", "\x80", "\ud800", "\u00e9", "%", "%25", "[", "]", "a"]), max_size=10,
).map("".join)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANYTHING | PIECES, max_size=20))
@example(["\r\nX-Injected: yes", " HTTP/1.1\r\n\r\nGET /", "\x85", "@a", ":1@b", "?\n", "#\r\n"])
def test_any_text_is_one_request_or_none(site: Recorder, texts: list[str]) -> None:
    site.clear()
    usable = 0
    urls = []
    for text in texts:
        for url in (f"http://127.0.0.1:{site.port}/{text}", f"http://{text}@127.0.0.1:{site.port}/"):
            try:
                found = parse(url)
            except BadUrl:
                urls.append(url)
                continue
            assert re.fullmatch(r"[!-~]+", found.url)
            if found.origin == f"http://127.0.0.1:{site.port}":  # `a/@` and the like have another host
                usable += 1
                urls.append(url)
    assert sum(code(f) == "success" for f in fetch([*urls], allow_private_addresses=True)) == usable
    assert len(site.heads) == usable
    assert all(only_what_we_send(head) for _, head in site.heads)


def test_the_environment_of_these_tests() -> None:
    """Where the tests of the namespace are skipped on a machine with root, they would prove nothing."""
    if os.geteuid() == 0 and os.path.exists("/proc/thread-self/ns/net"):
        with Namespace() as space, space.inside():
            pass
