"""The contact sheet, on small datasets made by hand."""

import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops
from support.photos import picture

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.tools import preview as module
from img2dataset_dist.tools.preview import preview

JPEG = [picture(index)[1] for index in range(3)]


def samples(shard: int, count: int) -> dict[str, bytes]:
    return {f"{shard:05d}{index:04d}": JPEG[index % 3] for index in range(count)}


def add_tar(
    folder: Path, shard: int, content: dict[str, bytes], suffix: str = "jpg", form: int = tarfile.GNU_FORMAT
) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{shard:05d}.tar", "w", format=form) as tar:
        for key, data in content.items():
            for name, body in ((f"{key}.{suffix}", data), (f"{key}.json", b"{}" * 400), (f"{key}.txt", b"a caption")):
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    pq.write_table(
        pa.table({"key": list(content), "status": ["success"] * len(content)}), folder / f"{shard:05d}.parquet"
    )


def add_stats(folder: Path, shard: int, count: int, successes: int) -> None:
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": count, "successes": successes}))


def add_parquet(folder: Path, shard: int, content: dict[str, bytes | None], column: str = "jpg") -> None:
    folder.mkdir(exist_ok=True)
    status = ["success" if data else "failed_to_download" for data in content.values()]
    table = pa.table({"key": list(content), "status": status, column: pa.array(content.values(), pa.binary())})
    pq.write_table(table, folder / f"{shard:05d}.parquet", row_group_size=4)


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the sheets that are drawn, and then the keys."""
    seen: list[str] = []
    draw = module._draw

    def spy(title: str, pictures: list[tuple[str, bytes]], columns: int) -> Image.Image:
        seen.extend([title, *(key for key, _ in pictures)])
        return draw(title, pictures, columns)

    monkeypatch.setattr(module, "_draw", spy)
    return seen


def test_webdataset_is_sampled_over_all_shards(tmp_path: Path, titles: list[str]) -> None:
    data = tmp_path / "data"
    for shard in range(5):
        add_tar(data, shard, samples(shard, 8))
        add_stats(data, shard, 10, 8)
    assert preview(str(data), str(tmp_path / "new" / "sheet.jpg"), count=20, columns=5) == 20
    title, *keys = titles
    assert title == "data: 40 of 50 rows succeeded (80.0%), 5 shards, 20 shown"
    assert {key[:5] for key in keys} == {f"{shard:05d}" for shard in range(5)}
    assert keys == sorted(set(keys))
    with Image.open(tmp_path / "new" / "sheet.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.height > 4 * module.SIDE
        assert sheet.width > 5 * module.SIDE


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_picture_of_a_tar_can_be_drawn(tmp_path: Path, titles: list[str], form: int) -> None:
    expected = samples(0, 30)
    add_tar(tmp_path / "data", 0, expected, form=form)
    assert preview(str(tmp_path / "data"), str(tmp_path / "s.png"), count=100) == 30
    assert titles[1:] == list(expected)
    assert titles[0] == "data: 1 shard, 30 shown"


def test_the_bytes_are_those_of_the_sample(tmp_path: Path) -> None:
    expected = {"a": JPEG[0], "b": JPEG[1], "c": JPEG[2]}
    add_tar(tmp_path / "tar", 0, expected)
    add_parquet(tmp_path / "parquet", 0, {**expected, "d": None})
    folder = module.Folder.at(str(tmp_path))
    rng = module.random.Random(0)
    assert module._from_tar(folder.sub("tar"), "00000.tar", 9, rng) == expected
    assert module._from_parquet(folder.sub("parquet"), "00000.parquet", 9, rng) == expected


def test_seed_chooses(tmp_path: Path, titles: list[str]) -> None:
    add_tar(tmp_path / "data", 0, samples(0, 200))
    for seed in (1, 1, 2):
        preview(str(tmp_path / "data"), str(tmp_path / "s.png"), count=10, seed=seed)
    assert titles[0:11] == titles[11:22] != titles[22:33]


def test_a_large_tar_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tar(tmp_path / "data", 0, samples(0, 300))
    folder = module.Folder.at(str(tmp_path / "data"))
    read = []

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            read.append(size)
            return super().read(size)

    monkeypatch.setattr(type(folder.fs), "open", lambda self, path, mode: Counting(path))
    assert len(module._from_tar(folder, "00000.tar", 5, module.random.Random(0))) == 5
    assert sum(read) < os.path.getsize(tmp_path / "data/00000.tar") / 5


@pytest.mark.parametrize("column", ["jpg", "png", "webp"])
def test_parquet_with_failures(tmp_path: Path, titles: list[str], column: str) -> None:
    for shard in range(2):
        content = {key: data if int(key) % 3 else None for key, data in samples(shard, 12).items()}
        add_parquet(tmp_path / "data", shard, content, column)
        add_stats(tmp_path / "data", shard, 12, 8)
    assert preview(str(tmp_path / "data"), str(tmp_path / "s.webp"), count=60) == 16
    assert titles[0] == "data: 16 of 24 rows succeeded (66.7%), 2 shards, 16 shown"
    assert all(int(key) % 3 for key in titles[1:])


def test_files(tmp_path: Path, titles: list[str]) -> None:
    for shard in range(2):
        (tmp_path / "data" / f"{shard:05d}").mkdir(parents=True)
        for key, content in samples(shard, 4).items():
            (tmp_path / "data" / f"{shard:05d}" / f"{key}.jpg").write_bytes(content)
            (tmp_path / "data" / f"{shard:05d}" / f"{key}.json").write_text("{}")
        add_parquet(tmp_path / "data", shard, {}, "nothing")
    assert preview(str(tmp_path / "data"), str(tmp_path / "s.png"), count=6) == 6
    assert {key[:5] for key in titles[1:]} == {"00000", "00001"}


def test_shards_without_a_receipt_are_left_out(tmp_path: Path, titles: list[str]) -> None:
    for shard in range(2):
        add_tar(tmp_path / "data", shard, samples(shard, 3))
    add_stats(tmp_path / "data", 1, 3, 3)
    assert preview(str(tmp_path / "data"), str(tmp_path / "s.png")) == 3
    assert titles[1:] == list(samples(1, 3))


def test_other_stores(tmp_path: Path) -> None:
    add_tar(tmp_path / "data", 0, samples(0, 5))
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "data").iterdir():
        memory.pipe_file(f"/preview/{path.name}", path.read_bytes())
    assert preview("memory://preview", "memory://sheets/s.png") == 5
    with memory.open("/sheets/s.png") as file, Image.open(file) as sheet:
        assert sheet.format == "PNG"


def test_foreign_stats_do_no_harm(tmp_path: Path, titles: list[str]) -> None:
    add_tar(tmp_path / "data", 0, samples(0, 2))
    for text in ("[]", "{", "{}", '{"count": null, "successes": 1}'):
        (tmp_path / "data" / "00000_stats.json").write_text(text)
        assert preview(str(tmp_path / "data"), str(tmp_path / "s.png")) == 2
    assert titles[0] == "data: 1 shard, 2 shown"


def test_a_broken_picture_is_shown_as_such(tmp_path: Path) -> None:
    add_tar(tmp_path / "data", 0, {"0": b"no picture", "1": JPEG[0][:2000], "2": b""})
    assert preview(str(tmp_path / "data"), str(tmp_path / "s.png")) == 3


def test_thumbnails_are_upright_on_white_and_small() -> None:
    sideways = picture(11)[1]
    with Image.open(io.BytesIO(sideways)) as stored:
        assert stored.height != stored.width
        is_tall = stored.height > stored.width
    thumbnail = module._thumbnail(sideways)
    assert (thumbnail.height > thumbnail.width) is not is_tall
    assert max(thumbnail.size) == module.SIDE
    out = io.BytesIO()
    Image.new("RGBA", (300, 100), (255, 0, 0, 0)).save(out, "PNG")
    white = module._thumbnail(out.getvalue())
    assert ImageChops.invert(white).getbbox() is None
    for mode in ("L", "I;16", "P", "CMYK", "1"):
        out = io.BytesIO()
        Image.new(mode, (300, 100)).save(out, "TIFF")
        assert module._thumbnail(out.getvalue()).size == (128, 43)


@pytest.mark.parametrize("make", ["nothing", "empty", "metadata", "notes", "all_failed"])
def test_no_dataset_is_a_clear_error(tmp_path: Path, make: str) -> None:
    data = tmp_path / "data"
    if make != "nothing":
        data.mkdir()
    if make == "metadata":
        add_parquet(data, 0, {"a": b"x"}, "text")
    if make == "notes":
        (data / "notes.txt").write_text("x")
        (data / "00000.parquet").write_text("no parquet")
    if make == "all_failed":
        add_tar(data, 0, {})
    with pytest.raises(ConfigError, match=r"no (dataset|pictures).*data"):
        preview(str(data), str(tmp_path / "s.png"))
    assert not (tmp_path / "s.png").exists()


def test_bad_arguments(tmp_path: Path) -> None:
    add_tar(tmp_path / "data", 0, samples(0, 1))
    for image in ("sheet", "sheet.txt", "sheet.jpg/"):
        with pytest.raises(ConfigError, match="suffix"):
            preview(str(tmp_path / "data"), str(tmp_path / "x") + image)
    with pytest.raises(ConfigError, match="count"):
        preview(str(tmp_path / "data"), str(tmp_path / "s.png"), count=0)
