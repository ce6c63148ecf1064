"""Datasets as input: what the reader makes of them, and what the fetcher takes out of their tars."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import dataset, tars
from support.lists import config_of, read_all, read_shard
from support.photos import picture, url_list
from support.s3 import s3_store
from support.server import NastyServer

from img2dataset_dist import download, registry
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.stored import StoredFetcher
from img2dataset_dist.inputs import WALK_BLOCK
from img2dataset_dist.model import Fetched, Item, Stored
from img2dataset_dist.plan import make_plan
from img2dataset_dist.readers.webdataset import merged, numbered
from img2dataset_dist.spool import Spool
from img2dataset_dist.tars import Tar, split

ROWS = 17
FAILED = {3: "http_404", 9: "connect", 12: "not_media"}


@pytest.fixture(scope="module")
def made(server: NastyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 17 rows in 4 shards, three rows of which failed."""
    folder = tmp_path_factory.mktemp("made")
    urls = [server.url(f"/photo/photo_{n:05d}.{'png' if n == 3 else 'webp' if n == 7 else 'jpg'}") for n in range(ROWS)]
    urls[3], urls[9], urls[12] = server.url("/status/404"), server.refused(), server.url("/html")
    columns = {
        "text": [f"row {n} é" for n in range(ROWS)],
        "n": list(range(ROWS)),
        "tags": [["a", str(n)] for n in range(ROWS)],
    }
    download(
        url_list=url_list(folder / "list.parquet", urls, columns),
        input_format="parquet",
        output_folder=str(folder / "data"),
        output_format="webdataset",
        caption_col="text",
        save_additional_columns=["n", "tags"],
        number_sample_per_shard=5,
        image_size=128,
        distributor="inline",
        allow_private_addresses=True,
        progress="none",
    )
    return folder / "data"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may spoil, without receipts."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in made.iterdir():
        if path.suffix in (".tar", ".parquet"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def read(folder: Path | str, **more: Any) -> Any:
    return read_all(folder, input_format="webdataset", **more)


def fetch(
    items: list[Item], media: str = "image", spool: Spool | None = None, **more: Any
) -> tuple[list[Fetched], dict[int, str]]:
    """The rows as the stored fetcher gives them, and what it said of shards."""
    failures: dict[int, str] = {}

    def fail(shard_id: int, error: Exception) -> None:
        assert isinstance(error, (InputError, OSError))
        failures[shard_id] = str(error)

    job = JobConfig.from_flat({"url_list": "x", "input_format": "webdataset", "media": media, **more})
    budget = Budget(rows=1000, size=job.fetch.max_buffered_bytes)
    fetcher = StoredFetcher(job.fetch, FetchContext(job=job, spool=spool, fail=fail, budget=budget))
    got = list(fetcher.fetch(each for item in items for each in (None, item)))
    fetcher.close()
    assert budget.used == sum(len(each.body or b"") + (each.file.size if each.file else 0) for each in got)
    return got, failures


def test_rows_are_those_of_the_parquet_files(made: Path) -> None:
    got = read(made)
    before = dataset.rows(made)
    assert [item.key for item in got.items] == sorted(before)
    assert len(got.items) == ROWS
    for item in got.items:
        row = before[item.key]
        assert item.url == row["url"]
        kept = {name for name in row if name not in ("url", "key", "status", "error_message")}
        assert {name: value for name, value in item.columns.items() if name in kept} == {
            name: row[name] for name in kept
        }
        assert (item.failure.code if item.failure else None) == row["error_code"]
        assert (item.failure.status if item.failure else "success") == row["status"]
        assert item.stored.facts.http_status == row["http_status"]
        assert item.stored.facts.final_url == row["final_url"]
    assert {n: item.failure.code for n, item in enumerate(got.items) if item.failure} == FAILED
    assert got.column("tags")[4] == ["a", "4"]


def test_each_tar_is_one_shard_whatever_its_size(made: Path) -> None:
    got = read(made, number_sample_per_shard=2)
    assert [(shard.id, shard.rows) for shard in got.shards] == [(0, 5), (1, 5), (2, 5), (3, 2)]
    assert [item.stored.last for item in got.items] == [n in (4, 9, 14, 16) for n in range(ROWS)]


def test_numbers_of_tars_are_kept(copy: Path) -> None:
    for name in ("00000", "00002"):
        (copy / f"{name}.tar").unlink()
        (copy / f"{name}.parquet").unlink()
    got = read(copy)
    assert [shard.id for shard in got.shards] == [1, 3]
    assert [item.shard_id for item in got.items] == [1] * 5 + [3] * 2


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["00000.tar", "00007.tar"], [0, 7]),
        (["100000.tar", "99999.tar"], [100000, 99999]),
        (["a/00001.tar", "b/00001.tar"], [0, 1]),
        (["00004.tar", "train-7.tar"], [0, 1]),
    ],
)
def test_numbers_of_tars(names: list[str], ids: list[int]) -> None:
    order, numbers = numbered([f"s3://bucket/{name}" for name in names])
    assert numbers == ids
    assert [numbers[place] for place in order] == sorted(ids)


def test_a_glob_and_a_single_tar(made: Path) -> None:
    assert [shard.id for shard in read(f"{made}/0000[13].tar").shards] == [1, 3]
    assert [shard.id for shard in read(made / "00002.tar").shards] == [2]


def test_another_store(made: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{made}/", "/again/data/", recursive=True)
    try:
        got = read("memory://again/data")
        assert [item.key for item in got.items] == [item.key for item in read(made).items]
        bodies, failures = fetch(got.items)
        assert failures == {}
        assert [each.body for each in bodies] == [each.body for each in fetch(read(made).items)[0]]
    finally:
        store.store.clear()


def test_done_shards_are_left_out_and_others_keep_their_ids(made: Path) -> None:
    plan = make_plan(config_of(made, input_format="webdataset"))
    assert [shard.id for shard in plan.shards(done={0, 2})] == [1, 3]
    assert [shard.id for shard in make_plan(config_of(made, input_format="webdataset"), first_shard=40).shards()] == [
        40,
        41,
        42,
        43,
    ]


def test_nothing_of_a_tar_is_read_to_plan_it(copy: Path) -> None:
    before = make_plan(config_of(copy, input_format="webdataset"))
    for path in copy.glob("*.tar"):
        size = path.stat().st_size
        path.write_bytes(b"")
        os.truncate(path, size)
    after = make_plan(config_of(copy, input_format="webdataset"))
    assert after == before
    assert after.rows == ROWS
    assert after.schema.names[-1] == "url"
    assert str(after.schema.field("tags").type).startswith("list<")


def test_what_makes_it_another_dataset(copy: Path, made: Path) -> None:
    def fingerprint(folder: Path, **more: Any) -> str:
        return make_plan(config_of(folder, input_format="webdataset", **more)).fingerprint

    assert fingerprint(copy) == fingerprint(made), "it may be moved"
    assert fingerprint(copy) == read(copy, rows_per_shard=3).plan.fingerprint, "and this option does not count"
    tars.rewrite(copy / "00001.parquet", lambda rows: rows[::-1])
    assert fingerprint(copy) != fingerprint(made)


def test_shards_can_be_read_in_any_order_and_again(made: Path) -> None:
    got = read(made)
    again = {shard.id: list(read_shard(got.plan, shard)) for shard in reversed(got.shards)}
    assert [item for number in sorted(again) for item in again[number]] == got.items


# tars without a parquet file


def alone(folder: Path) -> Path:
    for path in folder.glob("*.parquet"):
        path.unlink()
    return folder


def test_without_parquet_the_samples_are_the_rows(copy: Path, made: Path) -> None:
    got = read(alone(copy))
    before = {key: row for key, row in dataset.rows(made).items() if row["status"] == "success"}
    assert sorted(item.key for item in got.items) == sorted(before)
    assert [shard.rows for shard in got.shards] == [4, 4, 4, 2]
    for item in got.items:
        assert {name: item.columns[name] for name in ("n", "tags", "caption", "sha256", "width")} == {
            name: before[item.key][name] for name in ("n", "tags", "caption", "sha256", "width")
        }
        assert item.url == before[item.key]["url"]
        assert item.stored.facts.http_status == 200
    bodies, failures = fetch(got.items)
    assert failures == {}
    want = {each.item.key: each.body for each in fetch(read(made).items)[0] if each.body}
    assert {each.item.key: each.body for each in bodies} == want


def test_a_tar_of_somebody_else(tmp_path: Path) -> None:
    """Folders, hidden files, names that are long or not ASCII, a caption alone, and a JSON that is none."""
    long = "x" * 150
    files = [
        ("./.DS_Store", b"junk"),
        ("./0001.JPG", b"one"),
        ("./0001.txt", "schön".encode()),
        ("train/0002.seg.png", b"two"),
        ("train/0002.cls", b"7"),
        (f"{long}.jpg", b"three"),
        (f"{long}.json", b'{"width": 7, "key": "other"}'),
        ("größe.jpg", b"four"),
        ("größe.json", b"[1, 2]"),
        ("../../etc/evil.jpg", b"five"),
        ("README", b"no extension"),
    ]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tars.write_tar(tmp_path / str(form) / "train.tar", files, form)
        got = read(path)
        assert [item.key for item in got.items[:4]] == ["0001", "train/0002", long, "größe"]
        assert got.column("caption") == ["schön", None, None, None, None]
        assert got.column("width") == [None, None, 7, None, None]
        assert got.urls == [None] * 5
        assert got.problems[:3] == [None] * 3
        assert "json is not an object" in got.problems[3]
        assert "cannot be a file name" in got.problems[4]
        assert "/" not in got.items[4].key
        bodies, failures = fetch(got.items)
        assert [each.body for each in bodies] == [b"one", b"two", b"three", None, None]
        assert failures == {}


def test_folders_and_links_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("a.b")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("l.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        info = tarfile.TarInfo("k.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [item.key for item in read(path).items] == ["k"]


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "d/a.jpg", "d.e/a.b.c", ".hidden", "d/.x", "none", "././x.y"])
def test_names_are_split_as_webdataset_does(name: str) -> None:
    wds = pytest.importorskip("webdataset")
    key, extension = wds.tariterators.base_plus_ext(name)
    if key is None:
        got = split(name)
        assert not got[1] or not os.path.basename(got[0])
    else:
        assert split(name) == (key.removeprefix("./").removeprefix("./"), extension)


def test_an_empty_tar_and_one_where_all_failed(tmp_path: Path, copy: Path) -> None:
    tars.write_tar(copy / "00009.tar", [])
    failed = [row for row in pq.read_table(copy / "00000.parquet").to_pylist() if row["status"] != "success"]
    tars.write_tar(copy / "00010.tar", [])
    tars.write_rows(copy / "00010.parquet", failed, pq.read_schema(copy / "00000.parquet"))
    got = read(copy)
    assert [shard.id for shard in got.shards] == [0, 1, 2, 3, 10]
    rows, failures = fetch(got.items)
    assert rows[-1].failure is not None
    assert rows[-1].failure.code == "http_404"
    assert failures == {}


# what is torn or does not fit


def walk(path: Path) -> int:
    with open(path, "rb") as stream:
        return sum(1 for _ in Tar(str(path), stream).members())


def test_a_tar_cut_anywhere_is_seen(tmp_path: Path) -> None:
    whole = tars.write_tar(tmp_path / "w.tar", [f for n in range(3) for f in tars.sample(f"{n}", content=b"x" * 700)])
    content = whole.read_bytes()
    assert walk(whole) == 6
    end = content.rstrip(b"\0")
    assert len(end) > 4000
    torn = tmp_path / "t.tar"
    for cut in [0, 1, 511, 512, 700, 1024, 1536, 1700, *range(2048, len(end), 256)]:
        torn.write_bytes(content[:cut])
        with pytest.raises(InputError, match=rf"t\.tar: torn at byte {cut}\b"):
            walk(torn)


def test_a_header_that_is_damaged_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tars.write_tar(tmp_path / "w.tar", [f for n in range(3) for f in tars.sample(f"{n}", content=b"x" * 700)])
    content = bytearray(path.read_bytes())
    content[1536 + 3] ^= 0xFF
    path.write_bytes(content)
    with tarfile.open(path) as tar:
        assert len(tar.getnames()) < 6, "Python's own walks on as if nothing were wrong"
    with pytest.raises(InputError, match=r"w\.tar: torn at byte 1536: bad checksum"):
        walk(path)
    path.write_bytes(b"\x1f\x8b" + b"z" * 2000)
    with pytest.raises(InputError, match=r"w\.tar: not a tar"):
        walk(path)


def test_a_torn_tar_ends_its_shard_and_no_other(copy: Path) -> None:
    path = copy / "00001.tar"
    os.truncate(path, 20_000)
    got = read(copy)
    rows, failures = fetch(got.items)
    assert len(rows) == ROWS
    assert list(failures) == [1]
    assert str(path) in failures[1]
    assert "torn at byte 20000" in failures[1]
    assert all(each.body for each in rows if each.item.shard_id != 1 and each.item.failure is None)


def test_a_torn_tar_without_parquet(copy: Path) -> None:
    os.truncate(alone(copy) / "00001.tar", 20_000)
    with pytest.raises(ConfigError, match=r"00001\.tar: torn at byte 20000"):
        read(copy)


def test_a_tar_that_is_gone(copy: Path) -> None:
    got = read(copy)
    (copy / "00000.tar").unlink()
    rows, failures = fetch(got.items)
    assert list(failures) == [0]
    assert len(rows) == ROWS


def test_rows_in_another_order_than_the_samples(copy: Path, made: Path) -> None:
    want = {each.item.key: each.body for each in fetch(read(made).items)[0]}
    for path in copy.glob("*.parquet"):
        tars.rewrite(path, lambda rows: rows[::-1])
    got, failures = fetch(read(copy).items)
    assert failures == {}
    assert len(got) == ROWS
    assert {each.item.key: each.body for each in got} == want


def test_a_row_without_a_sample_fails_and_a_sample_without_a_row_ends_the_shard(copy: Path) -> None:
    files = tars.read_tar(copy / "00000.tar")
    tars.write_tar(copy / "00000.tar", [each for each in files if not each[0].startswith("000000.")])
    tars.rewrite(copy / "00001.parquet", lambda rows: rows[1:])
    got, failures = fetch(read(copy).items)
    rows = {each.item.key: each for each in got}
    assert rows["000000"].failure is not None
    assert (rows["000000"].failure.code, rows["000000"].failure.status) == ("not_found", "failed_to_download")
    assert "no sample of this key" in rows["000000"].failure.message
    assert rows["000001"].body
    assert rows["000002"].body
    assert list(failures) == [1]
    assert "1 sample(s), 000010 for one, have no row in the parquet file" in failures[1]


def test_rows_that_were_planned_and_are_gone(copy: Path) -> None:
    got = read(copy)
    tars.rewrite(copy / "00000.parquet", lambda rows: rows[1:])
    with pytest.raises(InputError, match=r"00000\.tar: 4 rows where 5 were planned"):
        list(read_shard(got.plan, got.shards[0]))
    (copy / "00000.parquet").unlink()
    with pytest.raises(InputError, match=r"00000\.parquet"):
        list(read_shard(got.plan, got.shards[0]))


def test_a_parquet_file_that_is_no_metadata(copy: Path) -> None:
    tars.write_rows(copy / "00002.parquet", [{"x": 1}])
    with pytest.raises(ConfigError, match=r"00002\.parquet has no column 'key'"):
        read(copy)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"caption_col": "texd"}, "caption_col: no column 'texd'"),
        ({"save_additional_columns": ("m",)}, "save_additional_columns: no column 'm'"),
        ({"url_col": "link"}, "url_col: no column 'link'"),
        ({"clip_col": "cutz"}, "clip_col: no column 'cutz'"),
    ],
)
@pytest.mark.parametrize("with_parquet", [True, False])
def test_a_missing_column_is_named(copy: Path, options: dict[str, Any], says: str, with_parquet: bool) -> None:
    if not with_parquet:
        alone(copy)
    with pytest.raises(ConfigError, match=says):
        read(copy, **options)


def test_a_folder_without_tars(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file matches .*\*\.tar"):
        read(tmp_path)


# columns


def test_a_column_under_another_name(copy: Path) -> None:
    got = read(copy, caption_col="n")
    assert got.column("caption") == [str(n) for n in range(ROWS)]
    assert got.plan.schema.field("caption").type == pa.string()


def test_a_stored_hash_can_be_verified_again(copy: Path) -> None:
    got = read(copy, verify_hash=("stored_hash", "sha256"))
    assert got.column("sha256") == got.column("stored_hash")


def test_tars_with_other_columns() -> None:
    a = pa.schema([("n", pa.int64()), ("x", pa.null()), ("d", pa.int32()), ("url", pa.string())])
    b = pa.schema(
        [("n", pa.float64()), ("x", pa.list_(pa.int64())), ("y", pa.bool_()), ("d", pa.int64()), ("url", pa.string())]
    )
    c = pa.schema([("n", pa.int64()), ("y", pa.string()), ("url", pa.string())])
    got = merged([a, b, c])
    assert [(field.name, str(field.type)) for field in got] == [
        ("n", "double"), ("x", "list<item: int64>"), ("d", "int64"), ("y", "string"), ("url", "string")
    ]  # fmt: skip
    assert merged([a, a]) is a


def test_a_value_of_another_type_costs_its_row(tmp_path: Path) -> None:
    files = [f for n in range(20) for f in tars.sample(f"{n:02d}", w=n if n < 19 else "wide")]
    got = read(tars.write_tar(tmp_path / "a.tar", files))
    assert got.column("w")[:19] == list(range(19))
    assert got.problems[19] == "column 'w': a value is no int64"


def test_failures_of_the_peer(tmp_path: Path) -> None:
    """img2dataset has no error_code."""
    messages = ["HTTP Error 403: Forbidden", "<urlopen error timed out>", "image decoding error", None]
    statuses = ["failed_to_download", "failed_to_download", "failed_to_resize", "success"]
    rows = [
        {"key": f"{n}", "url": f"http://a/{n}", "status": status, "error_message": message}
        for n, (status, message) in enumerate(zip(statuses, messages, strict=True))
    ]
    tars.write_tar(tmp_path / "00000.tar", tars.sample("3"))
    tars.write_rows(tmp_path / "00000.parquet", rows)
    got = read(tmp_path)
    assert [item.failure and item.failure.code for item in got.items] == [
        "http_403",
        "fetch_error",
        "media_error",
        None,
    ]
    assert [item.failure and item.failure.status for item in got.items] == [*statuses[:3], None]
    assert [item.failure and item.failure.message for item in got.items] == messages


# media as files


def media(tmp_path: Path, parts: dict[str, bytes], kind: str, **more: Any) -> tuple[Fetched, Spool]:
    path = tars.write_tar(tmp_path / "00000.tar", [(f"k.{name}", content) for name, content in parts.items()])
    spool = Spool(str(tmp_path / "spool"))
    item = Item(shard_id=0, index=0, key="k", url=None, stored=Stored(tar=str(path), last=True))
    rows, failures = fetch([item], kind, spool, **more)
    assert failures == {}
    return rows[0], spool


ALL = {"mp4": b"video", "m4a": b"sound", "en.vtt": b"WEBVTT", "srt": b"1", "npy": b"array", "json": b"{}", "txt": b"t"}


@pytest.mark.parametrize(
    ("kind", "parts", "main", "sound", "subtitles", "beside"),
    [
        ("video", ALL, b"video", b"sound", {"en": b"WEBVTT", "und": b"1"}, {"npy": b"array"}),
        ("audio", ALL, b"sound", None, {"en": b"WEBVTT", "und": b"1"}, {"npy": b"array"}),
        ("any", {"pdf": b"%PDF", "json": b"{}"}, b"%PDF", None, {}, {}),
        ("audio", {"mp4": b"video"}, b"video", None, {}, {}),
        ("video", {"jpg": b"picture"}, b"picture", None, {}, {}),
        ("video", {"m4a": b"sound"}, b"sound", None, {}, {}),
        ("video", {"jpg": b"cover", "cls": b"7", "mp4": b"video"}, b"video", None, {}, {"jpg": b"cover", "cls": b"7"}),
    ],
)
def test_parts_become_files(
    kind: str,
    parts: dict[str, bytes],
    main: bytes,
    sound: bytes | None,
    subtitles: dict[str, bytes],
    beside: dict[str, bytes],
    tmp_path: Path,
) -> None:
    got, spool = media(tmp_path, parts, kind)
    assert got.file is not None
    assert Path(got.file.path).read_bytes() == main
    assert (Path(got.file.sound).read_bytes() if got.file.sound else None) == sound
    assert {name: Path(path).read_bytes() for name, path in got.file.subtitles.items()} == subtitles
    assert {part.extension: Path(str(part.path)).read_bytes() for part in got.beside} == beside
    assert [part.size for part in got.beside] == [len(content) for content in beside.values()]
    folder = Path(got.file.path).parent
    assert got.file.size == got.facts.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert str(folder.parent) == spool.root
    spool.close()


@pytest.mark.parametrize(
    ("parts", "options", "code"),
    [
        ({"json": b"{}", "npy": b"x"}, {}, "not_found"),
        ({"mp4": b"", "json": b"{}"}, {}, "empty_body"),
        ({"mp4": b"x" * 600, "m4a": b"x" * 600, "json": b"{}"}, {"max_body_bytes": 1000}, "too_large"),
    ],
)
def test_a_sample_that_is_of_no_use(
    parts: dict[str, bytes], options: dict[str, Any], code: str, tmp_path: Path
) -> None:
    got, spool = media(tmp_path, parts, "video", **options)
    assert got.failure is not None
    assert got.failure.code == code
    assert os.listdir(spool.root) == [], "nothing is left of it"
    spool.close()


def test_a_large_part_is_never_in_memory(tmp_path: Path) -> None:
    size = 64 * 2**20
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar, open(os.devnull, "rb"):
        info = tarfile.TarInfo("k.mp4")
        info.size = size
        with open(tmp_path / "zeros", "wb") as file:
            file.truncate(size)
        with open(tmp_path / "zeros", "rb") as file:
            tar.addfile(info, file)
    spool = Spool(str(tmp_path / "spool"))
    item = Item(shard_id=0, index=0, key="k", url=None, stored=Stored(tar=str(path), last=True))
    tracemalloc.start()
    rows, failures = fetch([item], "video", spool)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert failures == {}
    assert rows[0].file is not None
    assert os.path.getsize(rows[0].file.path) == size
    assert most < 16 * 2**20
    spool.close()


def test_registry() -> None:
    assert registry.lookup("fetcher", "stored") is StoredFetcher


@pytest.mark.slow
def test_a_store_is_asked_for_a_tar_from_front_to_back(tmp_path: Path) -> None:
    """400 samples of 100 kB, 40 MB, the rows in another order: a request for each 8 MiB, and none twice."""
    rng = random.Random(1)
    keys = [f"{n:08d}" for n in rng.sample(range(400), 400)]
    content = rng.randbytes(100_000)
    path = tars.write_tar(
        tmp_path / "00005.tar", [f for key in keys for f in tars.sample(key, content=content + key.encode())]
    )
    tars.write_rows(tmp_path / "00005.parquet", [{"key": key, "status": "success", "url": key} for key in sorted(keys)])
    with s3_store("moto") as store:
        for each in (path, tmp_path / "00005.parquet"):
            store.fs.put(str(each), f"bucket/in/{each.name}")
        log = store.proxy.watch()
        got = read("s3://bucket/in")
        assert [request for request in log if request.key.endswith(".tar") and request.kind == "get"] == []
        assert [shard.id for shard in got.shards] == [5]
        log = store.proxy.watch()
        rows, failures = fetch(got.items)
        assert failures == {}
        assert sorted(each.body[-8:] for each in rows if each.body) == sorted(key.encode() for key in keys)
        gets = [request for request in log if request.kind == "get"]
        assert len(gets) <= path.stat().st_size // WALK_BLOCK + 2


# whole jobs


def again(source: Path, out: Path, **more: Any) -> Any:
    return download(
        **{
            "url_list": str(source),
            "input_format": "webdataset",
            "output_folder": str(out),
            "output_format": "webdataset",
            "image_size": 64,
            "processes_count": 1,
            "progress": "none",
            **more,
        }
    )


def test_a_dataset_made_smaller_without_a_request(made: Path, tmp_path: Path, server: NastyServer) -> None:
    server.clear()
    stats = again(made, tmp_path / "out")
    assert server.log() == []
    assert (stats.count, stats.successes) == (ROWS, ROWS - len(FAILED))
    before, after = dataset.rows(made), dataset.rows(tmp_path / "out")
    dataset.check_whole(tmp_path / "out")
    assert dataset.done(tmp_path / "out") == dataset.done(made)
    assert sorted(after) == sorted(before)
    for key, row in after.items():
        old = before[key]
        assert (row["status"], row["error_code"], row["error_message"]) == (
            old["status"],
            old["error_code"],
            old["error_message"],
        )
        for name in ("n", "tags", "caption", "url", "http_status", "final_url", "content_type"):
            assert row[name] == old[name], name
        if row["status"] == "success":
            assert max(row["width"], row["height"]) == 64
            assert row["sha256"] == old["stored_hash"], "the hash of what came: the stored image of before"
    for name in ("00000", "00003"):
        names = [file for file, _ in tars.read_tar(tmp_path / "out" / f"{name}.tar")]
        assert sorted(names) == sorted(file for file, _ in tars.read_tar(made / f"{name}.tar"))


def test_a_second_run_does_nothing_and_another_dataset_is_refused(made: Path, copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    again(made, out)
    assert again(made, out).count == 0
    (out / "00002_stats.json").unlink()
    assert again(made, out).count == 5
    tars.rewrite(copy / "00001.parquet", lambda rows: rows[::-1])
    with pytest.raises(ConfigError, match="another dataset"):
        again(copy, out)


def test_columns_of_the_earlier_dataset_that_this_one_does_not_make_are_kept(made: Path, tmp_path: Path) -> None:
    again(made, tmp_path / "out", compute_hash="md5", extract_exif=False)
    before, after = dataset.rows(made), dataset.rows(tmp_path / "out")
    for key, row in after.items():
        assert row["sha256"] == before[key]["sha256"]
        assert row["exif"] == before[key]["exif"]
        assert (row["md5"] is None) == (row["status"] != "success")


def test_a_torn_tar_fails_its_shard_only(copy: Path, tmp_path: Path) -> None:
    os.truncate(copy / "00001.tar", 20_000)
    with pytest.raises(
        Exception, match=r"1 shard\(s\) failed, the first is 1: InputError: .*00001.tar: torn at byte 20000"
    ):
        again(copy, tmp_path / "out")
    assert dataset.done(tmp_path / "out") == ["00000", "00002", "00003"]


def test_its_own_folder_is_refused(made: Path) -> None:
    with pytest.raises(ConfigError, match="has the name of a shard in output_folder"):
        again(made, made)


def test_sorting_by_host_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        again(made, tmp_path / "out", schedule="by_host")


@pytest.mark.parametrize("output_format", ["webdataset", "files"])
def test_labels_and_masks_beside_an_image_go_on(tmp_path: Path, output_format: str) -> None:
    """A dataset of somebody else's, with folders in its keys. A part of ours wins over one of the same name."""
    _, photo = picture(3)  # a PNG
    files = [
        *[
            ("./a/1.seg.png", b"mask"),
            ("./a/1.png", photo),
            ("./a/1.cls", b"7"),
            ("./a/1.jpg", b"other"),
            ("./a/1.mp4", b""),
        ],
        *[("./a/2.png", photo), ("./a/2.cls", b""), ("./a/2.json", b'{"x": 1}')],
        *[("./a/3.cls", b"8"), ("./a/3.mp4", b"no picture")],
    ]
    again(tars.write_tar(tmp_path / "some.tar", files), tmp_path / "out", output_format=output_format)
    if output_format == "files":
        folder = tmp_path / "out" / "00000"
        got = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    else:
        got = dict(tars.read_tar(tmp_path / "out" / "00000.tar"))
    assert sorted(got) == ["a/1.cls", "a/1.jpg", "a/1.json", "a/1.seg.png", "a/2.cls", "a/2.jpg", "a/2.json"]
    assert (got["a/1.cls"], got["a/1.seg.png"], got["a/2.cls"]) == (b"7", b"mask", b"")
    assert got["a/1.jpg"].startswith(b"\xff\xd8")
    assert json.loads(got["a/2.json"])["x"] == 1
    rows = dataset.rows(tmp_path / "out")
    assert {key: row["error_code"] for key, row in rows.items()} == {"a/1": None, "a/2": None, "a/3": "not_found"}
    assert rows["a/3"]["error_message"] == "no image in the sample: it has cls, mp4"


def test_extending_by_a_dataset(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    again(made, out)
    again(made / "00001.tar", out, incremental_mode="extend")
    assert dataset.done(out) == ["00000", "00001", "00002", "00003", "00005"]
    assert json.loads((out / "00005_stats.json").read_text())["count"] == 5
