"""Options and video2dataset's sections become a recipe, or an error that says what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from img2dataset_dist.config import MediaConfig
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.ffmpeg.recipe import Recipe

# The whole `subsampling` of video2dataset's own config "downsample_ml", as it is written there.
DOWNSAMPLE_ML = """
subsampling:
    ResolutionSubsampler:
        args:
            video_size: 224
            resize_mode: "scale,crop,pad"
    FrameSubsampler:
        args:
           frame_rate: 5
    CutDetectionSubsampler:
        cuts_are_clips: True
        args:
            cut_detection_mode: "all"
            framerates: null
            threshold: 11.5
            min_scene_len: 15
    ClippingSubsampler:
        args:
            min_length: 4.0
            max_length: 10.0
            max_length_strategy: "all"
            precision: "keyframe_adjusted"
    FFProbeSubsampler:
        args:
            extract_keyframes: False
"""


def recipe(**options: Any) -> Recipe:
    return Recipe.of(MediaConfig.model_validate({"media": "video", **options}))


def test_a_config_of_video2dataset(tmp_path: Path) -> None:
    path = tmp_path / "downsample_ml.yaml"
    path.write_text(DOWNSAMPLE_ML)
    expected = recipe(
        video_size=224, video_resize_mode=("scale", "crop", "pad"), video_fps=5, cut_detection="all",
        cuts_are_clips=True, cut_threshold=11.5, min_scene_frames=15, min_clip_seconds=4, max_clip_seconds=10,
        clips="all", clip_precision="keyframe_adjusted", probe=True,
    )  # fmt: skip
    assert recipe(subsampling=str(path)) == expected
    assert recipe(subsampling=f"file://{path}") == expected
    assert recipe(subsampling=yaml.safe_load(DOWNSAMPLE_ML)["subsampling"]) == expected


def test_sections_without_arguments_and_sides_that_are_not_given() -> None:
    assert recipe(subsampling={"FFProbeSubsampler": None}).probe
    assert recipe(subsampling={"CutDetectionSubsampler": {"args": None}}).cuts == "all"
    given = {"ResolutionSubsampler": {"args": {"height": 64, "width": -1, "video_size": -1, "resize_mode": ["scale"]}}}
    assert (recipe(subsampling=given).height, recipe(subsampling=given).width) == (64, None)


def test_a_section_counts_more_than_a_flat_option() -> None:
    assert recipe(video_fps=10, subsampling={"FrameSubsampler": {"args": {"frame_rate": 5}}}).fps == 5


def test_formats() -> None:
    assert (recipe().video, recipe().audio) == ("mp4", None)
    assert (recipe(media="audio").video, recipe(media="audio").audio) == (None, "m4a")
    both = recipe(encode_formats={"video": "mp4", "audio": "mp3"})
    assert (both.video, both.audio) == ("mp4", "mp3")
    said = {"AudioRateSubsampler": {"args": {"sample_rate": 16000, "encode_format": "wav", "n_audio_channels": 1}}}
    sound = recipe(media="audio", subsampling=said)
    assert (sound.audio, sound.rate, sound.channels) == ("wav", 16000, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsampling": {"ResolutionSubsampeler": {}}}, "unknown step.*did you mean 'ResolutionSubsampler'"),
        (
            {"subsampling": {"ResolutionSubsampler": {"args": {"vide_size": 3}}}},
            "ResolutionSubsampler has no argument 'vide_size'; did you mean 'video_size'",
        ),
        ({"subsampling": {"ClippingSubsampler": {"arg": {}}}}, "unknown key 'arg'; did you mean 'args'"),
        (
            {"subsampling": {"ClippingSubsampler": {"args": {"precision": "exat"}}}},
            "ClippingSubsampler: precision='exat'",
        ),
        ({"subsampling": {"FrameSubsampler": {"args": {"frame_rate": -5}}}}, "FrameSubsampler: frame_rate=-5"),
        ({"subsampling": {"CutDetectionSubsampler": {"args": {"framerates": [5]}}}}, "framerates"),
        ({"subsampling": {"OpticalFlowSubsampler": {"args": {}}}}, "stage='optical_flow'"),
        ({"subsampling": {"FrameSubsampler": 5}}, "FrameSubsampler must be a dict"),
        ({"subsampling": "no-such-file.yaml"}, "cannot read no-such-file.yaml"),
        ({"encode_formats": {"video": "mp5"}}, "video is one of mp4, webm, mkv, not 'mp5'; did you mean 'mp4'"),
        ({"encode_formats": {"audio": "mp4"}}, "audio is one of m4a"),
        ({"video_size": 224, "video_width": 100}, "video_size: give it, or"),
        ({"video_size": 225}, "video_size=225: must be even"),
        ({"video_height": 100, "video_resize_mode": ("crop",)}, "crop and pad need video_size"),
        ({"video_height": 100, "video_resize_mode": ()}, "at least one of scale, crop, pad"),
        ({"cuts_are_clips": True}, "cuts_are_clips needs cut_detection"),
        ({"probe_keyframes": True}, "probe_keyframes needs probe"),
        ({"min_clip_seconds": 5, "max_clip_seconds": 4}, "max_clip_seconds must not be less"),
        ({"media": "audio", "encode_formats": {"audio": "mp3"}, "audio_rate": 96000}, "MP3.*nearest is 48000"),
        ({"media": "audio", "encode_formats": {"audio": "opus"}, "audio_rate": 44100}, "Opus.*nearest is 48000"),
        ({"media": "audio", "encode_formats": {"audio": "mp3"}, "audio_channels": 6}, "has 2 at most"),
        ({"hardware": "nvidia", "encode_formats": {"video": "webm"}}, "webm cannot hold"),
    ],
)
def test_what_there_is_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**options)


def test_a_first_frame_may_have_odd_sides() -> None:
    assert recipe(video_size=225, video_frames="first_frame").size == 225


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\n")
    with pytest.raises(ConfigError, match="cannot read"):
        recipe(subsampling=str(path))
