"""Stages: batches, failures, what they leave in a dataset; optical flow against OpenCV and against a known motion."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from support import dataset, tars
from support.server import NastyServer

from img2dataset_dist import download, stages
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import ConfigError, NoStream
from img2dataset_dist.model import Failure, Item, MediaFile, Part, Sample
from img2dataset_dist.stages.optical_flow import OpticalFlow

EXAMPLES = Path(__file__).parents[1] / "examples"
HERE = "test_stages"


def config(**more: Any) -> JobConfig:
    return JobConfig.from_flat({"url_list": "x", "input_format": "webdataset", **more})


def sample(key: str, **more: Any) -> Sample:
    return Sample(item=Item(shard_id=0, index=0, key=key, url=None), data=key.encode(), **more)


class Recorder:
    """Notes which batches it gets; raises for samples called bad, dies for those called deadly, is late for slow ones."""

    batch_size = 3

    def __init__(self, config: JobConfig, log: str | None = None, value: str = "seen") -> None:
        self.log = log
        self.value = value
        self._say("loaded")

    def _say(self, text: str) -> None:
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {text}\n")

    def __call__(self, batch: Sequence[Sample]) -> list[Sample]:
        self._say(" ".join(each.item.key for each in batch))
        for each in batch:
            caption = str(each.item.columns.get("caption", each.item.key))
            if "bad" in caption:
                raise ValueError("no good")
            if "none" in caption:
                raise NoStream("nothing there")
            if "deadly" in caption:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "slow" in caption:
                time.sleep(3600)
        return [stages.noted(each, "recorder", f"{self.value} {each.item.key}") for each in batch]


class Short(Recorder):
    """Gives too few."""

    def __call__(self, batch: Sequence[Sample]) -> list[Sample]:
        return super().__call__(batch)[1:]


def found(each: Sample) -> Any:
    return json.loads(each.extra["stages"])["recorder"] if "stages" in each.extra else None


def through(samples: list[Sample], stage: Any = None, log: Path | None = None) -> list[Sample]:
    return stages.Stages([stage or Recorder(config(), str(log) if log else None)])(samples)


def test_batches_and_their_order(tmp_path: Path) -> None:
    samples = [sample(f"k{n}") for n in range(8)]
    done = through(samples, log=tmp_path / "log")
    assert [each.item.key for each in done] == [each.item.key for each in samples]
    assert [found(each) for each in done] == [f"seen k{n}" for n in range(8)]
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == ["loaded", "k0 k1 k2", "k3 k4 k5", "k6 k7"]


def test_failed_samples_are_shown_to_none_and_stay(tmp_path: Path) -> None:
    failure = Failure(code="http_404", message="gone", status="failed_to_download")
    samples = [sample("k0"), sample("f", failure=failure), sample("k1")]
    done = through(samples, log=tmp_path / "log")
    assert done[1] is samples[1]
    assert [found(each) for each in (done[0], done[2])] == ["seen k0", "seen k1"]
    assert "f" not in (tmp_path / "log").read_text().split()


def test_a_sample_that_it_raises_for_fails_alone() -> None:
    done = through([sample(name) for name in ("k0", "bad", "k1", "none")])
    assert [each.failure and each.failure.code for each in done] == [None, "internal_error", None, "no_stream"]
    assert [each.failure and each.failure.message for each in done] == [
        None,
        "ValueError: no good",
        None,
        "nothing there",
    ]
    assert [each.failure and each.failure.status for each in done][1] == "failed_to_resize"
    assert done[1].data is None
    video = sample("bad", file=MediaFile(path="x", size=1))
    assert through([video])[0].status == "failed_to_subsample"
    assert through([video])[0].file is video.file, "or nobody could remove it"


def test_a_stage_that_gives_too_few() -> None:
    done = through([sample("k0"), sample("k1")], Short(config()))
    assert [each.failure.message for each in done if each.failure] == ["Short gave 0 samples for 1"] * 2


def test_pieces_are_samples_of_their_own() -> None:
    row = sample("row", pieces=(sample("k0"), sample("bad"), sample("k1")))
    none = sample("gone", pieces=(sample("bad"), sample("bad2")))
    done = through([sample("a"), row, none])
    assert [found(each) for each in done[1].pieces] == ["seen k0", None, "seen k1"]
    assert [each.failure is not None for each in done[1].pieces] == [False, True, False]
    assert done[1].failure is None
    assert done[2].failure is not None, "nothing of it is left"


def test_results_of_earlier_stages_stay() -> None:
    before = dataclasses.replace(
        sample("k"), item=Item(shard_id=0, index=0, key="k", url=None, columns={"stages": '{"old": 1}'})
    )
    both = stages.Stages([Recorder(config()), Recorder(config(), value="again")])([before])[0]
    assert json.loads(both.extra["stages"]) == {"old": 1, "recorder": "again k"}
    odd = stages.noted(before, "numbers", {"nan": float("nan"), "array": np.arange(2), "one": np.float32(0.5)})
    assert json.loads(odd.extra["stages"])["numbers"] == {"nan": None, "array": [0, 1], "one": 0.5}


def test_a_part_replaces_that_of_its_extension() -> None:
    first = stages.with_part(sample("k"), Part(extension="npy", size=1, data=b"1"))
    again = stages.with_part(
        stages.with_part(first, Part(extension="x", size=1, data=b"x")), Part(extension="npy", size=1, data=b"2")
    )
    assert [(part.extension, part.data) for part in again.parts] == [("x", b"x"), ("npy", b"2")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"stages": ["optical_flo"]},
            r"stages='optical_flo' is not one of optical_flow, .*did you mean 'optical_flow'",
        ),
        ({"stages": [f"{HERE}:Nothing"]}, f"{HERE} has no Nothing"),
        ({"stages": [f"{HERE}:Recorder"], "stage_args": {f"{HERE}:Recorder": {"vlaue": 1}}}, "stage_args of .*vlaue"),
        ({"stages": ["optical_flow"], "stage_args": {"optical_flo": {}}}, "stage_args: 'optical_flo' is not one of"),
        ({"stages": ["optical_flow"], "stage_args": {"optical_flow": {"fps": 0}}}, "fps must be above 0, got 0"),
        ({"stages": ["optical_flow"], "stage_args": {"optical_flow": {"dtype": "f8"}}}, "one of fp16, fp32, got f8"),
        (
            {"stages": ["optical_flow"], "stage_args": {"optical_flow": {"downsample_size": 2}}},
            "downsample_size must be",
        ),
        ({"stages": ["optical_flow"], "stage_args": {"optical_flow": {"args": {"x": 1}}}}, "args has no x"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        stages.check(config(**options))


# optical flow


def moving(path: Path, shift: tuple[int, int], count: int = 9, fps: int = 8, size: tuple[int, int] = (96, 160)) -> Path:
    """A video of a texture that moves by so many pixels (x, y) per frame."""
    rng = np.random.default_rng(7)
    height, width = size
    texture = cv2.GaussianBlur(rng.integers(0, 256, (height * 2, width * 2), np.uint8), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "8", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in range(count):
            x, y = width // 2 - shift[0] * n, height // 2 - shift[1] * n
            frame = cv2.cvtColor(texture[y : y + height, x : x + width], cv2.COLOR_GRAY2RGB)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def flow(path: Path, **options: Any) -> tuple[np.ndarray, dict[str, Any], Sample]:
    part = Part(extension="mp4", size=path.stat().st_size, path=str(path))
    done = OpticalFlow(config(), **options)([sample("k", parts=(part,))])[0]
    assert [each.extension for each in done.parts] == ["mp4", "npy"]
    assert done.parts[1].path
    assert done.parts[1].size == os.path.getsize(done.parts[1].path)
    return np.load(done.parts[1].path), json.loads(done.extra["stages"])["optical_flow"], done


@pytest.mark.parametrize("shift", [(2, 0), (0, -1), (1, 2)])
def test_the_flow_is_the_motion(shift: tuple[int, int], tmp_path: Path) -> None:
    array, said, _ = flow(moving(tmp_path / "v.mp4", shift))
    assert array.shape == (8, 96, 160, 2)
    assert array.dtype == np.float16
    middle = array[:, 20:-20, 20:-20].astype(float).mean(axis=(0, 1, 2))
    assert np.allclose(middle, shift, atol=0.25)
    assert said["mean_magnitude_per_frame"] == pytest.approx(
        np.linalg.norm(array.astype(np.float32), axis=-1).mean(axis=(1, 2)).tolist(), rel=1e-2
    )
    assert said["mean_magnitude"] == pytest.approx(np.mean(said["mean_magnitude_per_frame"]))


def test_it_is_what_opencv_gives(tmp_path: Path) -> None:
    path = moving(tmp_path / "v.mp4", (2, 1))
    array, _, _ = flow(path, dtype="fp32")
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    want = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in itertools.pairwise(pictures)]
    assert array.dtype == np.float32
    assert np.array_equal(array, np.stack(want))


def test_smaller_frames_give_the_motion_in_pixels_of_the_video(tmp_path: Path) -> None:
    array, said, _ = flow(moving(tmp_path / "v.mp4", (4, 0)), downsample_size=48)
    assert array.shape == (8, 48, 80, 2)
    assert np.allclose(array[:, 10:-10, 10:-10].astype(float).mean(axis=(0, 1, 2)), (4, 0), atol=0.6)
    assert said["downsample_size"] == 48


@pytest.mark.parametrize(("fps", "frames"), [(None, 9), (-1, 9), (4, 5), (100, 9), (1, 2)])
def test_frames_per_second(fps: float | None, frames: int, tmp_path: Path) -> None:
    array, said, _ = flow(moving(tmp_path / "v.mp4", (1, 0)), fps=fps)
    assert len(array) == frames - 1
    assert len(said["mean_magnitude_per_frame"]) == frames - 1
    if fps == 4:
        assert np.allclose(array[:, 20:-20, 20:-20].astype(float).mean(axis=(0, 1, 2)), (2, 0), atol=0.25)


def test_one_picture_has_no_flow(tmp_path: Path) -> None:
    array, said, _ = flow(moving(tmp_path / "v.mp4", (1, 0), count=1))
    assert len(array) == 0
    assert said["mean_magnitude"] is None


def test_flow_of_what_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")
    samples = [
        sample("a", parts=(Part(extension="mp4", size=10, path=str(path)),)),
        sample("b", parts=(Part(extension="m4a", size=10, path=str(path)),)),
    ]
    done = through(samples, OpticalFlow(config()))
    assert [each.failure and each.failure.code for each in done] == ["not_media", "no_stream"]


# whole jobs


@pytest.fixture(scope="module")
def made(server: NastyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 20 images in 2 shards; the first says what is to happen to it."""
    folder = tmp_path_factory.mktemp("made")
    lines = ["url\ttext"] + [f"{server.url(f'/photo/photo_{n + 20:05d}.jpg')}\t{n}" for n in range(20)]
    (folder / "l.tsv").write_text("\n".join(lines) + "\n")
    download(
        url_list=str(folder / "l.tsv"), input_format="tsv", caption_col="text", output_folder=str(folder / "data"),
        output_format="webdataset", number_sample_per_shard=10, image_size=64, distributor="inline",
        allow_private_addresses=True, progress="none",
    )  # fmt: skip
    return folder / "data"


def job(source: Path, out: Path, **more: Any) -> Any:
    return download(
        **{
            "url_list": str(source / "*.tar"), "input_format": "webdataset", "output_folder": str(out),
            "output_format": "webdataset", "disable_all_reencoding": True, "processes_count": 1, "progress": "none",
            "stages": [f"{HERE}:Recorder"], **more,
        }
    )  # fmt: skip


def say(source: Path, folder: Path, what: dict[int, str]) -> Path:
    """The dataset with other captions for some rows."""
    folder.mkdir()
    for path in source.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    for path in source.glob("*.parquet"):
        (folder / path.name).write_bytes(path.read_bytes())
        tars.rewrite(
            folder / path.name, lambda rows: [r | {"caption": what.get(int(r["key"]), r["caption"])} for r in rows]
        )
    return folder


def test_a_model_is_loaded_once_and_gets_batches(made: Path, tmp_path: Path) -> None:
    before = dataset.media(made)
    stats = job(made, tmp_path / "out", stage_args={f"{HERE}:Recorder": {"log": str(tmp_path / "log")}})
    assert (stats.count, stats.successes) == (20, len([n for n in before if n.endswith(".jpg")]))
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [line[1] for line in lines].count("loaded") == 1
    assert len({line[0] for line in lines}) == 1
    sizes = [len(line) - 1 for line in lines[1:]]
    assert max(sizes) == 3
    assert len(sizes) <= stats.successes // 3 + 4
    for key, row in dataset.rows(tmp_path / "out").items():
        assert (
            json.loads(row["stages"]) == {"recorder": f"seen {key}"}
            if row["status"] == "success"
            else row["stages"] is None
        )
    after = dataset.media(tmp_path / "out")
    assert {name: digest for name, digest in after.items() if name.endswith(".jpg")} == {
        name: digest for name, digest in before.items() if name.endswith(".jpg")
    }


@pytest.mark.crash
def test_what_kills_or_stops_a_model_costs_one_row(made: Path, tmp_path: Path) -> None:
    keys = sorted(key for key, row in dataset.rows(made).items() if row["status"] == "success")
    what = dict(zip(map(int, keys), ("1", "deadly", "2", "slow", "3", "bad"), strict=False))
    source = say(made, tmp_path / "in", what)
    began = time.monotonic()
    job(source, tmp_path / "out", transform_timeout=4)
    assert time.monotonic() - began < 60
    rows = dataset.rows(tmp_path / "out")
    assert len(rows) == 20
    codes = {rows[key]["caption"]: rows[key]["error_code"] for key in keys}
    assert codes.pop("deadly") == "decoder_crash"
    assert codes.pop("slow") == "timeout_transform"
    assert codes.pop("bad") == "internal_error"
    assert set(codes.values()) == {None}
    dataset.check_whole(tmp_path / "out")


def test_a_stage_that_cannot_be_found_writes_nothing(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stages='optical'"):
        job(made, tmp_path / "out", stages=["optical"])
    assert not (tmp_path / "out").exists()


def test_the_example_describes_pictures(made: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "caption_stage.py"), str(made), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [row for row in dataset.rows(tmp_path / "out").values() if row["status"] == "success"]
    captions = {json.loads(row["stages"])["colours"] for row in rows}
    assert all(caption.startswith("mostly ") and " and " in caption for caption in captions)
    assert len(captions) > 3
