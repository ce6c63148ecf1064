"""Lane files: the list again, sorted by host by `schedule.py`; parquet of our own making, read on the workers.

A lane file holds what the readers made of the rows, so nothing is parsed or guessed twice: the columns of the job's
input schema, and why a row cannot be used, where it cannot. A shard is whole row groups and no part of another's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from img2dataset_dist import inputs
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import InputError
from img2dataset_dist.model import Failure, Item, Shard
from img2dataset_dist.readers.columns import CLIPS, clips_of, key_of
from img2dataset_dist.readers.lines import reading
from img2dataset_dist.writers.sample_json import well_formed

FAILURE = "_img2dataset/failure"
"""Column of the reader's verdict; no list has a column of that name."""

GROUP_ROWS = 2**16
"""Rows in a row group at most: larger shards have several, so that no writer holds more."""

BATCH_ROWS = 1024

_FAILURE_TYPE = pa.struct(
    [("code", pa.string()), ("message", pa.string()), ("status", pa.string()), ("transient", pa.bool_())]
)


def lane_schema(schema: pa.Schema) -> pa.Schema:
    """Columns of a lane file, given those of the job's input."""
    return pa.schema([*schema, pa.field(FAILURE, _FAILURE_TYPE)])


def columns_of(items: Sequence[Item], schema: pa.Schema) -> list[pa.Array]:
    """Items as columns of `lane_schema(schema)`, from which `LaneReader` makes the same items again.

    Raises:
        InputError: a value does not fit its column, or cannot be stored.
    """
    columns = [_array(field, [_value(item, field.name) for item in items]) for field in schema]
    failures = [None if item.failure is None else asdict(item.failure) for item in items]
    return [*columns, pa.array(failures, type=_FAILURE_TYPE)]


def _value(item: Item, name: str) -> Any:
    if name == CLIPS:
        return None if item.clips is None else json.dumps(item.clips)
    return item.url if name == "url" else item.columns[name]


def _array(field: pa.Field, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, type=field.type)
    except UnicodeEncodeError:  # lone surrogates; the dataset cannot hold them either
        return pa.array([well_formed(value) for value in values], type=field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"column '{field.name}' holds a value that is no {field.type}: {error}") from error


class LaneReader:
    """Reads shards of lane files; the other half of the `Reader` protocol, planning, is `schedule.py`'s."""

    def __init__(self, config: InputConfig) -> None:
        self.config = config

    def read(self, shard: Shard, schema: pa.Schema) -> Iterator[Item]:
        """See `Reader.read`."""
        names = [name for name in schema.names if name not in ("url", CLIPS)]
        size = self.config.number_sample_per_shard
        first = shard.start // size * -(-size // GROUP_ROWS)
        groups = list(range(first, first - (-shard.rows // GROUP_ROWS)))
        index = 0
        with _open(shard.source.path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups):
                for row in batch.to_pylist():
                    failure = row[FAILURE]
                    yield Item(
                        shard_id=shard.id,
                        index=index,
                        key=key_of(self.config, shard.id, index),
                        url=row["url"],
                        columns={name: row[name] for name in names},
                        clips=clips_of(row.get(CLIPS)) if CLIPS in schema.names else None,
                        failure=None if failure is None else Failure(**failure),
                    )
                    index += 1
        if index != shard.rows:
            raise InputError(f"{shard.source.path}: {index} rows where {shard.rows} were planned; the file changed")


@contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    """A lane file; whatever goes wrong with it costs the shard, and says which file."""
    with reading(path), inputs.open_input(path) as stream:
        try:
            yield pq.ParquetFile(stream)
        except (pa.ArrowException, IndexError) as error:
            raise InputError(f"{path}: {error}") from error
