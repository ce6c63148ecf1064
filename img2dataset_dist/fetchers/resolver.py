"""Names to addresses, thousands at once, without ever blocking the thread that asks.

c-ares does the asking (RFC 1035, 6724) in a thread of its own. All state here belongs to the fetch thread: what
c-ares' thread does is to put an answer into a queue and to call `wake`. In particular it starts no query, since c-ares
holds a lock while it calls back and takes the same lock to start one, behind a lock of pycares that the fetch thread
may hold just then.

c-ares repeats a question as it sees fit, and longer the slower its server was so far; so the deadline of a lookup is
kept here. What c-ares then still works on, in vain, is left behind with its channel once there is much of it.

A message that is no DNS makes c-ares close its socket and charge all questions on it with a failed try. So a name
whose answer looks bad is asked for again alone, in a channel of its own, before that is believed.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from socket import SOCK_STREAM
from weakref import WeakSet

import pycares

from img2dataset_dist.errors import ConfigError

MAX_ADDRESSES = 16
"""Addresses of one name that are kept; nobody tries more."""

MAX_NAMES = 100_000
"""Names whose answers are kept."""

MAX_IN_FLIGHT = 1000
"""Questions that c-ares works on at once; more would only overflow the buffers of sockets, here and in resolvers."""

CHANNEL_LIFE = 5000
"""Questions after which c-ares starts afresh, since it has a cache of its own that nothing else bounds."""

MAX_ALONE = 8
"""Names that are asked for alone, at once."""

SHORTEST, LONGEST = 60.0, 3600.0
"""Seconds for which addresses are kept, whatever their time to live says."""

MISSING_FOR, FAILED_FOR = 60.0, 5.0
"""Seconds for which it is kept that a name has no address, and that nobody could tell."""

_NEVER = float("inf")
_TRIES = 5
_FIRST_TRY = 0.1
"""Of the time for a lookup, how much the first try may take while c-ares does not know its server's speed."""

_RECEIVE_BUFFER = 2**20
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,253}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is known about a name: its addresses, or why there are none.

    Attributes:
        addresses: textual IPv4 and IPv6 addresses in the order to try them (RFC 6724).
        problem: a short and stable text, without the name.
        ours: the fault looks like ours: no resolver could be reached, answered in time, or works for us.
    """

    addresses: tuple[str, ...] = ()
    problem: str | None = None
    ours: bool = False


_SILENCE = Answer(problem="no answer from the resolver", ours=True)
_MALFORMED = Answer(problem="malformed host name")
_BROKEN = Answer(problem="name lookup failed", ours=True)
"""c-ares could not do its work: no memory, no sockets."""

_MISSING = {
    pycares.errno.ARES_ENOTFOUND: Answer(problem="no such host"),
    pycares.errno.ARES_ENODATA: Answer(problem="no address"),
    pycares.errno.ARES_EBADNAME: _MALFORMED,
}
_FAILURES = {
    pycares.errno.ARES_ESERVFAIL: Answer(problem="server failure"),
    pycares.errno.ARES_EFORMERR: Answer(problem="bad answer from the resolver"),
    pycares.errno.ARES_ENOTIMP: Answer(problem="bad answer from the resolver"),
    pycares.errno.ARES_EBADRESP: Answer(problem="bad answer from the resolver"),
    pycares.errno.ARES_EREFUSED: Answer(problem="refused by the resolver", ours=True),
    pycares.errno.ARES_ECONNREFUSED: Answer(problem="no resolver could be reached", ours=True),
    pycares.errno.ARES_ETIMEOUT: _SILENCE,
    26: Answer(problem="no resolver is configured", ours=True),  # ARES_ENOSERVER, which pycares has no name for
}


_CONTAGIOUS = (pycares.errno.ARES_EBADRESP, pycares.errno.ARES_ECONNREFUSED)
"""What c-ares also says to names that only shared a socket with the one at fault."""


class _Ask:
    """One question. It is its own identity: a name may be asked for again while an old question is still out."""

    __slots__ = ("alone", "channel", "deadline", "host", "result", "status")

    def __init__(self, host: str, deadline: float) -> None:
        self.host = host
        self.deadline = deadline
        self.alone = False
        self.channel: pycares.Channel | None = None
        self.result: pycares.AddrInfoResult | None = None
        self.status: int | None = None


class Resolver:
    """Looks up names. Its methods are for one thread.

    Args:
        servers: resolvers as "address", "address:port" or "[IPv6 address]:port"; None: those of the system.
        wake: called when `collect` has something to give, in another thread or inside a call of `lookup` or
            `collect`; never after `close`.
        timeout: seconds after which a lookup ends without an answer, give or take a quarter.
        clock: seconds, monotonic.

    Raises:
        ConfigError: one of the servers is no address.
    """

    def __init__(
        self,
        servers: tuple[str, ...] | None,
        *,
        wake: Callable[[], None],
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._wake = wake
        self._timeout = timeout
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._asked: OrderedDict[str, _Ask] = OrderedDict()  # without an answer so far; the earliest deadline is first
        self._queue: deque[_Ask] = deque()  # not given to c-ares yet; some may be past their deadline
        self._suspects: deque[_Ask] = deque()  # likewise, of those that are to be asked for alone
        self._cells: list[pycares.Channel] = []  # idle channels for one question each
        self._cell_count = 0
        self._finished: deque[_Ask] = deque()
        self._earliest = _NEVER
        self._lock = threading.Lock()
        self._woken = False
        self._closed = threading.Event()
        self._channels: WeakSet[pycares.Channel] = WeakSet()  # those that were left behind live until they are done
        self._start_afresh()
        threading.Thread(target=self._watch, name="resolver-deadlines", daemon=True).start()

    def lookup(self, host: str) -> Answer | None:
        """The addresses of a host if they are known. None: they will come by `collect`."""
        known = self._cache.get(host)
        if known is not None and self._clock() < known[0]:
            return known[1]
        if host in self._asked:
            return None
        if (host[-1:].isdigit() or ":" in host) and (literal := _literal(host)) is not None:
            return literal
        if not _NAME.fullmatch(host):
            return _MALFORMED
        ask = self._asked[host] = _Ask(host, self._clock() + self._timeout)
        self._earliest = min(self._earliest, ask.deadline)
        self._queue.append(ask)
        self._start()
        return None

    def forget_failure(self, host: str) -> None:
        """Ask for a host again the next time if nobody could tell; that it does not exist is kept."""
        known = self._cache.get(host)
        if known is not None and not known[1].addresses and known[1] not in _MISSING.values():
            del self._cache[host]

    def collect(self) -> list[tuple[str, Answer]]:
        """What was found out since the last call: names with their answers."""
        if self._closed.is_set():
            return []
        self._woken = False  # before the queue is read, or an answer could slip in between and nobody be woken
        found: list[tuple[str, Answer]] = []
        while self._finished:
            ask = self._finished.popleft()
            late = self._asked.get(ask.host) is not ask
            if ask.channel in (self._channel, self._searching):
                self._flying -= 1
                self._overdue -= late
            elif ask.alone and ask.channel is not None and not late:
                self._cells.append(ask.channel)
            if not late and not self._ask_again(ask):
                del self._asked[ask.host]
                found.append((ask.host, self._keep(ask)))
        now = self._clock()
        while self._asked and (ask := next(iter(self._asked.values()))).deadline <= now:
            del self._asked[ask.host]
            self._give_up(ask)
            found.append((ask.host, self._remember(ask.host, _SILENCE, FAILED_FOR)))
        self._earliest = next(iter(self._asked.values())).deadline if self._asked else _NEVER
        self._start()
        return found

    def close(self) -> None:
        """End at once; what is under way is dropped."""
        with self._lock:  # not in the middle of a call of `wake`
            self._closed.set()
        for channel in list(self._channels):
            channel.close()  # in a thread of pycares, which may take its time

    def _ask_again(self, ask: _Ask) -> bool:
        """Whether what came is no reason to end a question; then it is put back."""
        if ask.status == pycares.errno.ARES_ECANCELLED:  # it went down with its channel
            self._queue.appendleft(ask)
            return True
        if ask.status in _CONTAGIOUS and not ask.alone:
            ask.alone = True
            ask.channel = None
            self._suspects.append(ask)
            return True
        return False

    def _give_up(self, ask: _Ask) -> None:
        """The deadline of a question is over, while c-ares may still work on it."""
        if ask.channel is None:
            return
        if ask.alone:
            ask.channel.close()
            self._cell_count -= 1
        elif ask.channel in (self._channel, self._searching):
            self._overdue += 1

    def _start(self) -> None:
        """Give c-ares what waits, as far as it may have it."""
        if self._overdue >= MAX_IN_FLIGHT // 2:
            self._channel.close()  # what is not overdue comes back as cancelled and is asked again
            self._start_afresh()
        elif self._started >= CHANNEL_LIFE:
            self._start_afresh()
        while self._queue and self._flying < MAX_IN_FLIGHT:
            ask = self._queue.popleft()
            if self._asked.get(ask.host) is ask:
                self._flying += 1
                self._started += 1
                self._ask(ask, self._channel_for(ask.host))
        while self._suspects and (self._cells or self._cell_count < MAX_ALONE):
            ask = self._suspects.popleft()
            if self._asked.get(ask.host) is ask:
                if not self._cells:
                    self._cells.append(self._new_channel(pycares.ARES_FLAG_NOSEARCH))
                    self._cell_count += 1
                self._ask(ask, self._cells.pop())

    def _start_afresh(self) -> None:
        """A new channel; the old one finishes what it has and is gone."""
        self._channel = self._new_channel(pycares.ARES_FLAG_NOSEARCH)
        self._searching: pycares.Channel | None = None
        self._flying = self._overdue = self._started = 0

    def _new_channel(self, flags: int) -> pycares.Channel:
        # never pass `lookups` or `resolvconf_path`: pycares 5.2 frees these texts before c-ares reads them
        try:
            channel = pycares.Channel(
                flags=flags | pycares.ARES_FLAG_EDNS,
                timeout=self._timeout * _FIRST_TRY,
                tries=_TRIES,
                servers=self._servers,
                socket_receive_buffer_size=_RECEIVE_BUFFER,
            )
        except (pycares.AresError, UnicodeError):
            if self._servers is None:
                raise
            raise ConfigError(f"dns_servers: {', '.join(self._servers)} are not addresses of resolvers") from None
        self._channels.add(channel)
        return channel

    def _channel_for(self, host: str) -> pycares.Channel:
        if "." in host:
            return self._channel
        if self._searching is None:  # only a name without a dot may be short for one in a domain of resolv.conf
            self._searching = self._new_channel(0)
        return self._searching

    def _ask(self, ask: _Ask, channel: pycares.Channel) -> None:
        ask.channel = channel

        def finished(result: pycares.AddrInfoResult | None, status: int | None) -> None:
            ask.result, ask.status = result, status
            self._finished.append(ask)
            self._call_wake()

        channel.getaddrinfo(ask.host, None, type=SOCK_STREAM, callback=finished)

    def _keep(self, ask: _Ask) -> Answer:
        """What a finished question says, also put into the cache."""
        if ask.result is not None and ask.result.nodes:
            nodes = ask.result.nodes
            addresses = dict.fromkeys(os.fsdecode(node.addr[0]) for node in nodes)
            seconds = min(max(min(node.ttl for node in nodes), SHORTEST), LONGEST)
            return self._remember(ask.host, Answer(addresses=tuple(addresses)[:MAX_ADDRESSES]), seconds)
        status = pycares.errno.ARES_ENODATA if ask.status is None else ask.status
        if status in _MISSING:
            return self._remember(ask.host, _MISSING[status], MISSING_FOR)
        return self._remember(ask.host, _FAILURES.get(status, _BROKEN), FAILED_FOR)

    def _remember(self, host: str, answer: Answer, seconds: float) -> Answer:
        self._cache.pop(host, None)  # so that the oldest stay first
        self._cache[host] = self._clock() + seconds, answer
        if len(self._cache) > MAX_NAMES:
            self._cache.popitem(last=False)
        return answer

    def _call_wake(self) -> None:
        """Wake the fetch thread, once for all answers until it collects them."""
        if self._woken:
            return
        with self._lock:
            if not self._closed.is_set():
                self._woken = True
                self._wake()

    def _watch(self) -> None:
        """In a thread: call `wake` when deadlines are over, which c-ares does not know of."""
        while not self._closed.wait(max(self._timeout / 4, 0.05)):
            if self._earliest <= self._clock():
                self._call_wake()


@functools.lru_cache(maxsize=4096)
def _literal(host: str) -> Answer | None:
    """The answer for a host that is an address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return Answer(addresses=(host,))
