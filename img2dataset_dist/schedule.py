"""`schedule="by_host"`: the list sorted into lanes by host before anything is fetched.

All rows of a host are in one lane, and the shards of a lane are worked on by one worker at a time. So a limit that a
worker keeps holds for the host, whatever the number of workers, and nobody has to ask anybody. Only a giant, a host
with more rows than an even lane has, is dealt out to several lanes; its shards say to how many (`Shard.spread`), so
that its limits can be divided.

The list is read once, and memory does not grow with it::

    list ──read──▶ rows in list order ──assign lanes──▶ chunks, each sorted by lane ──gather──▶ one file per lane
                        (on disk)                             (on disk, mapped)

Which row lands in which shard follows from the list, `lanes` and the shard size alone.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from img2dataset_dist import registry, urls
from img2dataset_dist.errors import BadUrl, InputError
from img2dataset_dist.model import Item, Shard, Source
from img2dataset_dist.readers import Reader
from img2dataset_dist.readers.lane import GROUP_ROWS, columns_of, lane_schema
from img2dataset_dist.storage import Folder, own_name, owner_is_dead

if TYPE_CHECKING:
    from img2dataset_dist.plan import Plan

BUCKETS = 2**16
"""Hosts are counted, and put into lanes, by so many hash values: more than memory, and than lanes, would mind."""

BUCKETS_PER_LANE = 16

COUNTERS = 2**14
"""Hosts that may be counted one by one (twice as many for moments): a giant's count is off by 1 in so many rows."""

COUNTERS_PER_LANE = 8

BATCH_ROWS = 256
CHUNK_BYTES = 32 * 2**20
"""Rows in memory while they are sorted; some copies of it are made."""

_HOST = "_img2dataset/host"
_BUCKET = "_img2dataset/bucket"
_LANE = "_img2dataset/lane"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One lane of a sorted list: its rows, the bytes of its file, and its giants with their number of lanes."""

    rows: int
    size: int
    spread: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedList:
    """A list that was sorted: the folder of its lane files, below the spool, and the lanes."""

    folder: str
    lanes: tuple[Lane, ...]

    @classmethod
    def from_json(cls, content: bytes) -> SortedList:
        """As the manifest has it."""
        data: dict[str, Any] = json.loads(content)
        lanes = tuple(
            Lane(rows=lane["rows"], size=lane["size"], spread=tuple((host, k) for host, k in lane["spread"]))
            for lane in data["lanes"]
        )
        return cls(folder=data["folder"], lanes=lanes)


def lane_shards(plan: Plan, spool: Folder) -> Iterator[Shard]:
    """All shards, lane after lane in turns so that workers are busy from the start; sorts the list if need be.

    Raises:
        InputError: the list cannot be read to its end.
    """
    done = sort(plan, spool)
    size = plan.config.number_sample_per_shard
    shard_id, start = plan.first_shard, 0
    left = [(number, lane) for number, lane in enumerate(done.lanes) if lane.rows]
    while left:
        for number, lane in left:
            yield Shard(
                id=shard_id,
                source=Source(path=spool.sub(done.folder).url(_name(number)), format="lane"),
                start=start,
                rows=min(size, lane.rows - start),
                lane=number,
                spread=lane.spread,
            )
            shard_id += 1
        start += size
        left = [(number, lane) for number, lane in left if lane.rows > start]


def sort(plan: Plan, spool: Folder) -> SortedList:
    """The sorted list in `spool`: what an earlier run left there, whole and of the same fingerprint, or made now.

    Raises:
        InputError: the list cannot be read to its end.
    """
    if (earlier := find(plan, spool)) is not None:
        return earlier
    for name in spool.names():
        if owner_is_dead(name):
            spool.remove(name)
    spool.remove(_manifest(plan))
    folder = own_name("lanes")
    try:
        lanes = _sort_into(plan, spool.sub(folder))
        mine = SortedList(folder=folder, lanes=lanes)
        if spool.create_whole(_manifest(plan), json.dumps(asdict(mine)).encode()):
            return mine
    except BaseException:
        spool.remove(folder)
        raise
    spool.remove(folder)  # another driver on the same folder was faster; its files hold the same
    return find(plan, spool) or sort(plan, spool)


def find(plan: Plan, spool: Folder) -> SortedList | None:
    """The complete sorted list of this plan, when it is in `spool`."""
    content = spool.read(_manifest(plan))
    if content is None:
        return None
    found = SortedList.from_json(content)
    folder = spool.sub(found.folder)
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda number: folder.size(_name(number)) or 0, range(len(found.lanes))))
    return found if sizes == [lane.size for lane in found.lanes] else None


def _manifest(plan: Plan) -> str:
    return f"lanes-{plan.fingerprint}.json"


def _name(lane: int) -> str:
    return f"lane-{lane:05d}.parquet"


def _sort_into(plan: Plan, home: Folder) -> tuple[Lane, ...]:
    """Write the lane files to `home`; what lies on disk meanwhile is removed."""
    with _scratch(home) as scratch:
        census = _Census(plan.config.lanes)
        _spill(plan, scratch, census)
        lanes = Lanes.assign(census, plan.config.lanes, plan.config.number_sample_per_shard)
        _sort_chunks(scratch, lanes)
        sizes = [_gather(plan, scratch, home, number) for number in range(lanes.count)]
    return tuple(Lane(rows=rows, size=size, spread=lanes.spread(number)) for number, (rows, size) in enumerate(sizes))


@contextlib.contextmanager
def _scratch(home: Folder) -> Iterator[Folder]:
    """A folder on a disk of this machine: beside the lanes, or a temporary one when they are on an object store."""
    if home.is_local:
        scratch = home.sub("sorting")
        yield scratch
        home.remove("sorting")
        return
    with tempfile.TemporaryDirectory(prefix="img2dataset-") as path:
        yield Folder.at(path)


class _Census:
    """Rows by bucket, exactly, and by host as far as it takes to know the giants (Misra and Gries, 1982)."""

    def __init__(self, lanes: int) -> None:
        self.buckets = np.zeros(max(BUCKETS, BUCKETS_PER_LANE * lanes), dtype=np.int64)
        self.hosts: Counter[str] = Counter()
        self._room = max(COUNTERS, COUNTERS_PER_LANE * lanes)
        self.total = 0

    def bucket(self, name: str) -> int:
        """Stable over processes, unlike hash()."""
        return zlib.crc32(name.encode()) % len(self.buckets)

    def add(self, items: Iterable[Item]) -> tuple[list[str | None], list[int]]:
        """Hosts and buckets of the next rows; a row without a host goes where its position says."""
        hosts = [_host(item) for item in items]
        buckets = [self.bucket(host or str(position)) for position, host in enumerate(hosts, self.total)]
        self.total += len(hosts)
        np.add.at(self.buckets, buckets, 1)
        self.hosts.update(host for host in hosts if host is not None)
        if len(self.hosts) > 2 * self._room:
            least = heapq.nlargest(self._room + 1, self.hosts.values())[-1]
            self.hosts = Counter({host: rows - least for host, rows in self.hosts.items() if rows > least})
        return hosts, buckets


def _host(item: Item) -> str | None:
    try:
        return None if item.failure is not None else urls.parse(item.url).host
    except BadUrl:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """Who goes where: the lane of each bucket, and the lanes of each giant."""

    count: int
    of_bucket: Any
    giants: dict[str, list[int]]

    @classmethod
    def assign(cls, census: _Census, most: int, shard_rows: int) -> Lanes:
        """Largest first onto the least filled lane. There are at most as many lanes as full shards would be."""
        count = max(1, min(most, -(-census.total // shard_rows)))
        heap = [(0, lane) for lane in range(count)]
        buckets = census.buckets.copy()
        giants: dict[str, list[int]] = {}
        for host, rows in sorted(census.hosts.items(), key=lambda pair: (-pair[1], pair[0])):
            if rows * count <= census.total:
                break
            share = -(-rows * count // census.total)
            taken = [heapq.heappop(heap) for _ in range(share)]
            for filled, lane in taken:
                heapq.heappush(heap, (filled + rows // share, lane))
            giants[host] = [lane for _, lane in taken]
            buckets[census.bucket(host)] -= rows
        of_bucket = np.zeros(len(buckets), dtype=np.int32)
        for bucket in np.argsort(-buckets, kind="stable")[: np.count_nonzero(buckets)].tolist():
            filled, lane = heap[0]
            of_bucket[bucket] = lane
            heapq.heapreplace(heap, (filled + int(buckets[bucket]), lane))
        return cls(count=count, of_bucket=of_bucket, giants=giants)

    def spread(self, lane: int) -> tuple[tuple[str, int], ...]:
        """The giants of a lane, and in how many lanes each is."""
        return tuple((host, len(lanes)) for host, lanes in self.giants.items() if lane in lanes)


def _spill(plan: Plan, scratch: Folder, census: _Census) -> None:
    """Read the list once: every row to disk in list order, with its host and bucket, and the census of them all."""
    schema = pa.schema([*lane_schema(plan.schema), pa.field(_HOST, pa.string()), pa.field(_BUCKET, pa.int32())])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with scratch.open_new("list") as stream, pa.ipc.new_stream(stream, schema, options=options) as writer:
        for items in _batches(plan, scratch):
            hosts, buckets = census.add(items)
            columns = [*columns_of(items, plan.schema), pa.array(hosts, pa.string()), pa.array(buckets, pa.int32())]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _batches(plan: Plan, scratch: Folder) -> Iterator[list[Item]]:
    items: list[Item] = []
    for shard in plan.listed(scratch):
        reader: Reader = registry.lookup("reader", shard.source.format)(plan.config)
        for item in reader.read(shard, plan.schema):
            items.append(item)
            if len(items) == BATCH_ROWS:
                yield items
                items = []
        if shard.temporary:
            scratch.remove(scratch.name_of(shard.source.path))
    if items:
        yield items


def _sort_chunks(scratch: Folder, lanes: Lanes) -> None:
    """Every row gets its lane; chunks of rows are sorted by lane, and keep the list's order within it."""
    giants = list(lanes.giants)
    dealt = [0] * len(giants)
    writer = None
    with pa.OSFile(scratch.full("list")) as source, scratch.open_new("chunks") as stream:
        for chunk in _chunks(pa.ipc.open_stream(source)):
            lane = lanes.of_bucket[chunk.column(_BUCKET).to_numpy()]
            which = pc.fill_null(pc.index_in(chunk.column(_HOST), pa.array(giants, pa.string())), -1).to_numpy()
            for number, host in enumerate(giants):
                rows = np.flatnonzero(which == number)
                turns = (dealt[number] + np.arange(len(rows))) % len(lanes.giants[host])
                lane[rows] = np.asarray(lanes.giants[host], dtype=np.int32)[turns]
                dealt[number] += len(rows)
            kept = chunk.drop([_HOST, _BUCKET]).append_column(_LANE, pa.array(lane))
            table = kept.take(pa.array(np.argsort(lane, kind="stable"))).combine_chunks()
            writer = writer or pa.ipc.new_file(stream, table.schema)
            writer.write_table(table, max_chunksize=len(table))
        if writer is None:
            raise InputError("the list has no rows any more; it changed")
        writer.close()
    scratch.remove("list")


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= CHUNK_BYTES:
            yield pa.Table.from_batches(held).combine_chunks()
            held, size = [], 0
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _gather(plan: Plan, scratch: Folder, home: Folder, lane: int) -> tuple[int, int]:
    """Write one lane's file, a shard at a time; rows and bytes of it. The chunks are mapped, not read into memory."""
    schema, size = lane_schema(plan.schema), plan.config.number_sample_per_shard
    rows = 0
    with pa.memory_map(scratch.full("chunks")) as source:
        pieces = _pieces(pa.ipc.open_file(source), lane, size)
        first = next(pieces, None)
        if first is None:
            return 0, 0
        with home.open_new(_name(lane)) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            while first is not None:
                writer.write_table(first.select(schema.names), row_group_size=min(len(first), GROUP_ROWS))
                rows += len(first)
                first = next(pieces, None)
    return rows, home.size(_name(lane)) or 0


def _pieces(file: Any, lane: int, size: int) -> Iterator[pa.Table]:
    """The rows of a lane in runs of `size`, the last shorter."""
    held: list[pa.RecordBatch] = []
    count = 0
    for number in range(file.num_record_batches):
        chunk = file.get_batch(number)
        begin, end = np.searchsorted(chunk.column(_LANE).to_numpy(), [lane, lane + 1]).tolist()
        while begin < end:
            part = chunk.slice(begin, min(end - begin, size - count))
            held.append(part)
            begin += part.num_rows
            count += part.num_rows
            if count == size:
                yield pa.Table.from_batches(held)
                held, count = [], 0
    if held:
        yield pa.Table.from_batches(held)
