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
    from img2dataset_dist.api import download

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
    "download",
]


def __getattr__(name: str) -> Any:
    """`download` is imported when it is used: the processes that decode need little of what it needs."""
    if name == "download":
        from img2dataset_dist.api import download  # noqa: PLC0415

        return download
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
