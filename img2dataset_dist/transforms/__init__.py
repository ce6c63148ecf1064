"""Transforms: what happens to a sample between the network and the writer.

A transform is a class in one file here and one line in `registry.py`: built from the job's config in each process that
transforms (`child.py`), and called with one sample after another. It returns a changed copy (`dataclasses.replace`), or
raises a `RowError` that becomes the row's failure. It only sees samples that came over the network whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from img2dataset_dist import registry
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import SUBSAMPLE, HashMismatch, RowError
from img2dataset_dist.model import Failure, Fetched, Sample

Transform = Callable[[Sample], Sample]


def names_for(config: JobConfig) -> list[str]:
    """Which transforms the options ask for, in order."""
    image = config.image
    if config.media.media != "image":
        return [
            *(["verify_hash"] if config.input.verify_hash else []),
            "any" if config.media.media == "any" else "video",
            *(["hash"] if image.compute_hash else []),
        ]
    return [
        *(["verify_hash"] if config.input.verify_hash else []),
        "keep" if image.disable_all_reencoding else "image",
        *(["exif"] if image.extract_exif else []),
        *(["hash"] if image.compute_hash else []),
    ]


def build(config: JobConfig) -> list[Transform]:
    """The job's transforms, ready to be called."""
    return [registry.lookup("transform", name)(config) for name in names_for(config)]


def apply(transforms: list[Transform], fetched: Fetched) -> Sample:
    """One fetched row to one sample; every exception becomes data, none gets out."""
    if fetched.body is None and fetched.file is None:
        return Sample(item=fetched.item, facts=fetched.facts, failure=fetched.failure)
    try:
        done = Sample(item=fetched.item, facts=fetched.facts, body=fetched.body or b"", file=fetched.file)
        for transform in transforms:
            done = transform(done)
        if done.pieces and all(piece.failure is not None for piece in done.pieces):
            done = replace(done, failure=done.pieces[0].failure)
        return replace(done, body=b"")
    except RowError as error:
        return failed(fetched, error)
    except Exception as error:  # noqa: BLE001 (a bug must cost one row, and be seen in it)
        return failed(fetched, RowError(f"{type(error).__name__}: {error}"[:500]))


def failed(fetched: Fetched, error: RowError) -> Sample:
    """The sample of a row of which nothing could be made."""
    failure = Failure.of(error)
    if fetched.file is not None and not isinstance(error, HashMismatch):  # what came was wrong already
        failure = replace(failure, status=SUBSAMPLE)
    return Sample(item=fetched.item, facts=fetched.facts, file=fetched.file, failure=failure)
