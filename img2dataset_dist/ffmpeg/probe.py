"""What is in a video or a sound: streams, sizes, times. No picture is decoded but those that libav itself needs.

Sizes are as a person sees them: turned by the display matrix, and with square pixels. Times are seconds from the
beginning of the media, which need not be the zero of its clock.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import av.error
import av.logging
from av.container import InputContainer
from av.stream import Disposition

from img2dataset_dist.errors import DecodeError, MediaError
from img2dataset_dist.ffmpeg.demuxers import DEMUXERS, input_options

_STREAM = re.compile(r"^  Stream #0:(\d+)")
_TURN = re.compile(r"^ {6,8}display ?matrix: rotation of (-?[\d.]+) degrees", re.IGNORECASE)
_COVERS = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
"""Pictures that belong to a sound, or to the menu of a player."""
_MICROSECONDS = 1_000_000
_LEVELS = ("h264", "hevc", "mpeg4", "mpeg2video", "av1", "vp9")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The pictures of a video.

    Attributes:
        index: of the stream in the file.
        codec: as ffmpeg names it, such as "h264".
        width, height: as displayed, in pixels.
        fps: pictures per second on average, None when unknown.
        delayed: whether some are stored in another order than they are shown in.
        square: whether its pixels are.
        readable: whether libav could make sense of the first of them.
    """

    index: int
    codec: str
    width: int
    height: int
    fps: float | None
    delayed: bool = False
    square: bool = True
    readable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A sound: `index` of its stream, `codec` as ffmpeg names it, samples per second, channels."""

    index: int
    codec: str
    rate: int
    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is in a file.

    Attributes:
        kind: of container, as `kinds.sniff` names it.
        duration: in seconds, None when only reading it all would tell.
        picture, sound: the streams that count, None when there are none.
        metadata: what ffprobe would say, where it was asked for; no paths in it.
    """

    kind: str
    duration: float | None
    picture: Picture | None
    sound: Sound | None
    metadata: dict[str, Any] | None = None


@contextlib.contextmanager
def opened(path: str, kind: str, max_pixels: int) -> Iterator[InputContainer]:
    """The file, open for reading with libav, by the demuxer for its kind and no other.

    Raises:
        DecodeError: it is broken, whenever that turns out.
        MediaError: it takes more memory than there may be.
    """
    try:
        with av.open(f"file:{path}", format=DEMUXERS[kind], options=input_options(kind, max_pixels)) as container:
            yield container
    except MemoryError as error:
        raise MediaError(f"the {kind} takes more memory than max_transform_memory") from error
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise DecodeError(f"broken {kind}: {getattr(error, 'strerror', None) or 'not readable'}") from error


def probe(path: str, kind: str, *, max_pixels: int, metadata: bool = False) -> Probe:
    """What is in the file.

    Args:
        path: a local file.
        kind: one of `DEMUXERS`.
        max_pixels: no larger picture is decoded.
        metadata: say all that ffprobe would.

    Raises:
        DecodeError: it is broken.
        MediaError: it takes more memory than there may be.
    """
    with opened(path, kind, max_pixels) as container:
        turned = _turns(container)
        picture, sound = main_video(container), main_audio(container)
        return Probe(
            kind=kind,
            duration=_duration(container),
            picture=None if picture is None else _picture(picture, turned.get(picture.index, 0.0)),
            sound=None if sound is None else _sound(sound),
            metadata=_as_ffprobe(container, path, turned) if metadata else None,
        )


def main_video(container: InputContainer) -> av.VideoStream | None:
    """The first video that is no cover of a record."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & _COVERS:
            return stream
    return None


def main_audio(container: InputContainer) -> av.AudioStream | None:
    """The sound that a player would choose: the one marked so, else the first that can be decoded."""
    streams = [each for each in container.streams.audio if each.codec_context is not None]
    streams.sort(key=lambda each: (not each.disposition & Disposition.default, each.index))
    return streams[0] if streams else None


def start_of(container: InputContainer) -> float:
    """Where the clock of the media stands at its beginning, in seconds."""
    return container.start_time / _MICROSECONDS if container.start_time is not None else 0.0


def keyframes(path: str, kind: str, *, max_pixels: int) -> list[float]:
    """Times of the keyframes, in seconds from the beginning. All of the file is read, nothing decoded.

    Raises:
        DecodeError: it is broken.
    """
    with opened(path, kind, max_pixels) as container:
        video = main_video(container)
        if video is None:
            return []
        start = start_of(container)
        return sorted(
            float(packet.pts * packet.time_base) - start
            for packet in container.demux(video)
            if packet.is_keyframe and packet.pts is not None and packet.time_base is not None
        )


def measured_duration(path: str, kind: str, *, max_pixels: int) -> float:
    """Seconds until the last packet ends, for files that do not say it. All of the file is read, nothing decoded.

    Raises:
        DecodeError: it is broken.
    """
    first, last = math.inf, -math.inf
    with opened(path, kind, max_pixels) as container:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                begins = float(packet.pts * packet.time_base)
                first = min(first, begins)
                last = max(last, begins + float((packet.duration or 0) * packet.time_base))
    return max(last - first, 0.0) if last > -math.inf else 0.0


def _turns(container: InputContainer) -> dict[int, float]:
    """Degrees by which a player turns each stream. PyAV shows them only in the text that ffmpeg prints of a file."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        lines = cast("Any", container).dumps_format().splitlines()  # not in its type hints
    finally:
        av.logging.set_level(before)
    turns, index = {}, -1
    for line in lines:
        if found := _STREAM.match(line):
            index = int(found[1])
        elif found := _TURN.match(line):
            turns[index] = float(found[1])
    return turns


def _picture(stream: av.VideoStream, turned: float) -> Picture:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1:
        raise DecodeError("a video without a size")
    ratio = stream.sample_aspect_ratio
    if ratio is not None and ratio > 0 and ratio != 1:
        width = max(round(width * float(ratio)), 1)
    if round(turned / 90) % 2:
        width, height = height, width
    context = stream.codec_context
    context = stream.codec_context
    return Picture(
        index=stream.index,
        codec=context.codec.canonical_name,
        width=width,
        height=height,
        fps=_fps(stream),
        delayed=bool(context.has_b_frames),
        square=not ratio or ratio == 1,
        readable=context.pix_fmt is not None,
    )


def _fps(stream: av.VideoStream) -> float | None:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _sound(stream: av.AudioStream) -> Sound:
    context = stream.codec_context
    return Sound(
        index=stream.index, codec=context.codec.canonical_name, rate=context.sample_rate, channels=context.channels
    )


def _duration(container: InputContainer) -> float | None:
    if container.duration is not None and container.duration > 0:
        return container.duration / _MICROSECONDS
    known = [float(each.duration * each.time_base) for each in container.streams if each.duration and each.time_base]
    return max(known) if known else None


def _as_ffprobe(container: InputContainer, path: str, turned: dict[int, float]) -> dict[str, Any]:
    """As `ffprobe -show_format -show_streams -print_format json` writes it: numbers that have a unit are strings."""
    size = os.path.getsize(path)
    start = start_of(container)
    duration = _duration(container)
    return {
        "streams": [_stream(each, turned.get(each.index)) for each in container.streams],
        "format": _known(
            nb_streams=len(container.streams),
            format_name=container.format.name,
            format_long_name=container.format.long_name,
            start_time=f"{start:.6f}",
            duration=None if duration is None else f"{duration:.6f}",
            size=str(size),
            bit_rate=str(container.bit_rate) if container.bit_rate else None,
            tags=dict(container.metadata) or None,
        ),
    }


def _stream(stream: Any, turned: float | None) -> dict[str, Any]:
    context = stream.codec_context
    base = stream.time_base
    found = _known(
        index=stream.index,
        codec_name=None if context is None else context.codec.canonical_name,
        codec_long_name=None if context is None else context.codec.long_name,
        profile=stream.profile if context is not None else None,
        codec_type=stream.type,
        codec_tag_string=None if context is None else context.codec_tag.replace("\0", ""),
        time_base=None if base is None else f"{base.numerator}/{base.denominator}",
        start_pts=stream.start_time,
        start_time=_seconds(stream.start_time, base),
        duration_ts=stream.duration,
        duration=_seconds(stream.duration, base),
        bit_rate=str(context.bit_rate) if context is not None and context.bit_rate else None,
        nb_frames=str(stream.frames) if getattr(stream, "frames", 0) else None,
    )
    if stream.type == "video" and context is not None:
        found |= _video(stream, turned)
    elif stream.type == "audio" and context is not None:
        found |= _known(
            sample_fmt=context.format.name if context.format else None,
            sample_rate=str(context.sample_rate),
            channels=context.channels,
            channel_layout=context.layout.name,
        )
    found["disposition"] = {each.name: int(bool(stream.disposition & each)) for each in Disposition if each.name}
    if stream.metadata:
        found["tags"] = dict(stream.metadata)
    return found


def _video(stream: av.VideoStream, turned: float | None) -> dict[str, Any]:
    context = stream.codec_context
    return _known(
        width=context.width,
        height=context.height,
        coded_width=context.coded_width or None,
        coded_height=context.coded_height or None,
        has_b_frames=int(context.has_b_frames),
        sample_aspect_ratio=_ratio(stream.sample_aspect_ratio, ":"),
        display_aspect_ratio=_ratio(stream.display_aspect_ratio, ":"),
        pix_fmt=context.pix_fmt,
        level=getattr(context, "level", None) if context.codec.canonical_name in _LEVELS else None,
        r_frame_rate=_ratio(stream.base_rate, "/"),
        avg_frame_rate=_ratio(stream.average_rate, "/"),
        side_data_list=None if turned is None else [{"side_data_type": "Display Matrix", "rotation": round(turned)}],
    )


def _known(**values: Any) -> dict[str, Any]:
    """Those that have a value."""
    return {name: value for name, value in values.items() if value is not None}


def _ratio(value: Fraction | None, between: str) -> str | None:
    return f"{value.numerator}{between}{value.denominator}" if value else None


def _seconds(ticks: int | None, base: Fraction | None) -> str | None:
    return None if ticks is None or base is None else f"{float(ticks * base):.6f}"
