"""The gate before the network, with a clock of our own: caps, rates, fairness, slowing down, hosts that are down."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img2dataset_dist.fetchers import hosts
from img2dataset_dist.fetchers.hosts import DOWN_AFTER, PAUSES, Gate, Host, HostLimits, Sign
from img2dataset_dist.fetchers.slots import FileSlots


def gate(connections: int = 2, rate: float = math.inf, **more: object) -> Gate[str]:
    return Gate(lambda _: HostLimits(connections=connections, rate=rate), **more)  # type: ignore[arg-type]


def take_all(g: Gate[str], now: float) -> list[tuple[Host[str], str]]:
    found = []
    while (taken := g.take(now)) is not None:
        found.append(taken)
    return found


def things(taken: list[tuple[Host[str], str]]) -> list[str]:
    return [thing for _, thing in taken]


def test_no_more_connections_than_allowed() -> None:
    g = gate(connections=2)
    for n in range(5):
        g.park("a", f"a{n}")
    taken = take_all(g, 0.0)
    assert things(taken) == ["a0", "a1"]
    assert len(g) == 3
    g.done(taken[0][0], Sign.GOOD, 1.0, began=0.0)
    assert things(take_all(g, 1.0)) == ["a2"]


def test_the_least_loaded_host_comes_first() -> None:
    g = gate(connections=10)
    for n in range(4):
        g.park("busy", f"busy{n}")
    assert things([g.take(0.0), g.take(0.0)]) == ["busy0", "busy1"]  # type: ignore[list-item]
    g.park("idle", "idle0")
    g.park("idle", "idle1")
    assert things(take_all(g, 0.0)) == ["idle0", "idle1", "busy2", "busy3"]


def test_a_slow_host_does_not_starve_the_others() -> None:
    """A thousand rows of one host that never answers, then one row each of others: those start at once."""
    g = gate(connections=2)
    for n in range(1000):
        g.park("slow", f"slow{n}")
    take_all(g, 0.0)
    for n in range(20):
        g.park(f"host{n}", f"row{n}")
    assert things(take_all(g, 0.0)) == [f"row{n}" for n in range(20)]


def test_requests_per_second() -> None:
    g = gate(connections=100, rate=4.0)
    for n in range(100):
        g.park("a", str(n))
    starts = []
    for step in range(400):
        now = step / 100
        starts += [now] * len(take_all(g, now))
    assert len(starts) == 16
    assert all(later - earlier >= 0.2499 for earlier, later in itertools.pairwise(starts))
    assert g.next_start() == pytest.approx(4.0)


def test_a_redirect_goes_before_other_rows() -> None:
    g = gate(connections=1)
    g.park("a", "later")
    g.park("a", "redirected", first=True)
    assert things(take_all(g, 0.0)) == ["redirected"]


def test_too_many_requests_pauses_the_host_and_halves_its_rate() -> None:
    g = gate(connections=10)
    for n in range(200):
        g.park("a", str(n))
    host = None
    for n in range(100):  # 100 answers, 50 a second
        host, _ = g.take(n / 50)  # type: ignore[misc]
        g.done(host, Sign.GOOD, n / 50 + 0.001, began=n / 50, good=True)
    host, _ = g.take(2.0)  # type: ignore[misc]
    g.done(host, Sign.SLOW_DOWN, 2.001, began=2.0, retry_after=5.0)
    assert host.rate == pytest.approx(25, rel=0.2)
    assert take_all(g, 6.9) == []
    assert len(take_all(g, 7.01)) == 1
    assert host.slow_downs == 1


def test_one_burst_slows_down_once() -> None:
    g = gate(connections=50)
    for n in range(50):
        g.park("a", str(n))
    for host, _ in take_all(g, 10.0):
        g.done(host, Sign.SLOW_DOWN, 10.1, began=10.0)
    assert 50 < g.hosts["a"].rate < 200, "half of what was measured, not half fifty times over"


def test_a_few_bad_answers_are_no_reason_to_slow_down() -> None:
    g = gate(connections=1)
    for n in range(200):
        g.park("a", str(n))
        host, _ = g.take(float(n))  # type: ignore[misc]
        g.done(host, Sign.STRAINED if n % 20 == 19 else Sign.GOOD, n + 0.5, began=float(n))
    assert g.hosts["a"].rate == math.inf
    assert g.hosts["a"].slow_downs == 10


def test_many_bad_answers_are() -> None:
    g = gate(connections=1)
    for n in range(40):
        g.park("a", str(n))
        host, _ = g.take(float(10 * n))  # type: ignore[misc]
        g.done(host, Sign.STRAINED if n % 2 else Sign.GOOD, 10 * n + 0.5, began=float(10 * n))
    assert g.hosts["a"].rate == hosts.MIN_RATE_STRAINED


def test_the_rate_climbs_back_slowly() -> None:
    g = gate(connections=1, rate=20.0)
    g.park("a", "0")
    host, _ = g.take(0.0)  # type: ignore[misc]
    g.done(host, Sign.SLOW_DOWN, 0.1, began=0.0)
    low = host.rate
    assert low <= 10
    now, when = 1.0, {}
    while host.rate < 20 and now < 100:
        g.park("a", "x")
        taken = g.take(now)
        if taken is not None:
            g.done(host, Sign.GOOD, now + 0.01, began=now)
        when[round(host.rate)] = now
        now += 0.02
    assert host.rate == 20
    assert now > 5, "about one request per second more for each second"


def test_a_host_that_never_answers_goes_down_and_comes_back() -> None:
    g = gate(connections=5)
    now = 0.0
    for n in range(DOWN_AFTER):
        g.park("dead", str(n))
        host, _ = g.take(now)  # type: ignore[misc]
        assert g.done(host, Sign.SILENT, now + 1, began=now) == []
        now += 2
    for n in range(3):  # its rows wait for a moment
        assert not g.refuses("dead", now)
        g.park("dead", f"waits{n}")
    assert take_all(g, now) == []
    now = host.down_until
    assert things(take_all(g, now)) == ["waits0"], "one probe, no more"
    assert g.done(host, Sign.SILENT, now + 1, began=now) == ["waits1", "waits2"], "it is down: the others fail"
    assert g.refuses("dead", now + 2)
    now += 1 + PAUSES[1]
    assert not g.refuses("dead", now)
    g.park("dead", "probe")
    assert g.refuses("dead", now), "one probe at a time"
    assert things(take_all(g, now)) == ["probe"]
    g.done(host, Sign.GOOD, now + 0.1, began=now)
    assert not g.refuses("dead", now + 0.1)
    for n in range(5):
        g.park("dead", str(n))
    starts = [now + n / 10 for n in range(1, 60) if g.take(now + n / 10)]
    assert len(starts) == 5, "it is asked again, more slowly than before"


def test_one_burst_of_silence_is_not_the_end() -> None:
    """A hundred transfers that hang at once are one observation, not a hundred."""
    g = gate(connections=100)
    for n in range(101):
        g.park("a", str(n))
    for host, _ in take_all(g, 0.0):
        g.done(host, Sign.SILENT, 10.0, began=0.0)
    assert not g.refuses("a", 10.0)
    assert g.hosts["a"].pauses == 0


def test_an_answer_among_silences_counts() -> None:
    g = gate(connections=1)
    for n in range(100):
        g.park("a", str(n))
        host, _ = g.take(float(20 * n))  # type: ignore[misc]
        g.done(host, Sign.GOOD if n % 9 == 8 else Sign.SILENT, 20 * n + 1, began=float(20 * n))
    assert g.hosts["a"].pauses == 0


def test_a_rate_that_robots_txt_asked_for() -> None:
    g = gate(connections=5)
    g.limit("a", 0.5)
    for n in range(3):
        g.park("a", str(n))
    assert [bool(g.take(now)) for now in (0.0, 1.0, 2.0, 3.0, 4.0)] == [True, False, True, False, True]


def test_memory_does_not_grow_with_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "MAX_HOSTS", 100)
    g = gate()
    for n in range(1000):
        g.park(f"host{n}", "x")
        host, _ = g.take(float(n))  # type: ignore[misc]
        g.done(host, Sign.GOOD, n + 0.5, began=float(n))
        assert len(g.hosts) <= 100


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(list(Sign)), st.floats(0.001, 20))),
    st.integers(1, 3),
    st.sampled_from([math.inf, 1.0, 100.0]),
)
def test_nothing_is_lost_and_no_cap_is_passed(
    rows: list[tuple[str, Sign, float]], connections: int, rate: float
) -> None:
    """Whatever hosts answer, every row comes out once: taken, or refused."""
    g = gate(connections=connections, rate=rate)
    out, under_way, now = 0, [], 0.0
    for number, (name, _, _) in enumerate(rows):
        g.park(name, str(number))
    signs = {str(number): (sign, seconds) for number, (_, sign, seconds) in enumerate(rows)}
    for _ in range(20_000):
        if not len(g) and not under_way:
            break
        under_way += [(now + signs[thing][1], now, host, thing) for host, thing in take_all(g, now)]
        for host in g.hosts.values():
            assert host.active <= connections
        under_way.sort(key=lambda entry: entry[0])
        if under_way:
            now, began, host, thing = under_way.pop(0)
            out += 1 + len(g.done(host, signs[thing][0], now, began=began))
        elif (due := g.next_start()) is not None:
            now = max(now, due)
    assert out == len(rows)
    assert len(g) == 0


def test_workers_of_one_machine_share_the_slots_of_a_host(tmp_path: Path) -> None:
    """Locks belong to processes, so the other worker is one."""
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    path = str(tmp_path / "slots")
    code = (
        "import sys; from img2dataset_dist.fetchers.slots import FileSlots; s = FileSlots(sys.argv[1]);"
        "print([s.acquire('a', 5) for _ in range(3)].count(None), flush=True); sys.stdin.read()"
    )
    mine = FileSlots(path)
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "0\n"
        got = [mine.acquire("a", 5) for _ in range(5)]
        assert sum(slot is not None for slot in got) == 2
        assert mine.acquire("b", 1) is not None, "another host has its own"
        assert mine.acquire("b", 1) is None
        other.kill()
        other.wait()
        assert sum(mine.acquire("a", 5) is not None for _ in range(5)) == 3, "the dead hold nothing"
    mine.release("a", next(slot for slot in got if slot is not None))
    assert mine.acquire("a", 5) is not None
    mine.close()
