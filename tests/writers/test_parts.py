"""Samples of several files, some of them on the disk, in every output format."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tfrecord
import webdataset as wds

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import FfmpegError
from img2dataset_dist.model import Clip, Failure, Item, Part, Sample
from img2dataset_dist.registry import PLUGINS, lookup
from img2dataset_dist.writers.layout import Layout

FORMATS = sorted(PLUGINS["writer"])
SOUND = b"sound" * 100
SCHEMA = pa.schema([("caption", pa.string()), ("url", pa.string())])


def film(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + b"." * (size % 256)


def layout(**options: Any) -> Layout:
    flat = {"url_list": "x.csv", "input_format": "csv", "caption_col": "c", "media": "video", **options}
    return Layout.of(JobConfig.from_flat(flat), SCHEMA)


def sample(folder: Path, number: int, size: int = 3_000_001, **changes: Any) -> Sample:
    path = folder / f"{number}.mp4"
    path.write_bytes(film(size))
    parts = (
        Part(extension="mp4", path=str(path), size=size),
        Part(extension="m4a", data=SOUND, size=len(SOUND)),
        Part(extension="en.vtt", data=b"WEBVTT\n", size=7),
    )
    extra = {"kind": "video", "duration": 2.5, "clips": [[1.0, 3.5]]}
    item = Item(shard_id=0, index=number, key=f"{number:05d}", url="http://x/", columns={"caption": "words"})
    fields: dict[str, Any] = {"item": item, "parts": parts, "extra": extra, "hashes": {"sha256": "ab"}}
    return Sample(**(fields | changes))


def write(name: str, folder: Path, samples: list[Sample], of: Layout) -> None:
    def opener(path: str) -> Any:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        return open(folder / path, "wb")

    writer = lookup("writer", name)(opener, "00000", of)
    for each in samples:
        writer.write(each)
    writer.close()


@pytest.mark.parametrize("name", FORMATS)
def test_all_parts_are_there(name: str, tmp_path: Path) -> None:
    of = layout(encode_formats={"video": "mp4", "audio": "m4a"})
    out = tmp_path / "out"
    lost = Failure.of(FfmpegError("broken"))
    samples = [sample(tmp_path, 0), sample(tmp_path, 1, parts=(), extra={}, failure=lost), sample(tmp_path, 2, size=0)]
    write(name, out, samples, of)
    if name == "dummy":
        assert not out.exists()
        return
    table = pq.read_table(out / "00000.parquet")
    assert table["status"].to_pylist() == ["success", "failed_to_subsample", "success"]
    assert table["clips"].to_pylist() == [[[1.0, 3.5]], None, [[1.0, 3.5]]]
    assert table["duration"].to_pylist() == [2.5, None, 2.5]
    films = [film(3_000_001), b""]
    if name == "webdataset":
        with tarfile.open(out / "00000.tar") as tar:
            names = [f"{key}.{part}" for key in ("00000", "00002") for part in ("mp4", "m4a", "en.vtt", "txt", "json")]
            assert tar.getnames() == names
        read = list(wds.WebDataset(str(out / "00000.tar"), shardshuffle=False))
        assert [one["mp4"] for one in read] == films
        assert [one["m4a"] for one in read] == [SOUND] * 2
        assert [one["en.vtt"] for one in read] == [b"WEBVTT\n"] * 2
    elif name == "files":
        assert [(out / "00000" / f"{key}.mp4").read_bytes() for key in ("00000", "00002")] == films
        assert (out / "00000" / "00002.en.vtt").read_bytes() == b"WEBVTT\n"
        assert len(list((out / "00000").iterdir())) == 10
    elif name == "parquet":
        assert table["mp4"].to_pylist() == [films[0], None, films[1]]
        assert table["m4a"].to_pylist() == [SOUND, None, SOUND]
        rest = [{"name": "en.vtt", "data": b"WEBVTT\n"}]
        assert table["parts"].to_pylist() == [rest, None, rest]
    else:
        read = list(tfrecord.tfrecord_loader(str(out / "00000.tfrecord"), None))
        assert [bytes(one["mp4"]) for one in read] == films
        assert [bytes(one["en.vtt"]) for one in read] == [b"WEBVTT\n"] * 2


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "dummy"])
def test_any_file_has_its_own_extension(name: str, tmp_path: Path) -> None:
    kept = sample(tmp_path, 0, parts=(Part(extension="pdf", data=b"%PDF", size=4),), extra={"kind": "text"})
    write(name, tmp_path / "out", [kept], layout(media="any"))
    table = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert table["kind"].to_pylist() == ["text"]
    if name == "parquet":
        assert (table["media"].to_pylist(), table["parts"].to_pylist()) == ([b"%PDF"], [[]])
    elif name == "files":
        assert (tmp_path / "out" / "00000" / "00000.pdf").read_bytes() == b"%PDF"


def test_a_file_that_became_shorter_fails_the_shard(tmp_path: Path) -> None:
    """Or the tar would be torn from there on."""
    short = sample(tmp_path, 0)
    Path(short.parts[0].path).write_bytes(b"less")
    writer = lookup("writer", "webdataset")(lambda _: io.BytesIO(), "00000", layout())
    with pytest.raises(OSError, match="less than it should"):
        writer.write(short)
    writer.abort()


def test_large_parts_are_not_held_in_memory(tmp_path: Path) -> None:
    """A writer takes a file of any size in pieces."""
    largest = 0

    class Watched(io.BytesIO):
        def write(self, data: bytes) -> int:
            nonlocal largest
            largest = max(largest, len(data))
            return len(data)

    writer = lookup("writer", "webdataset")(lambda _: Watched(), "00000", layout())
    writer.write(sample(tmp_path, 0, size=20 * 2**20))
    writer.close()
    assert 0 < largest <= 3 * 2**20


def test_a_column_of_the_list_wins(tmp_path: Path) -> None:
    """WebVid's list has a `duration` of its own."""
    schema = pa.schema([("duration", pa.string()), ("url", pa.string())])
    flat = {"url_list": "x.csv", "input_format": "csv", "save_additional_columns": ["duration"], "media": "video"}
    of = Layout.of(JobConfig.from_flat(flat), schema)
    item = Item(shard_id=0, index=0, key="00000", url="http://x/", columns={"duration": "PT00H00M15S"})
    write("webdataset", tmp_path / "out", [sample(tmp_path, 0, item=item)], of)
    table = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert table.column_names.count("duration") == 1
    assert table["duration"].to_pylist() == ["PT00H00M15S"]


def test_wanted_clips_of_a_failed_row_stay_known(tmp_path: Path) -> None:
    item = Item(shard_id=0, index=0, key="00000", url="http://x/", clips=(Clip(1, 2), Clip(3, 4)))
    lost = sample(tmp_path, 0, item=item, parts=(), extra={}, failure=Failure.of(FfmpegError("broken")))
    write("webdataset", tmp_path / "out", [lost], layout())
    with fsspec.open(str(tmp_path / "out" / "00000.parquet")) as file:
        assert pq.read_table(file)["clips"].to_pylist() == [[[1.0, 2.0], [3.0, 4.0]]]
