"""Counting rows: a mutable `Tally` inside a worker, and the JSON of a receipt."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from img2dataset_dist.errors import RESIZE, SUBSAMPLE
from img2dataset_dist.model import OTHER_MESSAGES, SUCCESS, Receipt, Sample, Stats

MAX_MESSAGES = 1000


class Tally:
    """Counts samples one by one; `freeze` gives the totals so far. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Start again from nothing, now."""
        self._start = self._clock()
        self.count = 0
        self._statuses: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._downloaded = 0
        self._samples = 0
        self._stored = 0

    def add(self, sample: Sample) -> None:
        """Count one finished row."""
        failure = sample.failure
        self.count += 1
        self._statuses[sample.status] += 1
        message = failure.message if failure else SUCCESS
        if message not in self._messages and len(self._messages) >= MAX_MESSAGES:
            message = OTHER_MESSAGES
        self._messages[message] += 1
        self._downloaded += sample.facts.bytes or 0
        if failure is not None:
            self._codes[failure.code] += 1
        for each in sample.pieces or (sample,):
            if each.failure is None:
                self._samples += 1
                self._stored += len(each.data or b"") + sum(part.size for part in each.parts)

    def freeze(self) -> Stats:
        """Totals from the last reset to now."""
        successes, to_resize, to_subsample = (self._statuses[status] for status in (SUCCESS, RESIZE, SUBSAMPLE))
        return Stats(
            count=self.count,
            successes=successes,
            failed_to_download=self.count - successes - to_resize - to_subsample,
            failed_to_resize=to_resize,
            failed_to_subsample=to_subsample,
            samples=self._samples,
            bytes_downloaded=self._downloaded,
            bytes_stored=self._stored,
            start_time=self._start,
            end_time=self._clock(),
            messages=dict(self._messages),
            codes=dict(self._codes),
        )


def receipt_to_json(receipt: Receipt) -> bytes:
    """NNNNN_stats.json: the peer's names first, then ours."""
    stats = receipt.stats
    content = {
        "count": stats.count,
        "successes": stats.successes,
        "failed_to_download": stats.failed_to_download,
        "failed_to_resize": stats.failed_to_resize,
        "duration": stats.end_time - stats.start_time,
        "start_time": stats.start_time,
        "end_time": stats.end_time,
        "status_dict": dict(stats.messages),
        "error_codes": dict(stats.codes),
        "failed_to_subsample": stats.failed_to_subsample,
        "samples": stats.samples,
        "bytes_downloaded": stats.bytes_downloaded,
        "bytes_stored": stats.bytes_stored,
        "shard_id": receipt.shard_id,
        "attempt": receipt.attempt,
        "fingerprint": receipt.fingerprint,
        "files": dict(receipt.files),
    }
    return json.dumps(content, indent=4).encode()


def receipt_from_json(shard_id: int, content: bytes) -> Receipt:
    """Read a receipt, also one that the peer wrote.

    Raises:
        ValueError: it is torn or no receipt at all.
    """
    try:
        data: dict[str, Any] = json.loads(content)
        stats = Stats(
            count=int(data["count"]),
            successes=int(data["successes"]),
            failed_to_download=int(data["failed_to_download"]),
            failed_to_resize=int(data.get("failed_to_resize", 0)),
            failed_to_subsample=int(data.get("failed_to_subsample", 0)),
            samples=int(data.get("samples", data["successes"])),
            bytes_downloaded=int(data.get("bytes_downloaded", 0)),
            bytes_stored=int(data.get("bytes_stored", 0)),
            start_time=float(data["start_time"]),
            end_time=float(data["end_time"]),
            messages=dict(data["status_dict"]),
            codes=dict(data.get("error_codes", {})),
        )
        return Receipt(
            shard_id=shard_id,
            stats=stats,
            attempt=str(data.get("attempt", "")),
            fingerprint=str(data.get("fingerprint", "")),
            files=dict(data.get("files", {})),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a stats file: {error}") from error
