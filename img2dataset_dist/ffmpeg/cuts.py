"""Cuts in a video: where a picture differs much from the one before.

The measure is that of PySceneDetect's ContentDetector (https://www.scenedetect.com/docs/latest/api/detectors.html): the
mean absolute difference of hue, saturation and value (as OpenCV scales them), averaged over the three; a cut is where
it reaches the threshold. As its `FlashFilter` merges them, cuts that follow each other closely are one, at the last of
them. Pictures are looked at small, as it does. Decoding happens in this process, by libav.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
import cv2
import numpy as np
import numpy.typing as npt

from img2dataset_dist.ffmpeg.probe import main_video, opened, start_of
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.model import Clip

_WIDTH = 256
"""Pixels of the wider side, to which pictures are scaled down."""


def scenes(path: str, kind: str, part: Clip | None, recipe: Recipe, *, max_pixels: int, threads: int) -> list[Clip]:
    """The scenes of a video, or of a part of it; all of them, or the longest, as the recipe says.

    Args:
        path: the video.
        kind: of its container.
        part: in seconds; None for all of it.
        recipe: `cuts`, `threshold` and `min_scene`.
        max_pixels: no larger picture is decoded.
        threads: of the decoder.

    Raises:
        DecodeError: it is broken.
    """
    borders: list[float] = []
    last: npt.NDArray[np.uint8] | None = None
    begin = end = 0.0
    cutter = Cutter(recipe.min_scene)
    for time, picture, length in _pictures(path, kind, part, max_pixels=max_pixels, threads=threads):
        if last is None:
            begin = time
            cutter.start(time)
        elif (cut := cutter.next(time, above=difference(last, picture) >= recipe.threshold)) is not None:
            borders.append(cut)
        last = picture
        end = time + length
    if last is None:
        return []
    if part is not None:
        begin, end = max(begin, part.start), min(end, part.end)
    found = [Clip(a, b) for a, b in zip([begin, *borders], [*borders, end], strict=True) if a < b]
    return [max(found, key=lambda scene: scene.end - scene.start)] if recipe.cuts == "longest" and found else found


class Cutter:
    """Which of the pictures that differ from the one before begin a scene.

    A picture does when the last that differed is `min_scene` pictures ago or more. Where they follow each other faster,
    it is a flash or a dissolve: once it has lasted `min_scene` pictures, a scene begins with the last of them.
    """

    def __init__(self, min_scene: int) -> None:
        self._min_scene = min_scene
        self._number = 0
        self._last = (0, 0.0)  # number and time of the last picture that differed
        self._burst: int | None = None
        self._any = False

    def start(self, time: float) -> None:
        """The first picture, at `time` in seconds."""
        self._last = (0, time)

    def next(self, time: float, *, above: bool) -> float | None:
        """Another picture; the time at which a scene has begun, if that is certain now."""
        self._number += 1
        quiet = self._number - self._last[0] >= self._min_scene
        if above:
            self._last = (self._number, time)
        if self._burst is not None:
            if above or not quiet or self._last[0] - self._burst < self._min_scene:
                return None
            self._burst = None
            return self._last[1]
        if above and quiet:
            self._any = True
            return time
        if above and self._any:
            self._burst = self._number
        return None


def difference(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> float:
    """How much two pictures (height, width, hue-saturation-value) of the same size differ, from 0 to 255."""
    return float(cv2.absdiff(before, after).mean(dtype=np.float64))


def _pictures(
    path: str, kind: str, part: Clip | None, *, max_pixels: int, threads: int
) -> Iterator[tuple[float, npt.NDArray[np.uint8], float]]:
    """Time in seconds, small picture and duration in seconds of each picture in the part."""
    with opened(path, kind, max_pixels) as container:
        video = main_video(container)
        if video is None or video.time_base is None:
            return
        video.thread_type = "AUTO"
        video.codec_context.thread_count = threads
        start = start_of(container)
        if part is not None:
            container.seek(round((part.start + start) * av.time_base))
        length = 1 / float(video.average_rate or 25)
        for frame in container.decode(video):
            if frame.pts is None:
                continue
            time = float(frame.pts * video.time_base) - start
            if part is not None and time < part.start - length / 2:
                continue
            if part is not None and time >= part.end:
                return
            yield time, _small(frame), length


def _small(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    factor = max(frame.width, frame.height) / _WIDTH
    width, height = (max(round(side / max(factor, 1)), 1) for side in (frame.width, frame.height))
    pixels = frame.to_ndarray(format="bgr24", width=width, height=height, interpolation="BILINEAR")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV), dtype=np.uint8)
