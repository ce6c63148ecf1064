"""From the size of a video to the one that is wanted, as video2dataset's ResolutionSubsampler means it."""

from __future__ import annotations

from dataclasses import dataclass

from img2dataset_dist.ffmpeg.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Filters of ffmpeg, and the size in pixels that comes out of them."""

    filters: tuple[str, ...]
    width: int
    height: int


def plan(width: int, height: int, recipe: Recipe) -> Plan:
    """What to do to a video of this size, as displayed.

    - scale: to the height or width that is given, the other side follows. To both: the height counts, as in
      video2dataset; but with crop so that both are covered, and with pad alone so that both are enough. `video_size`
      without crop and pad is the shorter side.
    - crop: what is wider or higher than wanted is cut off, the same at both ends.
    - pad: what is narrower or lower gets black bars, the same at both ends.

    Sides are even, as H.264 needs it, but for a first frame, which becomes a JPEG.
    """
    step = 1 if recipe.frames == "first_frame" else 2
    want_width, want_height = recipe.size or recipe.width, recipe.size or recipe.height
    now_width, now_height = width, height
    filters = []
    if "scale" in recipe.modes:
        factor = _factor(width, height, recipe)
        now_width, now_height = _even(width * factor, step), _even(height * factor, step)
        if "crop" in recipe.modes:  # rounding may leave nothing uncovered
            now_width, now_height = max(now_width, want_width or 0), max(now_height, want_height or 0)
        if (now_width, now_height) != (width, height):
            filters.append(f"scale={now_width}:{now_height}")
    if "crop" in recipe.modes and want_width and want_height:
        cut = min(now_width, want_width), min(now_height, want_height)
        if cut != (now_width, now_height):
            filters.append(f"crop={cut[0]}:{cut[1]}")
            now_width, now_height = cut
    if "pad" in recipe.modes and want_width and want_height:
        padded = max(now_width, want_width), max(now_height, want_height)
        if padded != (now_width, now_height):
            filters.append(f"pad={padded[0]}:{padded[1]}:-1:-1")
            now_width, now_height = padded
    return Plan(filters=tuple(filters), width=now_width, height=now_height)


def even(width: int, height: int) -> Plan:
    """Only what an encoder needs: sides that are even; at most a row and a column are lost."""
    target = max(width // 2 * 2, 2), max(height // 2 * 2, 2)
    filters = () if target == (width, height) else (f"scale={target[0]}:{target[1]}",)
    return Plan(filters=filters, width=target[0], height=target[1])


def _factor(width: int, height: int, recipe: Recipe) -> float:
    """By how much to scale."""
    if recipe.size is not None:
        side = max(width, height) if recipe.modes == {"scale", "pad"} else min(width, height)
        return recipe.size / side
    by_height = recipe.height / height if recipe.height is not None else None
    by_width = recipe.width / width if recipe.width is not None else None
    if by_height is None or by_width is None:
        return by_height or by_width or 1.0
    if "crop" in recipe.modes:
        return max(by_height, by_width)
    return min(by_height, by_width) if "pad" in recipe.modes else by_height


def _even(side: float, step: int) -> int:
    """The nearest multiple of `step`, at least one."""
    return max(round(side / step) * step, step)
