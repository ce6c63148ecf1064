"""The path of videos and sounds: look, find the parts, make each with one call of ffmpeg, look at what came out."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from img2dataset_dist import kinds, subtitles
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import (
    SUBSAMPLE,
    BadSubtitles,
    DecodeError,
    DiskFull,
    FfmpegError,
    NoClip,
    NoStream,
    NotMedia,
    RowError,
    TooLarge,
    TooManyPixels,
    UnsupportedFormat,
)
from img2dataset_dist.ffmpeg import binary, whole
from img2dataset_dist.ffmpeg.clips import Part, in_source
from img2dataset_dist.ffmpeg.command import Call, Output, Source, Workshop, as_it_came, call, folder_stem, indexed
from img2dataset_dist.ffmpeg.demuxers import DEMUXERS, SEEKABLE
from img2dataset_dist.ffmpeg.parts import duration_of, parts_of, scenes_of
from img2dataset_dist.ffmpeg.probe import Probe, keyframes, probe
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.ffmpeg.run import Bounds, run
from img2dataset_dist.model import Clip, Failure, MediaFile, Sample
from img2dataset_dist.model import Part as StoredPart
from img2dataset_dist.spool import MADE

UNKNOWN_LANGUAGE = "und"
"""Of subtitles that are a column of the list (ISO 639-2)."""

GROWTH = 16
"""How many times `max_body_bytes` a file may have that is made here, if `max_spool_bytes` is no less."""

Lines = Mapping[str, Sequence[subtitles.Line]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One row: the `sample`, what there is of it, its subtitles by language, and what all its pieces say."""

    sample: Sample
    file: MediaFile
    source: Source
    lines: Lines
    extra: dict[str, Any] = field(default_factory=dict)


class VideoTransform:
    """Make the stored files of a sample, or of each of its clips. The options of `MediaConfig` say how."""

    def __init__(self, config: JobConfig) -> None:
        media = config.media
        self._recipe = Recipe.of(media)
        self._binary = binary.locate(media.ffmpeg)
        if self._recipe.nvidia:
            binary.check_nvidia(self._binary, "h264_nvenc")
        self._bounds = Bounds(
            seconds=media.ffmpeg_timeout, memory=config.engine.max_transform_memory, file=largest(config)
        )
        self._max_side = config.image.max_decode_side
        self._captions = media.captions_are_subtitles
        self._spoken = media.subtitles_are_clips
        max_pixels = min(config.image.max_decode_pixels, 2**31 - 1)
        self._shop = Workshop(recipe=self._recipe, threads=threads(config), max_pixels=max_pixels)

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its parts, or with pieces that have theirs. A piece may have failed by itself.

        Raises:
            NotMedia: the file is no video and no sound, but a page, a text, a playlist.
            UnsupportedFormat: one that is not read here.
            DecodeError: it is broken, or ends early.
            NoStream: it has no pictures, or no sound, and they are wanted.
            TooManyPixels: its pictures, or those that are wanted, exceed `max_decode_pixels` or `max_decode_side`.
            NoClip: nothing of it is wanted.
            BadSubtitles: its caption should be subtitles, and is none.
            TransformTimeout: ffmpeg took longer than `ffmpeg_timeout`.
            DiskFull: there is no room for what is made.
            TooLarge: what is made is larger than it may be.
            FfmpegError: ffmpeg could not make it.
        """
        assert sample.file is not None
        try:
            job = self._with_index(self._look(sample, sample.file))
            pieces = self._pieces(job)
            return self._make(job, None) if pieces is None else replace(sample, pieces=pieces)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull("no room in tmp_dir") from error
            raise

    def _look(self, sample: Sample, file: MediaFile) -> _Job:
        """What there is, and whether it is what is wanted."""
        recipe = self._recipe
        found = self._probe(file.path, metadata=recipe.probe)
        sound = None if file.sound is None else self._probe(file.sound)
        source = Source(path=file.path, probe=found, sound_path=file.sound, sound_probe=sound)
        picture = found.picture
        if picture is None and (recipe.video is not None or recipe.cuts_are_clips):
            raise NoStream("no video in it")
        if source.sound is None and recipe.video is None:
            raise NoStream("no sound in it")
        if picture is not None:
            if not picture.readable and file.present is None:
                raise DecodeError(f"broken {found.kind}: no picture can be read")
            self._check_size(picture.width, picture.height)
        extra: dict[str, Any] = {} if file.page is None else {"yt_meta_dict": json.dumps(file.page)}
        if found.metadata is not None:
            metadata = found.metadata
            if recipe.probe_keyframes and file.present is None:
                times = keyframes(file.path, found.kind, max_pixels=self._shop.max_pixels)
                metadata = {**metadata, "keyframe_timestamps": [round(time, 6) for time in times]}
            extra["video_metadata"] = json.dumps(metadata)
        if picture is not None:
            sample = replace(sample, original_width=picture.width, original_height=picture.height)
        sample = replace(sample, original_format=found.kind)
        return _Job(sample=sample, file=file, source=source, lines=self._lines(sample, file), extra=extra)

    def _with_index(self, job: _Job) -> _Job:
        """With a copy of the file in place of one in which times cannot be found, where parts of it are wanted."""
        source = job.source
        if job.sample.item.clips is None and not self._recipe.cuts_are_clips and not self._spoken:
            return job
        if source.probe.kind in SEEKABLE or source.sound_path is not None:
            return job
        path = os.path.join(os.path.dirname(source.path), f"{MADE}indexed.mkv")
        try:
            run(self._binary, indexed(source, self._shop.max_pixels, path), self._bounds)
            return replace(job, source=Source(path=path, probe=self._probe(path)))
        except (FfmpegError, DecodeError, TooLarge):
            _remove([path])
            return job

    def _probe(self, path: str, *, metadata: bool = False) -> Probe:
        """What the bytes are, never what they are called."""
        with open(path, "rb") as file:
            kind = kinds.sniff_file(file)
        if kind not in DEMUXERS:
            if kinds.class_of(kind) in ("video", "audio"):
                raise UnsupportedFormat(f"unsupported kind of video or sound: {kind}")
            raise NotMedia(f"not a video or sound: {kind}")
        lacking = whole.missing(path, kind)
        if lacking:
            raise DecodeError(f"the {kind} ends early")
        return probe(path, kind, max_pixels=self._shop.max_pixels, metadata=metadata)

    def _check_size(self, width: int, height: int) -> None:
        if max(width, height) > self._max_side:
            raise TooManyPixels("a side is longer than max_decode_side")
        if width * height > self._shop.max_pixels:
            raise TooManyPixels("more pixels than max_decode_pixels")

    def _lines(self, sample: Sample, file: MediaFile) -> Lines:
        """Subtitles by language. A site's that cannot be read are left out; those of the list must be good."""
        if self._captions:
            caption = sample.item.columns.get("caption")
            if caption is None or caption == "":
                return {}
            if not isinstance(caption, str):
                raise BadSubtitles("the caption is no text")
            lines, part = subtitles.parse(caption), _part_of(sample)
            # a clip of an earlier job has the caption of the whole video
            return {UNKNOWN_LANGUAGE: lines if part is None else subtitles.within(lines, part)}
        found = {}
        for language, path in file.subtitles.items():
            try:
                with open(path, encoding="utf-8", errors="replace") as text:
                    found[language] = subtitles.parse(text.read())
            except BadSubtitles:
                continue
        return found

    def _pieces(self, job: _Job) -> tuple[Sample, ...] | None:
        """The samples that parts of the video become; None for all of it as one."""
        wishes = self._wishes(job)
        if wishes is None:
            return None
        lasts = duration_of(job.source, self._shop)  # once, as it may have to be measured
        job = replace(job, source=replace(job.source, probe=replace(job.source.probe, duration=lasts)))
        made: list[Sample] = []
        for clip, caption in wishes:
            try:
                parts = parts_of(job.source, self._shop, clip, job.file.present)
            except RowError as error:
                made.append(self._named(job, len(made), caption, _failure(error)).sample)
                continue
            made += [
                self._piece(self._named(job, number, caption), part, number)
                for number, part in enumerate(parts, len(made))
            ]
        if not made:
            raise NoClip("no clip is left: all are shorter than min_clip_seconds, or there was none")
        return tuple(made)

    def _wishes(self, job: _Job) -> list[tuple[Clip, str | None]] | None:
        """The clips that are wanted, and the caption of each where it has one of its own; None for the whole."""
        wanted = job.sample.item.clips
        if self._spoken:
            spoken = next(iter(job.lines.values()), ())
            return [(Clip(start, end), text.replace("\n", " ")) for start, end, text in spoken if start < end]
        if wanted is None and self._recipe.cuts_are_clips:
            wanted = (Clip(0.0, duration_of(job.source, self._shop)),)
        return None if wanted is None else [(clip, None) for clip in wanted]

    def _named(self, job: _Job, number: int, caption: str | None, failure: Failure | None = None) -> _Job:
        """One of several samples of a row."""
        item = replace(job.sample.item, key=f"{job.sample.item.key}_{number:05d}")
        if caption is not None:
            item = replace(item, columns={**item.columns, "caption": caption})
        return replace(job, sample=replace(job.sample, item=item, failure=failure))

    def _piece(self, job: _Job, part: Part, number: int) -> Sample:
        """Make it; its failure is its own."""
        try:
            return self._make(job, part, number)
        except RowError as error:
            return replace(job.sample, failure=_failure(error))

    def _make(self, job: _Job, part: Part | None, number: int = 0) -> Sample:
        """One sample with its files."""
        clip, stored = None if part is None else part.clip, _part_of(job.sample)
        outputs, probes = self._files(job, part, number)
        main, looked = outputs[0], probes[0]
        extra = {**job.extra, **_facts(main, probes)}
        if clip is not None:
            extra["clips"] = in_source([clip], stored)
        if clip is not None and job.sample.item.stored is not None:
            extra["cuts"] = None  # those that an earlier job found are of the whole
        if self._recipe.cuts is not None and not self._recipe.cuts_are_clips and job.source.probe.picture is not None:
            extra["cuts"] = in_source(scenes_of(job.source, self._shop, clip), stored)
        if job.lines:
            said = subtitles.clip(job.lines, clip, stored.start if stored is not None else 0.0)
            extra["clip_subtitles"] = json.dumps(said, ensure_ascii=False)
        picture = looked.picture
        return replace(
            job.sample,
            width=main.width if picture is None else picture.width,
            height=main.height if picture is None else picture.height,
            extension=main.extension,
            parts=(*(_stored(output) for output in outputs), *self._texts(job, clip)),
            extra=extra,
        )

    def _files(self, job: _Job, part: Part | None, number: int) -> tuple[list[Output], list[Probe]]:
        """The files of a sample, and what is in them; the first is what it is all about."""
        source, shop = job.source, self._shop
        outputs: list[Output] = []
        probes: list[Probe] = []
        kept = None if part is not None else as_it_came(source, _without_second(shop.recipe))
        if kept is not None:
            outputs.append(Output(extension=kept, path=source.path, kind=source.probe.kind))
            probes.append(source.probe)
            if shop.recipe.video is None or shop.recipe.audio is None or source.sound is None:
                return outputs, [replace(source.probe, duration=duration_of(source, shop))]
            shop = replace(shop, recipe=replace(shop.recipe, video=None))
        todo = call(source, part, shop, folder_stem(job.file.path, number))
        for output in todo.outputs:
            if output.width is not None and output.height is not None:
                self._check_size(output.width, output.height)
        made = self._run(todo, source, part, shop)
        return [*outputs, *todo.outputs], [*probes, *made]

    def _run(self, todo: Call, source: Source, part: Part | None, shop: Workshop) -> list[Probe]:
        """Make the files, and look whether they are good. What cannot be copied is encoded."""
        try:
            return self._made(todo)
        except (FfmpegError, DecodeError, NoStream):
            if not todo.copies:
                raise
        stem = todo.outputs[0].path.removesuffix(f".{todo.outputs[0].extension}")
        return self._made(call(source, part, replace(shop, encode_all=True), stem))

    def _made(self, todo: Call) -> list[Probe]:
        """What is in the files of a call; nothing stays on the disk of one that fails."""
        try:
            run(self._binary, todo.arguments, self._bounds)
            return [self._checked(output) for output in todo.outputs]
        except RowError:
            _remove(output.path for output in todo.outputs)
            raise

    def _checked(self, output: Output) -> Probe:
        """What is in a file that ffmpeg has made.

        Raises:
            FfmpegError: nothing is.
        """
        size = os.path.getsize(output.path) if os.path.exists(output.path) else 0
        if not size:
            raise FfmpegError("ffmpeg made nothing of it")
        if output.kind == "jpeg":
            return Probe(kind="jpeg", duration=None, picture=None, sound=None)
        found = probe(output.path, output.kind, max_pixels=self._shop.max_pixels)
        if found.duration is None or (output.width is not None and found.picture is None):
            raise FfmpegError("ffmpeg made nothing of it")
        if output.width is None and found.sound is None:
            raise FfmpegError("ffmpeg made no sound of it")
        return found

    def _texts(self, job: _Job, clip: Clip | None) -> list[StoredPart]:
        """Its subtitles, a file for each language."""
        if self._captions:
            return []  # they are the caption already, which is stored as it came
        texts = {language: subtitles.dump_vtt(lines, clip).encode() for language, lines in job.lines.items()}
        return [
            StoredPart(extension=f"{_plain(language)}.vtt", size=len(data), data=data)
            for language, data in texts.items()
        ]


def largest(config: JobConfig) -> int:
    """Bytes that a file may have which is made here: sound that is unpacked may rightly be larger than what came."""
    body = config.fetch.max_body_bytes
    return max(body, min(GROWTH * body, config.media.max_spool_bytes))


def threads(config: JobConfig) -> int:
    """Threads of one ffmpeg: as many as asked for, else its share of the cores that all of them have.

    `processes_count` must be how many workers there are on this machine.
    """
    if config.media.ffmpeg_threads is not None:
        return config.media.ffmpeg_threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = config.engine.transform_processes or (1 if config.media.stages else 2)
    return max(cores // (config.processes() * at_once), 1)


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _part_of(sample: Sample) -> Clip | None:
    """Where in its source the video is, when an earlier job made it as a clip."""
    return None if sample.item.stored is None else sample.item.stored.part


def _without_second(recipe: Recipe) -> Recipe:
    """Of a recipe for two files the one for the first."""
    return recipe if recipe.video is None else replace(recipe, audio=None)


def _failure(error: RowError) -> Failure:
    """What a piece says that could not be made."""
    return replace(Failure.of(error), status=SUBSAMPLE)


def _stored(output: Output) -> StoredPart:
    return StoredPart(extension=output.extension, path=output.path, size=os.path.getsize(output.path))


def _facts(main: Output, probes: Sequence[Probe]) -> dict[str, Any]:
    """Values of the columns that say what is in the files."""
    first = probes[0]
    sound = next((each.sound for each in probes if each.sound is not None), None)
    kind = "image" if main.kind == "jpeg" else "audio" if first.picture is None else "video"
    mime = kinds.mime_of(main.kind)
    if kind == "audio" and mime.startswith("video/"):
        mime = mime.replace("video/", "audio/", 1)
    facts: dict[str, Any] = {"kind": kind, "mime": mime, "duration": first.duration}
    if first.picture is not None:
        facts |= {"fps": first.picture.fps, "video_codec": first.picture.codec}
    if sound is not None:
        facts |= {"audio_codec": sound.codec, "audio_rate": sound.rate, "audio_channels": sound.channels}
    return facts


def _plain(language: str) -> str:
    """A language as a part of a file's name."""
    return (
        "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in language)[:32] or UNKNOWN_LANGUAGE
    )
