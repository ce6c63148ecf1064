"""What a site says beside a video: subtitles as files, and its metadata as JSON of bounded size."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from img2dataset_dist import subtitles
from img2dataset_dist.errors import BadSubtitles

if TYPE_CHECKING:
    from img2dataset_dist.fetchers.ytdlp_child import Site

LANGUAGES = 32
"""Languages of which subtitles are fetched, at most; each is a request."""

INFO_BYTES = 256 * 2**10
"""Of metadata as JSON, for one row."""

_SUBTITLE_BYTES = 16 * 2**20
_LONGEST = 20_000
_DEEPEST = 8
_LEFT_OUT = frozenset({
    "formats", "requested_formats", "requested_downloads", "requested_subtitles", "subtitles", "automatic_captions",
    "thumbnails", "heatmap", "fragments", "http_headers", "cookies", "url", "manifest_url", "fragment_base_url",
    "request_data", "downloader_options", "entries", "hls_media_playlist_data", "comments", "filename", "filepath",
})  # fmt: skip
"""As video2dataset leaves out formats, subtitles and thumbnails; and what is secret, or of no use tomorrow."""


def texts(site: Site, info: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Fetch the subtitles that are wanted, and say what there is to say.

    Args:
        site: fetches.
        info: of the video, from yt-dlp.
        folder: for the files.

    Returns:
        `subtitles`: language to file name; `page`: what becomes `yt_meta_dict`, with the languages that a machine wrote
        as `automatic`; None when nothing was asked for.
    """
    wanted = site.settings.metadata
    files: dict[str, str] = {}
    said: dict[str, Any] = {}
    troubles: dict[str, str] = {}
    first_only = wanted.get("writesubtitles") == "first" or wanted.get("writealllangs") is False
    requested = dict(info.get("requested_subtitles") or {})
    for number, language in enumerate(_in_order(requested, wanted.get("subtitleslangs"))[:LANGUAGES]):
        entry = requested[language]
        if entry.get("ext") not in ("vtt", "srt"):
            troubles[language] = f"only as {entry.get('ext')}"
            continue
        name = f"subtitles_{number}.{entry['ext']}"
        try:
            said[language] = subtitles.records(subtitles.parse(_text(site, entry, os.path.join(folder, name), info)))
        except (BadSubtitles, OSError, Exception) as error:  # noqa: BLE001 (a video is no worse for it)
            troubles[language] = type(error).__name__
            continue
        files[language] = name
        if first_only:
            break
    asked = bool(wanted.get("writesubtitles") or wanted.get("writeautomaticsub"))
    page: dict[str, Any] | None = None
    if wanted.get("get_info") or asked:
        page = {"info": _bounded(_info(site, info)) if wanted.get("get_info") else None}
        page["subtitles"] = said if asked else None
        if asked:
            page["automatic"] = [language for language in files if language not in (info.get("subtitles") or {})]
        if troubles:
            page["subtitles_missing"] = troubles
    return {"subtitles": files, "page": page}


def _in_order(requested: Mapping[str, Any], languages: list[str] | None) -> list[str]:
    """The user's order of languages, then the site's."""
    order = {language: at for at, language in enumerate(languages or [])}
    return sorted(requested, key=lambda language: order.get(language, len(order)))


def _text(site: Site, entry: Mapping[str, Any], path: str, info: Mapping[str, Any]) -> str:
    """Text of one file of subtitles, which is at `path` then."""
    if entry.get("data") is not None:
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(str(entry["data"])[:_SUBTITLE_BYTES])
    else:
        site.save(path, {**entry, "id": info.get("id"), "http_headers": entry.get("http_headers") or {}})
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_SUBTITLE_BYTES)


def _info(site: Site, info: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in info.items() if name not in _LEFT_OUT and not name.startswith("_")}
    sane = site.sanitize_info(kept, remove_private_keys=True)
    return {name: clean(value) for name, value in sane.items() if not name.startswith("_")}


def clean(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it, with long texts and lists cut off."""
    if isinstance(value, str):
        return value[:_LONGEST].encode("utf-8", "replace").decode()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {clean(str(name)): clean(one, depth + 1) for name, one in list(value.items())[:1000]}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean(one, depth + 1) for one in list(value)[:1000]]
    return clean(re.sub(r" at 0x[0-9a-f]+", "", repr(value)))


def _bounded(info: dict[str, Any]) -> dict[str, Any]:
    """Without its largest values when it is too large."""
    sizes = {name: len(json.dumps(value)) + len(name) for name, value in info.items()}
    total = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if total <= INFO_BYTES:
            break
        total -= sizes[name]
        del info[name]
    return info
