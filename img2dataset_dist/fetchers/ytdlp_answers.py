"""What a process that runs yt-dlp answers, as a row's file or failure. Nothing that it says is taken on trust."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from img2dataset_dist.errors import ROW_ERRORS, EmptyBody, RowError, SiteError
from img2dataset_dist.fetchers.outcome import http_failure
from img2dataset_dist.model import Failure, MediaFile


def failure_of(answer: Mapping[str, Any]) -> Failure:
    """The failure that a process tells."""
    code, status = str(answer["error"]), whole(answer.get("status"))
    if code == "http" and status is not None:
        return http_failure(status)
    kind = ROW_ERRORS.get(code, SiteError)
    return Failure(
        code=kind.code,
        message=str(answer.get("message") or kind.summary)[:500],
        status=RowError.status,
        transient=kind.transient,
    )


def file_of(folder: str, answer: Mapping[str, Any]) -> MediaFile:
    """The files that a process says it has made; only those that are in the folder count.

    Raises:
        EmptyBody: there is nothing in the file.
        SiteError: there is no file.
    """
    path = _inside(folder, answer.get("path"))
    if path is None:
        raise SiteError("nothing was fetched")
    size = os.stat(path).st_size
    sound = _inside(folder, answer.get("sound"))
    if not size:
        raise EmptyBody("empty body")
    found = {str(language): _inside(folder, name) for language, name in dict(answer.get("subtitles") or {}).items()}
    subtitles = {language: name for language, name in found.items() if name is not None}
    return MediaFile(path=path, size=size, sound=sound, subtitles=subtitles, page=answer.get("page"))


def _inside(folder: str, name: object) -> str | None:
    """Full path of a plain file of the folder, by its name."""
    if not isinstance(name, str) or not name or os.path.basename(name) != name:
        return None
    path = os.path.join(folder, name)
    try:
        return path if stat.S_ISREG(os.lstat(path).st_mode) else None
    except OSError:
        return None


def whole(value: object) -> int | None:
    """A whole number, None for anything else."""
    return value if isinstance(value, int) else None
