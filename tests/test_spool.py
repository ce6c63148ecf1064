"""Media under way leave nothing behind, however their process ends."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.spool import Spool

CHILD = """
import sys
from img2dataset_dist.spool import Spool
spool = Spool(sys.argv[1])
open(spool.folder() + "/body", "w").write("x" * 1000)
print(spool.root, flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_folders_are_apart_and_go(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "made" / "here"))
    one, two = Path(spool.folder()), Path(spool.folder())
    (one / "body").write_text("x")
    spool.remove(str(one))
    assert (one.exists(), two.exists()) == (False, True)
    spool.remove(str(one))
    spool.close()
    assert list((tmp_path / "made" / "here").iterdir()) == []


@pytest.mark.crash
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead, left = start(tmp_path)
    alive, kept = start(tmp_path)
    dead.kill()
    dead.wait()
    assert left.exists()
    spool = Spool(str(tmp_path))
    assert not left.exists()
    assert (kept / "0" / "body").exists(), "its process lives"
    spool.close()
    alive.communicate()
    Spool(str(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    def one(_: int) -> bool:
        spool = Spool(str(tmp_path))
        folder = Path(spool.folder())
        Spool(str(tmp_path)).close()
        there = folder.exists()
        spool.close()
        return there

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(200)))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"tmp_dir: cannot write to .*file"):
        Spool(str(tmp_path / "file"))
