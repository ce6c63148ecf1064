"""EXIF as JSON text."""

from __future__ import annotations

import io
import json
import logging

import exifread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms.exif import ExtractExif

EXTRACT = ExtractExif(JobConfig.from_flat({"url_list": "x.txt"}))


def extract(body: bytes):
    return EXTRACT(Sample(item=Item(shard_id=0, index=0, key="0", url="http://x/"), body=body)).exif


def file(kind, **tags) -> bytes:
    exif = Image.Exif()
    for number, value in tags.items():
        exif[int(number[1:], 16)] = value
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind, **({"exif": exif} if tags else {}))
    return out.getvalue()


def test_tags_of_a_jpeg():
    tags = json.loads(extract(file("JPEG", x0112=6, x010F="Canon  ", x0132="2020:01:02 03:04:05")))
    assert tags["Image Orientation"] == "Rotated 90 CW"
    assert tags["Image Make"] == "Canon"
    assert tags["Image DateTime"] == "2020:01:02 03:04:05"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_same_as_exifread_itself(kind):
    body = file(kind, x010F="Make", x0110="Model")
    tags = exifread.process_file(io.BytesIO(body), details=False)
    assert json.loads(extract(body)) == {name: str(value).strip() for name, value in tags.items()}
    assert "Image Make" in tags


def test_no_thumbnail(monkeypatch):
    monkeypatch.setattr(exifread, "process_file", lambda *_, **__: {"JPEGThumbnail": b"x" * 9, "Image Make": "Acme"})
    assert extract(b"Exif") == '{"Image Make": "Acme"}'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_without_tags_exifread_is_not_even_called(kind, monkeypatch):
    monkeypatch.setattr(exifread, "process_file", lambda *_, **__: pytest.fail("called"))
    assert extract(file(kind)) == "{}"


def test_an_exception_gives_none(monkeypatch):
    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(exifread, "process_file", broken)
    assert extract(b"..Exif..") is None


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 200))
def test_garbage_never_raises(noise, at):
    good = file("JPEG", x010F="Make")
    for body in (noise, b"\xff\xd8\xff\xe1\0\x80Exif\0\0" + noise, good[:at] + noise + good[at + len(noise) :]):
        text = extract(body)
        assert text is None or isinstance(json.loads(text), dict)


def test_nothing_is_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        extract(b"Exif no image at all")
    assert not caplog.records
