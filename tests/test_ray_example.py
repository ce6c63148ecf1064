"""examples/ray_example.py runs as it stands, on a Ray cluster of two nodes; and the manual knows its settings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import dataset
from support.ray_cluster import RayCluster, environment
from support.server import NastyServer

pytestmark = [pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "ray_example.py"
SUCCESSES, ROWS = 12, 14


def flags(**options: Any) -> list[str]:
    return [sys.executable, str(EXAMPLE), *(f"--{name}={value}" for name, value in options.items())]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_runs_on_a_cluster(server: NastyServer, tmp_path: Path) -> None:
    lines = [server.url(f"/photo/photo_{n:05d}.jpg") for n in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13)]
    lines += [server.url("/status/404"), server.refused()]
    (tmp_path / "urls.txt").write_text("\n".join(lines) + "\n")
    options = {"url_list": tmp_path / "urls.txt", "output_folder": tmp_path / "out", "number_sample_per_shard": 3}
    with RayCluster(tmp_path) as cluster:
        command = flags(address=cluster.address, **options)
        printed = cluster.drive([*command, "--allow_private_addresses"], AWS_REGION="eu-north-1").wait(seconds=120)
        assert cluster.raylet("127.0.0.2"), "the cluster of the user is left as it is"
    assert f"{SUCCESSES} of {ROWS} rows in {tmp_path / 'out'}" in printed
    assert "Traceback" not in printed
    receipts = dataset.receipts(tmp_path / "out")
    assert len(receipts) == 5
    assert sum(receipt["successes"] for receipt in receipts.values()) == SUCCESSES
    assert sum(receipt["count"] for receipt in receipts.values()) == ROWS
    dataset.check_whole(tmp_path / "out")
    assert dataset.leftovers(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"address": "127.0.0.2:1"}, 1, "no Ray at 127.0.0.2:1"),
        ({"address": "local", "number_sample_per_shard": 0}, 2, "number_sample_per_shard=0 is not valid"),
    ],
)
def test_what_cannot_work_is_said_at_once(options: dict[str, Any], code: int, said: str, tmp_path: Path) -> None:
    """No Ray is started for it."""
    command = flags(url_list=tmp_path / "urls.txt", output_folder=tmp_path / "out", **options)
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_tasks_get_what_is_passed_on_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script()
    for name in (*module.PASSED_ON, "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    settings = module.settings(module.parse(["--address=10.0.0.1:6379"]))
    assert settings["address"] == "10.0.0.1:6379"
    assert settings["runtime_env"] == {"env_vars": {"AWS_REGION": "eu-north-1"}}


def test_the_manual_explains_each_setting_of_the_script() -> None:
    module = script()
    rows = [line for line in (ROOT / "docs" / "ray.md").read_text().splitlines() if line.startswith("|")]
    for name in (*module.settings(module.parse([])), "--num-cpus", "--object-store-memory"):
        assert any(f"`{name}" in row.split("|")[1] for row in rows), name
