#!/usr/bin/env python3
"""Download with a Spark cluster.

Copy this file to the machine that shall drive the job, correct the settings below, and run it with the Python that all
machines have:

    ./img2dataset.pex download.py --url_list=s3://bucket/urls --output_folder=s3://bucket/dataset

Every machine needs the same pex (or virtual environment) at the same path, and must see the list and the output folder
at the same paths. docs/spark.md walks through it, and says more about each setting.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

MASTER = os.environ.get("MASTER", "spark://127.0.0.1:7077")
PYTHON = os.environ.get("PYSPARK_PYTHON", "/opt/img2dataset/img2dataset.pex")
PEX_ROOT = os.environ.get("PEX_ROOT")  # where a pex unpacks itself: 1.6 GB, on a local disk, in a folder of our own
URL_LIST = os.environ.get("URL_LIST", "/mnt/shared/urls")
OUTPUT_FOLDER = os.environ.get("OUTPUT_FOLDER", "/mnt/shared/dataset")

TASK_MIB = 900
"""What the Python processes of a task need, in MiB; the sum is in docs/spark.md."""


def job(arguments: argparse.Namespace) -> dict[str, Any]:
    """What to do with the list; docs/reference.md has all options."""
    return {
        "url_list": arguments.url_list,
        "input_format": arguments.input_format,
        "url_col": "url",
        "output_folder": arguments.output_folder,
        "output_format": "webdataset",
        "image_size": 256,
        "number_sample_per_shard": arguments.number_sample_per_shard,
        "retries": 2,  # of transient failures, in the same task
        "subjob_size": 1000,  # most shards under way at once: at least twice the cores of the cluster
        "allow_private_addresses": arguments.allow_private_addresses,
    }


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Of the Spark session, each with what goes wrong without it."""
    cores = arguments.executor_cores
    driver_host = arguments.driver_host or address_towards(arguments.master)
    return {
        # --- the way from the executors back to the driver
        # Without it Spark takes what this machine's name resolves to, often 127.0.1.1: executors die at once.
        **({"spark.driver.host": driver_host} if driver_host else {}),
        # Without it the driver listens on that address alone, which fails where it is one of a NAT or of a container.
        "spark.driver.bindAddress": arguments.bind_address,
        # Without them both are random: a firewall cannot let them in. The next 16 are tried when one is taken.
        "spark.driver.port": str(arguments.driver_port),
        "spark.driver.blockManager.port": str(arguments.block_manager_port),
        # --- how much of the cluster
        # One executor per worker takes all its cores when this is not set, on YARN one core. More than a worker has:
        # nothing ever starts.
        **({"spark.executor.cores": str(cores)} if cores else {}),
        # Without it the job takes all cores that there are, and the next job waits until it is over.
        **({"spark.cores.max": str(arguments.cores)} if arguments.cores else {}),
        # The session waits until this part of cores.max is there, 30 s at most. Without it work begins when no new
        # machine has shown up for a few seconds; for those that come later the limits per host are divided anew.
        "spark.scheduler.minRegisteredResourcesRatio": "0.8",
        # The JVM alone, which only passes bytes on: more is taken from the Python processes, which do the work.
        "spark.executor.memory": arguments.executor_memory,
        # The Python processes. YARN and Kubernetes kill an executor whose processes take more than both; without it
        # that is at 384 MiB. A standalone cluster does not look.
        "spark.executor.memoryOverhead": f"{(cores or os.cpu_count() or 1) * TASK_MIB}m",
        # --- the Python of the executors
        # pex does not hand PEX_ROOT on: without it every machine unpacks into the home folder of the user that runs the
        # executors, or, where that has none, into a folder in /tmp.
        **({"spark.executorEnv.PEX_ROOT": arguments.pex_root} if arguments.pex_root else {}),
        # --- machines that fail
        # Tries of a task whose process or machine dies; a row or shard that fails is not such a failure.
        "spark.task.maxFailures": "4",
        # Without it the four tries may all go to the one machine that has no pex, which is done with a task in no time
        # and takes the next: the job ends. With the defaults of the other four a single machine could not try anything
        # twice, and one that lost two processes would stand idle for an hour.
        "spark.excludeOnFailure.enabled": "true",
        "spark.excludeOnFailure.task.maxTaskAttemptsPerExecutor": "2",
        "spark.excludeOnFailure.stage.maxFailedTasksPerExecutor": "10",
        "spark.excludeOnFailure.application.maxFailedTasksPerExecutor": "10",
        "spark.excludeOnFailure.timeout": "10m",
        # A machine that vanishes (link cut, power) is missed after a minute; without these after two to three, in which
        # its shards stand still. The heartbeat must be several times shorter.
        "spark.network.timeout": "60s",
        "spark.network.timeoutInterval": "15s",
        "spark.executor.heartbeatInterval": "10s",
        # Slow tasks would be run twice: their URLs are fetched twice, and hosts asked twice as much.
        "spark.speculation": "false",
        # Executors come and go with the load: our load ends in a tail, and each new one starts with an empty pipeline.
        "spark.dynamicAllocation.enabled": "false",
        # --- what can be seen
        # :4040/metrics/executors/prometheus/; Spark 4 has it on, 3.5 off.
        "spark.ui.prometheus.enabled": "true",
        # Its bar and our progress would write over each other.
        "spark.ui.showConsoleProgress": "false",
    }


def address_towards(master: str) -> str | None:
    """This machine's address on the way to a standalone master; nothing is sent. None for masters of other kinds."""
    if not master.startswith("spark://"):
        return None
    first = urlsplit(master.split(",", maxsplit=1)[0])  # of several: spark://one:7077,two:7077
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(first.hostname, first.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        sys.exit(f"error: --master={master}: {error}; or say --driver_host")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; what is not given is as above."""
    parser = argparse.ArgumentParser(description="Download with a Spark cluster.")
    parser.add_argument("--master", default=MASTER)
    parser.add_argument("--python", default=PYTHON, help="pex or Python of the executors, a path on every machine")
    parser.add_argument("--pex_root", default=PEX_ROOT)
    parser.add_argument("--url_list", default=URL_LIST)
    parser.add_argument("--input_format", default="txt")
    parser.add_argument("--output_folder", default=OUTPUT_FOLDER)
    parser.add_argument("--number_sample_per_shard", type=int, default=10_000)
    parser.add_argument("--allow_private_addresses", action="store_true", help="the pictures are on our own network")
    parser.add_argument("--cores", type=int, help="cores of the cluster to take (default: all)")
    parser.add_argument("--executor_cores", type=int, help="cores of an executor (default: all of a worker's)")
    parser.add_argument("--executor_memory", default="1g", help="of an executor's JVM")
    env = os.environ.get  # `make run` says these by the environment
    parser.add_argument("--driver_host", default=env("DRIVER_HOST"), help="address of this machine for the executors")
    parser.add_argument("--bind_address", default=env("BIND_ADDRESS", "0.0.0.0"), help="address to listen at")
    parser.add_argument("--driver_port", type=int, default=int(env("DRIVER_PORT", "5678")))
    parser.add_argument("--block_manager_port", type=int, default=int(env("BLOCK_MANAGER_PORT", "6678")))
    return parser.parse_args(argv)


def main() -> int:
    """Run the job; the exit code is that of the command `img2dataset-dist`, 130 for SIGTERM too."""
    arguments = parse(sys.argv[1:])
    os.environ["PYSPARK_PYTHON"] = arguments.python  # Without it executors run `python3`. Set it before the session.

    from pyspark.sql import SparkSession  # noqa: PLC0415 (after the environment)

    from img2dataset_dist import ConfigError, Img2datasetError, download  # noqa: PLC0415

    builder = SparkSession.builder.appName(f"img2dataset {arguments.output_folder}").master(arguments.master)
    for name, value in settings(arguments).items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # As Ctrl-C. Python's own ends without a word to Spark.
    try:
        stats = download(distributor="pyspark", **job(arguments))
    except ConfigError as error:  # a wrong option, another list in this folder: to run it again would not help
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Img2datasetError as error:  # what is done is done; the same command does the rest
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    finally:
        session.stop()  # Without it the cores stay taken as long as this process lives.
    print(f"{stats.successes} of {stats.count} rows in {arguments.output_folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
