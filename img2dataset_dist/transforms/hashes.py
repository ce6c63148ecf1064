"""Hashes of the bytes as they came over the network."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import HashMismatch
from img2dataset_dist.model import Sample


class VerifyHash:
    """Refuse a body that is not the one the list promised. Option `verify_hash`.

    Raises (when called):
        HashMismatch: the digest differs, or the list has none for this row.
    """

    def __init__(self, config: JobConfig) -> None:
        assert config.input.verify_hash is not None
        _, self._name = config.input.verify_hash

    def __call__(self, sample: Sample) -> Sample:
        """The sample as it is."""
        expected = sample.item.columns.get(self._name)  # the reader renamed the user's column to the hash's name
        if expected is None or str(expected).strip().lower() != _digest(self._name, sample.body):
            raise HashMismatch("hash mismatch")
        return sample


class ComputeHash:
    """Put the hex digest of `body` into `hashes`. Option `compute_hash`."""

    def __init__(self, config: JobConfig) -> None:
        assert config.image.compute_hash is not None
        self._name = config.image.compute_hash

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its hash."""
        return replace(sample, hashes={**sample.hashes, self._name: _digest(self._name, sample.body)})


def _digest(name: str, body: bytes) -> str:
    return hashlib.new(name, body, usedforsecurity=False).hexdigest()
