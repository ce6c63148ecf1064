"""Caps that hold before anything is decoded: frames, sides, pixels."""

from __future__ import annotations

import contextlib
import io
import struct
import time

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from img2dataset_dist.config import JobConfig
from img2dataset_dist.decoders.frames import more_than
from img2dataset_dist.errors import DecodeError, TooManyFrames, TooManyPixels
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms import image as image_module
from img2dataset_dist.transforms.image import ImageTransform

COUNT = 7
PICTURES = [Image.new("RGB", (20, 14), (30 * i, 255 - 30 * i, 90)) for i in range(COUNT)]


def transform(**options) -> ImageTransform:
    return ImageTransform(JobConfig.from_flat({"url_list": "x.txt", **options}))


def sample(body: bytes) -> Sample:
    return Sample(item=Item(shard_id=0, index=0, key="00000", url="http://x/"), body=body)


def saved(kind: str, **options) -> bytes:
    out = io.BytesIO()
    PICTURES[0].save(out, kind, save_all=True, append_images=PICTURES[1:], **options)
    return out.getvalue()


def pages(big: bool, order: str) -> bytes:
    """A TIFF of `COUNT` pages of one grey pixel, in either size and byte order."""
    word, offset, size = ("Q", "Q", 20) if big else ("H", "I", 12)
    body = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    body += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    for number in range(COUNT):
        tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 4), (277, 1), (278, 1), (279, 1)]
        page = struct.pack(order + word, len(tags))
        for tag, value in tags:
            page += struct.pack(order + "HH" + offset, tag, 3, 1)
            page += struct.pack(order + "H", value).ljust(8 if big else 4, b"\0")
        last = number == COUNT - 1
        end = len(body) + len(page) + struct.calcsize(offset)
        assert len(page) == struct.calcsize(word) + size * len(tags)
        body += page + struct.pack(order + offset, 0 if last else end)
    return body


def icons() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (256, 256)).save(out, "ICO", sizes=[(16 * i, 16 * i) for i in range(1, COUNT + 1)])
    return out.getvalue()


def heic_sequence() -> bytes:
    """A picture, and beside it a track that says how many samples it has (ISO 14496-12, 8.7.3)."""
    out = io.BytesIO()
    pillow_heif.from_pillow(PICTURES[0]).save(out)
    stsz = struct.pack(">I4sIII", 20, b"stsz", 0, 100, COUNT)
    for name in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        stsz = struct.pack(">I4s", 8 + len(stsz), name) + stsz
    return out.getvalue() + stsz


FILES = {
    "gif": saved("GIF"),
    "gif, own palettes": saved("GIF", optimize=False, disposal=2),
    "gif, with comments": saved("GIF", comment=b"abc, def\0,"),
    "png": saved("PNG"),
    "webp": saved("WEBP", lossless=True),
    "tiff": saved("TIFF"),
    "tiff, big": pages(big=True, order="<"),
    "tiff, Motorola": pages(big=False, order=">"),
    "tiff, big, Motorola": pages(big=True, order=">"),
    "ico": icons(),
    "avif": saved("AVIF"),
    "heic": heic_sequence(),
}

UNREADABLE = ("heic", "tiff, Motorola", "tiff, big, Motorola")
"""Only their structure is made here, of tracks and pages without pixels."""


@pytest.mark.parametrize("name", FILES)
def test_the_cap_is_inclusive_and_nothing_is_decoded_beyond_it(name, monkeypatch):
    body = FILES[name]
    kind = name.split(",")[0]
    assert not more_than(body, kind, COUNT)
    assert more_than(body, kind, COUNT - 1)
    if name in UNREADABLE:
        return
    with contextlib.suppress(DecodeError) if name == "tiff, big" else contextlib.nullcontext():
        assert transform(max_decode_frames=COUNT)(sample(body)).data
    monkeypatch.setattr(image_module, "decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(TooManyFrames) as caught:
        transform(max_decode_frames=COUNT - 1)(sample(body))
    assert caught.value.code == "too_many_frames"
    with pytest.raises(TooManyFrames):
        transform(max_decode_frames=1)(sample(body))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_a_single_picture_is_one_frame(kind):
    out = io.BytesIO()
    PICTURES[0].save(out, kind)
    assert transform(max_decode_frames=1)(sample(out.getvalue())).data


def test_pages_that_lead_back_are_not_counted_for_ever():
    body = pages(big=False, order="<")
    assert more_than(body, "tiff", COUNT - 1)
    last = body.rindex(struct.pack("<I", 0))
    looped = body[:last] + struct.pack("<I", 8)
    assert not more_than(looped, "tiff", COUNT)


def gif_of(frames: int, between: bytes = b"") -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + (frame + between) * frames + b";"


def test_the_default_cap():
    work = transform()
    assert work(sample(gif_of(10_000))).data
    with pytest.raises(TooManyFrames):
        work(sample(gif_of(10_001)))


def test_counting_is_quick():
    """No more is counted than needed, and what cannot have many frames is not walked through."""
    one = gif_of(1)[:-1].replace(b"\x02\x44\x01\0", (b"\xff" + b"\1" * 255) * 40_000 + b"\0")
    many = gif_of(400_000)
    began = time.process_time()
    assert not more_than(one, "gif", 10_000)
    assert more_than(many, "gif", 10_000)
    assert time.process_time() - began < 0.5


@given(
    kind=st.sampled_from(["gif", "png", "webp", "tiff", "ico", "avif", "heic", "jpeg"]),
    body=st.binary(max_size=300),
    start=st.sampled_from([b"", *(body[:60] for body in FILES.values())]),
)
def test_counting_never_fails(kind, body, start):
    assert more_than(start + body, kind, 3) in (True, False)


@pytest.mark.parametrize(("size", "fine"), [((100, 3), True), ((101, 3), False), ((3, 100), True), ((3, 101), False)])
def test_sides(size, fine, monkeypatch):
    out = io.BytesIO()
    Image.new("L", size).save(out, "PNG")
    work = transform(max_decode_side=100)
    if fine:
        assert work(sample(out.getvalue())).data
        return
    monkeypatch.setattr(image_module, "decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(TooManyPixels, match="max_decode_side"):
        work(sample(out.getvalue()))
