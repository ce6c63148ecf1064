"""`schedule="by_host"`: every host in one lane, every row once, the same lanes again, and the same dataset."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import crash, dataset
from support.lists import config_of, read_all, read_shard, spool_of
from support.photos import url_list
from support.server import HOSTS, NastyServer
from test_crash import start, wait_for

from img2dataset_dist import ConfigError, ResumeRefused, download, registry, schedule, storage, urls
from img2dataset_dist.errors import BadUrl, InputError
from img2dataset_dist.model import Item, Shard
from img2dataset_dist.plan import Plan, make_plan, summarise

KINDS = ["txt", "csv", "tsv", "jsonl", "json", "parquet", "txt.gz", "jsonl.gz"]
GIANT = "giant.example.com"


def some_urls(rows: int, hosts: int = 40, giant: float = 0.3, seed: int = 1) -> list[str | None]:
    """A list as lists are: a giant, many small hosts, and things that are no URLs."""
    dice = random.Random(seed)
    found: list[str | None] = []
    for n in range(rows):
        host = GIANT if dice.random() < giant else f"h{int(dice.triangular(0, hosts, 0))}.example.org"
        found.append(f"https://{host}/{n},'ü.jpg?q={n}" if n % 17 else f"no url, {n}")
    return found


def planned(path: Path, rows_per_shard: int = 10, lanes: int = 4, **more: Any) -> Plan:
    return make_plan(config_of(path, rows_per_shard, schedule="by_host", lanes=lanes, **more))


def shards_of(plan: Plan) -> list[Shard]:
    return list(plan.shards(spool_of(plan.config)))


def host_of(item: Item) -> str | None:
    try:
        return None if item.failure else urls.parse(item.url).host
    except BadUrl:
        return None


def lanes_of_hosts(plan: Plan, shards: list[Shard]) -> dict[str | None, set[int | None]]:
    lanes = defaultdict(set)
    for shard in shards:
        for item in read_shard(plan, shard):
            lanes[host_of(item)].add(shard.lane)
    return lanes


def table(path: Path, kind: str, rows: int) -> dict[str, Any]:
    """A list with columns, broken rows among them; the options to read it."""
    columns: dict[str, list[Any]] = {
        "text": [None if n % 5 == 0 else f'caption "{n}", ünï' for n in range(rows)],
        "id": list(range(rows)),
        "box": [[[0.1, 0.2, 0.5, 1.0]] * (n % 3) for n in range(rows)],
        "sum": [f"{n:064x}" for n in range(rows)],
    }
    if kind in ("csv", "tsv"):
        columns["box"] = [json.dumps(box) if n % 7 else "[[" for n, box in enumerate(columns["box"])]
    if kind.startswith("txt"):
        columns = {}
    url_list(path, some_urls(rows), columns)
    if kind == "jsonl":
        path.write_text(path.read_text() + '{"url": broken\n[1, 2]\n')
    if not columns:
        return {}
    return {
        "caption_col": "text", "save_additional_columns": ("id",), "bbox_col": "box", "verify_hash": ("sum", "sha256"),
    }  # fmt: skip


def facts(item: Item) -> str:
    """What a row says, without its place."""
    return repr((item.url, dict(item.columns), list(item.columns), item.failure))


@pytest.mark.parametrize("size", [7, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_comes_out_once(kind: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / f"l.{kind}"
    more = table(path, kind, 230)
    listed = read_all(path, size, **more)
    plan = planned(path, size, 5, **more)
    before = set(spool_of(plan.config).files_below())
    shards = shards_of(plan)
    items = [item for shard in shards for item in read_shard(plan, shard)]
    assert sorted(map(facts, items)) == sorted(map(facts, listed.items))
    assert any(item.failure for item in listed.items) == (kind in ("csv", "tsv", "jsonl"))
    assert [shard.id for shard in shards] == list(range(len(shards)))
    assert all(not shard.temporary for shard in shards)
    assert len({item.key for item in items}) == len(items)
    if size == 7:
        one = items[shards[0].rows + 2]
        assert (one.shard_id, one.index, one.key) == (1, 2, "000012")
    left = set(spool_of(plan.config).files_below()) - before
    assert all(name.startswith("lanes") and "sorting" not in name for name in left), "nothing but the lanes stays"


@pytest.mark.parametrize("lanes", [1, 2, 5, 16])
def test_a_host_is_in_one_lane_and_a_giant_in_as_many_as_its_shards_say(lanes: int, tmp_path: Path) -> None:
    path = url_list(tmp_path / "l.txt", some_urls(2000))
    plan = planned(path, 20, lanes)
    shards = shards_of(plan)
    assert {shard.lane for shard in shards} == set(range(lanes))
    found = lanes_of_hosts(plan, shards)
    giants = {host for shard in shards for host, _ in shard.spread}
    rows = Counter(map(host_of, read_all(path).items))
    for host, where in found.items():
        expected = -(-rows[host] * lanes // 2000) if host in giants else 1
        assert host is None or len(where) == expected
    assert giants == {host for host, count in rows.items() if host and count * lanes > 2000}
    for shard in shards:
        assert dict(shard.spread) == {host: len(found[host]) for host in giants if shard.lane in found[host]}
    filled = Counter()
    for shard in shards:
        filled[shard.lane] += shard.rows
    assert max(filled.values()) <= 2 * 2000 / lanes
    assert all(shard.rows == 20 for shard in shards if filled[shard.lane] - shard.start > 20)


def test_rows_keep_the_order_of_the_list_within_a_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(schedule, "BATCH_ROWS", 9)
    path = url_list(tmp_path / "l.txt", some_urls(500))
    plan = planned(path, 30, 3)
    order = {url: n for n, url in enumerate(some_urls(500))}
    by_lane = defaultdict(list)
    for shard in shards_of(plan):
        by_lane[shard.lane] += [order[item.url] for item in read_shard(plan, shard)]
    assert all(places == sorted(places) for places in by_lane.values())
    assert sorted(n for places in by_lane.values() for n in places) == list(range(500))


def test_shards_take_turns_over_the_lanes_and_go_on_behind_the_first(tmp_path: Path) -> None:
    plan = planned(url_list(tmp_path / "l.txt", some_urls(400, giant=0)), 10, 4)
    shards = shards_of(plan)
    assert [shard.lane for shard in shards[:8]] == [0, 1, 2, 3] * 2
    later = Plan(config=plan.config, sources=plan.sources, schema=plan.schema, identity=plan.identity, first_shard=100)
    assert [shard.id for shard in shards_of(later)] == [shard.id + 100 for shard in shards]


def test_the_same_list_is_sorted_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in chunks of another size; only list, lanes and shard size decide."""
    path = url_list(tmp_path / "l.txt", some_urls(700))
    plan = planned(path, 20, 6)

    def sort_anew(name: str) -> list[tuple[Any, ...]]:
        spool = storage.Folder.at(str(tmp_path / name))
        return [
            (
                shard.id,
                shard.start,
                shard.rows,
                shard.lane,
                shard.spread,
                [item.url for item in read_shard(plan, shard)],
            )
            for shard in plan.shards(spool)
        ]

    first = sort_anew("a")
    monkeypatch.setattr(schedule, "CHUNK_BYTES", 500)
    assert sort_anew("b") == first
    code = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; from test_schedule import *\n"
        f"plan = planned(Path({str(path)!r}), 20, 6)\n"
        f"print([i.url for s in plan.shards(storage.Folder.at({str(tmp_path / 'c')!r})) for i in read_shard(plan, s)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == repr([url for shard in first for url in shard[-1]])


def test_large_shards_have_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("img2dataset_dist.schedule", "img2dataset_dist.readers.lane"):
        monkeypatch.setattr(f"{module}.GROUP_ROWS", 8)
    path = url_list(tmp_path / "l.txt", some_urls(300))
    for size in (16, 20, 1000):
        plan = planned(path, size, 2)
        items = [item for shard in shards_of(plan) for item in read_shard(plan, shard)]
        assert sorted(map(facts, items)) == sorted(map(facts, read_all(path).items))


def test_a_census_with_few_counters_finds_the_giants() -> None:
    census = schedule._Census(4)
    census._room = 40
    dice = random.Random(3)
    hosts = ["big.example"] * 6000 + ["half.example"] * 3500 + [f"h{n}.example" for n in range(5000)]
    dice.shuffle(hosts)
    for begin in range(0, len(hosts), 100):
        part = hosts[begin : begin + 100]
        census.add([Item(shard_id=0, index=0, key="", url=f"http://{host}/") for host in part])
    assert len(census.hosts) <= 80
    assert 6000 - len(hosts) / 40 <= census.hosts["big.example"] <= 6000
    assert int(census.buckets.sum()) == census.total == len(hosts)
    assert set(schedule.Lanes.assign(census, 4, 1).giants) == {"big.example"}


def test_what_is_sorted_already_is_not_sorted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(url_list(tmp_path / "l.txt", some_urls(200)))
    spool = spool_of(plan.config)
    shards = shards_of(plan)
    before = sorted(spool.files_below())
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "_spill", None)
        assert shards_of(plan) == shards
    spool.remove(f"{schedule.find(plan, spool).folder}/lane-00002.parquet")
    assert schedule.find(plan, spool) is None
    again = shards_of(plan)
    assert [(s.id, s.lane, s.start, s.rows, s.spread) for s in again] == [
        (s.id, s.lane, s.start, s.rows, s.spread) for s in shards
    ]
    assert len(spool.files_below()) >= len(before)
    assert sum(1 for shard in again for _ in read_shard(plan, shard)) == 200


def test_a_sorting_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(url_list(tmp_path / "l.txt", some_urls(200)))
    monkeypatch.setattr(schedule, "_gather", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shards_of(plan)
    assert spool_of(plan.config).files_below() == []


def test_a_lane_file_that_is_gone_or_broken_costs_its_shard(tmp_path: Path) -> None:
    plan = planned(url_list(tmp_path / "l.txt", some_urls(200)))
    shard = shards_of(plan)[0]
    path = Path(shard.source.path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="lane-00000"):
        list(read_shard(plan, shard))
    path.unlink()
    with pytest.raises(InputError, match="lane-00000"):
        list(read_shard(plan, shard))


def test_lanes_on_another_store(tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    path = url_list(tmp_path / "l.txt.gz", some_urls(300))
    plan = planned(path, 20)
    spool = storage.Folder.at("memory://bucket/out/_img2dataset/input")
    shards = list(plan.shards(spool))
    assert shards[0].source.path.startswith("memory://")
    items = [item for shard in shards for item in read_shard(plan, shard)]
    assert sorted(map(facts, items)) == sorted(map(facts, read_all(path).items))
    assert len(spool.files_below()) == 1 + 4
    assert list(plan.shards(spool)) == shards
    fsspec.filesystem("memory").store.clear()


def test_the_fingerprint_of_a_plain_list_stays_and_lanes_count_by_host(tmp_path: Path) -> None:
    path = url_list(tmp_path / "l.txt", some_urls(30))
    plain = make_plan(config_of(path))
    assert set(plain.identity) == {
        "input_format", "number_sample_per_shard", "oom_shard_count", "url_col", "url_list",
    }  # fmt: skip
    assert make_plan(config_of(path, lanes=7)).fingerprint == plain.fingerprint
    assert len({plain.fingerprint, planned(path, 10, 4).fingerprint, planned(path, 10, 5).fingerprint}) == 3


def test_a_summary_needs_no_lanes(tmp_path: Path) -> None:
    path = url_list(tmp_path / "l.txt", some_urls(100))
    plan = planned(path)
    spool = spool_of(plan.config)
    assert summarise(plan, spool) == summarise(make_plan(config_of(path)), spool)
    assert spool.names() == []


def test_lane_is_no_input_format(tmp_path: Path) -> None:
    assert "lane" not in registry.PLUGINS["reader"]
    with pytest.raises(ConfigError, match="input_format"):
        download(str(tmp_path), input_format="lane")


MEMORY = """
import sys, tracemalloc
from pathlib import Path
sys.path.insert(0, "tests")
from test_schedule import planned, spool_of
from img2dataset_dist import schedule, storage

plan = planned(Path(sys.argv[1]), 1000, 64)
tracemalloc.start()
lanes = schedule.sort(plan, spool_of(plan.config)).lanes
anonymous = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
print(sum(lane.rows for lane in lanes), tracemalloc.get_traced_memory()[1], int(anonymous.split()[1]) * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    peaks = []
    for rows in (30_000, 300_000):
        path = tmp_path / str(rows) / "l.txt"
        path.parent.mkdir()
        with path.open("w") as file:
            for n in range(rows):
                file.write(f"https://h{n * 7919 % 20011}.example.org/some/folder/on/a/server/{n:012d}.jpg?width=1024\n")
        done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
        count, python, resident = map(int, done.stdout.split())
        assert count == rows
        assert resident < 500 * 2**20
        peaks.append(python)
    assert peaks[1] < peaks[0] + 4 * 2**20, "ten times the rows in the memory of the same Python objects"


def options(path: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "url_list": str(path), "output_folder": str(out), "output_format": "webdataset", "image_size": 32,
        "number_sample_per_shard": 6, "thread_count": 8, "processes_count": 2, "progress": "none",
        "allow_private_addresses": True, "schedule": "by_host", "lanes": 4,
    } | more  # fmt: skip


@pytest.fixture
def served(server: NastyServer, tmp_path: Path) -> Path:
    """90 rows of four hosts, the first one a giant; some fail."""
    rows = []
    for n in range(90):
        host = HOSTS[0] if n % 2 else HOSTS[n % 4 + n % 3 % 2]
        rows.append(server.url(f"/photo/photo_{n % 7:05d}.jpg?{tmp_path.name}={n}", host=host))
    rows[7], rows[20], rows[33], rows[60] = server.url("/status/404"), server.url("/html"), "not a url", "http://"
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(rows) + "\n")
    return path


def outcomes(folder: Path) -> list[tuple[Any, ...]]:
    """Per row what became of it, whatever its key."""
    media = dataset.media(folder)
    return sorted(
        (str(row["url"]), row["status"], str(row["error_message"]), str(row["sha256"]), str(media.get(f"{key}.jpg")))
        for key, row in dataset.rows(folder).items()
    )


def test_a_dataset_by_host_is_the_dataset(served: Path, tmp_path: Path) -> None:
    listed = download(**options(served, tmp_path / "list", schedule="list"))
    stats = download(**options(served, tmp_path / "hosts"))
    assert (stats.count, stats.successes, stats.codes) == (90, listed.successes, listed.codes)
    assert outcomes(tmp_path / "hosts") == outcomes(tmp_path / "list")
    dataset.check_whole(tmp_path / "hosts")
    assert dataset.leftovers(tmp_path / "hosts") == []
    assert download(**options(served, tmp_path / "hosts")).count == 0
    inline = options(served, tmp_path / "inline", distributor="inline")
    assert download(**inline).count == 90
    dataset.assert_same(tmp_path / "inline", tmp_path / "hosts")


def test_extending_by_host(served: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    download(**options(served, out))
    first = len(dataset.done(out))
    assert download(**options(served, out, incremental_mode="extend")).count == 90
    assert len(dataset.rows(out)) == 180
    assert len(dataset.done(out)) == 2 * first


def test_another_schedule_is_another_dataset(served: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    download(**options(served, out))
    with pytest.raises(ResumeRefused, match="lanes was 4 and is 3"):
        download(**options(served, out, lanes=3))
    with pytest.raises(ResumeRefused, match=r"schedule was 'by_host' and is 'list'\."):
        download(**options(served, out, schedule="list"))
    plain = tmp_path / "plain"
    download(**options(served, plain, schedule="list"))
    with pytest.raises(ResumeRefused, match=r"schedule was 'list' and is 'by_host'\."):
        download(**options(served, plain))
    (out / "_img2dataset" / "job.json").unlink()
    with pytest.raises(ResumeRefused, match="nobody knows"):
        download(**options(served, out))


@pytest.mark.crash
@pytest.mark.parametrize("step", ["write a sample", "staged, before the claim", "claimed, before publishing"])
@pytest.mark.parametrize("sorted_still", [True, False])
def test_kill_and_resume(
    step: str, sorted_still: bool, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    job = options(served, out)
    crashing = json.dumps({name: value for name, value in job.items() if name != "progress"})
    died = subprocess.run(
        [sys.executable, crash.__file__, step, "5", crashing], capture_output=True, text=True, timeout=120
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    spool = out / "_img2dataset" / "input"
    assert list(spool.glob("lanes-*.json"))
    if sorted_still:
        monkeypatch.setattr(schedule, "_spill", None)
    else:
        storage.Folder.at(str(spool)).remove("")
    download(**job)
    monkeypatch.undo()
    assert len(dataset.rows(out)) == 90
    assert dataset.leftovers(out) == []
    download(**options(served, tmp_path / "alone"))
    dataset.assert_same(tmp_path / "alone", out)


@pytest.mark.crash
def test_kill_while_sorting(served: Path, tmp_path: Path) -> None:
    """What a dead process was sorting goes, and the list is sorted anew."""
    out = tmp_path / "out"
    job = options(served, out)
    code = (
        "import json, os, signal, sys\n"
        "from img2dataset_dist import download, schedule\n"
        "real = schedule._gather\n"
        "def gather(plan, scratch, home, lane):\n"
        "    if lane == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(plan, scratch, home, lane)\n"
        "schedule._gather = gather\n"
        "download(**json.loads(sys.argv[1]))"
    )
    died = subprocess.run([sys.executable, "-c", code, json.dumps(job)], capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert list((out / "_img2dataset" / "input").rglob("lane-*"))
    assert download(**job).count == 90
    assert dataset.leftovers(out) == []


@pytest.fixture
def slow(server: NastyServer, tmp_path: Path) -> dict[str, Any]:
    """240 rows that take a while."""
    path = tmp_path / "slow.txt"
    path.write_text("".join(server.url(f"/latency/?ms=150&n={n}", host=HOSTS[n % 4]) + "\n" for n in range(240)))
    return options(path, tmp_path / "out", number_sample_per_shard=20)


@pytest.mark.crash
def test_kill_the_driver_and_its_workers_while_they_fetch(slow: dict[str, Any], tmp_path: Path) -> None:
    """The lanes are there still, and are not sorted again."""
    out = tmp_path / "out"
    driver = start(slow)
    wait_for(lambda: out.exists() and len(dataset.done(out)) >= 2)
    driver.kill()
    driver.wait()
    done = len(dataset.done(out))
    assert 2 <= done < 12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "_spill", None)
        assert 0 < download(**slow).count <= 20 * (12 - done)
    assert len(dataset.rows(out)) == 240
    dataset.check_whole(out)
    assert dataset.leftovers(out) == []


@pytest.mark.crash
def test_two_drivers_sort_and_fetch_at_once(slow: dict[str, Any], tmp_path: Path) -> None:
    first, second = start(slow), start(slow)
    for driver in (first, second):
        output, _ = driver.communicate(timeout=180)
        assert driver.returncode == 0, output.decode()
    assert len({row["url"] for row in dataset.rows(tmp_path / "out").values()}) == 240
    assert dataset.leftovers(tmp_path / "out") == []
