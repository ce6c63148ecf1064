"""The loader over real datasets: what comes out, filters, shuffling, workers; PyTorch's DataLoader where torch is."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest
from PIL import Image
from support import dataset as datasets
from support import tars
from support.server import NastyServer
from support.videos import ffmpeg

from img2dataset_dist import arrays, download
from img2dataset_dist.errors import ConfigError, DecodeError, MissingExtra
from img2dataset_dist.loader import dataset

pytest.importorskip("webdataset")
EXAMPLES = Path(__file__).parents[1] / "examples"
STEP = 10
TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(scope="module")
def images(server: NastyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows in 4 shards, one of which failed."""
    folder = tmp_path_factory.mktemp("images")
    urls = [server.url(f"/photo/photo_{n:05d}.{'png' if n == 3 else 'webp' if n == 7 else 'jpg'}") for n in range(21)]
    urls[3], urls[20] = server.url("/status/404"), server.url("/photo/photo_00021.jpg")
    (folder / "l.tsv").write_text("url\ttext\n" + "".join(f"{url}\tcaption {n}\n" for n, url in enumerate(urls)))
    download(
        url_list=str(folder / "l.tsv"), input_format="tsv", caption_col="text", output_folder=str(folder / "data"),
        output_format="webdataset", number_sample_per_shard=6, image_size=96, resize_mode="keep_ratio",
        distributor="inline", allow_private_addresses=True, progress="none",
    )  # fmt: skip
    return folder / "data"


def film(
    count: int = 12, fps: int = 6, size: tuple[int, int] = (48, 64), form: str = "mp4", tone: bool = False
) -> bytes:
    """A video whose frame n is grey STEP * n, maybe with a second of 8 kHz sound per second."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        codec = "libx264" if form == "mp4" else "libvpx"
        stream = container.add_stream(codec, rate=fps, options={"crf": "5", "b": "4M"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono") if tone else None
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), STEP * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            waves = np.sin(np.arange(8000 * count // fps) * 0.2)[None].astype(np.float32)
            audio = av.AudioFrame.from_ndarray(waves, format="fltp", layout="mono")
            audio.sample_rate = 8000
            container.mux(sound.encode(audio))
            container.mux(sound.encode())
    return file.getvalue()


def tone(rate: int = 8000, channels: int = 2, seconds: float = 0.5) -> bytes:
    """A wav file: a sine in the first channel, half of it in the others."""
    sine = np.sin(np.arange(int(rate * seconds)) * 440 * 2 * np.pi / rate)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(
            (np.stack([sine * (1 if n == 0 else 0.5) for n in range(channels)], 1) * 32767).astype("<i2").tobytes()
        )
    return file.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tar of videos with all that may lie beside one, and one of sounds."""
    folder = tmp_path_factory.mktemp("mixed")
    array = io.BytesIO()
    np.save(array, np.arange(6, dtype=np.float16).reshape(2, 3))
    long, short = film(24), film(12, form="webm")
    tars.write_tar(
        folder / "00000.tar",
        [
            *[("a.mp4", long), ("a.m4a", tone()), ("a.en.vtt", b"WEBVTT"), ("a.npy", array.getvalue())],
            *[("a.json", b'{"duration": 4.0, "fps": 6, "lang": "en"}'), ("a.txt", "grün".encode())],
            *[("b.webm", short), ("b.json", b'{"duration": 2.0, "fps": 6, "lang": null}')],
            *[("c.mp4", film(12, tone=True)), ("c.json", b'{"duration": 2.0}')],
        ],
    )
    tars.write_tar(
        folder / "00001.tar", [*tars.sample("s", "wav", tone(), duration=0.5), *tars.sample("t", "cls", b"7")]
    )
    return folder


def keys(samples: Any) -> list[str]:
    return [each["__key__"] for each in samples]


def test_images_come_with_all_that_is_known(images: Path) -> None:
    rows = {key: row for key, row in datasets.rows(images).items() if row["status"] == "success"}
    got = {each["__key__"]: each for each in dataset(str(images))}
    assert sorted(got) == sorted(rows)
    for key, each in got.items():
        assert each["image"].dtype == np.uint8
        assert each["image"].shape == (rows[key]["height"], rows[key]["width"], 3)
        assert each["txt"] == rows[key]["caption"] == each["json"]["caption"]
        assert each["json"]["url"] == rows[key]["url"]
        assert each["__url__"].endswith(f"{key[:5]}.tar")
    content = dict(tars.read_tar(images / "00000.tar"))
    with Image.open(io.BytesIO(content["000000.jpg"])) as picture:
        assert np.array_equal(got["000000"]["image"], np.asarray(picture))


def test_as_pillow_and_raw(images: Path) -> None:
    picture = next(iter(dataset(str(images), decode="pil")))["image"]
    assert isinstance(picture, Image.Image)
    raw = next(iter(dataset(str(images), decode="raw")))
    assert raw["jpg"].startswith(b"\xff\xd8")
    assert isinstance(raw["json"], dict)


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/{00000..00003}.tar", "/0000[0-3].tar"])
def test_what_names_a_dataset(images: Path, pattern: str) -> None:
    assert len(keys(dataset(f"{images}{pattern}", decode="raw"))) == 20


def test_several_and_a_single_tar(images: Path) -> None:
    assert len(keys(dataset([str(images / "00001.tar"), str(images / "00003.tar")], decode="raw"))) == 9
    assert len(keys(dataset(str(images / "00001.tar"), decode="raw"))) == 6


def test_another_store(images: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{images}/", "/loaded/", recursive=True)
    try:
        got = list(dataset("memory://loaded"))
        assert sorted(keys(got)) == sorted(keys(dataset(str(images))))
        assert got[0]["__url__"].startswith("memory://")
    finally:
        store.store.clear()


def test_only_complete_shards_of_a_folder(images: Path, tmp_path: Path) -> None:
    for path in images.iterdir():
        if path.is_file() and path.name != "00001_stats.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert {key[:5] for key in keys(dataset(str(tmp_path), decode="raw"))} == {"00000", "00002", "00003"}
    for path in tmp_path.glob("*_stats.json"):
        path.unlink()
    assert {key[:5] for key in keys(dataset(str(tmp_path), decode="raw"))} == {"00000", "00001", "00002", "00003"}


def test_nothing_there(tmp_path: Path) -> None:
    for name in ("", "no.tar", "*.tar"):
        with pytest.raises(ConfigError, match="there is no tar"):
            dataset(str(tmp_path / name))
    with pytest.raises(ConfigError, match="decode='bgr'"):
        dataset(str(tmp_path), decode="bgr")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="frames must be 1 or more"):
        dataset(str(tmp_path), frames=0)


# videos and sounds


def greys(video: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / STEP) for frame in video]


def test_a_video_and_what_lies_beside_it(mixed: Path) -> None:
    got = {each["__key__"]: each for each in dataset(str(mixed))}
    assert list(got) == ["a", "b", "c", "s", "t"]
    a = got["a"]
    assert a["video"].shape == (24, 48, 64, 3)
    assert greys(a["video"]) == list(range(24))
    assert a["times"] == pytest.approx([n / 6 for n in range(24)], abs=2e-3)
    assert a["audio"].shape == (2, 4000)
    assert a["rate"] == 8000
    assert a["en.vtt"] == "WEBVTT"
    assert a["npy"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert a["txt"] == "grün"
    assert got["b"]["video"].shape == (12, 48, 64, 3)
    assert greys(got["b"]["video"]) == list(range(12))
    assert "audio" not in got["b"]
    assert "audio" not in got["c"], "it was not asked for"
    assert got["t"]["cls"] == b"7"


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"frames": 1}, [6]),
        ({"frames": 4}, [1, 4, 7, 10]),
        ({"frames": 3, "fps": 3}, [2, 6, 10]),
        ({"fps": 2}, [0, 3, 6, 9]),
        ({"fps": 60}, list(range(12))),
        ({"frames": 14}, [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 9, 10, 11]),
    ],
)
def test_some_frames_of_a_video(mixed: Path, options: dict[str, Any], want: list[int]) -> None:
    got = next(iter(dataset(str(mixed), where=lambda row: "lang" in row and row["lang"] is None, **options)))
    assert greys(got["video"]) == want
    assert got["times"] == pytest.approx([n / 6 for n in want], abs=2e-3)


def test_sounds(mixed: Path) -> None:
    got = next(iter(dataset(str(mixed), where={"duration": 0.5})))
    assert got["audio"].shape == (2, 4000)
    assert got["audio"].dtype == np.float32
    assert np.abs(got["audio"]).max(axis=1) == pytest.approx([1, 0.5], abs=0.01)
    mono = next(iter(dataset(str(mixed), where={"duration": 0.5}, rate=16000, mono=True)))
    assert mono["rate"] == 16000
    assert mono["audio"].shape[0] == 1
    assert mono["audio"].shape[1] == pytest.approx(8000, abs=40)
    spectrum = np.abs(np.fft.rfft(mono["audio"][0]))
    assert np.argmax(spectrum) * 16000 / mono["audio"].shape[1] == pytest.approx(440, abs=3)


def test_the_sound_in_a_video(mixed: Path) -> None:
    got = {each["__key__"]: each for each in dataset(str(mixed / "00000.tar"), sound=True)}
    assert got["a"]["audio"].shape == (2, 4000), "that of the file beside it"
    assert "audio" not in got["b"], "it is silent"
    assert got["c"]["audio"].shape[1] == pytest.approx(16000, abs=2100)
    assert got["c"]["rate"] == 8000


def test_a_video_container_with_nothing_but_sound(tmp_path: Path) -> None:
    """As `media="any"` keeps it: it is called by its container, and `kind` says what is in it."""
    path = tmp_path / "tone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    tars.write_tar(tmp_path / "0.tar", [("a.mp4", path.read_bytes()), ("a.json", b'{"kind": "audio"}')])
    for sound in (False, True):
        [got] = dataset(str(tmp_path), sound=sound)
        assert "video" not in got
        assert got["rate"] == 8000
        assert got["audio"].shape[0] == 1
        assert got["audio"].shape[1] >= 8000


def test_a_rotated_video_is_upright(tmp_path: Path) -> None:
    """A phone's: stored sideways, with a note by how much a player must turn it."""
    stored, turned = tmp_path / "stored.mp4", tmp_path / "turned.mp4"
    with av.open(str(stored), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, :32] = 200  # the left half is bright
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for degrees, bright in ((90, "bottom"), (-90, "top"), (180, "right")):
        rotation = ("-display_rotation:v:0", str(degrees))
        ffmpeg(*rotation, "-i", str(stored), "-c", "copy", str(turned))
        pictures, _ = arrays.video(str(turned))
        assert pictures.shape == (3, 48, 64, 3) if degrees == 180 else (3, 64, 48, 3)
        halves = {
            "top": pictures[0, : len(pictures[0]) // 2], "bottom": pictures[0, len(pictures[0]) // 2 :],
            "right": pictures[0, :, pictures.shape[2] // 2 :],
        }  # fmt: skip
        assert halves[bright].mean() > 180, degrees


# filters


@pytest.mark.parametrize(
    ("where", "want"),
    [
        ({"duration": 2.0}, ["b", "c"]),
        ({"duration": (1, 3)}, ["b", "c"]),
        ({"duration": (3, None)}, ["a"]),
        ({"duration": (None, 1.0)}, ["s"]),
        ({"lang": {"en", "de"}}, ["a"]),
        ({"lang": None}, ["b"]),
        ({"fps": lambda fps: fps > 5, "lang": "en"}, ["a"]),
        (lambda row: row.get("status") == "success", ["s", "t"]),
        ({"nothing": None}, []),
    ],
)
def test_filters(mixed: Path, where: Any, want: list[str]) -> None:
    assert keys(dataset(str(mixed), where=where)) == want


def test_what_is_filtered_out_is_not_decoded(tmp_path: Path) -> None:
    files = [
        *tars.sample("bad", "mp4", b"\0\0\0\x20ftypisom" + b"x" * 99, ok=False),
        *tars.sample("good", "mp4", film(3), ok=True),
    ]
    path = tars.write_tar(tmp_path / "0.tar", files)
    assert keys(dataset(str(path), where={"ok": True})) == ["good"]
    with pytest.raises(DecodeError, match=r"bad of .*0\.tar: broken mp4"):
        list(dataset(str(path)))
    with pytest.warns(UserWarning, match=r"bad of .*0\.tar: broken mp4"):
        assert keys(dataset(str(path), broken="skip")) == ["good"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("jpg", b"<html>", "broken picture"),
        ("mp4", b"#EXTM3U\nfile:///etc/passwd", "no video or sound: m3u8"),
        ("m4a", b"ffconcat version 1.0\nfile /etc/passwd", "no video or sound: text"),
        (
            "npy",
            b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n",
            "broken npy",
        ),
    ],
)
def test_what_cannot_be_decoded(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tars.write_tar(tmp_path / "0.tar", tars.sample("k", name, content))
    with pytest.raises(DecodeError, match=rf"k of .*: {says}"):
        list(dataset(str(path)))


def test_json_that_is_none(tmp_path: Path) -> None:
    path = tars.write_tar(tmp_path / "0.tar", [("k.txt", b"x"), ("k.json", b"{")])
    with pytest.raises(DecodeError, match="its json cannot be read"):
        list(dataset(str(path)))


# order and workers


def test_order_and_shuffling(images: Path) -> None:
    plain = keys(dataset(str(images), decode="raw"))
    assert plain == keys(dataset(str(images), decode="raw"))
    shuffled = dataset(str(images), decode="raw", shuffle=100, seed=5)
    first, second = keys(shuffled), keys(shuffled)
    assert sorted(first) == sorted(second) == sorted(plain)
    assert first != plain
    assert first != second, "another epoch, another order"
    assert keys(dataset(str(images), decode="raw", shuffle=100, seed=5)) == first
    assert keys(dataset(str(images), decode="raw", shuffle=100, seed=6)) != first


@pytest.mark.skipif(TORCH, reason="with torch, webdataset asks torch: the tests of its DataLoader are about that")
def test_workers_share_the_tars(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As webdataset learns of them from the environment, without torch."""
    parts = []
    for worker in range(3):
        monkeypatch.setenv("WORKER", str(worker))
        monkeypatch.setenv("NUM_WORKERS", "3")
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "1")
        parts.append(keys(dataset(str(images), decode="raw")))
    assert all(parts)
    assert sorted(itertools.chain(*parts)) == sorted(set(itertools.chain(*parts)))
    assert len(list(itertools.chain(*parts))) == 20


def test_it_can_be_batched_by_webdataset(images: Path) -> None:
    wds = pytest.importorskip("webdataset")
    pipeline = dataset(str(images)).compose(
        wds.map(lambda each: (each["__key__"], each["image"].mean())), wds.batched(8)
    )
    assert [len(batch[0]) for batch in pipeline] == [8, 8, 4]


@pytest.mark.skipif(not TORCH, reason="torch is not installed")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_example_with_a_dataloader_of_torch(images: Path, tmp_path: Path, workers: int) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "loader_pytorch.py"), str(images), str(workers)],
        capture_output=True, text=True, timeout=200, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 samples (20 different) in ")
    means = [each["image"].mean(axis=(0, 1)) / 255 for each in dataset(str(images))]
    assert json.loads(done.stdout.partition("mean colour ")[2]) == pytest.approx(
        np.mean(means, axis=0).tolist(), abs=0.02
    )


@pytest.mark.skipif(not TORCH, reason="torch is not installed")
def test_videos_with_a_dataloader_of_torch(mixed: Path, tmp_path: Path) -> None:
    tars.write_tar(
        tmp_path / "0.tar", [f for n in range(5) for f in tars.sample(f"{n}", "mp4", film(4 + n), width=64, height=48)]
    )
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "loader_pytorch.py"), str(tmp_path), "1"],
        capture_output=True, text=True, timeout=200, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 samples (5 different)")


def test_without_the_extra(tmp_path: Path) -> None:
    """In an interpreter where webdataset cannot be imported."""
    code = (
        "import sys; sys.modules['webdataset'] = None\n"
        "from img2dataset_dist.loader import dataset\n"
        "from img2dataset_dist.errors import MissingExtra\n"
        "try: dataset('x')\n"
        "except MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ})
    assert "pip install 'img2dataset_dist[loader]'" in done.stdout, done.stderr
    assert issubclass(MissingExtra, ImportError)
