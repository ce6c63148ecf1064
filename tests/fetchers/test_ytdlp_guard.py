"""What a page can make yt-dlp do: reach inside, read files, start programs. None of it happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.site_fetching import Running, site_fetcher
from support.sites import SiteServer, plugin_folder

from img2dataset_dist.fetchers.host_table import HostRule, HostTable

NAUGHTY = [
    "connect", "connect-ex", "udp", "unix", "listen", "read", "read-os", "read-home", "write", "remove", "rename", "run", "run-other", "system", "fork",
    "spawn", "exec", "dlopen", "sqlite",
]  # fmt: skip


@pytest.fixture(scope="module")
def outside() -> Iterator[SiteServer]:
    """What is on the open Internet, as it were: reached by a proxy, which is the server itself."""
    with SiteServer() as server:
        yield server


@pytest.fixture(scope="module")
def inside() -> Iterator[SiteServer]:
    """What must not be reached."""
    with SiteServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, outside: SiteServer, inside: SiteServer) -> Iterator[Running]:
    outside.inside = inside.url("")
    outside.redirects["/to-inside"] = inside.url("/page/video")
    outside.redirects["/to-name"] = f"http://localhost:{inside.port}/page/video"
    outside.redirects["/to-mapped"] = f"http://[::ffff:127.0.0.1]:{inside.port}/page/video"
    rule = HostRule(proxy=f"http://127.0.0.1:{outside.port}")
    folder = tmp_path_factory.mktemp("guard")
    args = {"plugin_dirs": [plugin_folder(folder / "plugins")]}
    table = HostTable(rules={"open.test": rule}, ignored=frozenset())
    with site_fetcher(folder / "spool", table, allow_private_addresses=False, yt_args=args) as one:
        yield one


def test_what_is_open_is_reached(running: Running, outside: SiteServer) -> None:
    outside.forget()
    assert running.code("http://open.test/media/90p.mp4") == "success"
    assert [path for _, path, _ in outside.log] == ["http://open.test/media/90p.mp4"] * 2


@pytest.mark.parametrize(
    "path",
    ["/to-inside", "/to-name", "/to-mapped", "/page/inside", "/page/inner-hls", "/playlist/inside.m3u8", "/playlist/rss",
     "/playlist/xspf"],
)  # fmt: skip
def test_nothing_inside_is_asked(running: Running, inside: SiteServer, path: str) -> None:
    inside.forget()
    assert running.code(f"http://open.test{path}") in ("blocked_address", "site_unsupported", "connect")
    assert inside.total() == 0


@pytest.mark.parametrize("path", ["/to-inside", "/page/inside", "/page/inner-hls", "/playlist/inside.m3u8"])
def test_it_is_called_by_its_name(running: Running, path: str) -> None:
    outcome = running.one(f"http://open.test{path}")
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.transient) == ("blocked_address", False)
    assert "allow_private_addresses" in outcome.failure.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]"])
def test_urls_of_the_list_that_lead_inside(
    running: Running, inside: SiteServer, outside: SiteServer, host: str
) -> None:
    inside.forget()
    assert running.code(f"http://{host}:{inside.port}/page/video") in ("blocked_address", "connect", "bad_url")
    assert inside.total() == 0
    outside.forget()
    assert running.code(f"http://{host}:{outside.port}/page/video") in ("blocked_address", "connect", "bad_url")
    assert outside.total() == 0, "that it is a proxy for some host does not open it to all"


@pytest.mark.parametrize("what", NAUGHTY)
def test_code_that_tries_is_stopped(running: Running, inside: SiteServer, what: str) -> None:
    """An extractor of the fake site that does a thing itself; its own URL is not asked for."""
    inside.forget()
    outcome = running.one(f"http://127.0.0.1:{inside.port}/fake/try-{what}")
    assert outcome.failure is not None
    if what in ("connect", "connect-ex", "udp"):
        assert outcome.failure.code == "blocked_address"
    else:
        assert outcome.failure.code == "extractor_error"
        assert "stopped by" in outcome.failure.message
    assert inside.total() == 0
    assert not Path("/tmp/guard-was-here").exists()


def test_with_private_addresses_allowed_the_rest_still_holds(tmp_path: Path, inside: SiteServer) -> None:
    args = {"plugin_dirs": [plugin_folder(tmp_path / "plugins")]}
    with site_fetcher(tmp_path / "spool", yt_args=args) as running:
        urls = [inside.url(f"/fake/try-{what}") for what in NAUGHTY]
        said = {
            what: one.failure and one.failure.message for what, one in zip(NAUGHTY, running.fetch(urls), strict=True)
        }
    done = {what for what, message in said.items() if "it was done" in (message or "")}
    assert done == {"connect", "connect-ex", "udp"}
    assert all("stopped by" in (message or "") for what, message in said.items() if what not in done)


def test_the_one_program_that_a_job_may_name(tmp_path: Path, inside: SiteServer) -> None:
    """And the scripts that it is given can be read."""
    args = {"plugin_dirs": [plugin_folder(tmp_path / "plugins")], "js_runtimes": {"deno": {"path": "/bin/true"}}}
    with site_fetcher(tmp_path / "spool", yt_args=args) as running:
        for what, message in (
            ("run", "it was done"),
            ("solver", "it was done"),
            ("run-other", "stopped by"),
            ("system", "stopped by"),
        ):
            failure = running.one(inside.url(f"/fake/try-{what}")).failure
            assert failure is not None
            assert message in failure.message


def test_plugins_are_only_loaded_where_a_job_names_them(
    tmp_path: Path, inside: SiteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plugin_folder(tmp_path / "plugins")
    package = str(Path(folder) / "fake")
    monkeypatch.setenv("PYTHONPATH", package)
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    plugin_folder(tmp_path / "config" / "yt-dlp" / "plugins")
    with site_fetcher(tmp_path / "spool") as running:
        assert not running.fetcher.claims(inside.url("/fake/ok"))
        assert running.code(inside.url("/fake/ok")) == "http_404"


def test_a_config_file_is_not_read(tmp_path: Path, inside: SiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".config" / "yt-dlp").mkdir(parents=True)
    (tmp_path / ".config" / "yt-dlp" / "config").write_text("--user-agent evil\n--exec true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with site_fetcher(tmp_path / "spool") as running:
        inside.forget()
        assert running.code(inside.url("/page/video")) == "success"
        assert all("evil" not in headers["User-Agent"] for _, _, headers in inside.log)
