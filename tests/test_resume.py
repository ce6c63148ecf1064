"""Going on in a folder, or refusing to; the three modes; what belongs to others stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import dataset
from support.server import NastyServer

from img2dataset_dist import ConfigError, ResumeRefused, Stats, download


@pytest.fixture
def urls(server: NastyServer, tmp_path: Path) -> Path:
    return write(tmp_path / "urls.txt", server, 10)


def write(path: Path, server: NastyServer, rows: int, mark: str = "a") -> Path:
    path.write_text("".join(server.url(f"/photo/photo_00000.jpg?{path.stem}={mark}{n}") + "\n" for n in range(rows)))
    return path


def run(urls: Path, out: Path, **more: Any) -> Stats:
    options = {
        "number_sample_per_shard": 4, "output_format": "webdataset", "image_size": 32, "distributor": "inline",
        "progress": "none", "thread_count": 4, "allow_private_addresses": True,
    }  # fmt: skip
    return download(str(urls), output_folder=str(out), **(options | more))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_second_run_does_nothing(urls: Path, tmp_path: Path, server: NastyServer) -> None:
    assert run(urls, tmp_path / "out").count == 10
    before, asked = snapshot(tmp_path / "out"), sum(server.counts().values())
    assert run(urls, tmp_path / "out").count == 0
    assert snapshot(tmp_path / "out") == before
    assert sum(server.counts().values()) == asked


def test_a_missing_receipt_is_a_missing_shard(urls: Path, tmp_path: Path) -> None:
    run(urls, tmp_path / "out")
    before = dataset.rows(tmp_path / "out")
    (tmp_path / "out" / "00001_stats.json").unlink()
    assert run(urls, tmp_path / "out").count == 4
    assert dataset.rows(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"number_sample_per_shard": 5}, "number_sample_per_shard was 4 and is 5"),
        ({"oom_shard_count": 6}, "oom_shard_count was 5 and is 6"),
    ],
)
def test_another_shard_size_is_refused(urls: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    run(urls, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ResumeRefused, match=says) as caught:
        run(urls, tmp_path / "out", **change)
    assert "--incremental_mode=overwrite" in str(caught.value)
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("edit", ["longer", "same size"])
def test_another_list_is_refused(urls: Path, tmp_path: Path, edit: str) -> None:
    run(urls, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    text = urls.read_text()
    urls.write_text(text + text if edit == "longer" else text.replace("=a3", "=b3"))
    with pytest.raises(ResumeRefused, match="url_list has other content"):
        run(urls, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


def test_a_moved_list_is_the_same_list(urls: Path, tmp_path: Path) -> None:
    run(urls, tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    moved = urls.rename(tmp_path / "elsewhere" / "list.txt")
    assert run(moved, tmp_path / "out").count == 0


def test_options_of_another_kind_may_change_and_are_told(
    urls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(urls, tmp_path / "out")
    (tmp_path / "out" / "00001_stats.json").unlink()
    run(urls, tmp_path / "out", timeout=3, progress="plain")
    assert "other options" not in capfd.readouterr().err
    (tmp_path / "out" / "00001_stats.json").unlink()
    run(urls, tmp_path / "out", image_size=64, progress="plain")
    assert "image_size (was 32, is 64)" in capfd.readouterr().err


def test_secrets_are_neither_kept_in_the_dataset_nor_told(
    urls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Datasets are published, with the folder in which their options are."""
    out = tmp_path / "out"
    for number, password in enumerate(("hunter2", "swordfish")):
        (out / "00001_stats.json").unlink(missing_ok=True)
        args = {"username": "me7", "password": password, "http_headers": {"X-Key": "ab12"}, "format": f"best{number}"}
        run(urls, out, yt_args=args, progress="plain", media="video", image_size=256)  # of pictures: rows that fail
        kept = "".join(path.read_text(errors="replace") for path in (out / "_img2dataset").rglob("*") if path.is_file())
        told = "".join(capfd.readouterr())
        assert "'format': 'best0'" in kept
        for secret in ("me7", "hunter2", "swordfish", "ab12"):
            assert secret not in kept
            assert secret not in told
    assert "yt_args (was {'username': '(not recorded)'" in told


@pytest.mark.parametrize("change", [{"output_format": "files"}, {"encode_format": "webp"}])
def test_another_format_is_refused(urls: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Else the command would say that all is done, and a loader would find nothing."""
    run(urls, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ResumeRefused, match=next(iter(change))):
        run(urls, tmp_path / "out", **change)
    assert snapshot(tmp_path / "out") == before


def test_slices_that_a_killed_driver_left_are_removed(urls: Path, tmp_path: Path) -> None:
    run(urls, tmp_path / "out")
    (tmp_path / "out" / "00001_stats.json").unlink()
    slices = tmp_path / "out" / "_img2dataset" / "input"
    slices.mkdir()
    (slices / "0.txt").write_text("left over")
    run(urls, tmp_path / "out")
    assert not slices.exists()


def test_overwrite_removes_the_dataset_and_nothing_else(urls: Path, tmp_path: Path, server: NastyServer) -> None:
    out = tmp_path / "out"
    run(urls, out)
    for name in ("notes.txt", "holiday.tar", "2024.parquet", "results_stats.json"):
        (out / name).write_text("mine")
    other = write(tmp_path / "other.txt", server, 3)
    run(other, out, incremental_mode="overwrite", output_format="files")
    assert len(dataset.rows(out)) == 3
    assert not (out / "00000.tar").exists()
    assert {p.name for p in out.iterdir() if p.is_file() and p.read_text(errors="replace") == "mine"} == {
        "notes.txt", "holiday.tar", "2024.parquet", "results_stats.json",
    }  # fmt: skip


def test_extend_adds_behind(urls: Path, tmp_path: Path, server: NastyServer) -> None:
    out = tmp_path / "out"
    run(urls, out)
    first = dataset.rows(out)
    more = write(tmp_path / "more.txt", server, 6)
    assert run(more, out, incremental_mode="extend").count == 6
    assert dataset.done(out) == ["00000", "00001", "00002", "00003", "00004"]
    rows = dataset.rows(out)
    assert {k: rows[k] for k in first} == first
    assert sorted(set(rows) - set(first)) == ["000030", "000031", "000032", "000033", "000040", "000041"]
    # a lost shard of either list is completed by an ordinary run with that list
    for lost, url_list, count in (("00001", urls, 4), ("00004", more, 2)):
        (out / f"{lost}_stats.json").unlink()
        assert run(url_list, out).count == count
    assert dataset.rows(out) == rows


def test_extending_twice_with_the_same_list_adds_twice_but_an_interrupted_one_goes_on(
    urls: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(urls, out)
    assert run(urls, out, incremental_mode="extend").count == 10
    assert len(dataset.done(out)) == 6
    # as if the second had been killed: one of its shards is missing and the job is not noted as complete
    (out / "00004_stats.json").unlink()
    note = out / "_img2dataset" / "job.json"
    content = json.loads(note.read_text())
    content["jobs"][-1]["complete"] = False
    note.write_text(json.dumps(content))
    assert run(urls, out, incremental_mode="extend").count == 4
    assert len(dataset.done(out)) == 6


def test_an_unfinished_list_that_was_extended_cannot_be_resumed_by_accident(
    urls: Path, tmp_path: Path, server: NastyServer
) -> None:
    out = tmp_path / "out"
    run(urls, out)
    (out / "00002_stats.json").unlink()
    note = out / "_img2dataset" / "job.json"
    note.write_text(note.read_text().replace('"complete": true', '"complete": false'))
    run(write(tmp_path / "more.txt", server, 4), out, incremental_mode="extend")
    assert dataset.done(out) == ["00000", "00001", "00002"]
    with pytest.raises(ResumeRefused, match="left unfinished"):
        run(urls, out)


def test_a_dataset_of_the_peer_is_completed(urls: Path, tmp_path: Path) -> None:
    """Its receipts have its own keys only, and there is no note about the job."""
    out = tmp_path / "out"
    run(urls, out)
    as_the_peer_leaves_it(out)
    (out / "00001_stats.json").unlink()
    (out / "00001.tar").write_bytes(b"torn, under its final name")
    assert run(urls, out).count == 4
    assert len(dataset.rows(out)) == 10
    dataset.check_whole(out)


def test_a_torn_receipt_of_the_peer_is_a_missing_shard(urls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(urls, out)
    as_the_peer_leaves_it(out)
    (out / "00002_stats.json").write_text('{"count": 2, "succ')
    assert run(urls, out).count == 2
    assert len(dataset.rows(out)) == 10


def test_a_dataset_of_the_peer_with_another_shard_size_is_refused(urls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(urls, out, number_sample_per_shard=3)
    as_the_peer_leaves_it(out)
    with pytest.raises(ResumeRefused, match="shard 0 in the output folder has 3 rows"):
        run(urls, out)


def as_the_peer_leaves_it(out: Path) -> None:
    names = ("count", "successes", "failed_to_download", "failed_to_resize", "duration", "start_time", "end_time")
    for path in out.glob("*_stats.json"):
        receipt = json.loads(path.read_text())
        kept = {name: receipt[name] for name in (*names, "status_dict")} | {"files": {}}
        path.write_text(json.dumps(kept))
    (out / "_img2dataset" / "job.json").unlink()


def test_foreign_files_disturb_nothing(urls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    foreign = {"a.json": "{}", "00000_statsjson": "", "x_stats.json": "no", "0_stats.json": "no", "README": "mine"}
    for name, content in foreign.items():
        (out / name).write_text(content)
    (out / "_SUCCESS").touch()
    assert run(urls, out).count == 10
    assert run(urls, out).count == 0
    assert {name: (out / name).read_text() for name in foreign} == foreign


def test_the_list_is_never_overwritten(urls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    inside = urls.rename(out / "00000.tar")
    for mode in ("incremental", "overwrite"):
        with pytest.raises(ConfigError, match="has the name of a shard"):
            run(inside, out, incremental_mode=mode)
    assert inside.exists()


def test_a_broken_note_is_said(urls: Path, tmp_path: Path) -> None:
    run(urls, tmp_path / "out")
    (tmp_path / "out" / "_img2dataset" / "job.json").write_text("{")
    with pytest.raises(ResumeRefused, match=r"job\.json cannot be read"):
        run(urls, tmp_path / "out")


def test_an_output_folder_that_is_a_file(urls: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="output_folder"):
        run(urls, tmp_path / "out")


def test_memory_of_worker_processes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "u.txt").write_text("http://127.0.0.1/a.jpg\n")
    with pytest.raises(ConfigError, match="lost when the workers end"):
        download(str(tmp_path / "u.txt"), output_folder="memory://data/lost", progress="none")


def test_memory_paths_and_slices(server: NastyServer, tmp_path: Path) -> None:
    """A compressed list is cut into slices in the working folder; they are gone at the end, as on a disk."""
    import fsspec  # noqa: PLC0415
    from support.photos import url_list  # noqa: PLC0415

    fs = fsspec.filesystem("memory")
    fs.store.clear()
    url_list(tmp_path / "u.csv.gz", [server.url(f"/photo/photo_00000.jpg?m={n}") for n in range(9)], {"n": range(9)})
    stats = download(
        str(tmp_path / "u.csv.gz"), input_format="csv.gz", save_additional_columns=["n"],
        output_folder="memory://data/out", number_sample_per_shard=4, output_format="webdataset",
        distributor="inline", progress="none", allow_private_addresses=True,
    )  # fmt: skip
    assert stats.count == 9
    names = sorted(fs.find("/data/out"))
    assert names == sorted(
        ["/data/out/_img2dataset/host_profiles.csv", "/data/out/_img2dataset/job.json"]
        + [f"/data/out/0000{n}{end}" for n in range(3) for end in (".parquet", ".tar", "_stats.json")]
    )
