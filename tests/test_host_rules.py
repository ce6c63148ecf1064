"""Whole jobs with a table of hosts, an ignore list and profiles: who is asked how, through what, and what is learnt."""

from __future__ import annotations

import contextlib
import http.client
import http.server
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support import dataset
from support.server import HOSTS, NastyServer, most_within
from test_politeness import Host, check_rate, learnt, run, send

from img2dataset_dist.fetchers import profiles


def test_rules_by_host(server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate, connections and an ignored host of the table, an ignored one of the list, and a secret."""
    server.clear()
    secret = "Basic dXNlcjpzZWNyZXQ="  # what /auth asks for
    monkeypatch.setenv("POLITE_SECRET", secret)
    a, b, c, d = HOSTS
    table = tmp_path / "hosts.yaml"
    table.write_text(
        f"{a}: {{rate: 16, headers: {{Authorization: '${{POLITE_SECRET}}', X-Of-A: one}}}}\n"
        f"{b}: {{connections: 2}}\n{c}: {{ignore: true}}\n"
    )
    ignored = tmp_path / "ignored.txt"
    ignored.write_text(f"# these asked us to stay away\n{d}\n")
    urls = [server.url(f"/auth?n={n}", a) for n in range(20)]
    urls += [server.url(f"/latency/?ms=100&n={n}", b) for n in range(20)]
    urls += [server.url(f"/auth?of=b&n={n}", b) for n in range(2)]
    urls += [server.url(f"/redirect-host/auth?to={b}&n={n}", a) for n in range(2)]
    urls += [server.url(f"/photo/?n={n}", HOSTS[2 + n % 2]) for n in range(20)]
    urls += [server.url(f"/redirect-host/photo/?to={host}", b) for host in (c, d)]
    more = {"host_table": str(table), "ignore_hosts": str(ignored), "processes_count": 2}
    stats = run(tmp_path, urls, number_sample_per_shard=20, max_requests_per_second_per_host=100, **more)
    assert (stats.successes, stats.codes) == (40, {"http_401": 4, "ignored_host": 22})
    check_rate(server, a, 16, workers=2)
    assert server.peak()[b] == 2
    assert not {c, d} & set(server.peak()), "nobody asked them"
    sent = {(entry["host"], name.lower()) for entry in server.log() for name, _ in entry["headers"]}
    assert {(a, "authorization"), (a, "x-of-a")} <= sent
    assert not {(b, "authorization"), (b, "x-of-a")} & sent
    assert_nowhere(tmp_path / "out", "dXNlcjpzZWNyZXQ")


def assert_nowhere(folder: Path, secret: str) -> None:
    """Not in a name, not in a file, not in a row."""
    for path in folder.rglob("*"):
        assert secret not in path.name
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert secret not in repr(dataset.rows(folder))


def test_a_proxy_of_one_host(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.clear()
    secrets = []

    def forward(handler: http.server.BaseHTTPRequestHandler) -> None:
        secrets.append(handler.headers["Proxy-Authorization"])
        target = urlsplit(handler.path)
        upstream = http.client.HTTPConnection(str(target.hostname), target.port, timeout=10)
        with contextlib.closing(upstream):
            upstream.request("GET", f"{target.path}?{target.query}", headers={"X-Forwarded-For": "us"})
            answer = upstream.getresponse()
            send(handler, answer.read(), answer.status)

    proxy = Host(forward)
    proxy.start()
    monkeypatch.setenv("PROXY_PASSWORD", "sesame@:/")
    table = tmp_path / "hosts.yaml"
    table.write_text(f"{HOSTS[0]}: {{proxy: 'http://me:${{PROXY_PASSWORD}}@{proxy.address}'}}\n")
    urls = [server.url(f"/photo/?n={n}", HOSTS[n % 2]) for n in range(20)]
    urls += [server.url(f"/redirect-host/photo/?to={HOSTS[0]}&n=r", HOSTS[1])]
    stats = run(tmp_path, urls, host_table=str(table), max_connections_per_host=3)
    proxy.close()
    assert stats.successes == 21
    assert sorted(proxy.requests) == sorted([url for url in urls if HOSTS[0] in url[:20]] + [server.url("/photo/?n=r")])
    assert set(secrets) == {"Basic bWU6c2VzYW1lQDov"}
    direct = [entry for entry in server.log() if "X-Forwarded-For" not in dict(entry["headers"])]
    assert {entry["host"] for entry in direct} == {HOSTS[1]}
    assert server.peak()[HOSTS[0]] <= 3
    for secret in ("sesame", "bWU6c2VzYW1l"):
        assert_nowhere(tmp_path / "out", secret)
        assert secret not in "".join(capfd.readouterr())


def test_what_is_learnt_about_hosts(server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    a, b, c, d = HOSTS
    urls = [server.url(f"/latency/?ms=100&n={n}", a) for n in range(20)]
    urls += [server.url(f"/photo/?n={n}", b) for n in range(10)] + [server.url(f"/status/404?n={n}", b) for n in "abc"]
    urls += [server.url(f"/redirect-host/photo/?to={b}&n=r{n}", c) for n in range(4)]
    urls += [server.url(f"/flaky/{tmp_path.name}{n}?fail=1&status=503", d) for n in range(5)] + ["no url"]
    stats = run(tmp_path, urls, number_sample_per_shard=9, processes_count=2, retries=1, retry_backoff=0.1)
    assert stats.successes == 20 + 10 + 4 + 5
    found = learnt(tmp_path)
    assert {host: len(server.starts(host)) for host in HOSTS} == {host: found[host].requests for host in HOSTS}
    counts = {host: (one.requests, one.successes, one.errors, one.slow_downs) for host, one in found.items()}
    assert counts == {a: (20, 20, 0, 0), b: (17, 14, 3, 0), c: (4, 0, 0, 0), d: (10, 5, 5, 5)}
    assert 100 <= found[a].latency_ms < 1000
    assert found[a].rate is None
    assert dataset.leftovers(tmp_path / "out") == []


def test_the_next_run_begins_with_what_was_learnt(server: NastyServer, tmp_path: Path) -> None:
    """Given by path, or its own when the same folder is gone on with; another host is asked as fast as ever."""
    limits = {"retries": 12, "retry_backoff": 0.1, "max_connections_per_host": 4}
    urls = [server.url(f"/throttle/{tmp_path.name}?limit=3&per=1&n={n}") for n in range(9)]
    urls += [server.url(f"/photo/?n={n}", HOSTS[1]) for n in range(12)]
    assert run(tmp_path, urls, **limits).successes == 21
    rate = learnt(tmp_path)[HOSTS[0]].rate
    assert rate is not None
    assert rate < 12
    again = [server.url(f"/photo/?n={n}", HOSTS[n % 2]) for n in range(24)]
    path = str(tmp_path / "out" / profiles.FILE)
    for folder, more in ((tmp_path / "next", {"host_profiles": path}), (tmp_path, {"incremental_mode": "extend"})):
        server.clear()
        assert run(folder, again, **limits, **more).successes == 24
        starts, free = server.starts(HOSTS[0]), server.starts(HOSTS[1])
        assert most_within(starts[: int(rate) + 2], 0.5) <= rate / 2 + 3
        assert starts[-1] - starts[0] > 2 * (free[-1] - free[0])
    assert learnt(tmp_path)[HOSTS[0]].successes == 9 + 12
