"""Stores nothing: for measuring everything but the disk. The statistics of a shard are written for it all the same."""

from __future__ import annotations

from img2dataset_dist.model import Sample
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.layout import Layout


class DummyWriter:
    """Takes samples and forgets them."""

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        pass

    def write(self, sample: Sample) -> None:
        """Take one sample."""

    def close(self) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to close."""
