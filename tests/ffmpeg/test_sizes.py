"""From sizes to filters. What they do is checked by ffmpeg in test_video.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2dataset_dist.config import MediaConfig
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.ffmpeg.sizes import even, plan

SIDES = st.integers(1, 5000)
EVEN = st.integers(1, 1000).map(lambda side: side * 2)


def recipe(**options) -> Recipe:
    return Recipe.of(MediaConfig.model_validate({"media": "video", **options}))


@pytest.mark.parametrize(
    ("size", "options", "filters", "result"),
    [
        ((1920, 1080), {"video_size": 224}, ["scale=398:224"], (398, 224)),
        ((1080, 1920), {"video_size": 224}, ["scale=224:398"], (224, 398)),
        ((1920, 1080), {"video_height": 224}, ["scale=398:224"], (398, 224)),
        ((1920, 1080), {"video_width": 224}, ["scale=224:126"], (224, 126)),
        # Both sides, and neither crop nor pad: the height counts, as in video2dataset.
        ((1920, 1080), {"video_width": 100, "video_height": 224}, ["scale=398:224"], (398, 224)),
        (
            (1920, 1080),
            {"video_size": 224, "video_resize_mode": ("scale", "crop")},
            ["scale=398:224", "crop=224:224"],
            (224, 224),
        ),
        (
            (1920, 1080),
            {"video_size": 224, "video_resize_mode": ("scale", "crop", "pad")},
            ["scale=398:224", "crop=224:224"],
            (224, 224),
        ),
        (
            (1920, 1080),
            {"video_size": 224, "video_resize_mode": ("scale", "pad")},
            ["scale=224:126", "pad=224:224:-1:-1"],
            (224, 224),
        ),
        (
            (320, 100),
            {"video_size": 200, "video_resize_mode": ("crop", "pad")},
            ["crop=200:100", "pad=200:200:-1:-1"],
            (200, 200),
        ),
        ((398, 224), {"video_size": 224}, [], (398, 224)),
        ((100, 100), {"video_size": 224}, ["scale=224:224"], (224, 224)),
    ],
)
def test_plans(size, options, filters, result) -> None:
    made = plan(*size, recipe(**options))
    assert list(made.filters) == filters
    assert (made.width, made.height) == result


@given(
    width=SIDES, height=SIDES, size=EVEN, modes=st.sampled_from([("scale", "crop"), ("scale", "pad"), ("crop", "pad")])
)
def test_two_modes_give_a_square_or_leave_what_one_of_them_would_change(width, height, size, modes) -> None:
    made = plan(width, height, recipe(video_size=size, video_resize_mode=modes))
    assert (made.width, made.height) == (size, size)


@given(width=SIDES, height=SIDES, want_width=EVEN, want_height=EVEN)
def test_scale_and_crop_cover_any_rectangle(width, height, want_width, want_height) -> None:
    options = {"video_width": want_width, "video_height": want_height, "video_resize_mode": ("scale", "crop")}
    made = plan(width, height, recipe(**options))
    assert (made.width, made.height) == (want_width, want_height)


@given(width=SIDES, height=SIDES, size=EVEN)
def test_sides_are_even_and_the_ratio_is_kept(width, height, size) -> None:
    made = plan(width, height, recipe(video_size=size))
    assert made.width % 2 == made.height % 2 == 0
    factor = size / min(width, height)
    assert abs(made.width - width * factor) <= 2
    assert abs(made.height - height * factor) <= 2


@given(width=SIDES, height=SIDES)
def test_the_least_that_an_encoder_needs(width, height) -> None:
    made = even(width, height)
    assert made.width % 2 == made.height % 2 == 0
    assert abs(made.width - width) <= 1
    assert abs(made.height - height) <= 1
    assert bool(made.filters) == (width % 2 == 1 or height % 2 == 1)
