"""The fetcher: rows in, bodies or failures out, `thread_count` requests under way.

This is the row's side of a fetch: admission, robots.txt, redirects, retries, what an end means. The bytes move in
`wire.py`, whose turn comes between a look at what may start (`_fill`) and a look at what has ended (`_settle`).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from img2dataset_dist import urls
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import (
    BadUrl,
    BlockedAddress,
    DiskFull,
    DnsError,
    HostDown,
    IgnoredHost,
    RowError,
)
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.addresses import is_public
from img2dataset_dist.fetchers.body import FileBody
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.deadlines import Deadlines
from img2dataset_dist.fetchers.health import Health
from img2dataset_dist.fetchers.hosts import Gate, Host
from img2dataset_dist.fetchers.intake import Intake
from img2dataset_dist.fetchers.limits import Limits
from img2dataset_dist.fetchers.link import Link
from img2dataset_dist.fetchers.objects import ObjectReader
from img2dataset_dist.fetchers.outcome import (
    BLOCKED,
    behind_a_wall,
    end_of,
    facts_of,
    is_ours,
    is_stale,
    overdue_as,
    sign_of,
)
from img2dataset_dist.fetchers.permission import Permission
from img2dataset_dist.fetchers.profiles import HostProfile
from img2dataset_dist.fetchers.redirects import HTTP, follow
from img2dataset_dist.fetchers.resolver import Answer, Resolver
from img2dataset_dist.fetchers.retry import RetryPolicy, Waiting, parse_retry_after
from img2dataset_dist.fetchers.robots import MAX_REDIRECTS
from img2dataset_dist.fetchers.slots import FileSlots
from img2dataset_dist.fetchers.transfer import REDIRECTS, Transfer, Where
from img2dataset_dist.fetchers.wire import AGENT, End, Extras, Wire
from img2dataset_dist.model import Failure, Fetched, FetchFacts, Item

AGENT_NAMES = (AGENT, "img2dataset")
"""Names by which a site may address us: our own, and the tool that site owners have known for longer."""

ANSWERS = ("connect", "dns", "reset", "tls", "protocol")
"""Failures that somebody out there had to tell us, so that our own network is up; unless they are `ours`."""

SILENCES = ("connect", "dns", "timeout_connect", "timeout_first_byte", "timeout_idle", "timeout_total")
"""Failures that are our own when this machine is cut off."""

DOWN = Failure.of(HostDown("the host does not answer"))

LOOKAHEAD = 10_000
"""Rows that may wait for their hosts before no more are read from the list."""

LONG_NAME = 200
"""Characters of a host name that leave no room for another label."""

UNLUCKY = 5
"""How often a row is fetched again that failed after we had made its server wait; that counts as no try."""

POLL = 0.02
"""Seconds after which a list that had nothing to give is asked again."""


class CurlFetcher:
    """See `Fetcher`. `clock` (seconds, monotonic) and `rand` (0 to 1) are arguments so that tests need not wait.

    `walls`: a page that stands before the real one fails as `site_blocked`, whatever its status, and is not tried
    again. `slots`: what is shared with the other workers of this machine, None when alone.
    """

    def __init__(
        self,
        config: FetchConfig,
        context: FetchContext | None = None,
        *,
        walls: bool = False,
        clock: Callable[[], float] = time.monotonic,
        rand: Callable[[], float] = random.random,
    ) -> None:
        context = context or FetchContext()
        self._config = config
        self._context = context
        self._clock = clock
        self._random = rand
        self._policy = RetryPolicy(retries=config.retries, backoff=config.retry_backoff, max_wait=config.retry_max_wait)
        self._deadlines = Deadlines.of(config)
        names = (*((config.user_agent_token.lower(),) if config.user_agent_token else ()), *AGENT_NAMES)
        self._robots = Permission(names, clock) if config.robots_txt == "respect" else None
        self.slots = FileSlots(context.slots) if context.slots else None
        self._limits = Limits(config, context)
        self._gate: Gate[Transfer] = Gate(self._limits.of, self.slots, neighbours=context.neighbours)
        self._budget = context.budget or Budget(size=2**62, rows=2**62)
        self._health: Health[Transfer] = Health(patience=config.network_patience, notify=context.notify)
        self._walls = walls
        self._intake = Intake(config, names, self._budget, clock, context.spool, walls=walls)
        self._wire = Wire(config, self._intake, clock)
        self._link = Link(clock=clock)
        self._resolver = Resolver(config.dns_servers, wake=self._wire.wake, timeout=self._deadlines.connect)
        self._objects: ObjectReader | None = None
        self._under_way: dict[Transfer, None] = {}
        self._resolving: dict[str, list[Transfer]] = {}
        self._waiting: Waiting[Transfer] = Waiting()
        self._ready: deque[Fetched] = deque()
        self._next_look = 0.0
        self._more = True
        self._stopped = False
        self._alive = clock()
        self._known, self._asked = "root-servers.net", ""

    def fetch(self, items: Iterator[Item | None]) -> Iterator[Fetched]:
        """See `Fetcher.fetch`."""
        self._more = True
        while not self._stopped and (self._more or self._unfinished()):
            self._alive = self._clock()
            self._fill(items)
            self._wire.turn(self._patience())
            self._settle()
            while self._ready:
                yield self._ready.popleft()

    def put(self, fetched: Fetched) -> None:
        """Have `fetch` give out a row that came by another way. In the thread that `fetch` is in."""
        self._ready.append(fetched)

    def wake(self) -> None:
        """Have `fetch` look for rows again at once; may be called from any thread."""
        self._wire.wake()

    def stop(self) -> None:
        """See `Fetcher.stop`."""
        self._stopped = True
        self._wire.wake()

    def close(self) -> None:
        """See `Fetcher.close`."""
        self._resolver.close()
        if self._objects is not None:
            self._objects.close()
        self._wire.close()
        if self.slots is not None:
            self.slots.close()

    @property
    def alive(self) -> float:
        """See `Fetcher.alive`."""
        return self._alive

    def profiles(self) -> list[HostProfile]:
        """See `Fetcher.profiles`."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return [self._limits.profile(host, now) for host in list(self._gate.hosts.values()) if host.requests]

    # what may start

    def _unfinished(self) -> bool:
        return bool(self._under_way or len(self._gate) or self._waiting or self._ready or self._robots or self._health)

    def _fill(self, items: Iterator[Item | None]) -> None:
        """Start whatever may start; read on in the list while that is not enough."""
        if self._health.down:
            self._probe(items)
            return
        while self._has_room() and self._start_one(items):
            pass

    def _has_room(self) -> bool:
        """Whether one more request may be under way: there is a slot, and there will be room for its body."""
        under_way = len(self._under_way)
        return under_way < self._config.thread_count and not self._budget.full and self._intake.has_room(under_way)

    def _start_one(self, items: Iterator[Item | None]) -> bool:
        """Start a request, or come nearer to it. Returns whether there may be more to do."""
        now = self._clock()
        taken = self._gate.take(now)
        if taken is not None:
            self._begin(*taken, now)
            return True
        retry = self._waiting.pop_due(now)
        if retry is not None:
            self._park(retry)
            return True
        # Rows that fail at once must not starve the transfers.
        if not self._more or self._parked() >= LOOKAHEAD or len(self._ready) > self._config.thread_count:
            return False
        try:
            item = next(items)
        except StopIteration:
            self._more = False
            return True
        if item is None:
            return False
        self._admit(item)
        return True

    def _probe(self, items: Iterator[Item | None]) -> None:
        """The network is down: try one row now and then, and a name that no cache knows below one that was there."""
        now = self._clock()
        if not self._health.probe(now):
            return
        self._asked = f"{int(1e9 * self._random())}.{self._known}"
        self._resolver.lookup(self._asked)
        held = self._health.one_held()
        if held is not None:
            self._fetch_again(held, first=True)
        before = len(self._under_way)
        while len(self._under_way) == before and self._start_one(items):
            pass

    def _fetch_again(self, transfer: Transfer, *, first: bool = False) -> None:
        """What failed while the network was down is tried anew, as if nothing had happened."""
        self._resolver.forget_failure(transfer.url.host)
        self._budget.give(transfer.reserved)
        transfer.reserved = 0
        transfer.attempts -= 1
        transfer.new_try()
        self._park(transfer, first=first)

    def _parked(self) -> int:
        return len(self._gate) + len(self._health) + len(self._robots or ())

    def _admit(self, item: Item) -> None:
        """A new row: to its host, or to its failure straight away."""
        if item.failure is not None:
            self._ready.append(Fetched(item=item, failure=item.failure))
            return
        try:
            url = urls.parse(item.url, self._config.allowed_schemes)
        except BadUrl as error:
            self._ready.append(Fetched(item=item, failure=Failure.of(error)))
            return
        self._park(Transfer(item, url))

    def _park(self, transfer: Transfer, *, first: bool = False) -> None:
        """Let a transfer wait for its host, if it may be asked at all."""
        host = transfer.url.host
        failure: Failure | None = None
        if self._context.table.rule(host).ignore:
            failure = Failure.of(IgnoredHost("the host is on the ignore list"))
        elif transfer.item is not None and self._robots is not None and transfer.url.scheme in HTTP:
            verdict = self._robots.verdict(transfer)
            if verdict is None:
                file = self._robots.wait(transfer)
                if file is not None:
                    self._park(file, first=True)
                return
            if verdict.crawl_delay:
                self._gate.limit(host, self._limits.share(host, 1 / verdict.crawl_delay))
            failure = self._robots.refusal(transfer)
        if failure is None and self._gate.refuses(host, self._clock()):
            failure = DOWN
        if failure is None:
            self._gate.park(host, transfer, first=first)
        else:
            self._refuse(transfer, failure)

    def _begin(self, host: Host[Transfer], transfer: Transfer, now: float) -> None:
        """A transfer has its slot: find the address, then send the request."""
        transfer.host = host
        transfer.began = now
        transfer.attempts += transfer.redirects == 0
        self._under_way[transfer] = None
        if transfer.url.scheme not in HTTP:
            self._read_object(transfer)
        elif self._context.table.rule(host.name).proxy:
            self._send(transfer)
        else:
            answer = self._resolver.lookup(host.name)
            if answer is None:
                transfer.where = Where.RESOLVING
                self._resolving.setdefault(host.name, []).append(transfer)
            else:
                self._resolved(transfer, answer, 0.0)

    def _read_object(self, transfer: Transfer) -> None:
        if self._objects is None:
            config = self._config
            self._objects = ObjectReader(
                timeout=config.timeout, max_body_bytes=config.max_body_bytes, wake=self._wire.wake
            )
        transfer.where = Where.READING
        self._objects.start(transfer, transfer.url.url)

    def _resolved(self, transfer: Transfer, answer: Answer, seconds: float) -> None:
        """The name's addresses are there, or not, after so many seconds; 0 when they were known."""
        transfer.dns = seconds
        transfer.facts = self._unsent(transfer, self._clock())
        if not answer.addresses:
            self._end(transfer, Failure.of(DnsError(answer.problem or "no address")), ours=answer.ours)
            return
        addresses = answer.addresses
        if not self._config.allow_private_addresses:
            addresses = tuple(a for a in addresses if is_public(a))
        if addresses:
            transfer.addresses = addresses
            self._send(transfer)
        else:
            self._end(transfer, Failure.of(BlockedAddress(BLOCKED)))

    def _unsent(self, transfer: Transfer, now: float) -> FetchFacts:
        """What there is to know about a request that libcurl does not have."""
        return FetchFacts(
            final_url=transfer.url.url,
            fetch_ms=round(self._deadlines.spent(transfer, now) * 1000),
            attempts=transfer.attempts,
            dns_ms=round(transfer.dns * 1000),
            robots_txt=transfer.robots_txt,
        )

    def _send(self, transfer: Transfer) -> None:
        transfer.where = Where.ON_THE_WIRE
        rule = self._context.table.rule(transfer.url.host)
        assert transfer.host is not None
        headers = rule.headers
        if transfer.item is not None and transfer.item.byte_range is not None:
            first, last = transfer.item.byte_range
            headers += (("Range", f"bytes={first}-{last}"), ("Accept-Encoding", "identity"))
        self._wire.start(transfer, Extras(headers, rule.proxy, self._gate.may_keep(transfer.host)))

    # what has ended

    def _patience(self) -> float:
        """How long a turn may wait for sockets, in seconds."""
        if self._ready or not (self._more or self._unfinished()):
            return 0.0
        now = self._clock()
        due = [now + 1.0, self._wire.next_timer(), self._health.next_look()]
        if self._under_way:
            due.append(self._next_look)
        if len(self._under_way) < self._config.thread_count:
            due += [self._waiting.next_due(), self._gate.next_start()]
            if (self._more and self._parked() < LOOKAHEAD) or self._budget.full:
                due.append(now + POLL)
        if self._intake.paused:
            due.append(now + POLL)
        return max(0.0, min(when for when in due if when is not None) - now)

    def _settle(self) -> None:
        """Take note of everything that came or ended, or should have by now."""
        for host, answer in self._resolver.collect():
            if host == self._asked and not answer.ours and self._health.down and self._health.resolver:
                for transfer in self._health.answered(host, self._clock()):
                    self._fetch_again(transfer)
            if answer.addresses and len(host) < LONG_NAME:
                self._known = host
            for transfer in self._resolving.pop(host, ()):
                if transfer.where is Where.RESOLVING and transfer in self._under_way:
                    self._resolved(transfer, answer, self._clock() - transfer.began)
        while self._wire.ended:
            self._ended(self._wire.ended.popleft())
        if self._objects is not None:
            for token, result, seconds in self._objects.collect():
                assert isinstance(token, Transfer)
                self._object_came(token, result, seconds)
        for transfer in self._intake.unpause():
            self._wire.go_on(transfer)
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + self._deadlines.look
            self._end_overdue(now)
        idle = not (self._under_way or self._more or len(self._gate) or self._waiting)
        for transfer in self._health.convicted(now, idle=idle):
            if transfer.item is None:
                self._robots_came(transfer)
            else:
                self._conclude(transfer)

    def _end_overdue(self, now: float) -> None:
        for transfer in list(self._under_way):
            error = self._deadlines.overdue(transfer, now)
            if error is None:
                continue
            if transfer.handle is not None:
                transfer.facts = facts_of(transfer, self._deadlines.spent(transfer, now))
                self._wire.end(transfer)
            elif transfer in self._resolving.get(transfer.url.host, ()):
                self._resolving[transfer.url.host].remove(transfer)
                transfer.dns = now - transfer.began
                transfer.facts = self._unsent(transfer, now)
            self._end(transfer, overdue_as(error, transfer), ours=transfer.where is Where.RESOLVING)

    def _ended(self, end: End) -> None:
        """One transfer is off the wire, one way or another."""
        transfer = end.transfer
        if is_stale(end, self._clock() - transfer.began):
            self._wire.end(transfer)
            transfer.fresh = True
            self._send(transfer)
            return
        failure = (behind_a_wall(transfer) if self._walls else None) or end_of(end)
        ours = is_ours(end)
        transfer.facts = facts_of(transfer, self._deadlines.spent(transfer, self._clock()))
        self._wire.end(transfer)
        self._end(transfer, failure, ours=ours)

    def _object_came(self, transfer: Transfer, result: bytes | RowError, seconds: float) -> None:
        size = None if isinstance(result, RowError) else len(result)
        transfer.facts = FetchFacts(
            final_url=transfer.url.url, fetch_ms=round(seconds * 1000), attempts=transfer.attempts, bytes=size
        )
        if isinstance(result, RowError):
            self._end(transfer, Failure.of(result))
        else:
            self._budget.take(len(result), force=True)
            transfer.reserved = len(result)
            transfer.body = bytearray(result)
            transfer.status = 200
            self._end(transfer, None)

    def _end(self, transfer: Transfer, failure: Failure | None, *, ours: bool = False) -> None:
        """A request is over: give its slot back and decide what comes next."""
        now = self._clock()
        del self._under_way[transfer]
        self._intake.ended(transfer)
        host = transfer.host
        assert host is not None
        transfer.host = None
        transfer.failure = failure
        cut = failure is not None and failure.code in SILENCES and self._link.cut
        ours = ours or cut
        sign = sign_of(transfer, failure, ours=ours)
        retry_after = parse_retry_after(transfer.retry_after) or 0.0
        refused = self._gate.done(
            host,
            sign,
            now,
            began=transfer.began,
            good=None if 300 <= transfer.status < 400 else failure is None,  # noqa: PLR2004
            latency=(transfer.facts.first_byte_ms or 0) / 1000,
            retry_after=min(retry_after, self._config.retry_max_wait),
        )
        for other in refused:
            self._refuse(other, DOWN)
        if not cut and (transfer.status or (failure is not None and failure.code in ANSWERS and not ours)):
            for other in self._health.answered(host.name, now, resolved=transfer.dns > 0):
                self._fetch_again(other)
        transfer.spent = self._deadlines.spent(transfer, now)
        moved = transfer.status in REDIRECTS and transfer.location is not None
        if moved and failure is not None and failure.code == f"http_{transfer.status}":
            self._redirect(transfer)
        elif ours:
            resolving = transfer.where is Where.RESOLVING
            self._health.hold(transfer, host.name, now, resolver=resolving and not cut, certain=cut)
        elif transfer.item is None:
            self._robots_came(transfer)
        elif transfer.was_paused and transfer.unlucky < UNLUCKY and transfer.failure and transfer.failure.transient:
            transfer.unlucky += 1
            self._fetch_again(transfer)
        else:
            self._conclude(transfer)

    def _redirect(self, transfer: Transfer) -> None:
        """Follow a redirect: another request, through the gate of its own host, on the clock of the same try."""
        robots = transfer.item is None
        try:
            transfer.new_request(follow(transfer, MAX_REDIRECTS if robots else self._config.max_redirects))
        except RowError as error:
            transfer.failure = Failure.of(error)
            if robots:
                self._robots_came(transfer)
            else:
                self._conclude(transfer)
        else:
            if transfer.url.host not in self._gate.hosts:
                self._limits.stranger(transfer.url.host)
            self._park(transfer, first=True)

    def _robots_came(self, transfer: Transfer) -> None:
        """A robots.txt is there, or will not be: those who wait for it go on."""
        assert self._robots is not None
        for waiting in self._robots.came(transfer):
            self._park(waiting)

    def _refuse(self, transfer: Transfer, failure: Failure) -> None:
        """A request that must not be made now."""
        transfer.failure = failure
        transfer.status, transfer.retry_after = 0, None
        if transfer.item is None:
            self._robots_came(transfer)
            return
        transfer.facts = FetchFacts(attempts=transfer.attempts, robots_txt=transfer.robots_txt)
        self._conclude(transfer)

    def _conclude(self, transfer: Transfer) -> None:
        """The try is over: its body, another try later, or its failure."""
        item, failure = transfer.item, transfer.failure
        assert item is not None
        self._budget.give(transfer.reserved - (0 if failure else len(transfer.body)))
        transfer.reserved = 0
        if failure is None:
            self._ready.append(self._whole(item, transfer))
            return
        transfer.clear()
        transfer.tries += 1
        wait = None
        if failure.transient:
            wait = self._policy.wait(transfer.tries, parse_retry_after(transfer.retry_after), self._random)
        if wait is None:
            self._ready.append(Fetched(item=item, facts=transfer.facts, failure=failure))
        else:
            self._resolver.forget_failure(transfer.url.host)
            transfer.new_try()
            self._waiting.add(self._clock() + wait, transfer)

    def _whole(self, item: Item, transfer: Transfer) -> Fetched:
        """The row, with the body that came; in a file where media go to files."""
        facts, body = transfer.facts, transfer.body
        transfer.body = bytearray()
        if isinstance(body, FileBody):
            return Fetched(item=item, facts=facts, file=body.finish())
        if self._context.spool is None:
            return Fetched(item=item, facts=facts, body=bytes(body))
        file = FileBody(self._context.spool)
        try:
            file.append(bytes(body))  # of an object store
        except OSError as error:
            file.drop()
            self._budget.give(len(body))
            return Fetched(item=item, facts=facts, failure=Failure.of(DiskFull(f"tmp_dir: {error.strerror}")))
        return Fetched(item=item, facts=facts, file=file.finish())
