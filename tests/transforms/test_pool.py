"""Threads under a deadline: each row has one outcome, and what is stuck is left behind."""

from __future__ import annotations

import collections
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img2dataset_dist.model import Fetched, FetchFacts, Item, Sample
from img2dataset_dist.transforms.pool import TransformPool, max_lost

PATIENCE = 20.0


def row(index: int = 0) -> Fetched:
    item = Item(shard_id=0, index=index, key=f"{index:04d}", url=None)
    return Fetched(item=item, facts=FetchFacts(http_status=200), body=b"x")


def finished(fetched: Fetched) -> Sample:
    return Sample(item=fetched.item, facts=fetched.facts, data=fetched.body)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def unexpected(error: BaseException) -> None:
    raise error


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A pool whose work waits for a gate of each row, a clock that tests turn, and all that came out."""

    def __init__(self, threads: int = 1, timeout: float = 10) -> None:
        self.clock = Clock()
        self.gates: dict[int, threading.Event] = collections.defaultdict(threading.Event)
        self.begun: queue.Queue[tuple[int, threading.Thread]] = queue.Queue()
        self.outcomes: queue.Queue[tuple[Fetched, Sample]] = queue.Queue()
        self.errors: queue.Queue[BaseException] = queue.Queue()
        self.pool = TransformPool(
            self.work,
            lambda fetched, sample: self.outcomes.put((fetched, sample)),
            threads=threads,
            timeout=timeout,
            broken=self.errors.put,
            clock=self.clock,
        )

    def work(self, fetched: Fetched) -> Sample:
        self.begun.put((fetched.item.index, threading.current_thread()))
        assert self.gates[fetched.item.index].wait(PATIENCE)
        return finished(fetched)

    def submit(self, *indices: int) -> None:
        for index in indices:
            self.gates[index]
            self.pool.submit(row(index))

    def next_begun(self) -> tuple[int, threading.Thread]:
        return self.begun.get(timeout=PATIENCE)

    def next_outcome(self) -> tuple[int, str]:
        fetched, sample = self.outcomes.get(timeout=PATIENCE)
        assert sample.item is fetched.item
        assert sample.facts is fetched.facts
        return fetched.item.index, sample.failure.code if sample.failure else "success"


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(threads: int = 1, timeout: float = 10) -> Bench:
        made.append(Bench(threads, timeout))
        return made[-1]

    yield make
    for one in made:
        one.pool.close()
        for gate in list(one.gates.values()):
            gate.set()


def test_rows_are_worked_on_by_that_many_threads_at_once(bench: Callable[..., Bench]) -> None:
    b = bench(threads=3)
    b.submit(*range(5))
    assert {b.next_begun()[0] for _ in range(3)} == {0, 1, 2}
    assert b.begun.empty()
    assert b.pool.waiting == 5
    b.gates[1].set()
    assert b.next_outcome() == (1, "success")
    assert b.next_begun()[0] == 3
    for gate in b.gates.values():
        gate.set()
    assert sorted(b.next_outcome()[0] for _ in range(4)) == [0, 2, 3, 4]
    wait_until(lambda: b.pool.waiting == 0)
    assert b.errors.empty()


def test_a_row_is_failed_only_after_its_deadline(bench: Callable[..., Bench]) -> None:
    b = bench(timeout=10)
    b.submit(0)
    b.next_begun()
    b.clock.now += 10
    b.pool.check()
    assert b.outcomes.empty()
    b.clock.now += 0.01
    b.pool.check()
    fetched, sample = b.outcomes.get_nowait()
    assert sample.failure is not None
    assert (sample.failure.code, sample.failure.status) == ("timeout_transform", "failed_to_resize")
    assert "10 s" in sample.failure.message
    assert (sample.item, sample.facts, sample.data) == (fetched.item, fetched.facts, None)
    assert b.pool.waiting == 0
    b.pool.check()
    assert b.outcomes.empty()


def test_the_deadline_runs_from_the_beginning_of_the_work_not_from_submit(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.submit(0, 1)
    b.next_begun()
    b.clock.now += 9
    b.gates[0].set()
    assert b.next_begun()[0] == 1
    b.clock.now += 9
    b.pool.check()
    assert b.next_outcome() == (0, "success")
    assert b.outcomes.empty()
    assert b.pool.waiting == 1


def test_a_fresh_thread_takes_the_place_and_the_lost_one_ends_unheard(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.submit(0, 1)
    _, lost = b.next_begun()
    b.clock.now += 11
    b.pool.check()
    assert b.next_outcome() == (0, "timeout_transform")
    index, fresh = b.next_begun()
    assert index == 1
    assert fresh is not lost
    b.gates[0].set()
    lost.join(PATIENCE)
    assert not lost.is_alive()
    assert b.outcomes.empty()
    b.gates[1].set()
    assert b.next_outcome() == (1, "success")
    assert fresh.is_alive()
    assert b.errors.empty()


def test_too_many_lost_threads_break_the_pool_once(bench: Callable[..., Bench]) -> None:
    b = bench(threads=1)
    most = max_lost(1)
    assert most == 8
    b.submit(*range(most + 3))
    for index in range(most + 1):
        assert b.next_begun()[0] == index
        assert b.errors.empty()
        b.clock.now += 11
        b.pool.check()
        assert b.next_outcome() == (index, "timeout_transform")
    error = b.errors.get_nowait()
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("9 transforms did not end within 10 s")
    b.clock.now += 11
    b.pool.check()
    assert b.errors.empty()
    assert b.begun.empty(), "no thread is started any more"


def test_threads_that_come_back_are_lost_no_longer(bench: Callable[..., Bench]) -> None:
    b = bench(threads=1)
    for index in range(3 * max_lost(1)):
        b.submit(index)
        _, thread = b.next_begun()
        b.clock.now += 11
        b.pool.check()
        b.gates[index].set()
        thread.join(PATIENCE)
    assert b.errors.empty()
    assert b.outcomes.qsize() == 3 * max_lost(1)


def test_what_work_raises_breaks_the_pool() -> None:
    errors: queue.Queue[BaseException] = queue.Queue()
    outcomes: queue.Queue[int] = queue.Queue()

    def work(fetched: Fetched) -> Sample:
        if fetched.item.index == 0:
            raise KeyError("of work")
        return finished(fetched)

    pool = TransformPool(work, lambda f, _: outcomes.put(f.item.index), threads=1, timeout=10, broken=errors.put)
    pool.submit(row(0))
    assert isinstance(errors.get(timeout=PATIENCE), KeyError)
    pool.submit(row(1))
    assert outcomes.get(timeout=PATIENCE) == 1, "the thread lives on"
    wait_until(lambda: pool.waiting == 1)
    pool.close()


def test_what_done_raises_breaks_the_pool_from_a_thread_and_from_check() -> None:
    errors: queue.Queue[BaseException] = queue.Queue()
    clock, gate, begun = Clock(), threading.Event(), threading.Event()

    def work(fetched: Fetched) -> Sample:
        if fetched.item.index == 1:
            begun.set()
            gate.wait(PATIENCE)
        return finished(fetched)

    def done(fetched: Fetched, sample: Sample) -> None:
        raise SystemExit(fetched.item.index)

    pool = TransformPool(work, done, threads=1, timeout=10, broken=errors.put, clock=clock)
    pool.submit(row(0))
    assert errors.get(timeout=PATIENCE).args == (0,)
    pool.submit(row(1))
    assert begun.wait(PATIENCE)
    clock.now += 11
    pool.check()
    assert errors.get_nowait().args == (1,)
    assert pool.waiting == 0
    gate.set()
    pool.close()


def test_no_new_thread_to_be_had_breaks_the_pool(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    b.submit(0)
    b.next_begun()
    b.clock.now += 11

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        b.pool.check()
    assert b.next_outcome() == (0, "timeout_transform")
    assert "can't start" in str(b.errors.get_nowait())


def test_a_slow_done_is_no_slow_row() -> None:
    clock, entered, gate = Clock(), threading.Event(), threading.Event()
    outcomes: list[Sample] = []

    def done(_: Fetched, sample: Sample) -> None:
        entered.set()
        gate.wait(PATIENCE)
        outcomes.append(sample)

    pool = TransformPool(finished, done, threads=1, timeout=10, broken=unexpected, clock=clock)
    pool.submit(row())
    assert entered.wait(PATIENCE)
    clock.now += 100
    pool.check()
    assert pool.waiting == 1
    gate.set()
    wait_until(lambda: pool.waiting == 0)
    assert [sample.failure for sample in outcomes] == [None]
    pool.close()


def test_close_ends_idle_threads_and_begins_nothing(bench: Callable[..., Bench]) -> None:
    idle = bench(threads=4)
    threads = [place.thread for place in idle.pool._places]
    assert all(thread is not None and thread.daemon for thread in threads)
    idle.pool.close()
    for thread in threads:
        assert thread is not None
        thread.join(PATIENCE)
        assert not thread.is_alive()

    busy = bench(threads=1)
    busy.submit(0, 1, 2)
    _, thread = busy.next_begun()
    busy.pool.close()
    busy.submit(3)
    busy.gates[0].set()
    assert busy.next_outcome() == (0, "success")
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert busy.begun.empty()


def test_after_close_check_replaces_no_thread(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.submit(0)
    b.next_begun()
    b.pool.close()
    before = threading.active_count()
    b.clock.now += 11
    b.pool.check()
    assert b.next_outcome() == (0, "timeout_transform")
    assert threading.active_count() <= before


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Threads take turns after a few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@settings(max_examples=25, deadline=None)
@given(
    threads=st.integers(1, 6),
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.0005, 0.001, 0.002]), max_size=60),
    timeout=st.sampled_from([0.0005, 0.001, 0.0015]),
)
def test_exactly_one_outcome_for_each_row(threads: int, delays: list[float], timeout: float) -> None:
    """The deadline is about as long as the work, so that threads and `check` come to the same rows at the same time."""
    counts: collections.Counter[int] = collections.Counter()
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work(fetched: Fetched) -> Sample:
        time.sleep(delays[fetched.item.index])
        return finished(fetched)

    def done(fetched: Fetched, _: Sample) -> None:
        with lock:
            counts[fetched.item.index] += 1

    pool = TransformPool(work, done, threads=threads, timeout=timeout, broken=errors.append)
    pool._max_lost = 10**6  # lost threads end when the system lets them
    for index in range(len(delays)):
        pool.submit(row(index))
        pool.check()
    deadline = time.monotonic() + PATIENCE
    while pool.waiting and time.monotonic() < deadline and not errors:
        pool.check()
    pool.close()
    assert pool.waiting == 0
    assert errors == []
    time.sleep(0.005)  # lost threads come back meanwhile, and must not be heard
    assert dict(counts) == dict.fromkeys(range(len(delays)), 1)


def test_exactly_one_outcome_when_check_and_the_thread_race_for_every_row(often_switching: None) -> None:
    """Every row is over its deadline at once: who comes first has it."""
    outcomes: list[tuple[int, bool]] = []  # append is atomic
    errors: list[BaseException] = []
    ticks = iter(range(10**9))

    def done(fetched: Fetched, sample: Sample) -> None:
        outcomes.append((fetched.item.index, sample.failure is None))

    pool = TransformPool(finished, done, threads=2, timeout=-1, broken=errors.append, clock=lambda: next(ticks))
    pool._max_lost = 10**6  # lost threads end when the system lets them
    total = 10_000

    def submit_all() -> None:
        for index in range(total):
            pool.submit(row(index))

    submitter = threading.Thread(target=submit_all)
    submitter.start()
    deadline = time.monotonic() + PATIENCE
    while (submitter.is_alive() or pool.waiting) and time.monotonic() < deadline and not errors:
        pool.check()
    pool.close()
    assert errors == []
    assert sorted(index for index, _ in outcomes) == list(range(total))
    assert {fine for _, fine in outcomes} == {True, False}, "both sides won some rows"


@pytest.mark.slow
def test_a_row_costs_less_than_in_an_executor() -> None:
    """In CPU time of the whole process: what the machine does meanwhile does not matter."""
    rows = [row(index) for index in range(20_000)]

    def ours() -> None:
        pool = TransformPool(finished, lambda *_: None, threads=2, timeout=60, broken=unexpected)
        for one in rows:
            pool.submit(one)
        wait_until(lambda: pool.waiting == 0)
        pool.close()

    def executor() -> None:
        with ThreadPoolExecutor(2) as pool:
            for one in rows:
                pool.submit(finished, one)

    def cpu(function: Callable[[], None]) -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    assert min(cpu(ours) for _ in range(3)) < min(cpu(executor) for _ in range(3))
