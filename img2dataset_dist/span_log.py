"""Which shards a text list has, as far as somebody has looked: kept, so that a run that goes on enters the list late.

A text file must be walked to know where its shards begin. Every so often what was found is put beside the spool, in
segments that are written whole and never changed::

    _img2dataset/input/spans-1-FINGERPRINT/000000000000.json    [[file, start, rows, begin, end], ...]
                                           000000000310.json    named by the number of its first shard

A segment says all about its shards, so a run reads only those from its first missing shard on, and walks from where
the last one ends. What was found after the last segment is found again: at most `SEGMENT_BYTES` of the list. Both
drivers of two on one folder write the same segments.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from img2dataset_dist.readers import Span
from img2dataset_dist.storage import Folder

SEGMENT_BYTES = 128 * 2**20
"""Text between the beginnings of two segments: two seconds or so of walking."""

SEGMENT_SPANS = 1024


class Found(NamedTuple):
    """A shard of a list: its number in the list, the number of its file, and where in it."""

    number: int
    file: int
    span: Span


class SpanLog:
    """What was found of one list. Losing it, or a part, costs time and nothing else."""

    def __init__(self, spool: Folder, fingerprint: str) -> None:
        self._folder = spool.sub(f"spans-1-{fingerprint}")
        self._held: list[Found] = []
        self._bytes = 0

    def behind(self, number: int) -> Iterator[Found]:
        """What is known of the shards from `number` on, and maybe some before, in order and without gaps."""
        starts = sorted(int(name[:12]) for name in self._folder.names() if re.fullmatch(r"\d{12}\.json", name))
        expected = max((start for start in starts if start <= number), default=None)
        while expected in starts:
            segment = self._read(expected)
            yield from segment
            if not segment:
                return
            expected += len(segment)

    def add(self, found: Found) -> None:
        """Keep this one; they come in order, behind those that `behind` gave."""
        self._held.append(found)
        begin, end = found.span.byte_range or (0, 0)
        self._bytes += end - begin
        if len(self._held) < SEGMENT_SPANS and self._bytes < SEGMENT_BYTES:
            return
        rows = [[each.file, each.span.start, each.span.rows, *(each.span.byte_range or ())] for each in self._held]
        with contextlib.suppress(OSError):  # whatever is wrong with the disk, the shards will tell
            self._folder.write_whole(f"{self._held[0].number:012d}.json", json.dumps(rows).encode())
        self._held, self._bytes = [], 0

    def _read(self, first: int) -> list[Found]:
        content = self._folder.read(f"{first:012d}.json")
        try:
            return [
                Found(number, file, Span(start, rows, (bounds[0], bounds[1]) if bounds else None))
                for number, (file, start, rows, *bounds) in enumerate(json.loads(content or b"[]"), first)
            ]
        except (ValueError, TypeError, IndexError):
            return []
