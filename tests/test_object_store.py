"""Lists and datasets on a store without rename or links: two real S3 servers, on loopback, and a proxy that disturbs."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from support import crash, dataset
from support.s3 import BUCKET, SERVERS, Store, Trouble, quick, s3_store, set_option
from support.server import NastyServer
from test_commit import (  # noqa: F401 (the contract of a commit, here with the fixture `output` of this module)
    STATS,
    attempt,
    content,
    test_half_published_is_completed_by_the_same_attempts_files,
    test_late_claim_on_a_committed_shard_is_dropped,
    test_leftovers_of_another_tool_are_replaced_and_foreign_files_stay,
    test_nothing_is_seen_before_the_commit,
    test_second_attempt_finds_the_first_committed,
    test_second_attempt_rolls_the_first_forward,
    test_torn_receipt_is_no_receipt,
)

from img2dataset_dist import about, commit, download, resume
from img2dataset_dist.config import JobConfig
from img2dataset_dist.engines import cluster_task
from img2dataset_dist.errors import ConfigError, EngineError, ShardsFailed
from img2dataset_dist.plan import make_plan
from img2dataset_dist.storage import Folder

pytestmark = pytest.mark.slow

ROWS = 41
SHARDS = 3


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest) -> Iterator[Store]:
    with s3_store(request.param) as store:
        yield store


@pytest.fixture
def store(running: Store) -> Store:
    running.proxy.watch()
    return running


@pytest.fixture
def home(store: Store, request: pytest.FixtureRequest) -> str:
    """A folder of the bucket for this test, beside which lies what is not ours."""
    name = re.sub(r"\W+", "-", request.node.name)
    store.fs.pipe_file(f"{BUCKET}/not-ours/{name}", b"")
    return name


@pytest.fixture
def output(store: Store, home: str) -> Folder:
    return commit.output_folder(f"s3://{BUCKET}/{home}/out")


@pytest.fixture(scope="module")
def urls(server: NastyServer, photo_folder: Path) -> str:
    """41 rows, which make 3 shards; one fails."""
    names = sorted(p.name for p in photo_folder.iterdir())
    rows = [server.url(f"/photo/{names[n % len(names)]}?s3={n}") for n in range(ROWS - 1)] + [server.url("/status/404")]
    return "\n".join(rows)


OPTIONS: dict[str, Any] = {
    "output_format": "webdataset", "number_sample_per_shard": 15, "image_size": 64, "thread_count": 8,
    "allow_private_addresses": True,
}  # fmt: skip


@pytest.fixture
def job(store: Store, home: str, urls: str) -> dict[str, Any]:
    store.fs.pipe_file(f"{BUCKET}/{home}/list/urls.txt", urls.encode())
    store.proxy.watch()
    return OPTIONS | {"url_list": f"s3://{BUCKET}/{home}/list", "output_folder": f"s3://{BUCKET}/{home}/out"}


@pytest.fixture(scope="module")
def here(urls: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The dataset as an undisturbed run makes it on this disk, by format."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "urls.txt").write_text(urls)
    for output_format in ("webdataset", "files"):
        options = OPTIONS | {"output_format": output_format}
        to = str(folder / output_format)
        download(url_list=str(folder / "urls.txt"), output_folder=to, progress="none", distributor="inline", **options)
    return {output_format: folder / output_format for output_format in ("webdataset", "files")}


def inline(job: dict[str, Any], **options: Any) -> Any:
    return download(**(job | options), progress="none", distributor="inline")


def check(store: Store, job: dict[str, Any], here: Path, to: Path) -> None:
    """The dataset on the store is whole, the same, and nothing else is left."""
    store.proxy.watch()
    store.fs.get(job["output_folder"], str(to), recursive=True)
    dataset.check_whole(to)
    dataset.assert_same(here, to)
    assert dataset.leftovers(to) == []


def outside(store: Store, home: str) -> list[str]:
    """Requests about anything but the input and the output of a test."""
    wrong = []
    for request in store.proxy.requests:
        for key in request.key.split(" "):
            if not key.startswith((f"{home}/list", f"{home}/out/")):
                wrong.append(f"{request.kind} {key}")
    return wrong


def pending(store: Store, home: str) -> list[str]:
    return [key for key in store.pending() if key.startswith(home)]


@pytest.mark.parametrize("output_format", ["webdataset", "files"])
def test_list_and_dataset_on_s3(
    output_format: str, store: Store, job: dict[str, Any], home: str, here: dict[str, Path], tmp_path: Path
) -> None:
    """With worker processes. No copies, nothing listed or touched but what is ours, nothing left."""
    job["output_format"] = output_format
    assert download(**job, progress="none", processes_count=2).count == ROWS
    assert download(**job, progress="none", processes_count=2).count == 0
    kinds = store.proxy.kinds()
    assert kinds["copy"] == 0
    assert not [kind for kind in kinds if kind.startswith("bucket")]
    assert outside(store, home) == []
    assert pending(store, home) == []
    check(store, job, here[output_format], tmp_path / "there")


def test_requests_per_shard(store: Store, job: dict[str, Any], home: str) -> None:
    """What docs/object-stores.md says that a shard costs."""
    inline(job)
    counts = Counter(r.kind for r in store.proxy.requests if f"{home}/out/00001" in r.key or "/00001." in r.key)
    assert counts == {
        "begin": 2, "part": 2, "complete": 2, "put": 2, "create": 1, "get": 4, "list": 1, "delete": 1,
    }  # fmt: skip
    rest = Counter(store.proxy.kinds())
    rest.subtract({kind: SHARDS * count for kind, count in counts.items()})
    assert sum(rest.values()) < 60, rest


def test_requests_per_file(store: Store, job: dict[str, Any], home: str) -> None:
    """A folder of small files takes three requests for each, and few for all of them."""
    inline(job, output_format="files")
    files = [r for r in store.proxy.requests if f"{home}/out/00001/" in r.key]
    assert Counter(r.kind for r in files) == {"begin": 30, "part": 30, "complete": 30}
    assert store.proxy.kinds()["put"] < 4 * SHARDS


def test_a_large_file_goes_up_in_parts(
    store: Store, job: dict[str, Any], home: str, urls: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A shard that is larger than a part, whose size is in fsspec's configuration."""
    size = 5 * 2**20
    set_option(monkeypatch, default_block_size=size)
    store.fs.pipe_file(f"{BUCKET}/{home}/list/urls.txt", "\n".join([urls] * 3).encode())
    inline(job, disable_all_reencoding=True, number_sample_per_shard=3 * ROWS)
    parts = [r.size for r in store.proxy.requests if r.kind == "part" and r.key.endswith("00000.tar")]
    assert len(parts) > 1
    assert all(part == size for part in parts[:-1])
    assert 0 < parts[-1] <= size
    store.fs.get(job["output_folder"], str(tmp_path / "there"), recursive=True)
    dataset.check_whole(tmp_path / "there")
    assert len(dataset.media(tmp_path / "there")) == 3 * 2 * (ROWS - 1)


def test_large_and_empty_files(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, a byte, a whole part, a part and a byte, two parts and a bit."""
    size = 5 * 2**20
    set_option(monkeypatch, default_block_size=size)
    output = commit.output_folder(output.url(""))
    bodies = {f"00007/{n}.bin": random.Random(n).randbytes(n) for n in (0, 1, size, size + 1, 2 * size + 99)}
    made = commit.Attempt(output, 7, "00007")
    for name, body in bodies.items():
        with made.open(name) as file:
            for start in range(0, len(body), 2**20):
                file.write(body[start : start + 2**20])
            assert file.tell() == len(body)
    made.commit(STATS, "f")
    assert all(output.read(name) == body for name, body in bodies.items())


def test_trouble_everywhere(
    store: Store, job: dict[str, Any], home: str, here: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sixth request is refused, cut off, or done without an answer: the dataset is the same, at the first go."""
    quick(monkeypatch)
    log = store.proxy.watch(Trouble(share=0.17, below=f"{home}/out", seed=5))
    assert inline(job, max_shard_retry=0).count == ROWS
    hit = {(r.kind, r.trouble) for r in log if r.trouble}
    assert {trouble for _, trouble in hit} == {"slow_down", "error", "cut", "lost"}
    assert len({kind for kind, _ in hit}) >= 5, hit
    if store.name == "moto":  # s3rver neither lists nor aborts what a lost answer to `begin` leaves
        assert pending(store, home) == []
    check(store, job, here["webdataset"], tmp_path / "there")


def test_trouble_that_botocore_mends(store: Store, job: dict[str, Any], here: dict[str, Path], tmp_path: Path) -> None:
    """With worker processes and botocore as it comes, also while the list is read."""
    log = store.proxy.watch(Trouble(share=0.05, how=("slow_down", "error"), seed=1))
    assert download(**job, progress="none", processes_count=2).count == ROWS
    assert [r for r in log if r.trouble]
    check(store, job, here["webdataset"], tmp_path / "there")


@pytest.mark.parametrize("kind", ["create", "complete", "part", "put"])
def test_every_first_answer_is_lost(
    kind: str, store: Store, job: dict[str, Any], here: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store does the work, we do not hear of it and meet our own success: a claim is ours, a complete is done."""
    quick(monkeypatch)
    log = store.proxy.watch(Trouble(how=("lost",), bursts={kind: range(1, 100, 2)}))
    assert inline(job, max_shard_retry=0).count == ROWS
    kinds = [r for r in log if r.kind == kind]
    assert len([r for r in kinds if r.trouble]) >= SHARDS
    check(store, job, here["webdataset"], tmp_path / "there")


@pytest.mark.parametrize("kind", ["begin", "part", "put", "create", "complete", "delete"])
def test_an_outage_fails_shards_and_another_run_completes_them(
    kind: str,
    store: Store,
    job: dict[str, Any],
    home: str,
    here: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Longer than anybody tries again, from the second request of a kind on."""
    quick(monkeypatch)
    monkeypatch.setattr("img2dataset_dist.s3.WAITS", (0.0,))
    log = store.proxy.watch(Trouble(how=("error",), bursts={kind: range(3, 10**6)}, below=f"{home}/out"))
    with pytest.raises((ShardsFailed, OSError)) as failed:
        inline(job, max_shard_retry=1)
    assert re.search(rf"s3://{BUCKET}/{home}/out/.*internal error", str(failed.value)), failed.value
    assert [r for r in log if r.trouble]
    store.fs.get(job["output_folder"], str(tmp_path / "meanwhile"), recursive=True)
    dataset.check_whole(tmp_path / "meanwhile")
    store.proxy.watch()
    inline(job)
    if store.name == "moto":
        assert pending(store, home) == []
    check(store, job, here["webdataset"], tmp_path / "there")


def test_a_claim_that_stands_survives_the_failure_of_its_shard(
    store: Store, job: dict[str, Any], home: str, server: NastyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched is published by the next run; nothing is fetched again."""
    quick(monkeypatch)
    monkeypatch.setattr("img2dataset_dist.s3.WAITS", ())
    store.proxy.watch(Trouble(how=("error",), bursts={"complete": range(1, 10**6)}, below=f"{home}/out"))
    with pytest.raises((ShardsFailed, OSError)):
        inline(job, max_shard_retry=0)
    claims = commit.output_folder(job["output_folder"]).sub(commit.CLAIMS).names()
    assert len(claims) == SHARDS
    store.proxy.watch()
    assert inline(job).count == 0
    assert pending(store, home) == []


ELSEWHERE = ("job is noted", "fetch", "write a sample", "staging, torn file")
"""Steps before the store has anything of the shard: tests/test_crash.py has them."""
STEPS = [*crash.S3_STEPS, *(step for step in crash.STEPS if step not in ELSEWHERE)]


@pytest.mark.crash
@pytest.mark.parametrize("step", STEPS)
def test_kill_and_resume_on_s3(
    step: str, store: Store, job: dict[str, Any], home: str, here: dict[str, Path], tmp_path: Path
) -> None:
    nth = "1" if step == "tidy up at the end" else "2"
    died = subprocess.run(
        [sys.executable, crash.__file__, step, nth, json.dumps(job)], capture_output=True, text=True, timeout=120
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    log = store.proxy.watch()
    inline(job)
    assert outside(store, home) == []
    left = pending(store, home)
    if store.name == "s3rver":  # it neither lists nor aborts: we asked it to drop all that have bytes
        asked = {r.key for r in log if r.kind == "abort"}
        left = [key for key in store.with_bytes() if key.startswith(home) and key not in asked]
    assert left == []
    check(store, job, here["webdataset"], tmp_path / "there")


def test_two_drivers_at_once(store: Store, job: dict[str, Any], here: dict[str, Path], tmp_path: Path) -> None:
    """Each shard is one attempt's, where the store honours the condition of a put."""
    if store.name == "s3rver":
        pytest.skip("s3rver ignores If-None-Match; the job says so (test_a_store_without_conditional_put_is_told)")
    flags = [f"--{name}={value}" for name, value in job.items()]
    command = [sys.executable, "-m", "img2dataset_dist", *flags, "--processes_count=1"]
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    for driver in drivers:
        told, _ = driver.communicate(timeout=120)
        assert driver.returncode == 0, told.decode()
    assert store.proxy.kinds()["copy"] == 0
    check(store, job, here["webdataset"], tmp_path / "there")


def test_a_store_without_conditional_put_is_told(store: Store, job: dict[str, Any], output: Folder) -> None:
    config = JobConfig.from_flat(job)
    standing = resume.enter(output, make_plan(config.input), config)
    assert (resume.NO_CONDITION in standing.notes) == (store.name == "s3rver")
    before = output.read(resume.JOB_FILE)
    again = resume.enter(output, make_plan(config.input), config)
    assert (resume.NO_CONDITION in again.notes) == (store.name == "s3rver")
    assert output.read(resume.JOB_FILE) == before


def test_a_store_that_stays_down_does_not_hide_which_shards_failed(
    store: Store, job: dict[str, Any], home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    monkeypatch.setattr("img2dataset_dist.s3.WAITS", ())
    real = commit.Attempt.commit

    def then_it_is_down(*args: Any, **kwargs: Any) -> Any:
        store.proxy.watch(Trouble(how=("error",), share=1.0))
        return real(*args, **kwargs)

    monkeypatch.setattr(commit.Attempt, "commit", then_it_is_down)
    with pytest.raises(ShardsFailed) as caught:
        inline(job, max_shard_retry=0)
    assert len(caught.value.failures) == SHARDS


def test_a_list_that_the_store_does_not_let_us_see(store: Store, job: dict[str, Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        set_option(patch, endpoint_url=nobody, config_kwargs={"retries": {"total_max_attempts": 1, "mode": "standard"}})
        with pytest.raises(ConfigError, match="url_list: cannot read"):
            inline(job | {"url_list": f"s3://{BUCKET}/elsewhere"})


def test_discard_leaves_nothing(store: Store, home: str, output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    set_option(monkeypatch, default_block_size=5 * 2**20)
    made = commit.Attempt(commit.output_folder(output.url("")), 3, "00003")
    file = made.open("00003.tar")
    file.write(b"x" * 6 * 2**20)
    assert pending(store, home) == [f"{home}/out/00003.tar"]
    made.discard()
    file.close()
    assert output.files_below() == []
    if store.name == "moto":
        assert pending(store, home) == []


def test_a_lost_answer_to_a_create(store: Store, output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second try is refused because of the first, which was ours; anybody else's is not."""
    quick(monkeypatch)
    output = commit.output_folder(output.url(""))
    log = store.proxy.watch(Trouble(how=("lost",), bursts={"create": range(1, 2)}))
    assert output.create_whole("claim", b"one")
    assert next((r.status, r.trouble) for r in log if r.kind == "create") == (0, "lost")
    assert len([r for r in log if r.kind == "create"]) > 1
    assert not output.create_whole("claim", b"two")
    assert output.read("claim") == b"one"


def test_the_loser_aborts_its_uploads(store: Store, home: str, output: Folder) -> None:
    first, second = attempt(output, b"one"), attempt(output, b"two")
    first.commit(STATS, "f")
    log = store.proxy.watch()
    assert second.commit(STATS, "f").attempt == first.token
    aborted = sorted(r.key for r in log if r.kind == "abort")
    assert aborted == [f"{home}/out/00003.parquet", f"{home}/out/00003.tar"]
    assert [name for name in output.files_below() if name.startswith(commit.WORK)] == []
    if store.name == "moto":
        assert pending(store, home) == []


def test_uploads_of_a_dead_attempt_are_swept(
    store: Store, home: str, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their records, while the shard is not done; those of an attempt that lives stay."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    with monkeypatch.context() as patch:
        patch.setattr(commit, "own_name", lambda stem: f"{stem}.{socket.gethostname()}.{process.pid}.abcd0123")
        dead = attempt(output)
    alive = attempt(output, name="00003.bin")
    for one in (dead, alive):
        one._staging.finish()
    log = store.proxy.watch()
    resume.sweep(output)
    aborted = sorted(r.key for r in log if r.kind == "abort")
    assert aborted == [f"{home}/out/00003.parquet", f"{home}/out/00003.tar"]
    assert output.sub(commit.STAGING).names() == [alive.name]
    if store.name == "moto":
        assert pending(store, home) == [f"{home}/out/00003.bin", f"{home}/out/00003.parquet"]
    alive.commit(STATS, "f")
    assert content(output).keys() == {"00003.bin", "00003.parquet", "00003_stats.json"}


def test_lost_uploads_are_said_and_can_be_done_again(
    store: Store, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.name == "s3rver":
        pytest.skip("s3rver cannot abort an upload")
    first = attempt(output, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(commit, "_publish", _die)
        with pytest.raises(KeyboardInterrupt):
            first.commit(STATS, "f")
    first.discard()
    output.write_whole("00003.tar", b"old")  # of the same size, but not made by this attempt
    output.write_whole("00003.parquet", b"meta old")
    with pytest.raises(commit.CommitLost, match="00003"):
        attempt(output, b"two").commit(STATS, "f")
    assert attempt(output, b"six").commit(STATS, "f").attempt != first.token
    assert content(output)["00003.tar"] == b"six"


def test_uploads_of_others_stay(store: Store, home: str, job: dict[str, Any]) -> None:
    """Only uploads of shards that are done are aborted: whose the others are, nobody can tell."""
    if store.name == "s3rver":
        pytest.skip("s3rver neither lists nor aborts uploads")
    ours, theirs = f"{home}/out/00001.tar", [f"{home}/out/00099.tar", f"{home}/out/holiday.tar", f"{home}/outside.tar"]
    for key in (ours, *theirs):
        store.fs.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)
    inline(job)
    assert pending(store, home) == sorted(theirs)
    client = fsspec.filesystem("s3")
    for one in client.call_s3("list_multipart_uploads", Bucket=BUCKET)["Uploads"]:
        client.call_s3("abort_multipart_upload", Bucket=BUCKET, Key=one["Key"], UploadId=one["UploadId"])


def test_a_claim_of_an_earlier_version_is_rolled_forward(store: Store, output: Folder) -> None:
    """It staged objects, which are moved: by copies, as it would have."""
    name = "00003.elsewhere.1.abcd0123"
    output.write_whole(f"{commit.STAGING}/{name}/00003.tar", b"tar")
    receipt = commit.Attempt(output, 3, "00003")._new_claim({"00003.tar": 3}, STATS, "f").receipt
    claim = {"attempt": name, "files": {"00003.tar": 3}, "receipt": receipt}
    output.write_whole(commit.claim_name("00003"), json.dumps(claim).encode())
    assert commit.roll_forward(output, "00003") is not None
    assert content(output).keys() == {"00003.tar", "00003_stats.json"}
    assert [n for n in output.files_below() if n.startswith(commit.WORK)] == []


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def task_of(output: Folder, source: str) -> tuple[Any, Any]:
    """What a task of Spark or Ray looks at before it begins."""
    output.write_whole(resume.JOB_FILE, json.dumps({"jobs": [{"fingerprint": "same"}]}).encode())
    job = SimpleNamespace(output_url=output.url(""), fingerprint="same")
    return SimpleNamespace(version=about.VERSION, job=job), SimpleNamespace(source=SimpleNamespace(path=source))


def without_credentials(patch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("HOME", str(folder))
    set_option(patch, key=None, secret=None)


@pytest.mark.parametrize("where", ["output_folder", "list"])
def test_a_machine_without_credentials_ends_the_job_of_a_cluster(
    where: str, output: Folder, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not shard by shard, after four tries each."""
    source = f"s3://{BUCKET}/not-ours/list.txt"
    store.fs.pipe_file(source, b"http://x/")
    folder = output if where == "output_folder" else commit.output_folder(str(tmp_path / "out"))
    job, shard = task_of(folder, source)
    cluster_task._check(job, shard)
    without_credentials(monkeypatch, tmp_path)
    with pytest.raises(EngineError, match=rf"cannot read .*{where}.* \(.*credentials"):
        cluster_task._check(job, shard)


def test_a_store_that_is_busy_does_not_end_the_job_of_a_cluster(
    output: Folder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is tried again."""
    quick(monkeypatch)
    job, shard = task_of(output, f"s3://{BUCKET}/not-ours/list.txt")
    store.proxy.trouble = Trouble(share=1.0, how=("slow_down",))
    with pytest.raises(OSError, match=r"(?i)slow ?down|reduce"):
        cluster_task._check(job, shard)
