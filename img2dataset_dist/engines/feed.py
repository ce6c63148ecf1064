"""Shards on their way to workers: what is next, and for whom."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator

from img2dataset_dist.model import Event, Receipt, Shard, ShardFailure

LOOK_AHEAD = 10_000
"""Shards that are looked at for one whose lane is free; they hold no data."""

TASK_SECONDS = 100.0
"""How long a group of shards should keep a worker: its pipeline runs through within a group, and stops between two."""

GROUP = 64
"""Most shards in a group."""

DEALING_SECONDS = 1.0
"""After so long, what there is to deal is dealt, rather than to wait for a list that is slow to read."""


class Feed:
    """Shards with some look-ahead, so that no worker is started for nothing, and no lane is at two workers.

    Attributes:
        waiting: workers that asked when there was nothing for them; to be asked for again after `free`.
    """

    def __init__(self, shards: Iterator[Shard]) -> None:
        self._shards = shards
        self._ahead: deque[Shard] = deque()
        self._open: dict[int, tuple[object, int]] = {}
        self.waiting: list[object] = []

    def has(self, count: int) -> bool:
        """Whether there are at least `count` more shards; looks no further."""
        while len(self._ahead) < count:
            shard = next(self._shards, None)
            if shard is None:
                return False
            self._ahead.append(shard)
        return True

    def next(self, worker: object = None) -> Shard | None:
        """The next shard that `worker` may have. None: for now, when `has(1)`, else for good.

        Who holds several lanes gets no more while somebody waits who has none, so that lanes do get free.
        """
        lanes = {lane for holder, lane in self._open.values() if holder is worker}
        busy = {lane for holder, lane in self._open.values() if holder is not worker}
        holders = [holder for holder, _ in self._open.values()]
        if len(lanes) > 1 and any(other not in holders for other in self.waiting):
            return None
        for number in range(LOOK_AHEAD):
            if not self.has(number + 1):
                return None
            shard = self._ahead[number]
            if shard.lane not in busy:
                del self._ahead[number]
                if shard.lane is not None:
                    self._open[shard.id] = worker, shard.lane
                return shard
        return None

    def free(self, shard_ids: Iterable[int]) -> None:
        """Nobody works on these shards any more."""
        for shard_id in shard_ids:
            self._open.pop(shard_id, None)


class Dealer:
    """Shards dealt out in groups to engines whose workers cannot ask for more, one group a task.

    A worker stops between two tasks: it waits for the slowest URL of the last shard while nothing else is under way.
    So a task gets several shards where they are short, but towards the end of a list few enough for all to have one.

    Args:
        shards: pulled only as there is room.
        window: most shards that are with workers at once.
        group: False deals one shard at a time.
    """

    def __init__(self, shards: Iterator[Shard], *, window: int, group: bool) -> None:
        self._feed = Feed(shards)
        self._window = window
        self._group = group
        self._open: dict[int, Shard] = {}
        self._seconds = 0.0
        self._heard = 0

    @property
    def room(self) -> int:
        """How many more shards may be with workers."""
        return self._window - len(self._open)

    def over(self) -> bool:
        """Whether all shards have come back, and there are no more."""
        return not self._open and not self._feed.has(1)

    def deal(self, slots: int, most: int, tasks: int = sys.maxsize) -> list[tuple[Shard, ...]]:
        """Groups for tasks that can start now, `most` shards in all; none when there is no room or no free lane.

        Args:
            slots: tasks that run at the same time.
            most: above the room there is, the room counts.
            tasks: most groups.
        """
        groups: list[tuple[Shard, ...]] = []
        left = min(most, self.room)
        deadline = time.monotonic() + DEALING_SECONDS
        while left > 0 and len(groups) < tasks and (time.monotonic() < deadline or len(groups) < slots):
            group = self._next_group(self._size(slots, left))
            if not group:
                break
            self._open |= {shard.id: shard for shard in group}
            groups.append(group)
            left -= len(group)
        return groups

    def heard(self, event: Event) -> bool:
        """Take the outcome of a shard; False when it was known already, and for what is no outcome."""
        if not isinstance(event, (Receipt, ShardFailure)) or event.shard_id not in self._open:
            return False
        del self._open[event.shard_id]
        self._feed.free([event.shard_id])
        if isinstance(event, Receipt):
            self._heard += 1
            self._seconds += max(0.0, event.stats.end_time - event.stats.start_time)
        return True

    def unheard(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those of `shards` that have no outcome yet."""
        return [shard for shard in shards if shard.id in self._open]

    def _size(self, slots: int, left: int) -> int:
        """Shards for the next group."""
        if not self._group or not self._heard:
            return 1
        size = min(GROUP, int(TASK_SECONDS / max(self._seconds / self._heard, 1e-3)))
        ahead = min(left, 2 * slots * size)
        while ahead > 1 and not self._feed.has(ahead):
            ahead //= 2
        return max(1, min(size, ahead // (2 * slots)))

    def _next_group(self, size: int) -> tuple[Shard, ...]:
        """A shard of a lane is alone, so that the lane is free again with it."""
        token = object()
        group: list[Shard] = []
        while len(group) < size and (shard := self._feed.next(token)) is not None:
            group.append(shard)
            if shard.lane is not None:
                break
        return tuple(group)
