"""Clips of a long mp4 by byte ranges (RFC 9110, section 14): its index, then what the clips need, and nothing else.

::

    head ──▶ more of the index, wherever it is ──▶ the ranges of the clips ──▶ a file with holes
      │200        │ no index that we can use             │ most of the file
      ▼           ▼                                      ▼
    all of it   the rest of it                         the rest of it
         anything that does not fit together: the whole file, as if nothing had been tried

What is fetched is at most `MOST` times the index and the bytes that ffmpeg needs, but for files so small that it does
not matter. What came once is not asked for again.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import DiskFull, TooLarge
from img2dataset_dist.fetchers.mp4_index import NoIndex, Span, find_index, read_index
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.model import Clip, Failure, Fetched, FetchFacts, Item, MediaFile
from img2dataset_dist.spool import Spool

PROBE = 8 * 2**10
"""Bytes of the first request: enough to see where the index of a long video is, and for that of a short one. Where it
is the end of the file they are of no use, so there must be few of them beside a clip of some 100 kB."""

SMALL = 256 * 2**10
"""A file of this size, or what is left of one behind its media, is fetched whole: one request in place of two."""

GAP = 128 * 2**10
"""Bytes between two ranges that are fetched along with them, if `MOST` allows it: they take as long as another request
does, a round trip of 50 ms at 20 Mbit/s."""

MOST = 1.3
"""How much may be fetched, as a multiple of what is needed."""

TAIL = 1 / 20
"""Of a file: what is left behind the media is its index, if it is less than this part, and is fetched at once."""

LONG_TAIL = 16 * 2**20
"""Bytes at which that becomes too much of a guess."""

HEADERS = 1024
"""Bytes that are fetched to see what a box in the midst of a file is."""

PICTURE = 32 * 2**10
"""Bytes behind an index that are fetched with it, at most; where it comes first, these are the first pictures."""

REQUESTS = 64
"""Ranges of one row. Beyond it gaps of any size are fetched along."""

LOOKUPS = 5000
"""Parts of one video, times its tracks; more would keep other transfers waiting while they are looked up."""

LARGEST = 2**43
"""Bytes of a file that can have holes on usual file systems."""

REFUSED = frozenset({"protocol", "http_400", "http_405", "http_406", "http_412", "http_416", "http_501"})
"""Failures with which servers answer to a Range header that they do not understand."""

REFUSED_LATER = REFUSED | {"http_403"}
"""And when they have answered to one before."""

_BLOCK = 2**20
_HEADER = 16
"""Bytes of the longest header of a box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What follows from a response.

    Attributes:
        requests: what is to be asked next, all at once.
        done: the outcome of the row; nothing of it is under way then. None while it is.
    """

    requests: list[Item] = field(default_factory=list)
    done: Fetched | None = None


@dataclass(slots=True, kw_only=True)
class _Row:
    """A row under way.

    Attributes:
        item: as it came to us.
        under_way: how many requests are.
        path: what is there of the file, each byte in its place; None before the first came.
        total, etag: of the whole file, as the first response said.
        have: what is there.
        wanted: what has to be; None before the index was read.
        present: the parts of the media that this is; None for all.
        facts: of the first response, with the sums of all.
        slowest: milliseconds that had passed on the network when the slowest request so far was over.
        failure: the first that came.
        odd: responses do not fit together.
        whole: the response that brought the whole file.
        last_try: the whole file was asked for.
    """

    item: Item
    under_way: int = 1
    path: str | None = None
    total: int = 0
    etag: str | None = None
    have: list[Span] = field(default_factory=list)
    wanted: list[Span] | None = None
    present: tuple[Clip, ...] | None = None
    facts: FetchFacts | None = None
    slowest: int = 0
    failure: Failure | None = None
    odd: bool = False
    whole: Fetched | None = None
    last_try: bool = False

    @property
    def size(self) -> int:
        """Bytes that came and are kept."""
        return sum(span.size for span in self.have)

    @property
    def spent(self) -> float:
        """Seconds of the row's `timeout` that are gone."""
        return self.slowest / 1000

    def peek(self, at: int) -> bytes | None:
        """Bytes of a header, if they are there."""
        end = min(at + _HEADER, self.total)
        if missing([Span(at, end)], self.have):
            return None
        return self.read(Span(at, end))

    def read(self, span: Span) -> bytes:
        """Bytes that are there."""
        assert self.path is not None
        with open(self.path, "rb") as file:
            file.seek(span.start)
            return file.read(span.size)


class RangePlanner:
    """Says what to request for rows with clips, and makes one file of what comes. Does no requests itself.

    Args:
        config: of the job.
        spool: where bodies come to, and where they are put together.
    """

    def __init__(self, config: JobConfig, *, spool: Spool) -> None:
        media = config.media
        # A hash of a file with holes says nothing. And ffmpeg, told to decode keyframes only, has few pictures of a
        # clip and reads on behind it, into the holes.
        self._on = (
            media.clip_ranges and media.media in ("video", "audio") and config.input.verify_hash is None
            and Recipe.of(media).frames != "keyframe"
        )  # fmt: skip
        self._cap = config.fetch.max_body_bytes
        self._spool = spool
        self._rows: dict[tuple[int, int], _Row] = {}

    def wants(self, item: Item) -> bool:
        """Whether only parts of what `item` names may be needed."""
        url = (item.url or "").strip().lower()
        return (
            self._on and bool(item.clips) and item.failure is None and item.byte_range is None
            and url.startswith(("http://", "https://"))
        )  # fmt: skip

    def begin(self, item: Item) -> list[Item]:
        """The first requests for a row; each response goes to `came`."""
        self._rows[item.shard_id, item.index] = _Row(item=item)
        return [_part_of(self._rows[item.shard_id, item.index], Span(0, PROBE))]

    def came(self, fetched: Fetched) -> Step:
        """What follows from a response, or from a request that failed."""
        key = fetched.item.shard_id, fetched.item.index
        row = self._rows[key]
        row.under_way -= 1
        _add_facts(row, fetched)
        self._take(row, fetched)
        if row.under_way:
            return Step()
        assert row.facts is not None
        row.facts = replace(row.facts, fetch_ms=row.slowest)
        try:
            step = self._next(row)
        except OSError as error:
            step = self._failed(row, _disk(error))
        row.under_way = len(step.requests)
        if step.done is not None:
            del self._rows[key]
        return step

    def _take(self, row: _Row, fetched: Fetched) -> None:
        """Put what came where it belongs."""
        file, facts, asked = fetched.file, fetched.facts, fetched.item.byte_range
        if file is None:
            row.failure = row.failure or fetched.failure
        elif asked is None or facts.http_status != HTTPStatus.PARTIAL_CONTENT:
            if row.whole is None:
                row.whole = fetched
            else:
                self._drop(file.path)
        elif not _fits(row, asked, file.size, facts):
            row.odd = True
            self._drop(file.path)
        else:
            row.total, row.etag = facts.total_bytes or 0, facts.etag
            try:
                self._keep(row, file, asked[0])
            except OSError as error:
                row.failure = _disk(error)

    def _keep(self, row: _Row, file: MediaFile, start: int) -> None:
        """The first piece becomes the file, the others are copied into it."""
        if row.path is None:
            row.path = file.path
        else:
            try:
                _copy(file.path, row.path, file.size, start)
            finally:
                self._drop(file.path)
        row.have = union([*row.have, Span(start, start + file.size)])

    def _next(self, row: _Row) -> Step:
        """All that was asked for is there or failed: what now?"""
        assert row.facts is not None
        if row.whole is not None:
            self._forget(row)
            return Step(done=replace(row.whole, item=row.item, facts=row.facts))
        if row.failure is not None:
            refused = row.failure.code in (REFUSED_LATER if row.have else REFUSED)
            return self._whole(row) if refused and not row.last_try else self._failed(row, row.failure)
        if row.odd:
            return self._whole(row)
        if row.wanted is None:
            try:
                more = self._look(row)
            except NoIndex:
                row.wanted = [Span(0, row.total)]
            else:
                if more:
                    return self._ask(row, more)
        assert row.wanted is not None
        return self._ask(row, self._joined(row, missing(row.wanted, row.have)))

    def _look(self, row: _Row) -> list[Span]:
        """What has to be seen of the index; when all of it is there, `wanted` and `present` are set from it.

        Raises:
            NoIndex: the whole file is needed.
        """
        if row.total <= SMALL or row.total > LARGEST:
            raise NoIndex("of no size that ranges are good for")
        found = find_index(row.peek, row.total)
        if isinstance(found, int):
            left = row.total - found
            known = left <= max(SMALL, min(row.total * TAIL, LONG_TAIL))
            return [Span(found, row.total if known else found + HEADERS)]
        # Readers go on to the next box, so its header must be there, too.
        index = Span(found.start, min(found.end + _HEADER, row.total))
        if missing([index], row.have):
            more = min(found.size // 8, PICTURE)
            return missing([Span(found.start, min(index.end + more, row.total))], row.have)
        clips = _merged(row.item.clips or ())
        tables = read_index(row.read(found), row.total)
        if len(clips) * len(tables.tracks) > LOOKUPS:
            raise NoIndex("very many clips")
        spans = tables.spans(clips)
        if (found.size + sum(span.size for span in spans)) * MOST >= row.total:
            raise NoIndex("most of the file is needed")
        row.wanted = union([*spans, index])
        row.present = clips
        return []

    def _joined(self, row: _Row, spans: list[Span]) -> list[Span]:
        """What to ask for to get those bytes: as few ranges as `MOST` allows."""
        assert row.wanted is not None
        needed = sum(span.size for span in row.wanted)
        useless = row.size + sum(span.size for span in spans) - needed
        return join(spans, spare=int((MOST - 1) * needed) - useless)

    def _ask(self, row: _Row, spans: list[Span]) -> Step:
        """Requests for so many bytes more; the row's outcome when there are none."""
        assert row.facts is not None
        if row.size + sum(span.size for span in spans) > self._cap:
            return self._failed(row, Failure.of(TooLarge("body too large")))
        assert row.path is not None
        if spans:
            return Step(requests=[_part_of(row, span) for span in spans])
        os.truncate(row.path, row.total)
        present = None if row.size == row.total else row.present
        file = MediaFile(path=row.path, size=row.size, present=present)
        return Step(done=Fetched(item=row.item, facts=row.facts, file=file))

    def _whole(self, row: _Row) -> Step:
        """Start again, without ranges."""
        self._forget(row)
        row.path, row.have, row.failure, row.odd, row.last_try = None, [], None, False, True
        return Step(requests=[replace(row.item, spent=row.spent)])

    def _failed(self, row: _Row, failure: Failure) -> Step:
        assert row.facts is not None
        self._forget(row)
        return Step(done=Fetched(item=row.item, facts=row.facts, failure=failure))

    def _forget(self, row: _Row) -> None:
        if row.path is not None:
            self._drop(row.path)

    def _drop(self, path: str) -> None:
        self._spool.remove(os.path.dirname(path))


def _fits(row: _Row, asked: tuple[int, int], size: int, facts: FetchFacts) -> bool:
    """Whether a piece is what was asked for, and of the same file as the others.

    It may be shorter (RFC 9110, 15.3.7), and at the end of the file it is; a server that sends nothing at all would be
    asked for ever.
    """
    total = facts.total_bytes
    if not total or not 0 < size <= min(asked[1] + 1, total) - asked[0]:
        return False
    return not row.have or (total, facts.etag) == (row.total, row.etag)


def _add_facts(row: _Row, fetched: Fetched) -> None:
    """The row's facts are those of its first response, or of what went wrong, with the sums of all."""
    new = fetched.facts
    row.slowest = max(row.slowest, new.fetch_ms or 0)
    if row.facts is None:
        row.facts = replace(new, fetch_ms=0)
        return
    base = row.facts if fetched.file is not None and new.http_status == HTTPStatus.PARTIAL_CONTENT else new
    row.facts = replace(
        base, bytes=(row.facts.bytes or 0) + (new.bytes or 0), attempts=row.facts.attempts + new.attempts,
        fetch_ms=row.facts.fetch_ms,
    )  # fmt: skip


def _disk(error: OSError) -> Failure:
    return Failure.of(DiskFull(f"tmp_dir: {error.strerror}"))


def _part_of(row: _Row, span: Span) -> Item:
    return replace(row.item, byte_range=(span.start, span.end - 1), spent=row.spent)


def union(spans: Iterable[Span]) -> list[Span]:
    """The bytes that are in any of them, in order; those that overlap or touch become one."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def missing(wanted: Sequence[Span], have: Sequence[Span]) -> list[Span]:
    """The bytes of `wanted` that are not in `have`; both are in order, and so is what comes out."""
    found = []
    number = 0
    for span in wanted:
        at = span.start
        while number < len(have) and have[number].end <= at:
            number += 1
        for other in have[number:]:
            if other.start >= span.end:
                break
            if at < other.start:
                found.append(Span(at, other.start))
            at = max(at, other.end)
        if at < span.end:
            found.append(Span(at, span.end))
    return found


def join(spans: list[Span], *, spare: int) -> list[Span]:
    """Fewer spans with all those bytes: the smallest gaps are filled first, as long as `spare` bytes are enough.

    Gaps above `GAP` stay, unless there are more than `REQUESTS` spans.
    """
    gaps = [after.start - before.end for before, after in itertools.pairwise(spans)]
    filled: set[int] = set()
    for number in sorted(range(len(gaps)), key=gaps.__getitem__):
        if len(spans) - len(filled) <= REQUESTS and (gaps[number] > GAP or gaps[number] > spare):
            break
        spare -= gaps[number]
        filled.add(number)
    joined = spans[:1]
    for number, span in enumerate(spans[1:]):
        if number in filled:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def _merged(clips: Iterable[Clip]) -> tuple[Clip, ...]:
    """Parts of the media, in order, those that overlap or touch joined."""
    joined: list[Clip] = []
    for clip in sorted(clips):
        if joined and clip.start <= joined[-1].end:
            joined[-1] = Clip(joined[-1].start, max(joined[-1].end, clip.end))
        else:
            joined.append(clip)
    return tuple(joined)


def _copy(source: str, target: str, size: int, offset: int) -> None:
    """Copy a file to a place in another one, which becomes longer where it has to.

    Raises:
        OSError: the disk is full or broken.
    """
    with open(source, "rb") as one, open(target, "r+b") as other:
        other.seek(offset)
        while size > 0:
            block = one.read(min(size, _BLOCK))
            if not block:
                raise OSError(errno.EIO, "a body is shorter than it was")
            other.write(block)
            size -= len(block)
