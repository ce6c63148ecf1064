"""Turn lists of media URLs into ML-ready datasets.

::

    URL list ──plan──▶ Plan ──▶ Shard ──reader──▶ Item ──fetcher──▶ Fetched ──transforms──▶ Sample
                        │                                                                     │
                     (driver)        engine: local processes · Spark · Ray                 writer
                        ▲                                                                     ▼
       report ◀── stats ◀──────────────────────── Receipt ◀──────── commit ◀──────── files (staged)

`download` does it all; docs/architecture.md tells the steps one by one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from img2dataset_dist import about
from img2dataset_dist.errors import (
    ConfigError,
    EngineError,
    Img2datasetError,
    InputError,
    MissingExtra,
    NetworkDownError,
    ResumeRefused,
    ShardsFailed,
)
from img2dataset_dist.model import Stats

if TYPE_CHECKING:
    from img2dataset_dist.any2dataset_api import any2dataset
    from img2dataset_dist.api import download
    from img2dataset_dist.video2dataset_api import video2dataset

__version__ = about.VERSION

__all__ = [
    "ConfigError",
    "EngineError",
    "Img2datasetError",
    "InputError",
    "MissingExtra",
    "NetworkDownError",
    "ResumeRefused",
    "ShardsFailed",
    "Stats",
    "__version__",
    "any2dataset",
    "download",
    "video2dataset",
]

_ENTRIES = {"any2dataset": "any2dataset_api", "download": "api", "video2dataset": "video2dataset_api"}
"""Functions, and the modules that have them."""


def __getattr__(name: str) -> Any:
    """The entries are imported when they are used: the processes that decode need little of what they need."""
    if name in _ENTRIES:
        return getattr(importlib.import_module(f"img2dataset_dist.{_ENTRIES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
