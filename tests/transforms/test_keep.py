"""Bytes stored as they came."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms.keep import KeepBytes

KEEP = KeepBytes(JobConfig.from_flat({"url_list": "x.txt", "disable_all_reencoding": True}))


def keep(body: bytes) -> Sample:
    return KEEP(Sample(item=Item(shard_id=0, index=0, key="0", url="http://x/"), body=body))


def sizes(done: Sample):
    return done.width, done.height, done.original_width, done.original_height


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_sizes_come_from_the_header(kind, monkeypatch):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    out = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(out, kind)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    done = keep(out.getvalue())
    assert done.data == out.getvalue()
    assert sizes(done) == (30, 20, 30, 20)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}])
def test_all_three_kinds_of_webp(options):
    out = io.BytesIO()
    Image.new("RGB", (300, 200)).save(out, "WEBP", **options)
    assert sizes(keep(out.getvalue())) == (300, 200, 300, 200)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_sizes_are_upright(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (30, 20)).save(out, kind, exif=exif)
    assert sizes(keep(out.getvalue())) == (20, 30, 20, 30)


@pytest.mark.parametrize(
    ("kind", "original_format", "extension"),
    [
        ("JPEG", "jpeg", "jpg"), ("PNG", "png", "png"), ("WEBP", "webp", "webp"), ("GIF", "gif", "gif"),
        ("BMP", "bmp", "bmp"), ("TIFF", "tiff", "tif"), ("AVIF", "avif", "avif"), ("JPEG2000", "jp2", "jp2"),
    ],
)  # fmt: skip
def test_what_it_is_decides_the_extension(kind, original_format, extension):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    out = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(out, kind)
    done = keep(out.getvalue())
    assert (done.original_format, done.extension) == (original_format, extension)


@pytest.mark.parametrize(
    ("body", "original_format", "extension"),
    [
        (b"", "empty", "bin"), (b"words", "text", "bin"), (b'{"a": 1}', "json", "bin"), (b"\0\1\2", "unknown", "bin"),
        (b"<!doctype html><p>", "html", "html"), (b"<svg xmlns=''/>", "svg", "svg"), (b"%PDF-1.7", "pdf", "pdf"),
        (b"8BPS\0\1", "psd", "psd"),
    ],
)  # fmt: skip
def test_other_bytes_never_take_the_names_of_the_other_parts_of_a_sample(body, original_format, extension):
    done = keep(body)
    assert (done.original_format, done.extension) == (original_format, extension)


@given(st.binary(max_size=200))
def test_it_never_raises(body):
    done = keep(body)
    assert done.data is body
    assert done.extension not in (None, "", "txt", "json")


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0" * 100])
def test_anything_else_is_kept_without_sizes(body):
    done = keep(body)
    assert done.data == body
    assert sizes(done) == (None,) * 4
