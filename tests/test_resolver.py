"""Names to addresses against real DNS servers: whatever a resolver does, a lookup ends, and ends no other."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from support.dns import BadDns, Dnsmasq

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.fetchers import resolver as module
from img2dataset_dist.fetchers.resolver import Answer, Resolver

NOBODY = "127.0.0.1:1"
"""A port on which nothing listens, and outside the range from which sockets get theirs: a socket may find itself."""

HOME = Answer(addresses=("127.0.0.1",))
NO_HOST = Answer(problem="no such host")
SILENCE = Answer(problem="no answer from the resolver", ours=True)
BAD = Answer(problem="bad answer from the resolver")


class Clock:
    """Real time, and more when a test says so."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Asker:
    """A resolver with the loop around it that a fetch thread has."""

    def __init__(self, server: str | None, **options: Any) -> None:
        self.clock = Clock()
        self.woken = threading.Event()
        servers = None if server is None else (server,)
        self.resolver = Resolver(servers, wake=self.woken.set, clock=self.clock, **options)
        self.seconds: dict[str, float] = {}

    def __call__(self, *hosts: str, within: float = 30) -> list[Answer]:
        """The answers, in the order of the hosts; `seconds` tells when they came."""
        began = time.monotonic()
        found: dict[str, Answer] = {}
        missing: set[str] = set()
        for host in hosts:
            answer = self.resolver.lookup(host)
            if answer is None:
                missing.add(host)
            else:
                found[host] = answer
        while missing:
            left = began + within - time.monotonic()
            assert left > 0, f"{len(missing)} names without an answer, {sorted(missing)[:3]}"
            assert self.woken.wait(left), "nobody called"
            self.woken.clear()
            for host, answer in self.resolver.collect():
                missing.remove(host)  # a name comes once
                found[host] = answer
                self.seconds[host] = time.monotonic() - began
        return [found[host] for host in hosts]

    def one(self, host: str) -> Answer:
        return self(host)[0]


Ask = Callable[..., Asker]


@pytest.fixture
def asker() -> Iterator[Ask]:
    made: list[Asker] = []

    def make(server: str | None, **options: Any) -> Asker:
        made.append(Asker(server, **options))
        return made[-1]

    yield make
    for one in made:
        one.resolver.close()


@pytest.fixture(scope="module")
def dnsmasq() -> Iterator[Dnsmasq]:
    names: dict[str, Iterable[str]] = {f"n{n}.test": [f"127.1.{n // 250}.{n % 250}"] for n in range(2000)}
    names |= {"a.test": ["127.0.0.1"], "six.test": ["::1"], "both.test": ["127.0.0.1", "::1"], "bare": ["127.0.0.5"]}
    with Dnsmasq(names) as running:
        yield running


@pytest.fixture
def bad() -> Iterator[BadDns]:
    with BadDns({"home.test": ["127.0.0.1"]}) as running:
        yield running


def test_a_real_resolver(dnsmasq: Dnsmasq, asker: Ask) -> None:
    ask = asker(dnsmasq.server)
    assert ask("a.test", "six.test", "nothing.test", "bare", "A.Test.", "sub.a.test") == [
        HOME,
        Answer(addresses=("::1",)),
        NO_HOST,
        Answer(addresses=("127.0.0.5",)),
        HOME,
        NO_HOST,
    ]
    assert sorted(ask.one("both.test").addresses) == ["127.0.0.1", "::1"]


def test_two_thousand_names_at_once(dnsmasq: Dnsmasq, asker: Ask) -> None:
    ask = asker(dnsmasq.server)
    found = ask(*(f"n{n}.test" for n in range(2000)))
    assert [a.addresses for a in found] == [(f"127.1.{n // 250}.{n % 250}",) for n in range(2000)]
    assert max(ask.seconds.values()) < 10


def test_more_names_than_a_channel_lives_for(dnsmasq: Dnsmasq, asker: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANNEL_LIFE", 100)
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 30)
    ask = asker(dnsmasq.server)
    assert all(a.addresses for a in ask(*(f"n{n}.test" for n in range(2000))))
    assert len(ask.resolver._channels) < 10, "channels that are done are gone"


@pytest.mark.parametrize("server", ["127.0.0.1", "[::1]", "::1", "127.0.0.1:1", "[::1]:1"])
def test_no_resolver_at_all(server: str, asker: Ask) -> None:
    ask = asker(server, timeout=2)
    (found,) = ask("a.test")
    assert found.ours
    assert found.problem in ("no resolver could be reached", "no answer from the resolver")
    assert not found.addresses


def test_a_thousand_names_without_a_resolver(asker: Ask) -> None:
    ask = asker(NOBODY)
    found = ask(*(f"n{n}.test" for n in range(1000)))
    assert all(a.ours for a in found)
    assert max(ask.seconds.values()) < 10


@pytest.mark.parametrize("server", ["nonsense", "127.0.0.1:99999", "127.0.0.1:x", "dns.example:53", "é"])
def test_what_is_no_server(server: str) -> None:
    with pytest.raises(ConfigError, match="dns_servers"):
        Resolver((server,), wake=lambda: None)


def test_the_next_server_is_asked_when_one_is_down(dnsmasq: Dnsmasq) -> None:
    woken = threading.Event()
    resolver = Resolver((NOBODY, dnsmasq.server), wake=woken.set)
    try:
        assert resolver.lookup("a.test") is None
        assert woken.wait(10)
        assert resolver.collect() == [("a.test", HOME)]
    finally:
        resolver.close()


@pytest.mark.parametrize("server", [None, NOBODY])
def test_the_hosts_file_and_localhost(server: str | None, asker: Ask) -> None:
    ask = asker(server)
    assert "127.0.0.1" in ask.one("localhost").addresses
    assert set(ask.one("localhost").addresses) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("literal", ["::1", "127.0.0.1", "2606:2800:220:1::1", "93.184.216.34", "::ffff:7f00:1"])
def test_an_address_is_its_own_answer(literal: str, bad: BadDns, asker: Ask) -> None:
    assert asker(bad.server).resolver.lookup(literal) == Answer(addresses=(literal,))
    assert not bad.queries


@pytest.mark.parametrize("host", ["", ".", "a b", "é.test", "a.test\0.good.test", "a\n", "x" * 300, r"a\.test", "a/b"])
def test_what_is_no_name_is_not_asked_for(host: str, bad: BadDns, asker: Ask) -> None:
    assert asker(bad.server).resolver.lookup(host) == Answer(problem="malformed host name")
    assert not bad.queries


@pytest.mark.parametrize("host", ["a..test", "x" * 64 + ".test", "a." * 127 + "aa"])
def test_names_that_the_protocol_has_no_room_for(host: str, bad: BadDns, asker: Ask) -> None:
    assert asker(bad.server).one(host) == Answer(problem="malformed host name")
    assert not bad.queries


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("home.test", HOME),
        ("ok.test", HOME),
        ("nxdomain.test", NO_HOST),
        ("unheard-of.test", NO_HOST),
        ("nodata.test", Answer(problem="no address")),
        ("loop.test", Answer(problem="no address")),
        ("servfail.test", Answer(problem="server failure")),
        ("refused.test", Answer(problem="refused by the resolver", ours=True)),
        ("garbage.test", BAD),
        ("short.test", BAD),
        ("cut.test", BAD),
        ("spoof.test", HOME),
        ("tcp.test", HOME),
        ("hangup.test", Answer(problem="no resolver could be reached", ours=True)),
        ("silent.test", SILENCE),
        ("trunc.test", SILENCE),
        ("flaky.test", HOME),
        ("v4only.test", HOME),
        ("delay-1000.test", HOME),
    ],
)
def test_what_resolvers_do(host: str, expected: Answer, bad: BadDns, asker: Ask) -> None:
    ask = asker(bad.server)
    assert ask.one(host) == expected
    assert ask.seconds[host] < 10


@pytest.mark.parametrize("host", ["many.test", "many-20.test"])
def test_sixteen_addresses_are_enough(host: str, bad: BadDns, asker: Ask) -> None:
    found = asker(bad.server).one(host)
    assert len(set(found.addresses)) == 16
    assert all(address.startswith("10.0.") for address in found.addresses)


def test_names_that_are_never_answered_do_not_hold_up_others(bad: BadDns, asker: Ask) -> None:
    ask = asker(bad.server)
    slow = [f"{kind}-{n}.test" for n in range(100) for kind in ("silent", "delay-1000", "trunc")]
    fine = [f"ok-{n}.test" for n in range(500)]
    assert ask(*slow, *fine)[len(slow) :] == [HOME] * 500
    assert max(ask.seconds[host] for host in fine) < 4
    assert max(ask.seconds.values()) < 10


def test_garbage_for_one_name_is_none_for_others(bad: BadDns, asker: Ask) -> None:
    kinds = {"ok": HOME, "garbage": BAD, "cut": BAD, "nxdomain": NO_HOST, "tcp": HOME}
    hosts = {f"{kind}-{n}.test": expected for n in range(60) for kind, expected in kinds.items()}
    ask = asker(bad.server, timeout=20)
    assert ask(*hosts) == list(hosts.values())


def test_a_dead_resolver_costs_one_deadline_however_many_names(bad: BadDns, asker: Ask) -> None:
    ask = asker(bad.server, timeout=2)
    found = ask(*(f"silent-{n}.test" for n in range(4000)))
    assert Counter(found) == {SILENCE: 4000}
    assert max(ask.seconds.values()) < 10


def test_a_resolver_that_comes_back_is_used_again(bad: BadDns, asker: Ask) -> None:
    """What c-ares still works on in vain does not take the place of what could be answered."""
    ask = asker(bad.server, timeout=1)
    ask(*(f"silent-{n}.test" for n in range(3000)))
    assert ask(*(f"ok-{n}.test" for n in range(500))) == [HOME] * 500


def test_a_name_is_asked_for_once_at_a_time(bad: BadDns, asker: Ask) -> None:
    ask = asker(bad.server)
    assert [ask.resolver.lookup("delay-200.test") for _ in range(50)] == [None] * 50
    assert ask.one("delay-200.test") == HOME
    assert sorted(bad.queries) == [("delay-200.test", "A"), ("delay-200.test", "AAAA")]


def test_nothing_is_collected_twice(bad: BadDns, asker: Ask) -> None:
    ask = asker(bad.server)
    assert ask.resolver.collect() == []
    ask.one("ok.test")
    assert ask.resolver.collect() == []


@pytest.mark.parametrize(
    ("host", "seconds"),
    [
        ("ttl-1.test", 60),
        ("ttl-600.test", 600),
        ("ttl-100000.test", 3600),
        ("nxdomain.test", 60),
        ("nodata.test", 60),
        ("servfail.test", 5),
        ("silent.test", 5),
    ],
)
def test_how_long_answers_are_kept(host: str, seconds: float, bad: BadDns, asker: Ask) -> None:
    ask = asker(bad.server, timeout=1)
    first = ask.one(host)
    ask.clock.ahead += seconds - 3
    assert ask.resolver.lookup(host) == first
    ask.clock.ahead += 4
    assert ask.resolver.lookup(host) is None


def test_a_name_does_not_move_home_while_it_is_kept(bad: BadDns, asker: Ask) -> None:
    """A time to live of 0 serves to get past a check of the address and elsewhere with the next lookup."""
    ask = asker(bad.server)
    assert ask.one("rebind.test").addresses == ("93.184.216.34",)
    assert ask.one("rebind.test").addresses == ("93.184.216.34",)
    ask.clock.ahead += 61
    assert ask.one("rebind.test").addresses == ("127.0.0.1",)


def test_the_oldest_answers_go_first(bad: BadDns, asker: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 10)
    ask = asker(bad.server)
    for n in range(12):
        ask.one(f"ok-{n}.test")
    assert ask.resolver.lookup("ok-2.test") == HOME
    assert ask.resolver.lookup("ok-11.test") == HOME
    assert ask.resolver.lookup("ok-1.test") is None


@pytest.mark.parametrize("count", [1, 3000])
def test_close_does_not_wait(count: int, bad: BadDns) -> None:
    ask = Asker(bad.server)
    for n in range(count):
        assert ask.resolver.lookup(f"silent-{n}.test") is None
    began = time.monotonic()
    ask.resolver.close()
    assert time.monotonic() - began < 1
    ask.woken.clear()
    assert not ask.woken.wait(0.3), "nobody is woken any more"
    assert ask.resolver.collect() == []
    ask.resolver.close()


@pytest.mark.parametrize("closes", [True, False])
def test_the_process_ends_with_names_under_way(closes: bool, bad: BadDns) -> None:
    script = f"""
        from img2dataset_dist.fetchers.resolver import Resolver
        resolver = Resolver(({bad.server!r},), wake=lambda: None)
        for n in range(1500):
            resolver.lookup(f"silent-{{n}}.test")
            resolver.lookup(f"ok-{{n}}.test")
        if {closes}:
            resolver.close()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
