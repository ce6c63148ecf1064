"""Lists and datasets on a store without rename or links: a real S3 server, on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import crash, dataset
from support.s3 import s3_server
from support.server import NastyServer

from img2dataset_dist import download

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server("bucket") as fs:
        yield fs


@pytest.fixture
def job(s3: Any, server: NastyServer, photo_folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    names = sorted(p.name for p in photo_folder.iterdir())
    urls = [server.url(f"/photo/{names[n % len(names)]}?s3={n}") for n in range(40)] + [server.url("/status/404")]
    home = f"s3://bucket/{request.node.name.replace('[', '-').replace(']', '').replace(' ', '-').replace(',', '')}"
    s3.pipe_file(f"{home}/list/urls.txt", "\n".join(urls).encode())
    return {
        "url_list": f"{home}/list", "output_folder": f"{home}/out", "output_format": "webdataset",
        "number_sample_per_shard": 15, "image_size": 64, "thread_count": 8, "allow_private_addresses": True,
    }  # fmt: skip


def fetched(s3: Any, folder: str, to: Path) -> Path:
    """A copy of the dataset on this disk, to look at."""
    s3.get(folder, str(to), recursive=True)
    return to


def test_list_and_dataset_on_s3(s3: Any, job: dict[str, Any], tmp_path: Path) -> None:
    assert download(**job, progress="none", processes_count=2).count == 41
    assert download(**job, progress="none").count == 0
    there = fetched(s3, job["output_folder"], tmp_path / "there")
    local = job | {"output_folder": str(tmp_path / "here")}
    download(**local, progress="none", distributor="inline")
    dataset.check_whole(there)
    dataset.assert_same(tmp_path / "here", there)
    assert dataset.leftovers(there) == []


@pytest.mark.crash
@pytest.mark.parametrize(
    "step", ["staged, before the claim", "claimed, before publishing", "published, before the receipt"]
)
def test_kill_and_resume_on_s3(step: str, s3: Any, job: dict[str, Any], tmp_path: Path) -> None:
    died = subprocess.run(
        [sys.executable, crash.__file__, step, "2", json.dumps(job)], capture_output=True, text=True, timeout=120
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    download(**job, progress="none", distributor="inline")
    there = fetched(s3, job["output_folder"], tmp_path / "there")
    local = job | {"output_folder": str(tmp_path / "here")}
    download(**local, progress="none", distributor="inline")
    dataset.check_whole(there)
    dataset.assert_same(tmp_path / "here", there)
    assert dataset.leftovers(there) == []
