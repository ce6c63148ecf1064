"""Bytes in memory: bodies wait on the wire for room, nobody for ever, and nobody fails for having waited."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.fetching import SUCCESS, code, fetcher, items
from support.nginx import NginxH2
from support.server import NastyServer

from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.intake import STEP
from img2dataset_dist.model import Fetched

SIZES = tuple(range(300_000, 1_100_000, 100_000))
LARGEST = SIZES[-1]
SIZE = 1_000_000
TRANSFERS = 48


class Watched(Budget):
    """Remembers the most that was taken."""

    peak = 0

    def take(self, size: int, *, force: bool = False) -> bool:
        taken = super().take(size, force=force)
        self.peak = max(self.peak, self.used)
        return taken


class Run(NamedTuple):
    """Rows in the order they came, and what they took of the budget and of time."""

    found: list[Fetched]
    budget: Watched
    seconds: float

    @property
    def codes(self) -> set[str]:
        return {code(one) for one in self.found}


def run(urls: Sequence[str | None], *, size: int = SIZE, rows: int = 1000, each: float = 0.002, **options: Any) -> Run:
    """Fetch as the pipeline does: another thread takes `each` seconds for a row, then gives its room back."""
    budget = Watched(size=size, rows=rows)
    work: queue.SimpleQueue[Fetched | None] = queue.SimpleQueue()

    def consume() -> None:
        while (fetched := work.get()) is not None:
            time.sleep(each)
            budget.row_out(len(fetched.body or b""))

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    found = []
    began = time.monotonic()
    with contextlib.closing(fetcher(FetchContext(budget=budget), **{"thread_count": TRANSFERS, **options})) as running:
        for fetched in running.fetch(items(urls)):
            budget.row_in()
            work.put(fetched)
            found.append(fetched)
            assert time.monotonic() - began < 60, "it does not end"
    seconds = time.monotonic() - began
    work.put(None)
    consumer.join(30)
    assert sorted(one.item.index for one in found) == list(range(len(urls))), "rows are conserved"
    assert (budget.used, budget.waiting) == (0, 0), "all was given back"
    return Run(found, budget, seconds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bodies of 0.3 to 1 MB: rN.jpg cannot be compressed, zN.jpg very well."""
    path = tmp_path_factory.mktemp("bodies")
    for n, size in enumerate(SIZES):
        (path / f"r{n}.jpg").write_bytes(random.Random(n).randbytes(size))
        (path / f"z{n}.jpg").write_bytes(random.Random(n).randbytes(1000) * (size // 1000))
    return path


@pytest.fixture(scope="module")
def bodies(folder: Path) -> Iterator[NastyServer]:
    with NastyServer(folder) as running:
        yield running


@pytest.mark.parametrize("kind", ["photo", "chunked", "gzip"])
@pytest.mark.parametrize("letter", ["r", "z"])
def test_the_budget_holds_whatever_is_known_about_the_length(
    bodies: NastyServer, folder: Path, kind: str, letter: str
) -> None:
    names = [f"{letter}{n % len(SIZES)}.jpg" for n in range(TRANSFERS)]
    done = run([bodies.url(f"/{kind}/{name}?budget={n}") for n, name in enumerate(names)])
    assert done.codes == {SUCCESS}
    for one in done.found:
        assert one.body == (folder / names[one.item.index]).read_bytes()
    assert done.budget.peak <= SIZE + LARGEST + STEP
    if (kind, letter) in (("photo", "r"), ("photo", "z")):
        assert done.budget.peak <= SIZE, "where lengths are known, it is exact"


def test_the_budget_holds_for_a_mixture(bodies: NastyServer) -> None:
    paths = [f"/{('photo', 'chunked', 'gzip')[n % 3]}/{'rz'[n % 2]}{n % 8}.jpg?mixed={n}" for n in range(100)]
    paths[::10] = [f"/{('truncated', 'reset-body', 'status/404')[n % 3]}?mixed={n}" for n in range(10)]
    done = run([bodies.url(path) for path in paths])
    assert done.codes == {SUCCESS, "truncated", "reset", "http_404"}
    assert sum(one.failure is None for one in done.found) == 90
    assert done.budget.peak <= SIZE + LARGEST + STEP


def test_the_budget_holds_over_http_2(bodies: NastyServer, folder: Path) -> None:
    """Streams of one connection pause each for itself."""
    with NginxH2(folder, upstream=bodies) as front:
        paths = [f"/{('photo', 'chunked')[n % 2]}/r{n % 8}.jpg?h2={n}" for n in range(TRANSFERS)]
        done = run([front.url(path) for path in paths], ignore_ssl_certificate=True)
    assert done.codes == {SUCCESS}
    assert done.budget.peak <= SIZE + LARGEST + STEP


@pytest.mark.parametrize("kind", ["photo", "chunked", "gzip"])
def test_bodies_larger_than_the_whole_budget_come_one_by_one(bodies: NastyServer, kind: str) -> None:
    done = run([bodies.url(f"/{kind}/r{n % 8}.jpg?larger={n}") for n in range(24)], size=100_000)
    assert done.codes == {SUCCESS}
    assert done.budget.peak <= LARGEST + STEP


def test_a_large_body_does_not_starve_among_small_ones(bodies: NastyServer) -> None:
    """It has its turn although small ones would fit all the time."""
    paths = [f"/photo/r0.jpg?starve={n}" for n in range(200)]
    paths[10] = "/big?n=3000000&starve=1"
    done = run([bodies.url(path) for path in paths], thread_count=16)
    assert done.codes == {SUCCESS}
    place = next(n for n, one in enumerate(done.found) if one.item.index == 10)
    assert place < 100
    assert done.budget.peak <= 3_000_000


def test_waiting_for_room_does_not_count_against_a_row(bodies: NastyServer) -> None:
    """All are asked for at once and wait longer than every deadline for a consumer that is slow."""
    urls = [bodies.url(f"/{('photo', 'chunked')[n % 2]}/r{n % 8}.jpg?wait={n}") for n in range(32)]
    deadlines: dict[str, Any] = {"timeout": 1, "min_bytes_per_second": 1000, "min_speed_window": 0.5}
    done = run(urls, size=600_000, each=0.08, **deadlines)
    assert done.seconds > 2
    assert done.codes == {SUCCESS}
    assert max(one.facts.fetch_ms or 0 for one in done.found) <= 1500


def test_rows_that_wait_for_their_transform_hold_up_new_ones(bodies: NastyServer) -> None:
    """Failures have no bytes, so rows are counted as well."""
    began = time.monotonic()
    most = 0

    def watched(urls: Sequence[str | None], budget: Budget) -> Iterator[Fetched]:
        nonlocal most
        with contextlib.closing(fetcher(FetchContext(budget=budget), thread_count=4)) as running:
            for fetched in running.fetch(items(urls)):
                budget.row_in()
                most = max(most, budget.waiting)
                yield fetched

    budget = Budget(size=2**30, rows=8)
    waiting: list[Fetched] = []
    seen = 0
    for fetched in watched([bodies.url(f"/status/404?rows={n}") for n in range(60)], budget):
        waiting.append(fetched)
        seen += 1
        if budget.full:
            for one in waiting:
                budget.row_out(len(one.body or b""))
            waiting.clear()
    assert seen == 60
    assert most <= 8 + 4 + 4  # those that are under way, and those that are ready, when it became full
    assert time.monotonic() - began < 20
