"""What every writer in the registry promises, read back with the packages that people will use."""

from __future__ import annotations

import datetime as dt
import errno
import gc
import io
import json
import os
import random
import tarfile
from decimal import Decimal
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tfrecord
import webdataset as wds
from PIL import Image

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import ROW_ERRORS, DecodeError, EmptyBody
from img2dataset_dist.model import Failure, FetchFacts, Item, Sample
from img2dataset_dist.registry import PLUGINS, lookup
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.metadata import MetadataWriter
from img2dataset_dist.writers.parquet import ParquetWriter

WRITERS = sorted(PLUGINS["writer"])
STORING = [name for name in WRITERS if name != "dummy"]
WITH_METADATA = [name for name in STORING if name != "parquet"]
PER_SAMPLE = WITH_METADATA  # the formats that have KEY.jpg, KEY.json and KEY.txt or their like
SHARD = "00007"
WHEN = dt.datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=dt.timezone.utc)

INPUT = pa.schema(
    [
        ("licence_id", pa.int64()),
        ("score", pa.float64()),
        ("nsfw", pa.bool_()),
        ("seen", pa.timestamp("us", tz="UTC")),
        ("price", pa.decimal128(8, 2)),
        ("raw", pa.binary()),
        ("tags", pa.list_(pa.string())),
        ("camera", pa.struct([("name", pa.string()), ("iso", pa.int32())])),
        ("boxes", pa.list_(pa.list_(pa.float64()))),
        ("caption", pa.string()),
        ("url", pa.string()),
    ]
)
COLUMNS = {
    "licence_id": 2**40,
    "score": 0.25,
    "nsfw": True,
    "seen": WHEN,
    "price": Decimal("12.50"),
    "raw": b"\x00\xff",
    "tags": ["a", "é"],
    "camera": {"name": "X", "iso": 100},
    "boxes": [[0.0, 0.1, 0.5, 1.0], [0.25, 0.25, 0.75, 0.75]],
}
NASTY = 'café 😀 "quoted" \\ back\nnew\tline \x00 \u2028 </script> Ünï'


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (shade % 256, 10, 20)).save(out, "JPEG")
    return out.getvalue()


def layout(**changes) -> Layout:
    fields = {"input_schema": INPUT, "exif": True, "hash_name": "sha256", "encode_format": "jpg", "caption": True}
    return Layout(**(fields | changes))


def success(index: int, *, caption: str | None = "a caption", data: bytes | None = None, **columns) -> Sample:
    return Sample(
        item=Item(
            shard_id=7,
            index=index,
            key=f"{70000 + index:09d}",
            url=f"https://example.com/{index}.jpg",
            columns=COLUMNS | {"caption": caption} | columns,
        ),
        facts=FetchFacts(
            http_status=200,
            final_url=f"https://cdn.example.com/{index}.jpg",
            content_type="image/jpeg",
            fetch_ms=12,
            attempts=1,
            bytes=4321,
        ),
        body=b"original",
        data=jpeg(index) if data is None else data,
        width=8,
        height=6,
        original_width=80,
        original_height=60,
        exif='{"Image Make": "Canon"}',
        hashes={"sha256": "ab" * 32},
    )


def failed(index: int, error: Exception) -> Sample:
    item = Item(shard_id=7, index=index, key=f"{70000 + index:09d}", url=None, columns={"licence_id": index})
    return Sample(item=item, facts=FetchFacts(attempts=2), failure=Failure.of(error))


class Disk:
    """An opener into a folder that remembers what it opened, and can break."""

    def __init__(self, folder: Path, *, room: float = float("inf"), broken_close: str = "", opens: float = 1e9) -> None:
        self.folder, self.room, self.broken_close, self.opens = folder, room, broken_close, opens
        self.files: dict[str, io.IOBase] = {}
        self.buffered = False

    def __call__(self, name: str) -> io.IOBase:
        assert name not in self.files
        if len(self.files) >= self.opens:
            raise OSError(errno.EMFILE, "too many open files")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _DiskFile(self, path, name == self.broken_close)
        self.files[name] = io.BufferedWriter(raw, 512) if self.buffered else raw
        return self.files[name]

    @property
    def all_closed(self) -> bool:
        return all(file.closed for file in self.files.values())


class _DiskFile(io.RawIOBase):
    """Cannot seek, as most remote files; raises when the disk is full or when it is told to on close."""

    def __init__(self, disk: Disk, path: Path, broken_close: bool) -> None:
        self._disk, self._file, self._broken_close, self._at = disk, path.open("wb"), broken_close, 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._at

    def write(self, data) -> int:
        assert not self.closed
        size = memoryview(data).nbytes
        if size > self._disk.room:
            raise OSError(errno.ENOSPC, "no space left on device")
        self._disk.room -= size
        self._file.write(data)
        self._at += size
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            super().close()
            if self._broken_close:
                raise OSError(errno.EIO, "close failed")


def write(name: str, folder: Path, samples: list[Sample], chosen: Layout | None = None) -> None:
    disk = Disk(folder)
    writer = lookup("writer", name)(disk, SHARD, chosen or layout())
    for sample in samples:
        writer.write(sample)
    writer.close()
    assert disk.all_closed


def table(folder: Path) -> pa.Table:
    return pq.read_table(folder / f"{SHARD}.parquet")


def parts(name: str, folder: Path) -> list[dict[str, bytes]]:
    """key, jpg, json, txt of every stored success, in the order of the file."""
    if name == "webdataset":
        url = str(folder / f"{SHARD}.tar")
        found = wds.WebDataset(url, shardshuffle=False, empty_check=False)
        return [{"key": s["__key__"].encode(), **{k: s[k] for k in s if not k.startswith("__")}} for s in found]
    if name == "files":
        keys = sorted(p.stem for p in (folder / SHARD).glob("*.jpg"))
        ends = ("jpg", "json", "txt")
        paths = {key: {end: folder / SHARD / f"{key}.{end}" for end in ends} for key in keys}
        return [
            {"key": key.encode(), **{end: p.read_bytes() for end, p in paths[key].items() if p.exists()}}
            for key in keys
        ]
    assert name == "tfrecord"
    found = tfrecord.reader.tfrecord_loader(str(folder / f"{SHARD}.tfrecord"), None)
    return [{k: bytes(r[k]) for k in ("key", "jpg", "txt") if k in r} for r in found]


@pytest.fixture(params=WRITERS)
def name(request) -> str:
    return request.param


@pytest.fixture(params=[None, 1], ids=["one group", "a group per row"])
def groups(request, monkeypatch) -> None:
    """Run with the metadata opened at the end, and with it open from the first row on."""
    if request.param:
        monkeypatch.setattr(MetadataWriter.__init__, "__defaults__", (request.param,))
        monkeypatch.setattr(ParquetWriter.__init__, "__kwdefaults__", {"group_bytes": request.param})


storing = pytest.mark.parametrize("name", STORING)
per_sample = pytest.mark.parametrize("name", PER_SAMPLE)

# From the spec: the peer's columns in its order, then ours.
SPEC = [
    ("licence_id", "int64"),
    ("score", "double"),
    ("nsfw", "bool"),
    ("seen", "timestamp[us, tz=UTC]"),
    ("price", "decimal128(8, 2)"),
    ("raw", "binary"),
    ("tags", "list<element: string>"),
    ("camera", "struct<name: string, iso: int32>"),
    ("boxes", "list<element: list<element: double>>"),
    ("caption", "string"),
    ("url", "string"),
    ("key", "string"),
    ("status", "string"),
    ("error_message", "string"),
    ("width", "int32"),
    ("height", "int32"),
    ("original_width", "int32"),
    ("original_height", "int32"),
    ("exif", "string"),
    ("sha256", "string"),
    ("error_code", "string"),
    ("http_status", "int32"),
    ("final_url", "string"),
    ("content_type", "string"),
    ("fetch_ms", "int32"),
    ("attempts", "int32"),
    ("bytes", "int64"),
    ("dns_ms", "int32"),
    ("connect_ms", "int32"),
    ("tls_ms", "int32"),
    ("first_byte_ms", "int32"),
    ("x_robots_tag", "string"),
    ("robots_txt", "string"),
    ("original_format", "string"),
    ("stored_hash", "string"),
]


@storing
def test_columns_are_those_of_the_spec_in_order(name, tmp_path):
    write(name, tmp_path, [success(0), failed(1, EmptyBody())])
    expected = list(SPEC)
    if name == "parquet":
        expected.insert([column for column, _ in SPEC].index("error_code"), ("jpg", "binary"))
    found = table(tmp_path).schema
    assert [(field.name, str(field.type).replace("item:", "element:")) for field in found] == expected
    assert all(field.nullable for field in found)


@storing
def test_optional_columns_are_left_out(name, tmp_path):
    plain = layout(input_schema=pa.schema([("url", pa.string())]), exif=False, hash_name=None, caption=False)
    write(name, tmp_path, [success(0)], plain)
    names = table(tmp_path).column_names
    assert names[:2] == ["url", "key"]
    assert not {"exif", "sha256", "caption"} & set(names)
    if name in PER_SAMPLE:
        assert "txt" not in parts(name, tmp_path)[0]


@storing
def test_layout_of_a_job(name, tmp_path):
    config = JobConfig.from_flat({"url_list": "x.parquet", "input_format": "parquet", "compute_hash": "md5"})
    schema = pa.schema([pa.field("url", pa.string(), nullable=False, metadata={"PARQUET:field_id": "7"})])
    write(name, tmp_path, [success(0), failed(1, EmptyBody())], Layout.of(config, schema))
    assert table(tmp_path)["url"].to_pylist() == ["https://example.com/0.jpg", None]
    assert "md5" in table(tmp_path).column_names


@storing
def test_every_row_is_in_the_metadata(name, tmp_path):
    rows = [success(0), failed(1, EmptyBody("nothing came")), failed(2, DecodeError("broken")), success(3)]
    write(name, tmp_path, rows)
    found = table(tmp_path).to_pylist()
    assert [row["key"] for row in found] == ["000070000", "000070001", "000070002", "000070003"]
    assert [row["status"] for row in found] == ["success", "failed_to_download", "failed_to_resize", "success"]
    assert [row["error_code"] for row in found] == [None, "empty_body", "decode_error", None]
    assert [row["error_message"] for row in found] == [None, "nothing came", "broken", None]
    assert {name: found[0][name] for name in COLUMNS} == COLUMNS
    assert (found[0]["bytes"], found[0]["sha256"], found[0]["width"]) == (4321, "ab" * 32, 8)
    assert (found[1]["url"], found[1]["sha256"], found[1]["width"], found[1]["attempts"]) == (None, None, None, 2)


@storing
def test_pandas_reads_the_metadata(name, tmp_path):
    write(name, tmp_path, [success(0), failed(1, EmptyBody())])
    frame = pd.read_parquet(tmp_path / f"{SHARD}.parquet")
    assert list(frame["status"]) == ["success", "failed_to_download"]
    assert frame["seen"][0] == pd.Timestamp(WHEN)


@per_sample
def test_only_successes_are_stored(name, tmp_path):
    write(name, tmp_path, [failed(0, EmptyBody()), success(1), failed(2, DecodeError()), success(3)])
    found = parts(name, tmp_path)
    assert [part["key"] for part in found] == [b"000070001", b"000070003"]
    assert [part["jpg"] for part in found] == [jpeg(1), jpeg(3)]


@pytest.mark.parametrize("name", ["webdataset", "files"])
def test_json_has_the_columns_of_the_metadata(name, tmp_path):
    write(name, tmp_path, [success(0, caption=NASTY)])
    text = parts(name, tmp_path)[0]["json"].decode()
    row = json.loads(text)
    assert list(row) == table(tmp_path).column_names
    expected = table(tmp_path).to_pylist()[0]
    expected |= {"seen": "2024-02-29T12:30:15.250000+00:00", "price": "12.50", "raw": "AP8="}
    assert row == expected
    assert text == json.dumps(expected, indent=4)


@per_sample
@pytest.mark.parametrize("caption", [None, "", "plain", NASTY, "x" * 100_000])
def test_captions(name, tmp_path, caption):
    write(name, tmp_path, [success(0, caption=caption)])
    assert parts(name, tmp_path)[0]["txt"] == (caption or "").encode()
    assert table(tmp_path)["caption"].to_pylist() == [caption]


@storing
def test_text_that_is_no_unicode_does_not_fail_the_shard(name, tmp_path):
    odd = success(0, caption="lone \ud800, pair \ud83d\ude00", tags=["\udc80"], camera={"name": "\udfff", "iso": None})
    write(name, tmp_path, [odd, success(1)])
    row = table(tmp_path).to_pylist()[0]
    assert (row["caption"], row["tags"], row["camera"]["name"]) == ("lone \ufffd, pair 😀", ["\ufffd"], "\ufffd")
    if name in PER_SAMPLE:
        assert parts(name, tmp_path)[0]["txt"].decode() == "lone \ufffd, pair 😀"


@storing
def test_urls_and_messages_of_any_kind(name, tmp_path):
    odd = Item(shard_id=7, index=0, key="000070000", url=NASTY, columns=COLUMNS)
    rows = [Sample(item=odd, data=jpeg(0)), failed(1, EmptyBody(NASTY))]
    write(name, tmp_path, rows)
    found = table(tmp_path)
    assert found["url"].to_pylist() == [NASTY, None]
    assert found["error_message"].to_pylist() == [None, NASTY]


@storing
def test_nulls_and_not_a_number(name, tmp_path):
    nothing = dict.fromkeys(COLUMNS)
    write(name, tmp_path, [success(0, **nothing), success(1, score=float("nan"), tags=[], boxes=[], raw=b"")])
    rows = table(tmp_path).to_pylist()
    assert {name: rows[0][name] for name in COLUMNS} == nothing
    assert (str(rows[1]["score"]), rows[1]["tags"], rows[1]["boxes"], rows[1]["raw"]) == ("nan", [], [], b"")


@storing
def test_every_error_can_be_stored(name, tmp_path):
    rows = [failed(index, error()) for index, error in enumerate(ROW_ERRORS.values())]
    write(name, tmp_path, rows)
    assert table(tmp_path)["error_code"].to_pylist() == list(ROW_ERRORS)


@storing
def test_all_failed(name, tmp_path):
    write(name, tmp_path, [failed(0, EmptyBody()), failed(1, DecodeError())])
    assert table(tmp_path).num_rows == 2
    if name in PER_SAMPLE:
        assert parts(name, tmp_path) == []
    if name == "webdataset":
        with tarfile.open(tmp_path / f"{SHARD}.tar") as tar:
            assert tar.getnames() == []


@storing
def test_rows_come_back_in_the_order_of_the_list(name, tmp_path):
    order = list(range(500))
    random.Random(1).shuffle(order)
    write(name, tmp_path, [success(i, data=b"x") if i % 3 else failed(i, EmptyBody()) for i in order])
    keys = table(tmp_path)["key"].to_pylist()
    assert keys == [f"{70000 + i:09d}" for i in range(500)]
    if name in PER_SAMPLE:
        assert sorted(part["key"] for part in parts(name, tmp_path)) == [
            k.encode() for k in keys if int(k) % 3 != 70000 % 3
        ]


def test_same_samples_give_the_same_bytes(name, tmp_path):
    samples = [success(0), failed(1, EmptyBody()), success(2, caption=NASTY)]
    for run in ("a", "b"):
        write(name, tmp_path / run, samples)
    first, second = (
        {str(p.relative_to(tmp_path / run)): p.read_bytes() for p in (tmp_path / run).rglob("*") if p.is_file()}
        for run in ("a", "b")
    )
    assert first == second
    assert bool(first) == (name != "dummy")


def test_files_of_a_writer(name, tmp_path):
    write(name, tmp_path, [success(0), failed(1, EmptyBody())])
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    ends = ("jpg", "json", "txt")
    assert (
        found
        == {
            "dummy": [],
            "parquet": ["00007.parquet"],
            "webdataset": ["00007.parquet", "00007.tar"],
            "tfrecord": ["00007.parquet", "00007.tfrecord"],
            "files": ["00007.parquet", *(f"00007/000070000.{end}" for end in ends)],
        }[name]
    )


def test_one_row(name, tmp_path):
    write(name, tmp_path, [success(0)])
    if name != "dummy":
        assert table(tmp_path).num_rows == 1


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("room", [0, 100, 3000, 12_000])
@storing
def test_full_disk_raises_and_leaves_nothing_open(name, tmp_path, room, buffered, groups):
    disk = Disk(tmp_path, room=room)
    disk.buffered = buffered
    with pytest.raises(OSError, match="no space left") as caught:
        write_or_abort(name, disk, [success(i, data=os.urandom(1000)) for i in range(20)])
    assert caught.value.errno == errno.ENOSPC
    assert disk.all_closed


def write_or_abort(name: str, disk: Disk, samples: list[Sample]) -> None:
    """As a shard does it: `abort` after an exception in `write`, nothing after one in `close`."""
    writer = lookup("writer", name)(disk, SHARD, layout())
    try:
        for sample in samples:
            writer.write(sample)
    except BaseException:
        writer.abort()
        raise
    writer.close()


def test_a_file_that_cannot_be_closed_does_not_leak_the_others(name, tmp_path, groups):
    samples = [success(0), success(1)]
    healthy = Disk(tmp_path / "healthy")
    write_or_abort(name, healthy, samples)
    for broken in healthy.files:
        disk = Disk(tmp_path / "broken" / broken.replace("/", "_"), broken_close=broken)
        with pytest.raises(OSError, match="close failed"):
            write_or_abort(name, disk, samples)
        assert disk.all_closed


def test_a_file_that_cannot_be_opened_does_not_leak_the_others(name, tmp_path, groups):
    samples = [success(0), success(1)]
    healthy = Disk(tmp_path / "healthy")
    write_or_abort(name, healthy, samples)
    for count in range(len(healthy.files)):
        disk = Disk(tmp_path / str(count), opens=count)
        with pytest.raises(OSError, match="too many open files"):
            write_or_abort(name, disk, samples)
        assert disk.all_closed


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("written", [0, 1, 50])
def test_abort_closes_everything(name, tmp_path, written, groups):
    disk = Disk(tmp_path)
    writer = lookup("writer", name)(disk, SHARD, layout())
    for index in range(written):
        writer.write(success(index))
    writer.abort()
    assert disk.all_closed
    del writer
    gc.collect()  # nothing may be written, nor warned about, afterwards
    path = tmp_path / f"{SHARD}.parquet"
    if path.exists():
        with pytest.raises(pa.ArrowInvalid):
            pq.ParquetFile(path)


@pytest.mark.parametrize("room", [0, 100, 3000])
def test_abort_never_raises(name, tmp_path, room, groups):
    disk = Disk(tmp_path, room=room)
    disk.buffered = True
    writer = lookup("writer", name)(disk, SHARD, layout())
    try:
        for index in range(20):
            writer.write(success(index, data=os.urandom(1000)))
    except OSError:
        pass
    writer.abort()
    assert disk.all_closed


def test_abort_of_files_that_cannot_be_closed(name, tmp_path, groups):
    samples = [success(0), failed(1, EmptyBody())]
    healthy = Disk(tmp_path / "healthy")
    write_or_abort(name, healthy, samples)
    for broken in healthy.files:
        disk = Disk(tmp_path / "broken" / broken.replace("/", "_"), broken_close=broken)
        writer = lookup("writer", name)(disk, SHARD, layout())
        try:
            for sample in samples:
                writer.write(sample)
        except OSError:
            assert name == "files"
        writer.abort()
        assert disk.all_closed


def test_any_fsspec_file_system(name):
    fs = fsspec.filesystem("memory")
    folder = f"/writers/{name}"
    writer = lookup("writer", name)(lambda file: fs.open(f"{folder}/{file}", "wb"), SHARD, layout())
    writer.write(success(0))
    writer.close()
    if name != "dummy":
        assert pq.read_table(io.BytesIO(fs.cat(f"{folder}/{SHARD}.parquet"))).num_rows == 1
    fs.rm("/writers", recursive=True) if fs.exists("/writers") else None


@pytest.mark.parametrize("encode_format", ["jpg", "png", "webp"])
def test_webdataset_decodes(tmp_path, encode_format):
    out = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(out, {"jpg": "JPEG"}.get(encode_format, encode_format))
    data = out.getvalue()
    write("webdataset", tmp_path, [success(i, data=data) for i in range(3)], layout(encode_format=encode_format))
    found = list(wds.WebDataset(str(tmp_path / f"{SHARD}.tar"), shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in found] == ["000070000", "000070001", "000070002"]
    assert found[0][encode_format].size == (8, 6)
    assert found[0]["json"]["boxes"] == COLUMNS["boxes"]
    assert found[0]["txt"] == "a caption"


def test_members_and_headers_of_the_tar(tmp_path):
    write("webdataset", tmp_path, [success(0), success(1)])
    path = tmp_path / f"{SHARD}.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [f"00007000{i}.{end}" for i in (0, 1) for end in ("jpg", "json", "txt")]
    for m in members:
        assert (m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644)
        assert m.isreg()
    content = path.read_bytes()
    assert len(content) % tarfile.RECORDSIZE == 0
    assert content.endswith(bytes(2 * tarfile.BLOCKSIZE))
    assert content[257:265] == b"ustar\x0000"


def test_tar_with_very_long_names_and_any_size(tmp_path):
    key = "9" * 300
    item = Item(shard_id=7, index=0, key=key, url="u", columns={})
    sizes = [0, 1, 511, 512, 513, 100_000]
    samples = [Sample(item=item, data=os.urandom(size)) for size in sizes]
    write("webdataset", tmp_path, samples)
    with tarfile.open(tmp_path / f"{SHARD}.tar") as tar:
        stored = [tar.extractfile(m).read() for m in tar.getmembers() if m.name == f"{key}.jpg"]
    assert stored == [sample.data for sample in samples]


def test_parquet_holds_the_media_of_successes(tmp_path):
    write(
        "parquet", tmp_path, [success(0), failed(1, EmptyBody()), failed(2, DecodeError())], layout(encode_format="png")
    )
    assert table(tmp_path)["png"].to_pylist() == [jpeg(0), None, None]


def test_big_media_go_to_several_row_groups(tmp_path):
    samples = [success(i, data=os.urandom(10_000)) for i in reversed(range(20))]
    writer = ParquetWriter(Disk(tmp_path), SHARD, layout(), group_bytes=50_000)
    for sample in samples:
        writer.write(sample)
    writer.close()
    with pq.ParquetFile(tmp_path / f"{SHARD}.parquet") as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        groups = [file.read_row_group(i).to_pylist() for i in range(file.num_row_groups)]
    assert len(sizes) >= 4
    assert max(sizes) <= 5
    assert {row["key"]: row["jpg"] for group in groups for row in group} == {s.item.key: s.data for s in samples}
    for group in groups:
        assert [row["key"] for row in group] == sorted(row["key"] for row in group)
