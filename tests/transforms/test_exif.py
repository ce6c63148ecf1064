"""EXIF as JSON text: exifread is the oracle of every test that compares values."""

from __future__ import annotations

import io
import json
import logging
import random
import struct
import time
from pathlib import Path

import exifread
import pytest
from exifread.tags.exif import EXIF_TAGS, GPS_TAGS, INTEROP_TAGS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from img2dataset_dist.config import JobConfig
from img2dataset_dist.kinds import sniff
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms import exif as module
from img2dataset_dist.transforms.exif import ExtractExif
from img2dataset_dist.transforms.ifd import MOST_STEPS, TooMuch, Unusual, read_tags

EXTRACT = ExtractExif(JobConfig.from_flat({"url_list": "x.txt"}))
PHOTOGRAPHS = Path(__file__).parents[2] / "benchmarks" / "out" / "photographs"
"""Debian's wallpapers, where the benchmarks were run: tags of real cameras and programs."""


def extract(body: bytes):
    return EXTRACT(Sample(item=Item(shard_id=0, index=0, key="0", url="http://x/"), body=body)).exif


def oracle(body: bytes):
    """The JSON text by exifread alone; None when it raises."""
    try:
        tags = exifread.process_file(io.BytesIO(body), details=False, extract_thumbnail=False)
    except Exception:  # noqa: BLE001 (it raises whatever it stumbles upon)
        return None
    return json.dumps({name: str(value).strip() for name, value in tags.items()})


def no_exifread(monkeypatch):
    monkeypatch.setattr(exifread, "process_file", lambda *_, **__: pytest.fail("the slow way"))


def camera_tags() -> Image.Exif:
    """What a camera with GPS writes."""
    ratio = TiffImagePlugin.IFDRational
    tags = Image.Exif()
    tags.update({0x010F: "Canon  ", 0x0110: "EOS 5D", 0x0112: 6, 0x011A: ratio(72, 1), 0x011B: ratio(300, 7)})
    tags.update({0x0128: 2, 0x0131: "Adobe Photoshop", 0x0132: "2020:01:02 03:04:05", 0x0213: 2, 0x8298: "(c) Zoë"})
    tags.update({0x9C9D: b"M\0e\0\0\0", 0xEA1C: bytes(2060)})
    shot = tags.get_ifd(0x8769)
    shot.update({0x829A: ratio(1, 250), 0x829D: ratio(28, 10), 0x8822: 3, 0x8827: 400, 0x9000: b"0230"})
    shot.update({0x9101: b"\1\2\3\0", 0x9204: ratio(-1, 3), 0x9207: 5, 0x9209: 16, 0x920A: ratio(50, 1)})
    shot.update({0x927C: bytes(range(256)) * 20, 0x9286: b"ASCII\0\0\0a comment", 0xA001: 1, 0xA002: 4000})
    shot.update({0xA300: b"\3", 0xA301: b"\1", 0xA302: bytes(range(100)), 0xA432: (ratio(24, 1), ratio(70, 1)) * 2})
    place = tags.get_ifd(0x8825)
    degrees = (ratio(48, 1), ratio(51, 1), ratio(2958, 100))
    place.update({0: b"\2\3\0\0", 1: "N", 2: degrees, 3: "E", 4: degrees, 5: b"\0", 6: ratio(35, 1), 29: "2020:01:02"})
    return tags


def file(kind: str, exif: Image.Exif | None = None) -> bytes:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind, **({"exif": exif} if exif is not None else {}))
    return out.getvalue()


def jpeg(block: bytes, before: bytes = b"", after: bytes = b"\xff\xdb\0\x43" + bytes(65)) -> bytes:
    """The head of a JPEG around a TIFF structure."""
    app1 = b"Exif\0\0" + block
    return b"\xff\xd8" + before + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + after


def test_tags_of_a_camera(monkeypatch):
    body = file("JPEG", camera_tags())
    expected = oracle(body)
    no_exifread(monkeypatch)
    assert extract(body) == expected
    tags = json.loads(expected)
    assert tags["Image Orientation"] == "Rotated 90 CW"  # as it came, though what is stored is upright
    assert tags["Image Make"] == "Canon"
    assert tags["EXIF ExposureTime"] == "1/250"
    assert tags["GPS GPSLatitude"] == "[48, 51, 1479/50]"
    assert not any("MakerNote" in name or "UserComment" in name for name in tags)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "AVIF", "GIF", "JPEG2000"])
def test_same_as_exifread_in_every_kind_of_file(kind):
    body = file(kind, camera_tags())
    assert extract(body) == oracle(body)
    assert ("Image Make" in extract(body)) == (kind in ("JPEG", "PNG", "TIFF", "AVIF"))


def test_webp_where_exifread_finds_nothing():
    body = file("WEBP", camera_tags())
    assert oracle(body) == "{}"
    assert "EXIF ExposureTime" in extract(body)


def test_a_webp_without_the_prefix_that_exifread_expects():
    tags = camera_tags().tobytes().removeprefix(b"Exif\0\0")
    chunks = [(b"VP8X", b"\x08" + bytes(9)), (b"odd ", b"12345\0"), (b"EXIF", tags)]
    content = b"".join(name + struct.pack("<I", len(data) - (name == b"odd ")) + data for name, data in chunks)
    body = b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content
    assert json.loads(extract(body))["EXIF ExposureTime"] == "1/250"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_without_tags_exifread_is_not_even_called(kind, monkeypatch):
    body = file(kind)
    no_exifread(monkeypatch)
    assert extract(body) == "{}"


def test_other_files_are_left_to_exifread_if_they_may_have_tags(monkeypatch):
    monkeypatch.setattr(exifread, "process_file", lambda *_, **__: {"Image Make": " Acme "})
    assert extract(b"\0\0\0\x18ftypheic.... Exif") == '{"Image Make": "Acme"}'
    assert extract(b"IIU\0 a camera's raw file" + bytes(9)) == '{"Image Make": "Acme"}'
    assert extract(b"\0\0\0\x18ftypheic....") == "{}"


def test_an_exception_gives_none(monkeypatch):
    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(exifread, "process_file", broken)
    assert extract(b"\0\0\0\x18ftypheic.... Exif") is None


def test_photographs_of_debian(monkeypatch):
    files = sorted(path for path in PHOTOGRAPHS.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    if not files:
        pytest.skip("the benchmarks' photographs are not here")
    bodies = [path.read_bytes() for path in files]
    expected = [oracle(body) for body in bodies]
    assert sum(len(text) > 100 for text in expected) > 5
    no_exifread(monkeypatch)
    assert [extract(body) for body in bodies] == expected


TAGS = sorted({*EXIF_TAGS, *GPS_TAGS, *INTEROP_TAGS})
POINTERS = (0x8769, 0x8825, 0xA005, 0x014A, 0x0201)
TEXT = b"Some text, then \xc3\xa9\xff\xfe\0 and the rest of it, 0123456789 abcdefghijklmnopqrstuvwxyz"


@st.composite
def blocks(draw) -> bytes:
    """TIFF structures with all types of values: whole, cut off, in loops, with lies about counts and offsets."""
    order = draw(st.sampled_from("<>"))
    noise = random.Random(draw(st.integers(0, 9)))
    directories = draw(st.lists(st.lists(entries(), max_size=6), min_size=1, max_size=5))
    starts, at = [], 8
    for directory in directories:
        starts.append(at)
        at += 6 + 12 * len(directory)
    places = st.one_of(st.sampled_from(starts), st.integers(at, at + 300), st.integers(0, 2**32 - 1), st.just(0))
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", draw(places.filter(bool)))
    for index, directory in enumerate(directories):
        out += struct.pack(order + "H", len(directory))
        for tag, kind, count, raw in directory:
            inline = raw if raw is not None else struct.pack(order + "I", draw(places))
            out += struct.pack(order + "HHI", tag, kind, count) + inline
        out += struct.pack(order + "I", draw(st.one_of(st.just(0), places, st.sampled_from(starts[index:]))))
    out += noise.choice([TEXT, b"", noise.randbytes(200), struct.pack(order + "8I", 1, 2, 3, 0, 6, 4, 0, 0) * 30])
    return out[: draw(st.one_of(st.just(len(out)), st.integers(8, len(out))))]


def entries() -> st.SearchStrategy[tuple[int, int, int, bytes | None]]:
    """Tag, type, count, and either four bytes of value or None for an offset."""
    counts = st.sampled_from([0, 1, 1, 1, 2, 3, 4, 5, 8, 20, 21, 49, 50, 51, 60, 999, 1000, 70_000, 2**32 - 1])
    raws = st.one_of(st.none(), st.binary(min_size=4, max_size=4), st.sampled_from([b"\0\0\0\1", b"\1\0\0\0"]))
    any_tag = st.tuples(st.one_of(st.sampled_from(TAGS), st.integers(0, 65535)), st.integers(0, 14), counts, raws)
    pointer = st.tuples(st.sampled_from(POINTERS), st.sampled_from([4, 4, 4, 13, 3, 9]), st.just(1), st.none())
    return st.one_of(any_tag, any_tag, pointer)


CONTAINERS = {
    "tiff": lambda block: block,
    "jpeg": jpeg,
    "late": lambda block: jpeg(block, b"\xff\xe0\0\x10JFIF\0" + bytes(9), b""),
    "png": lambda block: (
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(17) + struct.pack(">I", len(block)) + b"eXIf" + block
    ),
}


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(sorted(CONTAINERS)), blocks())
@example("jpeg", b"MM\0*\0\0\0\x08" + b"\0\1\x87\x69\0\4\0\0\3\xe8\0\0\0\0")  # where is the EXIF directory?
@example("tiff", b"II*\0\x08\0\0\0" + b"\1\0\x00\x90\7\0\4\0\0\x000230\0\0\0\0")
def test_generated_blocks_give_what_exifread_gives(container, block):
    body = CONTAINERS[container](block)
    try:
        tags = module._tags(body, sniff(body))
    except TooMuch:
        return
    except Exception:  # noqa: BLE001
        assert extract(body) is None
        assert oracle(body) is None
        return
    assert json.dumps(tags) == extract(body) == oracle(body)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13])
@pytest.mark.parametrize("count", [1, 2, 4, 51])
def test_ordinary_values_do_not_take_the_slow_way(order, kind, count):
    entry = struct.pack(order + "HHHI", 1, 0x829A, kind, count) + (b"\0\0\0\x1a" if order == ">" else b"\x1a\0\0\0")
    block = (b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08") + entry + bytes(4) + bytes(range(256)) * 2
    tags = read_tags(b"padding" + block, 7)
    assert json.dumps({name: value.strip() for name, value in tags.items()}) == oracle(block)
    assert list(tags) == ["Image ExposureTime"]


@pytest.mark.parametrize(("kind", "tag"), [(5, 0x0112), (11, 0x8769), (9, 0x8825)])
def test_the_rest_is_left_to_exifread(kind, tag):
    block = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIi", 1, tag, kind, 1, -8) + bytes(30)
    with pytest.raises(Unusual):
        read_tags(block, 0)
    assert extract(jpeg(block)) == oracle(jpeg(block))


def entries_of(count: int, tag: int, kind: int, values: int, at: int = 8) -> bytes:
    return struct.pack(">H", count) + struct.pack(">HHII", tag, kind, values, at) * count


HOSTILE = {
    "many long lists": b"MM\0*\0\0\0\x08" + entries_of(5000, 0x9000, 7, 999),
    "many texts": b"MM\0*\0\0\0\x08" + entries_of(5000, 0x010F, 2, 60000) + b"x" * 60000,
    "many names": b"MM\0*\0\0\0\x08\xff\xff" + b"".join(struct.pack(">HHII", tag, 3, 999, 8) for tag in range(65535)),
    "a long chain": b"MM\0*\0\0\0\x08" + b"".join(struct.pack(">HI", 0, at) for at in range(14, 600_000, 6)),
    "directories in directories": b"MM\0*\0\0\0\x08" + entries_of(5000, 0x8825, 4, 1) + bytes(60000),
    "exifread with floats": b"MM\0*\0\0\0\x08"
    + struct.pack(">H", 65535)
    + struct.pack(">HHII", 0x0112, 11, 999, 9) * 65535,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_take_no_time(name):
    began = time.process_time()
    for _ in range(3):
        text = extract(HOSTILE[name])
    assert time.process_time() - began < 3 * 0.25  # a tenth of it, on a quiet machine
    assert text is None or len(text) < MOST_STEPS


def test_a_photo_is_far_from_the_limit(monkeypatch):
    monkeypatch.setattr("img2dataset_dist.transforms.ifd.MOST_STEPS", MOST_STEPS // 30)
    assert extract(file("JPEG", camera_tags())) != "{}"
    monkeypatch.setattr("img2dataset_dist.transforms.ifd.MOST_STEPS", 100)
    assert extract(file("JPEG", camera_tags())) is None


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 200))
def test_garbage_never_raises(noise, at):
    good = file("JPEG", camera_tags())
    for body in (noise, b"\xff\xd8\xff\xe1\0\x80Exif\0\0" + noise, good[:at] + noise + good[at + len(noise) :]):
        text = extract(body)
        assert text is None or isinstance(json.loads(text), dict)


def test_nothing_is_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        extract(b"\0\0\0\x18ftypheic.... Exif no image at all")
    assert not caplog.records
