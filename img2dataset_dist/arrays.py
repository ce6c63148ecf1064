"""Stored media to numpy arrays: what the loader gives out, and what a stage looks at.

Videos and sounds are read by libav through PyAV, by the demuxer for what their bytes are and no other; pictures by
Pillow. Pixels are 8 bits, red, green and blue, and upright; samples of sound are float32 from -1 to 1.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from PIL import Image, ImageOps, UnidentifiedImageError

from img2dataset_dist.errors import DecodeError, NoStream, NotMedia
from img2dataset_dist.ffmpeg.demuxers import DEMUXERS, input_options
from img2dataset_dist.ffmpeg.probe import main_audio, main_video, start_of
from img2dataset_dist.kinds import sniff_file

MAX_PIXELS = 200_000_000
"""No larger picture is decoded, unless the caller says otherwise; as `max_decode_pixels`."""

Pixels = npt.NDArray[np.uint8]
Waves = npt.NDArray[np.float32]


class Frame(NamedTuple):
    """A picture of a video: seconds from its beginning, and the picture itself as PyAV has it."""

    time: float
    picture: av.VideoFrame


@contextmanager
def opened(media: bytes | str, max_pixels: int = MAX_PIXELS) -> Iterator[InputContainer]:
    """A video or a sound, open for reading with libav.

    Args:
        media: its bytes, or the path of a local file.
        max_pixels: no larger picture is decoded.

    Raises:
        NotMedia: it is something else; the message says what.
        DecodeError: it is broken, whenever that turns out.
    """
    with _stream(media) as stream:
        kind = sniff_file(stream)
        stream.seek(0)
        if kind not in DEMUXERS:
            raise NotMedia(f"no video or sound: {kind}")
        try:
            with av.open(stream, format=DEMUXERS[kind], options=input_options(kind, max_pixels)) as container:
                yield container
        except (av.error.FFmpegError, ValueError, OverflowError) as error:
            raise DecodeError(f"broken {kind}: {getattr(error, 'strerror', None) or 'not readable'}") from error


def _stream(media: bytes | str) -> BinaryIO:
    return open(media, "rb") if isinstance(media, str) else io.BytesIO(media)


def frames(container: InputContainer) -> Iterator[Frame]:
    """All pictures of the main video, in order.

    Raises:
        NoStream: there is none.
    """
    stream = main_video(container)
    if stream is None:
        raise NoStream("no video")
    start = start_of(container)
    for picture in container.decode(stream):
        yield Frame((picture.time or start) - start, picture)


def at_rate(pictures: Iterator[Frame], fps: float | None) -> Iterator[Frame]:
    """So many pictures per second of those: the first at or after each tick, each once. None: all."""
    ticks = _Ticks(fps)
    return (frame for frame in pictures if ticks.takes(frame.time))


class _Ticks:
    """Which of the pictures that are shown at ascending times, in seconds, are at a tick of a slower clock."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._next = 0

    def takes(self, time: float) -> bool:
        if self._fps is None:
            return True
        tick = int((time + _SLACK) * self._fps)
        if time + _SLACK < self._next / self._fps:
            return False
        self._next = max(self._next, tick) + 1
        return True


_SLACK = 1e-3
"""Seconds by which times may be early: those of Matroska are in whole milliseconds."""


def grey(frame: Frame) -> Pixels:
    """A picture as (height, width), upright."""
    return _upright(frame, frame.picture.to_ndarray(format="gray"))


def rgb(frame: Frame) -> Pixels:
    """A picture as (height, width, 3), upright."""
    return _upright(frame, frame.picture.to_ndarray(format="rgb24"))


def _upright(frame: Frame, pixels: npt.NDArray[Any]) -> Pixels:
    quarters = round(frame.picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def video(media: bytes | str, *, count: int | None = None, fps: float | None = None) -> tuple[Pixels, list[float]]:
    """The pictures of a video as (frames, height, width, 3), and when each is shown, in seconds.

    Args:
        media: its bytes, or the path of a local file.
        count: so many, evenly spaced, of those there are; some twice when there are fewer. None: all.
        fps: so many per second. None: all.

    Raises:
        NotMedia, DecodeError: it is no video, or broken.
        NoStream: it has no pictures.
    """
    with opened(media) as container:
        wanted = None if count is None else _evenly(_count(container, fps), count)
    found: list[Frame] = []
    with opened(media) as container:
        for number, frame in enumerate(at_rate(frames(container), fps)):
            if wanted is None:
                found.append(frame)
                continue
            found += [frame] * wanted.count(number)
            if number >= wanted[-1]:
                break
    if not found:
        raise NoStream("no pictures")
    found += [found[-1]] * ((count or 0) - len(found))
    return np.stack([rgb(frame) for frame in found]), [frame.time for frame in found]


def _count(container: InputContainer, fps: float | None) -> int:
    """How many pictures there will be; nothing is decoded."""
    stream = main_video(container)
    if stream is None:
        raise NoStream("no video")
    base, start = float(stream.time_base or 1), start_of(container)
    times = sorted(packet.pts * base - start for packet in container.demux(stream) if packet.pts is not None)
    ticks = _Ticks(fps)
    return sum(map(ticks.takes, times))


def _evenly(there: int, count: int) -> list[int]:
    """The numbers of `count` pictures, each in the middle of its part of the video."""
    return [min(max(there - 1, 0), int((each + 0.5) * there / count)) for each in range(count)]


def audio(media: bytes | str, *, rate: int | None = None, mono: bool = False) -> tuple[Waves, int]:
    """A sound as (channels, samples), and its samples per second.

    Args:
        media: its bytes, or the path of a local file; a video has a sound as well.
        rate: samples per second to convert it to. None: as it is.
        mono: mix all channels into one.

    Raises:
        NotMedia, DecodeError: it is none, or broken.
        NoStream: it has no sound.
    """
    with opened(media) as container:
        stream = main_audio(container)
        if stream is None:
            raise NoStream("no sound")
        rate = rate or stream.codec_context.sample_rate
        resampler = av.AudioResampler(format="fltp", layout="mono" if mono else None, rate=rate)
        pieces = [each.to_ndarray() for frame in container.decode(stream) for each in resampler.resample(frame)]
        pieces += [each.to_ndarray() for each in resampler.resample(None)]
    if not pieces:
        raise NoStream("no sound")
    return np.concatenate(pieces, axis=1).astype(np.float32, copy=False), rate


def image(media: bytes) -> Pixels:
    """A picture as (height, width, 3), upright.

    Raises:
        DecodeError: it is none, or broken.
    """
    return np.asarray(pillow(media))


def pillow(media: bytes) -> Image.Image:
    """A picture as Pillow has it, upright, red, green and blue. Raises as `image`."""
    try:
        with Image.open(io.BytesIO(media)) as found:
            return ImageOps.exif_transpose(found).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise DecodeError(f"broken picture: {error}") from error
