"""The examples run as they stand: on this machine, on a Spark cluster of real processes, in a notebook's namespace."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support import dataset, spark_cluster
from support.server import NastyServer
from support.spark_cluster import HOST, SparkCluster, free_port

from img2dataset_dist.config import JobConfig

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SUCCESSES, ROWS = 12, 14
NOTEBOOK = EXAMPLES / "databricks.py"


@pytest.fixture
def folder(server: NastyServer, tmp_path: Path) -> Path:
    """A folder with an urls.txt of 12 pictures and two failures."""
    lines = [server.url(f"/photo/photo_{n:05d}.jpg") for n in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13)]
    lines += [server.url("/status/404"), server.refused()]
    (tmp_path / "urls.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with SparkCluster(tmp_path_factory.mktemp("cluster"), "4") as running:
        yield running


def on_loopback(code: str) -> str:
    """An example with the one option that our server on this machine needs."""
    changed = code.replace("download(\n", "download(\n    allow_private_addresses=True,\n")
    assert changed != code
    return changed


def run(command: list[str], folder: Path, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=spark_cluster.environment("4", **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    return done.stdout


def check(output: Path, shards: int = 1) -> None:
    receipts = dataset.receipts(output)
    assert len(receipts) == shards
    assert sum(receipt["successes"] for receipt in receipts.values()) == SUCCESSES
    assert sum(receipt["count"] for receipt in receipts.values()) == ROWS
    dataset.check_whole(output)
    assert dataset.leftovers(output) == []


@pytest.mark.parametrize("name", ["simple_example.py", pytest.param("pyspark_local.py", marks=pytest.mark.slow)])
def test_an_example_of_this_machine_runs(name: str, folder: Path) -> None:
    (folder / name).write_text(on_loopback((EXAMPLES / name).read_text()))
    output = run([sys.executable, name, "urls.txt", "dataset"], folder)
    assert f"{SUCCESSES} of {ROWS} rows" in output
    check(folder / "dataset")


@pytest.mark.slow
def test_the_script_of_a_cluster_runs(cluster: SparkCluster, folder: Path) -> None:
    ports = {"driver_port": free_port(5678), "block_manager_port": free_port(6678)}
    options = {
        "master": cluster.url,
        "python": sys.executable,
        "pex_root": folder / "pex",
        "url_list": folder / "urls.txt",
        "output_folder": folder / "dataset",
        "number_sample_per_shard": 3,
        "cores": 2,
        "executor_memory": "512m",
        **ports,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    # as on the master of a cluster: without SPARK_LOCAL_IP, with nothing but the script's own settings
    command = ["env", "-u", "SPARK_LOCAL_IP", sys.executable, EXAMPLES / "download.py", *flags]
    output = run([*map(str, command), "--allow_private_addresses"], folder)
    assert f"{SUCCESSES} of {ROWS} rows in {folder / 'dataset'}" in output
    check(folder / "dataset", shards=5)
    assert cluster.state()["activeapps"] == []


@pytest.mark.slow
def test_a_script_without_a_session_gets_the_master_that_was_submitted(cluster: SparkCluster, folder: Path) -> None:
    """examples/emr.md: a file that is sent along is the Python of the executors, the script has no session."""
    page = (EXAMPLES / "emr.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shell = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[0]
    code = on_loopback(code).replace("s3://my-bucket/urls", str(folder / "urls.txt"))
    code = code.replace('"parquet"', '"txt"').replace("s3://my-bucket/dataset", str(folder / "dataset"))
    (folder / "job.py").write_text(
        code + "\nfrom pyspark import SparkContext\nassert SparkContext._active_spark_context is None\n"
    )
    pex = folder / "img2dataset-thin.pex"  # what counts is that it is sent, and that executors run it
    pex.write_text(f'#!/bin/sh\npwd >>"{folder}/ran-in"\nexec {shlex.quote(sys.executable)} "$@"\n')
    pex.chmod(0o755)
    shell = shell.replace(
        "--master yarn", f"--master {cluster.url} --conf spark.driver.host={HOST} --conf spark.cores.max=2"
    )
    shell = shell.replace("cores=4", "cores=1").replace("memory=1g", "memory=512m")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run(["sh", "-euc", shell], folder, PATH=path)
    check(folder / "dataset")
    assert any("/work/app-" in line for line in (folder / "ran-in").read_text().splitlines())
    assert any("app-" in app["id"] and app["state"] == "FINISHED" for app in cluster.state()["completedapps"])


def cells_of_source(text: str) -> list[tuple[str, str]]:
    """Kind and text of each cell of a Databricks notebook in its source format."""
    head, _, text = text.partition("# Databricks notebook source\n")
    assert head == ""
    cells = []
    for cell in text.split("\n# COMMAND ----------\n"):
        lines = cell.strip("\n").splitlines()
        kind = "code"
        if lines[0].startswith("# MAGIC"):
            assert all(line.startswith("# MAGIC") for line in lines)
            lines = [line.removeprefix("# MAGIC").removeprefix(" ") for line in lines]
            if lines[0] == "%md":
                kind, lines = "markdown", lines[1:]
        cells.append((kind, "\n".join(lines)))
    return cells


def test_both_forms_of_the_notebook_hold_the_same() -> None:
    notebook = json.loads(NOTEBOOK.with_suffix(".ipynb").read_text())
    assert notebook["nbformat"] == 4
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert cells == cells_of_source(NOTEBOOK.read_text())


RUNNER = """
import os, sys
from pyspark.sql import SparkSession
os.environ["PYSPARK_PYTHON"] = sys.executable
spark = SparkSession.builder.master("local[2]").config("spark.driver.host", "127.0.0.1").getOrCreate()
{}
print("the cells are done")
spark.stop()
"""


@pytest.mark.slow
def test_the_notebook_runs(folder: Path) -> None:
    """Its cells in order, with a session that is there as `spark` and without widgets."""
    code = [text for kind, text in cells_of_source(NOTEBOOK.read_text()) if kind == "code" and not text.startswith("%")]
    (folder / "cells.py").write_text(RUNNER.format(on_loopback("\n\n".join(code))))
    env = {"URL_LIST": str(folder / "urls.txt"), "INPUT_FORMAT": "txt", "OUTPUT_FOLDER": str(folder / "dataset")}
    output = run([sys.executable, "cells.py"], folder, **env)
    assert f"{SUCCESSES} of {ROWS} rows" in output
    assert re.search(r"failed_to_download\s*\|http_404\s*\|1 ", output)
    assert "the cells are done" in output
    check(folder / "dataset")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_download", EXAMPLES / "download.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manual_explains_each_setting_of_the_script() -> None:
    module = script()
    arguments = ["--master=spark://127.0.0.1:7077", "--cores=8", "--executor_cores=4"]
    settings = module.settings(module.parse(arguments))
    assert settings["spark.driver.port"] == "5678"
    assert settings["spark.driver.blockManager.port"] == "6678"
    assert settings["spark.driver.host"] == "127.0.0.1"
    page = (ROOT / "docs" / "spark.md").read_text()
    listed = {
        name
        for line in page.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`(spark\.[\w.]+)", line.split("|")[1])
    }
    assert set(settings) <= listed


def test_the_script_gives_tasks_as_much_memory_as_the_engine_asks_for() -> None:
    spark_session = pytest.importorskip("img2dataset_dist.engines.spark_session")
    module = script()
    arguments = module.parse(["--master=spark://127.0.0.1:7077", "--executor_cores=4"])
    config = JobConfig.from_flat(module.job(arguments))
    assert spark_session.memory_advice(module.settings(arguments), config) is None


@pytest.mark.parametrize("page", sorted(EXAMPLES.glob("*.md")), ids=lambda page: page.name)
def test_pages_beside_examples_have_links_that_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
        assert (page.parent / target).is_file(), target
