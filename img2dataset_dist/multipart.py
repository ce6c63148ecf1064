"""Staging on S3: uploads that are not yet completed.

S3 has no rename, and a copy sends every byte through the store a second time. But it has uploads in parts: the parts
of an object are sent under its final name, and nobody sees them until the upload is completed, all at once. Whoever
knows the upload's id and its parts can complete it. So an attempt stages a file as an upload, the claim holds what it
takes to complete it, and publishing is one small request per file. (Hadoop's S3A committers work like this:
https://hadoop.apache.org/docs/stable/hadoop-aws/tools/hadoop-aws/committers.html)

Parts that nobody completes cost storage and are in no listing of objects. So before the first byte of an upload is
sent, its id is recorded in `_img2dataset/staging/ATTEMPT/N.json`, where `drop` finds it. What is left is an upload
without parts whose id never reached us; `abort_forgotten` asks the store for those.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from img2dataset_dist.s3 import S3, in_parallel
from img2dataset_dist.storage import Folder

MANY = 1000
"""Small files that are held back at most, to be sent together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A staged file: all of it is with the store, and it takes this to publish it.

    Attributes:
        id: the store's name for the upload.
        parts: what the store wants to know of each part when the upload is completed.
    """

    id: str
    parts: tuple[Mapping[str, Any], ...]


@dataclass(slots=True, kw_only=True)
class _Begun:
    """A file on its way: what was sent, and the rest, once it is closed."""

    name: str
    size: int = 0
    id: str | None = None
    parts: list[Mapping[str, Any]]
    rest: bytes = b""


class Uploads:
    """The files of one attempt. Not safe to use from several threads.

    A file sends its parts as they fill up. The rest of a file, or a file that is smaller than a part, is held back
    until there is a part's worth of them or `MANY`; then they are sent together, several at a time. So a shard of
    thousands of small files waits for few round trips.

    Args:
        output: the output folder, on S3.
        home: folder of the records, relative to it.
        attempt: who the published objects say made them.
    """

    def __init__(self, output: Folder, home: str, attempt: str) -> None:
        self._output = output
        self._home = home
        self._attempt = attempt
        self._s3 = _store(output)
        self._held: list[_Begun] = []
        self._held_bytes = 0
        self._ids: list[tuple[str, str]] = []
        self._done: dict[str, _Begun] = {}
        self._records = 0
        self._dropped = False

    @property
    def part_size(self) -> int:
        """Bytes that a file collects before it sends them."""
        return self._s3.part_size

    def open(self, name: str) -> IO[bytes]:
        """A new file that will be published as `name`."""
        return _StagedFile(self, _Begun(name=name, parts=[]))  # type: ignore[return-value]

    def finish(self) -> dict[str, int]:
        """Send what is held back; gives the size of each file."""
        self._flush()
        return {name: begun.size for name, begun in self._done.items()}

    @property
    def uploads(self) -> dict[str, Upload]:
        """What it takes to publish the files; complete after `finish`."""
        return {name: Upload(id=str(begun.id), parts=tuple(begun.parts)) for name, begun in self._done.items()}

    @property
    def records(self) -> tuple[str, ...]:
        """Names of the records."""
        return tuple(f"{self._home}/{number}.json" for number in range(self._records))

    def discard(self) -> None:
        """Abort all uploads, then remove their records."""
        self._dropped = True
        in_parallel(lambda one: self._s3.abort(self._output.full(one[0]), one[1]), self._ids)
        if self._records:
            self._s3.delete(map(self._output.full, self.records))

    def send(self, begun: _Begun, body: bytes) -> None:
        """The next part of a file that is still being written."""
        if begun.id is None:
            self._begin([begun])
        self._send(begun, body)

    def close(self, begun: _Begun, rest: bytes) -> None:
        """A file was closed, with so many bytes to go."""
        if self._dropped:
            return
        begun.rest = rest
        self._held.append(begun)
        self._held_bytes += len(rest)
        if self._held_bytes >= self.part_size or len(self._held) >= MANY:
            self._flush()

    def _flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        self._begin([begun for begun in held if begun.id is None])
        in_parallel(self._send_rest, held)
        self._done |= {begun.name: begun for begun in held}

    def _begin(self, begun: list[_Begun]) -> None:
        """Begin uploads, and record them before a byte of them is sent."""
        if not begun:
            return
        ids = in_parallel(lambda one: self._s3.begin(self._output.full(one.name), self._attempt), begun)
        for one, upload in zip(begun, ids, strict=True):
            one.id = upload
            self._ids.append((one.name, upload))
        record = {one.name: one.id for one in begun}
        self._records += 1
        self._output.write_whole(self.records[-1], json.dumps(record).encode())

    def _send_rest(self, begun: _Begun) -> None:
        if begun.rest or not begun.parts:  # an empty file is one empty part
            self._send(begun, begun.rest)
            begun.rest = b""

    def _send(self, begun: _Begun, body: bytes) -> None:
        path, number = self._output.full(begun.name), len(begun.parts) + 1
        begun.parts.append(self._s3.send(path, str(begun.id), number, body))
        begun.size += len(body)


class _StagedFile(io.RawIOBase):
    """What a writer writes to. Its bytes go up in parts of the same size."""

    def __init__(self, uploads: Uploads, begun: _Begun) -> None:
        super().__init__()
        self._uploads = uploads
        self._begun = begun
        self._buffer = bytearray()
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        self._buffer += data
        size = self._uploads.part_size
        while len(self._buffer) > size:  # not >=: the last part is never empty
            body = bytes(memoryview(self._buffer)[:size])
            self._uploads.send(self._begun, body)
            del self._buffer[:size]
        self._written += (count := memoryview(data).nbytes)
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._uploads.close(self._begun, bytes(self._buffer))
            self._buffer.clear()


def publish(output: Folder, name: str, size: int, upload: Upload, attempt: str) -> None:
    """Complete an upload, unless that was done before.

    Raises:
        FileNotFoundError: the upload is gone, and what is under its name is not what it would have given.
        OSError: the store failed.
    """
    s3, path = _store(output), output.full(name)

    def published() -> bool:
        head = s3.head(path)
        return head is not None and (head.size, head.attempt) == (size, attempt)

    s3.complete(path, upload.id, upload.parts, done=published)


def drop(output: Folder, home: str) -> None:
    """Abort what the records in `home` tell of; the records stay, for whoever comes if this is cut off."""
    s3 = _store(output)
    for record in output.sub(home).names():
        uploads = json.loads(output.read(f"{home}/{record}") or b"{}")
        in_parallel(lambda one: s3.abort(output.full(one[0]), one[1]), uploads.items())


def abort_forgotten(output: Folder, is_done: Callable[[str], bool], work: str) -> None:
    """Abort pending uploads whose ids nobody knows: of shards that are done, and in our working folder.

    A store that cannot list them, or does not let us, has to forget them by a rule of the bucket.

    Args:
        output: the output folder, on S3.
        is_done: says of a shard, by its name, whether it is complete.
        work: name of the working folder.
    """
    s3, prefix = _store(output), output.full("").rstrip("/") + "/"
    try:
        pending = list(s3.pending(prefix))
    except OSError:
        return
    done: dict[str, bool] = {}
    for path, upload in pending:
        name = path.removeprefix(prefix)
        shard = re.match(r"(\d+)[./]", name)
        if shard and shard[1] not in done:
            done[shard[1]] = is_done(shard[1])
        if (shard and done[shard[1]]) or name.startswith(f"{work}/"):
            s3.abort(path, upload)


def _store(output: Folder) -> S3:
    assert output.s3 is not None
    return output.s3
