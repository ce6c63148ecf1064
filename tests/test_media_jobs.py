"""Whole jobs over videos, sounds and any files, as users run them: what comes out, in what time, and what is left behind."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import dataset
from support.films import index_of
from support.media_server import MediaServer
from support.processes import Driver, below, processes, wait_for
from support.sites import SiteServer
from support.videos import HEIGHT, WIDTH, Gallery, ffmpeg, real, seen

from img2dataset_dist import download, spool
from img2dataset_dist.errors import RESIZE, ROW_ERRORS, SUBSAMPLE

pytestmark = pytest.mark.timeout(240)
SPOOLS = f"{spool.PREFIX}*"
MARK = "[0-9]*"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Gallery:
    made = Gallery(tmp_path_factory.mktemp("gallery"))
    for name in ("bikes.mp4", "bigbuckbunny.mp4"):
        shutil.copy(real(name), made.folder)
    shutil.copy(photo_folder / "photo_00000.jpg", made.folder / "photo")
    return made


@pytest.fixture(scope="module")
def media(gallery: Gallery) -> Iterator[MediaServer]:
    with MediaServer(gallery.folder) as server:
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[SiteServer]:
    with SiteServer() as server:
        yield server


def options(tmp_path: Path, urls: list[str], **more: Any) -> dict[str, Any]:
    """A job over these URLs, one shard unless said otherwise."""
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls) + "\n")
    return {
        "url_list": str(path),
        "output_folder": str(tmp_path / "out"),
        "output_format": "webdataset",
        "media": "video",
        "processes_count": 1,
        "number_sample_per_shard": 100,
        "allow_private_addresses": True,
        "progress": "none",
        "tmp_dir": str(tmp_path / "tmp"),
        "timeout": 40,
        **more,
    }


def check_nothing_is_left(tmp_path: Path) -> None:
    """No spool, and nothing of a worker's in the working folder."""
    assert list((tmp_path / "tmp").glob("*")) == []
    assert dataset.leftovers(tmp_path / "out") == []


def files(folder: Path) -> dict[str, bytes]:
    """Stored files by name, from tars or folders."""
    found = {}
    for name in dataset.done(folder):
        if (folder / f"{name}.tar").exists():
            with tarfile.open(folder / f"{name}.tar") as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    assert content is not None
                    found[member.name] = content.read()
        else:
            found |= {path.name: path.read_bytes() for path in (folder / name).glob("*")}
    return found


def in_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows in the order of the list."""
    found = dataset.rows(folder)
    return [found[key] for key in sorted(found)]


# any


class Kept(NamedTuple):
    """A file and what is to be known of it: extension in the dataset, kind, width, duration."""

    body: bytes
    extension: str
    kind: str
    width: int | None = None
    duration: float | None = None


@pytest.fixture(scope="module")
def mixed(gallery: Gallery) -> dict[str, Kept]:
    """Files of all kinds, below names that say nothing."""
    table = gallery.folder / "table.parquet"
    pq.write_table(pa.table({"a": [1, 2, 3]}), table)
    kept = {
        "photo": Kept((gallery.folder / "photo").read_bytes(), "jpg", "image", width=0),
        "film": Kept(gallery("moov_last").read_bytes(), "mp4", "video", WIDTH, 4.0),
        "film2": Kept(gallery("vp9").read_bytes(), "webm", "video", WIDTH, 4.0),
        "song": Kept(gallery("mp3").read_bytes(), "mp3", "audio", None, 4.0),
        "voice": Kept(gallery("aac").read_bytes(), "m4a", "audio", None, 4.0),
        "paper": Kept(b"%PDF-1.7\n" + bytes(5000), "pdf", "text"),
        "page": Kept(b"<!doctype html><html><body>words</body></html>", "html", "page"),
        "data": Kept(json.dumps({"a": [1, 2]}).encode(), "data.json", "text"),
        "words": Kept("Grüße, nothing more\n".encode(), "data.txt", "text"),
        "packed": Kept(gzip.compress(b"a" * 5000), "gz", "archive"),
        "bits": Kept(bytes(range(256)) * 4, "bin", "other"),
        "table": Kept(table.read_bytes(), "parquet", "other"),
    }
    for name, one in kept.items():
        (gallery.folder / f"any-{name}").write_bytes(one.body)
    (gallery.folder / "any-zero").write_bytes(b"")
    return kept


@pytest.mark.parametrize("output_format", ["files", "webdataset", "parquet", "tfrecord", "dummy"])
def test_any_file_is_kept_as_it_came(
    output_format: str, mixed: dict[str, Kept], media: MediaServer, tmp_path: Path
) -> None:
    urls = [media.url(f"/any-{name}") for name in mixed]
    urls += [media.url("/any-zero"), media.url("/status/404/any-photo"), "not a url", media.url("/truncated/any-film")]
    stats = download(**options(tmp_path, urls, media="any", output_format=output_format))
    out = tmp_path / "out"
    failures = ["empty_body", "http_404", "bad_url", "truncated"]
    assert (stats.count, stats.successes) == (len(urls), len(mixed))
    assert stats.codes == dict.fromkeys(failures, 1)
    assert stats.failed_to_download == 4
    check_nothing_is_left(tmp_path)
    if output_format == "dummy":
        return
    dataset.check_whole(out)
    rows = in_rows(out)
    assert [row["error_code"] for row in rows] == [None] * len(mixed) + failures
    for row, one in zip(rows, mixed.values(), strict=False):
        assert (row["kind"], row["bytes"], row["sha256"]) == (one.kind, len(one.body), sha256(one.body)), one.extension
        assert (row["width"] or 0) > 0 if one.width == 0 else row["width"] == one.width
        assert row["duration"] == (None if one.duration is None else pytest.approx(one.duration, abs=0.1))
    if output_format in ("files", "webdataset"):
        stored = files(out)
        for row, one in zip(rows, mixed.values(), strict=False):
            assert stored[f"{row['key']}.{one.extension}"] == one.body
        assert len(stored) == 2 * len(mixed), "and KEY.json of each, nothing of a failed row"
    elif output_format == "parquet":
        content = pq.read_table(out / "00000.parquet").to_pylist()
        assert [row["media"] for row in content] == [*(one.body for one in mixed.values()), *[None] * 4]


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


# videos: every case of a list as the web has them


class Video(NamedTuple):
    """What is stored of a video: how many pictures of the test card (None: another), the size that is shown, ..."""

    pictures: int | None
    width: int
    height: int
    sound: bool = True
    stretched: int = 1
    """How wide a stored pixel is shown."""


CARD = Video(100, WIDTH, HEIGHT)
MUTE = CARD._replace(sound=False)
OURS: dict[str, Video | str] = {
    **dict.fromkeys(
        ("moov_first", "moov_last", "fragmented", "quicktime", "vp8", "vp9", "matroska", "transport", "flash", "program",
         "mpeg4", "mjpeg", "prores", "ten_bits", "no_b_frames"),
        CARD,
    ),
    "silent": MUTE,
    "variable": MUTE._replace(pictures=40),
    "rotated": Video(100, HEIGHT, WIDTH),
    "anamorphic": Video(25, 2 * WIDTH, HEIGHT, sound=False, stretched=2),
    "odd": Video(25, 160, 120, sound=False),
    "scenes": Video(None, WIDTH, HEIGHT, sound=False),
    "mp3": "no_stream",
    "aac": "no_stream",
    "covered": "no_stream",
    "truncated_first": "decode_error",
    "truncated_last": "decode_error",
    "truncated_mkv": "decode_error",
    "noise": "decode_error",
    "outside": "decode_error",
    "zero": "empty_body",
    "page": "not_media",
    "json": "not_media",
    "playlist": "not_media",
    "concat": "not_media",
    "svg": "not_media",
}  # fmt: skip
"""Of files by `Gallery`, each under a URL of its own."""

SERVERS: dict[str, Video | str] = {
    **dict.fromkeys(("norange", "noaccept", "noetag", "typeless", "octets", "redirect"), CARD),
    "html200": "site_unsupported",
    "lietype": "not_media",
    "status/404": "http_404",
    "status/403": "http_403",
    "status/503": "http_503",
    "truncated": "truncated",
    "zero": "empty_body",
    "hang": "timeout_idle",
}
"""The same good video from servers of all kinds."""

_BIG, _SMALL = Video(None, 640, 360), Video(None, 320, 180)
PAGES: dict[str, Video | str] = {
    "/page/video": _SMALL,
    "/page/source": _BIG,
    "/page/og": _SMALL,
    "/page/hls": _BIG,
    "/media/master.m3u8": _BIG,
    "/media/hls_1.m3u8": _SMALL,
    "/media/dash.mpd": _BIG,
    "/page/none": "site_unsupported",
    "/page/private": "site_private",
    "/page/gone": "site_removed",
    "/page/geo": "site_geo",
    "/page/file": "site_unsupported",
    "/playlist/file.m3u8": "redirect_refused",
    "/playlist/live.m3u8": "site_unsupported",
    "/playlist/drm.m3u8": "site_unsupported",
    "/playlist/hole.m3u8": "http_404",
}
"""Pages, playlists and what a site says, for yt-dlp."""

REAL = {"bikes.mp4": Video(250, 640, 272, sound=False), "bigbuckbunny.mp4": Video(132, 1280, 720)}
BOUND = 120.0
"""Seconds for a job over all of them, though one server hangs, on a machine that is busy otherwise."""


def test_every_kind_of_video(gallery: Gallery, media: MediaServer, site: SiteServer, tmp_path: Path) -> None:
    expected: dict[str, Video | str] = {}
    for name, outcome in OURS.items():
        expected[media.url(f"/{gallery(name).name}")] = outcome
    expected |= {media.url(f"/{kind}/moov_first.mp4"): outcome for kind, outcome in SERVERS.items()}
    expected |= {site.url(path): outcome for path, outcome in PAGES.items()}
    expected |= {media.url(f"/{name}"): outcome for name, outcome in REAL.items()}
    began = time.monotonic()
    stats = download(**options(tmp_path, list(expected), min_speed_window=3))
    assert time.monotonic() - began < BOUND
    assert stats.count == len(expected)
    out = tmp_path / "out"
    dataset.check_whole(out)
    check_nothing_is_left(tmp_path)
    rows = in_rows(out)
    found = {row["url"]: row["error_code"] for row in rows}
    wanted = {url: outcome if isinstance(outcome, str) else None for url, outcome in expected.items()}
    assert dataset.differences(found, wanted) == []
    stored = files(out)
    for row in rows:
        outcome = expected[row["url"]]
        if isinstance(outcome, str):
            status = ROW_ERRORS.get(outcome, ROW_ERRORS["http_status"]).status
            assert row["status"] == (SUBSAMPLE if status == RESIZE else status)
            assert f"{row['key']}.mp4" not in stored
            continue
        check_video(stored[f"{row['key']}.mp4"], row, outcome, tmp_path)


def check_video(body: bytes, row: dict[str, Any], outcome: Video, tmp_path: Path) -> None:
    """Decode it: the pictures are those of the source, in their order, and the row says what is in it."""
    path = tmp_path / "stored.mp4"
    path.write_bytes(body)
    found = seen(path)
    where = row["url"]
    shown = found.width * outcome.stretched, found.height
    assert shown == (outcome.width, outcome.height) == (row["width"], row["height"]), where
    assert (found.audio_codec is not None) == outcome.sound == (row["audio_codec"] is not None), where
    assert found.times == sorted(found.times), where
    assert row["duration"] == pytest.approx(found.times[-1], abs=0.3), where
    if outcome.pictures is None:
        return
    assert len(found.times) == pytest.approx(outcome.pictures, abs=1), where
    if outcome in (CARD, MUTE):
        assert sum(a == b % 50 for a, b in zip(found.numbers, range(100), strict=False)) >= 95, where


def test_one_call_resizes_and_thins_out(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    names = ["moov_first", "vp9", "rotated", "variable", "avi", "odd"]
    urls = [media.url(f"/{gallery(name).name}") for name in names]
    subsampling = {
        "ResolutionSubsampler": {"args": {"video_size": 64, "resize_mode": "scale,crop,pad"}},
        "FrameSubsampler": {"args": {"frame_rate": 5}},
    }
    download(**options(tmp_path, urls, subsampling=subsampling, encode_formats={"video": "mp4", "audio": "mp3"}))
    stored = files(tmp_path / "out")
    for row, name in zip(in_rows(tmp_path / "out"), names, strict=True):
        path = tmp_path / "stored.mp4"
        path.write_bytes(stored[f"{row['key']}.mp4"])
        found = seen(path)
        assert (found.width, found.height, row["fps"]) == (64, 64, 5), name
        assert len(found.times) == pytest.approx(5 if name == "odd" else 20, abs=2), name
        assert (f"{row['key']}.mp3" in stored) == (name not in ("variable", "odd"))
    check_nothing_is_left(tmp_path)


@pytest.mark.parametrize("output_format", ["files", "webdataset", "parquet"])
def test_clips_in_every_format(output_format: str, gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """Exact to the picture: each shows its number. Row by row, in the order of the parts."""
    gallery("moov_first"), gallery("silent")
    path = tmp_path / "clips.jsonl"
    lines = [
        {"url": media.url("/moov_first.mp4"), "clips": [[0.4, 1.2], ["00:00:02.000", "00:00:03.5"]], "text": "two"},
        {"url": media.url("/silent.mp4"), "clips": [[3, 9]], "text": "to its end"},
        {"url": media.url("/moov_first.mp4?whole"), "clips": None, "text": "all"},
        {"url": media.url("/moov_first.mp4?late"), "clips": [[1, 2], [50, 60]], "text": "one of two"},
        {"url": media.url("/moov_first.mp4?bad"), "clips": "soon", "text": "none"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    job = options(
        tmp_path, [], clip_col="clips", caption_col="text", clip_precision="exact", output_format=output_format
    )
    stats = download(**{**job, "url_list": str(path), "input_format": "jsonl",
                        "encode_formats": {"video": "mp4", "audio": "m4a"}})  # fmt: skip
    assert (stats.count, stats.successes, stats.codes) == (5, 4, {"bad_clip": 1})
    out = tmp_path / "out"
    rows = {row["key"]: row for row in in_rows(out)}
    wanted = {
        "0000000_00000": (10, 20), "0000000_00001": (50, 38), "0000001_00000": (75, 25), "0000002": (0, 100),
        "0000003_00000": (25, 25), "0000003_00001": None, "0000004": None,
    }  # fmt: skip
    assert list(rows) == list(wanted)
    assert {key for key, row in rows.items() if row["error_code"]} == {"0000003_00001", "0000004"}
    assert [rows[key]["caption"] for key in wanted] == [
        "two",
        "two",
        "to its end",
        "all",
        "one of two",
        "one of two",
        "none",
    ]
    assert rows["0000000_00001"]["clips"] == [[2.0, 3.5]]
    stored = _cells(out) if output_format == "parquet" else files(out)
    for key, span in wanted.items():
        if span is None:
            assert not any(name.startswith(key) for name in stored)
            continue
        video = tmp_path / "stored.mp4"
        video.write_bytes(stored[f"{key}.mp4"])
        found = seen(video)
        assert found.numbers == [n % 50 for n in range(span[0], span[0] + span[1])], key
        assert (f"{key}.m4a" in stored) == (key != "0000001_00000")
    if output_format == "webdataset":
        names = [name.partition(".")[2] for name in stored if name.startswith("0000000_00000")]
        assert names == ["mp4", "m4a", "txt", "json"]


def test_a_clip_near_the_end_of_three_hours(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """Of the index and a few seconds, and nothing else; the picture is that of its time."""
    film = gallery.folder / "three hours.mp4"
    pictures = ("-f", "lavfi", "-i", "testsrc=d=10800:s=64x48:r=1")
    sound = ("-f", "lavfi", "-i", "sine=d=10800:r=8000")
    how = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-c:a", "aac", "-b:a", "16k")
    ffmpeg(*pictures, *sound, *how, "-movflags", "+faststart", str(film))
    url = media.url("/three%20hours.mp4")
    job = options(tmp_path, [], input_format="jsonl", clip_col="clips", clip_precision="exact")
    Path(job["url_list"]).write_text(json.dumps({"url": url, "clips": [["02:59:00", "02:59:06"]]}) + "\n")
    began = time.monotonic()
    download(**job)
    assert time.monotonic() - began < 60
    (row,) = in_rows(tmp_path / "out")
    assert (row["error_code"], row["clips"], row["duration"]) == (None, [[10740.0, 10746.0]], pytest.approx(6, abs=0.2))
    index, _ = index_of(film)
    assert row["bytes"] == media.sent("/three%20hours.mp4")
    assert len(index) < row["bytes"] < 1.3 * (len(index) + film.stat().st_size * 30 / 10800)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(next(body for name, body in files(tmp_path / "out").items() if name.endswith(".mp4")))
    assert len(seen(clip).times) == 6
    film.unlink()


def _cells(folder: Path) -> dict[str, bytes]:
    return {
        f"{row['key']}.{kind}": row[kind]
        for row in pq.read_table(folder / "00000.parquet").to_pylist()
        for kind in ("mp4", "m4a")
        if row[kind] is not None
    }


@pytest.mark.parametrize(("encode", "codec"), [("m4a", "aac"), ("mp3", "mp3"), ("wav", "pcm_s16le"), ("flac", "flac"), ("ogg", "vorbis")])  # fmt: skip
def test_datasets_of_sounds(encode: str, codec: str, gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    names = ["moov_first", "mp3", "flac", "opus", "transport", "silent", "zero", "page"]
    urls = [media.url(f"/{gallery(name).name}") for name in names]
    job = options(tmp_path, urls, media="audio", encode_formats={"audio": encode}, audio_rate=16000, audio_channels=1)
    download(**job)
    rows = in_rows(tmp_path / "out")
    assert [row["error_code"] for row in rows] == [None] * 5 + ["no_stream", "empty_body", "not_media"]
    stored = files(tmp_path / "out")
    for row in rows[:5]:
        path = tmp_path / f"stored.{encode}"
        path.write_bytes(stored[f"{row['key']}.{encode}"])
        found = seen(path)
        assert found.audio_codec.startswith(codec[:3]), row["url"]  # type: ignore[union-attr]
        assert (found.rate, found.samples.shape[0], row["audio_rate"], row["audio_channels"]) == (16000, 1, 16000, 1)
        assert found.sound_seconds == pytest.approx(4, abs=0.2)
        assert row["kind"] == "audio"


# what is left when something dies


@pytest.fixture
def long_list(gallery: Gallery, media: MediaServer) -> list[str]:
    """40 videos that take a while, some of them no videos."""
    gallery("moov_first")
    urls = [media.url(f"/bigbuckbunny.mp4?n={n}") for n in range(40)]
    urls[5], urls[20], urls[33] = (
        media.url("/status/404/x.mp4"),
        media.url("/html200/moov_first.mp4"),
        media.url("/zero/moov_first.mp4"),
    )
    return urls


SLOW = {"video_height": 240, "video_fps": 10, "number_sample_per_shard": 8, "output_format": "webdataset"}


def started(job: dict[str, Any], tmp_path: Path, name: str = "job") -> Driver:
    """The job as a command."""
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(job))
    return Driver([sys.executable, "-m", "img2dataset_dist", f"--config={path}"], os.environ, tmp_path / f"{name}.log")


def encoding(driver: Driver) -> list[int]:
    """Those of its processes that are an ffmpeg at work."""
    return [
        pid
        for pid, command in below(driver.pid).items()
        if "ffmpeg" in command.partition(" ")[0] and "-i file:" in command
    ]


def receipts_of(tmp_path: Path) -> int:
    return len(list((tmp_path / "out").glob("*_stats.json")))


@pytest.mark.crash
def test_a_worker_that_is_killed_costs_no_row(long_list: list[str], tmp_path: Path) -> None:
    driver = started(options(tmp_path, long_list, **SLOW), tmp_path)
    driver.wait_for(lambda: encoding(driver), "an ffmpeg")
    driver.wait_for(lambda: receipts_of(tmp_path), "a shard")
    workers = [pid for pid, (parent, _) in processes().items() if parent == driver.pid]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    driver.wait(0)
    check_long(tmp_path, long_list)


@pytest.mark.crash
def test_a_driver_that_is_killed_goes_on_where_it_was(long_list: list[str], tmp_path: Path) -> None:
    """And the next start removes what the dead one had on the disk."""
    job = options(tmp_path, long_list, **SLOW)
    driver = started(job, tmp_path)
    driver.wait_for(lambda: receipts_of(tmp_path) >= 2 and encoding(driver), "two shards")
    family = [driver.pid, *below(driver.pid)]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(None)
    wait_for(lambda: not set(family) & set(processes()), 20, "the end of all its processes")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    started(job, tmp_path, "again").wait(0)
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert {name: now[name] for name in kept} == kept, "what was done is not done again"
    check_long(tmp_path, long_list)


@pytest.mark.crash
def test_all_at_once_killed_the_next_start_sweeps(long_list: list[str], tmp_path: Path) -> None:
    """SIGKILL to each process: nobody can tidy up."""
    job = options(tmp_path, long_list, **SLOW)
    driver = started(job, tmp_path)
    driver.wait_for(lambda: encoding(driver), "an ffmpeg")
    for pid in [driver.pid, *below(driver.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.wait(None)
    left = list((tmp_path / "tmp").glob(SPOOLS))
    assert left, "a spool that is of nobody"
    other = tmp_path / "other"
    other.mkdir()
    small = options(other, long_list[:1], tmp_dir=str(tmp_path / "tmp"))
    download(**small)
    assert list((tmp_path / "tmp").glob("*")) == []


@pytest.mark.crash
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_stopped_leaves_nothing(
    number: signal.Signals, code: int, long_list: list[str], tmp_path: Path
) -> None:
    driver = started(options(tmp_path, long_list, **SLOW), tmp_path)
    driver.wait_for(lambda: encoding(driver), "an ffmpeg")
    family = list(below(driver.pid))
    os.kill(driver.pid, number)
    driver.wait(code, seconds=40)
    wait_for(lambda: not set(family) & set(processes()), 20, "the end of all its processes")
    assert list((tmp_path / "tmp").glob("*")) == []
    started(options(tmp_path, long_list, **SLOW), tmp_path, "again").wait(0)
    check_long(tmp_path, long_list)


def check_long(tmp_path: Path, urls: list[str]) -> None:
    """All rows of the long list are there once, those that are no videos with their reasons, and nothing else is."""
    out = tmp_path / "out"
    dataset.check_whole(out)
    rows = in_rows(out)
    assert [row["url"] for row in rows] == urls
    bad = {5: "http_404", 20: "site_unsupported", 33: "empty_body"}
    assert {n: row["error_code"] for n, row in enumerate(rows) if row["error_code"]} == bad
    assert {(row["width"], row["height"], row["fps"]) for row in rows if not row["error_code"]} == {(426, 240, 10.0)}
    stored = files(out)
    assert len(stored) == 2 * (len(urls) - len(bad))
    check_nothing_is_left(tmp_path)


# the disk and the memory


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """3 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a file system of one's own takes root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system of one's own here: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["any", "video"])
def test_a_full_disk_costs_the_rows_that_do_not_fit(
    kind: str, small_disk: Path, gallery: Gallery, media: MediaServer, tmp_path: Path
) -> None:
    """The others are made; and when they are, the disk is empty again."""
    gallery("moov_first")
    (gallery.folder / "large.mp4").write_bytes(gallery("moov_first").read_bytes() + _free_box(5 * 2**20))
    urls = [media.url("/moov_first.mp4?1"), media.url("/large.mp4"), media.url("/moov_first.mp4?2")]
    job = options(tmp_path, urls, media=kind, thread_count=1, tmp_dir=str(small_disk), output_format="files")
    download(**job)
    rows = in_rows(tmp_path / "out")
    assert [row["error_code"] for row in rows] == [None, "disk_full", None]
    assert list(small_disk.iterdir()) == []


def _free_box(size: int) -> bytes:
    return size.to_bytes(4, "big") + b"free" + bytes(size - 8)


def test_a_disk_on_which_ffmpeg_has_no_room(
    small_disk: Path, gallery: Gallery, media: MediaServer, tmp_path: Path
) -> None:
    """The source fits, but not what is made of it."""
    gallery("moov_first")
    urls = [media.url("/bigbuckbunny.mp4"), media.url("/moov_first.mp4")]
    job = options(
        tmp_path, urls, thread_count=1, transform_processes=1, tmp_dir=str(small_disk), video_height=1080, video_crf=1
    )
    download(**job)
    rows = in_rows(tmp_path / "out")
    assert rows[0]["error_code"] in ("disk_full", "ffmpeg_error"), rows[0]["error_message"]
    assert list(small_disk.iterdir()) == []


def anonymous(pids: list[int]) -> int:
    """Bytes of memory that are these processes' own; what is in the page cache does not count."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss_Anon:"))
    return total


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(media: MediaServer, gallery: Gallery, tmp_path: Path) -> None:
    """Files of 300 MB take no more of it than files of 3 MB."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("needs /proc/PID/smaps_rollup, of Linux")
    peaks = {}
    for name, size in (("small", 3 * 10**6), ("large", 300 * 10**6)):
        with (gallery.folder / name).open("wb") as file:
            file.truncate(size)
        folder = tmp_path / name
        folder.mkdir()
        urls = [media.url(f"/{name}?n={n}") for n in range(4)]
        driver = started(options(folder, urls, media="any", thread_count=2, timeout=200), folder)
        peaks[name] = 0
        while driver.code is None:
            peaks[name] = max(peaks[name], anonymous(list(below(driver.pid))))
            time.sleep(0.02)
        driver.wait(0)
        assert [row["bytes"] for row in in_rows(folder / "out")] == [size] * 4
        shutil.rmtree(folder / "out")
    assert peaks["large"] < peaks["small"] + 60 * 10**6, peaks


# other engines


def test_in_one_process(gallery: Gallery, media: MediaServer, site: SiteServer, tmp_path: Path) -> None:
    urls = [media.url(f"/{gallery('moov_first').name}"), site.url("/page/video"), media.url("/status/404/x.mp4")]
    before = set(glob.glob(f"/proc/{MARK}"))
    download(**options(tmp_path, urls, distributor="inline", video_height=64, cut_detection="all"))
    assert [row["error_code"] for row in in_rows(tmp_path / "out")] == [None, None, "http_404"]
    assert not [pid for pid in set(glob.glob(f"/proc/{MARK}")) - before if _is_ours(pid)]
    check_nothing_is_left(tmp_path)


def _is_ours(folder: str) -> bool:
    return int(folder.rpartition("/")[2]) in below(os.getpid())


@pytest.mark.slow
def test_on_spark(gallery: Gallery, media: MediaServer, site: SiteServer, tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    gallery("moov_first")
    urls = [media.url(f"/moov_first.mp4?n={n}") for n in range(9)]
    urls[4], urls[6] = media.url("/status/404/x.mp4"), site.url("/page/video")
    job = options(tmp_path, urls, distributor="pyspark", processes_count=2, number_sample_per_shard=3, video_fps=5)
    stats = download(**job)
    assert (stats.count, stats.successes) == (9, 8)
    dataset.check_whole(tmp_path / "out")
    rows = in_rows(tmp_path / "out")
    assert [row["error_code"] for row in rows] == [None] * 4 + ["http_404"] + [None] * 4
    assert {row["fps"] for row in rows if row["status"] == "success"} == {5.0}
    left = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == [], "Spark ends its processes without a word, so their empty spools stay until the next start"
