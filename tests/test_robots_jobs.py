"""Whole jobs that ask robots.txt and X-Robots-Tag: what is fetched, what is not, and what the row says about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import dns
from support.dns import BadDns, Dnsmasq
from support.server import HOSTS, NastyServer, most_within
from test_politeness import check_rate, gaps, learnt, rows, run

ALL = "User-agent: *\nDisallow: /\n"
NAMES = (
    "none", "allow", "disallow", "longest", "ours", "token", "other", "empty", "s401", "s403", "s410", "s429", "s500",
    "s503", "late", "reset", "moved", "elsewhere", "loop", "chain", "huge", "cut", "binary",
)  # fmt: skip


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    """A resolver that knows `NAME.test` for all names, each on one of the server's addresses, and n0 to n19."""
    known = [*NAMES, *(f"n{n}" for n in range(20))]
    with Dnsmasq({f"{name}.test": [HOSTS[number % 4]] for number, name in enumerate(known)}) as running:
        yield running.server


def outcomes(folder: Path) -> list[tuple[str | None, str | None]]:
    """Error code (None for a success) and robots_txt of each row, in the order of the list."""
    return [(row["error_code"], row["robots_txt"]) for row in rows(folder)]


ALLOWED, MISSING = (None, "allowed"), (None, "missing")
DISALLOWED, UNREACHABLE = ("disallowed_by_robots", "disallowed"), ("disallowed_by_robots", "unreachable")


def set_all(server: NastyServer) -> dict[str, tuple[str | None, str | None]]:
    """Give every name its robots.txt; what becomes of /photo/photo_00001.jpg there."""

    def location(where: str) -> dict[str, Any]:
        return {"status": 302, "headers": {"Location": where}}

    filler = "# nothing to see here\n" * 30_000
    disallowing = server.url("/robots.txt", "disallow.test")
    files: dict[str, tuple[dict[str, Any], tuple[str | None, str | None]]] = {
        "allow": ({"body": "User-agent: *\nDisallow: /private/\n"}, ALLOWED),
        "disallow": ({"body": ALL}, DISALLOWED),
        "longest": ({"body": "User-agent: *\nDisallow: /photo/\nAllow: /photo/photo_00001.jpg\n"}, ALLOWED),
        "ours": ({"body": "User-agent: *\nAllow: /\n\nUser-agent: img2dataset\nDisallow: /photo/\n"}, DISALLOWED),
        "token": ({"body": f"User-agent: MyBot\nAllow: /\n\n{ALL}"}, ALLOWED),
        "other": ({"body": "User-agent: otherbot\nUser-agent: img\nDisallow: /\n"}, ALLOWED),
        "empty": ({"body": ""}, ALLOWED),
        "s401": ({"status": 401}, MISSING),
        "s403": ({"status": 403, "body": ALL}, MISSING),
        "s410": ({"status": 410}, MISSING),
        "s429": ({"status": 429, "headers": {"Retry-After": "1"}}, UNREACHABLE),
        "s500": ({"status": 500}, UNREACHABLE),
        "s503": ({"status": 503}, UNREACHABLE),
        "late": ({"body": "", "delay": 10.0}, UNREACHABLE),
        "reset": (location("/reset"), UNREACHABLE),
        "moved": (location(f"/redirect-to?url={disallowing}"), DISALLOWED),
        "elsewhere": (location(disallowing), DISALLOWED),
        "loop": (location("/robots.txt"), MISSING),
        "chain": (location("/redirect/9/robots.txt"), MISSING),
        "huge": ({"body": f"User-agent: *\nDisallow: /photo/\n{filler * 4}"}, DISALLOWED),
        "cut": ({"body": f"User-agent: *\n{filler}Disallow: /photo/\n"}, ALLOWED),
        "binary": ({"body": bytes(range(256)) * 100}, ALLOWED),
    }
    for name, (rules, _) in files.items():
        server.set_robots(f"{name}.test", **rules)
    return {"none": MISSING} | {name: outcome for name, (_, outcome) in files.items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_robots_txt_says_is_done_and_told(workers: int, server: NastyServer, names: str, tmp_path: Path) -> None:
    server.clear()
    expected = set_all(server)
    assert sorted(expected) == sorted(NAMES)
    urls, wanted = [], []
    for n in range(3):
        for name, outcome in expected.items():
            urls.append(server.url(f"/photo/photo_00001.jpg?robots={n}", f"{name}.test"))
            wanted.append(outcome)
    more: dict[str, Any] = {"processes_count": workers} if workers else {}
    run(
        tmp_path, urls, robots_txt="respect", user_agent_token="MyBot/2.0", dns_servers=[names], timeout=3,
        number_sample_per_shard=12, **more,
    )  # fmt: skip
    server.clear_robots()
    found = outcomes(tmp_path)
    assert {url: one for url, one in zip(urls, found, strict=True) if one not in wanted} == {}
    assert dict(zip(urls, found, strict=True)) == dict(zip(urls, wanted, strict=True))
    for row, outcome in zip(rows(tmp_path), wanted, strict=True):
        target = row["url"].partition(".test:")[2].partition("/")[2]
        assert outcome[0] is None or (row["http_status"], row["final_url"]) == (None, None), target
    fetched = [entry for entry in server.log() if entry["target"].startswith("/photo/")]
    assert len(fetched) == sum(outcome[0] is None for outcome in wanted), "what is disallowed is not asked for"
    times = max(1, workers)
    for name in NAMES:
        asked = server.robots_count(f"{name}.test")
        others = 2 * times if name == "disallow" else 0  # those that are sent there
        assert 1 <= asked <= times + others + (name == "chain") * times, name


def test_ignore_never_asks(server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    server.set_robots(HOSTS[0], body=ALL)
    run(tmp_path, [server.url(f"/photo/?n={n}") for n in range(5)])
    server.clear_robots()
    assert server.robots_count() == 0
    assert outcomes(tmp_path) == [(None, None)] * 5


def test_redirects_are_checked_where_they_lead(server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    a, b, c, _ = HOSTS
    server.set_robots(a, body="User-agent: *\nDisallow: /photo/\n")
    server.set_robots(b, body=ALL)
    paths = [f"/redirect-host/photo/?to={b}", f"/redirect-host/photo/?to={c}", "/redirect/2/photo/", "/typed/"]
    run(tmp_path, [server.url(path) for path in paths], robots_txt="respect")
    server.clear_robots()
    assert outcomes(tmp_path) == [DISALLOWED, MISSING, DISALLOWED, ALLOWED]
    assert [server.robots_count(host) for host in (a, b, c)] == [1, 1, 1]
    assert {entry["target"] for entry in server.log() if entry["host"] == b} == {"/robots.txt"}


def test_crawl_delay(server: NastyServer, tmp_path: Path) -> None:
    """That of our group, and of no other host."""
    server.clear()
    body = "User-agent: otherbot\nCrawl-delay: 50\n\nUser-agent: *\nCrawl-delay: 0.7\nDisallow:\n"
    server.set_robots(HOSTS[0], body=body)
    urls = [server.url(f"/photo/?n={n}", HOSTS[n % 2]) for n in range(10)]
    assert run(tmp_path, urls, robots_txt="respect", user_agent_token="bot").successes == 10
    server.clear_robots()
    _, *pictures = server.starts(HOSTS[0])
    assert min(gaps(pictures)) > 0.5
    quick = server.starts(HOSTS[1])
    assert quick[-1] - quick[0] < 2.5


@pytest.mark.parametrize("schedule", ["list", "by_host"])
def test_crawl_delay_holds_over_all_workers(schedule: str, server: NastyServer, tmp_path: Path) -> None:
    server.clear()
    server.set_robots(HOSTS[0], body="User-agent: *\nCrawl-delay: 0.1\n")
    urls = [server.url(f"/photo/?n={n}") for n in range(12)]
    more = {"schedule": schedule, "lanes": 4, "number_sample_per_shard": 4, "processes_count": 3}
    assert run(tmp_path, urls, robots_txt="respect", **more).successes == 12
    server.clear_robots()
    pictures = [entry["time"] for entry in server.log() if entry["target"] != "/robots.txt"]
    assert most_within(pictures, 0.5) <= 5 + 3, "and the first one of each worker"
    assert server.robots_count() <= 3


def test_robots_txt_passes_the_gate(server: NastyServer, names: str, tmp_path: Path) -> None:
    """It is counted, waits for its turn, and goes where the proxy and the ignore list say."""
    server.clear()
    table = tmp_path / "hosts.yaml"
    table.write_text("'*': {rate: 4, connections: 1}\nn1.test: {ignore: true}\nn2.test: {headers: {X-Of-Two: yes!}}\n")
    server.set_robots("n0.test", body="", delay=0.5)
    urls = [server.url(f"/photo/?gate={n}", f"n{n % 3}.test") for n in range(18)]
    stats = run(tmp_path, urls, robots_txt="respect", dns_servers=[names], host_table=str(table))
    server.clear_robots()
    assert (stats.successes, stats.codes) == (12, {"ignored_host": 6})
    for name in ("n0.test", "n2.test"):
        check_rate(server, name, 4, workers=1)
        assert server.peak()[name] == 1
        assert learnt(tmp_path)[name].requests == len(server.starts(name)) == 1 + 6
    assert server.starts("n1.test") == []
    sent = [dict(entry["headers"]) for entry in server.log()]
    assert {headers["Host"].partition(":")[0] for headers in sent if "X-Of-Two" in headers} == {"n2.test"}


def test_one_origin_one_file(server: NastyServer, photo_folder: Path, tmp_path: Path) -> None:
    """The same host on another port is another site."""
    server.clear()
    server.set_robots(HOSTS[0], body=ALL)
    with NastyServer(photo_folder) as second:
        urls = [one.url(f"/photo/?n={n}") for one in (server, second) for n in range(10)]
        run(tmp_path, urls, robots_txt="respect", number_sample_per_shard=3)
        assert [one.robots_count() for one in (server, second)] == [1, 1]
    server.clear_robots()
    assert outcomes(tmp_path) == [DISALLOWED] * 10 + [MISSING] * 10


def test_our_own_network_is_no_reason_to_call_sites_unreachable(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No resolver answers for the first seconds: the rows are held back, robots.txt is asked for again, all succeed."""
    port = dns.free_port()
    known = {f"n{n}.test": [HOSTS[n % 4]] for n in range(20)}
    urls = [server.url(f"/photo/?n={n}", name) for n, name in enumerate(known)]
    monkeypatch.setattr(dns, "free_port", lambda: port)
    late = BadDns(known)
    timer = threading.Timer(2.0, late.__enter__)
    timer.start()
    stats = run(tmp_path, urls, robots_txt="respect", dns_servers=[f"127.0.0.1:{port}"], timeout=5)
    timer.join()
    late.__exit__()
    assert stats.successes == 20
    assert outcomes(tmp_path) == [MISSING] * 20


def test_x_robots_tag(server: NastyServer, tmp_path: Path) -> None:
    """All forms, in one job: what the row says, and what becomes of it."""
    forms: dict[tuple[str, ...], bool] = {
        (): True,
        ("all",): True,
        ("noai",): False,
        ("NoImageAI",): False,
        ("nofollow, noindex",): False,
        ("img2dataset: noindex",): False,
        ("IMG2DATASET-dist: nofollow, noimageindex",): False,
        ("MyBot: noai",): False,
        ("otherbot: noai",): True,
        ("otherbot: nofollow, noindex",): True,
        ("otherbot: noai, mybot: noai",): False,
        ("mybot: nofollow, otherbot: noai",): True,
        ("otherbot: noindex", "all"): True,
        ("otherbot: noindex", "noai"): False,
        ("all", "nosnippet", "mybot: noindex"): False,
        ("unavailable_after: 25 Jun 2010 15:00:00 PST, noai",): False,
        ("max-image-preview: none",): True,
    }
    urls = [server.url("/robots?" + "&".join(f"tag={tag}" for tag in tags)) for tags in forms]
    run(tmp_path, urls, user_agent_token="MyBot")
    for row, (tags, kept) in zip(rows(tmp_path), forms.items(), strict=True):
        assert row["error_code"] == (None if kept else "disallowed_by_header"), tags
        assert row["x_robots_tag"] == ("; ".join(tags) or None)
        assert (row["http_status"], row["robots_txt"]) == (200, None)
        assert (row["jpg"] is None) is not kept
