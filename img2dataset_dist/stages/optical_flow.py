"""How the picture moves: dense optical flow by Farneback's method, between neighbouring frames of each video.

What video2dataset's OpticalFlowSubsampler stores with its detector "cv2": an array of (frames - 1, height, width, 2),
pixels to the right and pixels down, in pixels of the video however small the frames are that are compared. It is
written frame by frame: the flow of a minute of video can be a gigabyte.

Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003; OpenCV's implementation of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt

from img2dataset_dist import arrays
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import DiskFull, NoStream
from img2dataset_dist.model import Part, Sample
from img2dataset_dist.stages import noted, with_part
from img2dataset_dist.tars import role_of

NAME = "optical_flow"
DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
FARNEBACK = {
    "pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0,
}  # fmt: skip
"""OpenCV's parameters, as video2dataset has them."""

_HEADER_BYTES = 128

Flow = npt.NDArray[np.float32]


class OpticalFlow:
    """Stage `optical_flow`: part `npy`, and in column `stages` how much the picture moves, in pixels.

    Args:
        config: the job's options.
        fps: frames per second that are compared. None, or -1 as video2dataset says it: all.
        downsample_size: shorter side of the frames that are compared, in pixels. None: as they are.
        dtype: fp16 or fp32.
        args: other values for `FARNEBACK`.
    """

    batch_size = 8

    def __init__(
        self,
        config: JobConfig,
        fps: float | None = None,
        downsample_size: int | None = None,
        dtype: str = "fp16",
        args: Mapping[str, float] | None = None,
    ) -> None:
        self._max_pixels = config.image.max_decode_pixels
        self._fps = None if fps == -1 else fps
        self._size = downsample_size
        self._dtype = dtype
        self._parameters: dict[str, Any] = {**FARNEBACK, **(args or {})}

    @staticmethod
    def check(
        fps: float | None = None,
        downsample_size: int | None = None,
        dtype: str = "fp16",
        args: Mapping[str, float] | None = None,
    ) -> None:
        """See `Stage.__init__`."""
        if fps is not None and fps != -1 and not 0 < fps < float("inf"):
            raise ValueError(f"fps must be above 0, got {fps}")
        if downsample_size is not None and downsample_size < 8:  # noqa: PLR2004 (nothing is seen with less)
            raise ValueError(f"downsample_size must be 8 or more, got {downsample_size}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
        if unknown := set(args or ()) - set(FARNEBACK):
            raise ValueError(f"args has no {min(unknown)}; there are {', '.join(FARNEBACK)}")

    def __call__(self, batch: Sequence[Sample]) -> list[Sample]:
        """See `Stage`. There is nothing to gain from several at once."""
        return [self._flow_of(sample) for sample in batch]

    def _flow_of(self, sample: Sample) -> Sample:
        video = next((part for part in sample.parts if role_of(part.extension) == "video" and part.path), None)
        if video is None or video.path is None:
            raise NoStream("no video among the sample's parts")
        path = f"{video.path}.npy"
        try:
            with open(path, "wb") as file:
                written = _Array(file, DTYPES[self._dtype])
                with arrays.opened(video.path, self._max_pixels) as container:
                    for flow in self._flows(arrays.at_rate(arrays.frames(container), self._fps)):
                        written.add(flow)
                written.finish()
        except OSError as error:
            raise DiskFull(f"tmp_dir: {error.strerror}") from error
        means = written.means
        found = {
            "mean_magnitude": sum(means) / len(means) if means else None,
            "mean_magnitude_per_frame": means,
            "fps": self._fps,
            "downsample_size": self._size,
            "dtype": self._dtype,
        }
        return noted(with_part(sample, Part(extension="npy", size=os.path.getsize(path), path=path)), NAME, found)

    def _flows(self, frames: Iterable[arrays.Frame]) -> Iterator[Flow]:
        before: arrays.Pixels | None = None
        for frame in frames:
            now, factor = self._smaller(arrays.grey(frame))
            if before is not None:
                if before.shape != now.shape:  # some change their size on the way
                    now = np.asarray(cv2.resize(now, before.shape[::-1]), np.uint8)
                flow = cv2.calcOpticalFlowFarneback(before, now, None, **self._parameters)
                yield np.multiply(flow, factor, dtype=np.float32)
            before = now

    def _smaller(self, picture: arrays.Pixels) -> tuple[arrays.Pixels, float]:
        """The picture as it is compared, and how many pixels one of its pixels was."""
        height, width = picture.shape
        shorter = min(height, width)
        if self._size is None or self._size == shorter:
            return picture, 1.0
        size = int(width * self._size / shorter), int(height * self._size / shorter)
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA), shorter / self._size


@dataclass(slots=True)
class _Array:
    """An array on its way to a file; how long it is, the head says in the end (NEP 1)."""

    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = (0, 0, 2)
    means: list[float] = field(default_factory=list)

    def add(self, flow: Flow) -> None:
        """One more frame; all are of one size."""
        if not self.means:
            self.shape = flow.shape
            self.file.write(self._head())
        self.means.append(float(np.linalg.norm(flow, axis=-1).mean()))
        self.file.write(flow.astype(self.dtype).tobytes())

    def finish(self) -> None:
        """Nothing follows."""
        self.file.seek(0)
        self.file.write(self._head())

    def _head(self) -> bytes:
        shape = (len(self.means), *self.shape)
        text = f"{{'descr': '{self.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        text = text.ljust(_HEADER_BYTES - 11) + b"\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
