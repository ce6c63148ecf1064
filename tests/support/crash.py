"""A driver that kills itself, as kill -9 does, at one step of a job: `python crash.py STEP NTH OPTIONS_JSON`.

The job runs on the inline engine, so that one process is driver and worker, and the step is hit exactly. STEP is one
of the keys of `STEPS` and `S3_STEPS`; NTH says at which time it is reached.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from img2dataset_dist import commit, download, resume, s3, shard, storage, transforms


class Bomb:
    """Goes off at the nth call."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> Callable[[Bomb], None]:
    """Kill before `owner.name(...)` runs, counting calls whose arguments fit `when`."""

    def arm(bomb: Bomb) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when(*args):
                bomb.tick()
            return real(*args, **kwargs)

        setattr(owner, name, wrapped)

    return arm


def in_the_middle_of_a_write(bomb: Bomb) -> None:
    """Kill when half of a staged file's bytes are on disk."""
    real = storage.Folder.open_new

    def open_new(folder: storage.Folder, name: str) -> Any:
        file = real(folder, name)
        if not name.endswith((".tar", ".jpg", ".parquet", ".tfrecord")):
            return file
        write = file.write

        def torn(data: bytes) -> int:
            bomb.left -= 1
            if bomb.left == 0:
                write(bytes(data)[: len(data) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return write(data)

        return Proxy(file, torn)

    storage.Folder.open_new = open_new


class Proxy:
    def __init__(self, file: Any, write: Callable[[bytes], int]) -> None:
        self._file = file
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def is_receipt(_folder: object, name: str, *_: object) -> bool:
    return name.endswith("_stats.json")


def is_record(_folder: object, name: str, *_: object) -> bool:
    return name.startswith(commit.STAGING)


def is_claim(_folder: object, name: str, *_: object) -> bool:
    return name.startswith(commit.CLAIMS)


STEPS: dict[str, Callable[[Bomb], None]] = {
    "job is noted": before(resume, "_changed_options"),
    "fetch": before(transforms, "apply"),
    "write a sample": before(shard.Tally, "add"),
    "staging, torn file": in_the_middle_of_a_write,
    "staged, before the claim": before(storage.Folder, "create_whole", is_claim),
    "claimed, before publishing": before(commit, "_publish"),
    "published, before the receipt": before(storage.Folder, "write_whole", is_receipt),
    "receipt, before the claim goes": before(commit, "_tidy"),
    "tidy up at the end": before(resume, "sweep"),
}
S3_STEPS: dict[str, Callable[[Bomb], None]] = {
    "uploads begun, before their record": before(storage.Folder, "write_whole", is_record),
    "recorded, before their bytes": before(s3.S3, "send"),
}
"""Steps that only a commit on S3 has. It has no half-written files."""


def main() -> None:
    step, nth, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    (STEPS | S3_STEPS)[step](Bomb(nth))
    download(**options, distributor="inline", progress="none")


if __name__ == "__main__":
    main()
