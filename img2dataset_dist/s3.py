"""The requests that are sent to an S3 store, through the client that s3fs has configured.

s3fs has a file-system call for most of them, but those send more than is asked for: `ls` of an empty folder lists the
folder above it, `makedirs` creates buckets, `cat_file` asks for the size first, and `info` of a missing file lists.
Here each method is one request (a page each for listings), below the path that it is given.

A request that fails because the store is busy or broken for a moment is sent again after `WAITS`, on top of what
botocore and s3fs do by themselves: a shard of 10,000 fetched rows is not thrown away for a minute of errors. Every
error that is left is an OSError.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fsspec.asyn import sync

WAITS = (1.0, 4.0, 15.0)
"""Seconds before a request that failed for a moment is sent again, after botocore's own retries."""
CONNECTIONS = 10
"""Requests at the same time: as many connections as botocore keeps."""
MIN_PART = 5 * 2**20
"""Bytes of a part that is not the last: the least that S3 takes."""
ATTEMPT_KEY = "img2dataset-attempt"
"""User metadata of an object that was published by a commit: by which attempt."""
_BUSY = (429, 500, 502, 503, 504)
_BUSY_CODES = ("SlowDown", "InternalError", "RequestTimeout", "ConditionalRequestConflict", "OperationAborted")
_KINDS = (FileNotFoundError, FileExistsError, PermissionError)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of an object without reading it: its bytes, and the attempt that made it, if one did."""

    size: int
    attempt: str | None


class S3:
    """Requests to one store. Paths are `bucket/key`, as s3fs has them."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    @property
    def part_size(self) -> int:
        """Bytes of a part, s3fs's `default_block_size`. All but the last are of the same size, as some stores want."""
        return max(MIN_PART, int(self._fs.default_block_size))

    def read(self, path: str) -> bytes | None:
        """The whole content; None when there is no such object."""

        def get() -> bytes:
            reply = self._fs.call_s3("get_object", **self._object(path))
            return bytes(sync(self._fs.loop, reply["Body"].read))

        try:
            return _patiently(get, path)
        except FileNotFoundError:
            return None

    def head(self, path: str) -> Head | None:
        """What is known of an object; None when there is no such object."""
        try:
            reply = self._call("head_object", **self._object(path))
        except FileNotFoundError:
            return None
        return Head(size=int(reply["ContentLength"]), attempt=reply.get("Metadata", {}).get(ATTEMPT_KEY))

    def write(self, path: str, content: bytes) -> None:
        """Replace an object."""
        self._call("put_object", **self._object(path), Body=content)

    def create(self, path: str, content: bytes) -> bool:
        """Write an object unless it exists; says whether what is there is `content`, which nobody else would write.

        By a conditional put. An answer can be lost after the store did the work; then the second try is refused because
        of the first. So he who is refused looks whose content is there. Looking before narrows the window in which two
        can win on a store that does not know the condition.
        """
        found = self.read(path)
        if found is None and self._put_new(path, content):
            return True
        return self.read(path) == content if found is None else found == content

    def refuses_second(self, path: str, content: bytes) -> bool:
        """Whether a conditional put of an object that exists is refused; if not, it is written, with `content`."""
        return not self._put_new(path, content)

    def _put_new(self, path: str, content: bytes) -> bool:
        try:
            self._call("put_object", **self._object(path), Body=content, IfNoneMatch="*")
        except FileExistsError:
            return False
        except OSError as error:
            code, status = _answer(error)
            if status == 412 or code == "PreconditionFailed":  # noqa: PLR2004 (HTTP's name for it is the code)
                return False
            if status == 501 or code == "NotImplemented":  # noqa: PLR2004 (the store says that it has no such condition)
                self.write(path, content)
                return True
            raise
        return True

    def keys(self, prefix: str, *, deep: bool = True) -> Iterator[tuple[str, int]]:
        """Path and size of the objects whose path starts with `prefix`; unless `deep`, folders in place of theirs."""
        bucket, key = self._split(prefix)
        arguments = {"Bucket": bucket, "Prefix": key} | ({} if deep else {"Delimiter": "/"})
        while True:
            page = self._call("list_objects_v2", **arguments)
            for folder in page.get("CommonPrefixes", ()):
                yield f"{bucket}/{folder['Prefix']}", 0
            for one in page.get("Contents", ()):
                yield f"{bucket}/{one['Key']}", int(one["Size"])
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; they may be gone already."""
        objects = [self._object(path) for path in paths]
        if len(objects) == 1:
            self._call("delete_object", **objects[0])
            return
        for start in range(0, len(objects), 1000):
            some = objects[start : start + 1000]
            keys = {"Objects": [{"Key": one["Key"]} for one in some], "Quiet": True}
            failed = self._call("delete_objects", Bucket=some[0]["Bucket"], Delete=keys).get("Errors", [])
            if failed:
                raise OSError(f"{failed[0].get('Key')} cannot be removed: {failed[0].get('Message')}")

    def begin(self, path: str, attempt: str) -> str:
        """Begin an upload of an object, which appears when it is completed; gives its id."""
        extra = {"Metadata": {**self._fs.s3_additional_kwargs.get("Metadata", {}), ATTEMPT_KEY: attempt}}
        return str(self._call("create_multipart_upload", **self._object(path), **extra)["UploadId"])

    def send(self, path: str, upload: str, number: int, body: bytes) -> dict[str, Any]:
        """Send part `number` (from 1) of an upload; gives what `complete` wants to know of it. Can be repeated."""
        where = self._object(path)
        reply = self._call("upload_part", **where, UploadId=upload, PartNumber=number, Body=body)
        checksum = f"Checksum{self._fs.s3_additional_kwargs.get('ChecksumAlgorithm', '')}"
        return {"ETag": reply["ETag"]} | ({checksum: reply[checksum]} if checksum in reply else {})

    def complete(
        self, path: str, upload: str, parts: Iterable[Mapping[str, Any]], *, done: Callable[[], bool] = lambda: False
    ) -> None:
        """Make an object of the parts, in their order, all at once.

        Args:
            path: the object.
            upload: as `begin` gave it.
            parts: as `send` gave them.
            done: asked when the store refuses, since it was maybe done before: by another, or by us, and the answer was
                lost. Stores say different things then.

        Raises:
            FileNotFoundError: there is no such upload (any more), and it is not done.
        """
        numbered = [{"PartNumber": number, **part} for number, part in enumerate(parts, 1)]
        arguments = {**self._object(path), "UploadId": upload, "MultipartUpload": {"Parts": numbered}}

        def request() -> None:
            try:
                self._fs.call_s3("complete_multipart_upload", **arguments)
            except Exception:
                if not done():
                    raise

        _patiently(request, path)

    def abort(self, path: str, upload: str) -> None:
        """Drop an upload; it may be gone already. Does nothing where the store has no such request."""
        try:
            self._call("abort_multipart_upload", **self._object(path), UploadId=upload)
        except FileNotFoundError:
            return
        except OSError as error:
            if _answer(error)[1] not in (405, 501):
                raise

    def pending(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Path and id of the uploads below `prefix` that were neither completed nor aborted.

        Raises:
            OSError: also where the store has no such request or we may not send it.
        """
        bucket, key = self._split(prefix)
        arguments = {"Bucket": bucket, "Prefix": key}
        while True:
            page = self._call("list_multipart_uploads", **arguments)
            for one in page.get("Uploads", ()):
                if one["Key"].startswith(key):
                    yield f"{bucket}/{one['Key']}", one["UploadId"]
            if not page.get("IsTruncated"):
                return
            arguments |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _object(self, path: str) -> dict[str, str]:
        bucket, key = self._split(path)
        return {"Bucket": bucket, "Key": key}

    def _split(self, path: str) -> tuple[str, str]:
        bucket, key, _ = self._fs.split_path(path)
        if key and path.endswith("/") and not key.endswith("/"):  # older s3fs drop it
            key += "/"
        return bucket, key

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        path = f"{arguments['Bucket']}/{arguments.get('Key', arguments.get('Prefix', ''))}"
        return _patiently(lambda: self._fs.call_s3(method, **arguments), path) or {}


def is_s3(fs: Any) -> bool:
    """Whether `fs` is s3fs's."""
    protocol = fs.protocol if isinstance(fs.protocol, (list, tuple)) else (fs.protocol,)
    return "s3" in protocol and hasattr(fs, "call_s3")


def in_parallel(call: Callable[[T], R], items: Iterable[T], *, several: bool = True) -> list[R]:
    """`call` of each item, in order; after the first that fails no other is begun. Unless `several`, one by one."""
    todo = list(items)
    if not several or len(todo) < 2:  # noqa: PLR2004 (no need for a thread)
        return [call(item) for item in todo]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [pool.submit(call, item) for item in todo]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _patiently(request: Callable[[], T], path: str) -> T:
    """The answer to a request, tried again while the store has trouble.

    Raises:
        OSError: it stays in trouble, or it refuses; tells the path.
    """
    for wait in (*WAITS, None):
        try:
            return request()
        except Exception as error:
            if wait is None or not passes(error):
                kind = next((one for one in _KINDS if isinstance(error, one)), OSError)
                text = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise kind(text if text.startswith("s3://") else f"s3://{path}: {text}") from error
            time.sleep(wait)
    raise AssertionError


def passes(error: BaseException) -> bool:
    """Whether the same request may well succeed later."""
    code, status = _answer(error)
    if status:
        return status in _BUSY or code in _BUSY_CODES
    from botocore import exceptions as aws  # type: ignore[import-untyped]  # noqa: PLC0415 (s3fs is optional)
    from s3fs.core import S3_RETRYABLE_ERRORS  # type: ignore[import-untyped]  # noqa: PLC0415

    torn = (aws.IncompleteReadError, aws.FlexibleChecksumError, aws.ConnectionError, aws.HTTPClientError)
    lost = (*S3_RETRYABLE_ERRORS, *torn, ConnectionError, TimeoutError, asyncio.TimeoutError)
    return any(isinstance(one, lost) for one in _causes(error))


def _answer(error: BaseException) -> tuple[str, int]:
    """S3's error code and HTTP's, of an error that s3fs or botocore raised; ("", 0) when there was no answer."""
    for one in _causes(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
    return "", 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
