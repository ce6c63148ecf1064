"""The process that decodes: a crash, a hang or a runaway of a codec ends it, and nothing else.

A worker starts one *nursery*, which imports the codecs, decodes nothing itself and forks a *child* whenever it is asked
to; children share the nursery's memory until they write to it, and are there in milliseconds. A child works on few rows
at a time. `remote.py` is the worker's side of both.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

from img2dataset_dist import stages, transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import RowError
from img2dataset_dist.model import Fetched, Sample
from img2dataset_dist.transforms.channel import Channel, exactly

NUMBER = struct.Struct("<q")
"""A process id to end, on the nursery's socket; its answer is a wait status. A request to fork is one byte."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OOM_FIRST = "800"
"""When the machine is out of memory, the kernel should end a decoder and not a worker (proc(5), oom_score_adj)."""

_RESULT = tuple(each.name for each in fields(Sample) if each.name not in ("item", "facts", "body", "file", "data"))
"""What a child says of a row besides the bytes to store; the worker has the rest."""
_result = attrgetter(*_RESULT)


def question(rows: Sequence[Fetched]) -> tuple[list[Any], list[bytes]]:
    """Fetched rows as a message to a child."""
    return [(row.item, row.facts, row.file) for row in rows], [row.body or b"" for row in rows]


def answer(rows: Sequence[Fetched], samples: Sequence[Sample]) -> tuple[list[Any], list[bytes]]:
    """Transformed rows as a message to the worker. An item goes back only if a transform replaced it."""
    said = [
        (None if sample.item is row.item else sample.item, sample.data is None, _result(sample))
        for row, sample in zip(rows, samples, strict=True)
    ]
    return said, [sample.data or b"" for sample in samples]


def understood(rows: Sequence[Fetched], said: list[Any], stored: list[bytes]) -> list[Sample]:
    """The samples that `answer` was made from."""
    return [
        Sample(
            item=item or row.item,
            facts=row.facts,
            file=row.file,
            data=None if no_data else data,
            **dict(zip(_RESULT, values, strict=True)),
        )
        for row, (item, no_data, values), data in zip(rows, said, stored, strict=True)
    ]


def nursery() -> NoReturn:
    """Entry point; the last argument is the number of the inherited socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[-1]))
    children: set[int] = set()
    try:
        config = pickle.loads(exactly(control, *NUMBER.unpack(exactly(control, NUMBER.size))))  # noqa: S301 (our own)
        assert isinstance(config, JobConfig)
        _prepare(control, config)
        while True:
            request, descriptors, _, _ = socket.recv_fds(control, NUMBER.size, 2)
            if descriptors:
                children.add(_fork(control, descriptors, config))
            elif len(request) == NUMBER.size:
                (pid,) = NUMBER.unpack(request)
                children.discard(pid)
                control.sendall(NUMBER.pack(_end(pid)))
            else:
                break
    except (EOFError, OSError):
        pass  # the worker is gone
    for pid in children:
        _end(pid)
    os._exit(0)


def _prepare(control: socket.socket, config: JobConfig) -> None:
    """Import all that the transforms need, and say whether that went well."""
    try:
        transforms.build(config)
        stages.check(config)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _say(control, f"{type(error).__name__}: {error}")
        raise
    _say(control, "")
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, the pages that are shared


def _say(control: socket.socket, text: str) -> None:
    control.sendall(NUMBER.pack(len(text.encode())) + text.encode())


def _fork(control: socket.socket, descriptors: list[int], config: JobConfig) -> int:
    """Make a child at the other end of a channel; tell the worker its process id."""
    pid = os.fork()
    if not pid:
        control.close()
        link, memory = descriptors
        _serve(Channel(socket.socket(fileno=link), memory), config)
    for descriptor in descriptors:
        os.close(descriptor)
    control.sendall(NUMBER.pack(pid))
    return pid


def _end(pid: int) -> int:
    """End a child, unless it has ended already, and return its wait status. Nobody else reaps: the id is still its."""
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _serve(channel: Channel, config: JobConfig) -> NoReturn:
    """A child: some rows after others, until the worker closes the channel."""
    try:
        _restrain(config.engine.max_transform_memory)
        chain = transforms.build(config)
        staged = stages.build(config)
        channel.send(None)
        while True:
            asked, bodies = channel.receive()
            rows = [
                Fetched(item=item, facts=facts, file=file, body=body if file is None else None)
                for (item, facts, file), body in zip(asked, bodies, strict=True)
            ]
            samples = [transforms.apply(chain, row) for row in rows]
            if staged is not None:
                samples = list(staged(samples))
            try:
                channel.send(*answer(rows, samples))
            except OSError:
                raise
            except Exception:  # noqa: BLE001 (one of them holds something that cannot be pickled)
                channel.send(*answer(rows, list(map(_for_certain, rows, samples))))
    except (EOFError, OSError):
        pass  # the worker is gone, or done with us
    finally:
        os._exit(0)


def _for_certain(row: Fetched, sample: Sample) -> Sample:
    """The sample, or a failure in its place when it cannot be sent."""
    try:
        pickle.dumps(sample)
    except Exception as error:  # noqa: BLE001 (of whatever a transform put there)
        return transforms.failed(row, RowError(f"{type(error).__name__}: {error}"[:500]))
    return sample


def _restrain(memory: int) -> None:
    """Take no more than `memory` bytes on top of what we have, leave no core file, be silent, and die with the nursery.

    Some codecs print a line for each odd picture; nobody could tell which picture it was.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        limit = data_bytes() + memory
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process: its private writable memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
