"""Clips by byte ranges: what is fetched, what it is good for, and what is done about servers and files of all kinds."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import resource
import subprocess
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imageio_ffmpeg import get_ffmpeg_exe
from support.films import Films, index_of
from support.media_server import MediaServer

from img2dataset_dist import download
from img2dataset_dist.config import JobConfig
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.clip_ranges import (
    GAP,
    LARGEST,
    LOOKUPS,
    MOST,
    PROBE,
    REQUESTS,
    RangePlanner,
    Span,
    join,
    missing,
    union,
)
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.fetchers.outcome import http_failure
from img2dataset_dist.ffmpeg.probe import probe
from img2dataset_dist.model import Clip, Failure, Fetched, FetchFacts, Item, MediaFile
from img2dataset_dist.spool import Spool

CLIP = Clip(301.3, 309.9)
MIDDLE = (CLIP,)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.getbasetemp() / "films")


@pytest.fixture(scope="module")
def media(films: Films) -> Iterator[MediaServer]:
    films("first"), films("last")
    with MediaServer(films.folder) as running:
        yield running


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(str(tmp_path / "spool"))
    yield made
    made.close()


def config(**options: object) -> JobConfig:
    plain = {"media": "video", "allow_private_addresses": True, "retries": 1, "retry_backoff": 0.01, "timeout": 20.0}
    return JobConfig.from_flat({"url_list": "x.csv", "input_format": "csv", **plain, **options})


def items(*urls: str, clips: tuple[Clip, ...] = MIDDLE) -> list[Item]:
    return [Item(shard_id=3, index=n, key=f"{n:05d}", url=url, clips=clips) for n, url in enumerate(urls)]


def fetch(rows: list[Item], spool: Spool, **options: object) -> list[Fetched]:
    """The outcomes of rows that are fetched by ranges, by the fetcher that does it in a job."""
    job = config(**options)
    planner = RangePlanner(job, spool=spool)
    before = set(os.listdir(spool.root))
    assert all(planner.wants(row) for row in rows)
    requests = deque(request for row in rows for request in planner.begin(row))
    done: list[Fetched] = []

    def feed() -> Iterator[Item | None]:
        while len(done) < len(rows):
            yield requests.popleft() if requests else None

    with contextlib.closing(CurlFetcher(job.fetch, FetchContext(spool=spool))) as fetcher:
        for fetched in fetcher.fetch(feed()):
            step = planner.came(fetched)
            assert not (step.requests and step.done)
            requests.extend(step.requests)
            if step.done is not None:
                done.append(step.done)
    assert not requests
    assert not planner._rows
    done.sort(key=lambda each: each.item.index)
    assert [each.item for each in done] == rows
    kept = {Path(each.file.path).parent.name for each in done if each.file is not None}
    assert set(os.listdir(spool.root)) - before == kept, "folders of pieces are removed"
    return done


def only(url: str, spool: Spool, clips: tuple[Clip, ...] = MIDDLE, **options: object) -> Fetched:
    return fetch(items(url, clips=clips), spool, **options)[0]


def code(fetched: Fetched) -> str:
    return fetched.failure.code if fetched.failure else "success"


def present(fetched: Fetched) -> MediaFile:
    assert fetched.file is not None, fetched.failure
    return fetched.file


def pictures(path: str | Path, clip: Clip, *how: str, threads: int = 1) -> list[str]:
    """What ffmpeg makes of a clip, as checksums with times, one for each packet or picture."""
    command = [get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-threads", str(threads), "-f", "mov"]
    command += ["-ss", f"{clip.start:.6f}", "-to", f"{clip.end:.6f}", "-i", str(path), "-map", "0", *how]
    ended = subprocess.run([*command, "-f", "framemd5", "-"], capture_output=True, text=True, check=True, timeout=60)
    return [line for line in ended.stdout.splitlines() if not line.startswith("#")]


def needed(path: Path, clip: Clip) -> int:
    """Bytes of the index and of the packets from the keyframe before a clip to its end, as libav counts them."""
    moov, _ = index_of(path)
    size = len(moov)
    with av.open(str(path)) as container:
        on = {stream.index for stream in container.streams}
        container.seek(round(clip.start * av.time_base))
        for packet in container.demux():
            if packet.dts is None or not on:
                break
            if packet.dts * packet.time_base >= clip.end:
                on.discard(packet.stream.index)
            elif packet.stream.index in on:
                size += packet.size
    return size


# what is fetched, and what it is good for


@pytest.mark.parametrize("name", ["first", "last", "pyramid", "hevc", "no_edit", "two_sounds", "mpeg4", "trimmed"])
def test_a_clip_is_the_same_as_from_the_whole_file(films: Films, media: MediaServer, spool: Spool, name: str) -> None:
    """Copied and decoded, picture for picture; and little more was sent than it takes."""
    path = films(name)
    media.clear()
    fetched = only(media.url(f"/{path.name}"), spool)
    file = present(fetched)
    assert file.present == MIDDLE
    assert os.path.getsize(file.path) == path.stat().st_size
    for how in (("-c", "copy"), ()):
        whole = pictures(path, CLIP, *how)
        assert len(whole) > 40
        assert pictures(file.path, CLIP, *how) == whole
        assert pictures(file.path, CLIP, *how, threads=8) == whole
    sent = media.sent()
    assert sent == file.size == fetched.facts.bytes
    assert sent <= MOST * needed(path, CLIP)
    assert sum(media.counts().values()) <= 4


@pytest.mark.parametrize("name", ["first", "last", "silent", "sound"])
def test_clips_anywhere(films: Films, media: MediaServer, spool: Spool, name: str) -> None:
    """At the beginning, at the end, on a keyframe, very short; each is the same as from the whole file."""
    path, chance = films(name), random.Random(name)
    starts = [0.0, 0.01, 300.0, 598.0, *(round(chance.uniform(0, 590), 3) for _ in range(4))]
    clips = [Clip(start, start + chance.choice([0.5, 1, 3])) for start in starts]
    rows = [
        replace(row, clips=(clip,)) for row, clip in zip(items(*[media.url(f"/{path.name}")] * 8), clips, strict=True)
    ]
    for row, clip in zip(fetch(rows, spool), clips, strict=True):
        for how in (("-c", "copy"), ()):
            assert pictures(present(row).path, clip, *how) == pictures(path, clip, *how), clip


@pytest.mark.parametrize("name", ["first", "last", "pyramid", "two_sounds", "silent"])
def test_little_more_is_fetched_than_is_needed(films: Films, media: MediaServer, spool: Spool, name: str) -> None:
    """For clips of two seconds and more, wherever they are; in three requests, or in four."""
    path, chance = films(name), random.Random(name)
    clips = [Clip(start := chance.uniform(0, 580), start + chance.uniform(2, 15)) for _ in range(16)]
    rows = items(*[media.url(f"/{path.name}")] * len(clips))
    for fetched in fetch([replace(row, clips=(clip,)) for row, clip in zip(rows, clips, strict=True)], spool):
        clip = clips[fetched.item.index]
        assert present(fetched).size <= MOST * needed(path, clip), clip
        assert fetched.facts.attempts <= 4


@pytest.mark.parametrize("name", ["first", "last", "pyramid", "hevc", "mpeg4", "sound"])
def test_what_is_known_of_the_file_is_the_same(films: Films, media: MediaServer, spool: Spool, name: str) -> None:
    """Streams, sizes, times: all that ffprobe would say, for which it decodes the first pictures."""
    path = films(name)
    file = present(only(media.url(f"/{path.name}"), spool))
    assert file.present is not None
    kind = path.suffix.removeprefix(".")
    whole, part = (probe(str(each), kind, max_pixels=10**6, metadata=True) for each in (path, file.path))
    assert whole == part


def test_what_is_seen_of_the_pictures(films: Films, media: MediaServer, spool: Spool) -> None:
    """Decoded by PyAV: the pictures of a clip are those of the whole file."""
    file = present(only(media.url("/first.mp4"), spool))
    seen = [_pictures(path, CLIP) for path in (films("first"), file.path)]
    assert len(seen[0]) == round((CLIP.end - CLIP.start) * 5)
    assert np.array_equal(*seen)


def _pictures(path: str | Path, clip: Clip) -> np.ndarray:
    with av.open(str(path), format="mov") as container:
        container.seek(round(clip.start * av.time_base))
        found = []
        for frame in container.decode(video=0):
            if frame.time >= clip.end:
                break
            if frame.time >= clip.start:
                found.append(frame.to_ndarray(format="rgb24"))
    return np.stack(found)


def test_several_clips_of_one_video_come_in_one_go(films: Films, media: MediaServer, spool: Spool) -> None:
    media.clear()
    clips = (Clip(500.0, 505.0), Clip(100.0, 105.0), Clip(103.0, 108.0))
    file = present(only(media.url("/last.mp4"), spool, clips))
    assert file.present == (Clip(100.0, 108.0), Clip(500.0, 505.0))
    for clip in clips:
        assert pictures(file.path, clip) == pictures(films("last"), clip)
    assert media.count("/last.mp4") <= 5
    index = len(index_of(films("last"))[0])
    assert media.sent() <= MOST * (sum(needed(films("last"), clip) for clip in clips) - 2 * index)


def test_a_file_with_holes_takes_no_more_of_the_disk_than_came(media: MediaServer, spool: Spool) -> None:
    file = present(only(media.url("/first.mp4"), spool))
    assert os.path.getsize(file.path) > 10 * file.size
    assert os.stat(file.path).st_blocks * 512 < 1.5 * file.size


def test_what_came_is_not_asked_for_again(media: MediaServer, spool: Spool) -> None:
    media.clear()
    only(media.url("/first.mp4"), spool)
    spans = []
    for wanted in media.ranges("/first.mp4"):
        assert wanted is not None
        first, last = wanted.removeprefix("bytes=").split("-")
        spans.append(Span(int(first), int(last) + 1))
    assert spans[0] == Span(0, PROBE)
    assert len(union(spans)) < len(spans) <= 3
    assert sum(span.size for span in union(spans)) == sum(span.size for span in spans)


def test_many_rows_at_once(films: Films, media: MediaServer, spool: Spool) -> None:
    chance = random.Random(1)
    rows = [
        replace(row, clips=(Clip(start := chance.uniform(0, 590), start + 2),))
        for row in items(*[media.url(f"/{name}.mp4") for name in ("first", "last", "silent") for _ in range(10)])
    ]
    films("silent")
    for row, fetched in zip(rows, fetch(rows, spool), strict=True):
        assert present(fetched).present == row.clips


def test_the_facts_of_a_row_are_those_of_all_its_requests(films: Films, media: MediaServer, spool: Spool) -> None:
    media.clear()
    facts = only(media.url("/last.mp4"), spool).facts
    assert facts.attempts == media.count("/last.mp4") == 3
    assert facts.bytes == media.sent()
    assert facts.total_bytes == films("last").stat().st_size
    assert facts.http_status == 206
    assert facts.content_type == "video/mp4"
    assert facts.fetch_ms is not None


def test_redirects_are_followed_by_each_request(media: MediaServer, spool: Spool) -> None:
    media.clear()
    file = present(only(media.url("/redirect/first.mp4"), spool))
    assert file.present == MIDDLE
    assert media.count("/redirect/first.mp4") == media.count("/first.mp4") == 3


def test_a_request_that_fails_once_is_made_again(media: MediaServer, spool: Spool) -> None:
    fetched = only(media.url("/flaky/first.mp4?once"), spool)
    assert present(fetched).present == MIDDLE
    assert fetched.facts.attempts == 4


# the whole file


def assert_whole(fetched: Fetched, path: Path) -> None:
    file = present(fetched)
    assert file.present is None
    assert Path(file.path).read_bytes() == path.read_bytes()
    assert file.size == path.stat().st_size


@pytest.mark.parametrize("behaviour", ["norange", "liar", "wholeliar", "endless", "deny"])
def test_servers_that_do_not_do_ranges(films: Films, media: MediaServer, spool: Spool, behaviour: str) -> None:
    """What they send in place of a range is the file, or it is asked for."""
    path = f"/{behaviour}/first.mp4"
    media.clear()
    fetched = only(media.url(path), spool)
    if behaviour == "deny":  # to all appearances the file itself is what is denied
        assert code(fetched) == "http_403"
        assert media.count(path) == 1
        return
    assert_whole(fetched, films("first"))
    assert media.count(path) == (1 if behaviour == "norange" else 2)


@pytest.mark.parametrize("behaviour", ["noaccept", "noetag", "typeless", "octets"])
def test_servers_that_do_not_say_much(media: MediaServer, spool: Spool, behaviour: str) -> None:
    assert present(only(media.url(f"/{behaviour}/first.mp4"), spool)).present == MIDDLE


@pytest.mark.parametrize("name", ["fragmented", "hybrid", "webm"])
def test_files_without_an_index_are_fetched_whole(films: Films, media: MediaServer, spool: Spool, name: str) -> None:
    """And what was seen of them is not fetched twice."""
    path = films(name)
    media.clear()
    fetched = only(media.url(f"/{path.name}"), spool)
    assert_whole(fetched, path)
    assert media.sent() == path.stat().st_size == fetched.facts.bytes
    assert media.count(f"/{path.name}") <= 3


def test_most_of_a_file_is_fetched_whole(films: Films, media: MediaServer, spool: Spool) -> None:
    media.clear()
    assert_whole(only(media.url("/last.mp4"), spool, (Clip(50.0, 590.0),)), films("last"))
    assert media.sent() == films("last").stat().st_size
    assert media.count("/last.mp4") <= 4


def test_a_small_file_is_fetched_in_two_requests(films: Films, media: MediaServer, spool: Spool) -> None:
    for size, count in ((200_000, 2), (PROBE, 1), (PROBE - 100, 1)):
        path = films.file(f"small{size}.mp4", films("first").read_bytes()[:size])
        assert_whole(only(media.url(f"/{path.name}"), spool), path)
        assert media.count(f"/{path.name}") == count


@pytest.mark.parametrize(("behaviour", "extra"), [("changed", 1000), ("swapped", 0)])
def test_a_file_that_changes_under_way(
    films: Films, media: MediaServer, spool: Spool, behaviour: str, extra: int
) -> None:
    """It is fetched anew, and nothing of the old one is in it."""
    file = present(only(media.url(f"/{behaviour}/first.mp4?{spool.root}"), spool))
    was = films("first").read_bytes()
    body = Path(file.path).read_bytes()
    assert file.present is None
    assert len(body) == len(was) + extra
    assert (body[: len(was)] == was) == (behaviour == "changed")


def test_pages_come_as_they_are(media: MediaServer, spool: Spool) -> None:
    for behaviour in ("html200", "lietype"):
        file = present(only(media.url(f"/{behaviour}/first.mp4"), spool))
        assert b"This video is not available" in Path(file.path).read_bytes()
        assert media.count(f"/{behaviour}/first.mp4") == 1


def test_an_index_that_makes_no_sense(films: Films, media: MediaServer, spool: Spool) -> None:
    """Noise within the tables: the whole file comes, and what it is good for is for others to say."""
    data = bytearray(films("first").read_bytes())
    at = data.index(b"stsz") + 12
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path = films.file("broken.mp4", bytes(data))
    assert_whole(only(media.url("/broken.mp4"), spool), path)


@pytest.mark.parametrize(
    ("behaviour", "expected", "requests"),
    [
        ("status/404", "http_404", 1), ("status/403", "http_403", 1), ("status/500", "http_500", 2),
        ("status/405", "http_405", 2), ("zero", "empty_body", 2), ("truncated", "truncated", 2),
    ],
)  # fmt: skip
def test_what_cannot_be_had_fails(
    media: MediaServer, spool: Spool, behaviour: str, expected: str, requests: int
) -> None:
    media.clear()
    fetched = only(media.url(f"/{behaviour}/first.mp4"), spool)
    assert code(fetched) == expected
    assert sum(media.counts().values()) == requests == fetched.facts.attempts


def test_a_server_that_stops_in_between(media: MediaServer, spool: Spool) -> None:
    assert code(only(media.url("/hang/first.mp4"), spool, timeout=1.0, retries=0)).startswith("timeout")


def test_what_is_larger_than_may_be(films: Films, media: MediaServer, spool: Spool) -> None:
    """The cap is for what is fetched, not for what there is."""
    assert present(only(media.url("/first.mp4"), spool, max_body_bytes=1_000_000)).present == MIDDLE
    media.clear()
    assert code(only(media.url("/first.mp4"), spool, (Clip(0.0, 590.0),), max_body_bytes=1_000_000)) == "too_large"
    films("fragmented")
    assert code(only(media.url("/fragmented.mp4"), spool, max_body_bytes=1_000_000)) == "too_large"
    assert media.sent() < 300_000


def test_a_file_of_any_size_may_be_announced(films: Films, spool: Spool) -> None:
    """No room is made for it, and it is not fetched."""
    planner = RangePlanner(config(), spool=spool)
    (row,) = items("http://127.0.0.1/x.mp4")
    for total in (2**42, 10**17):
        (request,) = planner.begin(row)
        folder = spool.folder()
        path = os.path.join(folder, "body")
        Path(path).write_bytes(films("first").read_bytes()[:PROBE])
        facts = FetchFacts(http_status=206, total_bytes=total, attempts=1, bytes=PROBE)
        step = planner.came(Fetched(item=request, facts=facts, file=MediaFile(path=path, size=PROBE)))
        if total < LARGEST:  # its index is like that of others
            assert [each.byte_range is not None for each in step.requests] == [True]
            assert os.path.getsize(path) == PROBE
        else:
            assert step.done is not None
            assert code(step.done) == "too_large"
            assert not os.path.exists(folder)


def test_a_disk_that_takes_no_more(media: MediaServer, spool: Spool) -> None:
    """The row fails, and nothing of it stays."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        fetched = only(media.url("/first.mp4"), spool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code(fetched) == "disk_full"


def test_more_clips_than_it_is_worth(films: Films, media: MediaServer, spool: Spool) -> None:
    clips = tuple(Clip(number / 10, number / 10 + 0.01) for number in range(LOOKUPS // 2 + 1))
    assert_whole(only(media.url("/first.mp4"), spool, clips), films("first"))


# which rows


def test_which_rows_are_fetched_by_ranges(spool: Spool) -> None:
    (row,) = items("https://example.org/a.mp4")
    planner = RangePlanner(config(), spool=spool)
    assert planner.wants(row)
    for other in (
        replace(row, clips=None), replace(row, clips=()), replace(row, url=None), replace(row, url="s3://bucket/a.mp4"),
        replace(row, failure=Failure(code="bad_row", message="", status="failed_to_download")),
        replace(row, byte_range=(0, 9)),
    ):  # fmt: skip
        assert not planner.wants(other)
    keyframes = {"FrameSubsampler": {"args": {"downsample_method": "keyframe"}}}
    for options in (
        {"clip_ranges": False}, {"media": "any"}, {"verify_hash": ("md5", "md5"), "compute_hash": "md5"},
        {"video_frames": "keyframe"}, {"subsampling": keyframes},
    ):  # fmt: skip
        assert not RangePlanner(config(**options), spool=spool).wants(row)


@pytest.mark.slow
def test_keyframes_of_clips_are_those_of_the_whole_film(media: MediaServer, tmp_path: Path) -> None:
    """Clips of any length, whether ranges are allowed or not."""
    rows = tmp_path / "films.jsonl"
    clips = [[20, 21], [100, 108.5], [301.3, 309.9], [400.5, 401]]
    rows.write_text(json.dumps({"url": media.url("/first.mp4"), "clips": clips}))
    found = []
    for ranges in (True, False):
        folder = tmp_path / str(ranges)
        stats = download(
            str(rows), input_format="jsonl", clip_col="clips", media="video", video_frames="keyframe",
            clip_ranges=ranges, ffmpeg_threads=1, output_format="files", output_folder=str(folder), processes_count=1,
            allow_private_addresses=True, clip_precision="exact", enable_wandb=False,
        )  # fmt: skip
        assert stats.successes == 1
        found.append({path.name: times(path) for path in sorted(folder.rglob("*.mp4"))})
    assert found[0] == found[1]
    assert len(found[0]) >= 2
    assert all(found[0].values())


def times(path: Path) -> list[float | None]:
    with av.open(str(path)) as video:
        return [frame.time for frame in video.decode(video=0)]


def test_the_timeout_is_for_all_requests_of_a_row(films: Films, spool: Spool) -> None:
    """What its earlier requests took is gone, whether one was slow or many."""
    planner = RangePlanner(config(), spool=spool)
    (row,) = items("http://127.0.0.1/x.mp4")
    (request,) = planner.begin(row)
    assert request.spent == 0.0
    content = films("last").read_bytes()
    for milliseconds in (1500, 2750):
        path = os.path.join(spool.folder(), "body")
        assert request.byte_range is not None
        first, last = request.byte_range
        Path(path).write_bytes(content[first : last + 1])
        size = os.path.getsize(path)
        facts = FetchFacts(http_status=206, total_bytes=len(content), attempts=1, bytes=size, fetch_ms=milliseconds)
        step = planner.came(Fetched(item=request, facts=facts, file=MediaFile(path=path, size=size)))
        assert {each.spent for each in step.requests} == {milliseconds / 1000}
        request = step.requests[0]
    refused = Fetched(item=request, facts=FetchFacts(fetch_ms=3000, attempts=1), failure=http_failure(416))
    for _ in step.requests:
        step = planner.came(refused)
    (whole,) = step.requests
    assert (whole.byte_range, whole.spent) == (None, 3.0)


# spans

spans = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)).map(lambda pair: Span(pair[0], sum(pair)))).map(
    union
)


def bytes_of(found: list[Span]) -> set[int]:
    return {byte for span in found for byte in range(span.start, span.end)}


@given(wanted=spans, have=spans)
def test_what_is_missing(wanted: list[Span], have: list[Span]) -> None:
    found = missing(wanted, have)
    assert bytes_of(found) == bytes_of(wanted) - bytes_of(have)
    assert found == union(found)


@given(wanted=spans, spare=st.integers(-10, 400))
def test_gaps_are_filled_as_long_as_there_is_something_to_spare(wanted: list[Span], spare: int) -> None:
    found = join(wanted, spare=spare)
    assert bytes_of(found) >= bytes_of(wanted)
    assert found == union(found)
    extra = len(bytes_of(found) - bytes_of(wanted))
    assert extra <= max(spare, 0)
    gaps = [after.start - before.end for before, after in itertools.pairwise(found)]
    assert all(gap > spare - extra for gap in gaps)


def test_large_gaps_stay_but_for_too_many() -> None:
    few = [Span(n * 10 * GAP, n * 10 * GAP + 5) for n in range(REQUESTS)]
    assert join(few, spare=2**60) == few
    many = [Span(n * 10 * GAP + n * n, n * 10 * GAP + n * n + 5) for n in range(10 * REQUESTS)]
    found = join(many, spare=0)
    assert len(found) == REQUESTS
    assert found[0].size > found[-1].size == 5
