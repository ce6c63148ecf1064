"""URL list to `Plan`: which rows make which shard. Streams; memory does not grow with the list.

A plan is cheap to make: input files are listed, their heads inspected and fingerprinted. Shards are found while the
job runs, by walking the files once. Every input file starts a new shard and makes ceil(rows / N) of them; ids go on
across files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from img2dataset_dist import inputs, registry, schedule, storage, urls
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import BadUrl, ConfigError, InputError
from img2dataset_dist.inputs import InputFile
from img2dataset_dist.model import Shard, Source
from img2dataset_dist.readers import Inspected, Reader
from img2dataset_dist.readers.webdataset import merged, numbered
from img2dataset_dist.walk import Walk, reader_for

INSPECTORS = 64
"""Files that are inspected at once: on a store each costs a wait, and hardly anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job will do, without doing it.

    Attributes:
        config: the input options.
        sources: the input files, in order.
        schema: Arrow schema of the columns that come from the list, by output name, `url` last.
        identity: everything that decides which row lands in which shard, by name.
        first_shard: id of the first shard; above 0 when a dataset is extended.
        size: bytes of the input files, as they lie there.
    """

    config: InputConfig
    sources: tuple[Source, ...]
    schema: pa.Schema
    identity: dict[str, Any]
    first_shard: int = 0
    size: int = 0

    @property
    def fingerprint(self) -> str:
        """Digest of `identity`: equal for plans that put the same rows into the same shards."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def rows(self) -> int | None:
        """Rows of the whole list, where its files say how many they have."""
        counts = [source.rows for source in self.sources]
        return None if None in counts else sum(count for count in counts if count is not None)

    def shards(self, spool: storage.Folder | None = None, done: Container[int] = ()) -> Iterator[Shard]:
        """All shards in order but those of `done`, found while they are asked for.

        Args:
            spool: where slices of inputs that cannot be entered in the middle are put (gzip, json), where in a text
                list its shards are, and the lanes of a list that is sorted by host. Without it, shards of slices are
                counted, as the list has them, but cannot be read.
            done: ids of shards that nobody wants. What an earlier run left in `spool` is used, so that the list is
                entered at the first shard that is wanted, or not far before it.

        Raises:
            InputError: an input file cannot be read to its end.
        """
        if self.config.schedule == "by_host" and spool is not None:
            yield from (shard for shard in schedule.lane_shards(self, spool) if shard.id not in done)
        else:
            yield from self._checked(Walk(plan=self, spool=spool, done=done, remember=spool is not None).shards())

    def listed(self, spool: storage.Folder | None = None) -> Iterator[Shard]:
        """All of them in the order of the list, whatever `schedule` says; leaves nothing but slices in `spool`."""
        return self._checked(Walk(plan=self, spool=spool).shards())

    def _checked(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        try:
            yield from shards
        except ConfigError as error:  # it was fine when the plan was made
            raise InputError(f"{error}; the file changed") from error

    def is_empty(self) -> bool:
        """Whether the list has no row at all; reads no further than the first."""
        reader = reader_for(self.config)
        return not any(True for source in self.sources for _ in reader.spans(source))


def make_plan(config: InputConfig, first_shard: int = 0) -> Plan:
    """Find and inspect the inputs.

    Raises:
        ConfigError: nothing to read, a file of another format, a missing column, files whose columns do not agree.
    """
    reader = reader_for(config)
    files = inputs.input_files(config)
    schemas: list[pa.Schema] = []
    sources: list[Source] = []
    identities: list[dict[str, Any]] = []
    shared: dict[Any, Any] = {}  # ten thousand files, and mostly one schema
    with ThreadPoolExecutor(INSPECTORS) as pool:
        for source, schema, each in pool.map(lambda file: _inspect(reader, file), files):
            sources.append(replace(source, columns=shared.setdefault(source.columns, source.columns)))
            schemas.append(shared.setdefault(schema, schema))
            identities.append(each)
    if config.input_format == "webdataset":
        order, numbers = numbered([source.path for source in sources])
        sources = [replace(sources[place], number=numbers[place]) for place in order]
        identities = [identities[place] for place in order]
    schema = _common_schema(schemas, [file.path for file in files], config)
    identity: dict[str, Any] = {
        "input_format": config.input_format,
        "oom_shard_count": config.oom_shard_count,
        "url_list": inputs.listed(identities),
    }
    if config.input_format != "webdataset":  # whose tars are its shards
        identity |= {"number_sample_per_shard": config.number_sample_per_shard, "url_col": config.url_col}
    if config.schedule == "by_host":
        identity |= {"schedule": config.schedule, "lanes": config.lanes}
    return Plan(
        config=config,
        sources=tuple(sources),
        size=sum(file.size for file in files),
        schema=schema,
        identity=identity,
        first_shard=first_shard,
    )


def _inspect(reader: Reader, file: InputFile) -> Inspected:
    try:
        return reader.inspect(file)
    except InputError as error:
        raise ConfigError(f"url_list: {error}") from error


def _common_schema(schemas: list[pa.Schema], paths: list[str], config: InputConfig) -> pa.Schema:
    """One schema for the whole job, so that types never drift between files.

    Text formats only guess: a type that not all files share becomes double (from int64 and double) or text. A column
    that one parquet file knows nothing about, because all its values are null, has the type of the others.
    """
    if config.input_format == "webdataset":
        return merged(schemas)
    first = schemas[0]
    if all(schema is first for schema in schemas) and not any(pa.types.is_null(field.type) for field in first):
        return first
    fields = []
    for field in first:
        kinds = [schema.field(field.name).type for schema in schemas]
        known = next((i for i, k in enumerate(kinds) if not pa.types.is_null(k)), 0)
        kind = kinds[known]
        other = next((i for i, k in enumerate(kinds) if k != kind and not pa.types.is_null(k)), None)
        if other is not None:
            if config.input_format == "parquet":
                raise ConfigError(
                    f"column '{field.name}' is {kind} in {paths[known]} but {kinds[other]} in {paths[other]}; "
                    "convert one of them"
                )
            kind = pa.float64() if set(kinds) == {pa.int64(), pa.float64()} else pa.string()
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """Counts of a whole list.

    Attributes:
        hosts: host to rows, the `top` largest.
        malformed: reason to rows, for URLs and rows that cannot be fetched.
    """

    files: int
    shards: int
    rows: int
    host_count: int
    hosts: dict[str, int]
    malformed: dict[str, int]


MAX_HOSTS = 1_000_000


def summarise(plan: Plan, spool: storage.Folder, top: int = 20) -> PlanSummary:
    """Read the whole list and count; fetches nothing.

    Beyond a million hosts the rarest are dropped from the histogram now and then, so that memory stays bounded;
    `host_count` is then a lower bound.
    """
    hosts: Counter[str] = Counter()
    malformed: Counter[str] = Counter()
    shards = rows = 0
    for shard in plan.listed(spool):
        shards += 1
        rows += shard.rows
        reader: Reader = registry.lookup("reader", shard.source.format)(plan.config)
        for item in reader.read(shard, plan.schema):
            if item.failure is not None:
                malformed[item.failure.message] += 1
                continue
            try:
                hosts[urls.parse(item.url).host] += 1
            except BadUrl as error:
                malformed[str(error)] += 1
        if len(hosts) > MAX_HOSTS:
            hosts = Counter(dict(hosts.most_common(MAX_HOSTS // 2)))
        if shard.temporary:
            spool.remove(spool.name_of(shard.source.path))
    return PlanSummary(
        files=len(plan.sources),
        shards=shards,
        rows=rows,
        host_count=len(hosts),
        hosts=dict(hosts.most_common(top)),
        malformed=dict(malformed.most_common()),
    )
