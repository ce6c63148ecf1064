"""Hashes of bodies."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from img2dataset_dist import transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import HashMismatch
from img2dataset_dist.model import Fetched, Item, Sample
from img2dataset_dist.transforms import hashes
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
        assert VerifyHash(config(name))(sample(**{name: good})).hashes == {name: digest}


@pytest.mark.parametrize("value", [None, "", "0" * 64, 12, b"x"])
def test_mismatch(value):
    with pytest.raises(HashMismatch) as caught:
        VerifyHash(config())(sample(sha256=value))
    assert str(caught.value) == "hash mismatch"


def test_a_missing_column_is_a_mismatch():
    with pytest.raises(HashMismatch):
        VerifyHash(config())(sample())


def count_digests(monkeypatch) -> list[bytes]:
    seen: list[bytes] = []
    whole = hashes._digest

    def counting(name, content):
        seen.append(content)
        return whole(name, content)

    monkeypatch.setattr(hashes, "_digest", counting)
    return seen


def test_the_stored_bytes_have_their_own_hash():
    done = ComputeHash(config("md5"))(replace(sample(), data=b"other bytes"))
    assert done.hashes == {"md5": hashlib.md5(BODY).hexdigest()}
    assert done.stored_hash == hashlib.md5(b"other bytes").hexdigest()


def test_without_data_there_is_no_hash_of_it():
    assert ComputeHash(config())(sample()).stored_hash is None


def test_nothing_is_hashed_twice(monkeypatch):
    seen = count_digests(monkeypatch)
    row = VerifyHash(config())(sample(sha256=hashlib.sha256(BODY).hexdigest()))
    kept = ComputeHash(config())(replace(row, data=row.body))
    assert kept.stored_hash == kept.hashes["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert seen == [BODY]
    ComputeHash(config())(replace(row, data=b"encoded"))
    assert seen == [BODY, b"encoded"]


def test_the_whole_chain_keeps_both_hashes():
    options = {"url_list": "x.txt", "disable_all_reencoding": True, "extract_exif": False}
    chain = transforms.build(JobConfig.from_flat(options))
    done = transforms.apply(chain, Fetched(item=sample().item, body=BODY))
    assert done.stored_hash == done.hashes["sha256"] == hashlib.sha256(BODY).hexdigest()
    chain = transforms.build(JobConfig.from_flat({**options, "compute_hash": None}))
    done = transforms.apply(chain, Fetched(item=sample().item, body=BODY))
    assert (done.hashes, done.stored_hash) == ({}, None)
