"""What is wrong in the gallery: cut off, damaged, something else, too large, or only odd."""

from __future__ import annotations

import functools
import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import imagecodecs
import numpy as np
from PIL import Image
from support import gallery_images
from support.gallery import COARSE, LOSSY, SUCCESS, Case, bad, base, good, grey, pillow
from support.handmade import (
    PNG_RGB,
    bmp,
    chunk,
    gif_frames,
    icc_matrix,
    jpeg_resized,
    jpeg_with,
    png,
    png_header,
    ppm,
    tiff_pages,
    webp_frames,
)

DECODE, PIXELS, FRAMES, OTHER, UNSUPPORTED = (
    "decode_error", "too_many_pixels", "too_many_frames", "not_media", "unsupported_format",
)  # fmt: skip
EITHER = frozenset({SUCCESS, DECODE})
REFUSED = frozenset({PIXELS, DECODE})
PLAIN = (
    "jpeg_baseline", "jpeg_progressive", "png_rgb8", "png_interlaced", "webp_lossy", "webp_lossless", "gif_static",
    "avif_lossy", "heic_lossy", "tiff_little_endian", "tiff_lzw", "tiff_tiles", "tiff_tiles_deflate", "bmp_24bit",
    "bmp_rle8", "jp2_lossless", "j2k_raw", "ico_png", "ico_bmp", "ppm_binary", "ppm_text",
)  # fmt: skip
"""Of each format one or two, which are then cut and damaged."""


def cases() -> Iterator[Case]:
    for group in (truncated, damaged, no_picture, no_decoder, bombs, frames, zero, misnamed, extra):
        yield from group()


@functools.cache
def plain() -> dict[str, Case]:
    """The cases of `PLAIN` by name."""
    return {case.name: case for case in gallery_images.cases() if case.name in PLAIN}


def truncated() -> Iterator[Case]:
    for name in PLAIN:
        case = plain()[name]
        body = case.body[: len(case.body) // 2]
        more = {"suffix": case.suffix, "rescued": EITHER}
        yield bad(f"half_{name}", "truncated", body, DECODE, note="the first half", **more)
    for name in ("jpeg_baseline", "png_rgb8", "webp_lossy", "gif_static", "avif_lossy", "heic_lossy", "jp2_lossless"):
        case = plain()[name]
        yield bad(f"head_{name}", "truncated", case.body[:40], DECODE, suffix=case.suffix, note="40 bytes")
    case = plain()["jpeg_baseline"]
    yield bad("last_2_bytes", "truncated", case.body[:-2], EITHER, suffix="jpg", note="no end marker")


def damaged() -> Iterator[Case]:
    for name in PLAIN:
        case = plain()[name]
        body, rng = bytearray(case.body), random.Random(name)
        third = len(body) // 3
        for _ in range(20):
            body[rng.randrange(third, 2 * third)] ^= 1 << rng.randrange(8)
        codes = DECODE if name in ("png_rgb8", "png_interlaced") else EITHER
        more = {"suffix": case.suffix, "rescued": EITHER}
        yield bad(f"flips_{name}", "damaged", bytes(body), codes, note="20 bits flipped in its middle", **more)
    body = plain()["png_rgb8"].body
    header = bytearray(body)
    header[29:33] = b"\1\2\3\4"
    more = {"suffix": "png", "rescued": EITHER}
    yield bad("crc_header", "damaged", bytes(header), EITHER, note="wrong checksum of the header", **more)
    body = body[:60] + bytes(len(body) - 120) + body[-60:]
    yield bad("zeros_png", "damaged", body, DECODE, note="a hole of zeros, as from a broken disk", **more)


def no_picture() -> Iterator[Case]:
    add = functools.partial(bad, group="no picture")
    texts = {
        "html": b"<!DOCTYPE html>\n<html><head><title>Not found</title></head><body>Sorry.</body></html>",
        "xhtml": b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>',
        "html_bom": b"\xef\xbb\xbf\n <html><body>sorry</body></html>",
        "json": b'{"error": "gone", "code": 404}',
        "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "text": b"404 not found\n",
        "text_utf16": "404 nicht gefunden".encode("utf-16"),
        "css": b"body { margin: 0 }",
    }
    for name, body in texts.items():
        yield add(
            f"text_{name}",
            body=body,
            suffix="jpg",
            content_type="image/jpeg",
            note="said to be image/jpeg",
            codes=OTHER,
        )
    media = {
        "mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\0\x08free",
        "mov": b"\0\0\0\x14ftypqt  \0\0\2\0qt  ",
        "webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\xf7\x81\1\x42\xf2\x81\4\x42\xf3\x81\x08\x42\x82\x84webm",
        "avi": b"RIFF\x24\0\0\0AVI LIST\x10\0\0\0hdrlavih",
        "mp3": b"ID3\4\0\0\0\0\0\x0aTIT2\0\0\0\0\0\0",
        "wav": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0",
        "ogg": b"OggS\0\2\0\0\0\0\0\0\0\0",
        "flac": b"fLaC\0\0\0\x22",
        "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
        "gz": gzip.compress(b"x" * 1000, mtime=0),
        "zip": _zipped(b"hello"),
        "zeros": bytes(10_000),
        "noise": random.Random(1).randbytes(10_000),
        "elf": b"\x7fELF\2\1\1\0" + bytes(200),
    }
    for name, body in media.items():
        yield add(f"is_{name}", body=body + bytes(100), suffix="jpg", content_type="image/jpeg", codes=OTHER)
    yield add("nothing", body=b"", suffix="jpg", codes="empty_body", note="no bytes at all")
    yield add("one_byte", body=b"\xff", suffix="jpg", codes=OTHER, note="a single one")


def _zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), content)
    return out.getvalue()


def no_decoder() -> Iterator[Case]:
    add = functools.partial(bad, group="not decoded", codes=UNSUPPORTED)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="9"/></svg>'
    yield add("svg_plain", body=svg, note="a drawing; it could load other files")
    yield add("svg_xml", body=b'<?xml version="1.0"?>\n<!-- made by hand -->\n' + svg, suffix="svg")
    layers = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 192, 288, 8, 3) + bytes(14)
    yield add("psd_layers", body=layers, note="Photoshop")
    pixels = np.asarray(base())
    yield add("jxl_codestream", body=imagecodecs.jpegxl_encode(pixels, 90, usecontainer=False), suffix="jxl")
    yield add("jxl_container", body=imagecodecs.jpegxl_encode(pixels, 90, usecontainer=True), suffix="jxl")


def bombs() -> Iterator[Case]:
    """Files that announce more than they hold, or hold more than one wants; none may be decoded."""
    add = functools.partial(bad, group="bombs", codes=PIXELS)
    rows = zlib.compressobj(9)
    zeros = b"".join(rows.compress(bytes(1_000_000)) for _ in range(100)) + rows.flush()
    body = png_header(60_000, 60_000) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
    yield add("bomb_png", body=body, suffix="png", note="60,000 x 60,000 in 100 kB")
    jpeg = plain()["jpeg_baseline"].body
    head = jpeg_resized(jpeg, 65_500, 65_500)[:1200]
    yield add("bomb_jpeg", body=head, suffix="jpg", note="65,500 x 65,500 and no data")
    body = jpeg_resized(plain()["jpeg_progressive"].body, 65_500, 65_500)
    yield add("bomb_progressive", body=body, suffix="jpg", note="progressive, which takes all memory at once")
    body = png(np.zeros((1_000_000, 1), np.uint8), 1, 0)
    yield add("bomb_1x1000000", body=body, suffix="png", note="one side above max_decode_side")
    for name, side in (("webp_lossless", 16_383), ("gif_static", 65_535)):
        yield add(f"bomb_{name}", body=_resized(name, side), suffix=name[:4].rstrip("_"), note=f"{side:,} x {side:,}")
    for name in ("bmp_24bit", "jp2_lossless", "j2k_raw", "avif_lossy", "heic_lossy", "tiff_little_endian"):
        body = _resized(name, 60_000)
        codes = REFUSED if name in ("avif_lossy", "heic_lossy", "jp2_lossless") else PIXELS
        yield add(f"bomb_{name}", body=body, suffix=plain()[name].suffix, codes=codes, note="60,000 x 60,000")
    body = plain()["jp2_lossless"].body
    at = body.index(b"ihdr") + 4
    body = body[:at] + struct.pack(">I", 2**26) + body[at + 4 :]
    note = "only the box around it says 67,108,864 rows"
    yield add("bomb_jp2_box", body=body, suffix="jp2", codes=REFUSED, note=note)
    body = _retagged(plain()["tiff_tiles_deflate"].body, {322: 2**20, 323: 512})
    yield add("bomb_tiff_tile", body=body, suffix="tif", codes=REFUSED, note="tiles of 1,048,576 x 512")
    body = ppm("P6", 60_000, 60_000, 255, b"abc")
    yield add("bomb_ppm", body=body, suffix="ppm", note="60,000 x 60,000 and three bytes")
    within = png_header(60_000, 60_000, colour=6) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
    body = struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(within), 22) + within
    yield add("bomb_ico", body=body, suffix="ico", codes=REFUSED, note="the icon is a PNG of 60,000 x 60,000")
    text = zlib.compress(bytes(200_000_000), 9)
    pixels = np.asarray(base())
    body = png(pixels, 8, PNG_RGB, before=[(b"zTXt", b"Comment\0\0" + text)])
    yield good("bomb_text", "bombs", body, suffix="png", codes=EITHER, note="a comment of 200 MB, compressed")
    body = png(pixels, 8, PNG_RGB, before=[(b"iCCP", b"name\0\0" + text)])
    yield good("bomb_profile", "bombs", body, suffix="png", codes=EITHER, note="a profile of 200 MB, compressed")


def _resized(name: str, side: int) -> bytes:
    """The file, whose header claims to be square and that large."""
    body = bytearray(plain()[name].body)
    width, height = 288, 192
    if name == "webp_lossless":
        bits = int.from_bytes(body[21:25], "little") & ~0x0FFFFFFF
        body[21:25] = struct.pack("<I", bits | (side - 1) << 14 | (side - 1))
    elif name == "gif_static":
        body[6:10] = struct.pack("<HH", side, side)
        at = body.index(b"\x2c\0\0\0\0" + struct.pack("<HH", width, height))
        body[at + 5 : at + 9] = struct.pack("<HH", side, side)
    elif name == "bmp_24bit":
        body[18:26] = struct.pack("<ii", side, side)
    elif name == "tiff_little_endian":
        return _retagged(body, {256: side, 257: side})
    else:  # big-endian pairs: of SIZ and ihdr, and of ispe
        for first, second in ((width, height), (height, width)):
            pair = struct.pack(">II", first, second)
            body = bytearray(bytes(body).replace(pair, struct.pack(">II", side, side)))
    return bytes(body)


def _retagged(body: bytes, values: Mapping[int, int]) -> bytes:
    """The first picture of a little-endian TIFF with other numbers."""
    out = bytearray(body)
    (first,) = struct.unpack_from("<I", body, 4)
    (count,) = struct.unpack_from("<H", body, first)
    for at in range(first + 2, first + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", body, at)
        if tag in values:
            out[at : at + 12] = struct.pack("<HHII", tag, 4, 1, values[tag])
    return bytes(out)


def frames() -> Iterator[Case]:
    add = functools.partial(bad, group="bombs", codes=FRAMES)
    yield add("frames_gif", body=gif_frames(20_000), suffix="gif", note="20,000 frames")
    yield add("frames_tiff", body=tiff_pages(20_000), suffix="tif", note="20,000 pages")
    one = Image.new("RGB", (1, 1), (235, 20, 20))
    file = pillow(one, "WEBP", lossless=True)
    yield add("frames_webp", body=webp_frames(file[12:], 20_000), suffix="webp", note="20,000 frames")
    control = chunk(b"acTL", struct.pack(">II", 20_000, 0))
    still = plain()["png_rgb8"].body
    body = still[:33] + control + still[33:]
    yield add("frames_png", body=body, suffix="png", note="says 20,000 frames")
    loop = tiff_pages(2)
    loop = loop[:-4] + struct.pack("<I", 10)
    yield add("loop_tiff", body=loop, suffix="tif", codes=EITHER | {FRAMES}, note="the second page leads back")


def zero() -> Iterator[Case]:
    add = functools.partial(bad, group="sizes", codes=DECODE)
    for width, height in ((0, 0), (0, 9), (9, 0)):
        body = png_header(width, height) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        yield add(f"zero_png_{width}x{height}", body=body, suffix="png")
    yield add("zero_bmp", body=bmp(0, 0, 24, b""), suffix="bmp")
    yield add("zero_gif", body=_resized("gif_static", 0), suffix="gif")
    yield add("zero_jpeg", body=jpeg_resized(plain()["jpeg_baseline"].body, 0, 0), suffix="jpg")
    yield add("zero_ppm", body=ppm("P6", 0, 9, 255, b""), suffix="ppm")
    yield add("zero_j2k", body=_resized("j2k_raw", 0), suffix="j2k")
    yield add("zero_tiff", body=_resized("tiff_little_endian", 0), suffix="tif")


def misnamed() -> Iterator[Case]:
    add = functools.partial(good, group="misnamed", tolerance=COARSE)
    for name, suffix, kind in (
        ("png_rgb8", "jpg", "image/jpeg"),
        ("webp_lossy", "jpg", "image/jpeg"),
        ("avif_lossy", "jpg", "image/jpeg"),
        ("heic_lossy", "jpg", "image/jpeg"),
        ("jpeg_baseline", "png", "image/png"),
        ("jpeg_baseline", "html", "text/html"),
        ("jpeg_baseline", "php", ""),
        ("gif_static", "mp4", "video/mp4"),
    ):
        case = plain()[name]
        note = f"said to be {kind or 'nothing'}"
        yield add(
            f"named_{suffix}_{name}", body=case.body, picture=case.picture, suffix=suffix, content_type=kind, note=note
        )


def extra() -> Iterator[Case]:
    """More in the file than the picture: as broken servers, steganography and attackers do it."""
    add = functools.partial(good, group="more than a picture", tolerance=LOSSY)
    for name in PLAIN:
        case = plain()[name]
        codes = {"codes": EITHER} if name in ("ico_png", "ico_bmp", "heic_lossy", "avif_lossy", "ppm_text") else {}
        options = {"picture": case.picture, "suffix": case.suffix, "note": "and 5 kB of noise after its end", **codes}
        yield add(f"tail_{name}", body=case.body + random.Random(name).randbytes(5000), **options)
    jpeg, gif = plain()["jpeg_baseline"].body, plain()["gif_static"]
    yield add("tail_jpeg_twice", body=jpeg + pillow(grey(), "JPEG"), suffix="jpg", note="a second picture behind it")
    html = b"<html><script>alert(1)</script></html>"
    yield add("polyglot_html", body=jpeg_with(jpeg, 0xFE, html), suffix="jpg", note="HTML in a comment")
    yield add("polyglot_zip", body=gif.body + _zipped(html), picture=gif.picture, suffix="gif", note="also a ZIP file")
    yield add("polyglot_php", body=jpeg + b"<?php system($_GET['c']); ?>", suffix="jpg", note="code behind the end")
    body = jpeg_with(jpeg, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 60)
    yield add("exif_nonsense", body=body, suffix="jpg", note="tags that lead nowhere")
    body = jpeg_with(jpeg, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0\0\0\0\0")
    yield add("exif_99", body=body, suffix="jpg", note="orientation 99")
    odd = functools.partial(bad, group="more than a picture", suffix="jpg", codes=OTHER)
    yield odd("front_newline", body=b"\r\n" + jpeg, codes=frozenset({OTHER, SUCCESS}), note="a line before the picture")
    yield odd("front_pdf", body=b"%PDF-1.4\n" + jpeg, note="a PDF that holds a JPEG")
    yield odd("front_html", body=b"<html><img>" + jpeg, note="PHP printed a warning first")
    yield odd("gzipped_jpeg", body=gzip.compress(jpeg, mtime=0), note="compressed, and nobody said so")
    profile = icc_matrix(np.zeros((3, 3)), 2.2)
    body = pillow(base(), "JPEG", quality=92, icc_profile=profile)
    yield good(
        "icc_black", "ICC profiles", body, suffix="jpg", codes=EITHER, tolerance=255.0, note="all colours are black"
    )
