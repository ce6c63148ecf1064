"""Hashes of bodies."""

from __future__ import annotations

import hashlib

import pytest

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import HashMismatch
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms.hashes import ComputeHash, VerifyHash

BODY = b"some bytes"


def config(name="sha256"):
    return JobConfig.from_flat(
        {"url_list": "x.csv", "input_format": "csv", "compute_hash": name, "verify_hash": ["my_column", name]}
    )


def sample(**columns):
    return Sample(item=Item(shard_id=0, index=0, key="0", url="http://x/", columns=columns), body=BODY)


@pytest.mark.parametrize("name", ["md5", "sha256", "sha512"])
def test_compute_and_verify(name):
    digest = getattr(hashlib, name)(BODY).hexdigest()
    assert ComputeHash(config(name))(sample()).hashes == {name: digest}
    for good in (digest, digest.upper(), f" {digest}\n"):
        row = sample(**{name: good})
        assert VerifyHash(config(name))(row) is row


@pytest.mark.parametrize("value", [None, "", "0" * 64, 12, b"x"])
def test_mismatch(value):
    with pytest.raises(HashMismatch) as caught:
        VerifyHash(config())(sample(sha256=value))
    assert str(caught.value) == "hash mismatch"


def test_a_missing_column_is_a_mismatch():
    with pytest.raises(HashMismatch):
        VerifyHash(config())(sample())
