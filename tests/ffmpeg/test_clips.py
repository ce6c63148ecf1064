"""Lists of clips, and where clips can begin and end."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2dataset_dist.config import MediaConfig
from img2dataset_dist.errors import BadClip
from img2dataset_dist.ffmpeg.clips import (
    Keyframe,
    at_keyframe_before,
    between_keyframes,
    inside,
    parse,
    pieces,
    seconds,
)
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.model import Clip


def recipe(**options: Any) -> Recipe:
    return Recipe.of(MediaConfig.model_validate({"media": "video", **options}))


@pytest.mark.parametrize(
    ("value", "clips"),
    [
        (None, None),
        ("", None),
        ([], ()),
        ("[]", ()),
        ([[0, 5], [5.5, 10.25]], ((0, 5), (5.5, 10.25))),
        ([3, 4], ((3, 4),)),
        ("[[0, 5], [5.5, 10.25]]", ((0, 5), (5.5, 10.25))),
        ([["00:00:01.500", "01:02:03.25"]], ((1.5, 3723.25),)),
        ('[["00:01", "00:02,5"]]', ((1, 2.5),)),
        (["00:00:01.000", "00:00:02.000"], ((1, 2),)),
        ([["7", "8.5"]], ((7, 8.5),)),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), ((1, 2), (3, 4))),
        (pa.array([[[1.0, 2.0]]]).to_pylist()[0], ((1, 2),)),
        ([(np.float32(1), np.int64(2))], ((1, 2),)),
    ],
)
def test_what_a_row_may_say(value: Any, clips: Any) -> None:
    assert parse(value) == clips


@pytest.mark.parametrize(
    "value",
    [
        5, "5", "none", "[[0, 5", {"a": 1}, [[0]], [[0, 1, 2]], [[5, 0]], [[5, 5]], [[-1, 5]], [[math.nan, 5]],
        [[0, math.inf]], [["a", "b"]], [[None, 5]], [[True, 5]], [[0, 10**400]], [["1:2:3:4", 5]], [["1e3", 2000]],
        [[0, 5_000_000]], b"[[0, 1]]", [[[0, 1]]], ["ab", "cd"], [["\u0663", "\u0665"]],
    ],
)  # fmt: skip
def test_what_is_no_clip(value: Any) -> None:
    with pytest.raises(BadClip):
        parse(value)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_timestamps(hours: int, minutes: int, whole: int, thousandths: int) -> None:
    expected = hours * 3600 + minutes * 60 + whole + thousandths / 1000
    assert seconds(f"{hours:02d}:{minutes:02d}:{whole:02d}.{thousandths:03d}") == pytest.approx(expected)


def test_too_long_clips_become_several() -> None:
    assert pieces(Clip(1, 8), recipe(max_clip_seconds=3)) == [(1, 4), (4, 7), (7, 8)]
    assert pieces(Clip(1, 8), recipe(max_clip_seconds=3, min_clip_seconds=2)) == [(1, 4), (4, 7)]
    assert pieces(Clip(1, 8), recipe(max_clip_seconds=3, clips="first")) == [(1, 4)]
    assert pieces(Clip(1, 8), recipe()) == [(1, 8)]
    assert pieces(Clip(1, 1.5), recipe(min_clip_seconds=1)) == []


@given(start=st.floats(0, 1e5), length=st.floats(0.001, 1e4), most=st.floats(1, 100))
def test_pieces_are_the_whole_clip_and_none_is_too_long(start: float, length: float, most: float) -> None:
    clip = Clip(start, start + length)
    found = pieces(clip, recipe(max_clip_seconds=most))
    assert found[0].start == clip.start
    assert found[-1].end == pytest.approx(clip.end, abs=0.001)
    assert all(one.end == other.start for one, other in itertools.pairwise(found))
    assert all(piece.end - piece.start <= most + 1e-6 for piece in found)


def test_the_end_of_the_video_is_the_end_of_a_clip() -> None:
    assert inside(Clip(1, 8), 5.5) == (1, 5.5)
    assert inside(Clip(1, 3), 5.5) == (1, 3)
    with pytest.raises(BadClip, match="after the end"):
        inside(Clip(5.5, 8), 5.5)


def key(*times: float) -> list[Keyframe]:
    return [Keyframe(time=time, number=round(time * 25)) for time in times]


def test_low_precision_begins_at_the_keyframe_before() -> None:
    assert at_keyframe_before(Clip(2.5, 4), key(0, 1, 2, 3)).clip == (2, 4)
    assert at_keyframe_before(Clip(2, 4), key(0, 1, 2.0004, 3)).clip == (2, 4)
    assert at_keyframe_before(Clip(2.5, 4), key(3)).clip == (2.5, 4)


def test_adjusted_to_keyframes() -> None:
    [part] = between_keyframes(Clip(0.5, 3.5), key(0, 1, 2, 3, 4), recipe())
    assert part.clip == (1, 3)
    assert part.packets == 50
    assert between_keyframes(Clip(0.5, 1.5), key(0, 1, 2), recipe()) == []
    assert between_keyframes(Clip(0.2, 0.8), key(0, 1), recipe()) == []
    assert between_keyframes(Clip(0.5, 3.5), key(0, 1, 2, 3, 4), recipe(min_clip_seconds=2.5)) == []


@given(
    times=st.lists(st.floats(0, 100), min_size=2, max_size=30, unique=True).map(sorted),
    start=st.floats(0, 50),
    length=st.floats(1, 50),
    most=st.floats(1, 20),
)
def test_pieces_between_keyframes_stay_inside_and_are_no_longer_than_they_may(times, start, length, most) -> None:
    clip = Clip(start, start + length)
    parts = between_keyframes(clip, key(*times), recipe(max_clip_seconds=most))
    for part in parts:
        assert clip.start - 0.001 <= part.clip.start < part.clip.end <= clip.end + 0.001
        assert part.clip.end - part.clip.start <= most + 0.001
        assert {part.clip.start, part.clip.end} <= set(times)
    for one, other in itertools.pairwise(parts):
        assert one.clip.end <= other.clip.start
