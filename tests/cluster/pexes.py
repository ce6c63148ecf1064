"""The pex that the hosts get: what IMG2DATASET_PEX names, or one that is built from this checkout, and kept.

It is kept beside the bare root, under the digest of all it is made of, so that it is built again only after a change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pyspark
import pytest
from bare import cache

ROOT = Path(__file__).resolve().parents[2]
HOST_PYTHON = (3, 11)
"""Of Debian 12."""
BUILD_SECONDS = 600
SPARK = pyspark.__version__
DAY = 86400


def pex() -> Path:
    """Where it is. Skips the test where it would be for another Python than the hosts have."""
    if sys.version_info[:2] != HOST_PYTHON:
        ours, theirs = (".".join(map(str, version[:2])) for version in (sys.version_info, HOST_PYTHON))
        pytest.skip(f"a pex of Python {ours} does not run on the hosts, which have {theirs}")
    if given := os.environ.get("IMG2DATASET_PEX"):
        return Path(given).resolve()
    ready = cache() / f"pex-{_digest()}" / "img2dataset.pex"
    if not ready.exists():
        with tempfile.TemporaryDirectory(prefix=".pex-", dir=cache()) as folder:
            fresh = Path(folder) / "made"
            fresh.mkdir()
            _make(fresh / ready.name)
            with contextlib.suppress(OSError):  # somebody else was faster
                fresh.rename(ready.parent)
        for old in cache().glob("pex-*"):
            if old != ready.parent and time.time() - old.stat().st_mtime > DAY:
                shutil.rmtree(old, ignore_errors=True)
    return ready


def spark() -> Path:
    """An archive of Spark in the layout of its releases, made of the pyspark that is installed."""
    home = Path(pyspark.__file__).parent
    ready = cache() / f"spark-{SPARK}-bin-hadoop3.tgz"
    if not ready.exists():
        with tempfile.TemporaryDirectory(prefix=".spark-", dir=cache()) as folder:
            fresh = Path(folder) / ready.name
            with tarfile.open(fresh, "w:gz", compresslevel=1) as archive:
                for name in ("bin", "jars", "sbin"):
                    archive.add(home / name, f"{ready.stem}/{name}")
            fresh.rename(ready)
    return ready


def _make(file: Path) -> None:
    command = ["make", "-C", str(ROOT), "pex", f"VENV={sys.prefix}", f"PEX_FILE={file}"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _digest() -> str:
    """Of all files that go into it."""
    files = [ROOT / "setup.py", ROOT / "pyproject.toml"]
    files += [path for folder in ("deploy/pex", "img2dataset_dist") for path in (ROOT / folder).rglob("*")]
    summed = hashlib.sha256(sys.version.encode())
    for path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts:
            summed.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return summed.hexdigest()[:12]
