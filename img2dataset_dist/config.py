"""A job's options together, and their flat form.

Every option has one flat name, which is at once the argument of `download()`, the command-line flag and the key in a
config file. `option_groups.py` has their definitions.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.media_options import DEFAULTS, OF_FILMS, OF_PICTURES, MediaConfig
from img2dataset_dist.option_groups import (
    EXTRA_COLUMNS,
    HASHES,
    NO_DIRECTIVES,
    EngineConfig,
    FetchConfig,
    Group,
    ImageConfig,
    InputConfig,
    OutputConfig,
    ReportConfig,
)

__all__ = [
    "EXTRA_COLUMNS", "HASHES", "NO_DIRECTIVES", "EngineConfig", "FetchConfig", "ImageConfig", "InputConfig",
    "JobConfig", "MediaConfig", "Option", "OutputConfig", "ReportConfig", "nearest", "options",
]  # fmt: skip


class JobConfig(Group):
    """Everything a job needs to know; picklable, sent to the workers."""

    input: InputConfig
    fetch: FetchConfig
    image: ImageConfig
    media: MediaConfig
    output: OutputConfig
    engine: EngineConfig
    report: ReportConfig

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> JobConfig:
        """Check flat options and sort them into their groups.

        Raises:
            ConfigError: the first thing that is wrong, naming the option and, where it helps, the nearest valid name.
        """
        for name in values:
            if name not in options():
                raise ConfigError(f"unknown option '{name}'{nearest(name, options())}")
        if values.get("url_list") is None:
            raise ConfigError("url_list is missing: name a file, a folder or a glob, for example --url_list=urls.txt")
        values = _with_defaults(values)
        groups: dict[str, BaseModel] = {}
        for group, model in _groups():
            given = {name: values[name] for name in model.model_fields if name in values}
            try:
                groups[group] = model.model_validate(given)
            except ValidationError as error:
                raise ConfigError(_one_line(error, given)) from None
        config = cls.model_validate(groups)
        _check_across(config)
        return config

    def flat(self) -> dict[str, Any]:
        """All options by their flat names; `from_flat(config.flat())` is the same config."""
        return {name: value for group, _ in _groups() for name, value in getattr(self, group).model_dump().items()}

    def processes(self) -> int:
        """How many worker processes to start: what was asked for, else the cores that this process may use."""
        if self.engine.processes_count is not None:
            return self.engine.processes_count
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_defaults(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options, with defaults that suit the media in place of those that were left at the ones for images."""
    media = values.get("media")
    defaults = DEFAULTS.get(media, {}) if isinstance(media, str) else {}
    left = {
        name: value for name, value in defaults.items() if isinstance(values.get(name, LEFT_INT), (LeftInt, LeftFloat))
    }
    return {**values, **left}


class LeftInt(int):
    """An argument's default, which can be told from the same number given by the caller."""


class LeftFloat(float):
    """See `LeftInt`."""


LEFT_INT = LeftInt()


def _check_across(config: JobConfig) -> None:
    """Rules that span several groups."""
    _check_media(config)
    verify = config.input.verify_hash
    if verify is not None and verify[1] != config.image.compute_hash:
        raise ConfigError(
            f"verify_hash and compute_hash must be the same, got {verify[1]} and {config.image.compute_hash}; "
            f"try --compute_hash={verify[1]}"
        )
    carried = {*(config.input.save_additional_columns or ()), config.input.bbox_col}
    for name in (config.image.encode_format, "txt"):
        if name in carried:
            option = "bbox_col" if name == config.input.bbox_col else "save_additional_columns"
            raise ConfigError(f"{option} may not hold {name}: samples have a part of that name; rename the column")
    if config.input.input_format.startswith("txt"):
        wanted = {
            "caption_col": config.input.caption_col,
            "clip_col": config.input.clip_col,
            "bbox_col": config.input.bbox_col,
            "save_additional_columns": config.input.save_additional_columns,
            "verify_hash": verify,
        }
        for name, value in wanted.items():
            if value is not None:
                raise ConfigError(
                    f"{name}={value!r} needs a list with columns, but input_format is "
                    f"{config.input.input_format!r}; set input_format to csv, jsonl or parquet"
                )


def _check_media(config: JobConfig) -> None:
    """Rules about what belongs to which media."""
    media, again = config.media.media, config.input.input_format == "webdataset"
    if again and config.input.schedule != "list":
        raise ConfigError(
            "schedule='by_host' sorts a list by host, but the media of a dataset are there already; use schedule='list'"
        )
    if media not in {"video", "audio"}:
        for name, value in (("clip_col", config.input.clip_col), ("subsampling", config.media.subsampling)):
            if value is not None:
                raise ConfigError(f"{name} is for videos and sounds, but media={media!r}; set media='video' or 'audio'")
    _check_unused(config.media)
    if config.input.clip_col is not None and "clips" in (config.input.save_additional_columns or ()) and not again:
        raise ConfigError(
            "save_additional_columns may not hold clips together with clip_col: that column says what was stored; "
            "rename it in the list"
        )
    if media != "image":
        for name in ("bbox_col", "compute_phash"):
            if getattr(config.input, name, None) or getattr(config.image, name, False):
                raise ConfigError(f"{name} is for images, but media={media!r}; drop one of them")
    if config.media.subtitles_are_clips and (config.input.clip_col is not None or config.media.cuts_are_clips):
        raise ConfigError("subtitles_are_clips makes clips itself; drop clip_col and cuts_are_clips")
    if config.media.captions_are_subtitles and config.input.caption_col is None and not again:
        raise ConfigError("captions_are_subtitles needs caption_col, the column that holds them")


def _check_unused(config: MediaConfig) -> None:
    """Options that would do nothing with these media."""
    unused: tuple[str, ...] = ()
    if config.media in {"image", "any"}:
        unused = OF_FILMS
    elif config.media == "audio" and "video" not in (config.encode_formats or {}):
        unused = OF_PICTURES
    for name in unused:
        value = getattr(config, name)
        if value != MediaConfig.model_fields[name].default:
            wanted = "'video'" if name in OF_PICTURES else "'video' or 'audio'"
            raise ConfigError(
                f"{name}={value!r} does nothing with media={config.media!r}; drop it, or set media={wanted}"
            )


class Option(NamedTuple):
    """One flat option: its group and the field that defines it."""

    group: str
    field: FieldInfo


def _groups() -> Iterator[tuple[str, type[Group]]]:
    for name, info in JobConfig.model_fields.items():
        assert isinstance(info.annotation, type)
        assert issubclass(info.annotation, Group)
        yield name, info.annotation


@cache
def options() -> dict[str, Option]:
    """All flat options in their documented order."""
    return {name: Option(group, info) for group, model in _groups() for name, info in model.model_fields.items()}


def nearest(name: str, valid: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    """`"; did you mean 'x'?"`, or nothing when no valid name is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _one_line(error: ValidationError, given: Mapping[str, Any]) -> str:
    """The first problem that pydantic found, as one line that names the option."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    if problem["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
        hint = nearest(str(problem["input"]), choices)
        return f"{name}={problem['input']!r} is not one of {', '.join(choices)}{hint}"
    return f"{name}={given.get(name)!r} is not valid: {message[:1].lower()}{message[1:]}"
