"""Thousands of rows of every kind in one list: the account at the end is exact, and a host that is down costs little."""

from __future__ import annotations

import random
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import dataset
from support.cases import CASES, MAX_BODY
from support.fetching import SUCCESS, code, fetch
from support.server import HOSTS, NastyServer

from img2dataset_dist import download
from img2dataset_dist.fetchers import hosts

GOOD_PER_HOST = 680
TIMEOUT = 3.0
SHARD = 500


def great_list(bases: dict[str, NastyServer], photos: list[str], name: str) -> dict[str, str]:
    """URL to what the account has to say of it: all cases on all hosts, among good photographs.

    A host that says 429 is slowed down at once, so those come last.
    """
    cases = [case for case in CASES if not case.options]
    rows = {
        base.url(case.url_path(f"{name}-{host}-{n}"), host): case.account
        for host, base in bases.items()
        for n, case in enumerate(cases)
    }
    for host, base in bases.items():
        for n in range(GOOD_PER_HOST):
            rows[base.url(f"/photo/{photos[n % len(photos)]}?{name}={n}", host)] = SUCCESS
    for n in range(20):
        rows[bases[HOSTS[0]].refused(f"/{n}.jpg")] = "connect"
        rows[f"ftp://127.0.0.1/{n}.jpg"] = "bad_url"
        rows[f"no address at all {n}"] = "bad_url"
    order = list(rows)
    random.Random(4).shuffle(order)
    return {url: rows[url] for url in sorted(order, key=lambda url: rows[url] == "http_429")}


def members(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{"distributor": "inline"}, {"processes_count": 2}], ids=["inline", "processes"])
def test_the_account_of_one_great_list_is_exact(
    server: NastyServer,
    https_server: NastyServer,
    photo_folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    engine: dict[str, Any],
) -> None:
    bases = {host: (server, https_server)[n % 2] for n, host in enumerate(HOSTS)}
    photos = sorted(path.name for path in photo_folder.iterdir())
    expected = great_list(bases, photos, request.node.callspec.id)
    urls, out = tmp_path / "urls.txt", tmp_path / "out"
    urls.write_text("".join(f"{url}\n" for url in expected))
    began = time.monotonic()
    stats = download(
        url_list=str(urls), output_folder=str(out), output_format="webdataset", image_size=32,
        number_sample_per_shard=SHARD, thread_count=128, timeout=TIMEOUT, max_body_bytes=MAX_BODY,
        allow_private_addresses=True, ignore_ssl_certificate=True, progress="none", **engine,
    )  # fmt: skip
    assert time.monotonic() - began < 90
    rows = [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    found = {row["url"]: row["error_code"] or SUCCESS for row in rows}
    wrong = {url: (expected[url], got) for url, got in found.items() if got != expected[url]}
    assert not wrong
    assert len(rows) == len(found) == len(expected) >= 3000
    account = Counter(expected.values())
    assert account.keys() >= {"timeout_total", "timeout_first_byte", "truncated", "reset", "too_large", "not_media"}
    successes = account.pop(SUCCESS)
    assert (stats.count, stats.successes, stats.codes) == (len(expected), successes, account)
    assert stats.failed_to_resize == account["not_media"] + account["decode_error"]
    good = [row["key"] for row in rows if row["error_code"] is None]
    stored = [name for path in out.glob("*.tar") for name in members(path) if name.endswith(".jpg")]
    assert sorted(stored) == sorted(f"{key}.jpg" for key in good)
    assert len(set(stored)) == successes
    dataset.check_whole(out)
    assert dataset.leftovers(out) == []


def test_a_host_that_only_hangs_costs_a_bounded_time_and_hurts_no_other(
    server: NastyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PAUSES", (0.5, 60.0))
    urls = []
    for n in range(200):
        urls += [server.url(f"/hang?dead={n}", HOSTS[3]), server.url(f"/photo/photo_00001.jpg?dead={n}", HOSTS[n % 3])]
    began = time.monotonic()
    found = fetch(urls, timeout=10, first_byte_timeout=0.5, thread_count=32, max_connections_per_host=8)
    assert time.monotonic() - began < 20, "two hundred rows one after another would take a quarter of that time each"
    dead, alive = found[::2], found[1::2]
    assert {code(one) for one in alive} == {SUCCESS}
    account = Counter(code(one) for one in dead)
    assert account.keys() == {"timeout_first_byte", "host_down"}
    assert account["timeout_first_byte"] >= hosts.DOWN_AFTER
    assert account["host_down"] >= 150
    assert all(
        one.failure.transient and one.facts.attempts == 0 for one in dead if one.failure and code(one) == "host_down"
    )
    asked = sum("dead" in entry["target"] and entry["host"] == HOSTS[3] for entry in server.log())
    assert asked == account["timeout_first_byte"], "a host that is down is not asked"
    assert max(one.facts.fetch_ms or 0 for one in alive) < 5000
