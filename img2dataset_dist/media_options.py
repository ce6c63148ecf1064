"""The options for other media than images; see `option_groups.py`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from img2dataset_dist.option_groups import Count, Group, Seconds, Wait

Media = Literal["image", "video", "audio", "any"]
Side = Annotated[int, Field(ge=2, le=65536)]
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"
]


class MediaConfig(Group):
    """Which media, where they come from and what becomes of them. Consumed by `fetchers/` and `transforms/`."""

    media: Media = Field(
        "image",
        description="image; video, audio: from media files, playlists and pages (docs/video.md); any: every file as "
        "it came, with its kind.",
    )
    encode_formats: dict[Literal["video", "audio"], str] | None = Field(
        None,
        description='What to store: `{"video": "mp4"}` (or webm, mkv), `{"audio": "m4a"}` (or mp3, wav, flac, ogg, '
        "opus), or both. None: `mp4` of a video, `m4a` of a sound.",
    )
    subsampling: str | dict[str, Any] | None = Field(
        None,
        description="What to do to videos and sounds, as video2dataset writes it: a YAML file or a dict of "
        "`ResolutionSubsampler`, `FrameSubsampler` and so on (docs/video.md). The flat options below say the same.",
    )
    video_resize_mode: tuple[Literal["scale", "crop", "pad"], ...] = Field(
        ("scale",), description="How to come to the wanted size: scale, then cut off what is too much, then add black."
    )
    video_size: Side | None = Field(
        None, description="Shorter side in pixels; with crop or pad both sides. None: as it is."
    )
    video_height: Side | None = Field(None, description="Height in pixels. None: by `video_size` or the width.")
    video_width: Side | None = Field(None, description="Width in pixels. None: by `video_size` or the height.")
    video_fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Frames per second. None: as it is."
    )
    video_frames: Literal["fps", "first_frame", "keyframe"] = Field(
        "fps",
        description="fps: a video. first_frame: one picture as jpg instead. keyframe: a video of its keyframes only.",
    )
    video_crf: Annotated[int, Field(ge=0, le=63)] | None = Field(
        None, description="Quality of what is encoded, smaller is better. None: ffmpeg's own, 23 for H.264."
    )
    video_preset: Preset = Field("veryfast", description="Effort of the H.264 encoder.")
    audio_rate: Annotated[int, Field(ge=1000, le=384_000)] | None = Field(
        None, description="Samples per second of the sound. None: as it is."
    )
    audio_channels: Annotated[int, Field(ge=1, le=8)] | None = Field(None, description="Channels. None: as they are.")
    probe: bool = Field(False, description="Store what ffprobe would say of the media as JSON in `video_metadata`.")
    probe_keyframes: bool = Field(False, description="Times of the keyframes in `video_metadata`, too; needs `probe`.")
    cut_detection: Literal["all", "longest"] | None = Field(
        None, description="Find the cuts of a video: all scenes, or the longest one. In column `cuts`."
    )
    cut_threshold: Annotated[float, Field(gt=0, le=255)] = Field(
        27, description="How much a picture must differ from the one before to be a cut, of 255."
    )
    min_scene_frames: Count = Field(15, description="Frames that a scene has at least.")
    cuts_are_clips: bool = Field(False, description="Store each scene as a sample of its own; needs `cut_detection`.")
    clips: Literal["all", "first"] = Field(
        "all", description="Of a clip longer than `max_clip_seconds`: all of its pieces, or the first."
    )
    clip_precision: Literal["low", "keyframe_adjusted", "exact"] = Field(
        "low",
        description="low: copied, from the keyframe before the start. keyframe_adjusted: copied, from the first "
        "keyframe in the clip. exact: encoded again, to the frame.",
    )
    min_clip_seconds: Wait = Field(0, description="Shorter clips are left out.")
    max_clip_seconds: Annotated[float, Field(gt=0)] = Field(
        float("inf"), description="Longer clips are cut into several of this length."
    )
    clip_ranges: bool = Field(
        True, description="Fetch only the parts of a long mp4 that the row's clips need, where the server can do that."
    )
    captions_are_subtitles: bool = Field(
        False, description="`caption_col` holds subtitles (VTT or SRT): cut to each clip as `clip_subtitles`."
    )
    subtitles_are_clips: bool = Field(
        False, description="Store each line of the subtitles as a sample of its own, with that line as its caption."
    )
    download_size: Annotated[int, Field(ge=1, le=65536)] = Field(
        360, description="Of the heights that a site offers, the smallest that is no less."
    )
    download_audio_rate: Annotated[int, Field(ge=1, le=384_000)] = Field(
        44_100, description="Of the sounds that a site offers, the smallest rate that is no less."
    )
    yt_args: dict[str, Any] | None = Field(
        None, description="More options for yt-dlp, by their names in its Python API (docs/video.md says which not)."
    )
    yt_metadata_args: dict[str, Any] | None = Field(
        None,
        description='What a site says beside the video, in `yt_meta_dict`: `{"writesubtitles": true, "subtitleslangs": '
        '["en"], "writeautomaticsub": true, "get_info": true}`.',
    )
    site_processes: Annotated[int, Field(ge=1, le=256)] = Field(
        4, description="Pages and sites that are asked at once, per worker process; each by a process of its own."
    )
    site_pause: Wait = Field(
        60, description="Seconds for which a site is left alone that has blocked us; doubles each time, up to an hour."
    )
    stages: tuple[str, ...] = Field(
        (),
        description="What else to compute for each sample, in this order: optical_flow, or a stage of your own as "
        "`package.module:Class` (docs/video.md).",
    )
    stage_args: dict[str, dict[str, Any]] | None = Field(
        None, description='Arguments of the stages by their names: `{"optical_flow": {"fps": 5}}`.'
    )
    stage_batch: Count = Field(
        32, description="Rows that the stages get together at most; a stage may take them in smaller batches."
    )
    tmp_dir: str | None = Field(None, description="Local folder for media under way. None: the system's.")
    max_spool_bytes: Count = Field(
        8 * 2**30, description="Bytes of media under way on that disk, per worker process. Beyond it transfers pause."
    )
    ffmpeg: str | None = Field(None, description="The ffmpeg to use. None: the one that was installed with this.")
    ffmpeg_timeout: Seconds = Field(600, description="Seconds for one call of ffmpeg; beyond it the row fails.")
    ffmpeg_threads: Count | None = Field(
        None, description="Threads of one ffmpeg. None: the cores divided by all that may run at once, at least 1."
    )
    hardware: Literal["none", "nvidia"] = Field(
        "none", description="nvidia: decode and encode by NVDEC and NVENC where ffmpeg and the machine have them."
    )


OF_PICTURES = (
    "video_resize_mode", "video_size", "video_height", "video_width", "video_fps", "video_frames", "video_crf",
    "video_preset",
)  # fmt: skip
"""Options that say nothing where only sounds are stored."""

OF_FILMS = (
    *OF_PICTURES, "encode_formats", "audio_rate", "audio_channels", "probe", "probe_keyframes", "cut_detection",
    "cut_threshold", "min_scene_frames", "cuts_are_clips", "clips", "clip_precision", "min_clip_seconds",
    "max_clip_seconds", "captions_are_subtitles", "subtitles_are_clips", "download_size", "download_audio_rate",
    "yt_args", "yt_metadata_args",
)  # fmt: skip
"""Options that say nothing where neither videos nor sounds are made."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "video": {
        "timeout": 600.0,
        "max_body_bytes": 4 * 2**30,
        "thread_count": 16,
        "transform_timeout": 1800.0,
        "number_sample_per_shard": 1000,
    },
    "any": {"timeout": 600.0, "max_body_bytes": 4 * 2**30, "thread_count": 64},
}
DEFAULTS["audio"] = DEFAULTS["video"]
"""Defaults of other options that differ by `media`."""
