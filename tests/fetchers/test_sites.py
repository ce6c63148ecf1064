"""Whose turn it is, and how long a site that blocks us is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2dataset_dist.fetchers import sites
from img2dataset_dist.fetchers.sites import PATIENCE, Sites, Word


def make(pause: float = 10.0, limit: int = 100) -> Sites[str]:
    return Sites(pause, lambda _row: limit)


def taken(some: Sites[str], now: float) -> str | None:
    found = some.take(now)
    return None if found is None else found[1]


def test_the_least_busy_site_is_next() -> None:
    some = make()
    for name in ("a", "a", "a", "b"):
        some.park(name, name)
    assert [taken(some, 0) for _ in range(5)] == ["a", "b", "a", "a", None]


def test_no_more_rows_than_the_limit() -> None:
    some = make(limit=2)
    for number in range(4):
        some.park("a", str(number))
    assert [taken(some, 0) for _ in range(3)] == ["0", "1", None]
    some.done("a", Word.NOTHING, 1, began=0)
    assert taken(some, 1) == "2"


class Slots:
    """Those of a machine where others have some."""

    def __init__(self, **free: int) -> None:
        self.free = {f"site {name}": count for name, count in free.items()}
        self.held: list[str] = []

    def acquire(self, host: str, limit: int) -> int | None:
        if not self.free[host]:
            return None
        self.free[host] -= 1
        self.held.append(host)
        return self.free[host]

    def release(self, host: str, slot: int) -> None:
        assert slot == self.free[host]
        self.free[host] += 1
        self.held.remove(host)


def test_a_row_has_a_slot_of_the_machine() -> None:
    slots = Slots(a=0, b=2)
    some: Sites[str] = Sites(10.0, lambda _row: 100, slots)
    for name in ("a", "b", "b"):
        some.park(name, name)
    assert [taken(some, 0) for _ in range(3)] == ["b", "b", None], "others have those of a"
    assert some.next_start(5) == 5 + sites.SLOT_POLL, "nobody says when they give one back"
    assert slots.held == ["site b"] * 2
    some.done("b", Word.ANSWERED, 1, began=0)
    assert slots.held == ["site b"]
    slots.free["site a"] = 1
    assert taken(some, 6) == "a"
    assert some.next_start(6) is None


def test_a_block_from_elsewhere_begins_a_pause() -> None:
    some = make(pause=10.0)
    assert not some.leave_alone("a", 0), "nothing is known of it"
    some.park("a", "1")
    assert some.leave_alone("a", 0)
    assert some.rests("a")
    assert not some.leave_alone("a", 1), "it rests already"
    assert [taken(some, 9), taken(some, 10)] == [None, "1"]
    some.done("a", Word.ANSWERED, 11, began=10)
    assert not some.rests("a")
    some.park("a", "2")
    assert not some.leave_alone("a", 12), "one row between others that are not blocked"
    assert taken(some, 12) == "2"


def test_pauses_double_up_to_an_hour_and_rows_fail_after_some() -> None:
    some = make(pause=1000.0)
    now, pauses, failed = 0.0, [], []
    for _ in range(PATIENCE + 2):
        some.park("a", "row")
        some.park("a", "other")
        assert taken(some, now) is not None
        if pauses:
            assert taken(some, now) is None, "one row only is tried after a pause"
        failed += some.done("a", Word.BLOCKED, now, began=now)
        pauses.append(some.paused("a", now))
        now += pauses[-1]
        assert taken(some, now - 1) is None
    assert pauses[: PATIENCE + 1] == [1000, 2000, 3600, 3600]
    assert failed
    assert some.refuses("a", now - 1)


def test_the_first_answer_ends_it() -> None:
    some = make()
    some.park("a", "1")
    taken(some, 0)
    some.done("a", Word.BLOCKED, 0, began=0)
    for number in range(3):
        some.park("a", str(number))
    assert some.next_start(5) == 10
    assert taken(some, 9.9) is None
    assert taken(some, 10) == "0"
    assert taken(some, 10) is None
    some.done("a", Word.ANSWERED, 11, began=10)
    assert [taken(some, 11), taken(some, 11)] == ["1", "2"]


def test_what_began_before_a_pause_says_nothing_new() -> None:
    some = make()
    for number in range(4):
        some.park("a", str(number))
        taken(some, 0)
    for _ in range(3):
        some.done("a", Word.BLOCKED, 1, began=0)
    assert some.paused("a", 1) == 10
    some.done("a", Word.ANSWERED, 2, began=0)
    assert some.paused("a", 2) == 9


def test_a_block_between_answers_is_the_rows_own_unless_it_is_sure() -> None:
    some = make()
    for sure in (False, True):
        some.park("a", "x")
        some.park("a", "y")
        taken(some, 0)
        some.done("a", Word.ANSWERED, 0, began=0)
        taken(some, 0)
        some.done("a", Word.BLOCKED, 0, began=0, sure=sure)
        assert (some.paused("a", 0) > 0) == sure


def test_two_blocks_in_a_row_are_the_sites() -> None:
    some = make()
    for word in (Word.ANSWERED, Word.BLOCKED, Word.BLOCKED):
        some.park("a", "x")
        taken(some, 0)
        some.done("a", word, 0, began=0, sure=False)
    assert some.paused("a", 0) == 10


@pytest.mark.parametrize(("asked_for", "seconds"), [(5, 10), (50, 50), (10**9, 3600)])
def test_what_a_site_asks_for_is_heeded(asked_for: float, seconds: float) -> None:
    some = make()
    some.park("a", "x")
    taken(some, 0)
    some.done("a", Word.BLOCKED, 0, began=0, retry_after=asked_for)
    assert some.paused("a", 0) == seconds


def test_sites_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "MAX_SITES", 10)
    some = make()
    for number in range(100):
        some.park(str(number), "x")
        taken(some, 0)
        some.done(str(number), Word.ANSWERED, 0, began=0)
    assert len(some._sites) <= 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Word)), st.booleans()), max_size=60))
def test_no_row_is_lost(steps: list[tuple[str, Word, bool]]) -> None:
    some: Sites[int] = Sites(1.0, lambda _row: 2)
    inside, now = set(), 0.0
    for number, (name, word, sure) in enumerate(steps):
        some.park(name, number)
        inside.add(number)
        now += 0.7
        found = some.take(now)
        if found is not None:
            inside.remove(found[1])
            inside -= set(some.done(found[0], word, now, began=now, sure=sure))
    for _ in range(1000):
        now = max(now, some.next_start(now) or now)
        found = some.take(now)
        if found is None:
            break
        inside.remove(found[1])
        some.done(found[0], Word.ANSWERED, now, began=now)
    assert not inside
