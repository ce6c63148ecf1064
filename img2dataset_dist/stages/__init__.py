"""Stages: what is computed from finished samples, batch by batch, by something that is costly to load.

A stage is a class in one file here and one line in `registry.py`, or one of the user's as `package.module:Class`. It
runs behind the transforms, in the process that they run in, which is one per worker then: it is made there once, after
that process was forked, so that it may use threads and a GPU as it likes. A crash or a hang of it costs a row, as that
of a decoder does (`transforms/remote.py`); then it is made again.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from img2dataset_dist import registry
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import RESIZE, SUBSAMPLE, ConfigError, RowError
from img2dataset_dist.model import Failure, Part, Sample
from img2dataset_dist.writers.sample_json import plain

RESULTS = "stages"
"""The column that has what the stages found: JSON, an object by the names that they give it."""


class Stage(Protocol):
    """Computes something for samples, several at a time. Made from the job's options and its own (`stage_args`).

    Attributes:
        batch_size: samples that it gets at once, at most.
    """

    batch_size: int

    def __init__(self, config: JobConfig, **options: Any) -> None:
        """Load the model. Where it has a static method `check`, that gets the options before anything is written.

        Raises:
            ValueError: of `check`: an option is wrong.
        """

    def __call__(self, batch: Sequence[Sample]) -> Sequence[Sample]:
        """The samples in the same order, each with what was found (`noted`, `with_part`) or a failure.

        What it raises for a batch it is asked again without company for each sample; what it raises then is that
        sample's failure.
        """


class Stages:
    """All stages of a job, one after the other.

    Args:
        stages: ready to work.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples after all stages, in the same order; those that failed before are shown to none."""
        done = list(samples)
        for stage in self._stages:
            done = _through(stage, done)
        return list(map(_without_hope, done))


def build(config: JobConfig) -> Stages | None:
    """The job's stages, loaded; None when it has none."""
    made = [kind(config, **options) for kind, options in _wanted(config)]
    return Stages(made) if made else None


def check(config: JobConfig) -> None:
    """Whether they can be had; loads none.

    Raises:
        ConfigError: one that cannot be found, or that wants other options.
        MissingExtra: one needs a package that is not installed.
    """
    if unknown := set(config.media.stage_args or ()) - set(config.media.stages):
        raise ConfigError(f"stage_args: {min(unknown)!r} is not one of `stages`")
    for name, (kind, options) in zip(config.media.stages, _wanted(config), strict=True):
        try:
            inspect.signature(kind).bind(config, **options)
            getattr(kind, "check", dict)(**options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"stage_args of {name!r}: {error}") from error


def _wanted(config: JobConfig) -> list[tuple[Any, dict[str, Any]]]:
    options = config.media.stage_args or {}
    return [(registry.lookup("stage", name), options.get(name, {})) for name in config.media.stages]


def noted(sample: Sample, name: str, value: Any) -> Sample:
    """The sample with a value in its column `stages`, under a name; values of other names stay."""
    before = sample.extra.get(RESULTS) or sample.item.columns.get(RESULTS)
    found = json.loads(before) if before else {}
    return replace(sample, extra={**sample.extra, RESULTS: json.dumps({**found, name: plain(value)})})


def with_part(sample: Sample, part: Part) -> Sample:
    """The sample with one more file, in place of one of that extension."""
    others = tuple(each for each in sample.parts if each.extension != part.extension)
    return replace(sample, parts=(*others, part))


def _through(stage: Stage, samples: Sequence[Sample]) -> list[Sample]:
    """Samples after one stage. The pieces of a row are samples of their own."""
    shown = [each for sample in samples for each in (sample.pieces or (sample,)) if each.failure is None]
    done = itertools.chain.from_iterable(_asked(stage, batch) for batch in _batches(shown, stage.batch_size))
    return [_with_results(sample, done) for sample in samples]


def _with_results(sample: Sample, done: Iterator[Sample]) -> Sample:
    """A row with the next results in the place of what was shown of it."""
    if sample.pieces:
        return replace(sample, pieces=tuple(each if each.failure else next(done) for each in sample.pieces))
    return sample if sample.failure else next(done)


def _without_hope(sample: Sample) -> Sample:
    """A row has failed when all of its pieces have."""
    if sample.failure or not sample.pieces or not all(piece.failure for piece in sample.pieces):
        return sample
    return replace(sample, failure=sample.pieces[0].failure)


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    waiting = iter(samples)
    while batch := list(itertools.islice(waiting, max(1, size))):
        yield batch


def _asked(stage: Stage, batch: list[Sample]) -> list[Sample]:
    """A batch after a stage; alone, each of them, when it is too much for the stage."""
    try:
        done = list(stage(batch))
        if len(done) != len(batch):
            raise RowError(f"{type(stage).__name__} gave {len(done)} samples for {len(batch)}")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001 (of whatever a model does)
        if len(batch) > 1:
            return [each for sample in batch for each in _asked(stage, [sample])]
        row_error = error if isinstance(error, RowError) else RowError(f"{type(error).__name__}: {error}"[:500])
        return [_failed(batch[0], row_error)]
    return done


def _failed(sample: Sample, error: RowError) -> Sample:
    """A failed sample has nothing to store. It did come over the network, whatever the error says."""
    failure = replace(Failure.of(error), status=RESIZE if sample.file is None else SUBSAMPLE)
    return Sample(item=sample.item, facts=sample.facts, file=sample.file, failure=failure)
