"""The parts of the fetcher for sites by themselves: options, formats, errors, claims, metadata."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import random
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.youtube.jsc._builtin.vendor import HASHES
from yt_dlp.networking.common import Response
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError
from yt_dlp_ejs.yt import solver

from img2dataset_dist.config import FetchConfig, MediaConfig
from img2dataset_dist.errors import ROW_ERRORS, ConfigError
from img2dataset_dist.fetchers.host_table import HostTable
from img2dataset_dist.fetchers.walls import HEAD, is_wall
from img2dataset_dist.fetchers.ytdlp_answers import failure_of, file_of
from img2dataset_dist.fetchers.ytdlp_claims import Claim, Claims, needed, with_grams
from img2dataset_dist.fetchers.ytdlp_errors import Trouble, classify
from img2dataset_dist.fetchers.ytdlp_formats import choose, usable
from img2dataset_dist.fetchers.ytdlp_options import ALLOWED, REFUSED, Settings, check_yt_args, check_yt_metadata_args
from img2dataset_dist.fetchers.ytdlp_page import INFO_BYTES, _bounded, clean


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_options(name: str) -> None:
    assert name not in ALLOWED
    with pytest.raises(ConfigError, match=f"yt_args: {name} is not for a job to set"):
        check_yt_args({name: "x"})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"ratelimitt": 1}, "did you mean 'ratelimit'"),
        ({"--limit-rate": 1}, "did you mean 'ratelimit'"),
        ({"cookies": "x"}, "did you mean 'cookiefile'"),
        ({"ratelimit": "fast"}, "ratelimit must be a number"),
        ({"retries": -1}, "retries must be a number of at least 0"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"proxy": "10.0.0.1"}, "proxy must be a URL"),
        ({"cookiefile": "/nowhere/cookies.txt"}, "cookiefile must be a file"),
        ({"http_headers": {"A": "b\r\nC: d"}}, "http_headers must be"),
        ({"extractor_args": {"youtube": "x"}}, "extractor_args must be like"),
        ({"js_runtimes": {"node": {"path": "/usr/bin/node"}}}, "js_runtimes must be like"),
        ({"js_runtimes": {"deno": {}}}, "js_runtimes must be like"),
        ({"nocheckcertificate": "yes"}, "must be true or false"),
        ({"download_size": 1}, "option of its own"),
    ],
)
def test_options_that_cannot_be(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_yt_args(args)


def test_options_that_can_be() -> None:
    check_yt_args(None)
    check_yt_args({})
    check_yt_args({
        "proxy": "socks5://user:pw@10.0.0.1:1080", "ratelimit": 1e6, "retries": 3, "format": "best", "username": None,
        "extractor_args": {"youtube": {"player_client": ["tv", "web"]}}, "http_headers": {"A": "b"},
        "js_runtimes": {"deno": {"path": "/usr/bin/deno"}}, "user_agent": "me", "geo_bypass_country": "NZ",
    })  # fmt: skip


def test_metadata_options() -> None:
    check_yt_metadata_args(None)
    check_yt_metadata_args(
        {"writesubtitles": "all", "subtitleslangs": ["en"], "writeautomaticsub": True, "get_info": True}
    )
    for args, message in (
        ({"writesubtitle": True}, "did you mean 'writesubtitles'"),
        ({"subtitleslangs": "en"}, "must be a list of texts"),
        ({"get_info": 1}, "must be true or false"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_yt_metadata_args(args)


def test_settings_travel() -> None:
    settings = Settings.of(
        FetchConfig(max_requests_per_second_per_host=8.0, user_agent_token="mine"),
        MediaConfig(media="audio", yt_args={"retries": 1, "proxy": None}),
        table=HostTable(rules={}, ignored=frozenset()),
        home="/x",
        share=0.25,
    )
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert (again.params, again.pace, again.sound_only) == ({"retries": 1}, 2.0, True)
    assert again.agent.endswith(" mine")


def form(name: str, protocol: str = "https", **more: Any) -> dict[str, Any]:
    return {"format_id": name, "protocol": protocol, "vcodec": "avc1", "acodec": "mp4a", "height": 360} | more


def chosen(formats: list[dict[str, Any]], *, sound_only: bool = False, size: int = 360, rate: int = 44100) -> list[str]:
    return [str(one["format_id"]) for one in choose(formats, sound_only=sound_only, size=size, rate=rate)]


def sound(name: str, asr: int | None, **more: Any) -> dict[str, Any]:
    return form(name, vcodec="none", height=None, asr=asr, **more)


def test_what_is_usable() -> None:
    names = ("http", "https", "m3u8", "m3u8_native", "http_dash_segments")
    others = (
        "rtmp",
        "f4m",
        "ism",
        "mhtml",
        "websocket_frag",
        "http_dash_segments_generator",
        "file",
        "m3u8+https",
        None,
    )
    formats = [form(str(name), name) for name in (*names, *others)]
    assert [one["format_id"] for one in usable(formats)] == [*names, "m3u8+https"]
    assert not usable([form("locked", has_drm=True), form("pictures", vcodec="none", acodec="none")])


@pytest.mark.parametrize(
    ("size", "name"), [(1, "90"), (90, "90"), (91, "360"), (360, "360"), (361, "1080"), (2000, "1080")]
)
def test_the_smallest_that_is_large_enough(size: int, name: str) -> None:
    formats = [form("360", height=360), form("1080", height=1080), form("90", height=90)]
    assert chosen(formats, size=size) == [name]


def test_h264_and_sound_in_the_same_file_are_easier() -> None:
    assert chosen([form("avc", vcodec="avc1.4d"), form("vp9", vcodec="vp9")]) == ["avc"]
    both = [sound("s", 44100), form("with"), form("without", acodec="none")]
    assert chosen(both) == ["with"]
    both[1]["asr"] = 22050
    assert chosen(both) == ["without", "s"], "its sound is too poor"
    assert chosen([form("without", acodec="none")]) == ["without"]


def test_sounds() -> None:
    formats = [
        sound("de", 44100, language_preference=-1), sound("low", 22050, language_preference=10),
        sound("poor", 48000, language_preference=10), sound("good", 48000, language_preference=10), form("video"),
    ]  # fmt: skip
    assert chosen(formats, sound_only=True) == ["good"]
    assert chosen(formats, sound_only=True, rate=1) == ["low"]
    assert chosen(formats, sound_only=True, rate=96000) == ["good"]
    assert chosen([sound("a", None), sound("b", None)], sound_only=True) == ["b"]
    assert chosen([form("silent", acodec="none"), form("video")], sound_only=True) == ["video"]


def test_where_nothing_is_known() -> None:
    assert chosen([{"format_id": "x", "protocol": "http"}]) == ["x"]
    assert chosen([]) == []
    assert chosen([sound("only", 8000)]) == ["only"], "a page of sound, where videos are wanted"


anything = st.fixed_dictionaries(
    {"format_id": st.text(max_size=3), "protocol": st.sampled_from(["http", "m3u8_native", "rtmp", None])},
    optional={
        "height": st.none() | st.integers(0, 5000),
        "asr": st.none() | st.integers(0, 96000),
        "vcodec": st.sampled_from(["none", "avc1", "vp9", None]),
        "acodec": st.sampled_from(["none", "opus", None]),
        "language_preference": st.none() | st.integers(-10, 10),
        "has_drm": st.booleans() | st.just("maybe"),
    },
)


@given(st.lists(anything, max_size=8), st.booleans(), st.integers(1, 5000), st.integers(1, 96000))
def test_any_formats(formats: list[dict[str, Any]], sound_only: bool, size: int, rate: int) -> None:
    found = choose(formats, sound_only=sound_only, size=size, rate=rate)
    assert len(found) <= 2
    assert all(any(one is known for known in usable(formats)) for one in found)
    assert bool(found) or not usable(formats) or sound_only


def http_error(status: int, **headers: str) -> HTTPError:
    return HTTPError(
        Response(None, "http://x.test/", {name.replace("_", "-"): v for name, v in headers.items()}, status)
    )


def wrapped(error: Exception, text: str = "ERROR: [x] id: something") -> DownloadError:
    return DownloadError(text, (type(error), error, None))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExtractorError("Sign in to confirm you\u2019re not a bot"), "site_blocked"),
        (ExtractorError("This content isn't available, try again later. The current session has been rate-limited"), "site_blocked"),
        (ExtractorError("Your IP address is blocked from accessing this post"), "site_blocked"),
        (ExtractorError("Private video"), "site_private"),
        (ExtractorError("This video is only available for registered users. Use --username"), "site_private"),
        (ExtractorError("This video is DRM protected"), "site_unsupported"),
        (ExtractorError("Video unavailable. This video has been removed by the uploader"), "site_removed"),
        (ExtractorError("Video unavailable. The uploader has not made this video available in your country"), "site_geo"),
        (ExtractorError("The channel is not currently live"), "site_unsupported"),
        (ExtractorError("Premieres in 3 hours"), "site_unsupported"),
        (ExtractorError("Unable to extract title"), "extractor_error"),
        (GeoRestrictedError("no"), "site_geo"),
        (UnsupportedError("http://x/"), "site_unsupported"),
        (ZeroDivisionError("x"), "extractor_error"),
        (TransportError(cause=ConnectionRefusedError()), "connect"),
        (TransportError(cause=ConnectionResetError()), "reset"),
        (TransportError(cause=TimeoutError()), "timeout_idle"),
        (OSError(28, "No space left"), "disk_full"),
        (MemoryError(), "too_large"),
        (http_error(404), "http"),
        (http_error(429), "site_blocked"),
        (http_error(403, cf_mitigated="challenge"), "site_blocked"),
    ],
)  # fmt: skip
def test_errors(error: Exception, code: str) -> None:
    for one in (error, wrapped(error)):
        found = classify(one)
        assert found.code == code
        assert found.message
        assert "http://" not in found.message
        assert found.code == "http" or found.code in ROW_ERRORS


def test_what_an_error_says_of_waiting() -> None:
    inner = http_error(503, Retry_After="7")
    outer = ExtractorError("Unable to download webpage", cause=inner)
    assert classify(wrapped(outer)) == Trouble(code="http", message="HTTP Error 503", status=503, retry_after=7.0)
    lost = DownloadError("ERROR: \r[download] Got error: HTTP Error 410: Gone")
    assert classify(lost, "", http_error(410)).status == 410


def test_what_may_be_our_own_network() -> None:
    for cause, ours in (
        (socket.gaierror(socket.EAI_AGAIN, "x"), True),
        (socket.gaierror(socket.EAI_NONAME, "x"), False),
        (OSError(errno.ENETUNREACH, "x"), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), False),
        (TimeoutError("x"), False),
    ):
        found = classify(wrapped(ExtractorError("Unable to download", cause=TransportError(cause=cause))))
        assert (found.code in ("dns", "connect", "timeout_idle"), found.ours) == (True, ours), cause


def test_scripts_for_a_js_runtime_are_those_that_yt_dlp_takes() -> None:
    for kind, script in (("core", solver.core()), ("lib", solver.lib())):
        assert hashlib.sha3_512(script.encode()).hexdigest() == HASHES[f"yt.solver.{kind}.min.js"]


def test_walls() -> None:
    assert is_wall("<html><head><title>Just a moment...</title></head>" + "x" * 9000)
    assert is_wall("<h1>Please verify you are a human</h1>")
    for page in ("", "Forbidden", "<title>403 Forbidden</title>" + "<p>captcha</p>" * 1000, "<title>captcha"[:7]):
        assert not is_wall(page)
    began = time.monotonic()
    for piece in ("<title", "<script", "<", "<style></"):
        is_wall((piece * HEAD)[:HEAD])
    assert time.monotonic() - began < 2


def test_messages_are_the_same_for_many_rows() -> None:
    one, other = (
        classify(
            wrapped(
                ExtractorError(f"Odd thing at https://x.test/{n}; please report this issue on  https://y", video_id=n)
            )
        )
        for n in ("abc", "def")
    )
    assert one == other
    assert one.message == "Odd thing at"


def test_failures_are_ours_whatever_the_process_says() -> None:
    assert failure_of({"error": "site_blocked", "message": "m"}).transient
    assert failure_of({"error": "http", "status": 404}).code == "http_404"
    assert failure_of({"error": "no such code", "message": "m" * 1000}).code == "extractor_error"
    assert len(failure_of({"error": "dns", "message": "m" * 1000}).message) == 500


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", None, 7, "link", "folder", ".."])
def test_only_files_of_the_row_count(tmp_path: Path, name: object) -> None:
    (tmp_path / "secret").write_text("x")
    row = tmp_path / "row"
    (row / "folder").mkdir(parents=True)
    (row / "link").symlink_to(tmp_path / "secret")
    (row / "video.mp4").write_text("v")
    with pytest.raises(Exception, match="nothing was fetched"):
        file_of(str(row), {"path": name})
    file = file_of(str(row), {"path": "video.mp4", "sound": name, "subtitles": {"en": name}})
    assert (file.sound, file.subtitles) == (None, {})


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4),
    max_leaves=20,
)


@given(json_like)
def test_whatever_a_site_says_is_json(value: Any) -> None:
    text = json.dumps(clean(value), allow_nan=False)
    text.encode()


def test_what_is_said_is_bounded() -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = [deep]
    assert len(json.dumps(clean({"a": deep, "b": "y" * 10**6, "c": list(range(10**5))}))) < 50_000
    info = _bounded({"title": "t", "large": "x" * 300_000, "small": "y"})
    assert set(info) == {"title", "small"}
    assert len(json.dumps(info)) < INFO_BYTES


def test_the_words_that_an_expression_needs() -> None:
    parser = __import__("re")._parser if hasattr(__import__("re"), "_parser") else __import__("sre_parse")
    assert needed(parser.parse(r"https?://(?:www\.)?vimeo\.com/(?:video|clips)s?/\d+")) == [
        {"http"}, {"vimeo.com/"}, {"video", "clips"}
    ]  # fmt: skip
    assert needed(parser.parse(r"(?i)(?:ABCD|efgh)?x{0,2}[abc]defg(?:tail)+")) == [{"defg"}, {"tail"}]
    (claim,) = with_grams([("a", (r"a.b",))])
    assert claim.grams == ()


@pytest.fixture(scope="module")
def claims() -> Claims:
    found = Claims()
    found.site("https://example.org/")
    return found


def test_claims_agree_with_yt_dlp(claims: Claims) -> None:
    """Held against the URLs that the extractors of yt-dlp are tested with, a part of them, and variations."""
    kinds = [kind for kind in gen_extractor_classes() if kind.ie_key() != "Generic"]
    some = random.Random(7)
    urls = []
    for kind in some.sample(kinds, 150):
        urls += [case["url"] for case in list(kind.get_testcases(include_onlymatching=True))[:4]]
    urls += [url.upper() for url in some.sample(urls, 20)] + [url[: len(url) // 2] for url in some.sample(urls, 20)]
    urls = [url for url in urls if url.startswith("http")]
    assert len(urls) > 200
    for url in urls:
        assert (claims.site(url) is not None) == any(kind.suitable(url) for kind in kinds), url


def test_expressions_mean_the_same_with_a_time_limit() -> None:
    """Those of all extractors, held against the URLs that each is tested with, by the module that yt-dlp uses."""
    for kind in gen_extractor_classes():
        patterns = kind._VALID_URL
        if kind.ie_key() == "Generic" or not patterns:
            continue
        for text in (patterns,) if isinstance(patterns, str) else patterns:
            ours, theirs = regex.compile(text), re.compile(text)
            for case in kind.get_testcases(include_onlymatching=True):
                assert bool(ours.match(case["url"])) == bool(theirs.match(case["url"])), (text, case["url"])


def test_no_url_takes_long(claims: Claims) -> None:
    """An expression of yt-dlp's for stream.tvp.pl doubles its time with every few semicolons."""
    assert claims.site("https://stream.tvp.pl/?channel_id=1") == "tvp"
    for count in (100, 5000):
        began = time.monotonic()
        assert claims.site("https://stream.tvp.pl/?" + ";" * count) is None
        assert time.monotonic() - began < 10


def test_a_plugin_with_an_odd_expression_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Claims()
    found.site("https://example.org/")
    monkeypatch.setattr(found, "_always", [Claim("odd", ("(",), ()), Claim("own", ("https://own[.]test/",), ())])
    assert found.site("https://own.test/") == "own"


@given(st.text(max_size=60) | st.text("abcdefgh./:?=", max_size=80).map("https://".__add__))
def test_any_text_can_be_claimed_or_not(claims: Claims, text: str) -> None:
    assert claims.site(text) is None or isinstance(claims.site(text), str)
