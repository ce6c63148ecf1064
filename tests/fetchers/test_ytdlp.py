"""Pages, playlists and sites: what each gives, in how many requests, and how it fails."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from Cryptodome.Cipher import AES
from support.fetching import full_backlog
from support.site_fetching import EMPTY, Running, code, item, site_fetcher
from support.sites import HEIGHTS, SECONDS, SiteServer, bomb, plugin_folder

from img2dataset_dist.fetchers.host_table import HostRule, HostTable
from img2dataset_dist.model import Fetched, MediaFile

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server() -> Iterator[SiteServer]:
    with SiteServer() as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sites")
    args = {"plugin_dirs": [plugin_folder(folder / "plugins")]}
    with site_fetcher(folder / "spool", yt_args=args, max_body_bytes=2_000_000) as one:
        yield one


def height(file: MediaFile) -> int:
    with av.open(file.path) as video:
        frames = sum(1 for _ in video.decode(video=0))
        assert frames == pytest.approx(SECONDS * 10, abs=1)
        return video.streams.video[0].height


def fetched(running: Running, server: SiteServer, path: str) -> tuple[MediaFile, int]:
    """The file, and how many requests it took."""
    server.forget()
    outcome = running.one(server.url(path))
    assert outcome.failure is None, outcome.failure
    assert outcome.file is not None
    assert outcome.facts.attempts == 1
    assert outcome.facts.http_status == 200
    assert outcome.facts.bytes is not None
    assert outcome.facts.bytes >= outcome.file.size
    return outcome.file, server.total()


@pytest.mark.parametrize(
    ("path", "pixels", "requests"),
    [
        ("/page/video", 180, 2),
        ("/page/source", 360, 2),
        ("/page/og", 180, 2),
        ("/page/jsonld", 180, 3),  # what a URL of JSON-LD is, has to be asked
        ("/page/two", 90, 2),
        ("/page/hls", 360, 6),  # the page, the master, the playlist, 3 segments
        ("/media/master.m3u8", 360, 6),  # the master is asked for twice: its length too is in question
        ("/media/hls_1.m3u8", 180, 4),
        ("/media/90p.mp4", 90, 2),
    ],
)
def test_pages_and_playlists(running: Running, server: SiteServer, path: str, pixels: int, requests: int) -> None:
    file, count = fetched(running, server, path)
    assert height(file) == pixels
    assert count == requests
    assert file.sound is None
    assert server.count(path) == 1 or path.endswith(".mp4"), "one extraction"


def test_dash_keeps_the_sound_apart(running: Running, server: SiteServer) -> None:
    file, count = fetched(running, server, "/media/dash.mpd")
    assert height(file) == 360
    assert file.sound is not None
    with av.open(file.sound) as sound:
        assert not sound.streams.video
        assert sound.streams.audio[0].rate == 44100
    assert count == 9  # the playlist, two heads, 3 segments each


def test_hls_that_is_encrypted(tmp_path: Path, server: SiteServer) -> None:
    """By AES-128, in native code: some MB take no longer than others."""
    key, start = bytes(range(16)), bytes(range(16, 32))
    plain = (server.media / "hls_0_0.ts").read_bytes() + (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 40_000
    padded = plain + bytes([16 - len(plain) % 16] * (16 - len(plain) % 16))
    (server.media / "aes.key").write_bytes(key)
    (server.media / "aes.ts").write_bytes(AES.new(key, AES.MODE_CBC, start).encrypt(padded))
    (server.media / "aes.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n"
        f'#EXT-X-KEY:METHOD=AES-128,URI="/media/aes.key",IV=0x{start.hex()}\n#EXTINF:1,\naes.ts\n#EXT-X-ENDLIST\n'
    )
    with site_fetcher(tmp_path, timeout=15) as running:
        file, _ = fetched(running, server, "/media/aes.m3u8")
        assert Path(file.path).read_bytes() == plain


def test_the_sound_of_a_site_at_the_right_rate(running: Running, server: SiteServer) -> None:
    file, count = fetched(running, server, "/fake/apart")
    assert height(file) == 360
    assert file.sound is not None
    assert [path for _, path, _ in server.log] == ["/media/silent_360p.mp4", "/media/sound.m4a?44100"]
    assert count == 2


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({"media": "audio"}, ["/media/sound.m4a?44100"]),
        ({"media": "audio", "download_audio_rate": 44_101}, ["/media/sound.m4a?48000"]),
        ({"media": "audio", "download_audio_rate": 96_000}, ["/media/sound.m4a?48000"]),
        ({"download_size": 91}, ["/media/silent_180p.mp4", "/media/sound.m4a?44100"]),
        ({"download_size": 4000}, ["/media/silent_360p.mp4", "/media/sound.m4a?44100"]),
        ({"yt_args": {"format": "s90+a22050"}}, ["/media/silent_90p.mp4", "/media/sound.m4a?22050"]),
        ({"yt_args": {"format": "a48000/b"}}, ["/media/sound.m4a?48000"]),
    ],
)
def test_what_is_chosen(tmp_path: Path, server: SiteServer, options: dict[str, object], paths: list[str]) -> None:
    args = {**options.pop("yt_args", {}), "plugin_dirs": [plugin_folder(tmp_path / "plugins")]}  # type: ignore[dict-item]
    with site_fetcher(tmp_path / "spool", yt_args=args, **options) as running:
        _, count = fetched(running, server, "/fake/apart")
        assert [path for _, path, _ in server.log] == paths
        assert count == len(paths)


FAILURES = {
    "/page/none": "site_unsupported",
    "/page/short": "site_unsupported",
    "/page/geo": "site_geo",
    "/page/private": "site_private",
    "/page/gone": "site_removed",
    "/page/file": "site_unsupported",
    "/playlist/xspf": "site_unsupported",
    "/playlist/file.m3u8": "redirect_refused",
    "/playlist/key.m3u8": "redirect_refused",
    "/playlist/path.m3u8": "http_404",
    "/playlist/hole.m3u8": "http_404",
    "/playlist/live.m3u8": "site_unsupported",
    "/playlist/drm.m3u8": "site_unsupported",
    "/status/404": "http_404",
    "/status/403": "http_403",
    "/status/500": "http_500",
    "/status/503": "http_503",
    "/media/no.mp4": "http_404",
    "/reset": "reset",
    "/zero.mp4": "empty_body",
    "/endless.mp4": "too_large",
    "/fake/private": "site_private",
    "/fake/members": "site_private",
    "/fake/age": "site_private",
    "/fake/removed": "site_removed",
    "/fake/unavailable": "site_removed",
    "/fake/geo": "site_geo",
    "/fake/drm": "site_unsupported",
    "/fake/locked": "site_unsupported",
    "/fake/live": "site_unsupported",
    "/fake/notlive": "site_unsupported",
    "/fake/rtmp": "site_unsupported",
    "/fake/odd": "extractor_error",
    "/fake/crash": "extractor_error",
}


def test_failures(running: Running, server: SiteServer) -> None:
    running.code(server.url("/page/video"))
    began, folders = time.monotonic(), running.folders()
    outcomes = running.fetch([server.url(path) for path in FAILURES])
    assert {path: code(one) for path, one in zip(FAILURES, outcomes, strict=True)} == FAILURES
    assert time.monotonic() - began < 30
    for one in outcomes:
        assert one.failure is not None
        assert one.failure.status == "failed_to_download"
        assert one.failure.message
        assert str(server.port) not in one.failure.message
        assert one.failure.transient == (one.failure.code in ("http_500", "http_503", "reset"))
    assert running.folders() == folders, "those of failed rows are gone"


def test_urls_that_are_none(running: Running) -> None:
    urls = [None, "", "file:///etc/passwd", "ytsearch:cats", "ftp://127.0.0.1/x", "http://"]
    assert [code(one) for one in running.fetch(urls)] == ["bad_url"] * 6


def test_names_and_ports_that_lead_nowhere(running: Running) -> None:
    assert running.code("http://nowhere.invalid/video") == "dns"
    assert running.code("http://127.0.0.1:9/video") == "connect"


@pytest.mark.slow
def test_a_deadline_holds_for_the_whole_row(tmp_path: Path, server: SiteServer) -> None:
    plugins = plugin_folder(tmp_path / "plugins")
    with site_fetcher(tmp_path / "spool", timeout=1.5, yt_args={"plugin_dirs": [plugins]}) as running:
        running.code(server.url("/media/90p.mp4"))
        began = time.monotonic()
        running.fetcher.submit(item(server.url("/drip.mp4")), spent=1.3)
        (outcome,) = running.gather(1)
        assert code(outcome) == "timeout_total"
        assert 0.1 < time.monotonic() - began < 1.4, "what others used of it counts"
        assert outcome.facts.fetch_ms is not None
        assert outcome.facts.fetch_ms >= 1500, "all of it"
        for path in ("/drip", "/drip.mp4", "/fake/sleep"):
            running.code(server.url("/media/90p.mp4"))
            began = time.monotonic()
            assert running.code(server.url(path)) in ("timeout_total", "timeout_idle"), path
            assert 1.4 < time.monotonic() - began < 4
        with full_backlog() as url:
            if url:
                assert running.code(url) in ("timeout_total", "timeout_idle")
        assert running.code(server.url("/page/video")) == "success"


@pytest.mark.slow
def test_a_page_without_end(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, timeout=20) as running:
        outcome = running.one(server.url("/endless"))
    assert code(outcome) == "too_large"
    assert outcome.facts.bytes is not None
    assert outcome.facts.bytes <= 65 * 2**20


@pytest.mark.slow
def test_a_page_that_unpacks_without_end(tmp_path: Path, server: SiteServer) -> None:
    assert len(bomb()) < 2**24
    with site_fetcher(tmp_path, timeout=60) as running:
        assert running.code(server.url("/bomb")) == "too_large"
        assert running.code(server.url("/page/video")) == "success"


@pytest.mark.slow
def test_no_more_is_fetched_than_is_collected(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, site_processes=2) as running:
        server.forget()
        running.submit([server.url("/media/90p.mp4")] * 20)
        until = time.monotonic() + 30
        while running.wakes < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1.5)
        assert running.wakes <= 3, "one more was under way"
        assert running.fetcher.busy == 20
        assert len(running.gather(20)) == 20


def test_subtitles_and_what_a_site_says(tmp_path: Path, server: SiteServer) -> None:
    wanted = {
        "writesubtitles": True,
        "writeautomaticsub": True,
        "subtitleslangs": ["de", "en", "fr", "xx"],
        "get_info": True,
    }
    args = {"plugin_dirs": [plugin_folder(tmp_path / "plugins")]}
    with site_fetcher(tmp_path / "spool", yt_args=args, yt_metadata_args=wanted) as running:
        file, count = fetched(running, server, "/fake/texts")
        assert count == 4
        assert list(file.subtitles) == ["de", "en"]
        assert Path(file.subtitles["en"]).read_text().startswith("WEBVTT")
        page = file.page
        assert page is not None
        assert page["subtitles"]["en"][1] == {
            "start": "00:00:01.000", "end": "00:00:02.000", "lines": ["good", "bye"]
        }  # fmt: skip
        assert page["subtitles"]["de"] == [{"start": "00:00:00.000", "end": "00:00:01.000", "lines": ["hallo"]}]
        assert page["automatic"] == ["de"], "the others are the site's own"
        assert set(page["subtitles_missing"]) == {"fr", "xx"}
        info = page["info"]
        assert (info["id"], info["view_count"], info["tags"]) == ("texts", 7, ["a", "b"])
        assert info["title"] == "T?itle"
        assert info["average_rating"] is None
        assert len(info["description"]) == 20_000
        assert not {"formats", "url", "http_headers", "subtitles", "cookies"} & set(info)


@pytest.mark.parametrize(
    ("wanted", "languages", "page"),
    [
        ({"writesubtitles": "first", "subtitleslangs": ["de", "en"], "writeautomaticsub": True}, ["de"], ["de"]),
        ({"writesubtitles": True}, ["en"], ["en"]),
        ({"get_info": True}, [], None),
    ],
)
def test_fewer_subtitles(
    tmp_path: Path, server: SiteServer, wanted: dict[str, object], languages: list[str], page: list[str] | None
) -> None:
    args = {"plugin_dirs": [plugin_folder(tmp_path / "plugins")]}
    with site_fetcher(tmp_path / "spool", yt_args=args, yt_metadata_args=wanted) as running:
        file, _ = fetched(running, server, "/fake/texts")
        assert list(file.subtitles) == languages
        assert file.page is not None
        assert (file.page["subtitles"] and list(file.page["subtitles"])) == page
        assert (file.page["info"] is None) == ("get_info" not in wanted)


def test_without_wishes_nothing_is_asked_beside(running: Running, server: SiteServer) -> None:
    file, count = fetched(running, server, "/fake/texts")
    assert (file.subtitles, file.page, count) == ({}, None, 1)


def test_who_we_say_we_are(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, user_agent_token="my-job") as running:
        server.forget()
        running.code(server.url("/page/video"))
    agents = {headers["User-Agent"] for _, _, headers in server.log}
    assert len(agents) == 1
    assert agents.pop().startswith("img2dataset-dist/")
    args = {"user_agent": "me", "http_headers": {"X-Own": "1"}, "referer": "http://r.example/"}
    with site_fetcher(tmp_path, yt_args=args) as running:
        server.forget()
        running.code(server.url("/media/90p.mp4"))
    for _, _, headers in server.log:
        assert (headers["User-Agent"], headers["X-Own"], headers["Referer"]) == ("me", "1", "http://r.example/")


def test_cookies_come_from_a_file_that_stays_as_it_is(tmp_path: Path, server: SiteServer) -> None:
    cookies = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tname\tvalue\n"
    cookies.write_text(text)
    with site_fetcher(tmp_path / "spool", yt_args={"cookiefile": str(cookies)}) as running:
        server.forget()
        running.code(server.url("/page/video"))
    assert "name=value" in server.log[0][2]["Cookie"]
    assert cookies.read_text() == text


def test_the_rate_of_a_host_holds_for_every_request(tmp_path: Path, server: SiteServer) -> None:
    table = HostTable(rules={"127.0.0.1": HostRule(rate=8)}, ignored=frozenset())
    with site_fetcher(tmp_path, table) as running:
        running.code(server.url("/page/video"))
        began = time.monotonic()
        running.code(server.url("/page/hls"))
        assert time.monotonic() - began > 5 / 8


@pytest.mark.slow
def test_a_host_has_no_more_rows_than_connections(tmp_path: Path, server: SiteServer) -> None:
    table = HostTable(rules={"127.0.0.1": HostRule(connections=1)}, ignored=frozenset())
    under_way: list[int] = []
    most = []

    def slowly() -> tuple[int, str]:
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.1)
        under_way.pop()
        return 200, "{}"

    server.api["/api/flaky"] = slowly
    args = {"plugin_dirs": [plugin_folder(tmp_path / "plugins")]}
    for rules, peak in ((table, 1), (EMPTY, 2)):
        most.clear()
        with site_fetcher(tmp_path / "spool", rules, site_processes=2, yt_args=args) as running:
            assert {code(one) for one in running.fetch([server.url("/fake/flaky")] * 12)} == {"success"}
        assert max(most) == peak


@pytest.mark.slow
def test_workers_of_a_machine_share_a_site(tmp_path: Path, server: SiteServer) -> None:
    """Two of them with a limit of one: never two rows at once, and both have their rows fetched."""
    under_way: list[int] = []
    most = []

    def slowly() -> tuple[int, str]:
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.2)
        under_way.pop()
        return 200, "{}"

    server.api["/api/flaky"] = slowly
    (tmp_path / "slots").touch()
    script = f"""
        import sys
        sys.path.insert(0, {str(TESTS)!r})
        from pathlib import Path
        from support.site_fetching import EMPTY, Running, code
        running = Running(
            Path({str(tmp_path / "spool")!r}), EMPTY, max_connections_per_host=1, timeout=60,
            yt_args={{"plugin_dirs": [{plugin_folder(tmp_path / "plugins")!r}]}},
            context={{"slots": {str(tmp_path / "slots")!r}, "neighbours": 2}},
        )
        print(*[code(one) for one in running.fetch([{server.url("/fake/flaky")!r}] * 8)])
        running.fetcher.close()
        running.spool.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert said == [["success"] * 8] * 2
    assert max(most) == 1


def test_rules_for_hosts_hold_behind_redirects(tmp_path: Path, server: SiteServer) -> None:
    """`first.test` and `second.test` are only reached by a proxy, which is the server itself."""
    server.redirects["/go"] = "http://second.test/page/video"
    server.redirects["/away"] = "http://ignored.test/x"
    proxy = f"http://127.0.0.1:{server.port}"
    table = HostTable(
        rules={
            "first.test": HostRule(proxy=proxy, headers=(("Authorization", "secret"), ("X-First", "1"))),
            "second.test": HostRule(proxy=proxy, headers=(("X-Second", "2"),)),
        },
        ignored=frozenset({"ignored.test"}),
    )
    with site_fetcher(tmp_path, table, allow_private_addresses=False) as running:
        server.forget()
        outcome = running.one("http://first.test/go")
        assert code(outcome) == "success"
        assert outcome.facts.final_url == "http://second.test/page/video"
        for _, path, headers in server.log:
            assert ("X-First" in headers) == ("Authorization" in headers) == ("first.test" in path)
            assert ("X-Second" in headers) == ("second.test" in path)
        server.forget()
        assert running.code("http://ignored.test/x") == "ignored_host"
        assert server.total() == 0
        assert running.code("http://first.test/away") == "ignored_host"
        assert server.total() == 1


def test_robots_txt_holds_for_every_request(tmp_path: Path, server: SiteServer) -> None:
    server.robots = "User-agent: *\nDisallow: /page/og\nDisallow: /media/360p.mp4\n"
    server.redirects["/hidden"] = "/page/og"
    try:
        with site_fetcher(tmp_path, robots_txt="respect") as running:
            server.forget()
            found = {
                path: running.code(server.url(path)) for path in ("/page/video", "/page/og", "/page/source", "/hidden")
            }
            assert found == {
                "/page/video": "success",
                "/page/og": "disallowed_by_robots",
                "/page/source": "disallowed_by_robots",
                "/hidden": "disallowed_by_robots",
            }
            assert server.count("/robots.txt") == 1
            assert server.count("/page/og") == server.count("/media/360p.mp4") == 0
            assert running.code("http://nowhere.invalid/") == "dns"
        with site_fetcher(tmp_path) as running:
            assert running.code(server.url("/page/og")) == "success"
    finally:
        server.robots = ""


def test_a_chain_of_redirects_ends(tmp_path: Path, server: SiteServer) -> None:
    for n in range(6):
        server.redirects[f"/hop{n}"] = f"/hop{n + 1}"
    server.redirects["/hop6"] = "/page/video"
    server.redirects["/round"] = "/round"
    server.redirects["/to-file"] = "file:///etc/passwd"
    with site_fetcher(tmp_path, max_redirects=5) as running:
        assert running.code(server.url("/hop3")) == "success"
        assert running.code(server.url("/hop0")) == "redirect_loop"
        assert running.code(server.url("/round")) == "redirect_loop"
        assert running.code(server.url("/to-file")) not in ("success", "timeout_total")


def test_retries(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, retries=2, retry_backoff=0.01) as running:
        server.forget()
        outcome = running.one(server.url("/status/503"))
        assert (code(outcome), outcome.facts.attempts) == ("http_503", 3)
        assert server.total() == 3
        server.forget()
        assert running.one(server.url("/status/404")).facts.attempts == 1


@pytest.mark.slow
def test_a_blocked_site_is_left_alone_and_others_go_on(tmp_path: Path, server: SiteServer) -> None:
    server.blocked["/page/video"] = 1
    plugins = plugin_folder(tmp_path / "plugins")
    with site_fetcher(tmp_path / "spool", site_pause=4.0, yt_args={"plugin_dirs": [plugins]}) as running:
        running.code(server.url("/fake/ok"))
        began = time.monotonic()
        running.submit([server.url("/page/video"), server.url("/page/og"), server.url("/fake/ok")])
        first = running.gather(1)
        assert [one.item.index for one in first] == [2], "of another site"
        assert time.monotonic() - began < 3.5
        rest = running.gather(2)
        assert time.monotonic() - began > 4.0
        assert [code(one) for one in rest] == ["success", "success"]
        assert [one.facts.attempts for one in rest] == [2, 1], "it was tried again, without a retry to spend"
        assert any("left alone" in text for text in running.notices)


def test_a_site_that_stays_blocked_fails_its_rows(tmp_path: Path, server: SiteServer) -> None:
    server.blocked["/page/video"] = 10**6
    try:
        with site_fetcher(tmp_path, site_pause=0.1) as running:
            server.forget()
            outcomes = running.fetch([server.url("/page/video")] * 8)
            assert {code(one) for one in outcomes} == {"site_blocked"}
            assert all(one.failure and one.failure.transient for one in outcomes)
            assert server.total() == 4, "one, and one after each pause"
    finally:
        server.blocked.clear()


def test_one_wall_among_many_pages_stops_nobody(tmp_path: Path, server: SiteServer) -> None:
    paths = ("/page/og", "/page/wall", "/page/og", "/page/none")
    with site_fetcher(tmp_path, site_pause=3600.0) as running:
        running.submit([server.url(path) for path in paths])
        found = running.gather(3, seconds=30)
        assert [(one.item.index, code(one)) for one in found] == [
            (0, "success"),
            (2, "success"),
            (3, "site_unsupported"),
        ]


def test_claims(running: Running, server: SiteServer) -> None:
    for url in ("https://www.youtube.com/watch?v=dQw4w9WgXcQ", "https://vimeo.com/76979871", server.url("/fake/x")):
        assert running.fetcher.claims(url)
    for url in (server.url("/page/video"), "https://example.org/a/b.mp4", "https://example.org/watch?v=1", ""):
        assert not running.fetcher.claims(url)


def test_it_wakes_who_collects(running: Running, server: SiteServer) -> None:
    before = running.wakes
    outcome: list[Fetched] = running.fetch([server.url("/media/90p.mp4")] * 3)
    assert len(outcome) == 3
    assert running.wakes - before == 3
    assert len({one.file.path for one in outcome if one.file}) == 3
    assert HEIGHTS[0] == 90
