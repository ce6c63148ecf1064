"""One measured job of cluster.py: `cluster_probe.py JSON` prints one line of JSON.

With `master`, the session is made first, and the clock starts when all executors are there, as in a notebook or on a
cluster that is up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from img2dataset_dist import download


def session(master: str, executors: int) -> Any:
    """A session on a cluster, with all of its executors."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 (runs of the local engine need none)

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(master).appName("benchmark")
    settings = {
        "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.executor.cores": "1",
        "spark.executor.memory": "512m", "spark.ui.showConsoleProgress": "false",
    }  # fmt: skip
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    deadline = time.monotonic() + 60
    while spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() < executors + 1:  # noqa: SLF001
        if time.monotonic() > deadline:
            raise SystemExit("the executors did not come")
        time.sleep(0.1)
    return spark


def main() -> None:
    """Run the job and print seconds, rows, and how long after the call the first shard was begun."""
    given = json.loads(sys.argv[1])
    spark = session(given["master"], given["executors"]) if given.get("master") else None
    began = time.time()
    stats = download(**given["options"])
    seconds = time.time() - began
    receipts = Path(given["options"]["output_folder"]).glob("*_stats.json")
    first = min(json.loads(receipt.read_text())["start_time"] for receipt in receipts) - began
    print(json.dumps({"seconds": seconds, "rows": stats.count, "ok": stats.successes, "first": first}), flush=True)
    if spark is not None:
        spark.stop()


if __name__ == "__main__":
    main()
