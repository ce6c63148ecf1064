"""Spark on this machine alone: python pyspark_local.py urls.txt dataset.

To try a job before it goes to a cluster: the same engine, without machines. Needs Java 17 and `pip install pyspark`.
"""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession

from img2dataset_dist import download


def main() -> None:
    """Make a session and run a job in it."""
    # The Python of the tasks; without it they run whatever `python3` is, which may not have this package.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.appName("img2dataset")
        .master("local[2]")  # two tasks at a time, each with up to `thread_count` transfers; local[*] takes all cores
        .config("spark.driver.host", "127.0.0.1")  # no name of this machine has to be resolved, nobody else gets in
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    try:
        stats = download(
            url_list=sys.argv[1],
            output_folder=sys.argv[2],
            output_format="webdataset",
            image_size=256,
            distributor="pyspark",  # takes the session that is active; without one it would make a local one like this
        )
    finally:
        session.stop()
    print(f"{stats.successes} of {stats.count} rows")


if __name__ == "__main__":
    main()
