"""`download()`: the whole job as one call, with the arguments that users of img2dataset know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from img2dataset_dist.config import JobConfig, LeftFloat, LeftInt
from img2dataset_dist.job import run_job
from img2dataset_dist.model import Stats


def download(  # noqa: PLR0917 (positions are the peer's)
    url_list: str,
    image_size: int = 256,
    output_folder: str = "images",
    processes_count: int | None = None,
    resize_mode: str = "border",
    resize_only_if_bigger: bool = False,
    upscale_interpolation: str = "lanczos",
    downscale_interpolation: str = "area",
    encode_quality: int = 95,
    encode_format: str = "jpg",
    skip_reencode: bool = False,
    output_format: str = "files",
    input_format: str = "txt",
    url_col: str = "url",
    caption_col: str | None = None,
    bbox_col: str | None = None,
    thread_count: int = LeftInt(256),
    number_sample_per_shard: int = LeftInt(10000),
    extract_exif: bool = True,
    save_additional_columns: Sequence[str] | None = None,
    timeout: float = LeftFloat(10),
    enable_wandb: bool = False,
    wandb_project: str = "img2dataset",
    oom_shard_count: int = 5,
    compute_hash: str | None = "sha256",
    verify_hash: Sequence[str] | None = None,
    distributor: str = "multiprocessing",
    subjob_size: int = 1000,
    retries: int = 0,
    disable_all_reencoding: bool = False,
    min_image_size: int = 0,
    max_image_area: float = float("inf"),
    max_aspect_ratio: float = float("inf"),
    incremental_mode: str = "incremental",
    max_shard_retry: int = 1,
    user_agent_token: str | None = None,
    disallowed_header_directives: Sequence[str] | None = None,
    ignore_ssl_certificate: bool = False,
    *,
    allow_private_addresses: bool = False,
    allow_truncated: bool = False,
    allowed_schemes: Sequence[str] = ("http", "https"),
    audio_channels: int | None = None,
    audio_rate: int | None = None,
    captions_are_subtitles: bool = False,
    clip_col: str | None = None,
    clip_precision: str = "low",
    clip_ranges: bool = True,
    clips: str = "all",
    compute_phash: bool = False,
    connect_timeout: float | None = None,
    cut_detection: str | None = None,
    cut_threshold: float = 27,
    cuts_are_clips: bool = False,
    decode: str = "fast",
    dns_servers: Sequence[str] | None = None,
    download_audio_rate: int = 44_100,
    download_size: int = 360,
    encode_formats: Mapping[str, str] | None = None,
    ffmpeg: str | None = None,
    ffmpeg_threads: int | None = None,
    ffmpeg_timeout: float = 600,
    first_byte_timeout: float | None = None,
    hardware: str = "none",
    host_profiles: str | None = None,
    host_table: str | None = None,
    ignore_hosts: str | None = None,
    infer_types: bool = True,
    jpg_optimize: bool = False,
    jpg_progressive: bool = False,
    lanes: int = 64,
    max_body_bytes: int = LeftInt(64 * 2**20),
    max_buffered_bytes: int = 256 * 2**20,
    max_clip_seconds: float = float("inf"),
    max_connections_per_host: int = 64,
    max_decode_frames: int = 10_000,
    max_decode_pixels: int = 200_000_000,
    max_decode_side: int = 100_000,
    max_redirects: int = 10,
    max_requests_per_second_per_host: float | None = None,
    max_spool_bytes: int = 8 * 2**30,
    max_transform_memory: int = 4 * 2**30,
    media: str = "image",
    min_bytes_per_second: int = 64,
    min_clip_seconds: float = 0,
    min_scene_frames: int = 15,
    min_speed_window: float = 10,
    network_patience: float = 1800,
    probe: bool = False,
    probe_keyframes: bool = False,
    progress: str = "auto",
    retry_backoff: float = 1.0,
    retry_max_wait: float = 60,
    robots_txt: str = "ignore",
    schedule: str = "list",
    site_pause: float = 60,
    site_processes: int = 4,
    stage_args: Mapping[str, Mapping[str, Any]] | None = None,
    stage_batch: int = 32,
    stages: Sequence[str] = (),
    subsampling: str | Mapping[str, Any] | None = None,
    subtitles_are_clips: bool = False,
    tmp_dir: str | None = None,
    transform_processes: int | None = None,
    transform_timeout: float = LeftFloat(60),
    video_crf: int | None = None,
    video_fps: float | None = None,
    video_frames: str = "fps",
    video_height: int | None = None,
    video_preset: str = "veryfast",
    video_resize_mode: Sequence[str] = ("scale",),
    video_size: int | None = None,
    video_width: int | None = None,
    yt_args: Mapping[str, Any] | None = None,
    yt_metadata_args: Mapping[str, Any] | None = None,
) -> Stats:
    """Fetch the images of a URL list and write them as a dataset.

    The arguments, their meanings and defaults are those of img2dataset, the keyword-only ones are ours;
    docs/reference.md explains each, and is made from `img2dataset_dist.option_groups`. Call it again with the same
    arguments to complete what was interrupted.

    Returns:
        Totals over the shards that this call completed.

    Raises:
        ConfigError: an option or an input is wrong; nothing was written. It is a ValueError.
        ShardsFailed: some shards stayed failed after their retries; all others are complete.
        InputError: the list could not be read to its end; the shards before that point are complete.
        NetworkDownError: our own network was down for `network_patience`; what is complete stays so.
    """
    return run_job(JobConfig.from_flat(locals()))
