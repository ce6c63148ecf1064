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
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from img2dataset_dist import registry, schedule, storage, urls
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import BadUrl, ConfigError, InputError
from img2dataset_dist.model import Shard, Source
from img2dataset_dist.readers import Reader, SlicingReader, Span

WHOLE_HASH = 8 * 2**20
"""Input files up to this many bytes are fingerprinted whole, larger ones by size, date or ETag, and samples."""

SAMPLES = 16
SAMPLE_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job will do, without doing it.

    Attributes:
        config: the input options.
        sources: the input files, in order.
        schema: Arrow schema of the columns that come from the list, by output name, `url` last.
        identity: everything that decides which row lands in which shard, by name.
        first_shard: id of the first shard; above 0 when a dataset is extended.
    """

    config: InputConfig
    sources: tuple[Source, ...]
    schema: pa.Schema
    identity: dict[str, Any]
    first_shard: int = 0

    @property
    def fingerprint(self) -> str:
        """Digest of `identity`: equal for plans that put the same rows into the same shards."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

    def shards(self, spool: storage.Folder | None = None, done: Container[int] = ()) -> Iterator[Shard]:
        """All shards in order, found while they are asked for.

        Args:
            spool: where slices of inputs that cannot be entered in the middle are put (gzip, json), and the lanes of
                a list that is sorted by host. Without it, such shards are counted, as the list has them, but cannot
                be read.
            done: ids of shards that nobody will read, so that they need no slice.

        Raises:
            InputError: an input file cannot be read to its end.
        """
        if self.config.schedule == "by_host" and spool is not None:
            yield from schedule.lane_shards(self, spool)
        else:
            yield from self.listed(spool, done)

    def listed(self, spool: storage.Folder | None = None, done: Container[int] = ()) -> Iterator[Shard]:
        """The same in the order of the list, whatever `schedule` says."""
        try:
            yield from self._shards(spool, done)
        except ConfigError as error:  # it was fine when the plan was made
            raise InputError(f"{error}; the file changed") from error

    def _shards(self, spool: storage.Folder | None, done: Container[int]) -> Iterator[Shard]:
        reader = reader_for(self.config)
        shard_id = self.first_shard
        for source in self.sources:
            if sliced(self.config) and spool is not None:
                for shard in self._slices(reader, source, shard_id, spool, done):
                    yield shard
                    shard_id = shard.id + 1
                continue
            for span in reader.spans(source):
                yield _shard(shard_id, source, span)
                shard_id += 1

    def _slices(
        self, reader: SlicingReader, source: Source, first: int, spool: storage.Folder, done: Container[int]
    ) -> Iterator[Shard]:
        for shard_id, (span, content) in enumerate(reader.slices(source), first):
            name = f"{shard_id}.{source.format}"
            if shard_id not in done:
                spool.write_whole(name, content)
            slice_source = reader.slice_source(spool.url(name), source)
            yield _shard(shard_id, slice_source, span, temporary=True)

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
    paths = input_files(config)
    with ThreadPoolExecutor(16) as pool:
        looked = list(pool.map(lambda path: _inspect(reader, path), paths))
        contents = list(pool.map(_content_identity, paths))
    schema = _common_schema([schema for _, schema in looked], paths, config)
    identity = {
        "input_format": config.input_format,
        "number_sample_per_shard": config.number_sample_per_shard,
        "oom_shard_count": config.oom_shard_count,
        "url_col": config.url_col,
        "url_list": contents,
    }
    if config.schedule == "by_host":
        identity |= {"schedule": config.schedule, "lanes": config.lanes}
    return Plan(
        config=config,
        sources=tuple(source for source, _ in looked),
        schema=schema,
        identity=identity,
        first_shard=first_shard,
    )


def reader_for(config: InputConfig) -> Any:
    """The reader that plans `config.input_format`."""
    return registry.lookup("reader", config.input_format.removesuffix(".gz"))(config)


def sliced(config: InputConfig) -> bool:
    """Whether inputs must be cut into slices because they cannot be entered in the middle."""
    return config.input_format.endswith(".gz") or config.input_format == "json"


def input_files(config: InputConfig) -> list[str]:
    """The files that `url_list` names, sorted: one file, a folder's `*.<input_format>`, or a glob.

    Raises:
        ConfigError: there are none.
    """
    try:
        fs, path = fsspec.core.url_to_fs(storage.absolute(config.url_list))
        if fs.isfile(path):
            found = [path]
        elif fs.isdir(path):
            suffix = f".{config.input_format}"
            listed = [info["name"] for info in fs.ls(path, detail=True) if info["type"] != "directory"]
            found = [name for name in listed if name.endswith(suffix)]
            if not found:
                raise ConfigError(
                    f"url_list: no file matches {path.rstrip('/')}/*.{config.input_format}; "
                    f"is input_format={config.input_format!r} right?"
                )
        else:
            found = [p for p in fs.glob(path) if fs.isfile(p)] if any(c in path for c in "*?[") else []
    except (OSError, ImportError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"url_list: cannot read {config.url_list}: {error}") from error
    if not found:
        raise ConfigError(f"url_list: there is no file or folder {config.url_list}")
    return [p if storage.is_local(fs) else fs.unstrip_protocol(p) for p in sorted(found)]


def _inspect(reader: Reader, path: str) -> tuple[Source, pa.Schema]:
    try:
        return reader.inspect(path)
    except InputError as error:
        raise ConfigError(f"url_list: {error}") from error


def _shard(shard_id: int, source: Source, span: Span, *, temporary: bool = False) -> Shard:
    return Shard(
        id=shard_id,
        source=source,
        start=span.start,
        rows=span.rows,
        byte_range=span.byte_range,
        temporary=temporary,
    )


def _common_schema(schemas: list[pa.Schema], paths: list[str], config: InputConfig) -> pa.Schema:
    """One schema for the whole job, so that types never drift between files.

    Text formats only guess: a type that not all files share becomes double (from int64 and double) or text. A column
    that one parquet file knows nothing about, because all its values are null, has the type of the others.
    """
    fields = []
    for field in schemas[0]:
        kinds = [schema.field(field.name).type for schema in schemas]
        first = next((i for i, k in enumerate(kinds) if not pa.types.is_null(k)), 0)
        kind = kinds[first]
        other = next((i for i, k in enumerate(kinds) if k != kind and not pa.types.is_null(k)), None)
        if other is not None:
            if config.input_format == "parquet":
                raise ConfigError(
                    f"column '{field.name}' is {kind} in {paths[first]} but {kinds[other]} in {paths[other]}; "
                    "convert one of them"
                )
            kind = pa.float64() if set(kinds) == {pa.int64(), pa.float64()} else pa.string()
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def _content_identity(path: str) -> dict[str, Any]:
    """What tells an input file from a changed one, without its path: a list may be moved."""
    fs, name = fsspec.core.url_to_fs(path)
    info = fs.info(name)
    size = int(info["size"])
    digest = hashlib.sha256()
    identity: dict[str, Any] = {"size": size}
    with storage.open_input(path) as file:
        if size <= WHOLE_HASH:
            digest.update(file.read())
        else:
            for number in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
            identity["version"] = str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or "")
    return identity | {"sha256": digest.hexdigest()}


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
