"""Subtitles: WebVTT and SubRip as lines of plain text with times.

Sources: WebVTT (W3C Candidate Recommendation of 4 April 2019, section 6) and what SubRip writes, which nobody has
written down. Files of the web keep to neither, so what has a line of times in it is read as far as it goes; styles,
positions and tags are dropped. The captions that YouTube makes by machine show two lines at a time: each scrolls up
when the next one begins, and so stands in the file up to three times. It comes out once, when it is first said.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from img2dataset_dist.errors import BadSubtitles
from img2dataset_dist.model import Clip

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.ASCII)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.,]*>|\{\\[^{}]*\}", re.ASCII)
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200b\ufeff]")
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEAD = re.compile(r"WEBVTT(?:[ \t].*)?")
_TOGETHER = 0.1
"""Seconds between two cues of captions that scroll; those of YouTube have none, or a cue of 10 ms in between."""


class Line(NamedTuple):
    """What is said from `start` to `end`, in seconds; lines on the screen are lines of `text`."""

    start: float
    end: float
    text: str


def parse(text: str) -> list[Line]:
    r"""The lines of a VTT or SRT file, by their start.

    Cues without text and those that end before they begin are left out. Two cues that follow each other without a
    pause and say the same become one.

    Raises:
        BadSubtitles: it is neither. A VTT file without cues is one.
    """
    rows = _LINE_END.split(text.removeprefix("\ufeff"))
    found = sorted(_cues(rows), key=lambda cue: cue[:2])
    if not found and not _HEAD.fullmatch(rows[0]) and not any(map(_TIMES.fullmatch, rows)):
        raise BadSubtitles("neither VTT nor SRT: no line of times such as 00:00:01.000 --> 00:00:02.500")
    return _unrolled(found)


def clip(lines: Mapping[str, Sequence[Line]], part: Clip | None = None, begin: float = 0.0) -> list[dict[str, Any]]:
    """What is said within a part of the video, as video2dataset has it in `clip_subtitles`.

    Args:
        lines: by language.
        part: None for all of it.
        begin: where the video begins in its source, in seconds, when it is a clip itself.

    Returns:
        `[{"start": "00:00:01.000", "end": "00:00:02.500", "lines": {"en": ["..."]}}]`, by start. The times are those of
        the source, from its beginning; what is said at the same time in several languages is one record.
    """
    records: dict[tuple[float, float], dict[str, list[str]]] = {}
    for language, spoken in lines.items():
        for line in spoken:
            if part is None or max(line.start, part.start) < min(line.end, part.end):
                records.setdefault(line[:2], {}).setdefault(language, []).extend(line.text.split("\n"))
    return [
        {"start": timestamp(begin + start), "end": timestamp(begin + end), "lines": said}
        for (start, end), said in sorted(records.items(), key=lambda record: record[0])
    ]


def records(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """Lines of one language as video2dataset has them in `yt_meta_dict`: `[{"start", "end", "lines": []}]`."""
    return [{"start": timestamp(a), "end": timestamp(b), "lines": text.split("\n")} for a, b, text in lines]


def within(lines: Iterable[Line], part: Clip) -> list[Line]:
    """What is said within a part of the video; cut to it, and times count from its start, in whole milliseconds."""
    found = []
    for line in lines:
        begins = round((max(line.start, part.start) - part.start) * 1000)
        ends = round((min(line.end, part.end) - part.start) * 1000)
        if begins < ends:
            found.append(Line(begins / 1000, ends / 1000, line.text))
    return found


def dump_vtt(lines: Iterable[Line], part: Clip | None = None) -> str:
    """A VTT file of what is said within a part of the video, or in all of it; its times count from the part's start."""
    cues = ["WEBVTT\n"]
    for start, end, text in within(lines, part or Clip(0.0, float("inf"))):
        cues.append(f"{timestamp(start)} --> {timestamp(end)}\n{html.escape(text, quote=False)}\n")
    return "\n".join(cues)


def timestamp(seconds: float) -> str:
    """`HH:MM:SS.mmm`."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{thousandths:03d}"


class _Cue(NamedTuple):
    start: float
    end: float
    rows: list[str]


def _cues(rows: list[str]) -> list[_Cue]:
    """All cues that have text, as they stand in the file."""
    found: list[_Cue] = []
    at = 0
    while at < len(rows):
        times = _TIMES.fullmatch(rows[at])
        at += 1
        if times is None:
            continue
        first = at
        while at < len(rows) and rows[at] and "-->" not in rows[at]:
            at += 1
        # Where the empty line between two cues is missing, the number of the next one stands here.
        missing = at < len(rows) and rows[at] and at > first and rows[at - 1].strip().isdecimal()
        text = [plain for row in rows[first : at - bool(missing)] if (plain := _plain(row))]
        start, end = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
        if text and start < end:
            found.append(_Cue(start, end, text))
    return found


def _seconds(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = groups
    thousandths = int((fraction or "0").ljust(3, "0"))
    return (int(hours or 0) * 3_600_000 + int(minutes or 0) * 60_000 + int(seconds or 0) * 1000 + thousandths) / 1000


def _plain(row: str) -> str:
    """A row without tags, with what its entities stand for, and no more than one space between words."""
    return " ".join(_INVISIBLE.sub("", html.unescape(_TAG.sub("", row))).split())


def _unrolled(cues: list[_Cue]) -> list[Line]:
    """The cues without what still stood there from the one before."""
    lines: list[Line] = []
    before = _Cue(0.0, float("-inf"), [])
    for cue in cues:
        kept = _kept(before.rows, cue.rows) if cue.start - before.end <= _TOGETHER else 0
        if kept < len(cue.rows):
            lines.append(Line(cue.start, cue.end, "\n".join(cue.rows[kept:])))
        elif lines and lines[-1].text == "\n".join(cue.rows):
            lines[-1] = lines[-1]._replace(end=max(lines[-1].end, cue.end))
        before = cue
    return lines


def _kept(before: list[str], rows: list[str]) -> int:
    """How many of the first rows are the last of those before."""
    return next((n for n in range(min(len(before), len(rows)), 0, -1) if before[-n:] == rows[:n]), 0)
