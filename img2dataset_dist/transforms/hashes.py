"""Hashes of the bytes as they came over the network, and as they are stored.

About half a millisecond per megabyte with SHA-256, beside the interpreter lock; so nothing is hashed twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import HashMismatch
from img2dataset_dist.model import MediaFile, Sample


class VerifyHash:
    """Refuse a body that is not the one the list promised. Option `verify_hash`.

    Raises (when called):
        HashMismatch: the digest differs, or the list has none for this row.
    """

    def __init__(self, config: JobConfig) -> None:
        assert config.input.verify_hash is not None
        _, self._name = config.input.verify_hash

    def __call__(self, sample: Sample) -> Sample:
        """The sample with the digest in `hashes`."""
        expected = sample.item.columns.get(self._name)  # the reader renamed the user's column to the hash's name
        if expected is None:
            raise HashMismatch("hash mismatch")
        digest = _digest(self._name, sample.file.path if sample.file is not None else sample.body)
        if str(expected).strip().lower() != digest:
            raise HashMismatch("hash mismatch")
        return replace(sample, hashes={**sample.hashes, self._name: digest})


class ComputeHash:
    """Put the hex digest of `body` into `hashes`, that of `data` into `stored_hash`. Option `compute_hash`.

    The last of the transforms, since it needs what will be stored.
    """

    def __init__(self, config: JobConfig) -> None:
        assert config.image.compute_hash is not None
        self._name = config.image.compute_hash

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its hashes."""
        if sample.file is not None:
            return self._of_files(sample, sample.file)
        original = sample.hashes.get(self._name) or _digest(self._name, sample.body)
        if sample.data is sample.body:
            stored: str | None = original
        else:
            stored = None if sample.data is None else _digest(self._name, sample.data)
        return replace(sample, hashes={**sample.hashes, self._name: original}, stored_hash=stored)

    def _of_files(self, sample: Sample, file: MediaFile) -> Sample:
        """The same of media in files: what came, when all of it came, and the first part that is stored."""
        original = sample.hashes.get(self._name)
        if original is None and file.present is None:
            original = _digest(self._name, file.path)
        known: dict[str, str] = {self._name: original} if original is not None else {}
        done = replace(sample, hashes={**sample.hashes, **known}, stored_hash=self._of_part(sample, file, original))
        pieces = tuple(
            replace(piece, hashes=done.hashes, stored_hash=self._of_part(piece, file, original))
            for piece in sample.pieces
        )
        return replace(done, pieces=pieces)

    def _of_part(self, sample: Sample, file: MediaFile, original: str | None) -> str | None:
        if not sample.parts or sample.failure is not None:
            return None
        part = sample.parts[0]
        if part.path == file.path and original is not None:
            return original
        return _digest(self._name, part.path if part.path is not None else part.data or b"")


def _digest(name: str, body: bytes | str) -> str:
    """Of some bytes, or of the file at a path."""
    if isinstance(body, bytes):
        return hashlib.new(name, body, usedforsecurity=False).hexdigest()
    digest = hashlib.new(name, usedforsecurity=False)
    with open(body, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
