"""Cuts: known ones of a made video, and those that PySceneDetect 0.7.2 finds in real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.videos import ffmpeg, gallery, real

from img2dataset_dist.config import MediaConfig
from img2dataset_dist.ffmpeg.cuts import Cutter, difference, scenes
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.model import Clip

MEDIA = gallery()


def found(path: Path, part: Clip | None = None, **options: Any) -> list[Clip]:
    recipe = Recipe.of(MediaConfig.model_validate({"media": "video", "cut_detection": "all", **options}))
    return scenes(str(path), "mp4", part, recipe, max_pixels=10**8, threads=1)


def near(*spans: tuple[float, float]) -> Any:
    return [pytest.approx(span, abs=0.01) for span in spans]


def test_three_scenes() -> None:
    assert found(MEDIA("scenes")) == near((0, 2), (2, 3), (3, 6))
    assert found(MEDIA("scenes"), cut_detection="longest") == near((3, 6))


def test_scenes_within_a_part() -> None:
    assert found(MEDIA("scenes"), Clip(1, 2.5)) == near((1, 2), (2, 2.5))
    assert found(MEDIA("scenes"), Clip(3.2, 5)) == near((3.2, 5))
    assert found(MEDIA("scenes"), Clip(50, 60)) == []


def test_no_scene_is_shorter_than_asked_for() -> None:
    assert found(MEDIA("scenes"), min_scene_frames=26) == near((0, 2), (2, 6))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (27, [(0, 1.2), (1.2, 3.04), (3.04, 5.48), (5.48, 7.48), (7.48, 9.68), (9.68, 10)]),
        (11.5, [(0, 1.2), (1.2, 2.6), (2.6, 4.28), (4.28, 5.48), (5.48, 7.48), (7.48, 9.68), (9.68, 10)]),
    ],
)
def test_a_real_video_has_the_scenes_that_pyscenedetect_finds(threshold: float, expected: list) -> None:
    """Written down from scenedetect 0.7.2: `detect(path, ContentDetector(threshold, min_scene_len=15))`."""
    assert found(real("bikes.mp4"), cut_threshold=threshold) == near(*expected)


def test_a_video_without_cuts_is_one_scene() -> None:
    assert found(real("bigbuckbunny.mp4")) == near((0, 5.28))


def test_the_measure() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), (0, 0, 255), np.uint8)
    assert difference(black, black) == 0
    assert difference(black, white) == 85
    assert difference(white, black) == 85


def test_flashes_are_no_scenes() -> None:
    """A burst of pictures that differ becomes one cut, at its last, once it has lasted and is over."""
    cutter = Cutter(5)
    cutter.start(0)
    above = {10, 20, 22, 24, 26, 28}
    cuts = [cut for number in range(1, 60) if (cut := cutter.next(float(number), above=number in above)) is not None]
    assert cuts == [10, 20, 28]
    short = Cutter(5)
    short.start(0)
    cuts = [cut for number in range(1, 60) if (cut := short.next(float(number), above=number in {10, 12})) is not None]
    assert cuts == [10]


def test_times_of_a_video_with_a_variable_rate(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    ffmpeg(
        "-i", str(MEDIA("scenes")), "-vf", "select='not(mod(n,5))'", "-fps_mode", "vfr", "-c:v", "libx264", str(path)
    )
    assert found(path, min_scene_frames=2) == near((0, 2), (2, 3), (3, 6))
