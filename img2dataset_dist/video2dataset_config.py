"""What a command line and a config file of video2dataset may say, and the configs that are built into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from img2dataset_dist import storage
from img2dataset_dist.config import nearest
from img2dataset_dist.errors import ConfigError

_YT_ARGS: dict[str, Any] = {
    "download_size": 360,
    "download_audio_rate": 44100,
    "yt_metadata_args": {
        "writesubtitles": "all",
        "subtitleslangs": ["en"],
        "writeautomaticsub": True,
        "get_info": True,
    },
}
_STORAGE = {"number_sample_per_shard": 1000, "oom_shard_count": 5, "captions_are_subtitles": False}
_MANY = {"thread_count": 32, "subjob_size": 1000, "distributor": "multiprocessing"}
_ONE = {"processes_count": 1, "thread_count": 8, "subjob_size": 1000, "distributor": "multiprocessing"}

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {
        "subsampling": {},
        "reading": {"yt_args": _YT_ARGS, "timeout": 60, "sampler": None},
        "storage": _STORAGE,
        "distribution": _MANY,
    },
    "downsample_ml": {
        "subsampling": {
            "ResolutionSubsampler": {"args": {"video_size": 224, "resize_mode": "scale,crop,pad"}},
            "FrameSubsampler": {"args": {"frame_rate": 5}},
            "CutDetectionSubsampler": {
                "cuts_are_clips": True,
                "args": {"cut_detection_mode": "all", "framerates": None, "threshold": 11.5, "min_scene_len": 15},
            },
            "ClippingSubsampler": {
                "args": {
                    "min_length": 4.0,
                    "max_length": 10.0,
                    "max_length_strategy": "all",
                    "precision": "keyframe_adjusted",
                }
            },
            "FFProbeSubsampler": {"args": {"extract_keyframes": False}},
        },
        "reading": {"yt_args": _YT_ARGS, "timeout": 60, "sampler": None},
        "storage": _STORAGE,
        "distribution": _MANY,
    },
    "optical_flow": {
        "subsampling": {"OpticalFlowSubsampler": {"args": {"detector": "cv2", "detector_args": None, "dtype": "fp16"}}},
        "reading": {
            "dataloader_args": {
                "resize_size": 16,
                "decoder_kwargs": {"n_frames": None, "fps": 2, "num_threads": 8, "return_bytes": True},
            },
            "timeout": 60,
            "sampler": None,
        },
        "storage": _STORAGE,
        "distribution": _MANY,
    },
    "caption": {
        "subsampling": {},  # its model is not part of this package
        "reading": {"dataloader_args": {"batch_size": 32}, "timeout": 60, "sampler": None},
        "storage": _STORAGE,
        "distribution": _ONE,
    },
}
"""Its built-in configs. Where they count 16 processes we leave them out: that is, one for each core."""

FLAGS = {
    "config": "default, downsample_ml, optical_flow, caption, or a YAML file of video2dataset. [default]",
    "encode_formats": 'What to store: \'{"video": "mp4"}\', \'{"audio": "m4a"}\' or both. [{"video": "mp4"}]',
    "stage": "download, subset, optical_flow, caption or whisper. [download]",
    "audio_rate": "Samples per second of the sound; -1: as it is. [-1]",
    "captions_are_subtitles": "Make a clip of each line of the subtitles. [False]",
    "cut_detection_mode": "longest or all. [longest]",
    "cut_framerates": "Not there: cuts are in seconds.",
    "cuts_are_clips": "Store each scene as a sample. [False]",
    "detect_cuts": "Look for cuts. [False]",
    "resize_mode": "Of scale, crop, pad those that are wanted.",
    "strict_resize": "Scale to video_size. [False]",
    "video_fps": "Frames per second; -1: as they are. [-1]",
    "video_height": "Height in pixels; -1: as it is. [-1]",
    "video_size": "Smallest height to ask a site for. [360]",
    "video_width": "Width in pixels; -1: as it is. [-1]",
    "yt_metadata_args": 'What a site says beside the video: \'{"writesubtitles": "all", "subtitleslangs": ["en"]}\'.',
}
"""Flags of the command `video2dataset` that no option of ours has, or that mean something else there."""

_KEYS: dict[str, tuple[str, ...]] = {
    "reading": ("yt_args", "dataloader_args", "timeout", "sampler"),
    "storage": ("number_sample_per_shard", "oom_shard_count", "captions_are_subtitles"),
    "distribution": ("processes_count", "thread_count", "subjob_size", "distributor", "distributor_args"),
}
_SECTIONS = ("subsampling", *_KEYS)


def sections(given: Any) -> dict[str, Any]:
    """The four sections of a config, those that are left out empty.

    Args:
        given: the name of a built-in config, a YAML file on any fsspec path, or what would be in it.

    Raises:
        ConfigError: it cannot be read, or has a section or a key that there is not.
    """
    content, name = given, "config"
    if isinstance(given, str):
        name = f"config {given}"
        content = CONFIGS[given] if given in CONFIGS else _read(given)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{name}: must hold the sections {', '.join(_SECTIONS)}")
    for section, value in content.items():
        if section not in _SECTIONS:
            raise ConfigError(f"{name}: unknown section '{section}'{nearest(str(section), _SECTIONS)}")
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{name}: {section} must hold names and values, got {value!r}")
        for key in value or ():
            if section in _KEYS and key not in _KEYS[section]:
                raise ConfigError(f"{name}: {section}: unknown key '{key}'{nearest(str(key), _KEYS[section])}")
    return {section: dict(content.get(section) or {}) for section in _SECTIONS}


def _read(path: str) -> Any:
    try:
        with storage.open_input(path) as file:
            return yaml.safe_load(file.read())
    except (OSError, ValueError, ImportError, yaml.YAMLError) as error:
        hint = nearest(path, list(CONFIGS))
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"config: {path} is none of {', '.join(CONFIGS)}, and cannot be read: {first}{hint}"
        ) from error
