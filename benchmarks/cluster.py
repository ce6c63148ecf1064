"""What a cluster brings and what it costs: `python benchmarks/cluster.py`, some twenty minutes.

- Work that waits (a server that lets each request wait) on a standalone Spark cluster of this machine: one executor of
  one core against two, in turns.
- Time for a shard beside its rows: jobs of the same rows in few and in many shards, on the local engine and on Spark.
- How long after the call the first shard is begun.

It prints a table and writes benchmarks/out/cluster.json; docs/spark.md tells the figures. It ends with an error when a
row is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import latency_server
import run

OUT = run.OUT
PROBE = Path(__file__).with_name("cluster_probe.py")
WAIT = 0.3
THREADS = 32
SHARD = 250
SIDE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running standalone cluster."""

    master: str
    executors: int


@contextlib.contextmanager
def cluster(executors: int) -> Iterator[Cluster]:
    """A master and so many workers of one core, as processes of this machine; ended with the context."""
    import pyspark  # noqa: PLC0415 (its folder is all we want)

    home = Path(pyspark.__file__).parent
    work = OUT / "spark"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    port, web = free_port(), free_port()
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_WORKER_DIR": str(work), "SPARK_NO_DAEMONIZE": "1"}
    master = f"spark://127.0.0.1:{port}"
    common = ["--host", "127.0.0.1", "--webui-port"]
    classes = [["deploy.master.Master", *common, str(web), "--port", str(port)]]
    classes += [["deploy.worker.Worker", *common, "0", "--cores", "1", "--memory", "1g", master]] * executors
    started = []
    try:
        for name, *arguments in classes:
            command = [str(home / "bin" / "spark-class"), f"org.apache.spark.{name}", *arguments]
            with (work / f"{len(started)}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
        wait_for_workers(web, executors)
        yield Cluster(master=master, executors=executors)
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_workers(web: int, count: int) -> None:
    """Until the master knows so many."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{web}/json/", timeout=5) as page:
            if sum(worker["state"] == "ALIVE" for worker in json.load(page)["workers"]) == count:
                return
        time.sleep(0.2)
    raise SystemExit(f"the cluster did not start; its logs are in {OUT / 'spark'}")


class Bench:
    """Runs jobs, each in a process of its own."""

    def __init__(self, server: latency_server.Server) -> None:
        self._server = server
        self.runs: list[dict[str, Any]] = []

    def job(self, what: str, rows: int, shard: int, at: Cluster | None = None, **options: Any) -> dict[str, Any]:
        """One measurement."""
        folder = OUT / "run-cluster"
        shutil.rmtree(folder, ignore_errors=True)
        listed = OUT / "cluster.txt"
        listed.write_text("\n".join(self._server.urls(rows)))
        given = {
            "options": {
                "url_list": str(listed), "output_folder": str(folder), "output_format": "webdataset",
                "image_size": 64, "number_sample_per_shard": shard, "thread_count": THREADS, "progress": "none",
                "allow_private_addresses": True, "transform_processes": 1, **options,
            },
            "master": at.master if at else None, "executors": at.executors if at else 0,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(PROBE), json.dumps(given)], capture_output=True, text=True, check=False, timeout=1800
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        result: dict[str, Any] = {"what": what, "shards": -(-rows // shard)}
        result |= json.loads(done.stdout.splitlines()[-1])
        if result["ok"] != rows:
            raise SystemExit(f"{what}: {result['ok']} of {rows} rows")
        self.runs.append(result)
        print(f"{what:28} {result['shards']:5} shards {result['seconds']:7.1f} s, first after {result['first']:.2f} s")
        return result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000, help="of the work that waits")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    pictures = corpus.sized(OUT, SIDE, 100)
    with latency_server.serve(pictures.folder, WAIT) as server:
        bench = Bench(server)
        for _ in range(arguments.runs):
            for executors in (1, 2):
                with cluster(executors) as there:
                    bench.job(f"waiting, {executors} executor(s)", arguments.rows, SHARD, there, distributor="pyspark")
    with latency_server.serve(pictures.folder, 0.0) as server:
        bench_shards = Bench(server)
        for _ in range(arguments.runs):
            for shard in (100, 10):
                for engine in ("multiprocessing", "pyspark"):
                    options = {"distributor": engine, "processes_count": 2}
                    bench_shards.job(f"{engine}, by itself", 4000, shard, **options)
                with cluster(2) as there:
                    bench_shards.job("pyspark, cluster of 2", 4000, shard, there, distributor="pyspark")
    report(bench.runs, bench_shards.runs)


def report(waiting: list[dict[str, Any]], shards: list[dict[str, Any]]) -> None:
    """The figures that docs/spark.md has."""
    one, two = ([r["seconds"] for r in waiting if f" {n} " in r["what"]] for n in (1, 2))
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    result: dict[str, Any] = {"machine": run.machine(), "runs": waiting + shards, "two_over_one": run.spread(ratios)}
    print(f"\ntwo executors over one: {statistics.median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]")
    for what in dict.fromkeys(r["what"] for r in shards):
        few, many = ([r for r in shards if r["what"] == what and r["shards"] == n] for n in (40, 400))
        cost = [(b["seconds"] - a["seconds"]) / 360 for a, b in zip(few, many, strict=True)]
        first = [r["first"] for r in few + many]
        result[what] = {"seconds_per_shard": run.spread(cost), "first_shard": run.spread(first)}
        text = f"{1000 * statistics.median(cost):6.0f} ms a shard [{1000 * min(cost):.0f}..{1000 * max(cost):.0f}]"
        print(
            f"{what:28} {text}, first shard after {statistics.median(first):.1f} s [{min(first):.1f}..{max(first):.1f}]"
        )
    (OUT / "cluster.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
