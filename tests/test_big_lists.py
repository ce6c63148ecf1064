"""Lists of many files and many rows: what the driver holds, what it reads, and where a run that goes on begins."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import counted, dataset
from support.lists import config_of, read_shard, spool_of

from img2dataset_dist import InputError, download, inputs, job, span_log, storage
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import ConfigError, ResumeRefused
from img2dataset_dist.inputs import InputFile
from img2dataset_dist.model import Source
from img2dataset_dist.plan import Plan, make_plan
from img2dataset_dist.readers import Span, json_text, parquet
from img2dataset_dist.readers.parquet import ParquetReader
from img2dataset_dist.reports.console import ConsoleReport

TESTS = Path(__file__).resolve().parent
KINDS = ["txt", "csv", "jsonl", "json", "csv.gz", "jsonl.gz", "json.gz", "columns"]
ROWS = 4000
SIZE = 50


@pytest.fixture
def requests() -> Iterator[Any]:
    counted.REQUESTS.clear()
    yield counted.REQUESTS
    counted.REQUESTS.clear()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments, reads and files that count whole are as small against these lists as the real ones against real lists."""
    monkeypatch.setattr(span_log, "SEGMENT_BYTES", 20_000)
    monkeypatch.setattr(inputs, "WALK_BLOCK", 2**13)
    monkeypatch.setattr(json_text, "CHUNK", 2**13)
    monkeypatch.setattr(inputs, "BLOCK", 2**13)
    monkeypatch.setattr(inputs, "WHOLE_HASH", 1000)
    monkeypatch.setattr(inputs, "SAMPLE_BYTES", 100)


def urls(rows: int = ROWS) -> list[str]:
    return [f"http://a.example/{n:06d}/" + "x" * 60 for n in range(rows)]


def write(folder: Path, kind: str, rows: int = ROWS) -> Path:
    """A list with some quoted line breaks where the format has such a thing."""
    data = [{"url": url, "text": f'a "b",\nc {n}' if n % 7 == 0 else f"text {n}"} for n, url in enumerate(urls(rows))]
    csv = "url,text\n" + "".join(
        '{url},"{text}"\n'.format(url=r["url"], text=r["text"].replace('"', '""')) for r in data
    )
    content = {
        "txt": "".join(f"{row['url']}\n" for row in data),
        "csv": csv,
        "jsonl": "".join(json.dumps(row) + "\n" for row in data),
        "json": json.dumps(data),
        "columns": json.dumps({name: [row[name] for row in data] for name in ("url", "text")}),
    }[kind.removesuffix(".gz")].encode()
    path = folder / f"l.{kind.replace('columns', 'json')}"
    path.write_bytes(gzip.compress(content, 1) if kind.endswith(".gz") else content)
    return path


def parquet_files(folder: Path, files: int, rows: int = 20) -> Path:
    folder.mkdir(parents=True)
    for n in range(files):
        table = pa.table({"url": [f"http://{n}.example/{row}" for row in range(rows)], "text": ["t"] * rows})
        pq.write_table(table, folder / f"{n:05d}.parquet")
    return folder


def contents(plan: Plan, spool: storage.Folder, done: set[int]) -> dict[int, list[Any]]:
    """The rows of every shard that is not done."""
    return {
        shard.id: [(item.key, item.url, item.failure) for item in read_shard(plan, shard)]
        for shard in plan.shards(spool, done)
    }


# what a plan reads


@pytest.mark.parametrize("small", [True, False])
def test_parquet_is_planned_with_one_listing_and_one_read_a_file(
    small: bool, requests: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parquet_files(tmp_path / "in", 40, 2000)
    if not small:
        monkeypatch.setattr(inputs, "WHOLE_HASH", 100)
    plan = make_plan(config_of(f"counted://{folder}", 1000, input_format="parquet"))
    assert len(list(plan.shards())) == plan.rows / 1000 == 80
    assert not plan.is_empty()
    assert requests["get"] == 40
    assert requests["ls"] == requests["info"] == 1
    assert max(count for name, count in requests.items() if name.endswith(".parquet")) == 1


def test_footer_longer_than_the_first_read_costs_a_second_one(
    requests: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "WHOLE_HASH", 100)
    monkeypatch.setattr(parquet, "TAIL_BYTES", 256)
    folder = parquet_files(tmp_path / "in", 2)
    plan = make_plan(config_of(f"counted://{folder}", 10, input_format="parquet"))
    assert (requests["get"], plan.rows) == (4, 40)
    size = min(path.stat().st_size for path in folder.iterdir())
    assert requests["bytes"] < 2 * size


def test_file_without_a_footer_is_refused_before_it_is_read(
    requests: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "WHOLE_HASH", 100)
    (tmp_path / "l.parquet").write_bytes(b"PAR1" + b"\xff" * 10**6)
    with pytest.raises(ConfigError, match=r"l\.parquet is not a readable parquet file"):
        make_plan(config_of(f"counted://{tmp_path}/l.parquet", 10))
    assert requests["bytes"] <= parquet.TAIL_BYTES


def test_text_file_is_planned_with_few_reads(requests: Any, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, "csv").rename(tmp_path / f"{name}.csv")
    make_plan(config_of(f"counted://{tmp_path}", SIZE, input_format="csv"))
    assert requests["get"] == 3, "whole files are read once, for their head and their digest"


@pytest.mark.usefixtures("small_steps")
def test_a_shard_of_a_text_list_is_read_in_one_request(requests: Any, tmp_path: Path) -> None:
    """And not with the 50 MB that s3fs reads ahead."""
    path = write(tmp_path, "csv")
    plan = make_plan(config_of(f"counted://{path}", SIZE))
    shard = list(plan.shards())[30]
    requests.clear()
    assert sum(1 for _ in read_shard(plan, shard)) == SIZE
    begin, end = shard.byte_range or (0, 0)
    assert requests == {"get": 1, "l.csv": 1, "bytes": end - begin}


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "json", "csv.gz"])
def test_first_shard_comes_before_the_list_was_read(kind: str, requests: Any, tmp_path: Path) -> None:
    path = write(tmp_path, kind, 20_000)
    config = config_of(f"counted://{path}", SIZE)
    plan = make_plan(config)
    requests.clear()
    next(plan.shards(storage.Folder.at(str(tmp_path / "spool"))))
    assert requests["bytes"] < max(path.stat().st_size / 10, 40_000)


# identity


@pytest.mark.parametrize("change", ["row groups", "values", "date"])
def test_large_parquet_file_is_known_by_its_footer_and_date(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "WHOLE_HASH", 100)
    path = tmp_path / "l.parquet"

    def fingerprint(first: str = "http://a", group: int = 100, date: int = 1) -> str:
        pq.write_table(pa.table({"url": [first] + ["http://b"] * 99}), path, row_group_size=group)
        os.utime(path, (date, date))
        return make_plan(config_of(path)).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    assert {
        "row groups": lambda: fingerprint(group=50),
        "values": lambda: fingerprint(first="http://c"),
        "date": lambda: fingerprint(date=2),
    }[change]() != before


def test_identity_of_very_many_files_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LISTED_FILES", 3)
    folder = parquet_files(tmp_path / "in", 5)
    plan = make_plan(config_of(folder, input_format="parquet"))
    assert plan.identity["url_list"].keys() == {"files", "size", "sha256"}
    (folder / "00004.parquet").unlink()
    other = make_plan(config_of(folder, input_format="parquet"))
    assert other.fingerprint != plan.fingerprint


@pytest.mark.parametrize("most", [1, 1000])
def test_changed_list_of_many_files_is_refused_in_words(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "LISTED_FILES", most)
    folder = parquet_files(tmp_path / "in", 3)
    run(folder, tmp_path, input_format="parquet")
    pq.write_table(pa.table({"url": ["http://new.example"], "text": [""]}), folder / "00001.parquet")
    with pytest.raises(ResumeRefused, match="url_list has other content"):
        run(folder, tmp_path, input_format="parquet")
    (folder / "00001.parquet").unlink()
    with pytest.raises(ResumeRefused, match=r"url_list had 3 file\(s\) and has 2"):
        run(folder, tmp_path, input_format="parquet")


def test_what_is_read_for_the_fingerprint_is_bounded_over_all_files() -> None:
    few, many = (InputFile(path="x", size=2 * 2**20, among=among) for among in (10, 10_000))
    assert few.whole
    assert not many.whole
    assert InputFile(path="x", size=10_000, among=10_000).whole


# parquet on the workers


def test_footer_is_parsed_once_for_the_shards_of_a_file_and_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    pq.write_table(pa.table({"url": urls(100)}), path, row_group_size=7)
    plan = make_plan(config_of(path, 10))
    shards = list(plan.shards())
    feet = []
    for shard in shards:
        assert [item.url for item in read_shard(plan, shard)] == urls(100)[shard.start : shard.start + 10]
        feet.append(parquet._LAST[0])
    assert all(foot is feet[0] for foot in feet)
    pq.write_table(pa.table({"url": urls(30)}), path, row_group_size=7)
    assert [item.url for item in read_shard(plan, shards[0])] == urls(10)
    with pytest.raises(InputError, match="the file changed"):
        list(read_shard(plan, shards[5]))


def test_row_numbers_beyond_two_to_the_32(tmp_path: Path) -> None:
    reader = ParquetReader(InputConfig(url_list="x", input_format="parquet", number_sample_per_shard=10_000))
    source = Source(path="x", format="parquet", rows=5 * 10**9 + 1)
    after = Span(5 * 10**9 - 10_000, 10_000, None)
    assert list(reader.spans(source, after)) == [Span(5 * 10**9, 1, None)]


# going on


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_finds_the_same_shards(kind: str, tmp_path: Path) -> None:
    config = config_of(write(tmp_path, kind), SIZE, caption_col=None if kind == "txt" else "text")
    plan = make_plan(config)
    alone = contents(plan, storage.Folder.at(str(tmp_path / "alone")), set())
    spool = spool_of(config)
    walked = plan.shards(spool)
    for _ in range(60):
        next(walked)
    walked.close()
    for done in (set(range(40)), set(range(50)) - {3, 33}, set(range(58)), set(), set(range(80)), set(range(79))):
        got = contents(make_plan(config), spool, done)
        assert got == {number: rows for number, rows in alone.items() if number not in done}


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "json"])
def test_a_run_that_goes_on_enters_the_list_late(kind: str, requests: Any, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    plan = make_plan(config_of(f"counted://{path}", SIZE))
    spool = storage.Folder.at(str(tmp_path / "spool"))
    done = {shard.id for shard in plan.shards(spool)} - {77, 78, 79}
    if kind == "json":
        spool.remove(next(name for name in spool.names() if name.endswith("-77.jsonl")))
    requests.clear()
    assert [shard.id for shard in plan.shards(spool, done)] == [77, 78, 79]
    assert requests["bytes"] < path.stat().st_size / 4


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", ["json", "csv.gz", "json.gz"])
def test_slices_of_an_earlier_run_are_used_without_reading_the_list(kind: str, requests: Any, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    plan = make_plan(config_of(f"counted://{path}", SIZE))
    spool = storage.Folder.at(str(tmp_path / "spool"))
    walked = plan.shards(spool)
    for _ in range(70):
        next(walked)
    walked.close()
    known = max(found.number for found in span_log.SpanLog(spool, plan.fingerprint).behind(0))
    requests.clear()
    done = set(range(known - 3))
    again = plan.shards(spool, done)
    assert [next(again).id for _ in range(4)] == [known - 3, known - 2, known - 1, known]
    assert requests["get"] == 0
    slices = [name for name in spool.names() if name.endswith((".csv", ".jsonl"))]
    assert len(slices) == 70 - len(done), "those of shards that are done are gone"


KILLED = """
import os, signal, sys
from support.lists import config_of, spool_of
from img2dataset_dist import inputs, span_log
from img2dataset_dist.plan import make_plan
span_log.SEGMENT_BYTES = 20_000
inputs.WHOLE_HASH = 1000
config = config_of(sys.argv[1], int(sys.argv[2]))
for shard in make_plan(config).shards(spool_of(config)):
    print(shard.id, flush=True)
    if shard.id == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.crash
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", ["csv", "json", "csv.gz", "json.gz"])
def test_kill_during_the_conversion(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    config = config_of(path, SIZE)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, path, str(SIZE), "61"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(died.stdout.split()) == 62
    plan, spool = make_plan(config), spool_of(config)
    alone = contents(plan, storage.Folder.at(str(tmp_path / "alone")), set())
    done = set(range(45)) - {12}
    assert contents(plan, spool, done) == {n: rows for n, rows in alone.items() if n not in done}


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("damage", ["torn", "nonsense", "gone"])
def test_damaged_segment_costs_time_and_nothing_else(damage: str, tmp_path: Path) -> None:
    config = config_of(write(tmp_path, "csv"), SIZE)
    plan, spool = make_plan(config), spool_of(config)
    alone = contents(plan, storage.Folder.at(str(tmp_path / "alone")), set())
    for _ in plan.shards(spool):
        pass
    segments = sorted(name for name in spool.files_below() if "spans-" in name)
    assert len(segments) > 5
    path = Path(spool.full(segments[3]))
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40] if damage == "torn" else b'[["x", 1]]')
    first = int(path.stem)
    for done in (set(), set(range(first - 2)), set(range(first + 1)), set(range(first + 30))):
        assert contents(plan, spool, done) == {n: rows for n, rows in alone.items() if n not in done}


@pytest.mark.usefixtures("small_steps")
def test_two_drivers_write_the_same_segments(tmp_path: Path) -> None:
    config = config_of(write(tmp_path, "csv"), SIZE)
    plan = make_plan(config)
    folders = [storage.Folder.at(str(tmp_path / name)) for name in ("whole", "stopped")]
    for _ in plan.shards(folders[0]):
        pass
    walked = plan.shards(folders[1])
    for _ in range(37):
        next(walked)
    walked.close()
    for _ in plan.shards(folders[1], set(range(30))):
        pass
    one, other = ({n: folder.read(n) for n in folder.files_below()} for folder in folders)
    assert one == other


def test_lists_of_one_folder_do_not_take_each_others_slices(tmp_path: Path) -> None:
    spool = storage.Folder.at(str(tmp_path / "spool"))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "l.jsonl.gz").write_bytes(gzip.compress(b'{"url": "http://%s"}\n' % name.encode() * 9))
        plan = make_plan(config_of(tmp_path / name / "l.jsonl.gz", 3))
        rows = contents(plan, spool, set())
        assert {url for shard in rows.values() for _, url, _ in shard} == {f"http://{name}"}


# the driver over a whole job


def run(path: Path, tmp_path: Path, **more: Any) -> Any:
    options = {
        "number_sample_per_shard": SIZE, "distributor": "support.plugins:InstantEngine", "output_format": "dummy",
        "progress": "none", "output_folder": str(tmp_path / "out"),
    }  # fmt: skip
    return download(str(path), **(options | more))


@pytest.mark.parametrize("kind", ["json", "csv.gz"])
def test_slices_do_not_run_ahead_of_the_workers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOL_WATCH", str(tmp_path / "most"))
    path = write(tmp_path, kind)
    run(path, tmp_path, input_format=kind, distributor="support.plugins:WatchingEngine")
    assert int((tmp_path / "most").read_text()) == 3, "as many as the engine has pulled and not finished"
    assert dataset.leftovers(tmp_path / "out") == []


def test_rows_of_a_long_text_list_are_estimated_from_its_first_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "COUNTED_BYTES", 1000)
    told: list[int] = []
    monkeypatch.setattr(ConsoleReport, "total", lambda _, rows: told.append(rows))
    run(write(tmp_path, "csv", 3950), tmp_path, input_format="csv")
    assert len(told) == 2
    assert abs(told[0] - 3950) <= 100
    assert told[0] % 100 == 0
    assert told[1] == 3950


MEMORY = """
import sys
from img2dataset_dist import ShardsFailed, download

def peak():
    status = open("/proc/self/status").read()  # getrusage would count what the parent had before it ran this
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

def run(path, out):
    try:
        return download(path, input_format="parquet", output_folder=out, number_sample_per_shard=100,
            distributor="support.plugins:InstantEngine", output_format="dummy", progress="none").count
    except ShardsFailed as error:
        return 100 * len(error.failures)

small, large, out = sys.argv[1:]
run(small, out + "/small")
before = peak()
print(run(large, out + "/large"), peak() - before)
"""


def grown(small: Path, large: Path, tmp_path: Path, **environment: str) -> tuple[int, int]:
    """Rows of the large list, and bytes that its job's driver needed beyond that of the small one."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, small, large, tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    rows, size = map(int, done.stdout.split())
    return rows, size


def rows_of(path: Path, rows: int) -> Path:
    table = pa.table({"url": ["http://a.example/1"] * 10**5})
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(rows // 10**5):
            writer.write_table(table)
    return path


@pytest.mark.slow
def test_driver_memory_does_not_grow_with_rows_and_shards(tmp_path: Path) -> None:
    small, large = rows_of(tmp_path / "small.parquet", 10**5), rows_of(tmp_path / "large.parquet", 10**7)
    rows, more = grown(small, large, tmp_path)
    assert rows == 10**7, "100,000 shards"
    assert more < 15e6


@pytest.mark.slow
def test_driver_memory_when_every_shard_fails(tmp_path: Path) -> None:
    """What is kept of a failed shard is its place and one line; the story was told when it happened."""
    small, large = rows_of(tmp_path / "small.parquet", 10**5), rows_of(tmp_path / "large.parquet", 4 * 10**6)
    rows, more = grown(small, large, tmp_path, FAIL="1")
    assert rows == 4 * 10**6
    assert more < 40e6


@pytest.mark.slow
def test_driver_memory_hardly_grows_with_files(tmp_path: Path) -> None:
    """Footers are read and forgotten; what stays of a file is its name, size and rows."""
    small = parquet_files(tmp_path / "small", 10, 100)
    large = parquet_files(tmp_path / "large", 2000, 100)
    rows, more = grown(small, large, tmp_path)
    assert rows == 200_000
    assert more < 25e6
