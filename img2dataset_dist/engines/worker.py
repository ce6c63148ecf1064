"""The worker process of the local engine: asks for shards, runs the pipeline, sends events."""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

from img2dataset_dist.engines.local import NEXT
from img2dataset_dist.errors import NetworkDownError
from img2dataset_dist.model import Shard
from img2dataset_dist.pipeline import Pipeline


def main() -> None:
    """Entry point; the last argument is the number of the inherited socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    connection = Connection(int(sys.argv[-1]))
    try:
        job, overlap = connection.recv()
    except EOFError:
        return
    inbox: queue.Queue[Shard | None] = queue.Queue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    lock = threading.Lock()

    def send(message: object) -> None:
        with lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `_receive` ends us then
            connection.send(message)

    def shards() -> Iterator[Shard]:
        while True:
            send(NEXT)
            shard = inbox.get()
            if shard is None:
                return
            yield shard

    try:
        for event in Pipeline(job, overlap=overlap).run(shards()):
            send(event)
    except NetworkDownError as error:  # true for all workers of this machine: the driver ends the job
        send(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of libraries must not keep a finished worker


def _receive(connection: Connection, inbox: queue.Queue[Shard | None]) -> None:
    """Take shards from the driver. When the driver is gone, so are we, at once: nobody would commit our work."""
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)


def raise_file_limit() -> None:
    """Hundreds of transfers and idle connections need more descriptors than the usual 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
