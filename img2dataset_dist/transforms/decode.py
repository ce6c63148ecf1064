"""Bytes to upright 8-bit pixels, whole or not at all.

JPEG goes through libjpeg-turbo, which can decode at a fraction of the size for a fraction of the time; everything
else through Pillow. Both release the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from img2dataset_dist.errors import DecodeError, RowError, TooManyPixels
from img2dataset_dist.media import ORIENTATION, Header, open_pillow
from img2dataset_dist.transforms.resize import Pixels

_PNG_DEPTH = 24
"""Where the header of a PNG holds its bits per channel."""
_ENDS = {"png": b"IEND\xae\x42\x60\x82", "jp2": b"\xff\xd9"}
"""How whole files end, for kinds of which Pillow also takes the first part for a picture."""
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_CHANNELS_CMYK = "CMYK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: upright; smaller than the original when `decode` was allowed to.
        plain: whether the bytes show just these pixels to any reader: nothing was turned, blended, converted from
            CMYK or reduced from 16 bits.
    """

    pixels: Pixels
    plain: bool


def decode(body: bytes, header: Header, at_least: tuple[int, int] = (0, 0)) -> Picture:
    """The (first) picture in `body`, whose header was read and found acceptable before.

    Args:
        body: the bytes of the image.
        header: what `read_header` said of them.
        at_least: width and height in upright pixels that suffice: a JPEG may come at 1/2, 3/8, 1/4 or 1/8 of its
            size if both are still met. (0, 0): full size.

    Raises:
        DecodeError: truncated, corrupt, of an unsupported kind, or there is no memory for it.
        TooManyPixels: a later part of the file announces more than Pillow's own limit.
    """
    try:
        if header.kind == "jpeg":
            return _decode_jpeg(body, header, at_least)
        return _decode_pillow(body, header)
    except RowError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels("more pixels than the decoder allows") from error
    except MemoryError as error:
        raise DecodeError("no memory for the decoded image") from error
    except Exception as error:
        # The text of the decoder's error holds offsets and addresses; as the cause it is there for whoever debugs.
        kind = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise DecodeError(f"{kind} {header.kind}") from error


def _decode_jpeg(body: bytes, header: Header, at_least: tuple[int, int]) -> Picture:
    _, _, space, _ = simplejpeg.decode_jpeg_header(body, strict=False)
    wanted = {"Gray": "GRAY", "CMYK": _CHANNELS_CMYK, "YCCK": _CHANNELS_CMYK}.get(space, "BGR")
    width, height = at_least if header.orientation < 5 else at_least[::-1]  # noqa: PLR2004 (5 to 8 swap the sides)
    pixels = _turbo(body, wanted, width, height)
    if wanted == "GRAY":
        pixels = pixels[:, :, 0]
    elif wanted == _CHANNELS_CMYK:
        # Stored inverted, as Photoshop does and everyone expects, so that each is light and not ink.
        light = pixels.astype(np.uint16)
        pixels = _divide_by_255(light[..., 2::-1] * light[..., 3:])
    return Picture(pixels=turn(pixels, header.orientation), plain=wanted != _CHANNELS_CMYK and header.orientation == 1)


def _turbo(body: bytes, space: str, width: int, height: int) -> Pixels:
    """libjpeg-turbo at `width` x `height` or more; its warnings are errors, but for one."""
    # Factors between 1 and 2 have no SIMD code: decoding at 3/4 takes longer than decoding whole.
    options: dict[str, Any] = {"colorspace": space, "min_width": width, "min_height": height, "min_factor": 2}
    if not width or not height:
        options["min_factor"] = 1
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(body, strict=True, **options)
    except ValueError as error:
        text = str(error).lower()
        if "premature end" in text:
            raise DecodeError("truncated jpeg") from error
        if not ("extraneous bytes" in text and "marker 0xd9" in text):
            raise
        # Some cameras put a few bytes between the picture data and the end marker; all data was there.
        pixels = simplejpeg.decode_jpeg(body, strict=False, **options)
    return pixels


def _decode_pillow(body: bytes, header: Header) -> Picture:
    if body.rfind(_ENDS.get(header.kind, b"")) < 0:
        raise DecodeError(f"truncated {header.kind}")
    image = open_pillow(body, header.kind)
    image.load()
    orientation = header.orientation
    if header.kind == "tiff" and ORIENTATION not in image.getexif():
        orientation = 1  # Pillow has turned it, as it does for TIFF only
    depth = body[_PNG_DEPTH] if header.kind == "png" else 8
    pixels = turn(_to_pixels(image, depth), orientation)
    if pixels.shape[1::-1] != header.upright:
        raise DecodeError(f"corrupt {header.kind}")  # what was checked is not what was decoded
    transparent = image.mode in _WITH_ALPHA or "transparency" in image.info
    deep = depth == 16  # noqa: PLR2004
    return Picture(pixels=pixels, plain=not (transparent or deep or orientation != 1))


def _to_pixels(image: Image.Image, depth: int) -> Pixels:
    """Any mode of Pillow's to grey or blue-green-red; whatever is transparent goes onto white.

    Args:
        image: loaded.
        depth: bits per channel in the file, which a PNG's transparent grey is given in.
    """
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
        depth = 8
    if image.mode in _WITH_ALPHA:
        return _onto_white(np.asarray(image.convert("RGBA")))
    key = image.info.get("transparency")
    if image.mode == "F":
        raise DecodeError("unsupported pixel format: float")
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), key)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if image.mode == "RGB":
        swapped: Pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        if isinstance(key, tuple):
            colour = [value >> 8 if depth == 16 else value for value in key[::-1]]  # noqa: PLR2004
            swapped[(swapped == colour).all(axis=2)] = 255
        return swapped
    if isinstance(key, int):
        return _hide_grey(pixels, pixels == (key * 255 // (2**depth - 1) if depth < 8 else key))  # noqa: PLR2004
    return pixels


def _from_16_bit(deep: NDArray[Any], key: Any) -> Pixels:
    """The upper half of 16 bits, as libpng and Pillow do for colour; tones stay, clipping would make all white."""
    if deep.min() < 0 or deep.max() > 0xFFFF:  # noqa: PLR2004
        raise DecodeError("unsupported pixel format: 32-bit integer")
    pixels: Pixels = (deep >> 8).astype(np.uint8)
    return _hide_grey(pixels, deep == key) if isinstance(key, int) else pixels


def _hide_grey(pixels: Pixels, hidden: NDArray[np.bool_]) -> Pixels:
    """Transparent grey onto white, as three channels like every other picture with transparency."""
    swapped: Pixels = cv2.cvtColor(np.where(hidden, np.uint8(255), pixels), cv2.COLOR_GRAY2BGR)
    return swapped


def _onto_white(rgba: NDArray[np.uint8]) -> Pixels:
    """Alpha blending, rounded to the nearest: colour * a + 255 * (1 - a). (h, w, 4) RGBA to (h, w, 3) BGR."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return _divide_by_255(rgba[..., 2::-1] * alpha + 255 * (255 - alpha))


def _divide_by_255(products: NDArray[np.uint16]) -> Pixels:
    """Rounded to the nearest; a tie is not possible. Products are at most 255 * 255, so nothing overflows."""
    result: Pixels = ((products + 127) // 255).astype(np.uint8)
    return result


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels to upright ones, by EXIF orientation 1 to 8 (CIPA DC-008, tag 0x0112); contiguous."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
