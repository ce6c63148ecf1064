"""How large the picture in some bytes is, without decoding a pixel."""

from __future__ import annotations

import logging
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

import pillow_heif
import simplejpeg
from PIL import AvifImagePlugin, ExifTags, Image

from img2dataset_dist.errors import DecodeError, NotMedia, TooManyPixels, UnsupportedFormat
from img2dataset_dist.kinds import OTHER_IMAGES, sniff

_PILLOW = {
    "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "avif": "AVIF",
    "jp2": "JPEG2000", "ppm": "PPM", "ico": "ICO",
}  # fmt: skip
IMAGES = frozenset({*_PILLOW, "heic"})
"""Kinds that can be decoded."""
_LARGE_TILE = 2**22
"""Pixels; of a small picture the tiles may be larger than it is, but not by any size."""

ORIENTATION = int(ExifTags.Base.Orientation)
_ICON_ENTRY = 16
"""Bytes of an entry in the directory of an icon file; the directory's own head has 6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an image says of itself before it is decoded.

    Attributes:
        kind: one of `IMAGES`.
        width, height: in pixels, as stored.
        orientation: EXIF orientation, 1 to 8; 1 when there is none. AVIF's rotations are given in the same terms;
            those of HEIC are in its size already.
        space: of a JPEG, its colours as simplejpeg names them; "" where that library cannot read the file.
        profile: the ICC profile of a JPEG; other kinds keep theirs for the decoder to find.
        animated: whether more pictures follow the first; for kinds that can be stored as they came.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    space: str = ""
    profile: bytes | None = None
    animated: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as a person sees the picture."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)  # noqa: PLR2004


def read_header(body: bytes) -> Header:
    """Size and orientation of the image in `body`; decodes no pixel and allocates nothing of the picture's size.

    Raises:
        NotMedia: the bytes are no image; the message holds what they are.
        UnsupportedFormat: an image of a kind that no decoder here reads; the message holds which.
        DecodeError: a broken header.
        TooManyPixels: a frame of a GIF exceeds Pillow's own limit.
    """
    kind = sniff(body)
    if kind not in IMAGES:
        if kind in OTHER_IMAGES:
            raise UnsupportedFormat(f"unsupported image type: {kind}")
        raise NotMedia(f"not an image: {kind}")
    try:
        header = _HEADERS.get(kind, _pillow_header)(body, kind)
    except (DecodeError, UnsupportedFormat):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels("more pixels than the decoder allows") from error
    except (Exception, MemoryError) as error:
        raise DecodeError(f"broken {kind} header") from error
    if header.width < 1 or header.height < 1:
        raise DecodeError(f"broken {kind} header")
    return header


def open_pillow(body: bytes, kind: str) -> Image.Image:
    """The lazily opened image, by the one Pillow plug-in for `kind`.

    `Image.open` is not used because it would try every plug-in that is registered, and because its limit on pixels is
    one for the whole process; `max_decode_pixels` was checked before.

    Raises:
        UnsupportedFormat: this Pillow was built without that plug-in.
    """
    if _PILLOW[kind] not in Image.OPEN:
        Image.init()
    if _PILLOW[kind] not in Image.OPEN:
        raise UnsupportedFormat(f"unsupported image type: {kind}")
    factory, _ = Image.OPEN[_PILLOW[kind]]
    return factory(BytesIO(body), "")


def open_heif(body: bytes) -> pillow_heif.HeifFile:
    """The lazily opened HEIC image; as an array it is (h, w) grey or (h, w, 3 or 4) blue-green-red(-alpha)."""
    return pillow_heif.open_heif(body, bgr_mode=True)


def quiet_pillow() -> None:
    """No warnings and log lines of Pillow: one per odd image, and with `-W error` a failure. And no threads of its own.

    A process per core is there already.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False


def orientation_of(exif: bytes | None) -> int:
    """Orientation in an EXIF block (with or without its "Exif" prefix); 1 when absent or unreadable."""
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif)
        value = tags.get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (Pillow raises whatever its struct calls raise)
        return 1
    return value if isinstance(value, int) and value in range(1, 9) else 1


def _jpeg_header(body: bytes, kind: str) -> Header:
    exif, profile = _jpeg_tags(body)
    try:
        # The decoder's own parser, so that what is checked is what gets decoded.
        height, width, space, _ = simplejpeg.decode_jpeg_header(body, strict=False)
    except (ValueError, KeyError):
        # Chroma sampling that TurboJPEG has no name for, such as 4:1:0.
        width, height = open_pillow(body, kind).size
        space = ""
    return Header(kind=kind, width=width, height=height, orientation=orientation_of(exif), space=space, profile=profile)


def jpeg_exif(body: bytes) -> bytes | None:
    """The first EXIF segment before the picture data."""
    return _jpeg_tags(body)[0]


def _jpeg_tags(body: bytes) -> tuple[bytes | None, bytes | None]:
    """The first EXIF segment, and the ICC profile, which may be cut into up to 255 segments (ICC.1, annex B.4)."""
    exif = None
    pieces: dict[int, bytes] = {}
    at, announced = 2, 0
    while at + 4 <= len(body) and body[at] == 0xFF:  # noqa: PLR2004 (every marker starts with it)
        marker = body[at + 1]
        if marker == 0xFF:  # noqa: PLR2004 (fill byte)
            at += 1
            continue
        if marker == 0xDA:  # noqa: PLR2004 (start of scan)
            break
        end = at + 2 + int.from_bytes(body[at + 2 : at + 4], "big")
        if marker == 0xE1 and exif is None and body.startswith(b"Exif\0\0", at + 4):  # noqa: PLR2004 (APP1)
            exif = body[at + 4 : end]
        elif marker == 0xE2 and end >= at + 18 and body.startswith(b"ICC_PROFILE\0", at + 4):  # noqa: PLR2004 (APP2)
            pieces[body[at + 16]] = body[at + 18 : end]
            announced = body[at + 17]
        at = end
    whole = len(pieces) == announced and all(number in pieces for number in range(1, announced + 1))
    return exif, b"".join(pieces[number] for number in sorted(pieces)) if pieces and whole else None


def _png_header(body: bytes, kind: str) -> Header:
    """By the PNG specification; the tags may also come after the picture data."""
    width, height = struct.unpack(">4xII", body[12:24].ljust(12, b"\0"))
    at, orientation, animated = 8, 1, False
    while at + 8 <= len(body):
        size, name = struct.unpack_from(">I4s", body, at)
        if name == b"eXIf":
            orientation = orientation_of(body[at + 8 : at + 8 + size])
            break
        animated |= name == b"acTL"
        at += 12 + size
    return Header(kind=kind, width=width, height=height, orientation=orientation, animated=animated)


def _webp_header(body: bytes, kind: str) -> Header:
    """By RFC 9649. Pillow's plug-in is not used: it allocates the canvas when it opens a file."""
    chunk, at = body[12:16], 20
    if chunk == b"VP8X":
        width = 1 + int.from_bytes(body[at + 4 : at + 7], "little")
        height = 1 + int.from_bytes(body[at + 7 : at + 10], "little")
        orientation = orientation_of(webp_chunk(body, b"EXIF"))
        animated = bool(body[at] & 2)
        return Header(kind=kind, width=width, height=height, orientation=orientation, animated=animated)
    if chunk == b"VP8L" and body[at : at + 1] == b"\x2f":
        bits = int.from_bytes(body[at + 1 : at + 5], "little")
        return Header(kind=kind, width=1 + (bits & 0x3FFF), height=1 + (bits >> 14 & 0x3FFF))
    if chunk == b"VP8 " and body[at + 3 : at + 6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[at + 6 + i : at + 8 + i], "little") & 0x3FFF for i in (0, 2))
        return Header(kind=kind, width=width, height=height)
    raise DecodeError("broken webp header")


def webp_chunk(body: bytes, name: bytes) -> bytes | None:
    """The first chunk called `name`, such as b"ICCP", of a WebP file."""
    at = 12
    while at + 8 <= len(body):
        size = int.from_bytes(body[at + 4 : at + 8], "little")
        if body.startswith(name, at):
            return body[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return None


def _jp2_header(body: bytes, kind: str) -> Header:
    """From the codestream's SIZ segment (ISO 15444-1, A.5.1): the box around it may claim something else."""
    at = body.index(b"\xff\x4f\xff\x51") + 8
    right, bottom, left, top = (int.from_bytes(body[at + i : at + i + 4], "big") for i in (0, 4, 8, 12))
    return Header(kind=kind, width=right - left, height=bottom - top)


def _tiff_header(body: bytes, kind: str) -> Header:
    # The tags, not `size`: newer Pillow turns that upright already, older does not.
    tags = open_pillow(body, kind).tag_v2  # type: ignore[attr-defined]
    orientation = int(tags.get(ORIENTATION, 1))
    width, height = int(tags[256]), int(tags[257])
    if int(tags.get(322, 0)) * int(tags.get(323, 0)) > max(width * height, _LARGE_TILE):
        raise DecodeError(f"broken {kind} header")  # the decoder makes room for a whole tile
    return Header(
        kind=kind,
        width=width,
        height=height,
        orientation=orientation if orientation in range(1, 9) else 1,
    )


def icon(body: bytes) -> tuple[bytes, bytes]:
    """The largest picture of an icon or cursor file, the deepest of several: its directory entry and its data.

    The data is a whole PNG file, or a bitmap without its file header and with a mask below it.
    """
    count = int.from_bytes(body[4:6], "little")
    entries = [body[at : at + _ICON_ENTRY] for at in range(6, 6 + _ICON_ENTRY * count, _ICON_ENTRY)]
    whole = [entry for entry in entries if len(entry) == _ICON_ENTRY]
    # 0 stands for 256 in both sides; of a cursor the "depth" is a coordinate, which does no harm here.
    entry = max(whole, key=lambda one: ((one[0] or 256) * (one[1] or 256), int.from_bytes(one[6:8], "little")))
    size, start = struct.unpack("<II", entry[8:])
    return entry, body[start : start + size]


def _icon_header(body: bytes, kind: str) -> Header:
    """From the picture itself: the directory may claim something else, and cannot say more than 256."""
    _, data = icon(body)
    if sniff(data) == "png":
        inner = _png_header(data, "png")
        return Header(kind=kind, width=inner.width, height=inner.height)
    width, height = struct.unpack("<4xii", data[:12])
    return Header(kind=kind, width=width, height=abs(height) // 2)


def _heif_header(body: bytes, kind: str) -> Header:
    """As libheif gives it: its turns and mirrors applied, so that the EXIF orientation must not be (ISO 23008-12)."""
    width, height = open_heif(body).size
    return Header(kind=kind, width=width, height=height)


def _pillow_header(body: bytes, kind: str) -> Header:
    image = open_pillow(body, kind)
    orientation = orientation_of(image.info.get("exif"))
    animated = kind == "avif" and getattr(image, "n_frames", 1) > 1
    return Header(kind=kind, width=image.width, height=image.height, orientation=orientation, animated=animated)


_HEADERS = {
    "jpeg": _jpeg_header, "png": _png_header, "webp": _webp_header, "jp2": _jp2_header, "tiff": _tiff_header,
    "ico": _icon_header, "heic": _heif_header,
}  # fmt: skip
