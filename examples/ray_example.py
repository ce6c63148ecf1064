#!/usr/bin/env python3
"""Download with a Ray cluster.

Copy this file to a machine of the cluster, correct the settings below, and run it with the Python that all machines
have:

    python ray_example.py --address=auto --url_list=s3://bucket/urls --output_folder=s3://bucket/dataset

Without an address it starts a Ray on this machine alone, to try a job before it goes to a cluster.

Every machine needs the same Ray, Python and img2dataset_dist (the same image, or a virtual environment made by the
same commands), and must see the list and the output folder at the same paths. docs/ray.md walks through it, and says
more about each setting.

What a machine gives is said where it is started, not here: Ray refuses it for a cluster that runs already.

    ray start --address=10.0.0.1:6379 --num-cpus=16 --object-store-memory=100000000

    --num-cpus             a task of ours takes one. Without it all cores that Ray finds: right, unless the machine is
                           short of memory (900 MiB for each) or has other work to do
    --object-store-memory  only names and counts pass through it. Without it up to 30% of the memory are Ray's to take,
                           and not counted as memory for tasks
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from typing import Any

# Tries of a task that Ray ends because its machine is short of memory. Without it such a task is tried for ever, and
# the job does not end. Ray reads it when it is imported.
os.environ.setdefault("RAY_task_oom_retries", "3")

import ray

from img2dataset_dist import ConfigError, Img2datasetError, MissingExtra, download

ADDRESS = os.environ.get("RAY_ADDRESS", "local")
URL_LIST = os.environ.get("URL_LIST", "/mnt/shared/urls")
OUTPUT_FOLDER = os.environ.get("OUTPUT_FOLDER", "/mnt/shared/dataset")

PASSED_ON = ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL")
"""Variables of this shell that tasks shall have. No secrets: Ray logs them, and its dashboard shows them."""


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
        "subjob_size": 1000,  # most shards under way at once: at least twice the CPUs of the cluster
        "processes_count": arguments.processes_count,  # of a Ray on this machine; a cluster has its own number
        "allow_private_addresses": arguments.allow_private_addresses,
    }


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the connection to a cluster, each with what goes wrong without it."""
    return {
        # "auto" is the cluster that this machine belongs to. Without an address Ray starts one when it finds none, of
        # this machine alone, at all of its addresses.
        "address": arguments.address,
        # What each task's process gets. Environments do not travel: without it a task has the variables of the shell
        # in which its machine was started. Not `pip` here: each machine would install the package when the job starts,
        # and it wants ray[default].
        "runtime_env": {"env_vars": {name: os.environ[name] for name in PASSED_ON if name in os.environ}},
        # Without these Ray's lines and ours write over each other; what tasks print is in the logs of their machine.
        "log_to_driver": False,
        "logging_level": "ERROR",
    }


def connect(arguments: argparse.Namespace) -> None:
    """Make the Ray that the job then finds."""
    if arguments.address == "local":
        os.environ["RAY_ADDRESS"] = (
            "local"  # The job starts it, at 127.0.0.1, and ends it. Without it Ray looks around.
        )
        return
    host, _, port = arguments.address.rpartition(":")
    if port.isdigit():  # Without this Ray tries for two minutes where nobody answers, and ends this process.
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    ray.init(**settings(arguments))


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; what is not given is as above."""
    parser = argparse.ArgumentParser(description="Download with a Ray cluster.")
    parser.add_argument("--address", default=ADDRESS, help="HOST:PORT of the head, auto, or local (default)")
    parser.add_argument("--processes_count", type=int, help="CPUs of a local Ray (default: all)")
    parser.add_argument("--url_list", default=URL_LIST)
    parser.add_argument("--input_format", default="txt")
    parser.add_argument("--output_folder", default=OUTPUT_FOLDER)
    parser.add_argument("--number_sample_per_shard", type=int, default=10_000)
    parser.add_argument("--allow_private_addresses", action="store_true", help="the pictures are on our own network")
    return parser.parse_args(argv)


def main() -> int:
    """Run the job; the exit code is that of the command `img2dataset-dist`, 130 for SIGTERM too."""
    arguments = parse(sys.argv[1:])
    try:
        connect(arguments)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        print(f"error: no Ray at {arguments.address}: {error}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # As Ctrl-C. Ray's own ends with code 1.
    try:
        stats = download(distributor="ray", **job(arguments))
    except (ConfigError, MissingExtra) as error:  # a wrong option, another list in this folder: again would not help
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Img2datasetError as error:  # what is done is done; the same command does the rest
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    finally:
        ray.shutdown()  # The connection only; a cluster stays.
    print(f"{stats.successes} of {stats.count} rows in {arguments.output_folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
