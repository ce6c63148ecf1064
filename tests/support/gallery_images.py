"""The good ones of the gallery: every format in every depth and layout. What needs more is in gallery_colours.py."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import pyvips
import tifffile
from PIL import Image
from support.gallery import (
    COARSE,
    FAST,
    HEIGHT,
    LOSSY,
    WIDTH,
    Case,
    alpha,
    base,
    deep,
    good,
    grey,
    hidden,
    on_white,
    pillow,
    rgba,
)
from support.handmade import (
    PNG_GREY,
    PNG_GREY_ALPHA,
    PNG_PALETTE,
    PNG_RGB,
    PNG_RGBA,
    bmp,
    bmp_rgba,
    bmp_rows,
    jpeg_with,
    pack,
    png,
    ppm,
    rle4,
    rle8,
)

HERE = Path(__file__).parent
UNCERTAIN = frozenset({"success", "decode_error", "unsupported_format"})
"""For what the issue does not ask for: whatever comes, it must not be a wrong picture."""


@functools.cache
def cases() -> tuple[Case, ...]:
    groups = (jpeg, png_depths, png_transparency, webp, gif, avif, heic, tiff, bmps, jp2, icons, netpbm)
    return tuple(case for group in groups for case in group())


def jpeg() -> Iterator[Case]:
    add = functools.partial(good, group="JPEG", suffix="jpg", tolerance=LOSSY)
    pixels, quality = np.asarray(base()), {"quality": 92}
    yield add("jpeg_baseline", body=pillow(base(), "JPEG", **quality), note="4:2:0, as most are")
    for name, mode in (("444", 0), ("422", 1), ("420_optimised", 2)):
        body = pillow(base(), "JPEG", subsampling=mode, optimize=True, **quality)
        yield add(f"jpeg_{name}", body=body, note="chroma sampling, optimal Huffman tables")
    for name, factors in (("411", 0x411111), ("440", 0x121111)):
        options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors, cv2.IMWRITE_JPEG_QUALITY, 95]
        encoded = cv2.imencode(".jpg", pixels[..., ::-1], options)[1].tobytes()
        yield add(f"jpeg_{name}", body=encoded, tolerance=COARSE, note="chroma sampling, rare")
    yield add("jpeg_progressive", body=pillow(base(), "JPEG", progressive=True, **quality), note="in ten scans")
    yield add("jpeg_restart", body=pillow(base(), "JPEG", restart_marker_blocks=3, **quality), note="restart markers")
    arithmetic = (HERE / "arithmetic.jpg").read_bytes()
    yield add("jpeg_arithmetic", body=arithmetic, tolerance=COARSE, note="arithmetic in place of Huffman coding")
    yield add("jpeg_grey", body=pillow(grey(), "JPEG", **quality), picture=grey(), note="one channel")
    body = imagecodecs.jpeg8_encode(pixels, 92, colorspace="RGB", outcolorspace="RGB")
    yield add("jpeg_rgb", body=body, note="RGB as it is, no YCbCr; the Adobe marker says so")
    second = [base().transpose(Image.Transpose.ROTATE_180)]
    body = pillow(base(), "MPO", save_all=True, append_images=second, **quality)
    yield add("jpeg_mpo", body=body, note="two pictures in one file, as stereo cameras and phones store them")
    yield add("jpeg_comments", body=_much_before(pillow(base(), "JPEG", **quality)), note="300 kB before the picture")
    for name, options in (("12bit", {"bitspersample": 12}), ("lossless", {"lossless": True})):
        samples = deep() >> 4 if name == "12bit" else pixels
        body = imagecodecs.jpeg8_encode(samples, 92, **options)
        yield add(f"jpeg_{name}", body=body, codes=UNCERTAIN, note="medical; few readers can do it")


def _much_before(body: bytes) -> bytes:
    for _ in range(5):
        body = jpeg_with(body, 0xFE, b"a comment " * 6000)
    return body


def png_depths() -> Iterator[Case]:
    add = functools.partial(good, group="PNG", suffix="png")
    for depth in (1, 2, 4, 8):
        samples = np.asarray(grey()) >> (8 - depth)
        picture = Image.fromarray((samples * (255 // (2**depth - 1))).astype(np.uint8))
        body = png(samples, depth, PNG_GREY)
        yield add(f"png_grey{depth}", body=body, picture=picture, note=f"grey, {depth} bit")
        if depth < 8:
            body = png(samples, depth, PNG_GREY, interlaced=True)
            yield add(f"png_grey{depth}_interlaced", body=body, picture=picture, note="the same, in seven passes")
    yield add("png_grey16", body=png(deep()[..., 1], 16, PNG_GREY), picture=base().getchannel("G"), note="grey, 16 bit")
    yield add("png_rgb8", body=pillow(base(), "PNG"), note="as most are")
    yield add("png_rgb16", body=png(deep(), 16, PNG_RGB), note="48 bits a pixel")
    yield add("png_interlaced", body=png(np.asarray(base()), 8, PNG_RGB, interlaced=True), note="in seven passes")
    for colours in (2, 16, 256):
        few = base().quantize(colours, dither=Image.Dither.NONE)
        depth = {2: 1, 16: 4, 256: 8}[colours]
        body = png(np.asarray(few), depth, PNG_PALETTE, before=[(b"PLTE", bytes(few.getpalette()))])
        yield add(f"png_palette{colours}", body=body, picture=few.convert("RGB"), note=f"{colours} colours")
    frames = [base().transpose(Image.Transpose.ROTATE_180), grey().convert("RGB")]
    body = pillow(base(), "PNG", save_all=True, append_images=frames, duration=100)
    yield add("png_animated", body=body, note="APNG; the first frame")
    body = pillow(base(), "PNG", save_all=True, append_images=frames, duration=100, default_image=True)
    yield add("png_animated_default", body=body, note="APNG whose default picture is no part of the animation")


def png_transparency() -> Iterator[Case]:
    add = functools.partial(good, group="PNG, transparency", suffix="png")
    pixels, greys, opacity = np.asarray(base()), np.asarray(grey()), np.asarray(alpha())
    yield add("png_rgba8", body=pillow(rgba(), "PNG"), picture=on_white(rgba()), note="onto white")
    body = png(np.dstack([deep(), opacity.astype(np.uint16) * 257]), 16, PNG_RGBA)
    yield add("png_rgba16", body=body, picture=on_white(rgba()), note="onto white, 64 bits a pixel")
    both = grey().convert("LA")
    both.putalpha(alpha())
    yield add("png_grey_alpha8", body=pillow(both, "PNG"), picture=on_white(both), note="grey and alpha")
    samples = np.dstack([greys, opacity]).astype(np.uint16) * 257
    yield add(
        "png_grey_alpha16", body=png(samples, 16, PNG_GREY_ALPHA), picture=on_white(both), note="the same, 16 bit"
    )
    red = (235, 20, 20)
    for depth, samples in ((8, pixels), (16, deep())):
        key = struct.pack(">3H", *(value * (257 if depth == 16 else 1) for value in red))
        body = png(samples, depth, PNG_RGB, before=[(b"tRNS", key)])
        yield add(f"png_trns_rgb{depth}", body=body, picture=hidden(base(), red), note="one colour is transparent: red")
    for depth in (1, 2, 4, 8, 16):
        samples = deep()[..., 1] if depth == 16 else greys >> (8 - depth)
        shown = base().getchannel("G") if depth == 16 else (samples * (255 // (2**depth - 1))).astype(np.uint8)
        key = int(samples[0, 0])  # of the corner
        body = png(samples, depth, PNG_GREY, before=[(b"tRNS", struct.pack(">H", key))])
        picture = hidden(Image.fromarray(np.asarray(shown)), np.asarray(shown)[0, 0])
        yield add(
            f"png_trns_grey{depth}",
            body=body,
            picture=picture,
            note="black is transparent: all white" if depth == 1 else "one grey is transparent",
        )
    few = base().quantize(64, dither=Image.Dither.NONE)
    table = bytes(range(0, 256, 4))
    body = png(np.asarray(few), 8, PNG_PALETTE, before=[(b"PLTE", bytes(few.getpalette())), (b"tRNS", table)])
    layers = np.dstack([np.asarray(few.convert("RGB")), np.frombuffer(table, np.uint8)[np.asarray(few)]])
    yield add("png_trns_palette", body=body, picture=on_white(Image.fromarray(layers)), note="an alpha for each colour")


def webp() -> Iterator[Case]:
    add = functools.partial(good, group="WebP", suffix="webp")
    frames = {"save_all": True, "append_images": [base().transpose(Image.Transpose.ROTATE_180)], "duration": 100}
    yield add("webp_lossy", body=pillow(base(), "WEBP", quality=90), tolerance=COARSE, note="as most are")
    yield add("webp_lossless", body=pillow(base(), "WEBP", lossless=True))
    body = pillow(rgba(), "WEBP", quality=90, exact=True)
    yield add("webp_alpha", body=body, picture=on_white(rgba()), tolerance=COARSE, note="onto white")
    body = pillow(rgba(), "WEBP", lossless=True, exact=True)
    yield add("webp_alpha_lossless", body=body, picture=on_white(rgba()), note="onto white")
    yield add("webp_animated", body=pillow(base(), "WEBP", lossless=True, **frames), note="the first frame")
    body = pillow(rgba(), "WEBP", lossless=True, exact=True, **frames)
    yield add("webp_animated_alpha", body=body, picture=on_white(rgba()), note="the first frame, onto white")


def gif() -> Iterator[Case]:
    add = functools.partial(good, group="GIF", suffix="gif")
    few = base().quantize(200, dither=Image.Dither.NONE)
    shown = few.convert("RGB")
    yield add("gif_static", body=pillow(few, "GIF", interlace=0), picture=shown)
    yield add("gif_interlaced", body=pillow(few, "GIF", interlace=1), picture=shown, note="in four passes")
    yield add("gif_87a", body=b"GIF87a" + pillow(few, "GIF")[6:], picture=shown, note="the first version")
    hole = few.getpixel((0, 0))
    picture = hidden(shown, shown.getpixel((0, 0)))
    yield add("gif_transparent", body=pillow(few, "GIF", transparency=hole), picture=picture, note="red is a hole")
    frames = [few.transpose(Image.Transpose.ROTATE_180), few.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    body = pillow(few, "GIF", save_all=True, append_images=frames, duration=100, loop=0)
    yield add("gif_animated", body=body, picture=shown, note="the first frame")
    body = pillow(few, "GIF", save_all=True, append_images=frames, duration=100, transparency=hole, disposal=2)
    yield add("gif_animated_transparent", body=body, picture=picture, note="the first frame, onto white")
    two = base().convert("1")
    yield add("gif_two_colours", body=pillow(two, "GIF"), picture=two.convert("L"))


def avif() -> Iterator[Case]:
    add = functools.partial(good, group="AVIF", suffix="avif", tolerance=LOSSY)
    pixels = np.asarray(base())
    yield add("avif_lossy", body=pillow(base(), "AVIF", quality=85, **FAST), note="as most are, 4:2:0")
    yield add("avif_444", body=pillow(base(), "AVIF", quality=90, subsampling="4:4:4", **FAST))
    yield add("avif_grey", body=imagecodecs.avif_encode(np.asarray(grey()), 90, **FAST), picture=grey(), note="4:0:0")
    body = imagecodecs.avif_encode(deep() >> 6, 90, bitspersample=10, pixelformat="444", **FAST)
    yield add("avif_10bit", body=body, note="10 bits a channel")
    body = pillow(rgba(), "AVIF", quality=90, subsampling="4:4:4", **FAST)
    yield add("avif_alpha", body=body, picture=on_white(rgba()), note="onto white")
    body = imagecodecs.avif_encode(pixels, 100, **FAST)
    yield add("avif_lossless", body=body)
    frames = [base().transpose(Image.Transpose.ROTATE_180)]
    body = pillow(base(), "AVIF", save_all=True, append_images=frames, duration=100, quality=90, **FAST)
    yield add("avif_animated", body=body, note="an image sequence; the first frame")


def heic() -> Iterator[Case]:
    add = functools.partial(good, group="HEIC", suffix="heic", tolerance=COARSE)
    body = pillow(base(), "HEIF", quality=90)
    yield add("heic_lossy", body=body, note="as iPhones make them")
    yield add("heif_mif1", body=body[:8] + b"mif1" + body[12:], suffix="heif", note="major brand mif1")
    yield add("heic_444", body=pillow(base(), "HEIF", quality=92, chroma=444))
    yield add("heic_alpha", body=pillow(rgba(), "HEIF", quality=92, chroma=444), picture=on_white(rgba()))
    yield add("heic_grey", body=pillow(grey(), "HEIF", quality=90), picture=grey())
    options = {"quality": 90, "chroma": 444}
    yield add("heic_10bit", body=_heic("RGB;16", deep(), **options), note="10 bits a channel")
    images = {"save_all": True, "append_images": [base().transpose(Image.Transpose.ROTATE_180)]}
    yield add("heic_two", body=pillow(base(), "HEIF", quality=90, **images), note="two pictures; the primary one")


def _heic(mode: str, samples: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    height, width = samples.shape[:2]
    pillow_heif.encode(mode, (width, height), samples.tobytes(), out, **options)
    return out.getvalue()


def tiff() -> Iterator[Case]:
    add = functools.partial(good, group="TIFF", suffix="tif")
    pixels = np.asarray(base())
    for order, name in (("<", "little"), (">", "big")):
        yield add(f"tiff_{name}_endian", body=_tiff(pixels, byteorder=order), note="uncompressed")
        yield add(f"tiff_rgb16_{name}_endian", body=_tiff(deep(), byteorder=order), note="16 bit")
    for method, more in (("lzw", {"predictor": 2}), ("zlib", {"predictor": 2}), ("packbits", {}), ("zstd", {})):
        yield add(f"tiff_{method}", body=_tiff(pixels, compression=method, rowsperstrip=32, **more), note="in strips")
    yield add("tiff_tiles", body=_tiff(pixels, tile=(64, 64)), note="in tiles, the last ones cut off")
    yield add("tiff_tiles_deflate", body=_tiff(pixels, tile=(64, 64), compression="zlib"), note="in tiles")
    body = pillow(base(), "TIFF", compression="jpeg", quality=95)
    yield add("tiff_jpeg", body=body, tolerance=LOSSY, note="JPEG within, YCbCr")
    image = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    options = {"compression": "jpeg", "Q": 90, "tile": True, "tile_width": 64, "tile_height": 64}
    yield add("tiff_jpeg_tiles", body=image.tiffsave_buffer(**options), tolerance=LOSSY, note="JPEG in each tile")
    image = image.tiffsave_buffer(pyramid=True, **options)
    yield add("tiff_pyramid", body=image, tolerance=LOSSY, note="as microscopes: smaller copies follow as pages")
    body = _tiff(np.moveaxis(pixels, 2, 0), planarconfig="separate")
    yield add("tiff_planar", body=body, note="one plane after the other")
    yield add("tiff_grey8", body=_tiff(np.asarray(grey())), picture=grey())
    yield add("tiff_grey16", body=_tiff(deep()[..., 1]), picture=base().getchannel("G"), note="16 bit")
    body = _tiff(255 - np.asarray(grey()), photometric="miniswhite")
    yield add("tiff_miniswhite", body=body, picture=grey(), note="zero is white, as from scanners")
    two = base().convert("1")
    for method in ("raw", "group4"):
        body = pillow(two, "TIFF", compression=method)
        yield add(f"tiff_bilevel_{method}", body=body, picture=two.convert("L"), note="one bit, as from fax machines")
    few = base().quantize(256, dither=Image.Dither.NONE)
    yield add("tiff_palette", body=pillow(few, "TIFF"), picture=few.convert("RGB"), note="256 colours")
    body = _tiff(np.asarray(rgba()), photometric="rgb", extrasamples=["unassalpha"])
    yield add("tiff_rgba", body=body, picture=on_white(rgba()), note="onto white")
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for picture in (base(), base().transpose(Image.Transpose.ROTATE_180)):
            writer.write(np.asarray(picture), photometric="rgb", contiguous=False)
    yield add("tiff_pages", body=out.getvalue(), note="two pages; the first one")
    yield add("tiff_bigtiff", body=_tiff(pixels, bigtiff=True), note="BigTIFF: 64-bit offsets")
    body = _tiff(pixels.astype(np.float32) / 255)
    yield add("tiff_float", body=body, codes=UNCERTAIN, note="floating point: nobody knows what is white")


def _tiff(samples: np.ndarray, **options: Any) -> bytes:
    """By tifffile, without its own description."""
    byteorder, bigtiff = options.pop("byteorder", "<"), options.pop("bigtiff", False)
    options.setdefault("photometric", "rgb" if samples.ndim == 3 else "minisblack")
    out = io.BytesIO()
    with tifffile.TiffWriter(out, byteorder=byteorder, bigtiff=bigtiff) as writer:
        writer.write(samples, metadata=None, software=False, **options)
    return out.getvalue()


def bmps() -> Iterator[Case]:
    add = functools.partial(good, group="BMP", suffix="bmp")
    pixels, size = np.asarray(base()), (WIDTH, HEIGHT)
    for bits, colours in ((1, 2), (4, 16), (8, 256)):
        few = base().quantize(colours, dither=Image.Dither.NONE)
        palette = np.array(few.getpalette(), np.uint8).reshape(-1, 3)
        data = bmp_rows(pack(np.asarray(few), bits))
        shown = few.convert("RGB")
        yield add(f"bmp_{bits}bit", body=bmp(*size, bits, data, palette=palette), picture=shown, note="palette")
        if bits > 1:
            data = (rle8 if bits == 8 else rle4)(np.asarray(few))
            body = bmp(*size, bits, data, palette=palette, compression=1 if bits == 8 else 2)
            yield add(f"bmp_rle{bits}", body=body, picture=shown, note="run lengths")
    blue_first = pixels[..., ::-1].reshape(HEIGHT, -1)
    yield add("bmp_24bit", body=bmp(*size, 24, bmp_rows(blue_first)), note="as most are")
    body = bmp(WIDTH, -HEIGHT, 24, bmp_rows(blue_first[::-1]))
    yield add("bmp_top_down", body=body, note="the first row first")
    yield add("bmp_core", body=bmp(*size, 24, bmp_rows(blue_first), core=True), note="header of OS/2")
    padded = np.dstack([pixels[..., ::-1], np.zeros((HEIGHT, WIDTH), np.uint8)]).reshape(HEIGHT, -1)
    yield add("bmp_32bit", body=bmp(*size, 32, bmp_rows(padded)), note="the fourth byte means nothing")
    body = bmp_rgba(np.asarray(rgba()))
    yield add("bmp_rgba", body=body, picture=on_white(rgba()), note="alpha, by masks")
    red, green, blue = (pixels[..., i].astype(np.uint16) for i in range(3))
    for name, masks, values in (
        ("555", (0x7C00, 0x3E0, 0x1F), red >> 3 << 10 | green >> 3 << 5 | blue >> 3),
        ("565", (0xF800, 0x7E0, 0x1F), red >> 3 << 11 | green >> 2 << 5 | blue >> 3),
    ):
        data = bmp_rows(values.astype("<u2").view(np.uint8).reshape(HEIGHT, -1))
        body = bmp(*size, 16, data, compression=3, masks=struct.pack("<3I", *masks))
        yield add(f"bmp_16bit_{name}", body=body, tolerance=8.0, note="16 bits a pixel, by masks")


def jp2() -> Iterator[Case]:
    add = functools.partial(good, group="JPEG 2000", suffix="jp2")
    yield add("jp2_lossless", body=pillow(base(), "JPEG2000"))
    body = pillow(base(), "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[8])
    yield add("jp2_lossy", body=body, tolerance=LOSSY)
    yield add("j2k_raw", body=pillow(base(), "JPEG2000", no_jp2=True), suffix="j2k", note="the bare codestream")
    yield add("jp2_tiles", body=pillow(base(), "JPEG2000", tile_size=(100, 100)), note="in tiles")
    yield add("jp2_grey", body=pillow(grey(), "JPEG2000"), picture=grey())
    yield add("jp2_alpha", body=pillow(rgba(), "JPEG2000"), picture=on_white(rgba()), note="onto white")
    body = imagecodecs.jpeg2k_encode(deep()[..., 1], reversible=True, codecformat="jp2")
    yield add("jp2_grey16", body=body, picture=base().getchannel("G"), note="16 bit")
    body = imagecodecs.jpeg2k_encode(deep(), reversible=True, codecformat="jp2")
    yield add("jp2_rgb16", body=body, note="16 bit")


def icons() -> Iterator[Case]:
    add = functools.partial(good, group="ICO", suffix="ico")
    small = base().resize((96, 64), Image.Resampling.LANCZOS)
    clear = rgba().resize((96, 64), Image.Resampling.LANCZOS)
    sizes = [(24, 16), (48, 32), (96, 64)]
    for kind in ("png", "bmp"):
        body = pillow(small.convert("RGBA"), "ICO", sizes=sizes, bitmap_format=kind)
        yield add(f"ico_{kind}", body=body, picture=small, note=f"three sizes, {kind.upper()} within; the largest")
        body = pillow(clear, "ICO", sizes=sizes, bitmap_format=kind)
        yield add(f"ico_{kind}_alpha", body=body, picture=on_white(clear), tolerance=8.0, note="onto white")


def netpbm() -> Iterator[Case]:
    add = functools.partial(good, group="Netpbm")
    size, two = (WIDTH, HEIGHT), base().convert("1")
    yield add("ppm_binary", body=ppm("P6", *size, 255, base().tobytes()))
    yield add("ppm_text", body=ppm("P3", *size, 255, " ".join(map(str, base().tobytes())).encode()), note="as text")
    yield add("ppm_16bit", body=ppm("P6", *size, 65535, deep().astype(">u2").tobytes()), note="16 bit")
    yield add("pgm_binary", body=ppm("P5", *size, 255, grey().tobytes()), picture=grey())
    yield add(
        "pgm_16bit",
        body=ppm("P5", *size, 65535, deep()[..., 1].astype(">u2").tobytes()),
        picture=base().getchannel("G"),
    )
    body = ppm("P4", *size, None, bytes(255 - byte for byte in two.tobytes()))
    yield add("pbm_binary", body=body, picture=two.convert("L"), note="one bit, one is black")
