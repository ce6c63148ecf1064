"""What of yt-dlp's many options a job may set, and how a process that runs it is set up.

A list of URLs is not to be trusted and the options are the user's own, yet some of them would undo what protects this
machine (programs that are started, files that are read) or the dataset (names of files). So there is a list of those
that may be given; the names are those of yt-dlp's Python API (`yt_dlp.YoutubeDL`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from img2dataset_dist.config import FetchConfig, MediaConfig, nearest
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.fetchers.host_table import HostTable
from img2dataset_dist.fetchers.wire import AGENT, user_agent

_PROXIES = ("http://", "socks4://", "socks4a://", "socks5://", "socks5h://")


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "must be text"


def _number(value: Any) -> str | None:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    return None if fine else "must be a number of at least 0"


def _count(value: Any) -> str | None:
    return _number(value) if isinstance(value, int) else "must be a whole number of at least 0"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _texts(value: Any) -> str | None:
    fine = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    return None if fine else "must be a list of texts"


def _proxy(value: Any) -> str | None:
    fine = value == "" or (isinstance(value, str) and value.startswith(_PROXIES))
    return None if fine else f"must be a URL that begins with {', '.join(_PROXIES)}"


def _file(value: Any) -> str | None:
    fine = isinstance(value, str) and os.path.isfile(value)
    return None if fine else "must be a file of cookies (Netscape format) on each machine; this one has none there"


def _headers(value: Any) -> str | None:
    fine = isinstance(value, Mapping) and all(isinstance(n, str) and isinstance(v, str) for n, v in value.items())
    if not fine or any(set("\r\n") & {*name, *text} for name, text in value.items()):
        return "must be a mapping of names to texts of one line"
    return None


def _extractor_args(value: Any) -> str | None:
    fine = isinstance(value, Mapping) and all(
        isinstance(site, str) and isinstance(args, Mapping) and all(_texts(given) is None for given in args.values())
        for site, args in value.items()
    )
    return None if fine else 'must be like {"youtube": {"player_client": ["tv"]}}'


def _runtimes(value: Any) -> str | None:
    fine = (
        isinstance(value, Mapping)
        and set(value) <= {"deno"}
        and all(isinstance(how, Mapping) and os.path.isabs(str(how.get("path", ""))) for how in value.values())
    )
    return None if fine else 'must be like {"deno": {"path": "/usr/bin/deno"}}; others do not shut their scripts in'


def _folders(value: Any) -> str | None:
    fine = _texts(value) is None and all(os.path.isdir(folder) for folder in value)
    return None if fine else "must be a list of folders"


ALLOWED: dict[str, Callable[[Any], str | None]] = {
    "age_limit": _count, "allowed_extractors": _texts, "ap_mso": _text, "ap_password": _text, "ap_username": _text,
    "buffersize": _count, "concurrent_fragment_downloads": _count, "cookiefile": _file,
    "extractor_args": _extractor_args, "extractor_retries": _count, "force_generic_extractor": _flag, "format": _text,
    "format_sort": _texts,
    "fragment_retries": _count, "geo_bypass": _flag, "geo_bypass_country": _text, "geo_bypass_ip_block": _text,
    "geo_verification_proxy": _proxy, "http_chunk_size": _count, "http_headers": _headers, "js_runtimes": _runtimes,
    "legacyserverconnect": _flag, "max_sleep_interval": _number, "nocheckcertificate": _flag, "password": _text,
    "plugin_dirs": _folders, "proxy": _proxy, "ratelimit": _number, "referer": _text, "retries": _count,
    "sleep_interval": _number, "sleep_interval_requests": _number, "sleep_interval_subtitles": _number,
    "socket_timeout": _number, "source_address": _text, "throttledratelimit": _number, "twofactor": _text,
    "user_agent": _text, "username": _text, "videopassword": _text, "youtube_include_dash_manifest": _flag,
    "youtube_include_hls_manifest": _flag,
}  # fmt: skip
"""Options that are passed on, each with what is wrong with a value. `user_agent` and `referer` are headers."""

_PROGRAMS = "it would start other programs"
_NAMES = "files have names of our own, in a folder of the row"
_READS = "it would read files of this machine"
_NOT_YT_DLP = "is an option of its own: take it out of yt_args"

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("exec", "exec_cmd", "exec_before_dl_cmd", "external_downloader", "external_downloader_args", "ffmpeg_location",
         "hls_prefer_native", "postprocessors", "postprocessor_args", "postprocessor_hooks", "final_ext",
         "merge_output_format", "fixup", "remuxvideo", "recodevideo", "hls_use_mpegts", "netrc_cmd", "keepvideo"),
        _PROGRAMS,
    ),
    **dict.fromkeys(("outtmpl", "outtmpl_na_placeholder", "paths", "restrictfilenames", "trim_file_name",
                     "windowsfilenames", "overwrites", "nooverwrites", "continuedl", "nopart", "updatetime"), _NAMES),
    **dict.fromkeys(("enable_file_urls", "usenetrc", "netrc_location", "load_info_filename", "batchfile",
                     "client_certificate", "client_certificate_key", "config_locations"), _READS),
    "cookiesfrombrowser": f"{_READS}; write the cookies to a file and name it as cookiefile",
    "impersonate": "its connections could not be checked",
    "allow_unplayable_formats": "what is locked stays so",
    "live_from_start": "what is live has no end", "wait_for_video": "what is live has no end",
    "cachedir": "nothing is kept between jobs", "download_archive": "nothing is kept between jobs",
    "remote_components": "it would fetch programs",
    "ignoreerrors": "a failure is a row's error_code", "skip_unavailable_fragments": "a video with holes is none",
    "download_ranges": "it needs ffmpeg; use clip_col", "force_keyframes_at_cuts": "it needs ffmpeg; use clip_col",
    **dict.fromkeys(("download_size", "download_audio_rate", "yt_metadata_args"), _NOT_YT_DLP),
    **dict.fromkeys(("writesubtitles", "writeautomaticsub", "subtitleslangs"), "belongs into yt_metadata_args"),
}  # fmt: skip
"""Options that are refused, with the reason; all that are not in `ALLOWED` are."""

METADATA: dict[str, Callable[[Any], str | None]] = {
    "writesubtitles": lambda value: None if value in (True, False, None, "first", "all") else "must be true or false",
    "writealllangs": _flag, "subtitleslangs": _texts, "writeautomaticsub": _flag, "get_info": _flag,
}  # fmt: skip


def check_yt_args(args: Mapping[str, Any] | None) -> None:
    """Check options for yt-dlp, as the user gives them.

    Raises:
        ConfigError: naming the first option that is refused, unknown or has a value that cannot be.
    """
    for name, value in (args or {}).items():
        if name in REFUSED:
            raise ConfigError(f"yt_args: {name} is not for a job to set: {REFUSED[name]}")
        check = ALLOWED.get(name)
        if check is None:
            raise ConfigError(f"yt_args: {name!r} is none of yt-dlp's options that can be passed on{_hint(name)}")
        problem = None if value is None else check(value)
        if problem:
            raise ConfigError(f"yt_args: {name} {problem}")


def check_yt_metadata_args(args: Mapping[str, Any] | None) -> None:
    """Check what of a site's own words is wanted.

    Raises:
        ConfigError: naming the first thing that is wrong.
    """
    for name, value in (args or {}).items():
        check = METADATA.get(name)
        if check is None:
            raise ConfigError(f"yt_metadata_args: unknown key {name!r}{nearest(str(name), list(METADATA))}")
        problem = None if value is None else check(value)
        if problem:
            raise ConfigError(f"yt_metadata_args: {name} {problem}")


_FLAGS = {"cookies": "cookiefile", "limit_rate": "ratelimit", "rate_limit": "ratelimit", "add_headers": "http_headers"}


def _hint(name: object) -> str:
    plain = str(name).lstrip("-").replace("-", "_")
    return f"; did you mean '{_FLAGS[plain]}'?" if plain in _FLAGS else nearest(plain, list(ALLOWED))


def robot_names(token: str | None) -> tuple[str, ...]:
    """Names by which a robots.txt may address us, the preferred one first."""
    return (*((token.lower(),) if token else ()), AGENT, "img2dataset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a process needs to know; sent to it when it starts.

    Attributes:
        params: the user's options.
        sound_only: take no pictures.
        size, rate: see `download_size` and `download_audio_rate`.
        metadata: see `yt_metadata_args`.
        agent: what we say who we are.
        timeout: seconds for one row.
        retries: of single requests within a row.
        redirects: that are followed, at most.
        cap: bytes of one row, at most.
        verify: check certificates.
        robots: names by which a robots.txt may address us; empty: it is not asked.
        allow_private: also ask addresses that are not of the open Internet.
        pace: requests per second and host of this process; infinity for no limit.
        share: part of a host's own rate that this process may use.
        table: rules by host.
        home: a folder of the process's own.
    """

    params: Mapping[str, Any]
    sound_only: bool
    size: int
    rate: int
    metadata: Mapping[str, Any]
    agent: str
    timeout: float
    retries: int
    redirects: int
    cap: int
    verify: bool
    robots: tuple[str, ...]
    allow_private: bool
    pace: float
    share: float
    table: HostTable = field(repr=False)
    home: str

    @classmethod
    def of(cls, fetch: FetchConfig, media: MediaConfig, *, table: HostTable, home: str, share: float) -> Settings:
        """The settings of one of 1 / `share` processes."""
        rate = fetch.max_requests_per_second_per_host
        return cls(
            params={name: value for name, value in (media.yt_args or {}).items() if value is not None},
            sound_only=media.media == "audio",
            size=media.download_size,
            rate=media.download_audio_rate,
            metadata=dict(media.yt_metadata_args or {}),
            agent=user_agent(fetch.user_agent_token),
            timeout=fetch.timeout,
            retries=fetch.retries,
            redirects=fetch.max_redirects,
            cap=fetch.max_body_bytes,
            verify=not fetch.ignore_ssl_certificate,
            robots=robot_names(fetch.user_agent_token) if fetch.robots_txt == "respect" else (),
            allow_private=fetch.allow_private_addresses,
            pace=float("inf") if rate is None else rate * share,
            share=share,
            table=table,
            home=home,
        )
