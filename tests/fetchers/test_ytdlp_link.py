"""Sites and our own network: a list of them is not burnt against a machine that is cut off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.namespace import Namespace, ip
from support.site_fetching import Running, code, site_fetcher
from support.sites import SiteServer, plugin_folder

from img2dataset_dist.errors import NetworkDownError
from img2dataset_dist.fetchers.health import WINDOW
from img2dataset_dist.fetchers.link import Link

CUT, BACK = "network: this machine has no link", "network: back"


@pytest.fixture
def cut_off() -> Iterator[Callable[[], None]]:
    """In a machine whose cable is pulled; gives what plugs it in. 93.184.216.0/24 leads to the machine itself then."""
    with Namespace(up=False) as space, space.inside():
        ip("link", "set", "lo", "up")
        ip("link", "add", "cable", "type", "veth", "peer", "name", "switch")
        ip("link", "set", "cable", "up")

        def mend() -> None:
            ip("link", "set", "switch", "up")
            ip("route", "add", "local", "93.184.216.0/24", "dev", "lo")

        yield mend


def wait_for_word(running: Running, word: str) -> None:
    until = time.monotonic() + 30
    while not any(word in text for text in running.notices):
        assert time.monotonic() < until, running.notices
        time.sleep(0.02)


def count(running: Running, word: str) -> int:
    return sum(text.startswith(word) for text in running.notices)


def test_without_a_link_rows_wait(tmp_path: Path, cut_off: Callable[[], None]) -> None:
    with SiteServer(("0.0.0.0", 80)) as server, site_fetcher(tmp_path, site_processes=2) as running:
        running.submit([f"http://93.184.216.34/media/90p.mp4?{n}" for n in range(4)])
        wait_for_word(running, CUT)
        time.sleep(2)
        assert not running.fetcher.collect(), "none is given up"
        assert server.total() == 0
        cut_off()
        found = running.gather(4)
        assert [code(one) for one in found] == ["success"] * 4
        assert [one.facts.attempts for one in found] == [1] * 4
        assert [count(running, CUT), count(running, BACK)] == [1, 1]


def test_a_link_that_stays_down_ends_the_job(tmp_path: Path, cut_off: Callable[[], None]) -> None:
    with (
        site_fetcher(tmp_path, network_patience=1) as running,
        pytest.raises(NetworkDownError, match="run the same command again"),
    ):
        running.fetch(["http://93.184.216.34/a.mp4"] * 3)


@pytest.mark.slow
def test_no_route_to_many_hosts_in_a_row(tmp_path: Path) -> None:
    with Namespace(up=False) as space, space.inside():
        ip("link", "set", "lo", "up")
        with site_fetcher(tmp_path, network_patience=1) as running, pytest.raises(NetworkDownError):
            running.fetch([f"http://93.184.216.{n}/" for n in range(2 * WINDOW)])
        assert count(running, f"network: neither a resolver nor a route for {WINDOW} hosts in a row") == 1


def test_one_host_without_a_route_is_at_fault_itself(tmp_path: Path) -> None:
    with (
        Namespace() as space,
        space.inside(),
        SiteServer() as server,
        site_fetcher(tmp_path, link=Link(look=lambda: False)) as running,
    ):
        outcomes = running.fetch(["http://93.184.216.34/a.mp4", server.url("/media/90p.mp4")])
        assert [code(one) for one in outcomes] == ["connect", "success"]
        assert not running.notices


def test_a_silent_host_behind_a_good_link_is_no_fault_of_ours(tmp_path: Path) -> None:
    plugins = {"plugin_dirs": [plugin_folder(tmp_path / "plugins")]}
    with SiteServer() as server, site_fetcher(tmp_path / "spool", timeout=1, yt_args=plugins) as running:
        assert running.code(server.url("/fake/sleep")) == "timeout_total"
        assert not running.notices
