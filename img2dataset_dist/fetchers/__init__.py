"""Fetchers: items to bytes.

A fetcher is one file here and one line in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from img2dataset_dist.config import FetchConfig
from img2dataset_dist.model import Fetched, Item


class Fetcher(Protocol):
    """Lives in one thread of a worker; made once per process."""

    def __init__(self, config: FetchConfig) -> None: ...

    def fetch(self, items: Iterator[Item | None]) -> Iterator[Fetched]:
        """One `Fetched` per `Item`, in any order; a failure of a row never raises.

        Args:
            items: pulled only when there is room for another transfer. None means: nothing to do just now, ask
                again soon (the list is slow, or bodies are waiting for their transforms).
        """

    def stop(self) -> None:
        """Make `fetch` end within a second or so, whatever is under way; may be called from any thread."""

    def close(self) -> None:
        """Drop all connections."""
