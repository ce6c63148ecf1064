"""What is to be made of each video or sound: `MediaConfig`, with video2dataset's `subsampling` merged in.

Each of its sections is a step, and each of a step's arguments says the same as one of our flat options; where both are
given, the section counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from img2dataset_dist import storage
from img2dataset_dist.config import MediaConfig, nearest
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.ffmpeg.formats import AUDIO, VIDEO

_ENCODE = "encode_format"
_SECTIONS: dict[str, dict[str, str]] = {
    "ResolutionSubsampler": {
        "resize_mode": "video_resize_mode",
        "height": "video_height",
        "width": "video_width",
        "video_size": "video_size",
        _ENCODE: "video",
    },
    "FrameSubsampler": {"frame_rate": "video_fps", "downsample_method": "video_frames", _ENCODE: "video"},
    "AudioRateSubsampler": {"sample_rate": "audio_rate", "n_audio_channels": "audio_channels", _ENCODE: "audio"},
    "FFProbeSubsampler": {"extract_keyframes": "probe_keyframes"},
    "CutDetectionSubsampler": {
        "cut_detection_mode": "cut_detection",
        "threshold": "cut_threshold",
        "min_scene_len": "min_scene_frames",
        "framerates": "",
        "cuts_are_clips": "cuts_are_clips",
    },
    "ClippingSubsampler": {
        "min_length": "min_clip_seconds",
        "max_length": "max_clip_seconds",
        "max_length_strategy": "clips",
        "precision": "clip_precision",
    },
}
"""Sections of `subsampling`, their arguments, and the flat options that say the same."""

MODEL_STEPS = {
    "OpticalFlowSubsampler": "optical_flow", "CaptionSubsampler": "caption", "WhisperSubsampler": "whisper",
}  # fmt: skip
"""Sections that are no business of ffmpeg's, and the stage that they belong to."""

_UNSET = -1
"""What video2dataset writes for a side that is not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to make of a video or sound.

    Attributes:
        video, audio: format of the file with the pictures, and of the one with the sound alone; None for no such file.
        modes: of `scale`, `crop` and `pad`, those that are wanted.
        size: wanted shorter side in pixels, or both sides; `width` and `height`: each by itself.
        fps: pictures per second, None as they are.
        frames: "fps", "first_frame" or "keyframe".
        crf, preset: quality and effort of the encoder.
        rate, channels: of the sound, None as they are.
        probe, probe_keyframes: what to say of the source.
        cuts: "all" or "longest" scenes, None not to look for any; `threshold` and `min_scene` (pictures) say how.
        cuts_are_clips: each scene becomes a sample.
        pieces: which pieces of a clip that is longer than `max_seconds`: "all" or "first".
        precision: of clips: "low", "keyframe_adjusted" or "exact".
        min_seconds, max_seconds: of a clip.
        nvidia: whether to use NVDEC and NVENC.
    """

    video: str | None
    audio: str | None
    modes: frozenset[str]
    size: int | None
    width: int | None
    height: int | None
    fps: float | None
    frames: Literal["fps", "first_frame", "keyframe"]
    crf: int | None
    preset: str
    rate: int | None
    channels: int | None
    probe: bool
    probe_keyframes: bool
    cuts: Literal["all", "longest"] | None
    threshold: float
    min_scene: int
    cuts_are_clips: bool
    pieces: Literal["all", "first"]
    precision: Literal["low", "keyframe_adjusted", "exact"]
    min_seconds: float
    max_seconds: float
    nvidia: bool

    @classmethod
    def of(cls, media: MediaConfig) -> Recipe:
        """The recipe that the options describe.

        Raises:
            ConfigError: a step, an argument or a combination that there is not.
        """
        media, asked = _merged(media)
        video, audio = _formats(media, asked)
        recipe = cls(
            video=video,
            audio=audio,
            modes=frozenset(media.video_resize_mode),
            size=media.video_size,
            width=media.video_width,
            height=media.video_height,
            fps=media.video_fps if media.video_frames == "fps" else None,
            frames=media.video_frames,
            crf=media.video_crf,
            preset=media.video_preset,
            rate=media.audio_rate,
            channels=media.audio_channels,
            probe=media.probe,
            probe_keyframes=media.probe_keyframes,
            cuts=media.cut_detection,
            threshold=media.cut_threshold,
            min_scene=media.min_scene_frames,
            cuts_are_clips=media.cuts_are_clips,
            pieces=media.clips,
            precision=media.clip_precision,
            min_seconds=media.min_clip_seconds,
            max_seconds=media.max_clip_seconds,
            nvidia=media.hardware == "nvidia",
        )
        _check(recipe)
        return recipe

    @property
    def resizes(self) -> bool:
        """Whether a size was asked for."""
        return any(side is not None for side in (self.size, self.width, self.height))

    @property
    def changes_pictures(self) -> bool:
        """Whether pictures have to be encoded again, whatever the source is."""
        return self.fps is not None or self.frames != "fps"


def _merged(media: MediaConfig) -> tuple[MediaConfig, dict[str, str]]:
    """The options with those of `subsampling` in their place; and the formats that its sections name."""
    changes: dict[str, Any] = {}
    formats: dict[str, str] = {}
    origin: dict[str, str] = {}
    for section, arguments in _sections(media.subsampling).items():
        if section == "FFProbeSubsampler":
            changes["probe"] = True
        elif section == "CutDetectionSubsampler":
            changes["cut_detection"] = "all"
        for name, value in arguments.items():
            option = _option(section, name, value)
            if value is None or option == "" or (option.startswith("video_") and value == _UNSET):
                continue
            if name == _ENCODE:
                formats[option] = str(value)
                continue
            changes[option] = _modes(value) if name == "resize_mode" else value
            origin[option] = f"{section}: {name}"
    try:
        merged = MediaConfig.model_validate({**media.model_dump(), **changes})
    except ValidationError as error:
        problem = error.errors()[0]
        option = str(problem["loc"][0])
        raise ConfigError(f"subsampling: {origin.get(option, option)}={problem['input']!r}: {problem['msg']}") from None
    return merged, formats


def _sections(given: str | Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Each section and its arguments."""
    steps: Any = _read(given) if isinstance(given, str) else given or {}
    if isinstance(steps, Mapping) and set(steps) == {"subsampling"}:
        steps = steps["subsampling"] or {}
    if not isinstance(steps, Mapping):
        raise ConfigError(
            "subsampling: must be a dict of steps, such as {'FrameSubsampler': {'args': {'frame_rate': 5}}}"
        )
    found: dict[str, dict[str, Any]] = {}
    for name, section in steps.items():
        if name in MODEL_STEPS:
            raise ConfigError(f"subsampling: {name} works on a dataset that is there: set stage={MODEL_STEPS[name]!r}")
        if name not in _SECTIONS:
            raise ConfigError(f"subsampling: unknown step '{name}'{nearest(str(name), list(_SECTIONS))}")
        section = section or {}  # noqa: PLW2901
        if not isinstance(section, Mapping) or not isinstance(section.get("args") or {}, Mapping):
            raise ConfigError(f"subsampling: {name} must be a dict with 'args', got {section!r}")
        beside = {key: value for key, value in section.items() if key != "args"}
        for key in beside:
            if (name, key) != ("CutDetectionSubsampler", "cuts_are_clips"):
                raise ConfigError(f"subsampling: {name}: unknown key '{key}'{nearest(str(key), _keys(name))}")
        found[name] = {**(section.get("args") or {}), **beside}
    return found


def _keys(section: str) -> list[str]:
    return ["args", *(["cuts_are_clips"] if section == "CutDetectionSubsampler" else [])]


def _read(path: str) -> Any:
    try:
        return yaml.safe_load(_bytes(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"subsampling: cannot read {path}: {str(error).splitlines()[0]}") from error


def _bytes(path: str) -> bytes:
    with storage.open_input(path) as file:
        return file.read()


def _option(section: str, name: str, value: Any) -> str:
    """The flat option that says the same; "" for one that says nothing."""
    known = _SECTIONS[section]
    if name not in known:
        raise ConfigError(f"subsampling: {section} has no argument '{name}'{nearest(str(name), list(known))}")
    if name == "framerates" and value is not None:
        raise ConfigError(
            f"subsampling: {section}: framerates: cuts are in seconds here, which hold at any rate; leave it"
        )
    return known[name]


def _modes(value: Any) -> Any:
    """`"scale,crop"` as well as `["scale", "crop"]`."""
    return [mode.strip() for mode in value.split(",")] if isinstance(value, str) else value


def _formats(media: MediaConfig, asked: dict[str, str]) -> tuple[str | None, str | None]:
    """Formats of the video and of the sound."""
    given: dict[str, str] = {str(medium): format_ for medium, format_ in (media.encode_formats or {}).items()}
    if not given:
        given = {"audio": asked.get("audio", "m4a")} if media.media == "audio" else {"video": asked.get("video", "mp4")}
    for medium, format_ in asked.items():
        if medium in given:
            given[medium] = format_
    for medium, known in (("video", VIDEO), ("audio", AUDIO)):
        if medium in given and given[medium] not in known:
            close = nearest(given[medium], list(known))
            raise ConfigError(f"encode_formats: {medium} is one of {', '.join(known)}, not {given[medium]!r}{close}")
    return given.get("video"), given.get("audio")


def _check(recipe: Recipe) -> None:
    """Combinations that there are not.

    Raises:
        ConfigError: this is one.
    """
    if recipe.size is not None and (recipe.width is not None or recipe.height is not None):
        raise ConfigError("video_size: give it, or video_height and video_width, but not both")
    if recipe.resizes and not recipe.modes:
        raise ConfigError("video_resize_mode: give at least one of scale, crop, pad, since a size is asked for")
    for name, side in (("video_size", recipe.size), ("video_width", recipe.width), ("video_height", recipe.height)):
        if side is not None and side % 2 and recipe.frames != "first_frame":
            raise ConfigError(f"{name}={side}: must be even, as two by two pixels of a video share their colour")
    both = recipe.size is not None or (recipe.width is not None and recipe.height is not None)
    if recipe.resizes and not both and recipe.modes & {"crop", "pad"}:
        raise ConfigError("video_resize_mode: crop and pad need video_size, or both video_height and video_width")
    if recipe.cuts_are_clips and recipe.cuts is None:
        raise ConfigError("cuts_are_clips needs cut_detection; set it to all or longest")
    if recipe.probe_keyframes and not recipe.probe:
        raise ConfigError("probe_keyframes needs probe=True")
    if recipe.max_seconds < recipe.min_seconds:
        raise ConfigError("max_clip_seconds must not be less than min_clip_seconds")
    _check_sound(recipe)
    if recipe.nvidia and recipe.video == "webm":
        raise ConfigError("hardware='nvidia' encodes H.264, which webm cannot hold; set encode_formats to mp4 or mkv")


def _check_sound(recipe: Recipe) -> None:
    for format_, codec in (
        (recipe.video, VIDEO[recipe.video].audio if recipe.video else None),
        (recipe.audio, AUDIO[recipe.audio].codec if recipe.audio else None),
    ):
        if codec is None or (recipe.frames == "first_frame" and format_ == recipe.video and recipe.audio is None):
            continue
        if recipe.rate is not None and codec.rates is not None and recipe.rate not in codec.rates:
            near = min(codec.rates, key=lambda rate: abs(rate - (recipe.rate or 0)))
            raise ConfigError(
                f"audio_rate={recipe.rate}: {codec.name} ({format_}) does not have it; the nearest is {near}"
            )
        if recipe.channels is not None and recipe.channels > codec.channels:
            raise ConfigError(
                f"audio_channels={recipe.channels}: {codec.name} ({format_}) has {codec.channels} at most"
            )
