"""Which of the formats that a site offers to take: the smallest that is large enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PROTOCOLS = ("http", "https", "m3u8", "m3u8_native", "http_dash_segments")
"""What is fetched; all of it by yt-dlp's own Python code. `m3u8` is what some sites call `m3u8_native`."""

Format = Mapping[str, Any]


def usable(formats: Sequence[Format]) -> list[Format]:
    """Those that can be fetched and that are not locked, in the same order."""
    return [
        one
        for one in formats
        if str(one.get("protocol") or "").split("+")[0] in PROTOCOLS
        and one.get("has_drm") is not True
        and not (one.get("acodec") == "none" and one.get("vcodec") == "none")
    ]


def choose(formats: Sequence[Format], *, sound_only: bool, size: int, rate: int) -> list[Format]:
    """One format, or two where the pictures come without sound and the site has it apart.

    Args:
        formats: the worst first, as yt-dlp sorts them.
        sound_only: no pictures, where sound can be had without them.
        size: wanted height in pixels: the smallest that is no less, else the largest.
        rate: wanted samples per second of sound, likewise.
    """
    known = usable(formats)
    sounds = [one for one in known if one.get("vcodec") == "none" and one.get("acodec") != "none"]
    if sound_only and sounds:
        return [_sound(sounds, rate)]
    pictures = [one for one in known if one.get("vcodec") != "none"]
    if sound_only:
        pictures = [one for one in pictures if one.get("acodec") != "none"] or pictures
    if not pictures:
        return [_sound(sounds, rate)] if sounds else []
    height = _nearest([one["height"] for one in pictures if one.get("height")], size)
    right = [one for one in pictures if not height or one.get("height") == height]
    picture = max(enumerate(right), key=lambda pair: (_ease(pair[1], rate, bool(sounds)), pair[0]))[1]
    return [picture, _sound(sounds, rate)] if picture.get("acodec") == "none" and sounds else [picture]


def _nearest(values: Sequence[float], wanted: float) -> float | None:
    """The smallest value that is no less than wanted, else the largest."""
    enough = [value for value in values if value >= wanted]
    return min(enough) if enough else max(values, default=None)


def _sound(sounds: Sequence[Format], rate: int) -> Format:
    """In the language of the original, at the right rate, the best."""
    favourite = max(one.get("language_preference") or -1 for one in sounds)
    ours = [one for one in sounds if (one.get("language_preference") or -1) == favourite]
    wanted = _nearest([one["asr"] for one in ours if one.get("asr")], rate)
    return next(one for one in reversed(ours) if not wanted or one.get("asr") == wanted)


def _ease(picture: Format, rate: int, apart: bool) -> tuple[bool, bool]:
    """What is better among formats of one height: H.264, which can be stored as it is; then sound in the same file.

    Sound below the wanted rate is no reason, where there is other sound apart.
    """
    codec = str(picture.get("vcodec") or "")
    has_sound = picture.get("acodec") != "none" and not (apart and 0 < (picture.get("asr") or 0) < rate)
    return codec.startswith(("avc", "h264")), has_sound
