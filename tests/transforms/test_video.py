"""The path of videos and sounds as a whole. What comes out is decoded: numbers of pictures, times, sizes, sounds."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from support.processes import below, processes, wait_for
from support.videos import (
    CYCLE,
    FPS,
    HEIGHT,
    RATE,
    SECONDS,
    SOUNDS,
    VIDEOS,
    WIDTH,
    Seen,
    card,
    ffmpeg,
    gallery,
    long_film,
    real,
    row,
    seen,
    tone,
    transform,
)

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import (
    SUBSAMPLE,
    BadSubtitles,
    ConfigError,
    DecodeError,
    NoClip,
    NoStream,
    NotMedia,
    RowError,
    TooLarge,
    TooManyPixels,
    TransformTimeout,
)
from img2dataset_dist.ffmpeg import binary
from img2dataset_dist.model import Clip, Fetched, Sample, Stored
from img2dataset_dist.pipeline import Pipeline
from img2dataset_dist.shard import ShardJob
from img2dataset_dist.transforms import failed
from img2dataset_dist.transforms.remote import Nursery, RemoteTransform
from img2dataset_dist.transforms.video import threads

MEDIA = gallery()
FRAMES = FPS * SECONDS
ALL = [number % CYCLE for number in range(FRAMES)]
CLIPS = [(0, 1.5), (1.2, 2.2), (3.5, 9)]

VTT = """WEBVTT

00:00:00.000 --> 00:00:01.000
one

00:00:01.100 --> 00:00:02.000
two
"""


def part(sample: Sample, extension: str | None = None) -> str:
    """Path of the first file of a sample, or of the one with that extension."""
    found = [each for each in sample.parts if extension in (None, each.extension)]
    assert found, [each.extension for each in sample.parts]
    assert found[0].path is not None
    assert os.path.getsize(found[0].path) == found[0].size > 0
    return found[0].path


def shown(sample: Sample, extension: str | None = None) -> Seen:
    return seen(part(sample, extension))


def codes(pieces: tuple[Sample, ...]) -> list[str]:
    return [piece.failure.code if piece.failure else "success" for piece in pieces]


def numbers(first: int, count: int) -> list[int]:
    return [number % CYCLE for number in range(first, first + count)]


# ---- whole files ----


@pytest.mark.parametrize("name", VIDEOS)
def test_every_kind_of_video_becomes_an_mp4_with_all_its_pictures_and_its_sound(name: str, tmp_path: Path) -> None:
    done = transform()(row(MEDIA(name), tmp_path))
    result = shown(done)
    assert [each.extension for each in done.parts] == ["mp4"]
    assert result.numbers == pytest.approx(ALL, abs=1 if name in ("vp8", "program") else 0)
    assert (result.width, result.height) == (done.width, done.height) == (WIDTH, HEIGHT)
    assert (done.original_width, done.original_height) == (WIDTH, HEIGHT)
    assert result.times[-1] - result.times[0] == pytest.approx((FRAMES - 1) / FPS, abs=0.05)
    assert done.extra["duration"] == pytest.approx(SECONDS, abs=0.1)
    assert done.extra["video_codec"] == result.video_codec
    assert (done.extra["kind"], done.extra["mime"]) == ("video", "video/mp4")
    with open(part(done), "rb") as file:
        assert file.read(8)[4:] == b"ftyp"
    if name != "silent":
        assert result.sound_seconds == pytest.approx(SECONDS, abs=0.1)
        assert (done.extra["audio_rate"], done.extra["audio_channels"]) == (result.rate, 2)
    else:
        assert "audio_codec" not in done.extra


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("quicktime", "h264"), ("matroska", "h264"), ("transport", "h264"), ("flash", "h264"), ("vp9", "vp9"),
        ("vp8", "h264"), ("avi", "h264"), ("mjpeg", "h264"), ("prores", "h264"), ("program", "h264"),
    ],
)  # fmt: skip
def test_what_an_mp4_can_hold_is_copied(name: str, codec: str, tmp_path: Path) -> None:
    result = shown(transform()(row(MEDIA(name), tmp_path)))
    assert result.video_codec == codec
    if codec != "h264":
        return
    with av.open(part(transform()(row(MEDIA(name), tmp_path)))) as container:
        profile = container.streams.video[0].codec_context.pix_fmt
    assert profile == "yuv420p"


@pytest.fixture
def no_ffmpeg(tmp_path: Path) -> str:
    """An ffmpeg that says who it is and does nothing else."""
    script = tmp_path / "lazy-ffmpeg"
    script.write_text(f'#!/bin/sh\ncase "$*" in *-version*) exec {binary.locate(None)} "$@";; esac\nexit 9\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("moov_first", {}), ("moov_last", {}), ("fragmented", {}), ("rotated", {}), ("silent", {}), ("mpeg4", {}),
        ("vp9", {"encode_formats": {"video": "webm"}}),
        ("matroska", {"encode_formats": {"video": "mkv"}}),
        ("moov_first", {"video_size": HEIGHT}),
        ("moov_first", {"audio_rate": RATE, "audio_channels": 2}),
        ("aac", {"media": "audio"}),
        ("mp3", {"media": "audio", "encode_formats": {"audio": "mp3"}}),
        ("covered", {"media": "audio", "encode_formats": {"audio": "mp3"}}),
        ("flac", {"media": "audio", "encode_formats": {"audio": "flac"}}),
        ("wav", {"media": "audio", "encode_formats": {"audio": "wav"}}),
        ("vorbis", {"media": "audio", "encode_formats": {"audio": "ogg"}}),
    ],
)  # fmt: skip
def test_what_is_fine_already_is_stored_as_it_came(name: str, options: dict, tmp_path: Path, no_ffmpeg: str) -> None:
    done = transform(ffmpeg=no_ffmpeg, **options)(row(MEDIA(name), tmp_path))
    assert Path(part(done)).read_bytes() == MEDIA(name).read_bytes()
    assert done.extra["duration"] == pytest.approx(SECONDS, abs=0.1)


def test_a_video_as_it_came_and_its_sound_beside_it(tmp_path: Path) -> None:
    done = transform(encode_formats={"video": "mp4", "audio": "mp3"})(row(MEDIA("moov_first"), tmp_path))
    assert [each.extension for each in done.parts] == ["mp4", "mp3"]
    assert Path(part(done, "mp4")).read_bytes() == MEDIA("moov_first").read_bytes()
    sound = shown(done, "mp3")
    assert (sound.numbers, sound.rate) == ([], RATE)
    assert sound.sound_seconds == pytest.approx(SECONDS, abs=0.1)
    assert (done.width, done.extra["video_codec"]) == (WIDTH, "h264")


def test_a_silent_video_is_stored_without_the_sound_that_was_asked_for(tmp_path: Path) -> None:
    done = transform(encode_formats={"video": "mp4", "audio": "mp3"})(row(MEDIA("silent"), tmp_path))
    assert [each.extension for each in done.parts] == ["mp4"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("page", NotMedia, "html"), ("json", NotMedia, "json"), ("playlist", NotMedia, "m3u8"),
        ("concat", NotMedia, "text"), ("svg", NotMedia, "svg"), ("zero", NotMedia, "empty"),
        ("noise", DecodeError, "mp4"), ("truncated_first", DecodeError, "mp4 ends early"),
        ("truncated_last", DecodeError, "mp4 ends early"), ("truncated_mkv", DecodeError, "mkv ends early"),
        ("truncated_avi", DecodeError, "avi ends early"), ("truncated_wav", DecodeError, "wav ends early"),
        ("outside", DecodeError, "no picture can be read"), ("aac", NoStream, "no video"),
        ("covered", NoStream, "no video"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"video_size": 64, "video_fps": 5}, {"clips": "first"}])
def test_what_is_no_video_is_an_error(name: str, error: type, message: str, options: dict, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        transform(**options)(row(MEDIA(name), tmp_path))
    assert time.monotonic() - began < 2
    assert str(tmp_path) not in str(caught.value)


def test_a_video_whose_data_are_in_another_file_reaches_nothing(tmp_path: Path) -> None:
    """With `enable_drefs` libav would read that other file: so this one is as bad as it should be."""
    path = MEDIA("outside")
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    with pytest.raises(DecodeError):
        transform(encode_formats={"audio": "wav"})(row(path, tmp_path))


def test_no_sound_for_a_dataset_of_sounds(tmp_path: Path) -> None:
    with pytest.raises(NoStream, match="no sound"):
        transform(media="audio")(row(MEDIA("silent"), tmp_path))


def test_a_damaged_video_keeps_the_pictures_that_can_be_made(tmp_path: Path) -> None:
    done = transform(video_size=64)(row(MEDIA("damaged"), tmp_path))
    with av.open(part(done)) as container:
        pictures = sum(1 for _ in container.decode(video=0))
    assert FRAMES // 2 < pictures <= FRAMES


def test_a_video_of_which_little_can_be_made_is_an_error(tmp_path: Path) -> None:
    """At two thirds of errors ffmpeg gives up, with a status of its own."""
    with pytest.raises(DecodeError, match="most of it cannot be decoded"):
        transform(video_size=64)(row(MEDIA("ruined"), tmp_path))


def test_sizes_above_the_limits_are_refused_before_anything_is_decoded(tmp_path: Path, no_ffmpeg: str) -> None:
    for limit in ({"max_decode_pixels": WIDTH * HEIGHT - 1}, {"max_decode_side": WIDTH - 1}):
        with pytest.raises(TooManyPixels):
            transform(ffmpeg=no_ffmpeg, video_fps=5, **limit)(row(MEDIA("moov_first"), tmp_path))
    with pytest.raises(TooManyPixels):
        transform(ffmpeg=no_ffmpeg, video_height=20_000)(row(MEDIA("moov_first"), tmp_path))


# ---- sizes, rates, pictures ----


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("moov_first", {"video_size": 120}, (160, 120)),
        ("rotated", {"video_size": 120}, (120, 160)),
        ("anamorphic", {"video_size": 120}, (320, 120)),
        ("odd", {}, (160, 120)),
        ("moov_first", {"video_size": 120, "video_resize_mode": ("scale", "crop")}, (120, 120)),
        ("rotated", {"video_size": 120, "video_resize_mode": ("scale", "pad")}, (120, 120)),
        ("moov_first", {"video_size": 280, "video_resize_mode": ("crop", "pad")}, (280, 280)),
        ("moov_first", {"video_width": 100}, (100, 76)),
        ("moov_first", {"video_height": 480}, (640, 480)),
    ],
)
def test_resolution(name: str, options: dict, size: tuple[int, int], tmp_path: Path) -> None:
    done = transform(**options)(row(MEDIA(name), tmp_path))
    result = shown(done)
    assert (result.width, result.height) == (done.width, done.height) == size
    assert len(result.times) == len(seen(MEDIA(name)).times)


def test_padding_is_black_and_the_same_on_both_sides(tmp_path: Path) -> None:
    done = transform(video_size=120, video_resize_mode=("scale", "pad"))(row(MEDIA("moov_first"), tmp_path))
    with av.open(part(done)) as container:
        grey = next(container.decode(video=0)).to_ndarray(format="gray")
    assert grey[:12].max() < 16 > grey[-12:].max()
    assert grey[20:100].mean() > 40


def test_frame_rate(tmp_path: Path) -> None:
    done = transform(video_fps=5)(row(MEDIA("moov_first"), tmp_path))
    result = shown(done)
    assert np.diff(result.times) == pytest.approx(0.2, abs=0.001)
    assert len(result.times) == 5 * SECONDS
    assert done.extra["fps"] == 5
    assert np.diff(result.numbers[:9]) == pytest.approx(5)
    assert result.sound_seconds == pytest.approx(SECONDS, abs=0.1)


def test_a_variable_frame_rate_is_kept_or_made_even(tmp_path: Path) -> None:
    source = seen(MEDIA("variable"))
    kept = shown(transform(video_size=120)(row(MEDIA("variable"), tmp_path)))
    assert kept.times == pytest.approx(source.times, abs=0.001)
    even = shown(transform(video_fps=10)(row(MEDIA("variable"), tmp_path)))
    assert np.diff(even.times) == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(("name", "size"), [("vp9", (WIDTH, HEIGHT)), ("rotated", (HEIGHT, WIDTH)), ("ten_bits", (WIDTH, HEIGHT))])  # fmt: skip
def test_first_frame(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    done = transform(video_frames="first_frame")(row(MEDIA(name), tmp_path))
    assert [each.extension for each in done.parts] == ["jpg"]
    assert (done.width, done.height) == size
    result = shown(done)
    assert (result.width, result.height) == size
    if name != "rotated":
        assert result.numbers == [0]
    assert (done.extra["kind"], done.extra["mime"]) == ("image", "image/jpeg")


def test_first_frame_of_wide_pixels_is_as_wide_as_it_is_shown(tmp_path: Path) -> None:
    result = shown(transform(video_frames="first_frame")(row(MEDIA("anamorphic"), tmp_path)))
    assert (result.width, result.height) == (2 * WIDTH, HEIGHT)


def test_keyframes(tmp_path: Path) -> None:
    result = shown(transform(video_frames="keyframe")(row(MEDIA("moov_last"), tmp_path)))
    assert result.numbers == [0, 25, 0, 25]
    assert result.times == pytest.approx([0, 1, 2, 3], abs=0.001)


def test_a_ten_bit_video_becomes_one_that_players_show(tmp_path: Path) -> None:
    done = transform(video_size=120)(row(MEDIA("ten_bits"), tmp_path))
    with av.open(part(done)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


@pytest.mark.parametrize(("format_", "codec"), [("webm", "vp9"), ("mkv", "h264")])
def test_other_containers(format_: str, codec: str, tmp_path: Path) -> None:
    done = transform(encode_formats={"video": format_})(row(MEDIA("moov_last"), tmp_path))
    result = shown(done, format_)
    assert (result.video_codec, len(result.times)) == (codec, FRAMES)


def test_the_encoder_does_as_told(tmp_path: Path) -> None:
    good = transform(video_size=120, video_crf=10)(row(MEDIA("silent"), tmp_path))
    poor = transform(video_size=120, video_crf=45)(row(MEDIA("silent"), tmp_path))
    assert good.parts[0].size > 1.5 * poor.parts[0].size
    with pytest.raises(ConfigError, match="video_preset='nonsense' is not one of ultrafast"):
        transform(video_size=120, video_preset="nonsense")


# ---- sounds ----


@pytest.mark.parametrize(
    ("format_", "codec"),
    [("m4a", "aac"), ("mp3", "mp3float"), ("wav", "pcm_s16le"), ("flac", "flac"), ("ogg", "vorbis"), ("opus", "opus")],
)
@pytest.mark.parametrize("name", ["moov_last", "vp8", *SOUNDS])
def test_sounds(name: str, format_: str, codec: str, tmp_path: Path) -> None:
    done = transform(media="audio", encode_formats={"audio": format_})(row(MEDIA(name), tmp_path))
    result = shown(done, format_)
    assert result.numbers == []
    assert result.sound_seconds == pytest.approx(SECONDS, abs=0.06)
    assert done.extra["kind"] == "audio"
    assert done.extra["audio_rate"] == result.rate
    assert done.width is None
    copied = {("opus", "ogg"): "opus", ("flac", "ogg"): "flac", ("vp8", "ogg"): "vorbis"}
    assert result.audio_codec == copied.get((name, format_), codec)


def test_rate_and_channels(tmp_path: Path) -> None:
    options = {"encode_formats": {"audio": "wav"}, "audio_rate": 16_000, "audio_channels": 1}
    result = shown(transform(media="audio", **options)(row(MEDIA("moov_last"), tmp_path)))
    assert (result.rate, result.samples.shape[0]) == (16_000, 1)
    assert result.samples.shape[1] == pytest.approx(16_000 * SECONDS, rel=0.01)
    spectrum = np.abs(np.fft.rfft(result.samples[0]))
    assert spectrum.argmax() * 16_000 / result.samples.shape[1] == pytest.approx(440, abs=2)


def test_the_sound_within_a_video_has_the_rate_too(tmp_path: Path) -> None:
    done = transform(audio_rate=16_000, audio_channels=1)(row(MEDIA("moov_last"), tmp_path))
    result = shown(done)
    assert (result.rate, result.samples.shape[0], len(result.times)) == (16_000, 1, FRAMES)


def test_a_site_may_keep_pictures_and_sound_apart(tmp_path: Path) -> None:
    sample = row(MEDIA("silent"), tmp_path, sound=str(MEDIA("aac")))
    result = shown(transform()(sample))
    assert result.numbers == ALL
    assert result.sound_seconds == pytest.approx(SECONDS, abs=0.1)
    both = transform(encode_formats={"video": "mp4", "audio": "mp3"}, video_size=120, clip_precision="exact")
    [piece] = both(row(MEDIA("silent"), tmp_path, clips=[(1, 2)], sound=str(MEDIA("opus")))).pieces
    assert shown(piece, "mp4").numbers == numbers(25, 25)
    assert shown(piece, "mp4").sound_seconds == pytest.approx(1, abs=0.05)
    assert shown(piece, "mp3").sound_seconds == pytest.approx(1, abs=0.05)


# ---- clips ----


@pytest.mark.parametrize("name", ["moov_last", "fragmented", "matroska", "transport", "flash", "vp9", "avi", "program", "mjpeg"])  # fmt: skip
def test_exact_clips(name: str, tmp_path: Path) -> None:
    done = transform(clip_precision="exact")(row(MEDIA(name), tmp_path, clips=CLIPS))
    assert [piece.item.key for piece in done.pieces] == ["00000_00000", "00000_00001", "00000_00002"]
    assert codes(done.pieces) == ["success"] * 3
    first, second, third = map(shown, done.pieces)
    source = seen(MEDIA(name))
    with av.open(str(MEDIA(name))) as container:
        start = container.start_time / av.time_base  # a clip counts from the beginning of the media
    for result, (begin, end) in zip((first, second, third), CLIPS, strict=True):
        wanted = [n for n, at in zip(source.numbers, source.times, strict=True) if begin <= at - start < end]
        assert len(result.numbers) == pytest.approx(len(wanted), abs=2)
        assert result.numbers[0] == pytest.approx(wanted[0], abs=2)
        assert result.sound_seconds == pytest.approx(min(end, 4.05) - begin, abs=0.1)
    assert [piece.extra["clips"][0] for piece in done.pieces][:2] == [[0, 1.5], [1.2, 2.2]]


def test_exact_clips_are_exact(tmp_path: Path) -> None:
    """To the picture: 0.52 s is picture 13, 1.52 s is picture 38."""
    clips = [(0.52, 1.52), (0.5, 0.6), (0, 0.04), (2.96, 3.04)]
    done = transform(clip_precision="exact")(row(MEDIA("moov_last"), tmp_path, clips=clips))
    assert [shown(piece).numbers for piece in done.pieces] == [
        numbers(13, 25), numbers(13, 2), numbers(0, 1), numbers(74, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["moov_last", "fragmented", "matroska", "transport", "flash", "vp9", "no_b_frames", "rotated", "avi"])  # fmt: skip
def test_clips_between_keyframes(name: str, tmp_path: Path) -> None:
    """Nothing from outside; the pictures are copied."""
    done = transform(clip_precision="keyframe_adjusted")(row(MEDIA(name), tmp_path, clips=[(0.5, 2.3), (0.6, 0.9)]))
    [piece] = done.pieces
    result = shown(piece)
    assert result.numbers == numbers(25, 25)
    assert result.times[0] == pytest.approx(0, abs=0.005)
    assert result.sound_seconds == pytest.approx(1, abs=0.1)
    [[start, end]] = piece.extra["clips"]
    assert (start, end) == pytest.approx((1, 2), abs=0.1)
    assert result.video_codec == seen(MEDIA(name)).video_codec


@pytest.mark.parametrize("name", ["moov_last", "fragmented", "matroska", "transport", "flash", "vp9", "no_b_frames"])
def test_clips_of_low_precision(name: str, tmp_path: Path) -> None:
    """They begin with the keyframe before; to end they take a few pictures more or less."""
    done = transform()(row(MEDIA(name), tmp_path, clips=[(1.3, 2.4)]))
    [piece] = done.pieces
    result = shown(piece)
    assert result.numbers[0] == 25
    assert result.times[0] == pytest.approx(0, abs=0.005)
    assert len(result.numbers) == pytest.approx(35, abs=4)
    [[start, end]] = piece.extra["clips"]
    assert start == pytest.approx(1, abs=0.1)
    assert end == 2.4
    assert result.sound_seconds == pytest.approx(1.4, abs=0.1)


def test_a_recording_without_duration_and_index(tmp_path: Path) -> None:
    path = MEDIA("recorded")
    with av.open(str(path)) as container:
        assert container.duration is None
    done = transform(encode_formats={"video": "webm"})(row(path, tmp_path))
    assert Path(part(done)).read_bytes() == path.read_bytes()
    assert done.extra["duration"] == pytest.approx(SECONDS, abs=0.1)
    clips = [(0.52, 1.52), (3.2, 100), (50, 60)]
    done = transform(clip_precision="exact")(row(path, tmp_path, clips=clips))
    assert codes(done.pieces) == ["success", "success", "bad_clip"]
    assert shown(done.pieces[0]).numbers == pytest.approx(numbers(13, 25), abs=1)
    assert len(shown(done.pieces[1]).times) == 20
    done = transform(encode_formats={"video": "webm"})(row(path, tmp_path, clips=[(2.3, 3.1)]))
    assert shown(done.pieces[0]).numbers[0] == 0, "the keyframe at two seconds"


def test_a_clip_late_in_a_long_video_takes_no_longer(tmp_path: Path) -> None:
    path = long_film(tmp_path / "long.mp4", 10_800)
    began = time.monotonic()
    done = transform(clip_precision="exact")(row(path, tmp_path, clips=[(10_001, 10_002)]))
    assert shown(done.pieces[0]).numbers == numbers(25, 25)
    assert time.monotonic() - began < 10


def test_a_clip_that_is_not_within_the_video_fails_by_itself(tmp_path: Path) -> None:
    done = transform()(row(MEDIA("moov_last"), tmp_path, clips=[(0, 1), (100, 105), (1, 2)]))
    assert codes(done.pieces) == ["success", "bad_clip", "success"]
    assert [piece.item.key for piece in done.pieces] == ["00000_00000", "00000_00001", "00000_00002"]
    assert done.pieces[1].parts == ()
    assert done.pieces[1].status == "failed_to_subsample"


def test_lengths_of_clips(tmp_path: Path) -> None:
    options = {"clip_precision": "exact", "max_clip_seconds": 1.5, "min_clip_seconds": 1}
    done = transform(**options)(row(MEDIA("moov_last"), tmp_path, clips=[(0, 3.2), (3.5, 3.9)]))
    assert [len(shown(piece).times) for piece in done.pieces] == [38, 37]
    first = transform(clips="first", **options)(row(MEDIA("moov_last"), tmp_path, clips=[(0, 3.2)]))
    assert [piece.extra["clips"] for piece in first.pieces] == [[[0, 1.5]]]
    for clips in ([(0, 0.5)], []):
        with pytest.raises(NoClip):
            transform(**options)(row(MEDIA("moov_last"), tmp_path, clips=clips))


def test_clips_with_other_steps_are_exact_and_one_call(tmp_path: Path) -> None:
    made = transform(video_size=64, video_fps=5, encode_formats={"video": "mp4", "audio": "wav"}, audio_rate=8000)
    done = made(row(MEDIA("matroska"), tmp_path, clips=[(1.2, 2.2)]))
    [piece] = done.pieces
    assert [each.extension for each in piece.parts] == ["mp4", "wav"]
    result = shown(piece, "mp4")
    assert (len(result.times), result.height, result.rate) == (5, 64, 8000)
    assert 30 <= result.numbers[0] <= 33
    assert shown(piece, "wav").samples.shape[1] == 8000
    assert len(list(Path(part(piece)).parent.iterdir())) == 3, "nothing else is left in the row's folder"


def test_clips_of_keyframes_and_of_first_frames(tmp_path: Path) -> None:
    [piece] = transform(video_frames="keyframe")(row(MEDIA("matroska"), tmp_path, clips=[(0.5, 2.9)])).pieces
    assert shown(piece).numbers == [25, 0]
    [piece] = transform(video_frames="first_frame")(row(MEDIA("matroska"), tmp_path, clips=[(1.2, 2.9)])).pieces
    assert shown(piece).numbers == [30]


@pytest.mark.parametrize("name", [*SOUNDS, "moov_last", "matroska"])
def test_clips_of_sounds(name: str, tmp_path: Path) -> None:
    clips = [(1, 2.5), (0.1, 1)]
    rough = transform(media="audio")(row(MEDIA(name), tmp_path, clips=clips))
    assert [shown(piece).sound_seconds for piece in rough.pieces] == pytest.approx([1.5, 0.9], abs=0.05)
    made = transform(media="audio", encode_formats={"audio": "wav"}, clip_precision="exact")
    exact = [shown(piece) for piece in made(row(MEDIA(name), tmp_path, clips=clips)).pieces]
    assert [result.sound_seconds for result in exact] == pytest.approx([1.5, 0.9], abs=0.002)
    loud = [float(np.abs(result.samples.astype(float)).max()) / 32768 for result in exact]
    assert loud == pytest.approx([2.5 / SECONDS / 2, 1 / SECONDS / 2], abs=0.05), "the tone gets louder with time"


def test_clips_of_a_real_video(tmp_path: Path) -> None:
    path = real("bigbuckbunny.mp4")
    whole = _pictures(path)
    done = transform(clip_precision="exact", video_crf=5)(row(path, tmp_path, clips=[(2, 3), (4.52, 5)]))
    for piece, first in zip(done.pieces, (50, 113), strict=True):
        pictures = _pictures(part(piece))
        assert len(pictures) == pytest.approx(25 if first == 50 else 12, abs=0)
        differences = [float(np.abs(pictures[0] - whole[n]).mean()) for n in range(first - 3, first + 4)]
        assert differences.index(min(differences)) == 3, differences


def _pictures(path: str | Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray(format="gray", width=160, height=90).astype(float) for frame in container.decode(video=0)
        ]


def test_of_a_long_video_only_the_parts_that_were_fetched_need_be_there(tmp_path: Path) -> None:
    """All packets outside of 2 to 3 s are holes."""
    sample = row(MEDIA("moov_first"), tmp_path, clips=[(2, 2.8), (0, 1)], present=(Clip(2, 3),))
    _punch(Path(sample.file.path), 2, 3)
    for precision in ("exact", "low"):
        done = transform(clip_precision=precision)(sample)
        assert codes(done.pieces) == ["success", "bad_clip"]
        result = shown(done.pieces[0])
        assert result.numbers[:20] == numbers(50, 20)
        assert result.sound_seconds == pytest.approx(0.8, abs=0.05)


def _punch(path: Path, start: float, end: float) -> None:
    keep = []
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None and start - 0.1 <= packet.pts * packet.time_base <= end + 0.1:
                keep.append((packet.pos, packet.size))
    data = path.read_bytes()
    at = data.index(b"mdat") + 4
    holes = bytearray(data[:at] + bytes(len(data) - at))
    for position, size in keep:
        holes[position : position + size] = data[position : position + size]
    path.write_bytes(holes)


# ---- cuts ----


def test_cuts_in_a_column(tmp_path: Path) -> None:
    done = transform(cut_detection="all")(row(MEDIA("scenes"), tmp_path))
    assert done.extra["cuts"] == [pytest.approx(span, abs=0.01) for span in ([0, 2], [2, 3], [3, 6])]
    assert Path(part(done)).read_bytes() == MEDIA("scenes").read_bytes()


def test_cuts_become_clips(tmp_path: Path) -> None:
    made = transform(cut_detection="all", cuts_are_clips=True, clip_precision="exact", min_clip_seconds=1.5)
    done = made(row(MEDIA("scenes"), tmp_path))
    assert [piece.extra["clips"][0] for piece in done.pieces] == [
        pytest.approx(span, abs=0.01) for span in ([0, 2], [3, 6])
    ]
    assert [len(shown(piece).times) for piece in done.pieces] == [50, 75]
    longest = transform(cut_detection="longest", cuts_are_clips=True)(row(MEDIA("scenes"), tmp_path))
    assert len(longest.pieces) == 1


def test_scenes_within_the_clips_of_a_row(tmp_path: Path) -> None:
    made = transform(cut_detection="all", cuts_are_clips=True, clip_precision="exact")
    done = made(row(MEDIA("scenes"), tmp_path, clips=[(1, 2.5), (4, 5)]))
    expected = ([1, 2], [2, 2.5], [4, 5])
    assert [piece.extra["clips"][0] for piece in done.pieces] == [pytest.approx(span, abs=0.01) for span in expected]
    assert codes(made(row(MEDIA("scenes"), tmp_path, clips=[(1, 2), (10, 11)])).pieces) == ["success", "bad_clip"]


# ---- text ----


def test_metadata(tmp_path: Path) -> None:
    done = transform(probe=True, probe_keyframes=True)(row(MEDIA("rotated"), tmp_path))
    found = json.loads(done.extra["video_metadata"])
    assert found["streams"][0]["codec_name"] == "h264"
    assert found["keyframe_timestamps"] == pytest.approx([0, 1, 2, 3], abs=0.001)
    assert "video_metadata" not in transform()(row(MEDIA("rotated"), tmp_path)).extra


def test_captions_that_are_subtitles(tmp_path: Path) -> None:
    made = transform(captions_are_subtitles=True, clip_precision="exact", input_format="csv", caption_col="caption")
    done = made(row(MEDIA("moov_last"), tmp_path, clips=[(0, 1), (1.5, 3), (3, 4)], columns={"caption": VTT}))
    said = [json.loads(piece.extra["clip_subtitles"]) for piece in done.pieces]
    assert [[line["lines"] for line in each] for each in said] == [[{"und": ["one"]}], [{"und": ["two"]}], []]
    assert said[0][0]["start"] == "00:00:00.000"
    with pytest.raises(BadSubtitles):
        made(row(MEDIA("moov_last"), tmp_path, columns={"caption": "a cat on a mat"}))
    assert "clip_subtitles" not in made(row(MEDIA("moov_last"), tmp_path)).extra


def of_a_clip(sample: Sample) -> Sample:
    """The sample as the file of a clip from 2 s to 6 s that an earlier job made."""
    stored = Stored(tar="x.tar", part=Clip(2, 6))
    return replace(sample, item=replace(sample.item, stored=stored))


def test_times_of_a_stored_clip_are_those_of_its_source(tmp_path: Path) -> None:
    (tmp_path / "en").write_text(VTT)
    sample = of_a_clip(row(MEDIA("moov_last"), tmp_path, clips=[(1, 3)], subtitles={"en": str(tmp_path / "en")}))
    [piece] = transform(clip_precision="exact")(sample).pieces
    assert piece.extra["clips"] == [[3.0, 5.0]]
    assert piece.extra["cuts"] is None
    said = json.loads(piece.extra["clip_subtitles"])
    assert [(line["start"], line["end"]) for line in said] == [("00:00:03.100", "00:00:04.000")]
    assert b"00:00:00.100 --> 00:00:01.000\ntwo" in (piece.parts[1].data or b""), "those beside it count from its start"
    whole = transform(cut_detection="all")(of_a_clip(row(MEDIA("scenes"), tmp_path)))
    first = transform(cut_detection="all")(row(MEDIA("scenes"), tmp_path))
    assert whole.extra["cuts"] == [pytest.approx([a + 2, b + 2]) for a, b in first.extra["cuts"]]


def test_a_caption_of_subtitles_is_that_of_the_whole_video(tmp_path: Path) -> None:
    """It goes on as it is with each clip, so its times are those of the source in the next job, too."""
    caption = "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\none\n\n00:00:04.000 --> 00:00:05.000\ntwo\n"
    made = transform(captions_are_subtitles=True, clip_precision="exact", input_format="csv", caption_col="caption")
    done = made(of_a_clip(row(MEDIA("moov_last"), tmp_path, clips=[(0, 1), (2, 3)], columns={"caption": caption})))
    said = [json.loads(piece.extra["clip_subtitles"]) for piece in done.pieces]
    assert [[(line["start"], line["lines"]) for line in each] for each in said] == [
        [("00:00:02.000", {"und": ["one"]})], [("00:00:04.000", {"und": ["two"]})]
    ]  # fmt: skip


def test_lines_of_subtitles_become_clips_with_captions(tmp_path: Path) -> None:
    (tmp_path / "en").write_text(VTT)
    made = transform(subtitles_are_clips=True, clip_precision="exact")
    done = made(row(MEDIA("moov_last"), tmp_path, subtitles={"en": str(tmp_path / "en")}, columns={"a": 1}))
    assert [piece.item.columns for piece in done.pieces] == [{"a": 1, "caption": "one"}, {"a": 1, "caption": "two"}]
    assert [shown(piece).numbers[0] for piece in done.pieces] == [0, 28]
    with pytest.raises(NoClip):
        made(row(MEDIA("moov_last"), tmp_path))


def test_subtitles_of_a_site(tmp_path: Path) -> None:
    (tmp_path / "en").write_text(VTT)
    (tmp_path / "de").write_text("1\n00:00:01,100 --> 00:00:02,000\nzwei\n")
    (tmp_path / "xx").write_text("<html>no subtitles</html>")
    languages = {"en": str(tmp_path / "en"), "de-DE": str(tmp_path / "de"), "xx": str(tmp_path / "xx")}
    sample = row(MEDIA("moov_last"), tmp_path, clips=[(1, 3)], subtitles=languages)
    [piece] = transform(clip_precision="exact")(sample).pieces
    assert [each.extension for each in piece.parts] == ["mp4", "en.vtt", "de-DE.vtt"]
    assert b"00:00:00.100 --> 00:00:01.000\ntwo" in (piece.parts[1].data or b"")
    assert b"one" not in (piece.parts[1].data or b"")
    assert json.loads(piece.extra["clip_subtitles"])[0]["lines"] == {"en": ["two"], "de-DE": ["zwei"]}


# ---- bounds ----


def test_the_deadline_of_a_call(tmp_path: Path) -> None:
    sample = row(long_film(tmp_path / "long.mp4", 600), tmp_path)
    began = time.monotonic()
    with pytest.raises(TransformTimeout):
        transform(ffmpeg_timeout=0.5, video_preset="veryslow", video_height=478)(sample)
    assert time.monotonic() - began < 5
    assert not [command for command in below(os.getpid()).values() if "made-00000" in command]


@pytest.mark.crash
def test_a_child_that_is_killed_takes_its_ffmpeg_with_it(tmp_path: Path) -> None:
    sample = row(long_film(tmp_path / "long.mp4", 600), tmp_path)
    options = {"media": "video", "video_preset": "slow", "video_fps": 50, "video_height": 100}
    nursery = Nursery(JobConfig.from_flat({"url_list": "x.txt", **options}))
    try:
        with contextlib.closing(RemoteTransform(nursery, 3.0)) as work:
            [done] = work([Fetched(item=sample.item, file=sample.file)])
            assert done.failure is not None
            assert done.failure.code == "timeout_transform"
            mine = f"{tmp_path}/"
            wait_for(lambda: not [each for each in processes().values() if mine in each[1]], 10, "ffmpeg to end")
            good = row(MEDIA("scenes"), tmp_path)
            [done] = work([Fetched(item=good.item, file=good.file)])
            assert done.failure is None
            assert shown(done).height == 100
    finally:
        nursery.close()


def test_what_is_made_has_a_largest_size(tmp_path: Path) -> None:
    """Silence of a minute: some kilobytes of FLAC, 11 MB of WAV."""
    path = tmp_path / "silence.flac"
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=48000:cl=stereo", "-t", "60", str(path))
    limits = {"media": "audio", "encode_formats": {"audio": "wav"}, "max_body_bytes": 500_000}
    assert path.stat().st_size < 500_000
    refused = row(path, tmp_path)
    with pytest.raises(TooLarge, match="max_body_bytes"):
        transform(**limits)(refused)
    assert refused.file is not None
    assert os.listdir(os.path.dirname(refused.file.path)) == ["body"], "nothing is left of it"
    assert failed(Fetched(item=refused.item, file=refused.file), TooLarge("x")).status == SUBSAMPLE
    with pytest.raises(TooLarge):
        transform(**limits | {"max_body_bytes": 2_000_000, "max_spool_bytes": 4_000_000})(row(path, tmp_path))
    made = transform(**limits | {"max_body_bytes": 2_000_000})(row(path, tmp_path))
    assert made.parts[0].size > 11_000_000


def test_a_clip_that_is_too_large_fails_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "silence.flac"
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=48000:cl=stereo", "-t", "60", str(path))
    made = transform(media="audio", encode_formats={"audio": "wav"}, max_body_bytes=300_000)
    done = made(row(path, tmp_path, clips=[(0, 10), (0, 60)]))
    assert codes(done.pieces) == ["success", "too_large"]
    assert done.pieces[1].status == SUBSAMPLE


def test_memory_is_bounded(tmp_path: Path) -> None:
    assert transform(video_size=120)(row(MEDIA("moov_last"), tmp_path)).parts
    with pytest.raises(RowError, match="max_transform_memory"):
        transform(video_size=120, max_transform_memory=40 * 2**20)(row(MEDIA("moov_last"), tmp_path))


def test_threads_of_one_ffmpeg_are_its_share_of_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))

    def share(**options: Any) -> int:
        return threads(JobConfig.from_flat({"url_list": "x.txt", "media": "video", **options}))

    assert share(processes_count=1, transform_processes=1) == cores
    assert share(processes_count=cores) == 1
    assert share(processes_count=100) == 1
    assert share(ffmpeg_threads=7) == 7


@pytest.mark.parametrize(("neighbours", "share"), [(8, 4), (64, 1)])
def test_threads_on_a_cluster_are_the_share_of_a_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, neighbours: int, share: int
) -> None:
    """Of 64 cores: the engine knows how many workers a machine has at once, `processes_count` does not."""
    told: list[JobConfig] = []

    class Nobody:
        def __init__(self, config: JobConfig) -> None:
            told.append(config)

        def close(self) -> None:
            pass

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr("img2dataset_dist.pipeline.Nursery", Nobody)
    options = {"url_list": "x.txt", "media": "video", "processes_count": 1, "tmp_dir": str(tmp_path / "tmp")}
    job = ShardJob(
        config=JobConfig.from_flat(options), input_schema=pa.schema([("url", pa.string())]), fingerprint="",
        output_url=str(tmp_path / "out"), neighbours=neighbours,
    )  # fmt: skip
    assert list(Pipeline(job).run([])) == []
    assert [threads(config) for config in told] == [share]


def test_each_call_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    made = transform(ffmpeg_timeout=30, clip_precision="exact")
    began = time.monotonic()
    done = made(row(MEDIA("moov_last"), tmp_path, clips=[(n / 10, n / 10 + 1) for n in range(20)]))
    assert codes(done.pieces) == ["success"] * 20
    assert time.monotonic() - began < 30


def test_what_the_options_want_is_checked_at_the_start() -> None:
    with pytest.raises(ConfigError, match="unknown step"):
        transform(subsampling={"Nonsense": {}})
    with pytest.raises(ConfigError, match="no such program"):
        transform(ffmpeg="/no/ffmpeg")


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is such a card")
def test_a_card_that_is_not_there_is_said_at_the_start() -> None:
    with pytest.raises(ConfigError, match="hardware='nvidia'"):
        transform(hardware="nvidia")


def test_times_of_a_video_that_does_not_begin_at_zero(tmp_path: Path) -> None:
    """Clips count from the beginning of the media, whatever its clock says there."""
    path = tmp_path / "late.mkv"
    ffmpeg(*card(), *tone(), "-c:v", "libx264", "-g", "25", "-crf", "18", "-pix_fmt", "yuv420p", "-c:a", "aac",
           "-output_ts_offset", "100", str(path))  # fmt: skip
    for precision in ("exact", "keyframe_adjusted", "low"):
        [piece] = transform(clip_precision=precision)(row(path, tmp_path, clips=[(1, 2.01)])).pieces
        assert shown(piece).numbers[0] == 25, precision
