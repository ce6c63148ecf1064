"""Damaged pictures, as many as one likes, always the same ones for the same numbers.

    name, body = mutant(1234)               deterministic
    trial = Trial(count=4000, folder=path).run()    all of them through the transforms, in a process of their own
    trial.codes, trial.crashes, trial.bugs, trial.slow, trial.peak_mib

The process tells which one it is at, so that one it dies of is known by number; the rest goes on in another process.
What was found is saved as a file in the folder. By hand: python -m support.fuzzing 0 4000 folder
"""

from __future__ import annotations

import collections
import faulthandler
import functools
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from support.gallery import base, exif, pillow
from support.handmade import (
    PNG_GREY,
    PNG_PALETTE,
    PNG_RGBA,
    bmp,
    bmp_rgba,
    bmp_rows,
    icc_matrix,
    png,
    ppm,
    rle8,
)
from support.handmade import SRGB_D50 as SRGB

TESTS = Path(__file__).parents[1]
SLOW, HANG = 4.0, 30.0
"""Seconds: what is noted, and what is a hang, after which the process ends itself."""

MOST_BYTES = 6 * 2**30
"""Of memory for the process: what wants more fails, rather than the machine."""

LEAP = 256
"""MiB by which one file may raise the peak of memory before it is noted."""

EXPECTED = frozenset({
    "success", "decode_error", "not_media", "unsupported_format", "too_many_pixels", "too_many_frames",
})  # fmt: skip
"""What may come of a damaged file. `encode_error` and `media_error` would mean that a size was not checked."""

OPTIONS = (
    {},
    {
        "allow_truncated": True,
        "resize_mode": "keep_ratio",
        "image_size": 64,
        "encode_format": "png",
        "encode_quality": 1,
    },
)

# the files


@functools.cache
def originals() -> tuple[tuple[str, bytes], ...]:
    """Names and contents: small pictures of each format in its main flavours, some with tags and profiles."""
    return tuple(_originals())


def _originals() -> Iterator[tuple[str, bytes]]:
    image = base().resize((72, 48), Image.Resampling.BOX)
    pixels, grey = np.asarray(image), image.convert("L")
    rgba = image.convert("RGBA")
    rgba.putalpha(grey)
    few = image.quantize(32, dither=Image.Dither.NONE)
    profile = icc_matrix(SRGB[:, ::-1], 2.2)
    frames = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)] * 2, "duration": 100}
    yield "jpeg", pillow(image, "JPEG")
    yield "jpeg_tags", pillow(image, "JPEG", exif=exif(6), icc_profile=profile)
    yield "jpeg_progressive", pillow(image, "JPEG", progressive=True, restart_marker_blocks=4)
    yield "jpeg_cmyk", pillow(image.convert("CMYK"), "JPEG")
    yield "png", pillow(image, "PNG", exif=exif(8), icc_profile=profile)
    yield (
        "png_palette",
        png(np.asarray(few), 8, PNG_PALETTE, before=[(b"PLTE", bytes(few.getpalette())), (b"tRNS", b"\0a")]),
    )
    yield "png_16", png(np.asarray(rgba).astype(np.uint16) * 257, 16, PNG_RGBA, interlaced=True)
    yield "png_1", png(np.asarray(grey) >> 7, 1, PNG_GREY, before=[(b"tRNS", b"\0\1")])
    yield "png_animated", pillow(image, "PNG", **frames)
    yield "webp", pillow(image, "WEBP", exif=exif(6), icc_profile=profile)
    yield "webp_lossless", pillow(rgba, "WEBP", lossless=True)
    yield "webp_animated", pillow(rgba, "WEBP", **frames)
    yield "gif", pillow(few, "GIF", transparency=3)
    yield "gif_animated", pillow(few, "GIF", **frames)
    yield "avif", pillow(rgba, "AVIF", exif=exif(6), icc_profile=profile, speed=9)
    yield "avif_animated", pillow(image, "AVIF", speed=9, **frames)
    yield "heic", pillow(image, "HEIF", exif=exif(6), icc_profile=profile)
    yield "heic_alpha", pillow(rgba, "HEIF")
    yield from _tiffs(pixels, image)
    yield "bmp", bmp(72, 48, 24, bmp_rows(pixels.reshape(48, -1)))
    palette = np.array(few.getpalette(), np.uint8).reshape(-1, 3)
    yield "bmp_rle", bmp(72, 48, 8, rle8(np.asarray(few)), palette=palette, compression=1)
    yield "bmp_rgba", bmp_rgba(np.asarray(rgba))
    yield "jp2", pillow(image, "JPEG2000")
    yield "j2k_tiles", pillow(rgba, "JPEG2000", no_jp2=True, tile_size=(32, 32))
    yield "ico_png", pillow(rgba, "ICO", sizes=[(36, 24), (72, 48)])
    yield "ico_bmp", pillow(rgba, "ICO", sizes=[(36, 24), (72, 48)], bitmap_format="bmp")
    yield "ppm", ppm("P6", 72, 48, 255, image.tobytes())
    yield "ppm_text", ppm("P3", 72, 48, 255, " ".join(map(str, image.tobytes())).encode())
    yield "pgm_16", ppm("P5", 72, 48, 65535, (np.asarray(grey).astype(">u2") * 257).tobytes())


def _tiffs(pixels: np.ndarray, image: Image.Image) -> Iterator[tuple[str, bytes]]:
    for name, options in (
        ("tiff", {"extratags": [(274, 3, 1, 6, True)]}),
        ("tiff_lzw_big", {"compression": "lzw", "rowsperstrip": 8, "predictor": 2}),
        ("tiff_tiles", {"tile": (32, 32), "compression": "zlib"}),
        ("tiff_planar", {"planarconfig": "separate"}),
    ):
        out = io.BytesIO()
        samples = np.moveaxis(pixels, 2, 0) if "planarconfig" in options else pixels
        with tifffile.TiffWriter(out, byteorder=">" if name.endswith("big") else "<") as writer:
            for _ in range(2):
                writer.write(samples, photometric="rgb", metadata=None, **options)
        yield name, out.getvalue()
    yield "tiff_jpeg", pillow(image, "TIFF", compression="jpeg")
    yield "tiff_fax", pillow(image.convert("1"), "TIFF", compression="group4")


# the damage

ODD = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
"""Numbers that break what reads them."""


def mutant(number: int) -> tuple[str, bytes]:
    """Name and content of one damaged file; never empty, as the fetcher lets no empty body through."""
    rng = random.Random(f"fuzz/{number}")
    name, body = originals()[number % len(originals())]
    damage = rng.choice(DAMAGES)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        body = damage(body, rng) or body
    if body.startswith(b"\x89PNG") and rng.random() < 0.7:
        body = mended(body)
    return f"{number:06d}-{name}-{damage.__name__}", body


def truncated(body: bytes, rng: random.Random) -> bytes:
    """Anywhere, more often near its beginning."""
    return body[: 1 + int(len(body) * rng.random() ** rng.choice((1, 3)))]


def flipped(body: bytes, rng: random.Random) -> bytes:
    """Single bits."""
    out = bytearray(body)
    for _ in range(rng.choice((1, 2, 8, 40))):
        out[place(body, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def spliced(body: bytes, rng: random.Random) -> bytes:
    """A part is repeated, removed, moved, or replaced by noise or by a part of another picture."""
    start, length = place(body, rng), rng.choice((1, 2, 4, 16, 200))
    other = rng.choice(originals())[1]
    at = rng.randrange(len(other))
    put = rng.choice(
        (b"", body[start : start + length] * 2, rng.randbytes(length), other[at : at + length], bytes(length))
    )
    return body[:start] + put + body[start + rng.choice((0, len(put), length)) :]


def numbered(body: bytes, rng: random.Random) -> bytes:
    """A number of 1, 2 or 4 bytes becomes an odd one."""
    start = place(body, rng)
    return written(body, start, rng.choice((1, 2, 4)), rng.choice(("big", "little")), rng)


def relengthed(body: bytes, rng: random.Random) -> bytes:
    """The length of a chunk, segment, box or count of a directory becomes an odd one, or is off by a little."""
    found = list(lengths(body))
    if not found:
        return numbered(body, rng)
    start, size, order = rng.choice(found)
    if rng.random() < 0.5:
        return written(body, start, size, order, rng)
    value = int.from_bytes(body[start : start + size], order) + rng.choice((-8, -4, -1, 1, 4, 8, 100))
    return body[:start] + (value % 256**size).to_bytes(size, order) + body[start + size :]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (truncated, flipped, spliced, numbered, relengthed)


def place(body: bytes, rng: random.Random) -> int:
    """Half of them in the first 200 bytes, where the headers are."""
    return rng.randrange(min(len(body), 200) if rng.random() < 0.5 else len(body))


def written(body: bytes, start: int, size: int, order: str, rng: random.Random) -> bytes:
    value = rng.choice(ODD) % 256**size
    return body[:start] + value.to_bytes(size, order) + body[start + size :]


def lengths(body: bytes) -> Iterator[tuple[int, int, str]]:
    """Offset, size and byte order of the lengths that this file has."""
    if body.startswith(b"\x89PNG"):
        yield from ((at, 4, "big") for at in _steps(body, 8, lambda at: 12 + int.from_bytes(body[at : at + 4], "big")))
    elif body.startswith(b"\xff\xd8"):
        steps = _steps(body, 2, lambda at: 2 + int.from_bytes(body[at + 2 : at + 4], "big"))
        yield from ((at + 2, 2, "big") for at in steps)
    elif body.startswith(b"RIFF"):
        yield 4, 4, "little"
        steps = _steps(body, 12, lambda at: 8 + int.from_bytes(body[at + 4 : at + 8], "little"))
        yield from ((at + 4, 4, "little") for at in steps)
    elif body[4:8] in (b"ftyp", b"jP  "):
        yield from ((start, 4, "big") for start in _boxes(body, 0, len(body)))
    elif body[:2] in (b"II", b"MM"):
        order = "little" if body[:2] == b"II" else "big"
        first = int.from_bytes(body[4:8], order)
        count = int.from_bytes(body[first : first + 2], order)
        yield first, 2, order
        for at in range(first + 2, min(first + 2 + 12 * count, len(body) - 12), 12):
            yield from ((at, 2, order), (at + 2, 2, order), (at + 4, 4, order), (at + 8, 4, order))


def _steps(body: bytes, at: int, step: Callable[[int], int]) -> Iterator[int]:
    while at + 12 <= len(body) and at < 10_000_000:
        yield at
        at += max(1, step(at))


CONTAINERS = (b"meta", b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"jp2h", b"iinf")


def _boxes(body: bytes, at: int, end: int) -> Iterator[int]:
    """Starts of boxes, those within boxes too (ISO 14496-12)."""
    while at + 8 <= end:
        size = int.from_bytes(body[at : at + 4], "big")
        if size < 8:
            return
        yield at
        if body[at + 4 : at + 8] in CONTAINERS:
            inner = {b"meta": 12, b"iinf": 14}.get(body[at + 4 : at + 8], 8)
            yield from _boxes(body, at + inner, min(end, at + size))
        at += size


def mended(body: bytes) -> bytes:
    """A PNG with right checksums, so that the damage goes deeper than the first check."""
    out = bytearray(body)
    for at in _steps(body, 8, lambda at: 12 + int.from_bytes(body[at : at + 4], "big")):
        end = at + 8 + int.from_bytes(body[at : at + 4], "big")
        if end + 4 <= len(out):
            out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
    return bytes(out)


# the run


@dataclass(slots=True, kw_only=True)
class Trial:
    """Many damaged files through the transforms, and what came of it.

    Attributes:
        first, count: numbers of the files.
        folder: for what is found.
        codes: outcomes of all, with both sets of options.
        crashes, bugs, slow, large: names of files, each with what it did.
        peak_mib: most memory that a process had.
    """

    first: int = 0
    count: int
    folder: Path
    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    crashes: list[str] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    peak_mib: int = 0

    def run(self) -> Trial:
        """One process; another one only after a crash."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start, end = self.first, self.first + self.count
        while start < end:
            command = [sys.executable, "-m", "support.fuzzing", str(start), str(end), str(self.folder)]
            environment = {**os.environ, "PYTHONPATH": str(TESTS)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=TESTS)
            for line in done.stdout.splitlines():
                self._note(json.loads(line))
            if done.returncode == 0:
                return self
            at = int((self.folder / "current").read_text())
            self.crashes.append(f"{saved(at, self.folder)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
            start = at + 1
        return self

    def _note(self, said: dict[str, str | int]) -> None:
        kind, value = next(iter(said.items()))
        if kind == "code":
            self.codes[str(value)] += 1
        elif kind == "peak":
            self.peak_mib = max(self.peak_mib, int(value))
        else:
            getattr(self, kind).append(str(value))


def saved(number: int, folder: Path) -> str:
    """The file, kept for whoever looks into it; its name."""
    name, body = mutant(number)
    (folder / name).write_bytes(body)
    return name


def main(first: int, end: int, folder: Path) -> None:
    """Lines of JSON: a code for each file and set of options, and what is worth a note."""
    from img2dataset_dist import transforms  # noqa: PLC0415 (the test process itself decodes nothing)
    from img2dataset_dist.config import JobConfig  # noqa: PLC0415
    from img2dataset_dist.model import Fetched, Item  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    chains = [transforms.build(JobConfig.from_flat({"url_list": "x.txt", **options})) for options in OPTIONS]
    originals()
    current = os.open(folder / "current", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    peak = _peak_mib()
    for number in range(first, end):
        os.pwrite(current, f"{number:09d}".encode(), 0)
        faulthandler.dump_traceback_later(HANG, exit=True)
        body = mutant(number)[1]
        fetched = Fetched(item=Item(shard_id=0, index=0, key="0", url="http://x/"), body=body)
        for index, chain in enumerate(chains):
            began = time.monotonic()
            done = transforms.apply(chain, fetched)
            took = time.monotonic() - began
            code = done.failure.code if done.failure else "success"
            note("code", code)
            if code not in EXPECTED or (done.failure is None and problem(done.data, done.width, done.height)):
                text = done.failure.message if done.failure else problem(done.data, done.width, done.height)
                note("bugs", f"{saved(number, folder)} with options {index}: {code}: {text}")
            if took > SLOW:
                note("slow", f"{saved(number, folder)} with options {index}: {took:.1f} s, {code}")
            if _peak_mib() > peak + LEAP:
                note("large", f"{saved(number, folder)} with options {index}: {_peak_mib()} MiB, {code}")
            peak = max(peak, _peak_mib())
    faulthandler.cancel_dump_traceback_later()
    note("peak", peak)


def weigh(folder: Path) -> None:
    """Every file of a folder through the default transforms: a line of JSON with its name, code and the peak so far."""
    from img2dataset_dist import transforms  # noqa: PLC0415
    from img2dataset_dist.config import JobConfig  # noqa: PLC0415
    from img2dataset_dist.model import Fetched, Item  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    chain = transforms.build(JobConfig.from_flat({"url_list": "x.txt"}))
    for path in sorted(folder.iterdir()):
        began = time.monotonic()
        done = transforms.apply(
            chain, Fetched(item=Item(shard_id=0, index=0, key="0", url="u"), body=path.read_bytes())
        )
        code = done.failure.code if done.failure else "success"
        print(json.dumps([path.name, code, _peak_mib(), time.monotonic() - began]), flush=True)


def note(kind: str, value: str | int) -> None:
    print(json.dumps({kind: value}), flush=True)


def problem(data: bytes | None, width: int | None, height: int | None) -> str:
    """What is wrong with a stored picture, or nothing."""
    if not data:
        return "nothing was stored"
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return "" if image.size == (width, height) else f"{image.size} in place of {width} x {height}"


def _peak_mib() -> int:
    """Most memory so far. Not from getrusage, which begins with what the parent had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    if sys.argv[1] == "weigh":
        weigh(Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
