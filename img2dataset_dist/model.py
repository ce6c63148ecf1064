"""What flows between the stages: small, frozen, keyword-only records.

`Shard` goes to a worker and `Receipt`, `ShardFailure` or `Progress` come back; `Item`, `Fetched` and `Sample` never
leave the worker. Sizes are bytes, durations seconds unless a name ends in `_ms`, pictures width before height.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from img2dataset_dist.errors import RowError

SUCCESS = "success"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a row has no media: an error as data.

    `code` is stable (docs/errors.md), `status` is one of the peer's three, `message` is for people.
    """

    code: str
    message: str
    status: str
    transient: bool = False

    @classmethod
    def of(cls, error: RowError) -> Failure:
        """The failure that `error` stands for; its text is the message, else the code."""
        return cls(code=error.code, message=str(error) or error.code, status=error.status, transient=error.transient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One input file.

    Attributes:
        path: a full fsspec URL or an absolute path.
        format: the reader of its rows.
        columns: its column names, where a row does not name them itself (csv, tsv).
        rows: how many it has, when its head or foot says so (parquet).
    """

    path: str
    format: str
    columns: tuple[str, ...] | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Where the rows of one shard are; it holds no data.

    Attributes:
        id: number of the shard in the dataset; names its files.
        source: the file that all its rows come from.
        start: index of its first row in that file.
        rows: how many rows it has, at least 1.
        byte_range: for line formats, where its rows begin and end in the file; None for parquet.
        temporary: the source is a slice that we made ourselves; it is removed once the shard is committed.
        lane: shards of one lane are worked on by one worker at a time. None: anywhere, at any time.
        spread: hosts of this shard that are also in other lanes, and in how many lanes in all.
    """

    id: int
    source: Source
    start: int
    rows: int
    byte_range: tuple[int, int] | None = None
    temporary: bool = False
    lane: int | None = None
    spread: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row of the list.

    Attributes:
        shard_id: number of its shard.
        index: position in its shard, from 0.
        key: name of the sample in the dataset.
        url: as the list has it, None when missing.
        columns: additional columns, bounding boxes, `caption` and the hash to verify, by their output names.
        failure: set when the reader could not make sense of the row.
    """

    shard_id: int
    index: int
    key: str
    url: str | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFacts:
    """What the network said about one row. None where it never came to that.

    Attributes:
        fetch_ms: the last try as a whole, its redirects included; `dns_ms`, `connect_ms` (TCP), `tls_ms` and
            `first_byte_ms` (from the request) are of its last request, 0 where a kept connection made it unnecessary.
        x_robots_tag: the X-Robots-Tag headers of the last response, joined by "; ".
        robots_txt: what robots.txt said: allowed, disallowed, missing, unreachable. None when it was not asked.
    """

    http_status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    fetch_ms: int | None = None
    attempts: int = 0
    bytes: int | None = None
    dns_ms: int | None = None
    connect_ms: int | None = None
    tls_ms: int | None = None
    first_byte_ms: int | None = None
    x_robots_tag: str | None = None
    robots_txt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The outcome of one fetch: exactly one of `body` and `failure` is set."""

    item: Item
    facts: FetchFacts = FetchFacts()
    body: bytes | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row on its way through the transforms, and as the writers get it.

    Attributes:
        item: the row.
        facts: what the fetch said.
        body: the bytes as they came; b"" for a failed row.
        data: the bytes to store; the transforms replace it, None for a failed row.
        width, height: of `data` in pixels; original_width, original_height of `body`, both upright.
        exif: JSON text of the tags of `body`.
        hashes: algorithm name to hex digest of `body`.
        stored_hash: hex digest of `data`, by the same algorithm.
        phash: perceptual hash of the picture, 16 hex digits.
        original_format: what `body` is: a kind as `media.sniff` names it.
        extension: of `data` as a file; None for that of `encode_format`.
        failure: why there is no `data`.
    """

    item: Item
    facts: FetchFacts = FetchFacts()
    body: bytes = b""
    data: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    stored_hash: str | None = None
    phash: str | None = None
    original_format: str | None = None
    extension: str | None = None
    failure: Failure | None = None

    @property
    def status(self) -> str:
        """`success`, `failed_to_download` or `failed_to_resize`, as the peer names them."""
        return SUCCESS if self.failure is None else self.failure.status


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Totals of a shard or a job. `a + b` is associative and commutative.

    `messages` counts rows by error message ("success" for successes), `codes` by error code.
    """

    count: int = 0
    successes: int = 0
    failed_to_download: int = 0
    failed_to_resize: int = 0
    bytes_downloaded: int = 0
    bytes_stored: int = 0
    start_time: float = float("inf")
    end_time: float = float("-inf")
    messages: Mapping[str, int] = field(default_factory=dict)
    codes: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Stats) -> Stats:
        return Stats(
            count=self.count + other.count,
            successes=self.successes + other.successes,
            failed_to_download=self.failed_to_download + other.failed_to_download,
            failed_to_resize=self.failed_to_resize + other.failed_to_resize,
            bytes_downloaded=self.bytes_downloaded + other.bytes_downloaded,
            bytes_stored=self.bytes_stored + other.bytes_stored,
            start_time=min(self.start_time, other.start_time),
            end_time=max(self.end_time, other.end_time),
            messages=merge_counts(self.messages, other.messages),
            codes=merge_counts(self.codes, other.codes),
        )


OTHER_MESSAGES = "(other messages)"


def merge_counts(a: Mapping[str, int], b: Mapping[str, int], limit: int = 1000) -> dict[str, int]:
    """Sum two counters; beyond `limit` names, new ones are counted together so that memory is bounded."""
    out = dict(a)
    for name, count in b.items():
        slot = name if name in out or len(out) < limit else OTHER_MESSAGES
        out[slot] = out.get(slot, 0) + count
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof that a shard is complete; stored as NNNNN_stats.json, written last."""

    shard_id: int
    stats: Stats
    attempt: str
    fingerprint: str
    files: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFailure:
    """A shard that could not be finished in this attempt.

    Attributes:
        error: one line for people.
        trace: the whole story, when there is one.
        certain: False when a process died with several shards open, so that this one may be innocent.
    """

    shard_id: int
    error: str
    trace: str = ""
    certain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows finished since the last report of a worker: a sign of life, and for the eyes. Receipts are the truth."""

    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that a person should know now, in one line: the network is down, and is back."""

    text: str


Event = Receipt | ShardFailure | Progress | Notice
"""What an engine gives back while it runs."""
