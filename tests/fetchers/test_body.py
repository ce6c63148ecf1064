"""Bodies that go to files, on a disk that takes them and on one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from img2dataset_dist.fetchers.body import FileBody
from img2dataset_dist.spool import Spool


def test_it_grows_and_is_handed_on(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    body = FileBody(spool)
    assert not body
    body.append(b"one ")
    body.append(b"two")
    assert len(body) == 7
    file = body.finish()
    assert (Path(file.path).read_bytes(), file.size, len(body)) == (b"one two", 7, 0)
    body.drop()
    assert Path(file.path).exists(), "it is somebody else's now"
    spool.close()


def test_what_is_dropped_is_gone(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    body = FileBody(spool)
    body.append(b"x")
    body.drop()
    assert list(Path(spool.root).iterdir()) == []
    spool.close()


def test_a_file_that_cannot_be_made_can_be_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is there, but the disk has no room for another file."""
    spool = Spool(str(tmp_path))
    taken = Path(spool.folder())
    (taken / "body").touch()
    monkeypatch.setattr(spool, "folder", lambda: str(taken))
    body = FileBody(spool)
    with pytest.raises(OSError, match="exists"):
        body.append(b"x")
    body.drop()
    assert not taken.exists()
    spool.close()
