"""Datasets as values, so that two of them can be compared row by row and byte by byte."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

VOLATILE = ("fetch_ms", "attempts", "dns_ms", "connect_ms", "tls_ms", "first_byte_ms")
"""Columns that may differ between two runs of the same job."""


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Key to metadata row, over all shards that have a receipt; fails on a key that is there twice."""
    found: dict[str, dict[str, Any]] = {}
    for name in done(folder):
        for row in pq.read_table(folder / f"{name}.parquet").to_pylist():
            assert row["key"] not in found, f"row {row['key']} is there twice"
            found[row["key"]] = {c: v for c, v in row.items() if c not in VOLATILE}
    return found


def media(folder: Path) -> dict[str, str]:
    """Name of each stored file to the digest of its content, from tars and folders; JSON without volatile columns."""
    found: dict[str, str] = {}
    for name in done(folder):
        if (folder / f"{name}.tar").exists():
            with tarfile.open(folder / f"{name}.tar") as tar:
                members = {m.name: tar.extractfile(m).read() for m in tar}
        else:
            members = {p.name: p.read_bytes() for p in (folder / name).glob("*")}
        for member, content in members.items():
            assert member not in found, f"{member} is there twice"
            found[member] = digest(member, content)
    return found


def digest(name: str, content: bytes) -> str:
    if name.endswith(".json"):
        row = {c: v for c, v in json.loads(content).items() if c not in VOLATILE}
        content = json.dumps(row).encode()
    return hashlib.sha256(content).hexdigest()


def done(folder: Path) -> list[str]:
    """Names of the shards with a receipt."""
    return sorted(m[1] for p in folder.iterdir() if (m := re.fullmatch(r"(\d+)_stats\.json", p.name)))


def receipts(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: json.loads((folder / f"{name}_stats.json").read_text()) for name in done(folder)}


def check_whole(folder: Path) -> None:
    """Nothing torn under a final name, receipt or not, and every receipt agrees with its shard."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                names = tar.getnames()
            assert path.stat().st_size % 512 == 0
            assert len(names) % 2 == 0 or any(n.endswith(".txt") for n in names)
        elif path.suffix == ".parquet":
            pq.read_table(path)
    for name, receipt in receipts(folder).items():
        assert receipt["count"] == (
            receipt["successes"]
            + receipt["failed_to_download"]
            + receipt["failed_to_resize"]
            + receipt.get("failed_to_subsample", 0)
        ), "rows are conserved"
        assert sum(receipt["status_dict"].values()) == receipt["count"]
        for file, size in receipt["files"].items():
            path = folder / file
            real = sum(p.stat().st_size for p in path.glob("*")) if path.is_dir() else path.stat().st_size
            assert real == size
        if (folder / f"{name}.parquet").exists():
            keys = pq.read_table(folder / f"{name}.parquet", columns=["key"])["key"].to_pylist()
            several = any(re.search(r"_\d{5}$", key) for key in keys)  # clips of one row
            assert len(keys) >= receipt["count"] if several else len(keys) == receipt["count"]


def assert_same(a: Path, b: Path) -> None:
    """The two folders hold the same dataset."""
    assert done(a) == done(b)
    assert differences(rows(a), rows(b)) == []
    assert differences(media(a), media(b)) == []


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key and both values, where they differ; the first ten, to be read in a failed test."""
    return [(key, a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)][:10]


KEPT = ("job.json", "host_profiles.csv")
"""What stays in the working folder of a finished job."""


def leftovers(folder: Path) -> list[str]:
    """What a finished job left in its working folder although it should not."""
    return sorted(str(p.relative_to(folder)) for p in (folder / "_img2dataset").rglob("*") if p.name not in KEPT)
