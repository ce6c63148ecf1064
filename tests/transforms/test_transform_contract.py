"""What every transform in the registry has to do."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.photos import picture

from img2dataset_dist import registry, transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import DOWNLOAD, SUBSAMPLE, HashMismatch, RowError
from img2dataset_dist.model import Fetched, Item, MediaFile, Sample

NAMES = sorted(registry.PLUGINS["transform"].keys() - {"any", "video"})
"""All but those for media in files: test_any_file.py and test_video.py."""
OPTIONS = {"verify_hash": {"input_format": "csv", "verify_hash": ["h", "sha256"]}}
_, PHOTO = picture(0)


def build(name):
    return registry.lookup("transform", name)(JobConfig.from_flat({"url_list": "x.txt", **OPTIONS.get(name, {})}))


def sample(body: bytes) -> Sample:
    columns = {"sha256": hashlib.sha256(body).hexdigest()} if body is PHOTO else {}
    return Sample(item=Item(shard_id=0, index=0, key="00000", url="http://x/", columns=columns), body=body)


@pytest.mark.parametrize("name", NAMES)
def test_a_good_photo_gives_a_sample(name):
    row = sample(PHOTO)
    before = copy.deepcopy(row)
    done = build(name)(row)
    assert isinstance(done, Sample)
    assert row == before
    assert (done.item, done.facts, done.body, done.failure) == (row.item, row.facts, row.body, None)
    assert build(name)(row) == done


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=50)
@given(body=st.one_of(st.binary(max_size=100), st.integers(0, len(PHOTO) - 1).map(lambda cut: PHOTO[:cut])))
def test_garbage_raises_row_errors_only(name, body):
    with contextlib.suppress(RowError):
        assert isinstance(build(name)(sample(body)), Sample)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_built_from_a_config_that_was_sent_to_a_worker(name):
    config = JobConfig.from_flat({"url_list": "x.txt", **OPTIONS.get(name, {})})
    registry.lookup("transform", name)(pickle.loads(pickle.dumps(config)))


def test_a_bug_costs_its_row_and_tells_where_it_was():
    """Of media in files it was after the download; a hash that does not fit was wrong as it came."""

    def broken(row: Sample) -> Sample:
        raise KeyError(row.item.key)

    def mismatch(row: Sample) -> Sample:
        raise HashMismatch(row.item.key)

    item = sample(PHOTO).item
    file = MediaFile(path="/nowhere", size=1)
    for chain, fetched, code, status in (
        (broken, Fetched(item=item, body=PHOTO), "internal_error", DOWNLOAD),
        (broken, Fetched(item=item, file=file), "internal_error", SUBSAMPLE),
        (mismatch, Fetched(item=item, file=file), "hash_mismatch", DOWNLOAD),
    ):
        done = transforms.apply([chain], fetched)
        assert done.failure is not None
        assert (done.failure.code, done.failure.status, done.file) == (code, status, fetched.file)


def test_the_default_chain():
    chain = transforms.build(JobConfig.from_flat({"url_list": "x.txt"}))
    row = sample(PHOTO)
    done = transforms.apply(chain, Fetched(item=row.item, body=PHOTO))
    assert done.failure is None
    assert (done.width, done.height) == (256, 256)
    assert done.exif is not None
    assert done.hashes == {"sha256": row.item.columns["sha256"]}
    assert done.body == b""
