"""What bytes are, and how large the picture in them is, without decoding a pixel.

The URL, its extension and the Content-Type are never trusted: only the first bytes count.
"""

from __future__ import annotations

import codecs
import logging
import re
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

import simplejpeg
from PIL import ExifTags, Image

from img2dataset_dist.errors import DecodeError, NotMedia, TooManyPixels

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"RIFF....WEBP", "webp"),
    (rb"GIF8[79]a", "gif"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", "bmp"),
    (rb"II\*\x00|MM\x00\*|II\x2b\x00|MM\x00\x2b", "tiff"),
    (rb"....ftyp(avi[fs]|(mif1|msf1).{4,32}?avi[fs])", "avif"),
    (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "jp2"),
    (rb"P[1-6][ \t\r\n]", "ppm"),
    (rb"....ftyp(heic|heix|hevc|hevx|mif1|msf1)", "heic"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
    (rb"8BPS", "psd"),
    (rb"\x00\x00[\x01\x02]\x00", "ico"),
    (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", "video"),
    (rb"ID3|fLaC|OggS|RIFF....WAVE|\xff[\xfb\xf3\xf2]", "audio"),
    (rb"%PDF-", "pdf"),
    (rb"\x1f\x8b|PK\x03\x04|Rar!|7z\xbc\xaf|BZh|\x28\xb5\x2f\xfd", "archive"),
)
_SIGNATURES = tuple((re.compile(pattern, re.DOTALL), kind) for pattern, kind in _MAGIC)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_HTML = re.compile(rb"<(!doctype html|html|head|body|script|title|meta|div|p|a|h1|iframe|!--)\b", re.IGNORECASE)
_HEAD = 1024
"""How many bytes are looked at to tell kinds of text apart."""

_PILLOW = {
    "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "avif": "AVIF", "jp2": "JPEG2000",
    "ppm": "PPM",
}  # fmt: skip
IMAGES = frozenset({"jpeg", *_PILLOW})
"""Kinds that can be decoded."""
OTHER_IMAGES = frozenset({"heic", "jxl", "psd", "ico"})
"""Images, but of a kind that no decoder here reads."""

ORIENTATION = int(ExifTags.Base.Orientation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an image says of itself before it is decoded.

    Attributes:
        kind: one of `IMAGES`.
        width, height: in pixels, as stored.
        orientation: EXIF orientation, 1 to 8; 1 when there is none. AVIF's rotations are given in the same terms.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as a person sees the picture."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)  # noqa: PLR2004


def sniff(body: bytes) -> str:
    """The kind of `body` by its first bytes.

    Returns:
        One of `IMAGES` or `OTHER_IMAGES`; else "video", "audio", "pdf", "archive", "svg", "html", "xml", "json",
        "text", "empty" or "unknown".
    """
    for signature, kind in _SIGNATURES:
        if signature.match(body):
            return kind
    head = body[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return "text" if body else "empty"
    if _SVG.search(head) and head.startswith(b"<"):
        return "svg"
    if head.startswith(b"<?xml"):
        return "html" if b"<html" in head.lower() else "xml"
    if _HTML.match(head):
        return "html"
    if b"\x00" in head or sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):  # noqa: PLR2004
        return "unknown"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental, as the cut may be within a character
    except UnicodeDecodeError:
        return "unknown"
    return "json" if head[:1] in b"{[" else "text"


def read_header(body: bytes) -> Header:
    """Size and orientation of the image in `body`; decodes no pixel and allocates nothing of the picture's size.

    Raises:
        NotMedia: the bytes are no image; the message holds what they are.
        DecodeError: an image of an unsupported kind, or with a broken header.
        TooManyPixels: a frame of a GIF exceeds Pillow's own limit.
    """
    kind = sniff(body)
    if kind in OTHER_IMAGES:
        raise DecodeError(f"unsupported image type: {kind}")
    if kind not in IMAGES:
        raise NotMedia(f"not an image: {kind}")
    try:
        width, height, orientation = _HEADERS.get(kind, _pillow_header)(body, kind)
    except DecodeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels("more pixels than the decoder allows") from error
    except (Exception, MemoryError) as error:
        raise DecodeError(f"broken {kind} header") from error
    if width < 1 or height < 1:
        raise DecodeError(f"broken {kind} header")
    return Header(kind=kind, width=width, height=height, orientation=orientation if orientation in range(1, 9) else 1)


def open_pillow(body: bytes, kind: str) -> Image.Image:
    """The lazily opened image, by the one Pillow plug-in for `kind`.

    `Image.open` is not used because it would try every plug-in that is registered, and because its limit on pixels is
    one for the whole process; `max_decode_pixels` was checked before.
    """
    if _PILLOW[kind] not in Image.OPEN:
        Image.init()
    if _PILLOW[kind] not in Image.OPEN:
        raise DecodeError(f"unsupported image type: {kind}")
    factory, _ = Image.OPEN[_PILLOW[kind]]
    return factory(BytesIO(body), "")


def quiet_pillow() -> None:
    """Silence Pillow's warnings and log: a line per odd image, and with `-W error` a failure."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"PIL\.")


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


def _jpeg_header(body: bytes, _kind: str) -> tuple[int, int, int]:
    # The decoder's own parser, so that what is checked is what gets decoded.
    height, width, _, _ = simplejpeg.decode_jpeg_header(body, strict=False)
    return width, height, orientation_of(jpeg_exif(body))


def jpeg_exif(body: bytes) -> bytes | None:
    """The first EXIF segment before the picture data."""
    at = 2
    while at + 4 <= len(body) and body[at] == 0xFF:  # noqa: PLR2004 (every marker starts with it)
        marker = body[at + 1]
        if marker == 0xFF:  # noqa: PLR2004 (fill byte)
            at += 1
            continue
        if marker == 0xDA:  # noqa: PLR2004 (start of scan)
            return None
        size = int.from_bytes(body[at + 2 : at + 4], "big")
        if marker == 0xE1 and body[at + 4 : at + 10] == b"Exif\0\0":  # noqa: PLR2004 (APP1)
            return body[at + 4 : at + 2 + size]
        at += 2 + size
    return None


def _png_header(body: bytes, _kind: str) -> tuple[int, int, int]:
    """By the PNG specification; the tags may also come after the picture data."""
    width, height = struct.unpack(">4xII", body[12:24].ljust(12, b"\0"))
    at = 8
    while at + 8 <= len(body):
        size, name = struct.unpack(">I4s", body[at : at + 8])
        if name == b"eXIf":
            return width, height, orientation_of(body[at + 8 : at + 8 + size])
        at += 12 + size
    return width, height, 1


def _webp_header(body: bytes, _kind: str) -> tuple[int, int, int]:
    """By RFC 9649. Pillow's plug-in is not used: it allocates the canvas when it opens a file."""
    kind, at = body[12:16], 20
    if kind == b"VP8X":
        width = 1 + int.from_bytes(body[at + 4 : at + 7], "little")
        height = 1 + int.from_bytes(body[at + 7 : at + 10], "little")
        return width, height, orientation_of(_webp_chunk(body, b"EXIF"))
    if kind == b"VP8L" and body[at : at + 1] == b"\x2f":
        bits = int.from_bytes(body[at + 1 : at + 5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), 1
    if kind == b"VP8 " and body[at + 3 : at + 6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[at + 6 + i : at + 8 + i], "little") & 0x3FFF for i in (0, 2))
        return width, height, 1
    raise DecodeError("broken webp header")


def _webp_chunk(body: bytes, name: bytes) -> bytes | None:
    at = 12
    while at + 8 <= len(body):
        size = int.from_bytes(body[at + 4 : at + 8], "little")
        if body[at : at + 4] == name:
            return body[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return None


def _jp2_header(body: bytes, _kind: str) -> tuple[int, int, int]:
    """From the codestream's SIZ segment (ISO 15444-1, A.5.1): the box around it may claim something else."""
    at = body.index(b"\xff\x4f\xff\x51") + 8
    right, bottom, left, top = (int.from_bytes(body[at + i : at + i + 4], "big") for i in (0, 4, 8, 12))
    return right - left, bottom - top, 1


def _tiff_header(body: bytes, kind: str) -> tuple[int, int, int]:
    # The tags, not `size`: newer Pillow turns that upright already, older does not.
    tags = open_pillow(body, kind).tag_v2  # type: ignore[attr-defined]
    return int(tags[256]), int(tags[257]), int(tags.get(ORIENTATION, 1))


def _pillow_header(body: bytes, kind: str) -> tuple[int, int, int]:
    image = open_pillow(body, kind)
    return *image.size, orientation_of(image.info.get("exif"))


_HEADERS = {"jpeg": _jpeg_header, "png": _png_header, "webp": _webp_header, "jp2": _jp2_header, "tiff": _tiff_header}
