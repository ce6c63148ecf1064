"""Samples whose bytes are of another format than `encode_format`, as `disable_all_reencoding` makes them."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tfrecord
import webdataset as wds
from PIL import Image

from img2dataset_dist import transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Fetched, Item
from img2dataset_dist.registry import lookup
from img2dataset_dist.writers.layout import Layout

CONFIG = JobConfig.from_flat({"url_list": "x.txt", "disable_all_reencoding": True})
BODIES = {"gif": "GIF", "png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bin": None}


def body(kind: str | None) -> bytes:
    if kind is None:
        return b'{"no": "picture"}'  # nor may it pass for the KEY.json of the sample
    out = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(out, kind)
    return out.getvalue()


@pytest.fixture(params=["webdataset", "files", "parquet", "tfrecord"])
def written(request, tmp_path):
    """Writer, folder, and the samples in order."""
    chain = transforms.build(CONFIG)
    items = [Item(shard_id=0, index=i, key=f"{i:09d}", url=f"http://x/{i}.jpg") for i in range(len(BODIES))]
    bodies = [body(kind) for kind in BODIES.values()]
    samples = [transforms.apply(chain, Fetched(item=i, body=b)) for i, b in zip(items, bodies, strict=True)]

    def opener(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        return (tmp_path / name).open("wb")

    layout = Layout.of(CONFIG, pa.schema([("url", pa.string())]))
    writer = lookup("writer", request.param)(opener, "00000", layout)
    for sample in samples:
        writer.write(sample)
    writer.close()
    return request.param, tmp_path, samples


def test_every_format_gives_the_bytes_back(written):
    name, folder, samples = written
    data = [sample.data for sample in samples]
    if name == "webdataset":
        found = wds.WebDataset(str(folder / "00000.tar"), shardshuffle=False)
        assert [sample[end] for sample, end in zip(found, BODIES, strict=True)] == data
    elif name == "files":
        assert [(folder / "00000" / f"{i:09d}.{end}").read_bytes() for i, end in enumerate(BODIES)] == data
    elif name == "parquet":  # the column has its name from encode_format, whatever is in it, as the peer's has
        assert pq.read_table(folder / "00000.parquet")["jpg"].to_pylist() == data
    else:
        found = tfrecord.reader.tfrecord_loader(str(folder / "00000.tfrecord"), None)
        assert [bytes(example["jpg"]) for example in found] == data


def test_the_metadata_tells_what_they_are(written):
    _, folder, samples = written
    rows = pq.read_table(folder / "00000.parquet").to_pylist()
    assert [row["original_format"] for row in rows] == ["gif", "png", "jpeg", "webp", "tiff", "json"]
    assert [row["stored_hash"] for row in rows] == [row["sha256"] for row in rows]
    assert [row["width"] for row in rows] == [8] * 5 + [None]
    assert [row["status"] for row in rows] == ["success"] * len(samples)


def test_webdataset_decodes_what_it_knows_and_leaves_the_rest(tmp_path):
    chain = transforms.build(CONFIG)
    writer = lookup("writer", "webdataset")(
        lambda name: (tmp_path / name).open("wb"), "00000", Layout.of(CONFIG, pa.schema([("url", pa.string())]))
    )
    for index, kind in enumerate(BODIES.values()):
        item = Item(shard_id=0, index=index, key=f"{index:09d}", url="http://x/")
        writer.write(transforms.apply(chain, Fetched(item=item, body=body(kind))))
    writer.close()
    path = str(tmp_path / "00000.tar")
    found = dict(zip(BODIES, wds.WebDataset(path, shardshuffle=False), strict=True))
    assert {end: Image.open(io.BytesIO(found[end][end])).size for end in BODIES if end != "bin"} == dict.fromkeys(
        ["gif", "png", "jpg", "webp", "tif"], (8, 6)
    )
    decoded = list(wds.WebDataset(path, shardshuffle=False).decode("pil"))
    assert decoded[1]["png"].size == (8, 6)
    assert isinstance(decoded[0]["gif"], (bytes, Image.Image))
    assert decoded[5]["bin"] == body(None)
    tuples = list(wds.WebDataset(path, shardshuffle=False).to_tuple("jpg;png;gif;webp;tif;bin", "json"))
    assert [json.loads(meta)["original_format"] for _, meta in tuples][:3] == ["gif", "png", "jpeg"]


@pytest.mark.parametrize("encode_format", ["jpg", "png", "webp", "avif"])
def test_columns_and_features_are_named_after_encode_format(encode_format, tmp_path):
    options = {"encode_format": encode_format, "encode_quality": 6}
    layout = Layout.of(JobConfig.from_flat({"url_list": "x.txt", **options}), pa.schema([("url", pa.string())]))
    sample = replace(
        transforms.apply([], Fetched(item=Item(shard_id=0, index=0, key="0", url="http://x/"), body=b"x")), data=b"data"
    )
    for name in ("parquet", "tfrecord", "webdataset"):
        writer = lookup("writer", name)(lambda file, name=name: (tmp_path / f"{name}-{file}").open("wb"), "0", layout)
        writer.write(sample)
        writer.close()
    assert pq.read_table(tmp_path / "parquet-0.parquet")[encode_format].to_pylist() == [b"data"]
    found = list(tfrecord.reader.tfrecord_loader(str(tmp_path / "tfrecord-0.tfrecord"), None))
    assert bytes(found[0][encode_format]) == b"data"
    stored = list(wds.WebDataset(str(tmp_path / "webdataset-0.tar"), shardshuffle=False))
    assert stored[0][encode_format] == b"data"
