"""Threads that see rows through: each row has one outcome."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img2dataset_dist.errors import EmptyBody
from img2dataset_dist.model import Failure, Fetched, FetchFacts, Item, Sample
from img2dataset_dist.transforms.pool import Company, TransformPool

PATIENCE = 20.0


def row(index: int = 0, body: bytes | None = b"x") -> Fetched:
    item = Item(shard_id=0, index=index, key=f"{index:04d}", url=None)
    failure = Failure.of(EmptyBody()) if body is None else None
    return Fetched(item=item, facts=FetchFacts(http_status=200), body=body, failure=failure)


class Work:
    """Does as it is told, and remembers the thread and whether it was closed."""

    def __init__(self, deed: Callable[[Fetched], None]) -> None:
        self.deed = deed
        self.thread = threading.current_thread()
        self.closed = threading.Event()

    def __call__(self, rows: Sequence[Fetched]) -> Iterator[Sample]:
        assert threading.current_thread() is self.thread
        assert 1 <= len(rows) <= Company().rows
        for fetched in rows:
            self.deed(fetched)
            yield Sample(item=fetched.item, facts=fetched.facts, data=fetched.body)

    def close(self) -> None:
        self.closed.set()


class Bench:
    """A pool and all that came out of it."""

    def __init__(self, deed: Callable[[Fetched], None] = lambda _: None, threads: int = 1) -> None:
        self.works: list[Work] = []
        self.outcomes: queue.Queue[tuple[Fetched, Sample]] = queue.Queue()
        self.errors: queue.Queue[BaseException] = queue.Queue()

        def make() -> Work:
            self.works.append(Work(deed))
            return self.works[-1]

        self.pool = TransformPool(
            make, lambda *outcome: self.outcomes.put(outcome), threads=threads, broken=self.errors.put
        )

    def outcome(self) -> tuple[Fetched, Sample]:
        return self.outcomes.get(timeout=PATIENCE)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 300), threads=st.integers(1, 6))
def test_each_row_comes_out_once(rows: int, threads: int) -> None:
    bench = Bench(threads=threads)
    for index in range(rows):
        bench.pool.submit(row(index))
    found = [bench.outcome() for _ in range(rows)]
    assert sorted(fetched.item.index for fetched, _ in found) == list(range(rows))
    assert all(sample.item is fetched.item and sample.data == b"x" for fetched, sample in found)
    bench.pool.close()
    assert bench.outcomes.empty()
    assert bench.errors.empty()


def test_a_row_without_a_body_needs_no_work() -> None:
    bench = Bench(lambda _: pytest.fail("asked"))
    failed = row(3, body=None)
    bench.pool.submit(failed)
    fetched, sample = bench.outcome()
    assert fetched is failed
    assert (sample.failure, sample.facts) == (failed.failure, failed.facts)
    bench.pool.close()


def test_rows_that_wait_are_counted() -> None:
    gate = threading.Event()
    bench = Bench(lambda _: collections.deque([gate.wait(PATIENCE)], 0))
    for index in range(3):
        bench.pool.submit(row(index))
    assert bench.pool.waiting == 3
    gate.set()
    for _ in range(3):
        bench.outcome()
    bench.pool.close()
    assert bench.works[0].closed.wait(PATIENCE)
    assert bench.pool.waiting == 0


def test_what_work_raises_is_handed_on() -> None:
    def broken(_: Fetched) -> None:
        raise ZeroDivisionError

    bench = Bench(broken, threads=2)
    bench.pool.submit(row())
    assert isinstance(bench.errors.get(timeout=PATIENCE), ZeroDivisionError)
    for work in bench.works:
        assert work.closed.wait(PATIENCE)


def test_closing_drops_what_waits_and_closes_the_work() -> None:
    gate, begun = threading.Event(), threading.Event()

    def wait(_: Fetched) -> None:
        begun.set()
        gate.wait(PATIENCE)

    bench = Bench(wait)
    for index in range(5):
        bench.pool.submit(row(index))
    assert begun.wait(PATIENCE)
    bench.pool.close()
    gate.set()
    assert bench.works[0].closed.wait(PATIENCE)
    assert bench.outcomes.qsize() <= Company().rows
    assert bench.errors.empty()
