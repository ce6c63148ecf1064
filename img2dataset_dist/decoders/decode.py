"""Bytes to upright 8-bit pixels in sRGB, whole or not at all. Which decoder reads which kind is decided here."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from img2dataset_dist.decoders.heif import decode_heif
from img2dataset_dist.decoders.icon import decode_icon
from img2dataset_dist.decoders.jpeg import decode_jpeg
from img2dataset_dist.decoders.picture import Decoder, Picture
from img2dataset_dist.decoders.pillow_decoder import decode_pillow
from img2dataset_dist.decoders.png import decode_png
from img2dataset_dist.decoders.webp import decode_webp
from img2dataset_dist.errors import DecodeError, RowError, TooManyPixels
from img2dataset_dist.media import Header

_DECODERS: dict[str, Decoder] = {
    "jpeg": decode_jpeg,
    "png": decode_png,
    "webp": decode_webp,
    "heic": decode_heif,
    "ico": decode_icon,
}
"""By kind; Pillow for the others."""
_AT_A_FRACTION = ("jpeg", "jp2")
"""Kinds that may come smaller than they are."""
_BY_PIECES = ("jpeg", "png", "gif", "tiff", "bmp", "ppm")
"""Kinds of which the decoders show the first part. Of a JPEG 2000 that would be a black picture."""

_CUT = ("truncated", "end of stream", "end of file")
"""What the decoders say when the file ends too early."""


def decode(body: bytes, header: Header, at_least: tuple[int, int] = (0, 0), *, allow_damaged: bool = False) -> Picture:
    """The (first) picture in `body`, whose header was read and found acceptable before.

    Args:
        body: the bytes of the image.
        header: what `read_header` said of them.
        at_least: width and height in upright pixels that suffice: a JPEG may come at 1/2, 1/4 or 1/8 of its size, a
            JPEG 2000 at 1/2, 1/4 and so on, if both are still met. (0, 0): full size, every pixel exact.
        allow_damaged: take what can be decoded of a truncated or corrupt JPEG, PNG, GIF, TIFF, BMP or PPM; the rest
            is grey or black.

    Raises:
        DecodeError: truncated, corrupt, with pixels of an unsupported kind, or there is no memory for it.
        TooManyPixels: a later part of the file announces more than Pillow's own limit.
    """
    decoder = _DECODERS.get(header.kind, decode_pillow)
    try:
        return _guarded(decoder, body, header, at_least)
    except DecodeError:
        if not allow_damaged or header.kind not in _BY_PIECES:
            raise
    lenient = decode_jpeg if header.kind == "jpeg" else decode_pillow

    def salvage(body: bytes, header: Header, at_least: tuple[int, int]) -> Picture:
        return lenient(body, header, at_least, damaged=True)

    return replace(_guarded(salvage, body, header, at_least), plain=False)


def _guarded(decoder: Decoder, body: bytes, header: Header, at_least: tuple[int, int]) -> Picture:
    """What the decoder gives, checked; whatever it raises as one of ours."""
    try:
        picture = decoder(body, header, at_least)
    except RowError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels("more pixels than the decoder allows") from error
    except MemoryError as error:
        raise DecodeError("no memory for the decoded image") from error
    except Exception as error:
        # The text of the decoder's error holds offsets and addresses; as the cause it is there for whoever debugs.
        cut = any(sign in str(error).lower() for sign in _CUT)
        raise DecodeError(f"{'truncated' if cut else 'corrupt'} {header.kind}") from error
    whole = at_least == (0, 0) or header.kind not in _AT_A_FRACTION
    if whole and picture.pixels.shape[1::-1] != header.upright:
        raise DecodeError(f"corrupt {header.kind}")  # what was checked is not what was decoded
    return picture
