"""Which parts of a video are wanted, and where they can begin and end.

A clip that is copied can only begin at a keyframe, a picture that is stored whole. What `clip_precision` does about it:

- low: it begins with the keyframe before, and ends about where it should: within a few pictures.
- keyframe_adjusted: it begins with the first keyframe within, and ends before the last one within, or at the end of the
  video; so nothing from outside gets in, and clips without such two are left out.
- exact: it is encoded again, to the picture.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from img2dataset_dist.errors import BadClip
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.model import Clip

_TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,5}):(\d{1,2}(?:[.,]\d{1,9})?)", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_MAX_CLIPS = 100_000
_PAIR = 2
_SECONDS = 1_000_000
"""Later than this is a mistake, such as milliseconds."""
NEAR = 0.0005
"""Seconds by which times of the same picture may differ, for they come rounded; no video has 2000 pictures a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a video that can be made as it is.

    Attributes:
        clip: in seconds from the beginning.
        packets: how many pictures it has, where they are to be copied and the number is known.
    """

    clip: Clip
    packets: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframe:
    """A picture that is stored whole: its time in seconds, and how many pictures are stored before it."""

    time: float
    number: int


def parse(value: Any) -> tuple[Clip, ...] | None:
    """The clips that a row of the list wants: `[[start, end], ...]`, or one `[start, end]`, or either as JSON text.

    Times are seconds, or `HH:MM:SS.f`, `MM:SS`.

    Returns:
        None where the row says nothing; an empty list is one that wants nothing.

    Raises:
        BadClip: it is something else, or a clip ends before it begins.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except ValueError:
            raise BadClip("clips: no JSON list of [start, end]") from None
    if value is None:
        return None
    if not _is_list(value):
        raise BadClip("clips: no list of [start, end]")
    pairs = list(value)
    if len(pairs) == _PAIR and not any(map(_is_list, pairs)):
        pairs = [pairs]
    if len(pairs) > _MAX_CLIPS:
        raise BadClip(f"clips: more than {_MAX_CLIPS}")
    return tuple(map(_clip, pairs))


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))


def _clip(pair: Any) -> Clip:
    if not _is_list(pair) or len(pair := list(pair)) != _PAIR:
        raise BadClip("clips: one is not [start, end]")
    start, end = map(seconds, pair)
    if not start < end:
        raise BadClip("clips: one does not end after it begins")
    return Clip(start, end)


def seconds(value: Any) -> float:
    """A time in seconds.

    Raises:
        BadClip: it is neither a number nor `HH:MM:SS.f`.
    """
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        found = _TIME.fullmatch(text)
        if not found:
            raise BadClip("clips: a time is neither seconds nor HH:MM:SS.f")
        return int(found[1] or 0) * 3600 + int(found[2]) * 60 + float(found[3].replace(",", "."))
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= _SECONDS:
        raise BadClip("clips: a time is neither seconds nor HH:MM:SS.f")
    return number


def in_source(clips: Iterable[Clip], part: Clip | None) -> list[list[float]]:
    """Clips of a video as columns have them, in seconds of its source.

    Args:
        clips: in seconds of the video.
        part: where the video itself is in its source, None when it is all of it.
    """
    begin = 0.0 if part is None else part.start
    return [[round(begin + time, 6) for time in clip] for clip in clips]


def of_source(clips: Iterable[Clip], part: Clip) -> tuple[Clip, ...]:
    """Clips of a source in seconds of a video that is a part of it; what lies before it is left out."""
    moved = (Clip(max(round(start - part.start, 6), 0.0), round(end - part.start, 6)) for start, end in clips)
    return tuple(clip for clip in moved if clip.start < clip.end)


def inside(clip: Clip, duration: float) -> Clip:
    """The clip as far as the video goes, which lasts `duration` seconds.

    Raises:
        BadClip: it begins where the video has ended.
    """
    if clip.start >= duration - NEAR:
        raise BadClip("the clip begins after the end of the video")
    return Clip(clip.start, min(clip.end, duration))


def pieces(clip: Clip, recipe: Recipe) -> list[Clip]:
    """A clip in pieces of at most `max_clip_seconds`, without those below `min_clip_seconds`."""
    found = []
    start = clip.start
    while start < clip.end - NEAR:
        end = min(start + recipe.max_seconds, clip.end)
        found.append(Clip(start, end))
        start = end
    found = [piece for piece in found if piece.end - piece.start >= recipe.min_seconds - NEAR]
    return found[:1] if recipe.pieces == "first" else found


def at_keyframe_before(clip: Clip, keyframes: Sequence[Keyframe]) -> Part:
    """The clip from the last keyframe that is not after its start; from its start where there is none."""
    before = [each.time for each in keyframes if each.time <= clip.start + NEAR]
    return Part(clip=Clip(min(max(before), clip.start), clip.end) if before else clip)


def between_keyframes(clip: Clip, keyframes: Sequence[Keyframe], recipe: Recipe) -> list[Part]:
    """A clip as pieces that begin at a keyframe and end before one, all within the clip.

    Args:
        clip: in seconds.
        keyframes: those of the video in and around it, by time; the last may be the end of the video.
        recipe: the least and the greatest length of a piece.
    """
    inside = [each for each in keyframes if clip.start - NEAR <= each.time <= clip.end + NEAR]
    parts = []
    at = 0
    while at < len(inside) - 1:
        last = at
        while last + 1 < len(inside) and inside[last + 1].time - inside[at].time <= recipe.max_seconds + NEAR:
            last += 1
        if last == at:
            at += 1  # its next keyframe is farther away than a piece may be long
            continue
        length = inside[last].time - inside[at].time
        if length >= recipe.min_seconds - NEAR:
            packets = inside[last].number - inside[at].number
            parts.append(Part(clip=Clip(inside[at].time, inside[last].time), packets=packets))
        at = last
    return parts[:1] if recipe.pieces == "first" else parts
