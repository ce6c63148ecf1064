"""Files written byte by byte: what no library writes, and what none would write, since it is wrong."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

PNG_GREY, PNG_RGB, PNG_PALETTE, PNG_GREY_ALPHA, PNG_RGBA = 0, 2, 3, 4, 6
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of each pass (PNG specification, 8.2)."""

Chunk = tuple[bytes, bytes]


# PNG


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int, depth: int = 8, colour: int = PNG_RGB, interlace: int = 0) -> bytes:
    """Signature and IHDR."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def png(
    samples: np.ndarray, depth: int, colour: int, *, before: Iterable[Chunk] = (), interlaced: bool = False
) -> bytes:
    """Samples (h, w) or (h, w, channels), as stored, with these chunks before the picture data."""
    height, width = samples.shape[:2]
    passes = [samples[y::down, x::right] for x, y, right, down in ADAM7] if interlaced else [samples]
    raw = b"".join(_png_rows(part, depth) for part in passes if part.size)
    middle = b"".join(chunk(*one) for one in before)
    head = png_header(width, height, depth, colour, int(interlaced))
    return head + middle + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")


def _png_rows(samples: np.ndarray, depth: int) -> bytes:
    """Rows with filter 0, samples of fewer than 8 bits packed, those of 16 bits big-endian."""
    rows = samples.reshape(samples.shape[0], -1)
    packed = rows.astype(">u2").view(np.uint8).reshape(len(rows), -1) if depth == 16 else pack(rows, depth)
    return np.hstack([np.zeros((len(rows), 1), np.uint8), packed]).tobytes()


def pack(rows: np.ndarray, depth: int) -> np.ndarray:
    """(h, w) samples of 1, 2, 4 or 8 bits to bytes, the leftmost sample in the highest bits."""
    if depth == 8:
        return rows.astype(np.uint8)
    bits = (rows[..., None].astype(np.uint8) >> np.arange(depth - 1, -1, -1, dtype=np.uint8)) & 1
    return np.packbits(bits.reshape(len(rows), -1), axis=1)


# BMP


def bmp(
    width: int,
    height: int,
    bits: int,
    data: bytes,
    *,
    palette: np.ndarray | None = None,
    compression: int = 0,
    masks: bytes = b"",
    core: bool = False,
) -> bytes:
    """A BMP with a BITMAPINFOHEADER (or the 12 bytes of OS/2, `core`). A negative height is top-down.

    Args:
        palette: (n, 3) colours, red first.
    """
    if core:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        colours = 0 if palette is None else len(palette)
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 2835, 2835, colours, 0)
    table = b""
    if palette is not None:
        columns = [palette[:, ::-1]] if core else [palette[:, ::-1], np.zeros((len(palette), 1))]
        table = np.hstack(columns).astype(np.uint8).tobytes()
    start = 14 + len(info) + len(masks) + len(table)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + info + masks + table + data


def bmp_rgba(pixels: np.ndarray) -> bytes:
    """A BMP with a BITMAPV4HEADER, whose masks say where red, green, blue and alpha are."""
    height, width = pixels.shape[:2]
    data = bmp_rows(pixels[..., [2, 1, 0, 3]].reshape(height, -1))
    info = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(data), 2835, 2835, 0, 0)
    info += struct.pack("<4I4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs") + bytes(48)
    start = 14 + len(info)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + info + data


def bmp_rows(rows: np.ndarray) -> bytes:
    """(h, bytes) from top to bottom to rows from bottom to top, each padded to four bytes."""
    padding = np.zeros((len(rows), -rows.shape[1] % 4), np.uint8)
    return np.hstack([rows, padding])[::-1].tobytes()


def rle8(indices: np.ndarray) -> bytes:
    """BI_RLE8 of (h, w) palette indices: runs only, end of line after each row."""
    out = bytearray()
    for row in indices[::-1]:
        for value, count in _runs(row):
            out += bytes((count, value))
        out += b"\0\0"
    return bytes(out) + b"\0\1"


def rle4(indices: np.ndarray) -> bytes:
    """BI_RLE4: as `rle8`, a run's byte holds its value twice."""
    out = bytearray()
    for row in indices[::-1]:
        for value, count in _runs(row):
            out += bytes((count, value << 4 | value))
        out += b"\0\0"
    return bytes(out) + b"\0\1"


def _runs(row: np.ndarray) -> Iterator[tuple[int, int]]:
    """Value and length of runs of at most 255."""
    starts = np.flatnonzero(np.diff(row.astype(int), prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
        for at in range(start, end, 255):
            yield int(row[start]), min(255, end - at)


# ICC profiles (ICC.1:2001-04)


def icc_matrix(primaries: np.ndarray, gamma: float) -> bytes:
    """A display profile: columns of `primaries` are red, green and blue in XYZ (D50)."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    tags = {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True):
        tags[name] = _xyz(column)
    return _icc(b"RGB ", tags)


def icc_grey(gamma: float) -> bytes:
    """A grey profile."""
    return _icc(b"GRAY", {b"kTRC": b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))})


SRGB_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE_D50 = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)
"""sRGB's and Adobe RGB's primaries, adapted to D50 (http://www.brucelindbloom.com, Bradford)."""


def _icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(np.array([0.9642, 1.0, 0.8249])),
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp").ljust(68 - len(head), b"\0")
    head += struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + table + body


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


# others


def ppm(magic: str, width: int, height: int, most: int | None, data: bytes) -> bytes:
    """Netpbm, with a comment as GIMP writes one."""
    head = f"{magic}\n# a comment\n{width} {height}\n" + (f"{most}\n" if most else "")
    return head.encode() + data


def tiff_pages(count: int) -> bytes:
    """A TIFF of so many pages of 1 x 1, which all show the same byte."""
    entries = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1))
    size = 2 + 12 * len(entries) + 4
    out = [b"II*\0" + struct.pack("<I", 10) + b"\x80\0"]
    for page in range(count):
        following = 10 + size * (page + 1) if page + 1 < count else 0
        fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
        out.append(struct.pack("<H", len(entries)) + fields + struct.pack("<I", following))
    return b"".join(out)


def gif_frames(count: int) -> bytes:
    """An animated GIF of so many frames of 1 x 1."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"!\xf9\4\0\1\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2D\1\0"
    return head + frame * count + b";"


def webp_frames(frame: bytes, count: int) -> bytes:
    """An animated WebP of so many times the same 1 x 1 picture; `frame` is the VP8L chunk of a WebP file."""
    one = b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(12) + b"\x0a\0\0\0" + frame
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\x02" + bytes(9)
    body += b"ANIM" + struct.pack("<IIH", 6, 0, 0) + one * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_segments(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment before the picture data, the start of scan included."""
    at = 2
    while at + 4 <= len(body):
        size = int.from_bytes(body[at + 2 : at + 4], "big")
        yield body[at + 1], at, at + 2 + size
        if body[at + 1] == 0xDA:
            return
        at += 2 + size


def jpeg_without(body: bytes, marker: int) -> bytes:
    """Without the segments of that marker."""
    for found, start, end in reversed(list(jpeg_segments(body))):
        if found == marker:
            body = body[:start] + body[end:]
    return body


def jpeg_with(body: bytes, marker: int, content: bytes) -> bytes:
    """With one segment more, right after the start."""
    return body[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content + body[2:]


def jpeg_resized(body: bytes, width: int, height: int) -> bytes:
    """The frame header claims another size."""
    for marker, start, _ in jpeg_segments(body):
        if marker in (0xC0, 0xC1, 0xC2):
            return body[: start + 5] + struct.pack(">HH", height, width) + body[start + 9 :]
    raise ValueError("no frame header")
