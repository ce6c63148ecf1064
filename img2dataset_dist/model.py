"""What flows between the stages: small, frozen, keyword-only records.

`Shard` goes to a worker and `Receipt`, `ShardFailure` or `Progress` come back; `Item`, `Fetched` and `Sample` never
leave the worker. Sizes are bytes, durations seconds unless a name ends in `_ms`, pictures width before height.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
        number: of a dataset's tar: the id that its shard has, and keeps.
        beside: of a dataset's tar: the parquet file with its rows, when there is one.
    """

    path: str
    format: str
    columns: tuple[str, ...] | None = None
    rows: int | None = None
    number: int | None = None
    beside: str | None = None


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


class Clip(NamedTuple):
    """A part of a video or of a sound, in seconds from its beginning; `start` < `end`."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFacts:
    """What the network said about one row. None where it never came to that.

    Attributes:
        bytes: of the body; of all bodies where a row took several requests.
        total_bytes: of the whole resource, where only a part was asked for and the server said it.
        etag: the ETag header of the last response.
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
    total_bytes: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where a dataset that is read again has a row.

    Attributes:
        tar: a full fsspec URL or an absolute path; the sample is called like the row, `Item.key`.
        facts: what was known of the row's fetch when the dataset was made.
        part: of a clip that an earlier job made: where it is in its source, in seconds; None for all of it.
        last: whether no other row of this tar follows.
    """

    tar: str
    facts: FetchFacts = FetchFacts()
    part: Clip | None = None
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row of the list.

    Attributes:
        shard_id: number of its shard.
        index: position in its shard, from 0.
        key: name of the sample in the dataset.
        url: as the list has it, None when missing.
        columns: additional columns, bounding boxes, `caption` and the hash to verify, by their output names.
        clips: start and end of each wanted part of the media, in seconds; None for all of it.
        byte_range: first and last byte of the resource that are wanted, as RFC 9110 counts them; None for all.
        spent: seconds of `timeout` that earlier requests for the same row have taken.
        stored: of a row whose media lie in a dataset: where; its `url` is only carried along.
        failure: set when the reader could not make sense of the row, or it had failed already.
    """

    shard_id: int
    index: int
    key: str
    url: str | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    clips: tuple[Clip, ...] | None = None
    byte_range: tuple[int, int] | None = None
    spent: float = 0.0
    stored: Stored | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFile:
    """Media on the local disk, in a folder of its row's own that is removed when the row is done (`spool.py`).

    Attributes:
        path: the file; it lies in the row's folder.
        size: in bytes, as they came, of it and the files beside it; a sparse file has more.
        present: parts of it that are there, in seconds; None for all. Of a long video only those that are wanted may
            have been fetched: the rest of the file is holes.
        sound: a second file with the sound, where a site keeps it apart.
        subtitles: language to path of a VTT or SRT file.
        page: what the site says of the video, as yt-dlp gives it, for `yt_meta_dict`.
    """

    path: str
    size: int
    present: tuple[Clip, ...] | None = None
    sound: str | None = None
    subtitles: Mapping[str, str] = field(default_factory=dict)
    page: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The outcome of one fetch: exactly one of `body`, `file` and `failure` is set.

    `beside` are other parts of the sample in an earlier dataset, which go on as they are.
    """

    item: Item
    facts: FetchFacts = FetchFacts()
    body: bytes | None = None
    file: MediaFile | None = None
    beside: tuple[Part, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a sample, besides its JSON and its caption: a video, its sound, its subtitles.

    Attributes:
        extension: without a dot; unique in its sample.
        path: a file in the row's folder, or
        data: its bytes.
        size: in bytes.
    """

    extension: str
    size: int
    path: str | None = None
    data: bytes | None = None


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
        file: instead of `body`, media that came as a file.
        parts: instead of `data`, files in the order in which they are stored.
        extra: values of the columns that `Layout` has for other media than images.
        pieces: the samples that the row became, each with a key of its own and no pieces; empty: it is its own.
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
    file: MediaFile | None = None
    parts: tuple[Part, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    pieces: tuple[Sample, ...] = ()
    failure: Failure | None = None

    @property
    def status(self) -> str:
        """`success`, `failed_to_download`, `failed_to_resize` (of images) or `failed_to_subsample` (of other media)."""
        return SUCCESS if self.failure is None else self.failure.status


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Totals of a shard or a job. `a + b` is associative and commutative.

    Rows of the list are counted: `count` = successes + failed to download, to resize or to subsample. A row of which
    several samples were made is one success; `samples` are those that were stored.
    `messages` counts rows by error message ("success" for successes), `codes` by error code.
    """

    count: int = 0
    successes: int = 0
    failed_to_download: int = 0
    failed_to_resize: int = 0
    failed_to_subsample: int = 0
    samples: int = 0
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
            failed_to_subsample=self.failed_to_subsample + other.failed_to_subsample,
            samples=self.samples + other.samples,
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
