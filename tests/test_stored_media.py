"""Datasets of videos as input of another job: clipped, scaled and encoded again without being fetched again."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import crash, dataset, tars
from support.videos import CYCLE, Gallery, seen

from img2dataset_dist import download
from img2dataset_dist.spool import Spool

CRASH = Path(crash.__file__)
NAMES = ("moov_last", "vp8", "silent", "aac", "rotated", "gone", "moov_first")
CLIPS = "[[0.48, 1.48], [2, 3]]"
OK = ("000000", "000001", "000010", "000020", "000030")
FAILED = {"000011": "no_stream", "000021": "not_found"}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def made(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 rows in 4 shards: 5 videos of 4 s, a sound and a file that is not there. The sources are gone afterwards."""
    folder = tmp_path_factory.mktemp("made")
    lines = ["url\ttext\tparts\tn"]
    for n, name in enumerate(NAMES):
        path = folder / f"{n}"
        if name != "gone":
            path.write_bytes(gallery(name).read_bytes())
        lines.append(f"file://{path}\tabout {name}\t{CLIPS}\t{n}")
    (folder / "l.tsv").write_text("\n".join(lines) + "\n")
    download(
        url_list=str(folder / "l.tsv"), input_format="tsv", caption_col="text",
        save_additional_columns=["parts", "n"], allowed_schemes=["file"], media="video", probe=True,
        output_folder=str(folder / "data"), output_format="webdataset", number_sample_per_shard=2,
        distributor="inline", progress="none",
    )  # fmt: skip
    for path in [*folder.glob("[0-9]"), folder / "l.tsv"]:
        path.unlink()
    return folder / "data"


def options(source: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "url_list": f"{source}/*.tar", "input_format": "webdataset", "media": "video", "output_folder": str(out),
        "output_format": "webdataset", "tmp_dir": str(out.parent / "tmp"), **more,
    }  # fmt: skip


def again(source: Path, out: Path, **more: Any) -> Any:
    stats = run(source, out, **more)
    assert list((out.parent / "tmp").iterdir()) == [], "nothing stays in the spool"
    return stats


def run(source: Path, out: Path, **more: Any) -> Any:
    return download(**{"distributor": "inline", "progress": "none", **options(source, out, **more)})


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return dataset.rows(folder)


def test_the_dataset_that_it_begins_with(made: Path) -> None:
    codes = {key: row["error_code"] for key, row in rows(made).items()}
    assert codes == dict.fromkeys(OK) | FAILED


def unpacked(folder: Path, shard: str, to: Path) -> dict[str, Path]:
    to.mkdir(exist_ok=True)
    found = {}
    for name, content in tars.read_tar(folder / f"{shard}.tar"):
        found[name] = to / name
        found[name].write_bytes(content)
    return found


def test_scaled_and_slowed_down_again(made: Path, tmp_path: Path) -> None:
    stats = again(made, tmp_path / "out", video_size=96, video_fps=5)
    assert (stats.count, stats.successes) == (7, 5)
    assert dataset.done(tmp_path / "out") == dataset.done(made) == ["00000", "00001", "00002", "00003"]
    before, after = rows(made), rows(tmp_path / "out")
    assert sorted(after) == sorted(before)
    for key, row in after.items():
        old = before[key]
        assert row["error_code"] == old["error_code"]
        for name in ("caption", "parts", "n", "url", "final_url", "content_type", "attempts", "video_metadata"):
            if name in row:
                assert row[name] == old[name], name
        if key in OK:
            assert min(row["width"], row["height"]) == 96
            assert (row["fps"], row["original_width"]) == (5, old["width"])
            assert row["duration"] == pytest.approx(4, abs=0.1)
    files = unpacked(tmp_path / "out", "00000", tmp_path / "files")
    assert sorted(files) == [f"{key}.{part}" for key in OK[:2] for part in ("json", "mp4", "txt")]
    shown = seen(files["000000.mp4"])
    assert len(shown.times) == 20
    assert (shown.width, shown.height) == (128, 96)
    assert files["000000.txt"].read_text() == "about moov_last"


def test_clipped_again(made: Path, tmp_path: Path) -> None:
    stats = again(made, tmp_path / "out", clip_col="parts", clip_precision="exact")
    assert (stats.count, stats.successes) == (7, 5)
    after = rows(tmp_path / "out")
    assert sorted(after) == sorted([f"{key}_{n:05d}" for key in OK for n in range(2)] + list(FAILED))
    assert after["000000_00000"]["clips"] == [[0.48, 1.48]]
    assert after["000000_00001"]["clips"] == [[2.0, 3.0]]
    assert after["000000_00001"]["caption"] == "about moov_last"
    files = unpacked(tmp_path / "out", "00000", tmp_path / "files")
    for number, first in ((0, 12), (1, 50)):
        shown = seen(files[f"000000_{number:05d}.mp4"])
        assert len(shown.times) == 25
        assert shown.numbers == seen_numbers(first, 25)


def seen_numbers(first: int, count: int) -> list[int]:
    """Of a card that is 4 s long: its numbers go on as they are."""
    return [(first + n) % CYCLE for n in range(count)]


def test_clips_are_rows_of_the_next_job(made: Path, tmp_path: Path) -> None:
    """Three jobs, one after the other."""
    again(made, tmp_path / "clips", clip_col="parts", clip_precision="exact")
    stats = again(tmp_path / "clips", tmp_path / "small", video_size=64)
    assert (stats.count, stats.successes) == (12, 10)
    before, after = rows(tmp_path / "clips"), rows(tmp_path / "small")
    assert sorted(after) == sorted(before)
    for key, row in after.items():
        if row["status"] == "success":
            assert row["clips"] == before[key]["clips"], "where it was in its source"
            assert row["duration"] == pytest.approx(1, abs=0.1)


def test_clips_of_clips_are_told_in_seconds_of_the_source(made: Path, tmp_path: Path) -> None:
    """The second of a row's clips, from 2 s to 3 s, is not within a clip of one second."""
    again(made, tmp_path / "clips", clip_col="parts", clip_precision="exact")
    again(tmp_path / "clips", tmp_path / "again", clip_col="parts", clip_precision="exact")
    after = {key: row for key, row in rows(tmp_path / "again").items() if row["status"] == "success"}
    assert sorted(after) == sorted(f"{key}_{n:05d}_00000" for key in OK for n in range(2))
    for key, row in after.items():
        begin = 0.96 if "_00000_" in key.removesuffix("_00000") + "_" else 2.48
        assert row["clips"] == [pytest.approx([begin, begin + 0.52], abs=0.05)]
        assert row["duration"] == pytest.approx(0.52, abs=0.1)


def test_the_sound_of_a_dataset_of_videos(made: Path, tmp_path: Path) -> None:
    stats = again(made, tmp_path / "out", media="audio", encode_formats={"audio": "mp3"}, audio_rate=16000)
    codes = {key: row["error_code"] for key, row in rows(tmp_path / "out").items()}
    assert codes == dict.fromkeys(OK) | FAILED | {"000010": "no_stream"}
    assert stats.successes == 4
    files = unpacked(tmp_path / "out", "00000", tmp_path / "files")
    shown = seen(files["000000.mp3"])
    assert shown.rate == 16000
    assert shown.sound_seconds == pytest.approx(4, abs=0.2)


def test_a_video_and_its_sound_as_two_files(made: Path, tmp_path: Path) -> None:
    both = {"video": "mp4", "audio": "m4a"}
    again(made, tmp_path / "two", encode_formats=both)
    files = unpacked(tmp_path / "two", "00000", tmp_path / "files")
    assert {name.partition(".")[2] for name in files if name.startswith("000000")} == {"mp4", "m4a", "json", "txt"}
    again(tmp_path / "two", tmp_path / "three", encode_formats=both, video_size=64, audio_rate=16000)
    assert {key: row["error_code"] for key, row in rows(tmp_path / "three").items()} == dict.fromkeys(OK) | FAILED
    files = unpacked(tmp_path / "three", "00000", tmp_path / "more")
    sound, picture = seen(files["000000.m4a"]), seen(files["000000.mp4"])
    assert (sound.rate, sound.sound_seconds) == (16000, pytest.approx(4, abs=0.2))
    assert (len(picture.times), picture.height) == (100, 64)


def test_flow_of_a_dataset_of_videos(made: Path, tmp_path: Path) -> None:
    """A stage over a dataset that exists; the videos stay as they are."""
    more = {"stages": ["optical_flow"], "stage_args": {"optical_flow": {"fps": 5, "downsample_size": 24}}}
    stats = again(made, tmp_path / "out", **more)
    assert stats.successes == 5
    before = {name: content for shard in dataset.done(made) for name, content in tars.read_tar(made / f"{shard}.tar")}
    after = {
        name: data for shard in dataset.done(made) for name, data in tars.read_tar(tmp_path / "out" / f"{shard}.tar")
    }
    for key in OK:
        assert np.load(io.BytesIO(after[f"{key}.npy"])).shape[0] == 19
        assert seen_bytes(after[f"{key}.mp4"], tmp_path) == seen_bytes(before[f"{key}.mp4"], tmp_path)
        said = json.loads(rows(tmp_path / "out")[key]["stages"])["optical_flow"]
        assert said["mean_magnitude"] > 0.1
        assert len(said["mean_magnitude_per_frame"]) == 19
    again(tmp_path / "out", tmp_path / "next", video_size=64)
    assert dict(tars.read_tar(tmp_path / "next" / "00000.tar"))["000000.npy"] == after["000000.npy"]
    assert rows(tmp_path / "next")["000000"]["stages"] == rows(tmp_path / "out")["000000"]["stages"], "carried along"


def seen_bytes(content: bytes, folder: Path) -> list[int]:
    (folder / "one.mp4").write_bytes(content)
    return seen(folder / "one.mp4").numbers


def test_little_room_in_the_spool(made: Path, tmp_path: Path) -> None:
    """One video at a time when that is all there is room for."""
    stats = again(
        made, tmp_path / "out", video_size=64, max_spool_bytes=1, processes_count=1, distributor="multiprocessing"
    )
    assert (stats.count, stats.successes) == (7, 5)


def test_a_torn_tar_of_videos(made: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for path in [*made.glob("*.tar"), *made.glob("*.parquet")]:
        content = path.read_bytes()
        (source / path.name).write_bytes(content[:30_000] if path.name == "00000.tar" else content)
    with pytest.raises(
        Exception, match=r"1 shard\(s\) failed, the first is 0: InputError: .*00000\.tar: torn at byte 30000"
    ):
        again(source, tmp_path / "out")
    assert dataset.done(tmp_path / "out") == ["00001", "00002", "00003"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_dataset_of_video2dataset(gallery: Gallery, tmp_path: Path) -> None:
    """Its columns and files: no error_code, clips as keys, subtitles in the row."""
    source = tmp_path / "peer"
    film = gallery("moov_first").read_bytes()
    good = {
        "key": "000000_00000",
        "url": "http://a/1",
        "status": "success",
        "error_message": None,
        "clips": [[1.0, 5.0]],
    }
    bad = good | {"key": "000001", "status": "failed_to_download", "error_message": "Requested format is not available"}
    lost = good | {"key": "000002", "status": "failed_to_subsample", "error_message": "ffmpeg error", "clips": None}
    tars.write_tar(
        source / "00007.tar",
        [("000000_00000.mp4", film), ("000000_00000.json", json.dumps(good).encode()), ("000000_00000.txt", b"words")],
    )
    tars.write_rows(source / "00007.parquet", [good, bad, lost])
    again(source, tmp_path / "out", video_size=64)
    assert dataset.done(tmp_path / "out") == ["00007"]
    after = rows(tmp_path / "out")
    assert {key: row["status"] for key, row in after.items()} == {
        row["key"]: row["status"] for row in (good, bad, lost)
    }
    assert {key: row["error_code"] for key, row in after.items()} == {
        "000000_00000": None, "000001": "fetch_error", "000002": "media_error"
    }  # fmt: skip
    assert after["000000_00000"]["clips"] == [[1.0, 5.0]]
    assert after["000000_00000"]["height"] == 64
    assert pq.read_schema(tmp_path / "out" / "00007.parquet").names.count("clips") == 1


@pytest.mark.crash
@pytest.mark.parametrize(
    ("step", "nth"),
    [("fetch", 3), ("write a sample", 2), ("staging, torn file", 2), ("published, before the receipt", 2)],
)
def test_killed_and_run_again(made: Path, tmp_path: Path, step: str, nth: int) -> None:
    """-9 at any moment; what is done stays, and all comes out as if nothing had been."""
    job = options(
        made, tmp_path / "out", clip_col="parts", clip_precision="exact", video_size=64, transform_processes=1
    )
    died = subprocess.run(
        [sys.executable, str(CRASH), step, str(nth), json.dumps(job)], capture_output=True, text=True, timeout=120
    )
    assert died.returncode == -9, died.stderr
    done = dataset.done(tmp_path / "out") if (tmp_path / "out").exists() else []
    assert len(done) < 4
    run(made, tmp_path / "out", clip_col="parts", clip_precision="exact", video_size=64, transform_processes=1)
    run(made, tmp_path / "undisturbed", clip_col="parts", clip_precision="exact", video_size=64, transform_processes=1)
    assert dataset.differences(rows(tmp_path / "undisturbed"), rows(tmp_path / "out")) == []
    assert dataset.leftovers(tmp_path / "out") == []
    Spool(str(tmp_path / "tmp")).close()  # an ffmpeg that was being started may have outlived its parent for a moment
    assert list((tmp_path / "tmp").iterdir()) == []
