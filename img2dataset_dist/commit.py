"""Staging, claims and receipts: how a shard comes into being, whole or not at all.

An attempt at a shard writes under a name of its own in `_img2dataset/staging/`, or, on S3, into uploads that are not
completed (`multipart.py`). When it is complete it is committed in four steps, and killing anything between any two of
them loses nothing:

1. **claim**: `_img2dataset/commit/NNNNN.json` is created, exclusively and with its whole content: the attempt's name,
   its files and the future receipt. Whoever creates it wins; from here on this attempt *is* the shard.
2. **publish**: the claimed attempt's files are moved to their final names; on S3, their uploads are completed.
3. **receipt**: NNNNN_stats.json is written. Only now does the shard exist.
4. **tidy**: the claim and what was staged are removed.

Steps 2 to 4 can be repeated by anybody, any number of times, at the same time: a later attempt that finds a claim,
or a driver that resumes, rolls it forward instead of doing the work again. So two attempts of one shard (a lost
executor, a speculative task, two drivers) never mix their files.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from img2dataset_dist import multipart
from img2dataset_dist.errors import Img2datasetError
from img2dataset_dist.model import Receipt, Stats
from img2dataset_dist.multipart import Upload, Uploads
from img2dataset_dist.s3 import in_parallel
from img2dataset_dist.stats import receipt_from_json, receipt_to_json
from img2dataset_dist.storage import Folder, own_name

WORK = "_img2dataset"
STAGING = f"{WORK}/staging"
CLAIMS = f"{WORK}/commit"
SPOOL = f"{WORK}/input"
SHARD_SUFFIXES = (".tar", ".tfrecord", ".parquet", "")
"""What a shard's own files and folder are called, behind its number."""


def output_folder(url: str) -> Folder:
    """The output folder of a job, with its place for half-written files."""
    return Folder.at(url, scratch=STAGING)


class CommitLost(Img2datasetError):
    """The staged files of a claimed attempt are gone (somebody cleaned up); the shard must be done again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Content of a claim file: everything that is needed to finish the commit.

    Attributes:
        attempt: name of the attempt.
        files: name and size of each file.
        receipt: the future receipt, as it will be written.
        uploads: on S3, what it takes to publish each file. Elsewhere it is moved from the staging folder.
        records: names of the files in the staging folder, where they are not the staged files themselves.
    """

    attempt: str
    files: Mapping[str, int]
    receipt: str
    uploads: Mapping[str, Upload] = field(default_factory=dict)
    records: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """As stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Claim:
        """As read back."""
        data: dict[str, Any] = json.loads(content)
        return cls(
            attempt=data["attempt"],
            files=data["files"],
            receipt=data["receipt"],
            uploads={
                name: Upload(id=one["id"], parts=tuple(one["parts"])) for name, one in data.get("uploads", {}).items()
            },
            records=tuple(data.get("records", ())),
        )

    @property
    def token(self) -> str:
        """What tells the attempt in what is published, without the name of a machine."""
        return self.attempt.rpartition(".")[2]


class _Moves:
    """Staging in a folder, from which the files are moved: for disks, and for stores other than S3."""

    def __init__(self, output: Folder, home: str) -> None:
        self._output = output
        self._home = home
        self._opened: list[str] = []
        self.uploads: dict[str, Upload] = {}
        self.records: tuple[str, ...] = ()

    def open(self, name: str) -> IO[bytes]:
        self._opened.append(name)
        return self._output.sub(self._home).open_new(name)

    def finish(self) -> dict[str, int]:
        staging = self._output.sub(self._home)
        staging.flush(self._opened)
        return {name: staging.size(name) or 0 for name in self._opened}

    def discard(self) -> None:
        self._output.remove(self._home)


class Attempt:
    """One try at one shard: what it staged, and its commit."""

    def __init__(self, output: Folder, shard_id: int, shard_name: str) -> None:
        self.shard_id = shard_id
        self.shard_name = shard_name
        self.name = own_name(shard_name)
        self.token = self.name.rpartition(".")[2]  # for the receipt: no host name in what people publish
        self._output = output
        home = f"{STAGING}/{self.name}"
        self._staging = Uploads(output, home, self.token) if output.s3 else _Moves(output, home)
        self._may_be_claimed = False

    def open(self, name: str) -> IO[bytes]:
        """Open a new staged file that will be published as `name` in the output folder."""
        return self._staging.open(name)

    def commit(self, stats: Stats, fingerprint: str) -> Receipt:
        """Publish what was staged, or find that another attempt was faster.

        Returns:
            The receipt of the shard: ours, or that of the attempt that won.

        Raises:
            CommitLost: a claim stands, but its staged files are gone; the claim is removed, so a retry succeeds.
            OSError: the store failed. If the claim stands, or if nobody knows, what is staged stays with it.
        """
        files = self._staging.finish()
        earlier = read_receipt(self._output, self.shard_name)
        receipt = earlier or self._claim(self._new_claim(files, stats, fingerprint)) or self._committed()
        if receipt.attempt != self.token:
            self.discard()
        return receipt

    def _claim(self, claim: Claim) -> Receipt | None:
        """Claim the shard, or find that another attempt has; then finish the commit of whoever has."""
        try:
            self._output.create_whole(claim_name(self.shard_name), claim.to_json())
            return roll_forward(self._output, self.shard_name)
        except OSError:
            self._may_be_claimed = True
            raise

    def _new_claim(self, files: Mapping[str, int], stats: Stats, fingerprint: str) -> Claim:
        receipt = Receipt(
            shard_id=self.shard_id,
            stats=stats,
            attempt=self.token,
            fingerprint=fingerprint,
            files=_summary(files),
        )
        return Claim(
            attempt=self.name,
            files=files,
            receipt=receipt_to_json(receipt).decode(),
            uploads=self._staging.uploads,
            records=self._staging.records,
        )

    def _committed(self) -> Receipt:
        receipt = read_receipt(self._output, self.shard_name)
        if receipt is None:
            raise CommitLost(f"shard {self.shard_name}: another attempt's claim vanished without a receipt")
        return receipt

    def discard(self) -> None:
        """Remove what was staged, unless a claim may stand that needs it: then `sweep` does, once the shard is done.

        A store that fails now is no error: the same goes for what it left.
        """
        if not self._may_be_claimed:
            with contextlib.suppress(OSError):
                self._staging.discard()


def claim_name(shard_name: str) -> str:
    """Where the claim of a shard is."""
    return f"{CLAIMS}/{shard_name}.json"


def receipt_name(shard_name: str) -> str:
    """Where the receipt of a shard is."""
    return f"{shard_name}_stats.json"


def read_receipt(output: Folder, shard_name: str) -> Receipt | None:
    """The receipt of a shard; None when there is none or it is torn (the peer does not write it atomically)."""
    content = output.read(receipt_name(shard_name))
    if content is None:
        return None
    try:
        return receipt_from_json(int(shard_name), content)
    except ValueError:
        return None


def roll_forward(output: Folder, shard_name: str) -> Receipt | None:
    """Finish the commit of a claimed shard; None when there is no claim.

    Returns:
        The receipt of the shard. It is not the claimant's when the claim came after the shard was done.

    Raises:
        CommitLost: the claimed files are neither staged nor published.
    """
    content = output.read(claim_name(shard_name))
    if content is None:
        return None
    claim = Claim.from_json(content)
    receipt = read_receipt(output, shard_name)
    if receipt is None:
        _remove_leftovers(output, shard_name, claim.files)
        in_parallel(
            lambda file: _publish(output, shard_name, claim, *file),
            claim.files.items(),
            several=bool(claim.uploads),
        )
        output.write_whole(receipt_name(shard_name), claim.receipt.encode())
        receipt = receipt_from_json(int(shard_name), claim.receipt.encode())
    elif receipt.attempt != claim.token:
        drop(output, claim.attempt)
    _tidy(output, shard_name, claim)
    return receipt


def _publish(output: Folder, shard_name: str, claim: Claim, name: str, size: int) -> None:
    try:
        if name in claim.uploads:
            multipart.publish(output, name, size, claim.uploads[name], claim.token)
        else:
            output.move_file(f"{STAGING}/{claim.attempt}/{name}", name)
    except FileNotFoundError:
        if name in claim.uploads or output.size(name) != size:  # not published by somebody else either
            output.remove(claim_name(shard_name))
            raise CommitLost(f"shard {shard_name}: staged file {name} of attempt {claim.attempt} is gone") from None


def _tidy(output: Folder, shard_name: str, claim: Claim) -> None:
    if claim.uploads:
        output.remove_files([claim_name(shard_name), *claim.records])
        return
    output.remove(claim_name(shard_name))
    output.remove(f"{STAGING}/{claim.attempt}")


def drop(output: Folder, attempt: str) -> None:
    """Remove what an attempt staged that nobody will commit."""
    home = f"{STAGING}/{attempt}"
    if output.s3:
        multipart.drop(output, home)
    output.remove(home)


def _remove_leftovers(output: Folder, shard_name: str, files: Iterable[str]) -> None:
    """Remove what an interrupted run of another tool left under this shard's names; foreign files stay."""
    keep = set(files)
    number = re.escape(shard_name)
    suffixes = "|".join(re.escape(suffix) for suffix in SHARD_SUFFIXES if suffix)
    ours = re.compile(rf"{number}(?:{suffixes}|/{number}\d*\.[a-z0-9]+)")
    output.remove_files([name for name in _named_like(output, shard_name) if ours.fullmatch(name) and name not in keep])


def _named_like(output: Folder, shard_name: str) -> list[str]:
    """Files that may be the shard's by their names."""
    if output.s3:
        return output.files_starting_with(shard_name)
    beside = [f"{shard_name}{suffix}" for suffix in SHARD_SUFFIXES if suffix]
    below = [f"{shard_name}/{name}" for name in output.sub(shard_name).names()]
    return [name for name in beside if output.exists(name)] + below


def _summary(files: Mapping[str, int]) -> dict[str, int]:
    """Sizes by what stands in the output folder itself: a folder counts as the sum of its files."""
    sizes: dict[str, int] = {}
    for name, size in files.items():
        top = posixpath.dirname(name) or name
        sizes[top] = sizes.get(top, 0) + size
    return sizes
