"""What comes in: headers and bodies, under a cap each and a budget together.

A body reserves its room before its first byte is taken. Where there is none the transfer pauses: libcurl stops reading
from its socket, the window of TCP fills, and the server waits. The clocks of a transfer stand still meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus

from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import Disallowed, DiskFull, FetchError, ProtocolError, TooLarge
from img2dataset_dist.fetchers.body import FileBody
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.robots import MAX_BYTES
from img2dataset_dist.fetchers.transfer import HEADERS, Transfer, Where
from img2dataset_dist.fetchers.walls import HEAD, STATUS
from img2dataset_dist.fetchers.wire import PAUSE
from img2dataset_dist.fetchers.x_robots import is_disallowed
from img2dataset_dist.model import Failure
from img2dataset_dist.spool import Spool

ERROR_BODY = 256 * 2**10
"""Bytes of an error page that are read away to keep its connection; a longer one is cut off."""

STEP = 256 * 2**10
"""Bytes that a body of unknown length reserves at first; the wire brings no more than this at once."""

FIRST_GUESS = 4.0 * 2**20
"""Bytes that a body is expected to have before one has come."""


class Intake:
    """See `wire.Receiver`.

    Args:
        config: the caps.
        agents: names by which an X-Robots-Tag may address us.
        budget: bytes in memory, or on the spool's disk.
        clock: seconds.
        spool: where bodies of rows go; None for memory.
        walls: keep the beginning of pages that may stand before the real one, for `Transfer.page`.
    """

    def __init__(
        self,
        config: FetchConfig,
        agents: tuple[str, ...],
        budget: Budget,
        clock: Callable[[], float],
        spool: Spool | None = None,
        *,
        walls: bool = False,
    ) -> None:
        self._spool = spool
        self._walls = walls
        self._cap = config.max_body_bytes
        self._agents = frozenset(agents)
        self._directives = frozenset(config.disallowed_header_directives)
        self._budget = budget
        self._clock = clock
        self.paused: deque[Transfer] = deque()
        self._holders: set[Transfer] = set()
        self._expected = FIRST_GUESS

    def has_room(self, under_way: int) -> bool:
        """Whether one more request may start: bodies that have not begun to come are expected to be as others were.

        A server that has sent its headers and then is made to wait for long gives up, so none is asked too early.
        """
        to_come = under_way - len(self._holders)
        return not under_way or (not self.paused and self._budget.has(round((to_come + 1) * self._expected)))

    def ended(self, transfer: Transfer) -> None:
        """A request is over; what its body has reserved stays so for the next stage."""
        if transfer.where is Where.PAUSED:
            self.paused.remove(transfer)
        self._holders.discard(transfer)
        if transfer.good and transfer.item is not None:
            size = max(len(transfer.body), transfer.reserved)
            self._expected += (size - self._expected) / (10 if size < self._expected else 2)

    def on_header(self, transfer: Transfer, line: bytes) -> int | None:
        """See `wire.Receiver.on_header`."""
        transfer.received += len(line)
        if line[0] in HEADERS:
            transfer.header(line)
        elif line in (b"\r\n", b"\n"):
            error = self._objection(transfer)
            if error is not None:
                transfer.failure = Failure.of(error)
                return 0
        return None

    def _objection(self, transfer: Transfer) -> FetchError | None:
        """What speaks against taking the body, now that all headers are there."""
        if transfer.status == HTTPStatus.SWITCHING_PROTOCOLS:
            return ProtocolError("the server switched to another protocol")
        if transfer.item is None or not transfer.good:
            return None
        if transfer.status == HTTPStatus.PARTIAL_CONTENT and not _was_asked_for(transfer):
            return ProtocolError("partial content that was not asked for")
        if transfer.robots and is_disallowed(transfer.robots, self._agents, self._directives):
            return Disallowed("Use of image disallowed by X-Robots-Tag directive")
        return TooLarge("body too large") if transfer.length > self._cap else None

    def on_body(self, transfer: Transfer, chunk: bytes) -> int | None:
        """See `wire.Receiver.on_body`."""
        body = transfer.body
        size = len(body) + len(chunk)
        if not transfer.good:
            transfer.discarded += len(chunk)
            if self._walls and transfer.status in STATUS:
                transfer.page += chunk[: max(0, HEAD - len(transfer.page))]
            if transfer.discarded > ERROR_BODY:
                return 0
        elif transfer.item is None:
            assert isinstance(body, bytearray)
            body += chunk[: MAX_BYTES - len(body)]
            transfer.cut = size > MAX_BYTES
            if transfer.cut:
                return 0
        elif size > self._cap:
            transfer.failure = Failure.of(TooLarge("body too large"))
            transfer.clear()
            return 0
        elif size > transfer.reserved and (self.paused or not self._reserve(transfer, size)):
            self._pause(transfer)
            return PAUSE
        elif isinstance(body, bytearray) and self._spool is None:
            body += chunk
        elif not self._store(transfer, chunk):
            return 0
        transfer.received += len(chunk)
        return None

    def _store(self, transfer: Transfer, chunk: bytes) -> bool:
        """More of a body that goes to a file; False when the disk does not take it."""
        if not isinstance(transfer.body, FileBody):
            assert self._spool is not None
            transfer.body = FileBody(self._spool)
        try:
            transfer.body.append(chunk)
        except OSError as error:
            transfer.failure = Failure.of(DiskFull(f"tmp_dir: {error.strerror}"))
            transfer.clear()
            return False
        return True

    def _pause(self, transfer: Transfer) -> None:
        """Let it wait behind the others; before them when it has room already, or all of them would grow at once."""
        transfer.where = Where.PAUSED
        transfer.was_paused = True
        transfer.paused_at = self._clock()
        if transfer.reserved:
            self.paused.appendleft(transfer)
        else:
            self.paused.append(transfer)

    def unpause(self) -> Iterator[Transfer]:
        """Transfers that may go on, one by one; their room is reserved."""
        while self.paused:
            transfer = self.paused[0]
            # When all that is taken is held by those who wait here, one of them must go on, or nobody ever will.
            stuck = self._budget.used <= sum(other.reserved for other in self.paused)
            if not self._reserve(transfer, len(transfer.body) + STEP, force=stuck):
                return
            self.paused.popleft()
            waited = self._clock() - transfer.paused_at
            transfer.began += waited
            transfer.window_start += waited if transfer.window_start else 0.0
            transfer.paused_at = 0.0
            transfer.where = Where.ON_THE_WIRE
            yield transfer

    def _reserve(self, transfer: Transfer, size: int, *, force: bool = False) -> bool:
        """Room for a body of `size` bytes so far: for all of it where its length is known."""
        expected = transfer.length if transfer.length > 0 else max(STEP, 2 * transfer.reserved)
        wanted = max(size, min(expected, self._cap))
        if not self._budget.take(wanted - transfer.reserved, force=force):
            return False
        transfer.reserved = wanted
        self._holders.add(transfer)
        return True


def _was_asked_for(transfer: Transfer) -> bool:
    """Whether partial content is the range that was asked for, or its beginning (RFC 9110, 15.3.7)."""
    asked = transfer.item.byte_range if transfer.item is not None else None
    if asked is None or transfer.span is None:
        return False
    first, last = transfer.span
    return first == asked[0] and last <= asked[1] and transfer.length in (-1, last - first + 1)
