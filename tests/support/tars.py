"""Tars as others write them, and datasets cut down or rearranged, for tests of what reads datasets."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar with these files in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read_tar(path: Path) -> list[tuple[str, bytes]]:
    """Its files, in order."""
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def sample(key: str, extension: str = "jpg", content: bytes = b"x", **row: Any) -> list[tuple[str, bytes]]:
    """The files of one sample."""
    text = json.dumps({"key": key, "status": "success", **row}).encode()
    return [(f"{key}.{extension}", content), (f"{key}.json", text)]


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Other rows in a parquet file; the same columns."""
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema | None = None) -> None:
    """A parquet file of rows."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
