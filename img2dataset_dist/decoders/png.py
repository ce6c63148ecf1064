"""PNG through libspng, in two thirds of libpng's time; transparent colours and deep greys through Pillow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2

from img2dataset_dist.decoders import pillow_decoder
from img2dataset_dist.decoders.colour import MOST_BYTES
from img2dataset_dist.decoders.picture import Picture, finish, split_alpha
from img2dataset_dist.errors import DecodeError
from img2dataset_dist.media import Header

try:
    from pyspng import load as _load  # type: ignore[import-untyped]
except ImportError:  # no wheel for this platform, and nothing to build it with: slower, and otherwise the same
    _load = None
load: Callable[..., Any] | None = _load

_DEPTH, _COLOUR = 24, 25
"""Where a PNG holds its bits per channel and its type of colour."""
_GREY, _PALETTE = 0, 3
_FORMATS = {0: "L", 2: "RGB", 3: "RGB", 4: "RGBA", 6: "RGBA"}
"""What to ask of libspng, by type of colour."""
_DEEP = 16


def decode_png(body: bytes, header: Header, at_least: tuple[int, int]) -> Picture:
    """The picture; of an animation the default one.

    Raises:
        DecodeError: truncated or corrupt.
        RuntimeError: corrupt.
    """
    extras = _check(body)
    depth, colour = body[_DEPTH], body[_COLOUR]
    if load is None or b"tRNS" in extras or (colour == _GREY and depth == _DEEP) or colour not in _FORMATS:
        return pillow_decoder.decode_pillow(body, header, at_least)
    pixels = load(body, format=_FORMATS[colour])
    profile = _profile(extras.get(b"iCCP"))
    if colour == _GREY:
        return finish(pixels, header, profile=profile)
    alpha = None
    if _FORMATS[colour] == "RGBA":
        pixels, alpha = split_alpha(pixels)
    if colour == _GREY + 4:
        return finish(pixels[:, :, 0], header, alpha=alpha, profile=profile)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return finish(pixels, header, alpha=alpha, profile=profile, plain=depth != _DEEP)


def _check(body: bytes) -> dict[bytes, bytes]:
    """Verify the checksums of the chunks that hold the picture; pyspng does not.

    Returns:
        The transparent colour and the profile, by the names of their chunks.

    Raises:
        DecodeError: a wrong checksum, or the end is missing.
    """
    view = memoryview(body)
    extras: dict[bytes, bytes] = {}
    at = 8
    while at + 12 <= len(body):
        size, name = struct.unpack_from(">I4s", body, at)
        end = at + 8 + size
        if end + 4 > len(body):
            break
        if name in (b"tRNS", b"iCCP"):
            extras[name] = body[at + 8 : end]
        elif name[0] < ord("a") and zlib.crc32(view[at + 4 : end]) != int.from_bytes(body[end : end + 4], "big"):
            raise DecodeError("corrupt png")
        if name == b"IEND":
            return extras
        at = end + 4
    raise DecodeError("truncated png")


def _profile(chunk: bytes | None) -> bytes | None:
    """The ICC profile in an iCCP chunk (PNG, 11.3.2.3), unless it is broken or inflates to more than it may."""
    name, _, packed = (chunk or b"").partition(b"\0")
    if not name or not packed:
        return None
    try:
        return zlib.decompressobj().decompress(packed[1:], MOST_BYTES + 1)
    except zlib.error:
        return None
