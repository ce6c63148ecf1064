"""Small pieces to large writes, and the headers of a tar made by hand."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2dataset_dist.writers import webdataset
from img2dataset_dist.writers.batches import BATCH_BYTES, BatchedFile


class Recorder(io.BytesIO):
    """Remembers the sizes of the writes, and what it held when it was closed."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.content = b""
        self._broken = broken

    def write(self, content) -> int:
        if self._broken:
            raise OSError("no space left on device")
        self.sizes.append(len(content))
        return super().write(content)

    def close(self) -> None:
        if not self.closed:
            self.content = self.getvalue()
        super().close()


def test_large_writes_of_the_same_bytes():
    pieces = [bytes([index % 251]) * (20_000 + index) for index in range(200)]
    target = Recorder()
    file = BatchedFile(target)
    for start in range(0, len(pieces), 2):
        file.write(pieces[start : start + 2])
        assert file.written == sum(map(len, pieces[: start + 2]))
    file.close([b"the", b"end"])
    assert target.content == b"".join(pieces) + b"theend"
    assert all(BATCH_BYTES <= size < BATCH_BYTES + 50_000 for size in target.sizes[:-1])
    assert len(target.sizes) == 4


def test_a_full_disk_is_told_and_the_file_closed():
    target = Recorder(broken=True)
    file = BatchedFile(target)
    file.write([b"x"])  # held back
    with pytest.raises(OSError, match="no space"):
        file.close()
    assert target.closed
    with pytest.raises(OSError, match="no space"):
        BatchedFile(Recorder(broken=True)).write([bytes(BATCH_BYTES)])


def test_abort_writes_nothing_more():
    target = Recorder()
    file = BatchedFile(target)
    file.write([b"x"])
    file.abort()
    assert (target.closed, target.sizes) == (True, [])
    file.abort()


@given(st.text(max_size=120).filter(lambda name: "\0" not in name), st.integers(0, 2**40))
def test_headers_are_those_of_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        expected = info.tobuf(tarfile.PAX_FORMAT)
    except UnicodeEncodeError:  # lone surrogates
        return
    assert webdataset._header(name, size) == expected


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**11 - 1, 8**11])
@pytest.mark.parametrize("name", ["000000001.jpg", "9" * 96 + ".jpg", "9" * 97 + ".jpg", "é.json"])
def test_headers_at_the_limits(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert webdataset._header(name, size) == info.tobuf(tarfile.PAX_FORMAT)
