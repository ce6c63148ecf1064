"""The process that runs yt-dlp: one URL after another, until its parent closes the socket or ends it.

It does what pages make it do, so it is watched (`ytdlp_guard.py`), has bounds of memory and file size, and answers in
JSON. yt-dlp only extracts here and fetches by its own code; nothing is merged or converted.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import pickle
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from yt_dlp.downloader import dash, external, get_suitable_downloader, hls, http
from yt_dlp.globals import plugin_dirs
from yt_dlp.plugins import load_all_plugins

from img2dataset_dist.fetchers import ytdlp_formats, ytdlp_page
from img2dataset_dist.fetchers.ytdlp_errors import Trouble, Unsupported, classify
from img2dataset_dist.fetchers.ytdlp_guard import Guard
from img2dataset_dist.fetchers.ytdlp_network import REFUSALS, Network, follow_no_redirect
from img2dataset_dist.fetchers.ytdlp_options import Settings
from img2dataset_dist.transforms.channel import exactly

LENGTH = struct.Struct("<Q")
"""Before each message. The first one to the process is its pickled `Settings`; all others, both ways, are JSON."""

MEMORY = 2**30
"""Bytes that the process may take; a page is in memory more than once while it is searched."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_DOWNLOADERS = (http.HttpFD, hls.HlsFD, dash.DashSegmentsFD)


class Silent:
    """yt-dlp's logger: nobody reads it."""

    def debug(self, _: str) -> None:
        """Progress and the like."""

    info = warning = error = debug


class Site(Network):
    """yt-dlp for one row after another."""

    def __init__(self, settings: Settings, guard: Guard) -> None:
        super().__init__(settings, guard, _params(settings, self._select))
        for extractor in self._ies.values():  # the first URL would wait until all their expressions are compiled
            extractor.suitable("https://example.invalid/")

    def warm(self) -> None:
        """Import what pages of other sites need: all extractors, since any of their players may be on them."""
        with contextlib.suppress(Exception):
            generic = self.get_info_extractor("Generic")
            list(generic._extract_embeds("https://example.invalid/", "<html></html>"))  # noqa: SLF001 (no other way)

    def _select(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The formats to fetch, together as one; see `format` in yt_dlp.YoutubeDL."""
        settings, known = self.settings, ytdlp_formats.usable(context["formats"])
        if settings.params.get("format"):
            chosen = list(self.build_format_selector(settings.params["format"])({**context, "formats": known}))[:1]
            chosen = list(chosen[0].get("requested_formats") or chosen) if chosen else []
        else:
            chosen = ytdlp_formats.choose(known, sound_only=settings.sound_only, size=settings.size, rate=settings.rate)
        return [{**chosen[0], "_chosen": chosen}] if chosen else []

    def fetch(self, url: str, folder: str) -> dict[str, Any]:
        """One row: its files are in the folder then; the answer names them."""
        info = _single(self.extract_info(url, download=False))
        if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
            raise Unsupported("it is live, or will be; that is not fetched")
        chosen = info.pop("_chosen", None) or [info]
        self.received, self.limit = 0, self.settings.cap
        names = [
            self._download({**info, **one}, folder, name)
            for one, name in zip(chosen[:2], ("video", "sound"), strict=False)
        ]
        answer: dict[str, Any] = {"path": names[0], "sound": names[1] if len(names) > 1 else None}
        answer |= ytdlp_page.texts(self, info, folder)
        answer["site"] = info.get("extractor_key")
        answer["webpage"] = info.get("webpage_url")
        return answer

    def _download(self, info: dict[str, Any], folder: str, name: str) -> str:
        extension = str(info.get("ext") or "")
        name += f".{extension}" if re.fullmatch(r"[a-z0-9]{1,5}", extension) else ".bin"
        info.pop("requested_formats", None)
        self.save(os.path.join(folder, name), info)
        return name

    def save(self, path: str, info: dict[str, Any]) -> None:
        """Fetch one format, or subtitles, into a file.

        Raises:
            Unsupported: it cannot be had without other programs.
        """
        if info.get("protocol") == "m3u8":
            info["protocol"] = "m3u8_native"
        kind = get_suitable_downloader(info, self.params)
        if kind not in _DOWNLOADERS:
            raise Unsupported("it comes in a way that is not fetched")
        done, _ = self.dl(path, info)
        if not done or not os.path.isfile(path):
            raise Unsupported("it could not be fetched by the way in which it comes")


def _params(settings: Settings, select: Callable[[Mapping[str, Any]], list[dict[str, Any]]]) -> dict[str, Any]:
    """Options of yt_dlp.YoutubeDL: the user's, below what must be so."""
    given = {name: value for name, value in settings.params.items() if name not in ("plugin_dirs", "user_agent")}
    headers = {"User-Agent": settings.params.get("user_agent") or settings.agent, **given.pop("http_headers", {})}
    if "referer" in given:
        headers["Referer"] = given.pop("referer")
    if "cookiefile" in given:  # in memory, or yt-dlp would write it again
        with open(given["cookiefile"], encoding="utf-8") as file:
            given["cookiefile"] = io.StringIO(file.read())
    wanted = settings.metadata
    defaults = {
        "retries": settings.retries, "fragment_retries": settings.retries, "extractor_retries": settings.retries,
        "socket_timeout": min(20.0, settings.timeout), "proxy": "", "js_runtimes": {},
        "nocheckcertificate": not settings.verify,
    }  # fmt: skip
    fixed: dict[str, Any] = {
        "logger": Silent(), "quiet": True, "no_warnings": True, "noprogress": True, "color": "never",
        "cachedir": False, "format": select, "outtmpl": {"default": os.path.join(settings.home, "never")},
        "nopart": True, "continuedl": False, "overwrites": True, "updatetime": False, "_no_ytdl_file": True,
        "skip_unavailable_fragments": False, "hls_prefer_native": True, "external_downloader": None,
        "noplaylist": True, "playlist_items": "1", "lazy_playlist": True, "enable_file_urls": False,
        "postprocessors": [], "fixup": "never", "remote_components": [], "max_filesize": None,
        "writesubtitles": bool(wanted.get("writesubtitles")),
        "writeautomaticsub": bool(wanted.get("writeautomaticsub")),
        "subtitleslangs": wanted.get("subtitleslangs"), "subtitlesformat": "vtt/srt",
    }  # fmt: skip
    return {**defaults, **given, "http_headers": headers, **fixed}


def _single(info: Mapping[str, Any] | None) -> dict[str, Any]:
    """The video, or the first one of a page that has several."""
    while info is not None and "entries" in info:
        info = next((entry for entry in info["entries"] if entry), None)
    if info is None:
        raise Unsupported("no video or sound was found that can be fetched")
    return dict(info)


def keep_to_python() -> None:
    """Where yt-dlp would go on with ffmpeg, it gives up."""

    def refuse(*_: object) -> NoReturn:
        raise Unsupported("it comes in a way that only ffmpeg could fetch")

    external.FFmpegFD.available = classmethod(lambda *_: False)
    external.FFmpegFD.real_download = refuse
    can_download = hls.HlsFD.can_download.__func__

    def complete(cls: type, manifest: str, *rest: Any, **options: Any) -> Any:
        if "#EXT-X-ENDLIST" not in manifest and not re.search("#EXT-X-PLAYLIST-TYPE: *VOD", manifest):
            raise Unsupported("it is live, or will be; that is not fetched")
        return can_download(cls, manifest, *rest, **options)

    hls.HlsFD.can_download = classmethod(complete)


def _answer(site: Site, url: str, folder: str) -> dict[str, Any]:
    """What became of a row."""
    site.begin(folder)
    try:
        answer = site.fetch(url, folder)
    except Exception as error:  # noqa: BLE001 (whatever an extractor of some site does costs its row only)
        refused = next((one for one, _ in site.guard.refused if one in REFUSALS), None)
        trouble = (
            Trouble(code=refused, message=REFUSALS[refused]) if refused else classify(error, site.page, site.last_error)
        )
        site.status = trouble.status or site.status
        answer = {"error": trouble.code, "message": trouble.message, "retry_after": trouble.retry_after}
        answer["ours"] = trouble.ours
    return {
        "status": site.status, "url": site.url, "bytes": site.total, "requests": site.requests, **answer
    }  # fmt: skip


def _restrain(parent: int, cap: int) -> None:
    """Die with the parent's thread, leave no core file, and take no more than allowed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("800")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_FSIZE, cap)):
        _, hard = resource.getrlimit(kind)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, hard) if hard == resource.RLIM_INFINITY or limit < hard else (hard, hard))


def _receive(link: socket.socket) -> bytes:
    return exactly(link, LENGTH.unpack(exactly(link, LENGTH.size))[0])


def _send(link: socket.socket, message: object) -> None:
    raw = json.dumps(message).encode()
    link.sendall(LENGTH.pack(len(raw)) + raw)


def main() -> NoReturn:
    """Entry point; the arguments are the number of the inherited socket and the parent's process id."""
    link = socket.socket(fileno=int(sys.argv[1]))
    try:
        settings = pickle.loads(_receive(link))  # noqa: S301 (our own)
        assert isinstance(settings, Settings)
        _restrain(int(sys.argv[2]), settings.cap + 2**20)
        plugin_dirs.value = list(settings.params.get("plugin_dirs") or ())
        load_all_plugins()
        guard = Guard(
            allow_private=settings.allow_private,
            ignored=lambda host: settings.table.rule(host).ignore,
            folders=(settings.home,),
            commands=frozenset(how["path"] for how in settings.params.get("js_runtimes", {}).values()),
        )
        site = Site(settings, guard)
        keep_to_python()
        follow_no_redirect()
        guard.arm()
        _send(link, {"ready": True})
        while True:
            asked = json.loads(_receive(link))
            if asked["url"] is None:
                site.warm()
                _send(link, {"ready": True})
            else:
                _send(link, _answer(site, asked["url"], asked["folder"]))
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone, or done with us
    except BaseException as error:  # noqa: BLE001 (it is the parent's to tell)
        with contextlib.suppress(OSError):
            _send(link, {"broken": f"{type(error).__name__}: {error}"[:500]})
        os._exit(1)
