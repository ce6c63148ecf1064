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
from support.photos import picture
from support.videos import CYCLE, Gallery, ffmpeg, seen

from img2dataset_dist import download
from img2dataset_dist.fetchers.budget import Budget
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


@pytest.mark.parametrize("as_text", [False, True], ids=["times", "json"])
def test_clips_of_clips_whose_times_are_text(gallery: Gallery, tmp_path: Path, as_text: bool) -> None:
    """As video2dataset writes them, in a tar without a parquet file; nobody can tell the source of the second."""
    spans = [["00:00:01.500", "00:00:05.500"]]
    first = {"url": "http://a/1", "clips": json.dumps(spans) if as_text else spans, "parts": [[1, 2]]}
    odd = first | {"clips": "paper clips" if as_text else [["soon", "later"]]}
    film, members = gallery("moov_first").read_bytes(), []
    for key, row in (("a", first), ("b", odd)):
        members += [(f"{key}.mp4", film), (f"{key}.json", json.dumps(row).encode())]
    tars.write_tar(tmp_path / "in" / "00000.tar", members)
    again(tmp_path / "in", tmp_path / "out", clip_col="parts", clip_precision="exact")
    after = rows(tmp_path / "out")
    expected = {"a_00000": [[2.5, 3.5]], "b_00000": odd["clips"] if as_text else [[1.0, 2.0]]}
    assert {key: row["clips"] for key, row in after.items()} == {
        key: json.dumps(value) if as_text and key == "a_00000" else value for key, value in expected.items()
    }
    again(tmp_path / "in", tmp_path / "small", video_size=64)  # and where nothing is clipped
    kept = {"a": first["clips"], "b": odd["clips"]} if as_text else {"a": [[1.5, 5.5]], "b": None}
    assert {key: row["clips"] for key, row in rows(tmp_path / "small").items()} == kept


def test_cuts_of_a_clip_are_in_seconds_of_its_source(gallery: Gallery, tmp_path: Path) -> None:
    """The clip from 2 s to 6 s; the cuts that were found in it begin there."""
    row = {
        "url": "http://a/1",
        "clips": [[2.0, 6.0]],
        "cuts": [[1.5, 3.0], [3.0, 4.52], [4.52, 6.0]],
        "video_metadata": "{}",
    }
    film = gallery("moov_first").read_bytes()
    tars.write_tar(tmp_path / "in" / "00000.tar", [("a.mp4", film), ("a.json", json.dumps(row).encode())])
    again(tmp_path / "in", tmp_path / "out", clip_col="cuts", clip_precision="exact")
    after = rows(tmp_path / "out")
    assert [after[f"a_{n:05d}"]["clips"] for n in range(3)] == [[[2.0, 3.0]], [[3.0, 4.52]], [[4.52, 6.0]]]
    assert {row["cuts"] for row in after.values()} == {None}
    files = unpacked(tmp_path / "out", "00000", tmp_path / "files")
    shown = [seen(files[f"a_{n:05d}.mp4"]).numbers for n in range(3)]
    assert shown == [seen_numbers(0, 25), seen_numbers(25, 38), seen_numbers(63, 37)]


@pytest.mark.parametrize("media", ["image", "any", "video"])
def test_a_column_named_clips_is_the_lists_own_without_clip_col(media: str, gallery: Gallery, tmp_path: Path) -> None:
    film = gallery("moov_first")
    if media == "image":
        film = tmp_path / "photo"
        film.write_bytes(picture(0)[1])
    texts = ["paper clips", "[]", "[[1, 2]]"]
    lines = ["url\tclips", *(f"file://{film}\t{text}" for text in texts)]
    (tmp_path / "l.tsv").write_text("\n".join(lines) + "\n")
    stats = run(
        tmp_path, tmp_path / "out", url_list=str(tmp_path / "l.tsv"), input_format="tsv", media=media,
        save_additional_columns=["clips"], allowed_schemes=["file"],
    )  # fmt: skip
    assert stats.successes == 3
    found = rows(tmp_path / "out")
    assert [found[key]["clips"] for key in sorted(found)] == texts


def test_clips_of_a_list_that_is_sorted_by_host(gallery: Gallery, tmp_path: Path) -> None:
    film = gallery("moov_first")
    lines = [
        "url\tparts",
        f"file://{film}\t[[1, 2]]",
        f"file://{film}\t[]",
        f"file://{film}\tpaper clips",
        f"file://{film}\t",
    ]
    (tmp_path / "l.tsv").write_text("\n".join(lines) + "\n")
    run(
        tmp_path, tmp_path / "out", url_list=str(tmp_path / "l.tsv"), input_format="tsv", clip_col="parts",
        clip_precision="exact", allowed_schemes=["file"], schedule="by_host", lanes=1,
    )  # fmt: skip
    found = rows(tmp_path / "out").values()
    assert sorted((row["error_code"] or "", row["clips"] or []) for row in found) == [
        ("", []), ("", [[1.0, 2.0]]), ("bad_clip", []), ("no_clip", [])
    ]  # fmt: skip


def test_lines_that_became_clips_keep_their_captions(gallery: Gallery, tmp_path: Path) -> None:
    """In every format, and in the job after that one."""
    film, said = gallery("moov_first").read_bytes(), b"WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nwords\n"
    members = [("a.mp4", film), ("a.en.vtt", said), ("a.json", b'{"url": "http://a/1"}')]
    tars.write_tar(tmp_path / "in" / "00000.tar", members)
    spoken = {"subtitles_are_clips": True, "clip_precision": "exact"}
    again(tmp_path / "in", tmp_path / "table", output_format="parquet", **spoken)
    assert rows(tmp_path / "table")["a_00000"]["caption"] == "words"
    again(tmp_path / "in", tmp_path / "lines", **spoken)
    again(tmp_path / "lines", tmp_path / "small", video_size=64)
    assert rows(tmp_path / "small")["a_00000"]["caption"] == "words"
    assert dict(tars.read_tar(tmp_path / "small" / "00000.tar"))["a_00000.txt"] == b"words"


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"media": "audio", "subsampling": {"AudioRateSubsampler": {"args": {"encode_format": "mp3"}}}}, ["mp3"]),
        ({"subsampling": {"FrameSubsampler": {"args": {"frame_rate": 5, "encode_format": "webm"}}}}, ["webm"]),
        (
            {
                "encode_formats": {"video": "mp4", "audio": "m4a"},
                "subsampling": {"FrameSubsampler": {"args": {"downsample_method": "first_frame"}}},
            },
            ["jpg", "m4a"],
        ),
    ],
    ids=["mp3", "webm", "first frame"],
)
def test_columns_of_media_follow_the_steps(made: Path, tmp_path: Path, more: dict[str, Any], names: list[str]) -> None:
    again(made, tmp_path / "out", output_format="parquet", **more)
    table = pq.read_table(tmp_path / "out" / "00000.parquet")
    media = [field.name for field in table.schema if str(field.type) == "binary"]
    assert media == names
    [row] = [row for row in table.to_pylist() if row["key"] == "000000"]
    assert all(row[name] for name in names)
    assert row["parts"] == []


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


def test_what_is_made_counts_until_it_is_written(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute of silence is little to fetch and 11 MB to store; in the end all room is given back."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "silence.flac"
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=48000:cl=stereo", "-t", "60", str(path))
    members = [(f"{n}.flac", path.read_bytes()) for n in range(3)]
    tars.write_tar(tmp_path / "in" / "00000.tar", members)
    budgets, most = [], [0]

    class Watched(Budget):
        def __init__(self, **bounds: int) -> None:
            super().__init__(**bounds)
            budgets.append(self)

        def take(self, size: int, *, force: bool = False) -> bool:
            taken = super().take(size, force=force)
            most[0] = max(most[0], self.used)
            return taken

    monkeypatch.setattr("img2dataset_dist.pipeline.Budget", Watched)
    stats = again(tmp_path / "in", tmp_path / "out", media="audio", encode_formats={"audio": "wav"})
    assert stats.successes == 3
    assert most[0] > 11_000_000
    assert [budget.used for budget in budgets] == [0]


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
