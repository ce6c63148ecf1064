"""What is said of media before anything is done to them."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path

import pytest
from support.videos import FPS, HEIGHT, RATE, SECONDS, SOUNDS, VIDEOS, WIDTH, gallery, real, seen

from img2dataset_dist import kinds
from img2dataset_dist.errors import DecodeError
from img2dataset_dist.ffmpeg.demuxers import DEMUXERS
from img2dataset_dist.ffmpeg.probe import keyframes, measured_duration, probe
from img2dataset_dist.ffmpeg.whole import missing

MEDIA = gallery()
PIXELS = 10**8
CODECS = {
    "vp8": "vp8", "vp9": "vp9", "avi": "mpeg4", "mpeg4": "mpeg4", "program": "mpeg2video", "mjpeg": "mjpeg",
    "prores": "prores", "windows": "wmv2",
}  # fmt: skip


def kind_of(path: Path) -> str:
    return kinds.sniff(path.read_bytes()[: kinds.HEAD_BYTES])


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video(name: str) -> None:
    path = MEDIA(name)
    found = probe(str(path), kind_of(path), max_pixels=PIXELS)
    assert found.picture is not None
    assert (found.picture.width, found.picture.height) == (WIDTH, HEIGHT)
    assert found.picture.codec == CODECS.get(name, "h264")
    assert found.picture.fps == pytest.approx(FPS, rel=0.03)
    assert found.picture.readable
    duration = found.duration or measured_duration(str(path), found.kind, max_pixels=PIXELS)
    assert duration == pytest.approx(SECONDS, abs=0.1)
    if name == "silent":
        assert found.sound is None
    else:
        assert found.sound is not None
        assert found.sound.rate == (48000 if name == "vp9" else RATE)
        assert found.sound.channels == 2


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound(name: str) -> None:
    path = MEDIA(name)
    found = probe(str(path), kind_of(path), max_pixels=PIXELS)
    assert found.picture is None
    assert found.sound is not None
    assert found.sound.rate == (48000 if name == "opus" else RATE)
    assert (found.duration or 0) == pytest.approx(SECONDS, abs=0.1)


def test_the_cover_of_a_record_is_no_video() -> None:
    found = probe(str(MEDIA("covered")), "mp3", max_pixels=PIXELS)
    assert found.picture is None
    assert found.sound is not None


def test_sizes_are_as_displayed() -> None:
    turned = probe(str(MEDIA("rotated")), "mp4", max_pixels=PIXELS).picture
    assert turned is not None
    assert (turned.width, turned.height) == (HEIGHT, WIDTH)
    wide = probe(str(MEDIA("anamorphic")), "mp4", max_pixels=PIXELS).picture
    assert wide is not None
    assert (wide.width, wide.height, wide.square) == (2 * WIDTH, HEIGHT, False)


def test_metadata_are_as_ffprobe_writes_them() -> None:
    found = probe(str(MEDIA("rotated")), "mp4", max_pixels=PIXELS, metadata=True).metadata
    assert found is not None
    assert json.loads(json.dumps(found)) == found
    video, audio = found["streams"]
    assert video.items() >= {
        "index": 0, "codec_name": "h264", "codec_type": "video", "codec_tag_string": "avc1", "width": WIDTH,
        "height": HEIGHT, "pix_fmt": "yuv420p", "avg_frame_rate": "25/1", "r_frame_rate": "25/1", "nb_frames": "100",
        "sample_aspect_ratio": "1:1", "display_aspect_ratio": "4:3", "time_base": "1/12800", "duration": "4.000000",
        "side_data_list": [{"side_data_type": "Display Matrix", "rotation": 90}],
    }.items()  # fmt: skip
    assert audio.items() >= {
        "index": 1, "codec_name": "aac", "codec_type": "audio", "sample_rate": str(RATE), "channels": 2,
        "channel_layout": "stereo", "profile": "LC",
    }.items()  # fmt: skip
    assert found["format"].items() >= {"nb_streams": 2, "duration": "4.000000", "start_time": "0.000000"}.items()
    assert found["format"]["size"] == str(MEDIA("rotated").stat().st_size)
    assert "/" not in json.dumps(found["format"]["tags"])
    assert str(MEDIA.folder) not in json.dumps(found)


@pytest.mark.parametrize("name", ["moov_last", "fragmented", "matroska", "vp9", "transport", "flash"])
def test_times_of_keyframes(name: str) -> None:
    path = MEDIA(name)
    times = keyframes(str(path), kind_of(path), max_pixels=PIXELS)
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([1, 1, 1], abs=0.01)
    assert times[0] == pytest.approx(0, abs=0.1)


def test_a_real_video() -> None:
    path = real("bikes.mp4")
    found = probe(str(path), kind_of(path), max_pixels=PIXELS)
    shown = seen(path)
    assert found.picture is not None
    assert (found.picture.width, found.picture.height) == (shown.width, shown.height)
    assert found.duration == pytest.approx(len(shown.times) / (found.picture.fps or 0), abs=0.05)


@pytest.mark.parametrize(
    "name", ["truncated_first", "truncated_last", "truncated_mkv", "truncated_avi", "truncated_wav"]
)
def test_what_is_cut_off_is_seen_by_its_container(name: str) -> None:
    path = MEDIA(name)
    """What lacks of its last box: those behind it are not known of."""
    whole = {"truncated_first": "moov_first", "truncated_last": "moov_last", "truncated_mkv": "matroska"}
    original = MEDIA(whole.get(name, name.removeprefix("truncated_")))
    lacking = original.stat().st_size - path.stat().st_size
    found = missing(str(path), kind_of(path))
    if name == "truncated_last":
        assert 0 < found < lacking
    else:
        assert found == pytest.approx(lacking, abs=2)


@pytest.mark.parametrize("name", [*VIDEOS, *SOUNDS])
def test_nothing_is_missing_of_a_whole_file(name: str) -> None:
    path = MEDIA(name)
    assert missing(str(path), kind_of(path)) == 0


def test_what_programs_append_to_a_file_does_not_matter(tmp_path: Path) -> None:
    for name, tail in (("moov_last", b"some trailer \0\0\0\0"), ("matroska", bytes(100)), ("wav", b"ID3v1 TAG")):
        longer = tmp_path / MEDIA(name).name
        longer.write_bytes(MEDIA(name).read_bytes() + tail)
        assert missing(str(longer), kind_of(longer)) == 0


@pytest.mark.parametrize("kind", sorted(DEMUXERS))
@pytest.mark.parametrize("name", ["playlist", "concat", "svg", "noise", "page", "zero"])
def test_no_demuxer_makes_anything_of_what_is_no_media(kind: str, name: str) -> None:
    """Whatever the sniffing said: a playlist is not followed, since its demuxer is never asked."""
    with contextlib.suppress(DecodeError):
        found = probe(str(MEDIA(name)), kind, max_pixels=PIXELS, metadata=True)
        # Demuxers without a header take anything for packets; they find no picture in it.
        assert found.picture is None or not found.picture.readable
        assert "root:" not in json.dumps(found.metadata)
