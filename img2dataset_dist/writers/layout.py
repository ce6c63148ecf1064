"""The columns of a dataset: names, order and types, decided once for the whole job.

Order as the peer has it: additional columns, boxes, caption, [hash to verify], url; key, status, error_message, sizes,
[exif], [hash]; of other media than images what they are; then ours (`config.EXTRA_COLUMNS`).
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import BadClip
from img2dataset_dist.ffmpeg.clips import in_source, parse
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.model import Item, Part, Sample
from img2dataset_dist.readers.columns import CLIPS

_EXTRA_TYPES = {
    "error_code": pa.string(),
    "http_status": pa.int32(),
    "final_url": pa.string(),
    "content_type": pa.string(),
    "fetch_ms": pa.int32(),
    "attempts": pa.int32(),
    "bytes": pa.int64(),
    "dns_ms": pa.int32(),
    "connect_ms": pa.int32(),
    "tls_ms": pa.int32(),
    "first_byte_ms": pa.int32(),
    "x_robots_tag": pa.string(),
    "robots_txt": pa.string(),
    "original_format": pa.string(),
    "stored_hash": pa.string(),
    "phash": pa.string(),
}


_SPANS = pa.list_(pa.list_(pa.float64()))
_ANY_TYPES = {"kind": pa.string(), "mime": pa.string(), "duration": pa.float64()}
_VIDEO_TYPES = {
    **_ANY_TYPES,
    "fps": pa.float64(),
    "video_codec": pa.string(),
    "audio_codec": pa.string(),
    "audio_rate": pa.int32(),
    "audio_channels": pa.int32(),
    "clips": _SPANS,
    "cuts": _SPANS,
    "clip_subtitles": pa.string(),
    "video_metadata": pa.string(),
    "yt_meta_dict": pa.string(),
}
MEDIA_TYPES: dict[str, dict[str, pa.DataType]] = {
    "image": {}, "any": _ANY_TYPES, "video": _VIDEO_TYPES, "audio": _VIDEO_TYPES,
}  # fmt: skip
"""Columns that say what media other than images are, from `Sample.extra`."""

PARTS = pa.list_(pa.struct([("name", pa.string()), ("data", pa.binary())]))
"""Column `parts` of parquet output: files of a sample that have no column of their own."""


_BESIDE = ("webdataset", "files", "tfrecord", "dummy")
"""Output formats that have no media in their columns."""


class Description(NamedTuple):
    """What a column holds, and when it is null."""

    meaning: str
    null: str


_FAILED = "the row failed"
_UNSIZED = "the row failed, or `disable_all_reencoding` kept bytes that are no image"
_NOT_ASKED = "the row never came to a request (bad rows and URLs, hosts that must not be asked or are down)"
_NO_CONNECTION = "no connection came about"
_NO_ANSWER = "no answer came"
_NOT_VIDEO = "the row failed, or the media have no such thing"
_HASH = Description("Hex digest of the bytes as they came, before any re-encoding.", _FAILED)
_MEDIA = Description("The stored image; only in parquet output.", _FAILED)

DESCRIPTIONS: dict[str, Description] = {
    "caption": Description(
        "The caption, from `caption_col`; with `subtitles_are_clips` the line that is said.",
        "the list has none for this row",
    ),
    "url": Description("The URL as the list has it.", "the list has none, or the row could not be read"),
    "key": Description("Name of the sample: unique in the dataset, and the stem of its file names.", "never"),
    "status": Description(
        "`success`, `failed_to_download` or `failed_to_resize`; `failed_to_subsample` of other media than images.",
        "never",
    ),
    "error_message": Description("Why the row failed, for people.", "the row succeeded"),
    "width": Description("Width of the stored image in pixels.", _UNSIZED),
    "height": Description("Height of the stored image in pixels.", _UNSIZED),
    "original_width": Description("Width of the image as it came, upright, in pixels.", _UNSIZED),
    "original_height": Description("Height of the image as it came, upright, in pixels.", _UNSIZED),
    "exif": Description(
        "JSON text of the EXIF tags, names and values as exifread prints them; `{}` for no tags.",
        "the row failed, or the tags cannot be read",
    ),
    "md5": _HASH,
    "sha256": _HASH,
    "sha512": _HASH,
    "jpg": _MEDIA,
    "png": _MEDIA,
    "webp": _MEDIA,
    "avif": _MEDIA,
    "mp4": _MEDIA,
    "m4a": _MEDIA,
    "mp3": _MEDIA,
    "media": Description("The file as it came, of `media=any`; only in parquet output.", "the row failed"),
    "parts": Description("Files of the sample besides its media, by name; only in parquet output.", "the row failed"),
    "kind": Description("`image`, `video`, `audio`, `text`, `page`, `archive`, `other`: the stored file.", _FAILED),
    "mime": Description("Media type of the stored file, by its bytes.", _FAILED),
    "duration": Description("Seconds of the stored media, or of the file as it came with `media=any`.", _NOT_VIDEO),
    "fps": Description("Frames per second of the stored video.", _NOT_VIDEO),
    "video_codec": Description("Codec of the stored pictures, as ffmpeg names it.", _NOT_VIDEO),
    "audio_codec": Description("Codec of the stored sound, as ffmpeg names it.", _NOT_VIDEO),
    "audio_rate": Description("Samples per second of the stored sound.", _NOT_VIDEO),
    "audio_channels": Description("Channels of the stored sound.", _NOT_VIDEO),
    "clips": Description("The sample's own part of its source: a list of one [start, end] in seconds.", "it is all"),
    "cuts": Description("Scenes that were found, as [start, end] in seconds.", "without `cut_detection`"),
    "clip_subtitles": Description(
        "JSON list of what is said in the sample: `{start, end, lines: {language: [...]}}`.", "there are none"
    ),
    "video_metadata": Description("JSON of what ffprobe says of the media as they came.", "without `probe`"),
    "yt_meta_dict": Description(
        "JSON of what the site says: `{info, subtitles, automatic}`.", "without `yt_metadata_args`"
    ),
    "stages": Description("JSON of what `stages` found, by their names.", "without `stages`"),
    "error_code": Description("Why the row failed, for programs; a code of docs/errors.md.", "the row succeeded"),
    "http_status": Description("Status of the last response.", "no response came"),
    "final_url": Description("The URL that was asked last, after all redirects.", _NOT_ASKED),
    "content_type": Description("Content-Type header of the last response.", "there was none"),
    "fetch_ms": Description("Milliseconds of the last attempt, its redirects included.", _NOT_ASKED),
    "attempts": Description("How often the URL was tried; 0 when it never came to a request.", "never"),
    "bytes": Description(
        "Size of the body as it came, after content decoding; of a failed fetch, what had arrived.", _NOT_ASKED
    ),
    "dns_ms": Description("Milliseconds for the name, of the last request; 0 when it was known.", _NOT_ASKED),
    "connect_ms": Description("Milliseconds for TCP, of the last request; 0 on a kept connection.", _NO_CONNECTION),
    "tls_ms": Description("Milliseconds for TLS, of the last request; 0 on a kept connection.", _NO_CONNECTION),
    "first_byte_ms": Description("Milliseconds from the last request to the first byte of its answer.", _NO_ANSWER),
    "x_robots_tag": Description("The X-Robots-Tag headers of the last response, joined by `; `.", "it had none"),
    "robots_txt": Description(
        "What the site's robots.txt said: `allowed`, `disallowed`, `missing` (so allowed) or `unreachable` (so not).",
        "`robots_txt` is `ignore`, or the row never came to it",
    ),
    "original_format": Description("What the bytes were as they came: `jpeg`, `png`, `webp` and so on.", _FAILED),
    "stored_hash": Description(
        "Hex digest of the image as it is stored, by `compute_hash`.", "the row failed, or `compute_hash` is None"
    ),
    "phash": Description(
        "Perceptual hash of the picture, 16 hex digits: the fewer bits differ, the more alike. Only with "
        "`compute_phash`.",
        _FAILED,
    ),
}
"""Every column with a fixed name. Columns that are carried over from the list mean what they mean there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a row of the dataset looks like.

    Attributes:
        input_schema: the columns that come from the list, by output name, `url` last.
        exif: whether there is an `exif` column.
        hash_name: name of the hash column, None for none. It may stand in `input_schema` (verify_hash).
        phash: whether there is a `phash` column.
        encode_format: extension of the media, and name of the binary column in parquet output.
        caption: whether samples get a KEY.txt.
        media: what the job's rows are; see `MediaConfig`.
        columns: extensions of media that have a column of their own in parquet output.
        stages: whether there is a `stages` column.
    """

    input_schema: pa.Schema
    exif: bool
    hash_name: str | None
    encode_format: str
    caption: bool
    phash: bool = False
    media: str = "image"
    columns: tuple[str, ...] = ()
    stages: bool = False

    @classmethod
    def of(cls, config: JobConfig, input_schema: pa.Schema) -> Layout:
        """The layout that the options ask for."""
        media = config.media
        again = config.input.input_format == "webdataset"
        if CLIPS in input_schema.names:
            input_schema = input_schema.remove(input_schema.get_field_index(CLIPS))
        if media.subtitles_are_clips and "caption" not in input_schema.names:
            input_schema = input_schema.insert(len(input_schema) - 1, pa.field("caption", pa.string()))
        layout = cls(
            input_schema=input_schema,
            exif=config.image.extract_exif and media.media == "image",
            hash_name=config.image.compute_hash,
            encode_format=config.image.encode_format,
            caption=config.input.caption_col is not None
            or media.subtitles_are_clips
            or (again and "caption" in input_schema.names),
            phash=config.image.compute_phash,
            media=media.media,
            columns=_columns(config),
            stages=bool(media.stages),
        )
        return layout._without_old(media=config.output.output_format not in _BESIDE) if again else layout

    def _without_old(self, *, media: bool) -> Layout:
        """The columns of an earlier dataset that this one does not have itself are carried along; its own win."""
        own = set(replace(self, input_schema=pa.schema([])).schema(media=media).names)
        types = MEDIA_TYPES[self.media]
        kept = [
            field
            for field in self.input_schema
            # a column of text where ours has numbers was one of the list already
            if field.name not in own
            or (field.name in types and pa.types.is_string(field.type) != pa.types.is_string(types[field.name]))
        ]
        return replace(self, input_schema=pa.schema(kept))

    def schema(self, *, media: bool = False) -> pa.Schema:
        """Arrow schema of the metadata; `media` adds the binary column, where the peer has it, before ours."""
        # A failed row may have none of its columns, so what the list declares as required cannot be; nor do the field
        # ids of a parquet list mean anything here.
        fields = [field.with_nullable(True).remove_metadata() for field in self.input_schema]
        fields += [pa.field(name, pa.string()) for name in ("key", "status", "error_message")]
        fields += [pa.field(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
        if self.exif:
            fields.append(pa.field("exif", pa.string()))
        if self.hash_name is not None and self.hash_name not in self.input_schema.names:
            fields.append(pa.field(self.hash_name, pa.string()))
        fields += [pa.field(name, kind) for name, kind in self.media_types().items()]
        if media:
            fields += [pa.field(name, pa.binary()) for name in self.columns or (self.encode_format,)]
            fields += [pa.field("parts", PARTS)] if self.media != "image" or self.stages else []
        fields += [pa.field(name, kind) for name, kind in _EXTRA_TYPES.items() if name != "phash" or self.phash]
        return pa.schema(fields)

    def media_types(self) -> dict[str, pa.DataType]:
        """Columns that say what the media are. A column of the list with such a name is the list's."""
        types = MEDIA_TYPES[self.media] | ({"stages": pa.string()} if self.stages else {})
        return {name: kind for name, kind in types.items() if name not in self.input_schema.names}

    def row(self, sample: Sample) -> dict[str, Any]:
        """All metadata of one sample by column, in the order of `schema()`."""
        item, facts, failure = sample.item, sample.facts, sample.failure
        row = {name: item.columns.get(name) for name in self.input_schema.names}
        row["url"] = item.url
        row |= {
            "key": item.key,
            "status": sample.status,
            "error_message": failure.message if failure else None,
            "width": sample.width,
            "height": sample.height,
            "original_width": sample.original_width,
            "original_height": sample.original_height,
        }
        if self.exif:
            row["exif"] = sample.exif
        if self.hash_name is not None:
            row[self.hash_name] = sample.hashes.get(self.hash_name) if failure is None else None
        if self.media != "image" or self.stages:
            names = self.media_types()
            # what an earlier dataset knew stays true where nothing new is said
            row |= {name: sample.extra[name] if name in sample.extra else _known(item, name) for name in names}
            row |= _clips(sample, names)
        row |= {
            "error_code": failure.code if failure else None,
            "http_status": facts.http_status,
            "final_url": facts.final_url,
            "content_type": facts.content_type,
            "fetch_ms": facts.fetch_ms,
            "attempts": facts.attempts,
            "bytes": facts.bytes,
            "dns_ms": facts.dns_ms,
            "connect_ms": facts.connect_ms,
            "tls_ms": facts.tls_ms,
            "first_byte_ms": facts.first_byte_ms,
            "x_robots_tag": facts.x_robots_tag,
            "robots_txt": facts.robots_txt,
            "original_format": sample.original_format if failure is None else None,
            "stored_hash": sample.stored_hash,
        }
        if self.phash:
            row["phash"] = sample.phash
        return row

    def name_of(self, sample: Sample) -> str:
        """Name of the sample's file: its key and extension."""
        return f"{sample.item.key}.{sample.extension or self.encode_format}"

    def cells(self, sample: Sample) -> dict[str, Any]:
        """The media of a sample by column, for formats that have them in memory."""
        if sample.failure is not None:
            return dict.fromkeys(self._media_names)
        files = {part.extension: content_of(part) for part in sample.parts}
        if sample.data is not None:
            files[self.encode_format] = sample.data
        if self.media == "any" and sample.parts:
            files["media"] = files.pop(sample.parts[0].extension)
        cells: dict[str, Any] = {name: files.pop(name, None) for name in self._media_names if name != "parts"}
        if "parts" in self._media_names:
            cells["parts"] = [{"name": name, "data": content} for name, content in files.items()]
        return cells

    @property
    def _media_names(self) -> list[str]:
        with_media = self.schema(media=True).names
        without = set(self.schema().names)
        return [name for name in with_media if name not in without]

    def caption_text(self, sample: Sample) -> str:
        """What goes into KEY.txt: the caption, "" for a null one."""
        caption = sample.item.columns.get("caption")
        return "" if caption is None else str(caption)


def _known(item: Item, name: str) -> Any:
    """What an earlier dataset says in a column of ours; times may be text there, or spans something else altogether."""
    value = item.columns.get(name)
    if value is None or MEDIA_TYPES["video"].get(name) != _SPANS:
        return value
    try:
        return [list(span) for span in parse(value) or ()] or None
    except BadClip:
        return None


def _clips(sample: Sample, names: Container[str]) -> dict[str, Any]:
    """Column `clips`, where more is to be said than the sample itself says."""
    item = sample.item
    if "clips" in names:
        if item.clips is None or "clips" in sample.extra:
            return {}
        part = None if item.stored is None else item.stored.part
        return {"clips": in_source(item.clips, part)}
    if item.stored is None or "clips" not in sample.extra:
        return {}
    try:  # a column of text: of times, which are others now, or of something that has nothing to do with it
        parse(item.columns.get("clips"))
    except BadClip:
        return {}
    return {"clips": json.dumps(sample.extra["clips"])}


def content_of(part: Part) -> bytes:
    """All bytes of a part, in memory."""
    if part.path is None:
        return part.data or b""
    with open(part.path, "rb") as file:
        return file.read()


def _columns(config: JobConfig) -> tuple[str, ...]:
    """Extensions that have a column of their own in parquet output, in the order of storing."""
    media = config.media
    if media.media == "image":
        return ()
    if media.media == "any":
        return ("media",)
    recipe = Recipe.of(media)  # what `subsampling` says counts before the options
    video = "jpg" if recipe.frames == "first_frame" and recipe.video is not None else recipe.video
    return tuple(dict.fromkeys(each for each in (video, recipe.audio) if each is not None))
