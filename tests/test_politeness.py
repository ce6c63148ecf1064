"""Whole jobs against hosts that count: caps over all workers, fairness, hosts that throttle, die and come back.

What the workers of a job may do together is judged by the server alone. A rate is divided by the workers, and each
begins an interval of its own: so in any window there may be one request more per worker than the rate says.
"""

from __future__ import annotations

import http.client
import http.server
import itertools
import resource
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import dataset
from support.dns import Dnsmasq
from support.server import HOSTS, NastyServer, most_within

from img2dataset_dist import Stats, download
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.engines import local
from img2dataset_dist.fetchers import hosts, profiles
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.fetchers.profiles import HostProfile
from img2dataset_dist.model import Item

WORKERS = 4
LONELY = "127.0.0.9"
"""A host that no server of the other tests listens on."""


def run(folder: Path, urls: list[str], **more: Any) -> Stats:
    """A job of these rows in `folder`/out, in this process unless it is told how many it may have."""
    folder.mkdir(exist_ok=True)
    path = folder / "urls.txt"
    path.write_text("".join(f"{url}\n" for url in urls))
    options: dict[str, Any] = {
        "output_folder": str(folder / "out"), "output_format": "parquet", "image_size": 32, "progress": "none",
        "allow_private_addresses": True, "distributor": "multiprocessing" if "processes_count" in more else "inline",
    }  # fmt: skip
    stats = download(str(path), **(options | more))
    assert stats.count == len(urls)
    return stats


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of that job in the order of their keys."""
    return [row for _, row in sorted(dataset.rows(folder / "out").items())]


def codes(folder: Path, url: str) -> list[str | None]:
    """Error codes of the rows whose URL begins so; None for a success."""
    return [row["error_code"] for row in rows(folder) if row["url"].startswith(url)]


def learnt(folder: Path) -> dict[str, HostProfile]:
    return profiles.read_profiles(str(folder / "out" / profiles.FILE))


def asked(server: NastyServer, part: str) -> list[float]:
    """When the requests came whose target holds `part`."""
    return [entry["time"] for entry in server.log() if part in entry["target"]]


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def check_rate(server: NastyServer, host: str, rate: float, workers: int = WORKERS) -> None:
    """In no window were there more requests than the rate allows, whoever made them."""
    starts = server.starts(host)
    for seconds in (1.0, 3.0):  # one at the beginning of the window, one that came late
        assert most_within(starts, seconds) <= rate * seconds + 2, (host, seconds)
    # the server may have been late to see the first
    assert starts[-1] - starts[0] >= (len(starts) - 2) / rate - 0.1, "over the whole job, too"


# caps


@pytest.mark.parametrize("cap", [1, 3])
@pytest.mark.parametrize("workers", [WORKERS, 0])
def test_connections_hold_over_all_workers(workers: int, cap: int, server: NastyServer, tmp_path: Path) -> None:
    """Fewer connections than workers, too; and the job is no more serial than that."""
    server.clear()
    urls = [server.url(f"/latency/?ms=100&n={n}", HOSTS[n % 4]) for n in range(64)]
    more = {"processes_count": workers} if workers else {}
    stats = run(tmp_path, urls, number_sample_per_shard=8, max_connections_per_host=cap, **more)
    assert stats.successes == 64
    assert server.peak() == dict.fromkeys(HOSTS, cap)
    assert max(server.peak_connections().values()) <= cap, "idle ones count, too"


def test_the_rate_holds_over_all_workers(server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    urls = [server.url(f"/photo/?n={n}", HOSTS[n % 2]) for n in range(72)]
    limits = {"max_requests_per_second_per_host": 10, "max_connections_per_host": 3}
    assert run(tmp_path, urls, number_sample_per_shard=6, processes_count=WORKERS, **limits).successes == 72
    for host in HOSTS[:2]:
        check_rate(server, host, 10)
        assert server.peak()[host] <= 3


@pytest.mark.parametrize("schedule", ["list", "by_host"])
def test_redirects_pass_the_gate_of_their_host(schedule: str, server: NastyServer, tmp_path: Path) -> None:
    """B is in no lane and in no shard, but all the workers are sent there."""
    server.clear()
    a, b = HOSTS[:2]
    urls = [server.url(f"/redirect-host/latency/?to={b}&ms=100&n={n}", a) for n in range(36)]
    table = tmp_path / "hosts.yaml"
    table.write_text(f"{a}: {{rate: 1000}}\n")
    limits = {"host_table": str(table), "max_requests_per_second_per_host": 12, "max_connections_per_host": 2}
    more = {"schedule": schedule, "lanes": 8, "number_sample_per_shard": 6, "processes_count": WORKERS}
    assert run(tmp_path, urls, **limits, **more).successes == 36
    assert len(server.starts(a)) == len(server.starts(b)) == 36
    check_rate(server, b, 12)
    assert max(server.peak().values()) <= 2


def test_retries_and_robots_txt_count_too(server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    server.set_robots(HOSTS[0], body="User-agent: *\nAllow: /", delay=0.2)
    urls = [server.url(f"/status/500?n={n}") for n in range(12)]
    limits = {"max_requests_per_second_per_host": 12, "max_connections_per_host": 1}
    run(tmp_path, urls, robots_txt="respect", retries=2, retry_backoff=0.01, **limits)
    server.clear_robots()
    assert server.robots_count() == 1
    assert len(server.starts()) == 1 + 3 * 12
    assert server.peak() == {HOSTS[0]: 1}
    check_rate(server, HOSTS[0], 12, workers=1)


@pytest.mark.parametrize("workers", [WORKERS, 0])
def test_by_host(workers: int, server: NastyServer, tmp_path: Path) -> None:
    """Three hosts live in one lane each, the giant in several, and its budget is neither passed nor left lying."""
    server.clear()
    giant, rate = HOSTS[0], 20.0
    urls = [server.url(f"/latency/?ms=100&n={n}", giant if n % 8 < 5 else HOSTS[n % 8 - 4]) for n in range(96)]
    limits = {"max_requests_per_second_per_host": rate, "max_connections_per_host": 3}
    more = {"processes_count": workers} if workers else {}
    stats = run(tmp_path, urls, schedule="by_host", lanes=8, number_sample_per_shard=12, **limits, **more)
    assert stats.successes == 96
    shards = defaultdict(set)
    for row in rows(tmp_path):
        shards[urlsplit(row["url"]).hostname].add(row["key"][:5])
    assert [len(shards[host]) for host in HOSTS] == [5, 1, 1, 1], "a shard is a lane here"
    for host in HOSTS:
        check_rate(server, host, rate, workers=max(1, workers) if host == giant else 1)
        assert server.peak()[host] <= 3
    starts = server.starts(giant)
    assert starts[-1] - starts[0] < 3 * 60 / rate


def test_the_default_order_is_that_of_the_list(server: NastyServer, tmp_path: Path) -> None:
    """However slow, redirected, refused or tried again a row is, it keeps its shard and its key."""
    kinds = ["/photo/", "/latency/?ms=200", "/status/404", "/redirect/2/photo/", "/flaky/o{n}?fail=1", "/html"]
    urls = [server.url(kinds[n % 6].format(n=n), HOSTS[n % 3]) for n in range(50)]
    run(tmp_path, urls, number_sample_per_shard=8, retries=1, retry_backoff=0.1, processes_count=2)
    found = dataset.rows(tmp_path / "out")
    assert {key: row["url"] for key, row in found.items()} == {
        f"{n // 8:05d}{n % 8}": url for n, url in enumerate(urls)
    }


def test_a_slow_host_starves_nobody(server: NastyServer, tmp_path: Path) -> None:
    """Its rows come first in the list and are far more than may be under way."""
    server.clear()
    slow, *others = HOSTS
    urls = [server.url(f"/latency/?ms=2000&n={n}", slow) for n in range(60)]
    urls += [server.url(f"/photo/?n={n}", others[n % 3]) for n in range(300)]
    stats = run(tmp_path, urls, max_connections_per_host=30, thread_count=34, timeout=20)
    assert stats.successes == 360
    first, last = server.starts(slow)[0], server.starts(slow)[-1]
    assert last - first >= 1.9
    assert max(server.starts(host)[-1] for host in others) < min(last, first + 1.9), "before the first of it is there"
    assert server.peak()[slow] == 30


# hosts that throttle


def test_retry_after_of_429_holds_for_the_whole_host(server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    urls = [server.url("/status/429?retry_after=3"), *(server.url(f"/photo/?n={n}") for n in range(10))]
    urls += [server.url(f"/latency/?ms=50&n={n}", HOSTS[1]) for n in range(40)]
    stats = run(tmp_path, urls, max_connections_per_host=1)
    assert stats.successes == 50
    assert codes(tmp_path, server.url("/status"))[0] == "http_429"
    first, *rest = server.starts()
    assert rest[0] - first >= 2.9
    assert len([time for time in server.starts(HOSTS[1]) if time < rest[0]]) > 10, "the others go on"


def test_all_rows_of_a_host_that_throttles_succeed_in_the_end(server: NastyServer, tmp_path: Path) -> None:
    """Five a second, whatever is more gets 429: a few of these are enough."""
    server.clear()
    urls = [server.url(f"/throttle/{tmp_path.name}?limit=5&per=1&n={n}") for n in range(16)]
    urls += [server.url(f"/photo/?n={n}", HOSTS[1]) for n in range(44)]
    retries = {"retries": 10, "retry_backoff": 0.1}
    stats = run(tmp_path, urls, number_sample_per_shard=15, processes_count=2, thread_count=8, **retries)
    assert stats.successes == 60
    assert len(server.starts()) < 3 * 16
    assert learnt(tmp_path)[HOSTS[0]].slow_downs == len(server.starts()) - 16
    assert learnt(tmp_path)[HOSTS[1]].slow_downs == 0


def test_the_rate_falls_and_climbs_back(server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    urls = [server.url(f"/latency/?ms=30&n={n}") for n in range(20)]
    urls += [server.url(f"/status/429?n={n}") for n in range(4)]
    urls += [server.url(f"/photo/?n={n}") for n in range(14)]
    assert run(tmp_path, urls, max_connections_per_host=1).successes == 34
    after = gaps(server.starts())[24:]
    assert max(after[:4]) > 0.3, "halved four times"
    assert sum(after[-5:]) / 5 < max(after[:4]) / 2
    assert learnt(tmp_path)[HOSTS[0]].slow_downs == 4


def test_retry_after_of_503_is_for_its_row(server: NastyServer, tmp_path: Path) -> None:
    """One answer among many is no reason to leave the host alone."""
    server.clear()
    urls = [server.url(f"/latency/?ms=50&n={n}") for n in range(50)]
    urls.insert(10, server.url("/status/503?retry_after=2"))
    stats = run(tmp_path, urls, max_connections_per_host=1, retries=1, retry_backoff=0.1)
    assert stats.codes["http_503"] == 1
    first, again = asked(server, "/status/503")
    assert again - first >= 1.9
    assert len([time for time in server.starts() if first < time < first + 1.5]) > 5


# hosts that are down


class Host:
    """An HTTP server in a thread, on a host and port that are known before it begins to answer.

    `connections` that came before are neither accepted nor refused (`silent`), or refused.
    """

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler], None], *, silent: bool = False) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                requests.append(self.path)
                answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer((LONELY, 0), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.request_queue_size = 1024
        self._server.server_bind()
        self.address = f"{LONELY}:{self._server.server_address[1]}"
        if silent:
            self._server.server_activate()

    def start(self) -> None:
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self, *, started: bool = True) -> None:
        if started:
            self._server.shutdown()
        self._server.server_close()


def send(handler: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "image/jpeg")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("silent", [True, False])
def test_a_dead_host_costs_bounded_time(
    silent: bool, server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PAUSES", (1.0, 60.0))
    dead = Host(lambda _: None, silent=silent)
    urls = [f"http://{dead.address}/{n}.jpg" for n in range(200)]
    urls += [server.url(f"/photo/?n={n}", HOSTS[n % 3]) for n in range(60)]
    began = time.monotonic()
    stats = run(tmp_path, urls, timeout=1, max_connections_per_host=20)
    dead.close(started=False)
    assert time.monotonic() - began < 15
    assert stats.successes == 60
    tried = stats.codes["timeout_first_byte" if silent else "connect"]
    assert hosts.DOWN_AFTER < tried <= 60, "some that were under way at once, and the probe"
    assert stats.codes["host_down"] == 200 - tried
    assert all(row["attempts"] == 0 for row in rows_with_attempts(tmp_path, "host_down"))
    assert learnt(tmp_path)[LONELY].successes == 0
    assert learnt(tmp_path)[LONELY].requests == tried


def rows_with_attempts(folder: Path, code: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq  # noqa: PLC0415

    tables = [pq.read_table(path).to_pylist() for path in sorted((folder / "out").glob("*.parquet"))]
    return [row for table in tables for row in table if row["error_code"] == code]


def test_a_host_that_comes_back_is_found_by_a_probe(
    server: NastyServer, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PAUSES", (0.3, 0.4))
    picture = (photo_folder / "photo_00000.jpg").read_bytes()
    back = Host(lambda handler: send(handler, picture))
    urls = []
    for n in range(200):
        urls += [server.url(f"/latency/?ms=100&n={n}"), f"http://{back.address}/{n}.jpg"]
    timer = threading.Timer(2.0, back.start)
    timer.start()
    run(tmp_path, urls, thread_count=8)
    timer.join()
    back.close()
    assert codes(tmp_path, server.url("/")) == [None] * 200
    found = codes(tmp_path, f"http://{back.address}")
    assert {"connect", "host_down", None} == set(found)
    assert found[-20:] == [None] * 20
    assert 20 <= len(back.requests) == found.count(None)


def test_rows_wait_for_a_host_that_is_gone_for_a_moment(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PAUSES", (2.5, 60.0))
    picture = (photo_folder / "photo_00000.jpg").read_bytes()
    back = Host(lambda handler: send(handler, picture))
    timer = threading.Timer(1.5, back.start)
    timer.start()
    stats = run(tmp_path, [f"http://{back.address}/{n}.jpg" for n in range(100)], max_connections_per_host=4)
    timer.join()
    back.close()
    assert "host_down" not in stats.codes
    assert stats.successes >= 100 - hosts.DOWN_AFTER - 4


# patience and memory


def test_who_waits_politely_is_not_hung(server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer without any request than a worker may be without a sign of life: for a rate, and for Retry-After."""
    server.clear()
    urls = [server.url("/photo/?n=0"), server.url("/status/429?retry_after=3"), server.url("/photo/?n=2")]
    monkeypatch.setattr(local.LocalEngine, "__init__", impatient(1.5))
    stats = run(tmp_path, urls, max_requests_per_second_per_host=0.5, processes_count=1, max_shard_retry=0, timeout=1)
    assert stats.successes == 2
    first, second = gaps(server.starts())
    assert first > 1.9
    assert second > 2.9


def impatient(seconds: float) -> Callable[[local.LocalEngine, Any], None]:
    real = local.LocalEngine.__init__

    def init(engine: local.LocalEngine, config: Any) -> None:
        real(engine, config)
        engine._patience = seconds

    return init


@pytest.mark.slow
def test_twenty_thousand_hosts(server: NastyServer) -> None:
    """All of them are remembered; the memory of each is small."""
    count = 20_000
    names = {f"h{n}.many.test": [HOSTS[n % 4]] for n in range(count)}
    with Dnsmasq(names) as dns:
        config = FetchConfig(allow_private_addresses=True, dns_servers=(dns.server,), thread_count=100)
        fetcher = CurlFetcher(config)

        def items() -> Iterator[Item]:
            for n, name in enumerate(names):
                yield Item(shard_id=0, index=n, key=str(n), url=server.url("/status/404", name))

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, seen = time.monotonic(), Counter[str]()
        for fetched in fetcher.fetch(items()):
            assert fetched.failure is not None
            seen[fetched.failure.code] += 1
        seconds = time.monotonic() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert len(fetcher.profiles()) == count
        fetcher.close()
    assert seen == {"http_404": count}
    print(f"{count} hosts in {seconds:.1f} s, {grown} KiB more")
    assert seconds < 180
    assert grown < 100 * 2**10, "KiB"
