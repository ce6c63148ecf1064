"""From what is wanted of a video to parts that can be made as they are."""

from __future__ import annotations

from collections.abc import Sequence

from img2dataset_dist.errors import BadClip
from img2dataset_dist.ffmpeg import clips, cuts
from img2dataset_dist.ffmpeg.clips import Part
from img2dataset_dist.ffmpeg.command import Source, Workshop, copies_pictures
from img2dataset_dist.ffmpeg.keyframes import keyframes_around
from img2dataset_dist.ffmpeg.probe import measured_duration
from img2dataset_dist.model import Clip

_LATE = 1.0
"""Seconds by which what was fetched of a video may miss a clip: pictures do not lie on the second."""


def duration_of(source: Source, shop: Workshop) -> float:
    """Seconds that the media last, measured where they do not say it.

    Raises:
        DecodeError: they are broken.
    """
    if source.probe.duration is not None:
        return source.probe.duration
    return measured_duration(source.path, source.probe.kind, max_pixels=shop.max_pixels)


def scenes_of(source: Source, shop: Workshop, part: Clip | None) -> list[Clip]:
    """The scenes of a video, or of a part of it.

    Raises:
        DecodeError: it is broken.
    """
    return cuts.scenes(
        source.path, source.probe.kind, part, shop.recipe, max_pixels=shop.max_pixels, threads=shop.threads
    )


def parts_of(source: Source, shop: Workshop, clip: Clip, present: Sequence[Clip] | None) -> list[Part]:
    """A clip, or the scenes in it, in pieces that begin and end where the precision allows it, none too short or long.

    Args:
        source: the video or sound.
        shop: the recipe, and how to read.
        clip: in seconds.
        present: what there is of the media; None for all.

    Raises:
        BadClip: it is not within what there is.
        DecodeError: the media are broken.
    """
    clip = clips.inside(clip, duration_of(source, shop))
    spans = scenes_of(source, shop, clip) if shop.recipe.cuts_are_clips else [clip]
    copying = copies_pictures(source, shop, clipped=True)
    parts: list[Part] = []
    for span in spans:
        if not _is_present(span, present):
            raise BadClip("this part of the video was not fetched")
        if not copying:
            parts += [Part(clip=piece) for piece in clips.pieces(span, shop.recipe)]
        elif shop.recipe.precision == "keyframe_adjusted":
            around = keyframes_around(source.path, source.probe.kind, span, max_pixels=shop.max_pixels)
            parts += clips.between_keyframes(span, around, shop.recipe)
        else:
            parts += [_from_keyframe(source, shop, piece) for piece in clips.pieces(span, shop.recipe)]
    return parts


def _from_keyframe(source: Source, shop: Workshop, clip: Clip) -> Part:
    start = Clip(clip.start, clip.start + clips.NEAR)
    around = keyframes_around(source.path, source.probe.kind, start, max_pixels=shop.max_pixels)
    return clips.at_keyframe_before(clip, around)


def _is_present(clip: Clip, present: Sequence[Clip] | None) -> bool:
    """Whether a part of the video is there; all of it is where nothing else is said."""
    if present is None:
        return True
    return any(span.start <= clip.start + _LATE and clip.end <= span.end + _LATE for span in present)
