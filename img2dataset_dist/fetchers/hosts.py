"""The gate before the network: which host may be asked next, and how fast.

Rows wait here by host. The next one comes from the least loaded host that may start now, so one slow host never
starves the others. A host is asked by so many transfers at once and so often as its limits say; its rate falls when it
answers 429 or 503 or stops answering, and climbs back slowly. One that does not answer at all, again and again, counts
as down: its rows wait for a moment, then one is tried, and if there is still no answer the others fail at once instead
of holding everybody up. Now and then one more is let through as a probe.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Sign(Enum):
    """What the end of a transfer says about its host."""

    GOOD = "good"  # it answered, with whatever status
    SLOW_DOWN = "slow_down"  # 429
    STRAINED = "strained"  # 503, or an answer that began and did not end in time
    SILENT = "silent"  # no answer in time
    BROKEN = "broken"  # no answer: the connection was refused or reset
    NOTHING = "nothing"  # it never came to a request, or the fault was ours


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """What this worker may do to one host.

    Attributes:
        connections: transfers at once, at least 1.
        rate: requests per second; infinity for no limit.
        start_rate: where to begin, from an earlier run; at most `rate`.
    """

    connections: int
    rate: float = math.inf
    start_rate: float = math.inf


class Slots(Protocol):
    """What all workers of a machine share: the connections of a host as slots, and its turns. Times as in `Gate`."""

    def acquire(self, host: str, limit: int) -> int | None:
        """One of `limit` slots of the host, by number; None while others have them all."""

    def release(self, host: str, slot: int) -> None:
        """Give a slot back."""

    def free_at(self, host: str) -> float:
        """When the host may be asked again, by whomever."""

    def turn(self, host: str, now: float, seconds: float) -> float:
        """Take the turn if the host is free, and let it be free again after so many seconds. Returns `free_at`."""

    def pause(self, host: str, until: float) -> None:
        """Nobody asks the host before that time."""


MIN_RATE = 0.1
"""Requests per second below which a host that says 429 is never slowed down."""

MIN_RATE_STRAINED = 1.0
"""The same for a host that only is slow: shards must end."""

DOWN_AFTER = 10
"""Answers in a row that did not come, after which a host counts as down."""

PAUSES = (5.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds until the first, second, ... probe of a host that is down. In the first its rows wait, then they fail."""

STRAIN = 0.2
"""Share of recent answers that must be bad before a host is slowed down for them."""

RECENT = 50.0
"""About how many answers are recent."""

MEASURED = 32.0
"""Requests over which the rate of a host is measured."""

SLOT_POLL = 0.02
"""Seconds after which a slot that other workers hold is asked for again."""

MAX_HOSTS = 100_000
"""Hosts that are remembered; beyond it those with the fewest requests are forgotten."""


@dataclass(slots=True, eq=False)
class Host(Generic[T]):
    """One host: what waits for it, and what was seen of it. Times are seconds of the gate's clock.

    There are as many of these as a list has hosts, so what is empty is None.
    """

    name: str
    limits: HostLimits
    rate: float
    queue: deque[T] | None = None
    active: int = 0
    slots: list[int] | None = None
    bucket: int = -1
    sleeping: bool = False
    next_start: float = 0.0
    recent: float = 0.0
    recent_since: float = 0.0
    answers: float = 0.0
    bad: float = 0.0
    slowed_at: float = -math.inf
    silent: int = 0
    silent_since: float = math.inf
    down_since: float = math.inf
    down_until: float = 0.0
    pauses: int = 0
    requests: int = 0
    successes: int = 0
    errors: int = 0
    slow_downs: int = 0
    seconds: float = 0.0
    answered: int = 0


class Gate(Generic[T]):
    """Not thread-safe: it lives in the fetch thread.

    Args:
        limits: what may be done to a host, asked once per host.
        slots: shared with the other workers of this machine; None when there are no others.
        neighbours: how many workers share them, this one included.
    """

    def __init__(self, limits: Callable[[str], HostLimits], slots: Slots | None = None, *, neighbours: int = 1) -> None:
        self._limits = limits
        self._slots = slots
        self._neighbours = neighbours
        self.hosts: dict[str, Host[T]] = {}
        self._ready: list[dict[Host[T], None]] = [{}]
        self._later: list[tuple[float, int, Host[T]]] = []
        self._order = itertools.count()
        self._parked = 0

    def __len__(self) -> int:
        return self._parked

    def park(self, name: str, thing: T, *, first: bool = False) -> None:
        """`thing` waits for its turn at the host `name`; `first` before all others there."""
        host = self._host(name)
        if host.queue is None:
            host.queue = deque()
        if first:
            host.queue.appendleft(thing)
        else:
            host.queue.append(thing)
        self._parked += 1
        if host.bucket < 0 and not host.sleeping:
            self._file(host, 0.0)

    def take(self, now: float) -> tuple[Host[T], T] | None:
        """What may start now, from the least loaded host; it counts as under way until `done`."""
        while self._later and self._later[0][0] <= now:
            host = heapq.heappop(self._later)[2]
            host.sleeping = False
            self._file(host, now)
        for bucket in self._ready:
            while bucket:
                host = next(iter(bucket))
                self._unfile(host)
                due = max(host.next_start, self._shared(host, now) if self._slots else 0.0)
                if due > now:
                    self._sleep(host, due)
                else:
                    return host, self._start(host, now)
        return None

    def _start(self, host: Host[T], now: float) -> T:
        assert host.queue
        thing = host.queue.popleft()
        if not host.queue:
            host.queue = None
        self._parked -= 1
        host.active += 1
        host.requests += 1
        if host.recent >= MEASURED:  # forget half of it
            host.recent, host.recent_since = host.recent / 2, (host.recent_since + now) / 2
        elif not host.recent:
            host.recent_since = now
        host.recent += 1
        host.next_start = max(now, host.next_start) + 1 / host.rate
        self._file(host, now)
        return thing

    def done(
        self,
        host: Host[T],
        sign: Sign,
        now: float,
        *,
        began: float,
        good: bool | None = False,
        latency: float = 0.0,
        retry_after: float = 0.0,
    ) -> list[T]:
        """A transfer of `host` ended.

        Args:
            host: as `take` gave it.
            sign: what the end says about the host.
            now: the time.
            began: when the transfer started; what started before the last slowing down says nothing new.
            good: whether it brought what was asked for, for the profile; so is `latency`. None: neither, a redirect.
            latency: seconds to the first byte.
            retry_after: seconds for which the host asked to be left alone.

        Returns:
            What waited for the host and must fail now, since it went down.
        """
        host.active -= 1
        self._trim(host)
        host.successes += good is True
        host.errors += good is False and sign is not Sign.NOTHING
        refused: list[T] = []
        if sign in (Sign.SILENT, Sign.BROKEN):
            refused = self._was_silent(host, now, began)
        elif sign is not Sign.NOTHING:
            host.silent, host.silent_since, host.pauses = 0, math.inf, 0
            host.answered += 1
            host.seconds += latency
        if sign is Sign.GOOD:
            self._speed_up(host, now)
        self._weigh(host, sign, now, began, retry_after)
        self._unfile(host)
        if not host.sleeping:
            self._file(host, now)
        return refused

    def refuses(self, name: str, now: float) -> bool:
        """Whether rows of this host should fail at once: it is down, and this row is not the probe."""
        host = self.hosts.get(name)
        if host is None or host.pauses < 2:  # noqa: PLR2004 (in the first pause they wait)
            return False
        return now < host.down_until or bool(host.active or host.queue)

    def may_keep(self, host: Host[T]) -> bool:
        """Whether the connection of the transfer that was taken last may stay open after it.

        Ours alone may: idle ones count at a server as any other, and those in slots are others' in a moment.
        """
        return host.active <= self._own(host)

    def limit(self, name: str, rate: float) -> None:
        """The host asked for no more than `rate` requests per second (robots.txt)."""
        host = self._host(name)
        if rate < host.limits.rate:
            host.limits = HostLimits(connections=host.limits.connections, rate=rate)
            host.rate = min(host.rate, rate)

    def next_start(self) -> float | None:
        """When the next host may start something; None when nothing waits for that."""
        return self._later[0][0] if self._later else None

    def _host(self, name: str) -> Host[T]:
        host = self.hosts.get(name)
        if host is None:
            if len(self.hosts) >= MAX_HOSTS:
                self._forget()
            limits = self._limits(name)
            host = self.hosts[name] = Host(name=name, limits=limits, rate=min(limits.rate, limits.start_rate))
        return host

    def _forget(self) -> None:
        """Drop half of the hosts, those with nothing under way and the fewest requests."""
        idle = sorted(
            (h for h in self.hosts.values() if not (h.active or h.queue or h.sleeping)),
            key=lambda host: host.requests,
        )
        for host in idle[: MAX_HOSTS // 2]:
            del self.hosts[host.name]

    def _shared(self, host: Host[T], now: float) -> float:
        """When we may ask the host as far as the other workers go; if now, its slot and its turn are ours."""
        assert self._slots is not None
        free = self._slots.free_at(host.name)
        if max(free, host.next_start) > now:
            return free
        if host.active - self._own(host) >= len(host.slots or ()):
            common = host.limits.connections - self._neighbours * self._own(host)
            slot = self._slots.acquire(host.name, common) if common else None
            if slot is None:
                return now + SLOT_POLL
            host.slots = [*(host.slots or ()), slot]
        if math.isinf(host.rate):
            return 0.0
        free = self._slots.turn(host.name, now, 1 / host.rate)
        if free > now:
            self._trim(host)
        return free

    def _room(self, host: Host[T]) -> bool:
        """Whether one more transfer may be under way: a single one while the host is down, the probe."""
        if host.pauses:
            return not host.active
        own = self._own(host)
        return host.active < (own if own * self._neighbours == host.limits.connections else host.limits.connections)

    def _own(self, host: Host[T]) -> int:
        """Connections that are ours alone: an equal part. What is left over is common, in slots."""
        return host.limits.connections // self._neighbours

    def _trim(self, host: Host[T]) -> None:
        """Give slots back that are not needed."""
        while self._slots and host.slots and len(host.slots) > max(0, host.active - self._own(host)):
            self._slots.release(host.name, host.slots.pop())

    def _was_silent(self, host: Host[T], now: float, began: float) -> list[T]:
        """No answer. Many of them, over more than one burst, and the host counts as down."""
        host.silent += 1
        burst = began < host.silent_since
        host.silent_since = min(host.silent_since, now)
        if host.pauses:
            if began < host.down_since:
                return []  # it was under way when the host went down
        elif burst or host.silent < DOWN_AFTER:
            return []
        host.down_since = now
        host.down_until = now + PAUSES[min(host.pauses, len(PAUSES) - 1)]
        host.next_start = max(host.next_start, host.down_until)
        host.pauses += 1
        if host.pauses == 1:
            return []
        refused = list(host.queue or ())
        host.queue = None
        self._parked -= len(refused)
        return refused

    def _weigh(self, host: Host[T], sign: Sign, now: float, began: float, retry_after: float) -> None:
        """Slow a host down when it asks for it, or when a good part of its recent answers is bad."""
        if sign is Sign.NOTHING or host.pauses:
            return
        if host.answers >= RECENT:
            host.answers, host.bad = host.answers / 2, host.bad / 2
        host.answers += 1
        if sign in (Sign.GOOD, Sign.BROKEN):
            return
        host.bad += 1
        host.slow_downs += 1
        strained = host.bad >= STRAIN * host.answers and (host.bad >= 2 or host.bad >= host.answers)  # noqa: PLR2004
        if sign is not Sign.SLOW_DOWN and not strained:
            return
        if retry_after:
            host.next_start = max(host.next_start, now + retry_after)
            if self._slots:
                self._slots.pause(host.name, host.next_start)
        if began < host.slowed_at:
            return
        host.slowed_at = now
        floor = MIN_RATE if sign is Sign.SLOW_DOWN else MIN_RATE_STRAINED
        host.rate = min(host.rate, max(floor, min(host.rate, self._measured(host, now)) / 2), host.limits.rate)
        if not retry_after:
            host.next_start = max(host.next_start, now + 1 / host.rate)

    def _speed_up(self, host: Host[T], now: float) -> None:
        """One more request per second for each second of successes, or a tenth more, whichever is more."""
        if host.rate >= host.limits.rate:
            return
        host.rate = min(host.limits.rate, host.rate + max(1.0, host.rate / 10) / max(host.rate, 1.0))
        if math.isinf(host.limits.rate) and host.rate > 4 * self._measured(host, now) and host.rate > 100:  # noqa: PLR2004
            host.rate = host.limits.rate  # the limit has not held anything back for long

    def _measured(self, host: Host[T], now: float) -> float:
        """Requests per second that were really made of late, if our neighbours do as we do."""
        return self._neighbours * host.recent / max(now - host.recent_since, 0.01)

    def _file(self, host: Host[T], now: float) -> None:
        """Put a host where `take` finds it, if it may start something now or later."""
        if host.bucket >= 0 or not host.queue or not self._room(host):
            return
        if host.next_start > now > 0:
            self._sleep(host, host.next_start)
            return
        while len(self._ready) <= host.active:
            self._ready.append({})
        host.bucket = host.active
        self._ready[host.bucket][host] = None

    def _unfile(self, host: Host[T]) -> None:
        if host.bucket >= 0:
            del self._ready[host.bucket][host]
            host.bucket = -1

    def _sleep(self, host: Host[T], until: float) -> None:
        host.sleeping = True
        heapq.heappush(self._later, (until, next(self._order), host))
