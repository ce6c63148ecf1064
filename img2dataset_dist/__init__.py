"""Turn lists of media URLs into ML-ready datasets.

::

    URL list ──plan──▶ Plan ──▶ Shard ──reader──▶ Item ──fetcher──▶ Fetched ──transforms──▶ Sample
                        │                                                                     │
                     (driver)          engine: local processes, or this one                writer
                        ▲                                                                     ▼
       report ◀── stats ◀──────────────────────── Receipt ◀──────── commit ◀──────── files (staged)

`download` does it all; docs/architecture.md tells the steps one by one.
"""

from img2dataset_dist import about
from img2dataset_dist.api import download
from img2dataset_dist.errors import (
    ConfigError,
    Img2datasetError,
    InputError,
    MissingExtra,
    NetworkDownError,
    ResumeRefused,
    ShardsFailed,
)
from img2dataset_dist.model import Stats

__version__ = about.VERSION

__all__ = [
    "ConfigError",
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
