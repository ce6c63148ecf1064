"""Our own network: when no resolver or no route is there, the list waits; when a name is dead, it does not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.dns import PLACES, BadDns, Behaviour, Dnsmasq, Query, Reply, answers, behaviour, free_port, good, stop
from support.namespace import Namespace, ip
from support.recorder import Recorder
from support.server import NastyServer

from img2dataset_dist import download
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import Img2datasetError
from img2dataset_dist.fetchers import FetchContext, curl
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.fetchers.health import FIRST_PROBE, HOLD, LAST_PROBE, WINDOW, Health, NetworkDownError
from img2dataset_dist.model import Fetched, Item

NOBODY = "127.0.0.1:1"
DOWN, BACK = "network: neither", "network: back"


class Mortal:
    """dnsmasq that can be killed, or stopped so that it says nothing, and that comes back on the same port."""

    def __init__(self, names: Iterable[str], folder: Path) -> None:
        found = [path for place in (os.environ["PATH"], *PLACES) if (path := shutil.which("dnsmasq", path=place))]
        if not found:
            pytest.skip("dnsmasq is not installed (`make test` installs the Debian package dnsmasq-base)")
        hosts = folder / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        self._port = free_port()
        self._command = [
            found[0], "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
            f"--addn-hosts={hosts}", "--address=/#/", f"--port={self._port}", "--listen-address=127.0.0.1",
            "--bind-interfaces", "--pid-file=", "--user=", "--group=", "--log-facility=-", "--local-ttl=300",
        ]  # fmt: skip
        self.server = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Begin, or begin again."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            return
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert answers(self._process, self._port)

    def end(self, how: str) -> None:
        """`killed`: its port refuses. `silent`: it does not."""
        assert self._process is not None
        if how == "killed":
            stop(self._process)
        else:
            self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        assert self._process is not None
        stop(self._process)


Start = Callable[..., Mortal]


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Start]:
    started: list[Mortal] = []

    def start(names: Iterable[str]) -> Mortal:
        started.append(Mortal(names, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def bad() -> Iterator[BadDns]:
    with BadDns() as running:
        yield running


class Run:
    """What a fetch brought: outcomes in the order of the list, and lines for people."""

    def __init__(self, urls: list[str], *, seen: Callable[[int], None] = lambda _: None,
                 said: Callable[[str], None] = lambda _: None, **options: Any) -> None:  # fmt: skip
        self.notes: list[str] = []

        def notify(text: str) -> None:
            self.notes.append(text)
            said(text)

        config = {"timeout": 10, "connect_timeout": 2, "allow_private_addresses": True, "retry_backoff": 0.1} | options
        fetcher = CurlFetcher(FetchConfig(**config), FetchContext(notify=notify))
        found: list[Fetched] = []
        began = time.monotonic()
        try:
            items = (Item(shard_id=0, index=n, key=str(n), url=url) for n, url in enumerate(urls))
            for one in fetcher.fetch(items):
                found.append(one)
                seen(len(found))
        finally:
            fetcher.close()
            self.seconds = time.monotonic() - began
        assert sorted(one.item.index for one in found) == list(range(len(urls))), "rows are conserved"
        self.found = sorted(found, key=lambda one: one.item.index)

    @property
    def codes(self) -> list[str]:
        return [one.failure.code if one.failure else "success" for one in self.found]

    @property
    def attempts(self) -> list[int]:
        return [one.facts.attempts for one in self.found]

    def said(self, text: str) -> int:
        return sum(note.startswith(text) for note in self.notes)


def at(server: NastyServer, *names: str) -> list[str]:
    return [server.url(f"/photo/photo_00000.jpg?{n}", host=name) for n, name in enumerate(names)]


# the judgement


class Told:
    """`Health`, and what it told people."""

    def __init__(self, patience: float = 1000.0) -> None:
        self.lines: list[str] = []
        self.health: Health[str] = Health(patience=patience, notify=self.lines.append)

    def fail(self, *hosts: str, now: float = 0.0, resolver: bool = True) -> None:
        for host in hosts:
            self.health.hold(f"row of {host}", host, now, resolver=resolver)


MANY = [f"h{n}" for n in range(WINDOW)]


def test_many_hosts_in_a_row_mean_that_we_are_down() -> None:
    told = Told()
    told.fail(*MANY[:-1])
    assert (told.health.down, told.lines) == (False, [])
    told.fail(MANY[-1])
    assert told.health.down
    assert len(told.lines) == 1
    assert told.lines[0].startswith(DOWN)
    told.fail("another", now=1)
    assert len(told.lines) == 1
    assert len(told.health) == WINDOW + 1
    assert told.health.convicted(500.0, idle=True) == []


def test_one_host_is_not_many() -> None:
    told = Told()
    told.fail(*(["a"] * 100))
    assert not told.health.down


def test_a_few_answers_in_between_are_no_outage() -> None:
    told = Told()
    for n in range(100):
        told.fail(f"bad{n}", f"worse{n}", f"worst{n}")
        assert told.health.answered(f"good{n}", 0.0) == []
    assert (told.health.down, told.lines) == (False, [])


def test_what_was_held_comes_back_once() -> None:
    told = Told()
    told.fail(*MANY)
    assert told.health.one_held() == "row of h0"
    assert told.health.answered("x", 7.0) == [f"row of {host}" for host in MANY[1:]]
    assert (told.health.down, len(told.health)) == (False, 0)
    assert told.lines[1:] == ["network: back after 7 s; going on"]
    assert told.health.answered("x", 8.0) == []


def test_an_answer_of_a_host_that_was_known_says_nothing_about_the_resolver() -> None:
    told = Told()
    told.fail(*MANY)
    assert told.health.answered("known", 1.0, resolved=False) == []
    assert told.health.down
    assert told.health.answered("asked", 1.0, resolved=True) != []
    other = Told()
    other.fail(*MANY, resolver=False)
    assert other.health.answered("known", 1.0, resolved=False) != []


def test_who_failed_while_we_were_not_at_fault_proves_nothing_later() -> None:
    told = Told()
    told.fail(*MANY)
    assert len(told.health.answered("x", 1.0)) == WINDOW
    told.fail(*MANY, now=2.0)
    assert not told.health.down
    assert len(told.health.convicted(2.0 + HOLD + 0.1, idle=False)) == WINDOW
    for host in MANY:
        told.health.answered(host, 10.0)
    told.fail(*MANY, now=11.0)
    assert told.health.down, "they had answered since"


def test_what_is_held_while_we_are_up_is_convicted() -> None:
    told = Told()
    told.fail("a", now=10.0)
    told.fail("b", now=12.0)
    assert told.health.next_look() == 10.0 + HOLD
    assert told.health.convicted(10.0 + HOLD, idle=False) == []
    assert told.health.convicted(10.1 + HOLD, idle=False) == ["row of a"]
    assert told.health.convicted(10.2 + HOLD, idle=True) == ["row of b"]
    assert told.health.next_look() is None


def test_probes_come_ever_more_slowly() -> None:
    told = Told(patience=1000)
    told.fail(*MANY)
    probes = [now / 4 for now in range(4 * 200) if told.health.probe(now / 4)]
    waits = [later - earlier for earlier, later in zip([0.0, *probes], probes, strict=False)]
    assert waits[:5] == [FIRST_PROBE, 2, 4, 8, LAST_PROBE]
    assert set(waits[5:]) == {LAST_PROBE}
    assert [line for line in told.lines if "still down" in line] == [
        f"network: still down after {n} s" for n in (60, 120, 180)
    ]


def test_patience_ends() -> None:
    told = Told(patience=30)
    told.fail(*MANY)
    told.health.probe(30.0)
    with pytest.raises(NetworkDownError, match="network of this machine has been down for 31 s"):
        told.health.probe(31.0)


# a resolver that dies


@pytest.mark.parametrize("how", ["killed", "silent"])
@pytest.mark.parametrize("robots", ["ignore", "respect"])
def test_a_resolver_that_dies_in_the_middle_costs_no_row(
    server: NastyServer, mortal: Start, how: str, robots: str
) -> None:
    names = [f"n{n}.test" for n in range(300)]
    resolver = mortal(names)
    run = Run(
        at(server, *names),
        dns_servers=[resolver.server],
        robots_txt=robots,
        thread_count=16,
        seen=lambda count: resolver.end(how) if count == 50 else None,
        said=lambda text: threading.Timer(1.5, resolver.start).start() if text.startswith(DOWN) else None,
    )
    assert set(run.codes) == {"success"}
    assert set(run.attempts) == {1}, "a try that we could not make is none"
    assert run.said(DOWN) == run.said(BACK) >= 1
    assert run.notes[-1].startswith(BACK)


def test_hosts_that_are_known_do_not_hide_it(server: NastyServer, mortal: Start) -> None:
    """Most rows are of a few hosts whose addresses are known, and go on well without a resolver."""
    known, new = [f"known{n}.test" for n in range(20)], [f"new{n}.test" for n in range(200)]
    resolver = mortal([*known, *new])
    names = [name for n in range(200) for name in (known[n % 20], known[(n + 7) % 20], new[n])]
    timers: list[threading.Timer] = []

    def revive(text: str) -> None:
        if text.startswith(DOWN) and not timers:
            timers.append(threading.Timer(HOLD + 1, resolver.start))
            timers[0].start()

    run = Run(
        at(server, *known, *names),
        dns_servers=[resolver.server],
        thread_count=16,
        seen=lambda count: resolver.end("killed") if count == 100 else None,
        said=revive,
    )
    assert set(run.codes) == {"success"}
    assert 1 <= run.said(DOWN) <= 3
    assert set(run.attempts) == {1}


def job(tmp_path: Path, urls: list[str], **more: Any) -> dict[str, Any]:
    (tmp_path / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
    return {
        "url_list": str(tmp_path / "urls.txt"), "output_folder": str(tmp_path / "out"), "output_format": "parquet",
        "image_size": 32, "timeout": 5, "connect_timeout": 2, "allow_private_addresses": True, "processes_count": 1,
        "number_sample_per_shard": 50, "thread_count": 8,
    } | more  # fmt: skip


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_whole_job_waits_and_says_so(
    server: NastyServer, mortal: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"n{n}.test" for n in range(200)]
    resolver = mortal(names)
    urls = [server.url(f"/latency/?ms=50&job={n}", host=name) for n, name in enumerate(names)]
    before = sum(server.counts().values())
    over = threading.Event()

    def kill_and_revive() -> None:
        while sum(server.counts().values()) < before + 40 and not over.wait(0.02):
            pass
        resolver.end("killed")
        over.wait(2.5)
        resolver.start()

    killer = threading.Thread(target=kill_and_revive)
    killer.start()
    try:
        stats = download(**job(tmp_path, urls, dns_servers=[resolver.server], progress="plain"))
    finally:
        over.set()
        killer.join()
    assert (stats.count, stats.successes) == (200, 200)
    assert {row["error_code"] for row in rows(tmp_path)} == {None}
    said = capfd.readouterr().err
    assert DOWN in said
    assert BACK in said


@pytest.mark.parametrize("distributor", ["inline", "multiprocessing"])
def test_patience_ends_and_the_job_can_go_on_later(
    server: NastyServer, tmp_path: Path, distributor: str, mortal: Start
) -> None:
    names = [f"n{n}.test" for n in range(120)]
    options = job(tmp_path, at(server, *names), progress="none", distributor=distributor)
    with pytest.raises(Img2datasetError, match="the network of this machine has been down") as caught:
        download(**options, dns_servers=[NOBODY], network_patience=1)
    assert "run the same command again" in str(caught.value)
    assert rows(tmp_path) == []
    stats = download(**options, dns_servers=[mortal(names).server])
    assert (stats.count, stats.successes) == (120, 120)


def test_patience_of_a_fetch(server: NastyServer) -> None:
    began = time.monotonic()
    with pytest.raises(NetworkDownError, match="the network of this machine has been down"):
        Run(at(server, *(f"n{n}.test" for n in range(100))), dns_servers=[NOBODY], network_patience=2)
    assert time.monotonic() - began < 20


# names that are dead


def test_dead_names_are_no_outage(server: NastyServer, bad: BadDns) -> None:
    names = [f"{kind}-{n}.test" for n in range(100) for kind in ("nxdomain", "ok", "ok", "servfail", "ok", "nodata")]
    run = Run(at(server, *names), dns_servers=[bad.server])
    assert run.codes == ["dns", "success", "success", "dns", "success", "dns"] * 100
    assert run.notes == []


@pytest.mark.parametrize("kind", ["nxdomain", "servfail", "nodata"])
def test_a_list_of_nothing_but_dead_names(server: NastyServer, bad: BadDns, kind: str) -> None:
    run = Run(at(server, *(f"{kind}-{n}.test" for n in range(100))), dns_servers=[bad.server])
    assert set(run.codes) == {"dns"}
    assert run.notes == []


def test_names_that_nobody_answers_for_are_no_outage_for_long(server: NastyServer, bad: BadDns) -> None:
    """They are the last to end, many in a row; then a name that the resolver knows tells it from an outage."""
    fine, dead = [f"ok-{n}.test" for n in range(200)], [f"silent-{n}.test" for n in range(60)]
    names = [name for pair in zip(dead[:30], fine, strict=False) for name in pair] + fine[30:] + dead[30:]
    run = Run(at(server, *names), dns_servers=[bad.server], connect_timeout=1, network_patience=30)
    assert {code for name, code in zip(names, run.codes, strict=True) if name in fine} == {"success"}
    assert {code for name, code in zip(names, run.codes, strict=True) if name in dead} <= {"dns", "timeout_connect"}
    assert run.said(DOWN) == run.said(BACK)


def test_nothing_but_names_that_nobody_answers_for(server: NastyServer, bad: BadDns) -> None:
    """No name was there before; the resolver is asked for one all the same."""
    names = [f"refused-{n}.test" for n in range(40)]
    run = Run(at(server, *names), dns_servers=[bad.server], network_patience=30)
    assert set(run.codes) == {"dns"}


@pytest.mark.parametrize("server_of_names", [None, NOBODY])
def test_a_few_dead_names_end_soon(server: NastyServer, bad: BadDns, server_of_names: str | None) -> None:
    urls = at(server, *(f"silent-{n}.test" for n in range(5)))
    run = Run(urls, dns_servers=[server_of_names or bad.server], connect_timeout=1)
    assert set(run.codes) <= {"dns", "timeout_connect"}
    assert run.notes == []
    assert run.seconds < 15


def test_rows_of_a_dead_host_are_not_all_taken_from_the_list_at_once(
    server: NastyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fail without a request, as fast as they are read, and wait to be judged."""
    monkeypatch.setattr(curl, "LOOKAHEAD", 100)
    read = 0

    def items() -> Iterator[Item]:
        nonlocal read
        for n in range(5000):
            read += 1
            yield Item(shard_id=0, index=n, key=str(n), url=server.url("/photo/", host="dead.test"))

    fetcher = CurlFetcher(FetchConfig(dns_servers=[NOBODY], thread_count=16))
    first = next(iter(fetcher.fetch(items())))
    fetcher.close()
    assert first.failure is not None
    assert first.failure.code == "dns"
    assert read <= 100 + 2 * 16


# no route


def test_no_route_at_all() -> None:
    with Namespace(up=False) as space, space.inside(), pytest.raises(NetworkDownError):
        Run([f"http://93.184.216.{n}/" for n in range(40)], network_patience=1)


def test_a_route_that_comes_back(photo_folder: Path) -> None:
    """Without it a connection is refused by our own system; rows that were refused are tried again."""
    addresses = [f"93.184.216.{n}" for n in range(1, 41)]
    with Namespace(up=False) as space:
        with space.inside():
            ip("link", "set", "lo", "up")
            site = Recorder((photo_folder / "photo_00000.jpg").read_bytes(), port=80)

        def mend(text: str) -> None:
            if text.startswith(DOWN):
                ip("route", "add", "local", "93.184.216.0/24", "dev", "lo")  # this thread is inside

        with site, space.inside():
            run = Run([f"http://{address}/" for address in addresses], said=mend, allow_private_addresses=False)
    assert set(run.codes) == {"success"}
    assert set(run.attempts) == {1}
    assert [run.said(DOWN), run.said(BACK)] == [1, 1]
    assert site.reached == set(addresses)


def test_without_a_link_one_host_is_enough(photo_folder: Path) -> None:
    """A machine that is cut off knows it, however few hosts its list has."""
    with Namespace(up=False) as space:
        with space.inside():
            ip("link", "set", "lo", "up")
            ip("link", "add", "cable", "type", "veth", "peer", "name", "switch")
            ip("link", "set", "cable", "up")
            site = Recorder((photo_folder / "photo_00000.jpg").read_bytes(), port=80)

        def mend(text: str) -> None:
            if "this machine has no link" in text:
                ip("link", "set", "switch", "up")
                ip("route", "add", "local", "93.184.216.0/24", "dev", "lo")

        with site, space.inside():
            run = Run([f"http://93.184.216.34/{n}" for n in range(9)], said=mend, allow_private_addresses=False)
    assert set(run.codes) == {"success"}
    assert set(run.attempts) == {1}
    assert [run.said("network: this machine has no link"), run.said(BACK)] == [1, 1]


def test_hosts_without_a_route_are_their_own_fault(photo_folder: Path) -> None:
    with Namespace(["93.184.216.34"]) as space:
        with space.inside():
            site = Recorder((photo_folder / "photo_00000.jpg").read_bytes(), port=80)
        urls = [
            f"http://{host}/{n}" for n in range(60) for host in ("93.184.216.34", f"[2606:2800:220:1::{n % 8 + 1}]")
        ]
        with site, space.inside():
            run = Run(urls, allow_private_addresses=False)
    assert run.codes == ["success", "connect"] * 60
    assert run.notes == []


# lookups


def test_a_name_is_asked_for_once(server: NastyServer, bad: BadDns) -> None:
    run = Run(at(server, *(["ok.test"] * 300)), dns_servers=[bad.server], thread_count=32)
    assert set(run.codes) == {"success"}
    assert sorted(bad.queries) == [("ok.test", "A"), ("ok.test", "AAAA")]


def test_names_are_asked_for_at_once(server: NastyServer, bad: BadDns) -> None:
    names = [f"delay-200-{n}.test" for n in range(300)]
    run = Run(at(server, *names), dns_servers=[bad.server], connect_timeout=10)
    assert set(run.codes) == {"success"}
    assert run.seconds < 15, "a minute, one after the other"


def test_the_row_says_how_long_the_name_took(server: NastyServer, bad: BadDns) -> None:
    run = Run(at(server, "delay-300.test", "delay-300.test"), dns_servers=[bad.server], thread_count=1)
    first, second = (one.facts for one in run.found)
    assert first.dns_ms is not None
    assert first.dns_ms >= 200
    assert second.dns_ms == 0
    dead = Run(at(server, "nxdomain.test"), dns_servers=[bad.server]).found[0]
    assert (dead.facts.dns_ms is not None, dead.facts.attempts, dead.facts.http_status) == (True, 1, None)


@behaviour
def heals(query: Query) -> Reply:
    """`heals-N`: SERVFAIL N times, then a good answer. c-ares may ask several times itself."""
    failing: Behaviour = __import__("support.dns", fromlist=["servfail"]).servfail
    return failing(query) if query.nth <= query.number else good(query)


def test_a_failed_lookup_is_tried_again(server: NastyServer, bad: BadDns) -> None:
    run = Run(at(server, "heals-8.test", "servfail.test", "nxdomain.test"), dns_servers=[bad.server], retries=2)
    assert run.codes == ["success", "dns", "dns"]
    assert run.attempts[1:] == [3, 3]
    assert run.found[1].failure is not None
    assert run.found[1].failure.transient


def test_without_retries_it_is_not(server: NastyServer, bad: BadDns) -> None:
    run = Run(at(server, "servfail.test", "nxdomain.test"), dns_servers=[bad.server])
    assert (run.codes, run.attempts) == (["dns", "dns"], [1, 1])


@pytest.mark.parametrize("name", ["silent.test", "trunc.test", "delay-60000.test"])
@pytest.mark.parametrize("limit", [{"connect_timeout": 1, "timeout": 60}, {"connect_timeout": None, "timeout": 1}])
def test_a_resolver_that_never_answers_meets_the_deadline(
    server: NastyServer, bad: BadDns, name: str, limit: dict[str, Any]
) -> None:
    run = Run(at(server, name), dns_servers=[bad.server], **limit)
    assert set(run.codes) <= {"dns", "timeout_connect"}
    assert run.seconds < 10


def test_a_resolver_of_ones_own_in_a_job(server: NastyServer, tmp_path: Path) -> None:
    urls = at(server, "only-here.test", "only-here.test", "nowhere.test")
    with Dnsmasq({"only-here.test": ["127.0.0.1"]}) as private:
        stats = download(**job(tmp_path, urls, dns_servers=[private.server], progress="none"))
    found = rows(tmp_path)
    assert (stats.count, stats.successes) == (3, 2)
    assert [row["error_code"] for row in found] == [None, None, "dns"]
    assert found[0]["dns_ms"] is not None
    assert [row["attempts"] for row in found] == [1, 1, 1]
