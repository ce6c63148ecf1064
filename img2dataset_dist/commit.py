"""Staging, claims and receipts: how a shard comes into being, whole or not at all.

An attempt at a shard writes under a name of its own in `_img2dataset/staging/`. When it is complete it is committed
in four steps, and killing anything between any two of them loses nothing:

1. **claim**: `_img2dataset/commit/NNNNN.json` is created, exclusively and with its whole content: the attempt's name,
   its files and the future receipt. Whoever creates it wins; from here on this attempt *is* the shard.
2. **publish**: the claimed attempt's files are moved to their final names.
3. **receipt**: NNNNN_stats.json is written. Only now does the shard exist.
4. **tidy**: the claim and the staging folder are removed.

Steps 2 to 4 can be repeated by anybody, any number of times, at the same time: a later attempt that finds a claim,
or a driver that resumes, rolls it forward instead of doing the work again. So two attempts of one shard (a lost
executor, a speculative task, two drivers) never mix their files.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from img2dataset_dist.errors import Img2datasetError
from img2dataset_dist.model import Receipt, Stats
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
    """Content of a claim file: everything that is needed to finish the commit."""

    attempt: str
    files: Mapping[str, int]
    receipt: str

    def to_json(self) -> bytes:
        """As stored."""
        return json.dumps({"attempt": self.attempt, "files": dict(self.files), "receipt": self.receipt}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Claim:
        """As read back."""
        data: dict[str, Any] = json.loads(content)
        return cls(attempt=data["attempt"], files=data["files"], receipt=data["receipt"])


class Attempt:
    """One try at one shard: a staging folder, and its commit."""

    def __init__(self, output: Folder, shard_id: int, shard_name: str) -> None:
        self.shard_id = shard_id
        self.shard_name = shard_name
        self.name = own_name(shard_name)
        self.token = self.name.rpartition(".")[2]  # for the receipt: no host name in what people publish
        self._output = output
        self._staging = output.sub(f"{STAGING}/{self.name}")
        self._opened: list[str] = []

    def open(self, name: str) -> IO[bytes]:
        """Open a new staged file that will be published as `name` in the output folder."""
        self._opened.append(name)
        return self._staging.open_new(name)

    def commit(self, stats: Stats, fingerprint: str) -> Receipt:
        """Publish what was staged, or find that another attempt was faster.

        Returns:
            The receipt of the shard: ours, or that of the attempt that won.

        Raises:
            CommitLost: a claim stands, but its staged files are gone; the claim is removed, so a retry succeeds.
        """
        files = {name: self._staging.size(name) or 0 for name in self._opened}
        receipt = Receipt(
            shard_id=self.shard_id,
            stats=stats,
            attempt=self.token,
            fingerprint=fingerprint,
            files=_summary(files),
        )
        claim = Claim(attempt=self.name, files=files, receipt=receipt_to_json(receipt).decode())
        path = claim_name(self.shard_name)
        earlier = read_receipt(self._output, self.shard_name)
        if earlier is None and self._output.create_whole(path, claim.to_json()):
            earlier = read_receipt(self._output, self.shard_name)
            if earlier is None:
                return roll_forward(self._output, self.shard_name) or receipt
            self._output.remove(path)  # it was committed and tidied between our two looks
        self.discard()
        return earlier or roll_forward(self._output, self.shard_name) or self._committed()

    def _committed(self) -> Receipt:
        receipt = read_receipt(self._output, self.shard_name)
        if receipt is None:
            raise CommitLost(f"shard {self.shard_name}: another attempt's claim vanished without a receipt")
        return receipt

    def discard(self) -> None:
        """Remove what was staged."""
        self._output.remove(f"{STAGING}/{self.name}")


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

    Raises:
        CommitLost: the claimed files are neither staged nor published.
    """
    content = output.read(claim_name(shard_name))
    if content is None:
        return None
    claim = Claim.from_json(content)
    receipt = receipt_from_json(int(shard_name), claim.receipt.encode())
    if read_receipt(output, shard_name) is None:
        _remove_leftovers(output, shard_name, claim.files)
        for name, size in claim.files.items():
            _publish(output, shard_name, claim, name, size)
        output.write_whole(receipt_name(shard_name), claim.receipt.encode())
    output.remove(claim_name(shard_name))
    output.remove(f"{STAGING}/{claim.attempt}")
    return receipt


def _publish(output: Folder, shard_name: str, claim: Claim, name: str, size: int) -> None:
    try:
        output.move_file(f"{STAGING}/{claim.attempt}/{name}", name)
    except FileNotFoundError:
        if output.size(name) != size:  # not published by somebody else either
            output.remove(claim_name(shard_name))
            raise CommitLost(f"shard {shard_name}: staged file {name} of attempt {claim.attempt} is gone") from None


def _remove_leftovers(output: Folder, shard_name: str, files: Iterable[str]) -> None:
    """Remove what an interrupted run of another tool left under this shard's names; foreign files stay."""
    keep = set(files)
    for suffix in SHARD_SUFFIXES:
        name = f"{shard_name}{suffix}"
        if suffix and name not in keep and output.exists(name):
            output.remove(name)
    for name in output.sub(shard_name).names():
        if f"{shard_name}/{name}" not in keep and re.fullmatch(rf"{shard_name}\d*\.[a-z0-9]+", name):
            output.remove(f"{shard_name}/{name}")


def _summary(files: Mapping[str, int]) -> dict[str, int]:
    """Sizes by what stands in the output folder itself: a folder counts as the sum of its files."""
    sizes: dict[str, int] = {}
    for name, size in files.items():
        top = posixpath.dirname(name) or name
        sizes[top] = sizes.get(top, 0) + size
    return sizes
