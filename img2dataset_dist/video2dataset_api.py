"""`video2dataset()`: the arguments of the tool video2dataset, for its users.

Every argument and every key of its config file becomes options of `download`, or is refused with what to do instead.
Only some keys of `dataloader_args` say nothing here; docs/migrating.md names them, and what else differs. Names,
meanings and built-in configs are those of its version 1.3, and of the calls that 1.0 and 1.1 took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from img2dataset_dist.api import download
from img2dataset_dist.config import nearest, options
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.ffmpeg.recipe import MODEL_STEPS
from img2dataset_dist.model import Stats
from img2dataset_dist.video2dataset_config import FLAGS, sections

STAGES = ("download", "subset", "optical_flow", "caption", "whisper")

_LOADER = ("resize_size", "decoder_kwargs", "batch_size")
_DECODER = ("n_frames", "uniformly_sample", "fps", "num_threads", "return_bytes")
_UNSET = -1
"""What it writes for a number that is not given."""

_SIZE = 360
"""Its `video_size`, when none is given."""


def video2dataset(  # noqa: PLR0917 (positions are the peer's)
    url_list: str,
    output_folder: str = "dataset",
    output_format: str = "files",
    input_format: str = "csv",
    encode_formats: Mapping[str, str] | None = None,
    stage: str = "download",
    url_col: str = "url",
    caption_col: str | None = None,
    clip_col: str | None = None,
    save_additional_columns: Sequence[str] | None = None,
    enable_wandb: bool = False,
    wandb_project: str = "video2dataset",
    incremental_mode: str = "incremental",
    max_shard_retry: int = 1,
    tmp_dir: str = "/tmp",  # noqa: S108 (the peer's)
    config: str | Mapping[str, Any] = "default",
    *,
    audio_rate: int | None = None,
    captions_are_subtitles: bool | None = None,
    cut_detection_mode: str = "longest",
    cut_framerates: Sequence[float] | None = None,
    cuts_are_clips: bool = False,
    detect_cuts: bool = False,
    distributor: str | None = None,
    number_sample_per_shard: int | None = None,
    oom_shard_count: int | None = None,
    processes_count: int | None = None,
    resize_mode: str | Sequence[str] | None = None,
    retries: int | None = None,
    strict_resize: bool = False,
    subjob_size: int | None = None,
    thread_count: int | None = None,
    timeout: float | None = None,
    video_fps: float | None = None,
    video_height: int | None = None,
    video_size: int | None = None,
    video_width: int | None = None,
    yt_metadata_args: Mapping[str, Any] | None = None,
    **more: Any,
) -> Stats:
    """Make a dataset of videos or sounds: `download(media=...)` with the arguments of video2dataset.

    The keyword-only arguments are those of its older calls; they count before what `config` says.

    - `url_list`: the list; with `input_format="webdataset"` the tars of a dataset, a folder or `{00000..00004}.tar`.
    - `encode_formats`: `{"video": "mp4"}`, `{"audio": "m4a"}` or both; without a video the job is one of sounds.
    - `stage`: download; subset, optical_flow: of a dataset that is there; caption, whisper: with `stages`, of a model
      of yours (docs/video.md).
    - `config`: the name of a built-in config, a YAML file or a dict, with the sections subsampling, reading, storage
      and distribution, each of which may be left out.
    - `video_size`: the smallest height to ask a site for; with `strict_resize` or `resize_mode` pixels to scale to,
      too.
    - `video_height`, `video_width`: pixels to scale to. `resize_mode`: of scale, crop, pad those that are wanted.
    - `detect_cuts`: look for cuts, as `cut_detection_mode` says.
    - `more`: any other option of `download`, by its name there.

    What is not explained here is in `img2dataset_dist.option_groups`.

    Raises:
        ConfigError: an argument is wrong, unknown, or not there; and whatever `download` raises.
    """
    arguments = dict(locals())
    del arguments["more"]
    return download(**translated({**arguments, **more}))


def translated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `download` that say what these arguments of `video2dataset` say.

    Raises:
        ConfigError: there is no such argument, or nothing of the kind.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given:
        if name not in _OWN and name not in options():
            raise ConfigError(f"video2dataset: unknown argument '{name}'{nearest(name, [*_OWN, *options()])}")
    config = sections(given.pop("config", "default"))
    stage = given.pop("stage", "download")
    _check_stage(stage, given)
    flat = {
        "output_folder": "dataset",
        "input_format": "csv",
        "wandb_project": "video2dataset",
        **_reading(config["reading"]),
        **config["storage"],
        **_distribution(config["distribution"]),
        **_medium(given.pop("encode_formats", None), stage),
    }
    steps = dict(config["subsampling"])
    flat |= _model(stage, steps, config["reading"])
    steps |= _older_steps(given, flat)
    if _only_earlier_cuts(steps):
        flat["clip_col"] = "cuts"
        del steps["CutDetectionSubsampler"]
    if steps:
        flat["subsampling"] = {name: _step(name, section) for name, section in steps.items()}
    flat |= {name: value for name, value in given.items() if name not in _STEPS_OF_OLD}
    if flat.pop("captions_are_subtitles", False):
        flat |= _subtitles(flat)
    if flat.get("distributor") == "slurm":
        raise ConfigError(
            "distributor='slurm' is not there yet: start Spark or Ray on the nodes and set distributor to pyspark or "
            "ray (docs/cluster.md), or give each node a list and an output folder of its own"
        )
    return flat


_STEPS_OF_OLD = frozenset({
    "cut_detection_mode", "cut_framerates", "cuts_are_clips", "detect_cuts", "resize_mode", "strict_resize",
    "video_size",
})  # fmt: skip
"""Arguments of the older calls that are no option here, or one that means something else."""

_OWN = frozenset({"config", "stage", *_STEPS_OF_OLD})
"""Arguments that `download` does not know, or not as they are meant here."""


def _reading(section: Mapping[str, Any]) -> dict[str, Any]:
    """`yt_args` and `timeout`."""
    if section.get("sampler") is not None:
        raise ConfigError(
            "config: reading: sampler chooses shards for a machine; here machines share them: set distributor to "
            "pyspark or ray"
        )
    flat: dict[str, Any] = {} if section.get("timeout") is None else {"timeout": section["timeout"]}
    yt_args = dict(section.get("yt_args") or {})
    for name in ("download_size", "download_audio_rate", "yt_metadata_args"):
        if (value := yt_args.pop(name, None)) is not None:
            flat[name] = value
    if flat.get("download_audio_rate") in (0, _UNSET):
        flat["download_audio_rate"] = 1  # any
    return {**flat, **({"yt_args": yt_args} if yt_args else {})}


def _distribution(section: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in section.items() if name != "distributor_args" and value is not None}
    if section.get("distributor_args") and section.get("distributor") != "slurm":
        raise ConfigError("config: distribution: distributor_args are for slurm; drop them")
    return rest


def _medium(formats: Any, stage: str) -> dict[str, Any]:
    """`media` and `encode_formats`."""
    if formats is None:
        return {"media": "video", "encode_formats": {"video": "mp4"}}
    if not isinstance(formats, Mapping) or not formats:
        raise ConfigError('encode_formats: must be like {"video": "mp4", "audio": "m4a"}')
    for medium in formats:
        if medium not in ("video", "audio") and not (medium == stage == "optical_flow"):
            raise ConfigError(f"encode_formats: unknown medium '{medium}'{nearest(str(medium), ['video', 'audio'])}")
    if formats.get("optical_flow", "npy") != "npy":
        raise ConfigError(f"encode_formats: optical_flow is stored as npy, not {formats['optical_flow']!r}")
    kept = {medium: format_ for medium, format_ in formats.items() if medium != "optical_flow"} or {"video": "mp4"}
    return {"media": "video" if "video" in kept else "audio", "encode_formats": kept}


def _check_stage(stage: Any, given: Mapping[str, Any]) -> None:
    if stage not in STAGES:
        raise ConfigError(f"stage={stage!r} is not one of {', '.join(STAGES)}{nearest(str(stage), STAGES)}")
    again = given.get("input_format") == "webdataset"
    if stage == "download" and again:
        raise ConfigError("stage='download' fetches a list, but input_format='webdataset' is there; set stage='subset'")
    if stage in ("subset", "optical_flow") and not again:
        raise ConfigError(
            f"stage={stage!r} works on a dataset that is there: set input_format='webdataset', and url_list to its "
            "folder"
        )
    if stage in ("caption", "whisper") and not given.get("stages"):
        raise ConfigError(
            f"stage={stage!r}: the models of video2dataset are not part of this package; name a stage of your own, "
            "stages=['package.module:Class'] (docs/video.md shows one)"
        )


def _model(stage: str, steps: dict[str, Any], reading: Mapping[str, Any]) -> dict[str, Any]:
    """What a model stage is told; its section is taken out of `steps`."""
    flat: dict[str, Any] = {}
    loader = dict(reading.get("dataloader_args") or {})
    decoder = dict(loader.get("decoder_kwargs") or {})
    for place, found, known in (("dataloader_args", loader, _LOADER), ("decoder_kwargs", decoder, _DECODER)):
        for key in found:
            if key not in known:
                raise ConfigError(f"config: reading: {place}: unknown key '{key}'{nearest(str(key), known)}")
    for name, wanted in MODEL_STEPS.items():
        if name not in steps:
            continue
        section = steps.pop(name) or {}
        if not isinstance(section, Mapping):
            raise ConfigError(f"subsampling: {name} must be a dict with 'args', got {section!r}")
        if stage != wanted:
            raise ConfigError(f"subsampling: {name} works on a dataset that is there: set stage={wanted!r}")
        if name != "OpticalFlowSubsampler" and section.get("args"):
            raise ConfigError(f"subsampling: {name}: args: tell your stage what to do by stage_args")
        if name == "OpticalFlowSubsampler":
            flat = {"stage_args": {"optical_flow": _flow(section.get("args") or {}, loader, decoder)}}
    if stage == "optical_flow":
        flat["stages"] = ("optical_flow",)
    if stage in ("caption", "whisper") and "batch_size" in loader:
        flat["stage_batch"] = loader["batch_size"]
    return flat


def _flow(args: Mapping[str, Any], loader: Mapping[str, Any], decoder: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of our stage `optical_flow`."""
    from img2dataset_dist.stages.optical_flow import FARNEBACK  # noqa: PLC0415 (it imports OpenCV)

    known = ("detector", "detector_args", "dtype")
    for key in args:
        if key not in known:
            raise ConfigError(f"subsampling: OpticalFlowSubsampler has no argument '{key}'{nearest(str(key), known)}")
    if args.get("detector", "cv2") != "cv2":
        raise ConfigError(
            f"subsampling: OpticalFlowSubsampler: detector={args['detector']!r}: only cv2 is part of this package; "
            "another one can be a stage of your own, stages=['package.module:Class'] (docs/video.md)"
        )
    if decoder.get("n_frames") is not None:
        raise ConfigError("config: reading: decoder_kwargs: n_frames: the flow is between neighbouring frames; set fps")
    size = loader.get("resize_size")
    if size is not None and not isinstance(size, int):
        raise ConfigError("config: reading: dataloader_args: resize_size: give one number, the shorter side in pixels")
    more = args.get("detector_args") or {}
    if not isinstance(more, Mapping):
        more = dict(zip(FARNEBACK, more, strict=False))  # it takes them by position
    found = {"fps": decoder.get("fps"), "downsample_size": size, "dtype": args.get("dtype", "fp16"), "args": dict(more)}
    return {name: value for name, value in found.items() if value not in (None, {})}


def _older_steps(given: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
    """Steps that the arguments of the older calls stand for; takes numbers that mean "as it is" out of `given`."""
    for name in ("audio_rate", "video_fps", "video_height", "video_width"):
        if given.get(name) == _UNSET:
            del given[name]
    steps: dict[str, Any] = {}
    size, modes = given.get("video_size"), given.get("resize_mode")
    if size is not None:
        flat["download_size"] = size
    if modes is not None or given.get("strict_resize"):
        sides = {"height": given.pop("video_height", None), "width": given.pop("video_width", None)}
        if size is None and not any(sides.values()):
            size = _SIZE
        args = {"video_size": size} if size is not None else sides
        steps["ResolutionSubsampler"] = {"args": {"resize_mode": modes or ["scale"], **args}}
    if "cut_detection" in given:  # an option of ours, and so is cuts_are_clips then
        flat["cuts_are_clips"] = given.pop("cuts_are_clips", False)
    elif given.get("detect_cuts") or given.get("cuts_are_clips"):
        steps["CutDetectionSubsampler"] = {
            "cuts_are_clips": bool(given.get("cuts_are_clips")),
            "args": {
                "cut_detection_mode": given.get("cut_detection_mode", "longest"),
                "framerates": given.get("cut_framerates"),
            },
        }
    return steps


def _only_earlier_cuts(steps: Mapping[str, Any]) -> bool:
    """Whether the cuts that an earlier job found are to become clips: its way to say so is to leave out `args`."""
    section = steps.get("CutDetectionSubsampler")
    return isinstance(section, Mapping) and "args" not in section and bool(section.get("cuts_are_clips"))


def _step(name: str, section: Any) -> Any:
    """A section as ours takes it: to scale to `video_size`, and no more, means the height, as it does there."""
    args = dict(section.get("args") or {}) if isinstance(section, Mapping) else {}
    if name == "FrameSubsampler" and args.get("downsample_method") == "yt_subtitle":
        raise ConfigError(
            "subsampling: FrameSubsampler: downsample_method='yt_subtitle' is not there: set captions_are_subtitles "
            "and downsample_method='first_frame' for the first frame of each line"
        )
    if name != "ResolutionSubsampler":
        return section
    modes = args.get("resize_mode", ())
    names = {mode.strip() for mode in (modes.split(",") if isinstance(modes, str) else modes)}
    if names == {"scale"} and args.get("video_size", _UNSET) != _UNSET:
        if any(args.get(side, _UNSET) not in (_UNSET, None) for side in ("height", "width")):
            raise ConfigError("subsampling: ResolutionSubsampler: give video_size, or height and width, but not both")
        args = {**args, "height": args["video_size"], "video_size": _UNSET}
    return {**section, "args": args}


def _subtitles(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`captions_are_subtitles`: each line of a site's subtitles becomes a clip, and its caption."""
    if flat.get("clip_col") is not None:
        raise ConfigError("captions_are_subtitles makes a clip of each line; drop clip_col")
    wanted = dict(flat.get("yt_metadata_args") or {})
    wanted["writesubtitles"] = wanted.get("writesubtitles") or "all"
    return {"subtitles_are_clips": True, "yt_metadata_args": wanted}


def from_text(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from a command line: the text of those that `FLAGS` has, as the dicts, lists and numbers it stands for.

    Raises:
        ConfigError: one cannot be read.
    """
    return {name: _value(name, text) if name in FLAGS else text for name, text in flags.items()}


def _value(name: str, text: Any) -> Any:
    if not isinstance(text, str) or text == "None":
        return None if text == "None" else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: cannot read {text!r}: {str(error).splitlines()[0]}") from error
