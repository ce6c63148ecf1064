"""`any2dataset()`: the arguments of the tool any2dataset, for its users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from img2dataset_dist.api import download
from img2dataset_dist.config import LeftFloat, LeftInt, nearest, options
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.model import Stats

MEGABYTE = 1_000_000
"""What its `max_size` counts."""


def any2dataset(  # noqa: PLR0917 (positions are the peer's)
    url_list: str,
    output_folder: str = "files",
    processes_count: int | None = None,
    output_format: str = "files",
    input_format: str = "txt",
    url_col: str = "url",
    caption_col: str | None = None,
    thread_count: int = LeftInt(256),
    number_sample_per_shard: int = 10000,
    save_additional_columns: Sequence[str] | None = None,
    timeout: float = LeftFloat(10),
    enable_wandb: bool = False,
    wandb_project: str = "any2dataset",
    oom_shard_count: int = 5,
    compute_md5: bool = True,
    distributor: str = "multiprocessing",
    subjob_size: int = 1000,
    retries: int = 0,
    disable_all_reencoding: bool = False,  # noqa: ARG001 (nothing is ever re-encoded)
    max_size: float | None = None,
    **more: Any,
) -> Stats:
    """Fetch any files and keep them as they came: `download(media="any")` with the arguments of any2dataset.

    What differs is in docs/migrating.md: all cores, `timeout` for the whole of a fetch (600 s unless you say), and each
    file is called by what it is.

    - `compute_md5`: store the md5 of each file.
    - `disable_all_reencoding`: says nothing here, as there; files are always kept.
    - `max_size`: largest file, in 10^6 bytes.
    - `more`: any option of `download`.

    What is not explained here is in `img2dataset_dist.option_groups`.

    Raises:
        ConfigError: an argument is wrong or unknown; and whatever `download` raises.
    """
    for name in more:
        if name not in options():
            raise ConfigError(f"any2dataset: unknown argument '{name}'{nearest(name, [*FLAGS, *options()])}")
    if max_size is not None:
        more = {"max_body_bytes": int(max_size * MEGABYTE), **more}
    values: dict[str, Any] = {
        "media": "any",
        "output_folder": output_folder,
        "processes_count": processes_count,
        "output_format": output_format,
        "input_format": input_format,
        "url_col": url_col,
        "caption_col": caption_col,
        "thread_count": thread_count,
        "number_sample_per_shard": number_sample_per_shard,
        "save_additional_columns": save_additional_columns,
        "timeout": timeout,
        "enable_wandb": enable_wandb,
        "wandb_project": wandb_project,
        "oom_shard_count": oom_shard_count,
        "compute_hash": "md5" if compute_md5 else None,
        "distributor": distributor,
        "subjob_size": subjob_size,
        "retries": retries,
        **more,
    }
    return download(url_list, **values)


FLAGS = {
    "compute_md5": "Store the md5 of each file. [True]",
    "disable_all_reencoding": "Says nothing: files are always kept.",
    "max_size": "Largest file in 10^6 bytes. [4295]",
}
"""Its arguments that are no options of ours, or mean something else here."""


def from_text(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from a command line."""
    return {name: _value(name, text) if name in FLAGS else text for name, text in flags.items()}


def _value(name: str, text: str) -> Any:
    found = yaml.safe_load(text) if text != "None" else None
    kind = (int, float) if name == "max_size" else bool
    if found is not None and (not isinstance(found, kind) or (name == "max_size" and isinstance(found, bool))):
        raise ConfigError(
            f"{name}={text} is not valid: must be {'a number' if name == 'max_size' else 'True or False'}"
        )
    return found
