"""From a URL list to a plan: which files, what identifies them, and what a summary says."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.lists import config_of, read_all, spool_of
from support.photos import url_list

from img2dataset_dist import inputs
from img2dataset_dist import plan as plans
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.inputs import input_files
from img2dataset_dist.plan import PlanSummary, make_plan, summarise


def lists(folder: Path, **files: list[str]) -> Path:
    """Text lists by name."""
    for name, rows in files.items():
        url_list(folder / f"{name}.txt", rows)
    return folder


def fingerprint(path: Path | str, **options: Any) -> str:
    return make_plan(config_of(path, **options)).fingerprint


# fingerprints


def test_fingerprint_is_that_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one, other = (lists(tmp_path / name, a=["http://a"], b=["http://b"]) for name in ("one", "other"))
    (other / "b.txt").rename(other / "bb.txt")
    os.utime(other / "a.txt", (1, 1))
    assert fingerprint(one, input_format="txt") == fingerprint(f"{other}/*.txt", input_format="txt")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: lists(folder, a=["http://A"]),
        lambda folder: lists(folder, a=["http://a", "http://a"]),
        lambda folder: lists(folder, c=["http://c"]),
        lambda folder: (folder / "b.txt").unlink(),
        lambda folder: (folder / "a.txt").rename(folder / "z.txt"),
        lambda folder: lists(folder, a=["http://b"], b=["http://a"]),
        lambda folder: (folder / "a.txt").write_text("http://a"),
    ],
    ids=[
        "a letter",
        "a row more",
        "a file more",
        "a file less",
        "the order of files",
        "contents swapped",
        "a byte less",
    ],
)
def test_fingerprint_changes_with_the_list(change: Callable[[Path], object], tmp_path: Path) -> None:
    lists(tmp_path, a=["http://a"], b=["http://b"])
    before = fingerprint(tmp_path, input_format="txt")
    change(tmp_path)
    assert fingerprint(tmp_path, input_format="txt") != before


@pytest.mark.parametrize(
    ("option", "value", "same"),
    [
        ("number_sample_per_shard", 11, False),
        ("oom_shard_count", 6, False),
        ("url_col", "link", False),
        ("caption_col", "text", True),
        ("save_additional_columns", ("text",), True),
        ("infer_types", False, True),
    ],
)
def test_fingerprint_changes_with_what_decides_rows_and_names(
    option: str, value: Any, same: bool, tmp_path: Path
) -> None:
    path = url_list(tmp_path / "l.csv", ["http://a"], {"text": ["x"], "link": ["http://b"]})
    assert (fingerprint(path) == fingerprint(path, **{option: value})) is same


def test_fingerprint_changes_with_the_format(tmp_path: Path) -> None:
    path = url_list(tmp_path / "l.csv", ["http://a"])
    assert fingerprint(path, input_format="tsv") != fingerprint(path)


@pytest.fixture
def small_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files above 1000 bytes count as large."""
    monkeypatch.setattr(inputs, "WHOLE_HASH", 1000)
    monkeypatch.setattr(inputs, "SAMPLE_BYTES", 100)


@pytest.mark.usefixtures("small_hash")
@pytest.mark.parametrize("where", [0, 5_000, 9_999])
def test_fingerprint_of_a_large_list_samples_head_middle_and_tail(where: int, tmp_path: Path) -> None:
    content = bytearray(b"http://a/12345\n" * 2000)
    path = tmp_path / "l.txt"
    path.write_bytes(content)
    os.utime(path, (1, 1))
    before = fingerprint(path)
    sampled = (len(content) - 100) * round(15 * where / 10_000) // 15
    content[sampled] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))
    assert fingerprint(path) != before
    content[sampled] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))
    assert fingerprint(path) == before


@pytest.mark.usefixtures("small_hash")
def test_fingerprint_of_a_large_list_changes_with_its_date(tmp_path: Path) -> None:
    """What lies between the samples is not read."""
    path = Path(url_list(tmp_path / "l.txt", ["http://a/12345"] * 2000))
    before = fingerprint(path)
    os.utime(path, (1, 1))
    assert fingerprint(path) != before


# which files


def names(folder: Path | str, kind: str = "txt") -> list[str]:
    config = InputConfig(url_list=str(folder), input_format=kind)
    return [file.path.rpartition("/")[2] for file in input_files(config)]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of many kinds of files."""
    folder = tmp_path / "mixed"
    for name in ("b.txt", "a.txt", "A.txt", "10.txt", "9.txt", "c.txt.gz", "d.csv", "txt", "e.txt.bak", "sub/f.txt"):
        url_list(folder / "x.txt", ["http://a"])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "x.txt").rename(folder / name)
    (folder / "folder.txt").mkdir()
    (folder / "link.txt").symlink_to(folder / "a.txt")
    return folder


def test_folder_stands_for_its_files_of_the_format_sorted_by_name(mixed: Path) -> None:
    want = ["10.txt", "9.txt", "A.txt", "a.txt", "b.txt", "link.txt"]
    assert names(mixed) == names(f"{mixed}/") == want
    assert names(mixed, "txt.gz") == ["c.txt.gz"]
    assert [os.path.isabs(file.path) for file in input_files(config_of(mixed, input_format="txt"))] == [True] * len(
        want
    )


def test_glob_file_and_relative_path(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mixed)
    assert names("*.t*") == ["10.txt", "9.txt", "A.txt", "a.txt", "b.txt", "c.txt.gz", "e.txt.bak", "link.txt"]
    assert names("[ab].txt") == ["a.txt", "b.txt"]
    assert names("**/f.txt") == ["f.txt"]
    assert names("a.txt") == ["a.txt"]
    assert names("d.csv") == ["d.csv"]
    assert names(".") == names(mixed)
    assert names(f"file://{mixed}/a.txt") == ["a.txt"]


def test_file_and_folder_whose_names_look_like_globs(tmp_path: Path) -> None:
    path = tmp_path / "run[1]" / "urls[2]*.txt"
    url_list(path, ["http://a"])
    assert read_all(path, input_format="txt").urls == read_all(path.parent, input_format="txt").urls == ["http://a"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nothing.txt", "txt", "there is no file or folder .*nothing.txt"),
        ("no*.txt", "txt", r"there is no file or folder .*no\*.txt"),
        (".", "jsonl", r"no file matches .*/\*.jsonl; is input_format='jsonl' right"),
        ("a.txt/x", "txt", "there is no file or folder"),
    ],
)
def test_nothing_to_read(mixed: Path, name: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^url_list: {message}"):
        names(mixed / name, kind)


@pytest.mark.parametrize("url", ["nonsense://bucket/l.txt", "memory://nothing/here.txt"])
def test_store_without_the_list(url: str) -> None:
    with pytest.raises(ConfigError, match=f"^url_list: .*{url}|^url_list: .*nonsense"):
        names(url)


def test_files_on_another_store_keep_their_protocol() -> None:
    store = fsspec.filesystem("memory")
    store.store.clear()
    for name in ("b.txt", "a.txt", "c.csv", "sub/d.txt"):
        store.pipe_file(f"/lists/{name}", b"http://a\n")
    for url in ("memory://lists", "memory://lists/", "memory://lists/*.txt"):
        found = [file.path for file in input_files(config_of(url, input_format="txt"))]
        assert found == ["memory:///lists/a.txt", "memory:///lists/b.txt"]
    store.store.clear()


# plans


@pytest.mark.parametrize(
    ("files", "empty"),
    [
        ({"a": []}, True),
        ({"a": [""], "b": ["", " "]}, True),
        ({"a": [], "b": ["", "http://a"]}, False),
        ({"a": ["http://a"]}, False),
    ],
)
def test_is_empty(files: dict[str, list[str]], empty: bool, tmp_path: Path) -> None:
    assert make_plan(config_of(lists(tmp_path, **files), input_format="txt")).is_empty() is empty


def test_plan_is_made_without_walking_the_list(tmp_path: Path) -> None:
    """A broken end is found when the shards are, so that starting takes no longer with a longer list."""
    path = tmp_path / "l.jsonl"
    path.write_text('{"url": "http://a"}\n' * 5000)
    plan = make_plan(config_of(path, 1000))
    path.write_text("")
    assert list(plan.shards()) == []


def test_plan_is_picklable(tmp_path: Path) -> None:
    plan = make_plan(config_of(url_list(tmp_path / "l.csv", ["http://a"], {"n": [1]}), save_additional_columns=("n",)))
    assert pickle.loads(pickle.dumps(plan)) == plan


# summaries


def summary_of(path: Path, rows_per_shard: int = 2, top: int = 20, **more: Any) -> PlanSummary:
    config = config_of(path, rows_per_shard, **more)
    return summarise(make_plan(config), spool_of(config), top)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "json"])
def test_summary(kind: str, tmp_path: Path) -> None:
    urls = ["http://a.example/1", "HTTPS://A.example:443/2#x", "http://b.example", "ftp://c.example", "nonsense", None]
    path = Path(url_list(tmp_path / "in" / f"one.{kind}", urls))
    url_list(tmp_path / "in" / f"two.{kind}", ["http://b.example/x", "http://a.example/y", "http://c.example/z"])
    got = summary_of(path.parent, input_format=kind)
    assert got == PlanSummary(
        files=2,
        shards=5,
        rows=9,
        host_count=3,
        hosts={"a.example": 3, "b.example": 2, "c.example": 1},
        malformed={
            "URL scheme is not http or https": 1,
            "URL has no scheme (http:// or https://)": 1,
            "missing URL": 1,
        },
    )
    assert list(got.hosts) == ["a.example", "b.example", "c.example"]
    assert spool_of(config_of(path.parent, input_format=kind)).names() == [], "slices are removed"


def test_summary_counts_rows_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"url": "http://a"}\nnonsense\n[]\nmore nonsense\n')
    got = summary_of(tmp_path / "l.jsonl")
    assert got.malformed == {"line is not valid JSON": 2, "line is not a JSON object": 1}
    assert (got.rows, got.hosts) == (4, {"a": 1})


def test_summary_lists_the_largest_hosts_and_counts_all(tmp_path: Path) -> None:
    urls = [f"http://h{n}.example/{copy}" for n in range(10) for copy in range(n + 1)]
    got = summary_of(Path(url_list(tmp_path / "l.txt", urls)), top=2)
    assert got.hosts == {"h9.example": 10, "h8.example": 9}
    assert got.host_count == 10


def test_summary_forgets_rare_hosts_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MAX_HOSTS", 10)
    urls = ["http://often.example/"] * 3 + [f"http://h{n}.example/" for n in range(50)]
    got = summary_of(Path(url_list(tmp_path / "l.txt", urls)))
    assert got.host_count <= 12
    assert got.hosts["often.example"] == 3


MEMORY_PROGRAM = """
import sys
from img2dataset_dist.config import InputConfig
from img2dataset_dist.plan import make_plan

def rows(path):
    plan = make_plan(InputConfig(url_list=path, input_format=path.rpartition(".")[2]))
    return sum(shard.rows for shard in plan.shards())

def peak():
    status = open("/proc/self/status").read()  # getrusage would count what the parent had before it ran this
    return int(status.partition("VmHWM:")[2].split()[0])

rows(sys.argv[1])
before = peak()
count = rows(sys.argv[2])
print(count, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "megabytes"), [("txt", 200), ("csv", 50), ("json", 50)])
def test_memory_does_not_grow_with_the_list(kind: str, megabytes: int, tmp_path: Path) -> None:
    row = "http://a.example/" + "x" * 182
    block = {"txt": f"{row}\n", "csv": f"{row}\n", "json": json.dumps({"url": row}) + ",\n"}[kind] * 5000
    head, tail = {"txt": ("", ""), "csv": ("url\n", ""), "json": ("[", "{}]")}[kind]
    paths = []
    for name, blocks in [("small", 1), ("large", megabytes)]:
        paths.append(tmp_path / f"{name}.{kind}")
        with open(paths[-1], "w") as file:
            file.writelines([head, *(block for _ in range(blocks)), tail])
    done = subprocess.run([sys.executable, "-c", MEMORY_PROGRAM, *paths], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == megabytes * 5000 + (kind == "json")
    assert paths[1].stat().st_size >= megabytes * 10**6
    assert grown * 1024 < 50e6
