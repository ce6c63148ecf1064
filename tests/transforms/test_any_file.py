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
