"""Files of any kind, kept as they came, each with what it is."""

from __future__ import annotations

import gzip
import json
import wave
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.photos import picture

from img2dataset_dist.config import JobConfig
from img2dataset_dist.kinds import HEAD_BYTES
from img2dataset_dist.model import Item, MediaFile, Sample
from img2dataset_dist.transforms.any_file import AnyFile

_, PHOTO = picture(0)


def looked_at(folder: Path, body: bytes) -> Sample:
    path = folder / "body"
    path.write_bytes(body)
    file = MediaFile(path=str(path), size=len(body))
    sample = Sample(item=Item(shard_id=0, index=0, key="0", url="http://x/y.flac"), file=file)
    done = AnyFile(JobConfig.from_flat({"url_list": "x.txt", "media": "any"}))(sample)
    (part,) = done.parts
    assert (part.path, part.size, Path(part.path).read_bytes()) == (str(path), len(body), body)
    return done


def sound(folder: Path, seconds: int) -> bytes:
    with wave.open(str(folder / "made.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000 * seconds))
    return (folder / "made.wav").read_bytes()


def archive(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "made.zip", "w") as file:
        file.writestr("a", "b")
    return (folder / "made.zip").read_bytes()


@pytest.mark.parametrize(
    ("body", "extension", "kind", "mime"),
    [
        (b"%PDF-1.7 ...", "pdf", "text", "application/pdf"),
        (gzip.compress(b"x"), "gz", "archive", "application/gzip"),
        (b"<!doctype html><html>", "html", "page", "text/html"),
        (json.dumps({"a": 1}).encode(), "data.json", "text", "application/json"),
        (b"just words", "data.txt", "text", "text/plain"),
        (b"#EXTM3U\n#EXTINF:1,\na.ts\n", "m3u8", "playlist", "application/vnd.apple.mpegurl"),
        (
            b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">',
            "mpd",
            "playlist",
            "application/dash+xml",
        ),
        (b"\x00\x01\x02 nobody knows", "bin", "other", "application/octet-stream"),
        (b"WEBVTT\n\n", "vtt", "text", "text/vtt"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg", "image", "image/svg+xml"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!--Made by hand--><svg:svg>', "svg", "image", "image/svg+xml"),
        (
            b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "a" "b" [\n<!ENTITY c "d">]><svg>',
            "svg",
            "image",
            "image/svg+xml",
        ),
        (b'<!doctype html><link rel=icon href="data:image/svg+xml,<svg x=1/>">', "html", "page", "text/html"),
        (b'<link rel="icon" href="x.png"><svg ></svg>', "html", "page", "text/html"),
        (b"<!-- saved --> <noscript>\n<MPD ></noscript>", "html", "page", "text/html"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><svg >', "html", "page", "text/html"),
        (b'<?xml version="1.0"?><rss><title>&lt;html&gt; <html></title></rss>', "xml", "text", "application/xml"),
        (b"\xef\xbb\xbf#EXTM3U\n", "m3u8", "playlist", "application/vnd.apple.mpegurl"),
        (b"\n\n#EXTM3U\n", "m3u8", "playlist", "application/vnd.apple.mpegurl"),
        (b"\xef\xbb\xbfWEBVTT\n", "vtt", "text", "text/vtt"),
        (b"MThd\x00\x00\x00\x06\x00\x01\x00\x02\x00\x60MTrk", "mid", "audio", "audio/midi"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_is(tmp_path: Path, body: bytes, extension: str, kind: str, mime: str) -> None:
    done = looked_at(tmp_path, body)
    assert (done.parts[0].extension, done.extra["kind"], done.extra["mime"]) == (extension, kind, mime)
    assert done.width is None


def test_a_photo_has_its_size(tmp_path: Path) -> None:
    done = looked_at(tmp_path, PHOTO)
    assert (done.parts[0].extension, done.extra["kind"]) == ("jpg", "image")
    assert done.width == done.original_width
    assert done.width
    assert done.height


def test_a_sound_has_its_duration(tmp_path: Path) -> None:
    done = looked_at(tmp_path, sound(tmp_path, 3))
    assert done.extra == {"kind": "audio", "mime": "audio/vnd.wave", "duration": 3.0}


def tag(size: int) -> bytes:
    """An ID3v2.4 tag with so many bytes of padding; the size is in groups of seven bits."""
    return b"ID3\x04\x00\x00" + bytes(size >> 7 * place & 0x7F for place in (3, 2, 1, 0)) + bytes(size)


@pytest.mark.parametrize("size", [0, 1000, HEAD_BYTES - 12, 300_000])
@pytest.mark.parametrize(
    ("sound", "kind"),
    [(b"fLaC\x00\x00\x00\x22", "flac"), (b"\xff\xf1\x50\x80\x02\x1f\xfc", "aac"), (b"\xff\xfb\x90", "mp3")],
)
def test_what_stands_behind_a_tag_counts(tmp_path: Path, sound: bytes, kind: str, size: int) -> None:
    done = looked_at(tmp_path, tag(size) + sound + bytes(100))
    assert (done.parts[0].extension, done.original_format, done.extra["kind"]) == (kind, kind, "audio")


@pytest.mark.parametrize(
    "body", [b"ID3", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f", tag(0) * 20_000], ids=["short", "far", "many"]
)
def test_a_tag_and_no_more(tmp_path: Path, body: bytes) -> None:
    assert looked_at(tmp_path, body).original_format == "mp3"


def test_an_archive(tmp_path: Path) -> None:
    assert looked_at(tmp_path, archive(tmp_path)).extra == {"kind": "archive", "mime": "application/zip"}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(
        [b"", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypmp42", b"\xff\xd8\xff", b"OggS", b"\x1aE\xdf\xa3"]
    ),
    rest=st.binary(max_size=200),
)
def test_garbage_is_kept_too(tmp_path: Path, start: bytes, rest: bytes) -> None:
    assert looked_at(tmp_path, start + rest + b"!").failure is None
