"""From a recipe to the arguments of one call of ffmpeg that makes all files of a sample."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial

from img2dataset_dist.ffmpeg import sizes
from img2dataset_dist.ffmpeg.clips import NEAR, Part
from img2dataset_dist.ffmpeg.demuxers import DEMUXERS, input_options
from img2dataset_dist.ffmpeg.formats import AUDIO, CLEAN, VIDEO, AudioCodec, VideoFormat
from img2dataset_dist.ffmpeg.probe import Picture, Probe, Sound
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.spool import MADE

_VP9_QUALITY = 32
_JPEG = "jpg"
_BEHIND = 0.001
_FFMPEG_GOES_BACK = 3 / 23
_ROUNDING = 0.000005
_WARM_UP = 0.25
"""Seconds."""
_PACKETS_ARE_SMALL = frozenset({"mp4", "mov", "m4a", "3gp", "mp3", "aac"})
"""Kinds in which a sound can be cut between its packets, each of which is some hundredths of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A video or sound on the disk.

    Attributes:
        path, probe: of the file.
        sound_path, sound_probe: of a second one with the sound; None where it is in the first, or nowhere.
    """

    path: str
    probe: Probe
    sound_path: str | None = None
    sound_probe: Probe | None = None

    @property
    def sound(self) -> Sound | None:
        """The sound that counts."""
        return (self.sound_probe or self.probe).sound

    @property
    def sound_kind(self) -> str:
        """What kind of file it is in."""
        return (self.sound_probe or self.probe).kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file that is made: `width` and `height` are those of its pictures, None for a sound."""

    extension: str
    path: str
    kind: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Arguments of ffmpeg and the files that come of it; `copies` when it encodes no pictures or no sound again."""

    arguments: tuple[str, ...]
    outputs: tuple[Output, ...]
    copies: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What is the same for all calls.

    Attributes:
        recipe: what to make.
        threads: of each decoder, filter and encoder.
        max_pixels: no larger picture is decoded.
        encode_all: copy nothing.
    """

    recipe: Recipe
    threads: int
    max_pixels: int
    encode_all: bool = False


def as_it_came(source: Source, recipe: Recipe) -> str | None:
    """The extension of the file when it can be stored as it is, and nothing else is asked for; else None."""
    if source.sound_path is not None or (recipe.video is not None and recipe.audio is not None):
        return None
    sound = source.sound
    if recipe.video is not None:
        picture = source.probe.picture
        same = source.probe.kind in VIDEO[recipe.video].kinds and picture is not None
        if not same or picture is None or recipe.changes_pictures or _resized(picture, recipe) is not None:
            return None
        return recipe.video if sound is None or _fits_steps(sound, recipe) else None
    if recipe.audio is None or sound is None or source.probe.picture is not None:
        return None
    fits = source.probe.kind in AUDIO[recipe.audio].kinds and sound.codec in AUDIO[recipe.audio].holds
    return recipe.audio if fits and _fits_steps(sound, recipe) else None


def copies_pictures(source: Source, shop: Workshop, *, clipped: bool) -> bool:
    """Whether the pictures of a sample are copied and not encoded again."""
    recipe, picture = shop.recipe, source.probe.picture
    return (
        recipe.video is not None
        and picture is not None
        and not shop.encode_all
        and not recipe.changes_pictures
        and _resized(picture, recipe) is None
        and picture.codec in VIDEO[recipe.video].holds
        and source.probe.kind in CLEAN
        and not (clipped and recipe.precision == "exact")
    )


def call(source: Source, part: Part | None, shop: Workshop, stem: str) -> Call:
    """The one call that makes a sample.

    Args:
        source: what there is.
        part: which part of it; None for all.
        shop: how to do it.
        stem: path of the files, without extension.

    Returns:
        The files are in the order in which they are stored. Without pictures, or without sound, there is no file that
        would be for them alone.
    """
    recipe = shop.recipe
    outputs: list[Output] = []
    arguments: list[str] = []
    made: _Made
    copying = copies_pictures(source, shop, clipped=part is not None)
    copies = False
    if recipe.video is not None and source.probe.picture is not None:
        build = _first_frame if recipe.frames == "first_frame" else partial(_video, copying=copying)
        made = build(source, shop, stem, part=part)
        outputs.append(made.output)
        arguments += made.arguments
        copies |= made.copies
    if recipe.audio is not None and source.sound is not None:
        made = _audio(source, shop, stem, part=part, with_pictures=copying)
        outputs.append(made.output)
        arguments += made.arguments
        copies |= made.copies
    return Call(arguments=(*_inputs(source, part, shop, copying), *arguments), outputs=tuple(outputs), copies=copies)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    output: Output
    arguments: list[str] = field(default_factory=list)
    copies: bool = False


def _inputs(source: Source, part: Part | None, shop: Workshop, copying: bool) -> list[str]:
    found = ["-filter_threads", str(shop.threads)]
    files = [(source.path, source.probe.kind)]
    if source.sound_path is not None and source.sound_probe is not None:
        files.append((source.sound_path, source.sound_probe.kind))
    for path, kind in files:
        for name, value in input_options(kind, shop.max_pixels).items():
            found += [f"-{name}", value]
        found += ["-threads", str(shop.threads)]
        if shop.recipe.nvidia and not copying:
            found += ["-hwaccel", "cuda"]
        if shop.recipe.frames == "keyframe":
            found += ["-skip_frame:v", "nokey"]
        if part is not None:
            start = part.clip.start + (_ahead(source.probe) if copying else -_before(source, part))
            found += ["-noaccurate_seek"] if copying else []
            found += ["-ss", f"{start:.6f}", "-t", f"{max(part.clip.end - start, NEAR):.6f}"]
        found += ["-f", DEMUXERS[kind], "-i", f"file:{path}"]
    return found


def _ahead(probe: Probe) -> float:
    """Seconds behind the keyframe that a copy begins with, for ffmpeg to find that one and not the one before.

    In containers that are sought by decoding times it goes back by 3/23 s when pictures are reordered (ffmpeg_demux.c).
    """
    back = probe.picture is not None and probe.picture.delayed and DEMUXERS[probe.kind] != "mov"
    return _BEHIND + (_FFMPEG_GOES_BACK if back else 0.0)


def _before(source: Source, part: Part) -> float:
    """Seconds before its start from which a sound is decoded: a decoder makes nothing good of its first packets."""
    return min(part.clip.start, _WARM_UP) if source.probe.picture is None else 0.0


def _shift(source: Source, part: Part | None) -> list[str]:
    """Undo what `_ahead` adds, so that the first picture is at zero; never before, where it would not be shown."""
    return [] if part is None else ["-output_ts_offset", f"{_ahead(source.probe) + _ROUNDING:.6f}"]


def _tail(muxer: str, path: str) -> list[str]:
    return ["-map_chapters", "-1", "-f", muxer, f"file:{path}"]


def _video(source: Source, shop: Workshop, stem: str, *, part: Part | None, copying: bool) -> _Made:
    recipe, picture, sound = shop.recipe, source.probe.picture, source.sound
    assert recipe.video is not None
    assert picture is not None
    format_ = VIDEO[recipe.video]
    arguments = ["-map", f"0:{picture.index}"]
    width, height = picture.width, picture.height
    copies = copying
    if copying:
        arguments += ["-c:v", "copy", *_shift(source, part)]
        if part is not None and part.packets is not None:
            arguments += ["-frames:v", str(part.packets)]
    else:
        plan = _resized(picture, recipe) or sizes.even(width, height)
        width, height = plan.width, plan.height
        arguments += [*_filters(plan, recipe, part), *_encoder(format_, shop)]
    if sound is not None:
        keep = not shop.encode_all and sound.codec in format_.holds and source.sound_kind in CLEAN
        keep = keep and _fits_steps(sound, recipe) and (part is None or copying)
        copies |= keep
        arguments += ["-map", _sound_stream(source, sound)]
        arguments += ["-c:a", "copy"] if keep else _sound_encoder(format_.audio, recipe)
    path = f"{stem}.{recipe.video}"
    return _Made(
        output=Output(extension=recipe.video, path=path, kind=recipe.video, width=width, height=height),
        arguments=[*arguments, *_tail(format_.muxer, path)],
        copies=copies,
    )


def _first_frame(source: Source, shop: Workshop, stem: str, *, part: Part | None) -> _Made:
    picture = source.probe.picture
    assert picture is not None
    width, height = picture.width, picture.height
    square = () if picture.square else (f"scale={width}:{height}",)  # a JPEG has no other pixels
    plan = _resized(picture, shop.recipe) or sizes.Plan(filters=square, width=width, height=height)
    path = f"{stem}.{_JPEG}"
    encoder = ["-frames:v", "1", "-c:v", "mjpeg", "-q:v", "2", "-threads", "1", "-update", "1"]
    return _Made(
        output=Output(extension=_JPEG, path=path, kind="jpeg", width=plan.width, height=plan.height),
        arguments=["-map", f"0:{picture.index}", *_filters(plan, shop.recipe, part), *encoder, *_tail("image2", path)],
    )


def _audio(source: Source, shop: Workshop, stem: str, *, part: Part | None, with_pictures: bool) -> _Made:
    recipe, sound = shop.recipe, source.sound
    assert recipe.audio is not None
    assert sound is not None
    format_ = AUDIO[recipe.audio]
    in_packets = source.probe.picture is None and source.sound_kind in _PACKETS_ARE_SMALL
    keep = (
        not shop.encode_all
        and sound.codec in format_.holds
        and source.sound_kind in CLEAN
        and _fits_steps(sound, recipe)
        and (part is None or with_pictures or (in_packets and recipe.precision != "exact"))
    )
    how = ["-c:a", "copy"] if keep else _sound_encoder(format_.codec, recipe)
    if part is not None and with_pictures:
        how += _shift(source, part)
    elif part is not None and (before := _before(source, part)) and not keep:
        how += ["-af", f"atrim=start={before:.6f},asetpts=PTS-STARTPTS"]
    elif part is not None and before:
        how += ["-ss", f"{before:.6f}"]
    path = f"{stem}.{recipe.audio}"
    return _Made(
        output=Output(extension=recipe.audio, path=path, kind=_kind_of(recipe.audio)),
        arguments=["-map", _sound_stream(source, sound), "-vn", *how, *_tail(format_.muxer, path)],
        copies=keep,
    )


def _kind_of(format_: str) -> str:
    """What `kinds.sniff` calls a file of this format."""
    return "ogg" if format_ == "opus" else format_


def _sound_stream(source: Source, sound: Sound) -> str:
    return f"{0 if source.sound_path is None else 1}:{sound.index}"


def _fits_steps(sound: Sound, recipe: Recipe) -> bool:
    """Whether the sound has the rate and the channels that are asked for."""
    return recipe.rate in (None, sound.rate) and recipe.channels in (None, sound.channels)


def _resized(picture: Picture, recipe: Recipe) -> sizes.Plan | None:
    """How to come to another size; None where it is the wanted one, or none is asked for."""
    if not recipe.resizes:
        return None
    plan = sizes.plan(picture.width, picture.height, recipe)
    return plan if plan.filters else None


def _filters(plan: sizes.Plan, recipe: Recipe, part: Part | None) -> list[str]:
    """The pictures' way: fewer of them first, so that there is less to scale.

    `-t` counts from the first picture that there is; a clip ends at its end even if that comes late.
    """
    steps = [] if part is None else [f"trim=end={part.clip.end - part.clip.start:.6f}"]
    steps += [f"fps={recipe.fps:g}"] if recipe.fps is not None else []
    steps += plan.filters
    if plan.filters:
        steps.append("setsar=1")
    timing = ["-fps_mode", "vfr"] if recipe.frames == "keyframe" else []
    return [*timing, *(["-vf", ",".join(steps)] if steps else [])]


def _encoder(format_: VideoFormat, shop: Workshop) -> list[str]:
    recipe = shop.recipe
    plain = ["-pix_fmt", "yuv420p", "-color_range", "tv"]  # what every player shows
    threads = ["-threads", str(shop.threads), *plain]
    if recipe.nvidia:
        quality = ["-cq", str(recipe.crf)] if recipe.crf is not None else []
        return ["-c:v", "h264_nvenc", *quality, *plain]
    if format_.encoder == "libvpx-vp9":
        quality = ["-crf", str(recipe.crf if recipe.crf is not None else _VP9_QUALITY), "-b:v", "0"]
        return ["-c:v", format_.encoder, *quality, "-deadline", "good", "-cpu-used", "4", *threads]
    quality = ["-crf", str(recipe.crf)] if recipe.crf is not None else []
    return ["-c:v", format_.encoder, "-preset", recipe.preset, *quality, *threads]


def _sound_encoder(codec: AudioCodec, recipe: Recipe) -> list[str]:
    rate = ["-ar", str(recipe.rate)] if recipe.rate is not None else []
    channels = ["-ac", str(recipe.channels)] if recipe.channels is not None else []
    return ["-c:a", codec.encoder, *rate, *channels]


def indexed(source: Source, max_pixels: int, path: str) -> list[str]:
    """Arguments of a call that copies all of a file into one in which times are found, a Matroska file at `path`."""
    kind = source.probe.kind
    found = ["-fflags", "+genpts"]
    for name, value in input_options(kind, max_pixels).items():
        found += [f"-{name}", value]
    found += ["-f", DEMUXERS[kind], "-i", f"file:{source.path}"]
    for stream in (source.probe.picture, source.probe.sound):
        if stream is not None:
            found += ["-map", f"0:{stream.index}"]
    return [*found, "-c", "copy", *_tail("matroska", path)]


def folder_stem(path: str, number: int) -> str:
    """Where the files of a sample go: beside the source, by other names."""
    return os.path.join(os.path.dirname(path), f"{MADE}{number:05d}")
