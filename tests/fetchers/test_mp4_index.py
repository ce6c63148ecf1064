"""From the index of an mp4 to the bytes of a clip: against ffmpeg's own reading, against plain counting, and under fire."""

from __future__ import annotations

import itertools
import random
import resource
import struct
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.films import Films, Track, index_of, movie, pack, place_of

from img2dataset_dist.fetchers.mp4_index import MAX_INDEX, Index, NoIndex, Span, find_index, read_index
from img2dataset_dist.model import Clip
from img2dataset_dist.transforms.child import data_bytes

PACKED = (
    "first", "last", "pyramid", "hevc", "mpeg4", "no_edit", "negative", "trimmed", "late", "two_sounds", "two_pictures",
    "silent", "sound",
)  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.getbasetemp() / "films")


def index(path: Path) -> Index:
    moov, _ = index_of(path)
    return read_index(moov, path.stat().st_size)


def covered(span: tuple[int, int], spans: Sequence[Span]) -> bool:
    return any(one.start <= span[0] and span[1] <= one.end for one in spans)


def read_for(path: Path, clip: Clip) -> list[av.Packet]:
    """The packets that libav reads from a seek to the start of a clip until all streams are beyond its end."""
    packets = []
    with av.open(str(path), format="mov") as container:
        zero = container.start_time / av.time_base
        container.seek(round((clip.start + zero) * av.time_base))
        on = {stream.index for stream in container.streams}
        for packet in container.demux():
            if packet.dts is None or not on:
                break
            if packet.stream.index in on:
                if packet.dts * packet.time_base >= clip.end + zero:
                    on.remove(packet.stream.index)
                else:
                    packets.append(packet)
    return packets


@pytest.mark.parametrize("name", PACKED)
def test_all_that_libav_reads_of_a_clip_is_asked_for(films: Films, name: str) -> None:
    """Wherever it begins, on a keyframe or not, at the beginning and at the end; and little else."""
    path = films(name)
    found = index(path)
    chance = random.Random(name)
    starts = [0.0, 0.05, 5.0, 35.0, 299.999, 300.0, found.duration - 7, found.duration - 0.5]
    starts += [round(chance.uniform(0, found.duration - 1), digits) for digits in (1, 3, 6) for _ in range(4)]
    for start, length in itertools.product(starts, (0.4, 7.0)):
        spans = found.spans([Clip(start, start + length)])
        packets = read_for(path, Clip(start, start + length))
        assert packets or name == "late"  # which shows nothing in its first second
        for packet in packets:
            assert covered((packet.pos, packet.pos + packet.size), spans), (start, length, packet)
        assert all(one.end < other.start for one, other in itertools.pairwise(spans))
        # Beside what was read: a group of pictures, some seconds of sound, the first picture.
        assert sum(span.size for span in spans) < sum(packet.size for packet in packets) + path.stat().st_size / 30


def test_places_of_64_bits(films: Films) -> None:
    clips = [Clip(100.0, 110.0)]
    assert index(films.wide()).spans(clips) == index(films("last")).spans(clips)


def test_several_clips_are_the_sum_of_each(films: Films) -> None:
    found = index(films("first"))
    clips = [Clip(100.0, 104.0), Clip(102.0, 110.0), Clip(400.0, 401.0), Clip(20.0, 21.0)]
    together = np.zeros(films("first").stat().st_size, bool)
    for span in itertools.chain.from_iterable(found.spans([clip]) for clip in clips):
        together[span.start : span.end] = True
    at_once = np.zeros_like(together)
    for span in found.spans(clips):
        assert not at_once[span.start : span.end].any()
        at_once[span.start : span.end] = True
    assert np.array_equal(together, at_once)


def test_clips_beyond_the_end_need_only_the_first_pictures(films: Films) -> None:
    found = index(films("first"))
    assert found.spans([Clip(700.0, 710.0)]) == found.spans([])
    assert 0 < sum(span.size for span in found.spans([])) < 10_000
    assert found.spans([Clip(590.0, 1e300)]) == found.spans([Clip(590.0, 610.0)])


def test_the_duration_is_that_of_the_longest_track(films: Films) -> None:
    assert index(films("first")).duration == pytest.approx(600, abs=0.05)
    assert index(films("trimmed")).duration == pytest.approx(566.7, abs=0.05)


# against plain counting


@st.composite
def tracks(draw: st.DrawFn) -> tuple[Track, list[tuple[int, int, int, int]], list[int]]:
    """A track; of each sample decoding time, showing time, place and size; and its keyframes."""
    steps = draw(st.lists(st.integers(0, 90), min_size=1, max_size=60))
    count = len(steps)
    delays = draw(st.lists(st.integers(-200, 200), min_size=count, max_size=count))
    width = draw(st.sampled_from([0, 4, 8, 16]))
    sizes = draw(st.lists(st.integers(1, 15 if width == 4 else 200), min_size=count, max_size=count))
    keyframes = draw(st.sets(st.integers(0, count - 1), min_size=1))
    chunks, places, at, left = [], [], draw(st.integers(0, 50)), count
    while left:
        used = draw(st.integers(1, left))
        chunks.append((at, used))
        for number in range(count - left, count - left + used):
            places.append(at)
            at += sizes[number]
        left -= used
        at += draw(st.integers(0, 300))
    if draw(st.booleans()):  # chunks need not lie in the order of time
        order = draw(st.permutations(range(len(chunks))))
        moved, at, firsts = {}, 0, list(itertools.accumulate([0, *(used for _, used in chunks)]))
        for number in order:
            moved[number] = at
            for sample in range(firsts[number], firsts[number + 1]):
                places[sample] = at
                at += sizes[sample]
        chunks = [(moved[number], used) for number, (_, used) in enumerate(chunks)]
    wait, begin = draw(st.sampled_from([(0, None), (0, 0), (0, 30), (70, 0), (500, 40)]))
    edits = ([(wait, -1)] if wait else []) + ([(5000, begin)] if begin is not None else [])
    runs = [(len(list(group)), step) for step, group in itertools.groupby(steps)]
    delay_runs = [(len(list(group)), delay) for delay, group in itertools.groupby(delays)]
    track = Track(
        times=runs, sizes=sizes, chunks=chunks, delays=delay_runs, keyframes=sorted(keyframes), edits=edits,
        width=width, wide=draw(st.booleans()),
    )  # fmt: skip
    shift = wait - (begin or 0)
    decoded = list(itertools.accumulate([0, *steps[:-1]]))
    samples = [
        (time + shift, time + shift + delay, place, size)
        for time, delay, place, size in zip(decoded, delays, places, sizes, strict=True)
    ]
    return track, samples, sorted(keyframes)


@settings(max_examples=300, deadline=None)
@given(made=tracks(), start=st.integers(0, 3000), length=st.integers(1, 2000))
def test_what_is_shown_in_a_clip_is_asked_for_from_its_keyframe_on(
    made: tuple[Track, list[tuple[int, int, int, int]], list[int]], start: int, length: int
) -> None:
    track, samples, keyframes = made
    total = max(place + size for _, _, place, size in samples)
    found = read_index(movie([track]), total)
    assert found.tracks[0].samples == len(samples)
    spans = found.spans([Clip(start / 1000, (start + length) / 1000)])
    real = {byte for _, _, place, size in samples for byte in range(place, place + size)}
    asked = {byte for span in spans for byte in range(span.start, span.end)}
    assert asked <= real
    if start / 1000 > found.duration:
        return
    before = [number for number in keyframes if samples[number][0] <= start and samples[number][1] <= start]
    shown = [number for number, (_, time, _, _) in enumerate(samples) if start <= time < start + length]
    for number in range(before[-1] if before else 0, shown[-1] + 1 if shown else 0):
        _, _, place, size = samples[number]
        assert set(range(place, place + size)) <= asked, number


def test_sound_of_samples_of_one_size() -> None:
    """Three hours of it, without a table of sizes."""
    rate, chunk = 48_000, 24_000
    chunks = [(1000 + number * 200_000, chunk) for number in range(3 * 3600 * 2)]
    sound = Track(
        kind=b"soun", scale=rate, times=[(rate * 3 * 3600, 1)], size=4, count=rate * 3 * 3600, chunks=chunks, wide=True
    )  # fmt: skip
    found = read_index(movie([sound]), 10**10)
    spans = found.spans([Clip(3600.0, 3602.0)])
    middle = [span for span in spans if span.size == 4 * chunk]
    assert [span.start for span in middle] == [chunks[7200 + number][0] for number in range(4)]
    assert sum(span.size for span in spans) < 4 * rate * 2.3


# three hours


def three_hours() -> tuple[bytes, int]:
    """A film of 30 pictures and 47 pieces of sound a second, with delays that are never the same: a million samples."""
    chance = np.random.default_rng(7)
    seconds = 3 * 3600
    pictures, sounds = 30 * seconds, 47 * seconds
    picture_sizes, sound_sizes = chance.integers(500, 60_000, pictures), chance.integers(200, 600, sounds)
    picture_chunks, sound_chunks, at = [], [], 48
    for second in range(seconds):
        picture_chunks.append((at, 30))
        at += int(picture_sizes[second * 30 : second * 30 + 30].sum())
        sound_chunks.append((at, 47))
        at += int(sound_sizes[second * 47 : second * 47 + 47].sum())
    video = Track(
        scale=30_000, times=[(pictures, 1000)], sizes=picture_sizes, chunks=picture_chunks, wide=True,
        delays=[(1, int(delay) * 1000) for delay in chance.integers(0, 4, pictures)],
        keyframes=range(0, pictures, 60),
    )  # fmt: skip
    sound = Track(
        kind=b"soun", scale=48_000, times=[(1, 1021 + number % 2) for number in range(sounds)], sizes=sound_sizes,
        chunks=sound_chunks, wide=True,
    )  # fmt: skip
    return movie([video, sound]), at


def test_the_index_of_three_hours_is_read_in_no_time_and_little_memory() -> None:
    moov, total = three_hours()
    assert len(moov) > 10**7
    best = min(_timed(moov, total) for _ in range(3))
    assert best < 0.5
    tracemalloc.start()
    try:
        found = read_index(moov, total)
        spans = found.spans([Clip(5000.0, 5010.0), Clip(9000.0, 9005.0)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(moov)
    assert sum(track.samples for track in found.tracks) == 77 * 3 * 3600
    assert 10 * 30 * 30_000 < sum(span.size for span in spans) < 25 * 30 * 30_000


def _timed(moov: bytes, total: int) -> float:
    began = time.process_time()
    read_index(moov, total).spans([Clip(number * 100.0, number * 100.0 + 5) for number in range(50)])
    return time.process_time() - began


# where it is


def boxes(*kinds: tuple[bytes, int]) -> bytes:
    return b"".join(pack(kind, bytes(size)) for kind, size in kinds)


def seen(data: bytes, have: int | None = None) -> Span | int:
    def peek(at: int) -> bytes | None:
        end = min(at + 16, len(data))
        return None if have is not None and end > have else data[at:end]

    return find_index(peek, len(data))


def test_the_index_is_found_wherever_it_is() -> None:
    assert seen(boxes((b"ftyp", 16), (b"moov", 100), (b"mdat", 50))) == Span(24, 132)
    assert seen(boxes((b"ftyp", 16), (b"free", 1), (b"mdat", 50), (b"uuid", 9), (b"moov", 100))) == Span(108, 216)
    large = boxes((b"ftyp", 16)) + struct.pack(">I4sQ", 1, b"mdat", 16 + 50) + bytes(50) + boxes((b"moov", 100))
    assert seen(large) == Span(90, 198)
    to_the_end = boxes((b"ftyp", 16)) + struct.pack(">I4s", 0, b"moov") + bytes(100)
    assert seen(to_the_end) == Span(24, 132)


def test_what_has_to_be_seen_first_is_told() -> None:
    data = boxes((b"ftyp", 16), (b"mdat", 5000), (b"free", 100), (b"moov", 100))
    assert seen(data, have=0) == 0
    assert seen(data, have=1000) == 24 + 5008
    assert seen(data, have=24 + 5008 + 16) == 24 + 5008 + 108


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x1a\x45\xdf\xa3" + bytes(100), "neither mp4 nor mov"),
        (b"<!DOCTYPE html><html></html>", "neither mp4 nor mov"),
        (boxes((b"ftyp", 16), (b"mdat", 50)), "no moov"),
        (boxes((b"ftyp", 16), (b"sidx", 50), (b"moof", 50)), "fragmented"),
        (boxes((b"ftyp", 16), (b"moof", 50)), "fragmented"),
        (boxes(*[(b"free", 0)] * 100), "too many boxes"),
        (boxes((b"ftyp", 16)) + struct.pack(">I4s", 7, b"free") + bytes(99), "no room"),
        (boxes((b"ftyp", 16)) + struct.pack(">I4s", 2**31, b"mdat") + bytes(99), "no room"),
        (boxes((b"ftyp", 16)) + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1) + bytes(99), "no room"),
        (boxes((b"ftyp", 16)) + struct.pack(">I4sQ", 1, b"mdat", 3) + bytes(99), "no room"),
        (boxes((b"ftyp", 16)) + b"\0\0\0", "cut off"),
        (boxes((b"ftyp", 16)) + struct.pack(">I4s", 1, b"mdat"), "cut off"),
    ],
)
def test_what_has_no_index(data: bytes, reason: str) -> None:
    with pytest.raises(NoIndex, match=reason):
        seen(data)


def test_an_index_that_is_too_large() -> None:
    head = boxes((b"ftyp", 16)) + struct.pack(">I4s", MAX_INDEX + 1, b"moov")
    with pytest.raises(NoIndex, match="very large"):
        find_index(lambda at: head[at : at + 16], 10**9)


# what is wrong with it


def one(**changes: object) -> Track:
    """A track of ten samples of 100 bytes in two chunks, or what is left of it."""
    plain: dict[str, object] = {"times": [(10, 100)], "sizes": [100] * 10, "chunks": [(0, 5), (900, 5)]}
    return Track(**{**plain, **changes})  # type: ignore[arg-type]


def test_a_small_index_is_fine() -> None:
    assert read_index(movie([one()]), 1400).spans([Clip(0.0, 0.01)]) == [Span(0, 500), Span(900, 1400)]


def dref(flags: int) -> bytes:
    entry = pack(b"alis", struct.pack(">I", flags))
    return pack(b"dinf", pack(b"dref", struct.pack(">II", 0, 1), entry))


@pytest.mark.parametrize(
    ("moov", "reason"),
    [
        (movie([one()], extra=pack(b"mvex", bytes(8))), "fragmented"),
        (pack(b"moov", pack(b"cmov", bytes(100))), "no mvhd"),
        (movie([]), "no samples"),
        (movie([one(times=[], sizes=[], chunks=[])]), "no samples"),
        (movie([one()], scale=0), "without ticks"),
        (movie([one(scale=0)]), "without ticks"),
        (movie([one(times=[(9, 100)])]), "fewer times"),
        (movie([one(chunks=[(0, 5), (900, 4)])]), "fewer places"),
        (movie([one(times=[(10, 2**31)])]), "back in time"),
        (movie([one(times=[(2**32 - 1, 2**31 - 1)] * 2)]), "beyond all measure"),
        (movie([one(size=2**31, count=2**32 - 1)]), "beyond all measure"),
        (movie([one(chunks=[(2**63, 5), (0, 5)], wide=True)]), "beyond all files"),
        (movie([one(edits=[(100, 0), (100, 500)])]), "several pieces"),
        (movie([one(edits=[(1, -1)] * 20)]), "makes no sense"),
        (movie([one(boxes=[dref(0)])]), "another file"),
        (movie([one(width=32)]), "in 32 bits"),
    ],
)
def test_what_is_not_read(moov: bytes, reason: str) -> None:
    with pytest.raises(NoIndex, match=reason):
        read_index(moov, 1400)


def test_media_in_this_file_by_its_own_word() -> None:
    assert read_index(movie([one(boxes=[dref(1)])]), 1400).tracks


def test_samples_that_are_scattered_all_over() -> None:
    count = 1_000_000
    track = Track(times=[(count, 1000)], chunks=[(number * 2, 1) for number in range(count)], size=1, count=count)
    found = read_index(movie([track]), 2 * count)
    assert len(found.spans([Clip(0.0, 1.0)])) > 1000
    with pytest.raises(NoIndex, match="scattered"):
        found.spans([Clip(0.0, 1e6)])


def test_a_table_of_millions_costs_no_more_than_its_bytes() -> None:
    """The worst that fits: millions of keyframes, or of runs."""
    count = 2_000_000
    for track in (
        Track(times=[(count, 1000)], chunks=[(0, count)], sizes=np.ones(count, int), keyframes=range(count)),
        Track(times=[(1, 1 + number % 2) for number in range(count)], chunks=[(0, count)], size=3, count=count),
    ):
        survive(movie([track]), 10**8)


# under fire

SMALL = movie([
    one(delays=[(5, 10), (5, -10)], keyframes=[0, 5], edits=[(50, -1), (900, 20)]),
    one(kind=b"soun", wide=True),
    one(width=8),
])  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def bounded() -> Iterator[None]:
    """No table may take memory that its bytes are not worth: some gigabytes on top of what we have would fail here."""
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data_bytes() + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def survive(moov: bytes, total: int) -> None:
    """It is an index or none, soon; and what an index asks for is in the file."""
    began = time.process_time()
    try:
        found = read_index(moov, total)
        clips = [Clip(0.1, 0.3), Clip(0.0, 1e9), Clip(1e8, 1e9)]
        spans = found.spans(clips)
        assert found.duration is not None
    except NoIndex:
        pass
    else:
        assert all(0 <= span.start < span.end <= total for span in spans)
        assert all(before.end < after.start for before, after in itertools.pairwise(spans))
    assert time.process_time() - began < 2


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    places=st.lists(st.integers(0, len(SMALL) // 4 - 1), min_size=1, max_size=4),
    values=st.lists(
        st.sampled_from([0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1),
        min_size=4, max_size=4,
    ),
    cut=st.integers(0, 40),
)  # fmt: skip
def test_numbers_of_an_index_may_be_anything(places: list[int], values: list[int], cut: int) -> None:
    data = bytearray(SMALL)
    for place, value in zip(places, values, strict=False):
        struct.pack_into(">I", data, 4 * place, value)
    survive(bytes(data[: len(data) - cut] if cut < 20 else data), 1400)


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=400))
def test_an_index_may_be_noise(data: bytes) -> None:
    survive(data, 1400)
    survive(pack(b"moov", data), 1400)


def test_each_number_of_a_real_index_may_be_wrong(films: Films) -> None:
    """All headers and the first rows of all tables, with what overflows."""
    moov, _ = index_of(films("first"))
    total = films("first").stat().st_size
    chance = random.Random(5)
    for _ in range(150):
        data = bytearray(moov)
        at = chance.choice([chance.randrange(0, 2000), chance.randrange(0, len(moov) - 4)])
        struct.pack_into(">I", data, at, chance.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(2**32)]))
        survive(bytes(data), total)


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=200), total=st.integers(0, 2**63))
def test_a_file_may_be_noise(data: bytes, total: int) -> None:
    try:
        found = find_index(lambda at: (b"\0\0\0\x10ftyp" + data)[at : at + 16] if at < 208 else None, total)
    except NoIndex:
        return
    assert (0 <= found.start < found.end <= total) if isinstance(found, Span) else 0 <= found < total


def test_a_truncated_file_asks_for_no_more_than_there_is(films: Films) -> None:
    moov, start = index_of(films("first"))
    half = films("first").stat().st_size // 2
    spans = read_index(moov, half).spans([Clip(0.0, 600.0)])
    assert spans[-1].end == half
    assert start < place_of(films("first").read_bytes(), b"mdat")[0]
