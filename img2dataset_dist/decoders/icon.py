"""Icons and cursors: the largest picture, which is a PNG or a bitmap with a mask."""

from __future__ import annotations

import struct

from img2dataset_dist.decoders import pillow_decoder
from img2dataset_dist.decoders.picture import Picture
from img2dataset_dist.decoders.png import decode_png
from img2dataset_dist.kinds import sniff
from img2dataset_dist.media import Header, icon

_HEAD, _ENTRY = 6, 16


def decode_icon(body: bytes, header: Header, at_least: tuple[int, int]) -> Picture:
    """The picture that `header` tells of.

    Raises:
        DecodeError: truncated or corrupt.
        Exception: whatever the decoders raise for a corrupt file.
    """
    entry, data = icon(body)
    if sniff(data) == "png":
        return decode_png(data, Header(kind="png", width=header.width, height=header.height), at_least)
    # Pillow knows the mask, but chooses among several in its own way.
    alone = struct.pack("<HHH", 0, 1, 1) + entry[:8] + struct.pack("<II", len(data), _HEAD + _ENTRY) + data
    return pillow_decoder.decode_pillow(alone, header, at_least)
