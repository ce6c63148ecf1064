"""Every kind of image, as a small file made here, against pixels that were computed in another way.

That is: from the array that was saved, by Pillow, or by libvips, whichever had no part in how we decode.
"""

from __future__ import annotations

import base64
import io
import itertools
import shutil
import struct
import subprocess
import zlib

import cv2
import numpy as np
import pillow_heif
import pytest
import pyvips
import simplejpeg
from PIL import Image, ImageCms, ImageFile, ImageOps
from skimage.metrics import structural_similarity
from support.photos import photograph

from img2dataset_dist.config import JobConfig
from img2dataset_dist.decoders import png as png_module
from img2dataset_dist.errors import DecodeError, NotMedia, RowError, TooManyPixels, UnsupportedFormat
from img2dataset_dist.kinds import OTHER_IMAGES, extension_of, sniff
from img2dataset_dist.media import IMAGES, read_header
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms.image import ImageTransform

RNG = np.random.default_rng(11)
PHOTO = photograph("coffee.png").resize((96, 64), Image.Resampling.LANCZOS)
COLOUR = np.asarray(PHOTO)
GREY = np.asarray(PHOTO.convert("L"))
ALPHA = np.add.outer(np.arange(64) * 2, np.arange(96)).astype(np.uint8)
RGBA = np.dstack([COLOUR, ALPHA])


def transform(**options) -> ImageTransform:
    options = {"resize_mode": "no", "encode_format": "png", "encode_quality": 1, **options}
    return ImageTransform(JobConfig.from_flat({"url_list": "x.txt", **options}))


WORK = transform()


def sample(body: bytes) -> Sample:
    return Sample(item=Item(shard_id=0, index=0, key="00000", url="http://x/"), body=body)


def stored(body: bytes, **options) -> np.ndarray:
    done = (transform(**options) if options else WORK)(sample(body))
    return np.asarray(Image.open(io.BytesIO(done.data)))


def file(image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def heic(image, **options) -> bytes:
    out = io.BytesIO()
    made = pillow_heif.from_pillow(image if isinstance(image, Image.Image) else Image.fromarray(image))
    made.save(out, **{"quality": -1, "chroma": 444, **options})
    return out.getvalue()


def vips(array, suffix, **options) -> bytes:
    return pyvips.Image.new_from_array(array).write_to_buffer(suffix, **options)


def by_vips(body: bytes) -> np.ndarray:
    image = pyvips.Image.new_from_buffer(body, "").autorot()
    if image.hasalpha():
        image = image.flatten(background=255)
    return image.colourspace("b-w" if image.bands == 1 else "srgb").cast("uchar").numpy()


def by_pillow(body: bytes, mode: str | None = None) -> np.ndarray:
    image = Image.open(io.BytesIO(body))
    return np.asarray(image.convert(mode) if mode else image)


def on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., -1:].astype(np.float64) / 255
    return np.rint(rgba[..., :-1] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def difference(a, b) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


# --- JPEG ------------------------------------------------------------------------------------------------------------

SAMPLED_4_1_0 = base64.b85decode(  # cjpeg -quality 60 -sample 4x2 -optimize, of the array below
    "c-s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=VlZ%^+gO{6&n~#r|Usyp@SV%}%T}Dn^K~K}rKu=Rw$Jolt&e+V&Tu0X-+|kX)FDN+3$Sx`|Dj>ltFvuT"
    "d2qPaKpRk~?ny9Fnzp1XNKgr<#0R}-11_1^IW=1ClCP7AKLB{__7{q{11v(Q6urRX$#l-~}m{G+Um|2s65~Aqp85o&>!V-c&^^9oh6%GI2V&DOq!z9Q"
    "o$Y9TKOfAoSS)MzX^jd~sdwL&Bwaff}69E5^K_C"
)
ARITHMETIC = base64.b85decode(  # cjpeg -quality 60 -arithmetic
    "c-s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=VlZ%^+gO{6&n~#r|Usyp@SV%}%T}Dn^K~K}rKu=Rw$Jolt&e+V&Tu0X-+|kX)FDN+3$Sx`|Dj>ltFvuT"
    "d2qPaKpRk~?ny9Fnzp1XNKgr<#Nd`d<1_1^IW=16jCP7AKLB{`Q7`PY&1Xvjb1X=&zV&GwB1WGUqGT1ZxXPAGL?fZ+97k*ASCQ$ls#~Ep#FTqx>*(c"
    "(}MA8r5%5|2XqVaFf2SFAeGvPfB|8D{S`Lsoh"
)


def gradient() -> np.ndarray:
    y, x = np.mgrid[:16, :32]
    return np.dstack([x * 8, y * 16, (x + y) * 5]).astype(np.uint8)


def transformed_by(body: bytes, transform: int) -> bytes:
    """The same JPEG with another colour transform in Adobe's marker: 2 makes YCCK of CMYK."""
    at = body.index(b"Adobe")
    return body[: at + 11] + bytes([transform]) + body[at + 12 :]


def without_adobe(body: bytes) -> bytes:
    at = body.index(b"\xff\xee")
    return body[:at] + body[at + 2 + int.from_bytes(body[at + 2 : at + 4], "big") :]


CMYK = file(PHOTO.convert("CMYK"), "JPEG", quality=95)
JPEGS = {
    "baseline": file(PHOTO, "JPEG", subsampling=0),
    "progressive": file(PHOTO, "JPEG", progressive=True),
    "grey": file(GREY, "JPEG"),
    "rgb": file(PHOTO, "JPEG", keep_rgb=True),
    "restarts": file(PHOTO, "JPEG", restart_marker_blocks=2),
    "cmyk": CMYK,
    "cmyk, progressive": file(PHOTO.convert("CMYK"), "JPEG", progressive=True),
    "ycck": transformed_by(CMYK, 2),
    "arithmetic": zlib.decompress(ARITHMETIC),
    "4:1:0": zlib.decompress(SAMPLED_4_1_0),
    **{
        f"sampled {name}": simplejpeg.encode_jpeg(COLOUR, quality=80, colorsubsampling=name)
        for name in ("444", "422", "440", "420", "411")
    },
}


INK = ("cmyk", "cmyk, progressive", "ycck")


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg(name):
    """All of libjpeg's decoders give the same bytes; only ink without a profile is multiplied out by ourselves."""
    done = stored(JPEGS[name])
    assert difference(done, by_pillow(JPEGS[name], "L" if name == "grey" else "RGB")) <= (name in INK)
    if name not in INK:  # libvips has a profile of its own for it
        assert np.abs(done.astype(int) - by_vips(JPEGS[name])).mean() < 1


@pytest.mark.parametrize(("name", "body"), [("4:1:0", JPEGS["4:1:0"]), ("arithmetic", JPEGS["arithmetic"])])
def test_rare_jpegs_show_what_was_saved(name, body):
    assert np.abs(stored(body).astype(int) - gradient()).mean() < 12


def test_inverted_cmyk_is_the_rule_without_adobes_marker_too():
    assert np.array_equal(stored(CMYK), stored(without_adobe(CMYK)))
    assert np.abs(stored(CMYK).astype(int) - COLOUR).mean() < 3


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="needs jpegtran")
def test_arithmetic_coding_is_the_same_picture():
    body = JPEGS["baseline"]
    coded = subprocess.run(["jpegtran", "-arithmetic"], input=body, capture_output=True, check=True).stdout
    assert np.array_equal(stored(body), stored(coded))


# --- PNG -------------------------------------------------------------------------------------------------------------

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
"""Left, top, step across and step down of the seven passes (PNG, 8.2)."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def packed(values: np.ndarray, depth: int) -> bytes:
    """Rows of samples (height, width * channels), each row with filter 0 in front."""
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = (values[..., np.newaxis] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    return b"".join(b"\0" + row for row in rows)


def png(values: np.ndarray, depth: int, colour: int, *chunks, interlaced=False) -> bytes:
    """Written by hand from samples (height, width, channels)."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    passes = [values[top::down, left::across] for left, top, across, down in ADAM7] if interlaced else [values]
    raw = b"".join(packed(one.reshape(one.shape[0], -1), depth) for one in passes if one.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def to_eight(values: np.ndarray, depth: int) -> np.ndarray:
    return np.rint(values * (255 / (2**depth - 1))).astype(np.uint8)


DEPTHS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16),
          (6, 8), (6, 16)]  # fmt: skip


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("colour", "depth"), DEPTHS)
def test_png_of_every_kind(colour, depth, transparent, interlaced):
    if transparent and colour in (4, 6):
        pytest.skip("these have an alpha channel")
    values = RNG.integers(0, 2**depth, (13, 21, CHANNELS[colour])).astype(np.uint16)
    values[3, 4] = values[0, 0]
    chunks = []
    if colour == 3:
        palette, alphas = RNG.integers(0, 256, (2**depth, 3)), RNG.integers(0, 256, 2**depth)
        chunks = [(b"PLTE", palette.astype(np.uint8).tobytes())]
        chunks += [(b"tRNS", alphas.astype(np.uint8).tobytes())] if transparent else []
        expected = palette[values[..., 0]].astype(np.uint8)
        if transparent:
            expected = on_white(np.dstack([expected, alphas[values[..., 0]]]))
    elif colour in (4, 6):
        eight = to_eight(values, depth)
        expected = on_white(eight[..., [0, 0, 0, 1]] if colour == 4 else eight)
    else:
        expected = to_eight(values, depth)
        if transparent:
            chunks = [(b"tRNS", values[0, 0].astype(">u2").tobytes())]
            expected = expected.repeat(3 // expected.shape[2], axis=2)
            expected[(values == values[0, 0]).all(axis=2)] = 255
        expected = expected.squeeze()
    done = stored(png(values, depth, colour, *chunks, interlaced=interlaced))
    assert difference(done, expected) <= ((2 if colour in (4, 6) else 1) if depth == 16 else 0)


@pytest.mark.parametrize(("colour", "depth"), DEPTHS)
def test_png_without_libspng(colour, depth, monkeypatch):
    values = RNG.integers(0, 2**depth, (5, 9, CHANNELS[colour]))
    palette = [(b"PLTE", RNG.bytes(3 * 2**depth))] if colour == 3 else []
    body = png(values, depth, colour, *palette)
    expected = stored(body)
    monkeypatch.setattr(png_module, "load", None)
    assert difference(stored(body), expected) <= 1


def test_gamma_of_a_png_is_ignored():
    plain = png(COLOUR, 8, 2)
    assert np.array_equal(stored(png(COLOUR, 8, 2, (b"gAMA", struct.pack(">I", 100000)))), stored(plain))


@pytest.mark.parametrize("colour", [0, 2, 3, 6])
def test_a_changed_bit_in_a_png_is_found(colour):
    values = RNG.integers(0, 256, (20, 30, CHANNELS[colour])).astype(np.uint8)
    body = png(values, 8, colour, *([(b"PLTE", bytes(768))] if colour == 3 else []))
    for at in range(29 + 4, len(body) - 12, 37):
        damaged = bytearray(body)
        damaged[at] ^= 1 << (at % 8)
        with pytest.raises(DecodeError):
            WORK(sample(bytes(damaged)))


# --- the others ------------------------------------------------------------------------------------------------------

LOSSLESS = {"lossless": True, "exact": True}
TIFF_16 = (GREY.astype(np.uint16) << 8) | 0x5A
SAVED = {  # what was saved must come out, to the last bit
    "webp": (file(PHOTO, "WEBP", **LOSSLESS), COLOUR),
    "webp, alpha": (file(RGBA, "WEBP", **LOSSLESS), on_white(RGBA)),
    "webp, animated": (file(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(180)], **LOSSLESS), COLOUR),
    "webp, animated, alpha": (
        file(RGBA, "WEBP", save_all=True, append_images=[PHOTO.rotate(180)], **LOSSLESS),
        on_white(RGBA),
    ),
    "apng": (file(PHOTO, "PNG", save_all=True, append_images=[PHOTO.rotate(180)]), COLOUR),
    "bmp": (file(PHOTO, "BMP"), COLOUR),
    "bmp, grey": (file(GREY, "BMP"), GREY),
    "bmp, 1 bit": (file(PHOTO.convert("1"), "BMP"), np.asarray(PHOTO.convert("1").convert("L"))),
    "bmp, palette": (file(PHOTO.quantize(50), "BMP"), np.asarray(PHOTO.quantize(50).convert("RGB"))),
    "tiff": (file(PHOTO, "TIFF"), COLOUR),
    "tiff, lzw": (file(PHOTO, "TIFF", compression="tiff_lzw"), COLOUR),
    "tiff, deflate": (file(PHOTO, "TIFF", compression="tiff_adobe_deflate"), COLOUR),
    "tiff, packbits": (file(PHOTO, "TIFF", compression="packbits"), COLOUR),
    "tiff, fax": (
        file(PHOTO.convert("1"), "TIFF", compression="group4"),
        np.asarray(PHOTO.convert("1").convert("L")),
    ),
    "tiff, palette": (file(PHOTO.quantize(50), "TIFF"), np.asarray(PHOTO.quantize(50).convert("RGB"))),
    "tiff, tiles": (vips(COLOUR, ".tif", tile=True, tile_width=32, tile_height=16), COLOUR),
    "tiff, big": (vips(COLOUR, ".tif", bigtiff=True), COLOUR),
    "tiff, alpha": (file(RGBA, "TIFF"), on_white(RGBA)),
    "tiff, pages": (file(PHOTO, "TIFF", save_all=True, append_images=[PHOTO.rotate(180)]), COLOUR),
    "tiff, 16 bit grey": (file(Image.fromarray(TIFF_16), "TIFF"), GREY),
    "tiff, 16 bit": (vips((COLOUR.astype(np.uint16) << 8) | 0x5A, ".tif"), COLOUR),
    "tiff, 16 bit, white is zero": (
        file(Image.fromarray(~TIFF_16), "TIFF").replace(
            b"\x06\x01\x03\x00\x01\x00\x00\x00\x01", b"\x06\x01\x03\x00\x01\x00\x00\x00\x00"
        ),
        GREY,
    ),
    "jp2": (file(PHOTO, "JPEG2000"), COLOUR),
    "jp2, grey": (file(GREY, "JPEG2000"), GREY),
    "jp2, alpha": (file(RGBA, "JPEG2000"), on_white(RGBA)),
    "jp2, 16 bit grey": (file(Image.fromarray(TIFF_16), "JPEG2000"), GREY),
    "jp2, codestream": (file(PHOTO, "JPEG2000", no_jp2=True), COLOUR),
    "jp2, tiles": (file(PHOTO, "JPEG2000", tile_size=(32, 32)), COLOUR),
    "ppm": (file(PHOTO, "PPM"), COLOUR),
    "pgm": (file(GREY, "PPM"), GREY),
    "pgm, 16 bit": (b"P5\n96 64\n65535\n" + TIFF_16.astype(">u2").tobytes(), GREY),
    "pbm": (b"P1\n3 2\n1 0 1\n0 1 0\n", np.asarray([[0, 255, 0], [255, 0, 255]], np.uint8)),
    "gif": (file(PHOTO.quantize(50), "GIF"), np.asarray(PHOTO.quantize(50).convert("RGB"))),
    "gif, frames": (
        file(PHOTO.quantize(50), "GIF", save_all=True, append_images=[PHOTO.rotate(180)]),
        np.asarray(PHOTO.quantize(50).convert("RGB")),
    ),
    "ico": (file(PHOTO, "ICO", sizes=[(96, 64), (16, 16)]), COLOUR),
    "ico, alpha": (file(RGBA, "ICO", sizes=[(96, 64)]), on_white(RGBA)),
    "ico, bitmap": (file(RGBA, "ICO", sizes=[(96, 64)], bitmap_format="bmp"), on_white(RGBA)),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_was_saved_comes_out(name):
    body, expected = SAVED[name]
    done = WORK(sample(body))
    assert done.original_format == {"apng": "png", "pgm": "ppm", "pbm": "ppm"}.get(
        name.split(",")[0], name.split(",")[0]
    )
    assert (done.original_width, done.original_height) == expected.shape[1::-1]
    assert difference(np.asarray(Image.open(io.BytesIO(done.data))), expected) == 0


LOSSY = {
    "webp": file(PHOTO, "WEBP", quality=80),
    "webp, alpha": file(RGBA, "WEBP", quality=80),
    "tiff, jpeg": vips(COLOUR, ".tif", compression="jpeg", Q=90),
    "tiff, cmyk": file(PHOTO.convert("CMYK"), "TIFF"),
    "jp2, irreversible": file(PHOTO, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[10]),
    "avif": file(PHOTO, "AVIF", quality=90),
    "avif, alpha": file(RGBA, "AVIF", quality=90),
    "avif, 4:4:4": file(PHOTO, "AVIF", quality=90, subsampling="4:4:4"),
    "avif, 10 bit": vips(COLOUR, ".avif", bitdepth=10, Q=90),
    "avif, sequence": file(PHOTO, "AVIF", save_all=True, append_images=[PHOTO.rotate(180)]),
    "heic": heic(PHOTO),
    "heic, alpha": heic(RGBA),
    "heic, 4:2:0": heic(PHOTO, quality=90, chroma=420),
    "heic, tiles": heic(PHOTO.resize((300, 200)), tile_size=128),
}


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_kinds_look_as_in_another_program(name):
    body = LOSSY[name]
    done = WORK(sample(body))
    seen = np.asarray(Image.open(io.BytesIO(done.data)).convert("RGB")).astype(int)
    if name.startswith("heic"):  # libvips here has no HEVC
        original = PHOTO.resize((300, 200)) if "tiles" in name else PHOTO
        expected = on_white(RGBA) if "alpha" in name else np.asarray(original)
    elif name in ("tiff, cmyk", "jp2, irreversible", "avif, sequence"):  # nor some other things
        expected = by_pillow(body, "RGB")
    else:
        expected = by_vips(body)
    assert np.abs(seen - expected[..., :3]).mean() < (4 if "4:2:0" in name or name == "avif" else 2)
    assert done.original_format == name.split(",")[0]


@pytest.mark.parametrize("make", [lambda: heic(GREY), lambda: file(GREY, "AVIF", subsampling="4:0:0")])
def test_grey_of_the_newer_kinds_stays_grey(make):
    done = stored(make())
    assert done.ndim == 2
    assert np.abs(done.astype(int) - GREY).mean() < 3


def test_deep_heic_keeps_its_tones():
    deep = (COLOUR.astype(np.uint16) << 8) | COLOUR
    made = pillow_heif.from_bytes(mode="RGB;16", size=(96, 64), data=deep.tobytes())
    out = io.BytesIO()
    made.save(out, quality=-1, chroma=444)
    assert np.abs(stored(out.getvalue()).astype(int) - COLOUR).mean() < 1
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray((GREY.astype(np.uint16) << 8) | GREY)).save(out, quality=-1)
    assert np.abs(stored(out.getvalue()).astype(int) - GREY).mean() < 2


def test_lab_tiff():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(PHOTO, *profiles, outputMode="LAB")
    lab.info.clear()
    assert np.abs(stored(file(lab, "TIFF")).astype(int) - COLOUR).mean() < 3


def test_bmp_with_run_lengths():
    rows = b"\x03\x01\x02\x02\x00\x00" + b"\x00\x05\x00\x01\x02\x01\x00\x00\x00\x00" + b"\x00\x01"  # bottom row first
    palette = bytes([0, 0, 0, 0, 10, 20, 30, 0, 250, 240, 230, 0])
    info = struct.pack("<IiiHHIIiiII", 40, 5, 2, 1, 8, 1, len(rows), 0, 0, 3, 0)
    start = 14 + 40 + len(palette)
    body = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows
    colours = np.asarray([[0, 0, 0], [30, 20, 10], [230, 240, 250]], np.uint8)
    assert np.array_equal(stored(body), colours[[[0, 1, 2, 1, 0], [1, 1, 1, 2, 2]]])


def test_bmp_with_alpha():
    header = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"\0" * 52
    pixels = bytes([10, 20, 30, 255, 40, 50, 60, 0])
    body = b"BM" + struct.pack("<IHHI", 14 + 108 + 8, 0, 0, 14 + 108) + header + masks + pixels
    assert stored(body).tolist() == [[[30, 20, 10], [255, 255, 255]]]


def test_of_a_gif_the_whole_canvas():
    """A first frame that is smaller than the canvas and has holes: what is not painted is transparent."""
    frame = Image.new("P", (4, 3))
    frame.putpalette([255, 0, 0, 0, 255, 0])
    frame.putpixel((1, 1), 1)
    body = bytearray(file(frame, "GIF", transparency=1))
    body[6:10] = struct.pack("<HH", 8, 6)
    done = stored(bytes(body))
    assert done.shape == (6, 8, 3)
    expected = np.full((6, 8, 3), 255, np.uint8)
    expected[:3, :4] = (255, 0, 0)
    expected[1, 1] = 255
    assert np.array_equal(done, expected)


def icons(*entries: tuple[int, int, bytes], kind=1) -> bytes:
    head, data = struct.pack("<HHH", 0, kind, len(entries)), b""
    for width, height, picture in entries:
        at = 6 + 16 * len(entries) + len(data)
        head += struct.pack("<BBBBHHII", width % 256, height % 256, 0, 0, 1, 32, len(picture), at)
        data += picture
    return head + data


@pytest.mark.parametrize("kind", [1, 2])
def test_of_an_icon_the_largest(kind):
    small, large = (file(Image.new("RGB", (side, side), name)) for side, name in ((16, "red"), (256, "blue")))
    done = stored(icons((16, 16, small), (256, 256, large), (16, 16, small), kind=kind))
    assert done.shape == (256, 256, 3)
    assert (done == (0, 0, 255)).all()


def test_an_icon_does_not_hide_how_large_it_is():
    liar = icons(
        (
            16,
            16,
            png(np.zeros((1, 1, 1), np.uint8), 8, 0).replace(
                struct.pack(">II", 1, 1), struct.pack(">II", 60000, 60000), 1
            ),
        )
    )
    with pytest.raises(TooManyPixels):
        WORK(sample(liar))


def test_an_icon_with_a_transparent_palette():
    inner = file(Image.fromarray(GREY).quantize(2), transparency=bytes([0, 255]))
    assert np.array_equal(stored(icons((96, 64, inner))), stored(inner))


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_turned_once_and_only_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif.tobytes()}
    body = heic(PHOTO, **options) if kind == "HEIC" else file(PHOTO, kind, quality=90, subsampling="4:4:4", **options)
    assert (b"irot" in body or b"imir" in body) == (orientation > 1)
    holder = PHOTO.copy()
    holder.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(holder)).astype(int)
    done = WORK(sample(body))
    assert (done.width, done.height) == (done.original_width, done.original_height) == expected.shape[1::-1]
    assert np.abs(np.asarray(Image.open(io.BytesIO(done.data))) - expected).mean() < 3


def test_heic_is_turned_by_its_own_properties_only():
    exif = Image.Exif()
    exif[0x0112] = 1
    upright = heic(PHOTO, exif=exif.tobytes())
    block = exif.tobytes()[6:]
    at = block.index(b"\x12\x01" if block[:2] == b"II" else b"\x01\x12")
    claims = bytearray(block)
    claims[at + 8 : at + 10] = b"\x06\x00" if block[:2] == b"II" else b"\x00\x06"
    assert block in upright
    assert np.array_equal(stored(upright.replace(block, bytes(claims))), stored(upright))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC"])
def test_no_tag_is_left_to_turn_it_again(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    body = heic(PHOTO, exif=exif.tobytes()) if kind == "HEIC" else file(PHOTO, kind, exif=exif)
    for encode_format in ("jpg", "png", "webp"):
        quality = 9 if encode_format == "png" else 95
        done = transform(encode_format=encode_format, encode_quality=quality, skip_reencode=True)(sample(body))
        image = Image.open(io.BytesIO(done.data))
        assert image.size == (64, 96)
        assert image.getexif().get(0x0112, 1) == 1


# --- what cannot be decoded ------------------------------------------------------------------------------------------

UNSUPPORTED = [
    (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "svg"),
    (b"\n <svg width='1'/>", "svg"),
    (b"8BPS\0\1" + bytes(30), "psd"),
    (b"\xff\x0a" + bytes(30), "jxl"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(9), "jxl"),
    (b"\x76\x2f\x31\x01" + bytes(30), "exr"),
    (b"#?RADIANCE\n", "hdr"),
    (b"DDS " + bytes(30), "dds"),
    (b"gimp xcf v011", "xcf"),
    (b"qoif" + bytes(30), "qoi"),
    (b"icns" + bytes(30), "icns"),
    (b"%!PS-Adobe-3.0 EPSF-3.0", "eps"),
    (b"\xff\xd8\xff\xf7" + bytes(30), "jls"),
]


@pytest.mark.parametrize(("body", "kind"), UNSUPPORTED)
def test_images_that_nobody_here_reads(body, kind):
    assert sniff(body) == kind
    assert kind in OTHER_IMAGES
    with pytest.raises(UnsupportedFormat, match=f"unsupported image type: {kind}") as caught:
        WORK(sample(body))
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "html"),
        (b"\x1a\x45\xdf\xa3\x01\x00webm", "webm"),
        (b"\x00\x00\x00\x14ftypqt  ", "mov"),
        (b"\x00\x00\x00\x14ftypisom", "mp4"),
        (b"RIFF\0\0\0\0AVI ", "avi"),
        (b"ID3\4", "mp3"),
        (b"PK\3\4", "zip"),
        (b"%PDF-1.7", "pdf"),
        (b"\0\0\2\0\0\0\0\0\0\0\0\0", "unknown"),  # a Targa file; a cursor has at least one picture
        (b"\0\0\1\xba", "mpg"),
    ],
)
def test_what_is_no_image(body, kind):
    assert sniff(body) == kind
    with pytest.raises(NotMedia, match=f"not an image: {kind}"):
        WORK(sample(body))


def test_extensions():
    assert {kind: extension_of(kind) for kind in IMAGES} == {
        "jpeg": "jpg", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp", "tiff": "tif", "avif": "avif",
        "jp2": "jp2", "ppm": "ppm", "ico": "ico", "heic": "heic",
    }  # fmt: skip
    assert [extension_of(kind) for kind in ("svg", "jxl", "psd", "html", "pdf", "mp4")] == [
        "svg",
        "jxl",
        "psd",
        "html",
        "pdf",
        "mp4",
    ]
    assert {extension_of(kind) for kind in ("text", "json", "xml", "unknown", "empty")} == {"bin"}
    assert not {extension_of(kind) for kind in (*IMAGES, *OTHER_IMAGES)} & {"json", "txt"}


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"hevc"])
def test_heif_by_its_brands(brand):
    assert sniff(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic") == "heic"


@pytest.mark.parametrize("head", [b"avif\0\0\0\0mif1", b"avis\0\0\0\0avif", b"mif1\0\0\0\0mif1avifmiaf"])
def test_avif_by_its_brands(head):
    assert sniff(b"\0\0\0\x1cftyp" + head) == "avif"


# --- damage ----------------------------------------------------------------------------------------------------------

WHOLE = {
    "jpeg": file(PHOTO, "JPEG"),
    "jpeg, progressive": file(PHOTO, "JPEG", progressive=True),
    "jpeg, 4:1:0": JPEGS["4:1:0"],
    "jpeg, cmyk": CMYK,
    "png": file(PHOTO),
    "png, 16 bit": png(TIFF_16[..., np.newaxis], 16, 0),
    **{name: SAVED[name][0] for name in ("webp", "webp, animated", "bmp", "tiff", "tiff, lzw", "jp2", "gif", "ico", "ppm")},
    "avif": LOSSY["avif"],
    "heic": LOSSY["heic"],
}  # fmt: skip
IN_PIECES = ("jpeg", "jpeg, progressive", "jpeg, cmyk", "png", "bmp", "tiff", "gif", "ppm")
"""Kinds of which the first part can be seen."""


@pytest.mark.parametrize("name", WHOLE)
def test_half_a_file_is_a_failure(name):
    body = WHOLE[name]
    assert WORK(sample(body)).data
    for part in (0.9, 0.75, 0.5, 0.3):
        with pytest.raises(DecodeError) as caught:
            WORK(sample(body[: int(part * len(body))]))
        assert caught.value.code == "decode_error"


@pytest.mark.parametrize("name", WHOLE)
def test_allow_truncated(name):
    body, work = WHOLE[name], transform(allow_truncated=True)
    assert work(sample(body)).data == WORK(sample(body)).data
    cut = body[: int(0.7 * len(body))]
    if name not in IN_PIECES:
        try:
            work(sample(cut))
        except RowError as error:
            assert error.code == "decode_error"  # noqa: PT017
        return
    done = np.asarray(Image.open(io.BytesIO(work(sample(cut)).data))).astype(int)
    whole = stored(body)
    assert done.shape == whole.shape
    top = slice(None, 8) if name != "bmp" else slice(-8, None)  # whose rows begin at the bottom
    assert np.abs(done[top] - whole[top]).mean() < 12
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_allow_truncated_needs_a_header():
    for body in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", WHOLE["jpeg"][:100], WHOLE["webp"][:25]):
        with pytest.raises(DecodeError):
            transform(allow_truncated=True)(sample(body))


def test_a_mended_picture_is_not_kept_as_it_came():
    cut = WHOLE["jpeg"][:-400]
    work = transform(allow_truncated=True, skip_reencode=True, encode_format="jpg", encode_quality=90)
    done = work(sample(cut))
    assert done.data != cut
    assert done.data.endswith(b"\xff\xd9")


# --- resizing --------------------------------------------------------------------------------------------------------

LARGE = photograph("coffee.png")
FILTERS = {
    "nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "grey", "alpha"])
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [111, 256, 700])
def test_exact_is_what_opencv_makes_of_it(kind, name, size):
    """As in the peer: cv2.imdecode, alpha onto white, cv2.resize."""
    image = {"grey": LARGE.convert("L"), "alpha": LARGE.copy()}.get(kind, LARGE)
    if kind == "alpha":
        image.putalpha(LARGE.convert("L"))
    body = file(image, kind if kind.isupper() else "PNG")
    decoded = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded.ndim == 3 and decoded.shape[2] == 4:
        decoded = on_white(decoded)
    scale = size / max(LARGE.size)
    to = round(LARGE.width * scale), round(LARGE.height * scale)
    expected = cv2.resize(decoded, to, interpolation=FILTERS[name])
    done = stored(body, decode="exact", resize_mode="keep_ratio_largest", image_size=size,
                  upscale_interpolation=name, downscale_interpolation=name)  # fmt: skip
    done = done if done.ndim == 2 else done[..., ::-1]
    assert done.shape == expected.shape
    assert (np.abs(done.astype(int) - expected) <= 1).mean() >= 0.999


@pytest.mark.parametrize("size", [64, 128, 256, 384, 512])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "JPEG2000"])
def test_fast_is_close(kind, size):
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png")
    likeness = []
    for name in names:
        body = file(photograph(name), kind)
        options = {"resize_mode": "keep_ratio_largest", "image_size": size, "resize_only_if_bigger": True}
        fast, exact = (stored(body, decode=how, **options) for how in ("fast", "exact"))
        likeness.append(structural_similarity(fast, exact, channel_axis=2 if fast.ndim == 3 else None))
    assert min(likeness) > 0.97
    assert np.mean(likeness) > 0.98


def test_of_a_jpeg_2000_no_more_is_decoded_than_needed(monkeypatch):
    seen = []
    real = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda image: (seen.append(image.size), real(image))[1])
    body = file(LARGE.resize((601, 403)), "JPEG2000")
    seen.clear()
    done = transform(resize_mode="keep_ratio_largest", image_size=100)(sample(body))
    assert (done.original_width, done.original_height) == (601, 403)
    assert set(seen) == {(301, 202)}


def test_scales_of_a_jpeg(monkeypatch):
    sizes = []
    real = simplejpeg.decode_jpeg

    def spy(*arguments, **options):
        pixels = real(*arguments, **options)
        sizes.append(pixels.shape[1::-1])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    body = file(LARGE.resize((801, 401)), "JPEG")
    for size in (50, 51, 100, 101, 133, 200, 201, 900):
        transform(resize_mode="keep_ratio_largest", image_size=size)(sample(body))
    assert sizes == [(101, 51), (201, 101), (201, 101), (401, 201), (401, 201), (401, 201), (801, 401), (801, 401)]


# --- keeping the bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encode_format", "body", "kept"),
    [
        ("jpg", WHOLE["jpeg"], True),
        ("jpg", JPEGS["4:1:0"], True),
        ("jpg", JPEGS["grey"], True),
        ("jpg", CMYK, False),
        ("jpg", WHOLE["png"], False),
        ("png", file(PHOTO.quantize(9)), True),
        ("png", SAVED["apng"][0], False),
        ("png", png(COLOUR.astype(np.uint16) << 8, 16, 2), False),
        ("webp", SAVED["webp"][0], True),
        ("webp", SAVED["webp, alpha"][0], False),
        ("webp", SAVED["webp, animated"][0], False),
    ],
)  # fmt: skip
def test_bytes_are_kept_if_nothing_would_change(encode_format, body, kept):
    done = transform(encode_format=encode_format, encode_quality=9, skip_reencode=True)(sample(body))
    assert (done.data == body) == kept
    assert extension_of(sniff(done.data)) == encode_format


def test_perceptual_hash(monkeypatch):
    done = [transform(compute_phash=True, resize_mode=mode)(sample(WHOLE["jpeg"])) for mode in ("no", "border")]
    assert len(done[0].phash) == 16
    assert done[0].phash == done[1].phash
    assert WORK(sample(WHOLE["jpeg"])).phash is None


def test_every_kind_is_tried_here():
    tried = {read_header(body).kind for body in itertools.chain(WHOLE.values(), LOSSY.values())}
    assert tried == IMAGES
