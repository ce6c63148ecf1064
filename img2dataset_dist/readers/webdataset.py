"""Datasets that exist, as input: each NNNNN.tar is a shard again, with its number, its keys and all its rows.

Rows are those of NNNNN.parquet beside the tar, where there is one: it also has those that failed, which go through as
they are. Else they are the samples of the tar, with what their KEY.json and KEY.txt say. The media themselves are left
to `fetchers/stored.py`; with a parquet nothing of a tar is read here.

What is known of a row goes on with it: all columns of the earlier dataset, and what the network had said of it. The
names of columns are those of img2dataset, video2dataset and this package, which agree.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from img2dataset_dist import inputs
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import DOWNLOAD, RESIZE, ROW_ERRORS, SUBSAMPLE, BadClip, BadRow, InputError
from img2dataset_dist.ffmpeg.clips import of_source
from img2dataset_dist.inputs import InputFile
from img2dataset_dist.model import SUCCESS, Clip, Failure, FetchFacts, Item, Shard, Source, Stored
from img2dataset_dist.readers import Inspected, Span
from img2dataset_dist.readers.columns import (
    CLIPS,
    check_columns,
    clips_of,
    converter,
    forced_types,
    infer_type,
    key_of,
    wanted,
)
from img2dataset_dist.readers.lines import reading
from img2dataset_dist.readers.parquet import TAIL_BYTES, footer_bytes, plain, readable, storable
from img2dataset_dist.tars import Member, Tar, is_a_name

BATCH_ROWS = 128
"""Rows of metadata in memory at once; subtitles and what a site says of a video make them large."""

LOOK_SAMPLES = 16
"""Samples that are looked at to know the columns of a tar without a parquet file."""

HEADER_BLOCK = 64 * 2**10
"""Bytes a store is asked for at once where only the headers of a tar are read."""

TEXT_BYTES = 16 * 2**20
"""Longest KEY.json or KEY.txt."""

OWN = frozenset({"key", "status", "error_message"})
"""Columns of the earlier dataset that are no data of the row: the row has them by itself."""

OWN_PART, CUTS = "clips", "cuts"
"""Columns of the earlier dataset in seconds of its source: where a clip is in it, and the scenes that were found."""

_STATUSES = (DOWNLOAD, RESIZE, SUBSAMPLE)
_FACTS = {field.name: str if "str" in str(field.type) else int for field in fields(FetchFacts)}
_HTTP_ERROR = re.compile(r"HTTP Error ([1-5][0-9]{2})\b")
"""How urllib, and so img2dataset, says that a server answered with an error."""


class WebdatasetReader:
    """One tar, one shard."""

    def __init__(self, config: InputConfig) -> None:
        self.config = config

    def inspect(self, file: InputFile) -> Inspected:
        """See `Reader.inspect`: the foot of the parquet file, else the first samples."""
        beside = _beside(file.path)
        if beside is not None:
            with reading(beside.path):
                return self._inspect_parquet(file, beside)
        return self._inspect_tar(file)

    def _inspect_parquet(self, file: InputFile, beside: InputFile) -> Inspected:
        tail = inputs.read_range(beside.path, max(0, beside.size - TAIL_BYTES), beside.size)
        size = footer_bytes(tail, beside.size)
        if (missing := size - len(tail)) > 0:
            begin = beside.size - len(tail)
            tail = inputs.read_range(beside.path, begin - missing, begin) + tail
        with readable(beside.path), pq.ParquetFile(pa.BufferReader(tail)) as opened:
            schema, rows = opened.schema_arrow, opened.metadata.num_rows
        if "key" not in schema.names:
            raise InputError(f"{beside.path} has no column 'key', so it is not the metadata of {file.path}")
        self._check(schema.names, beside.path)
        types = {field.name: storable(field.type) for field in schema}
        identity = {"size": file.size, "metadata": hashlib.sha256(tail[-size:]).hexdigest()}
        source = Source(path=file.path, format="webdataset", rows=rows, beside=beside.path)
        return Inspected(source, self._schema(types), identity)

    def _inspect_tar(self, file: InputFile) -> Inspected:
        values: dict[str, list[Any]] = {}
        with _opened(file.path) as tar:
            for number, sample in enumerate(_samples(tar)):
                if number >= LOOK_SAMPLES:
                    break
                for name, value in sample.row.items():
                    values.setdefault(name, []).append(value)
        if values:
            self._check(list(values), file.path)
        schema = self._schema({name: infer_type(found) for name, found in values.items()})
        return Inspected(Source(path=file.path, format="webdataset"), schema, inputs.identity(file))

    def _check(self, present: Sequence[str], path: str) -> None:
        """Columns that an option names must be there; the URL need not: nothing is fetched from it."""
        check_columns(self.config, [*present, *(["url"] if "url" not in present else [])], path)

    def _schema(self, types: Mapping[str, pa.DataType]) -> pa.Schema:
        """The columns that go on, by output name, `url` last."""
        kinds = {name: kind for name, kind in types.items() if name not in OWN}
        for output, name in _renamed(self.config).items():
            if name in types:
                kinds[output] = types[name]
        kinds |= {name: kind for name, kind in forced_types(self.config).items() if name in kinds and name != CLIPS}
        kinds.pop("url", None)
        return pa.schema([*(pa.field(name, kind) for name, kind in kinds.items()), pa.field("url", pa.string())])

    def spans(self, source: Source, after: Span | None = None) -> Iterator[Span]:
        """See `Reader.spans`: all rows of the tar; one without a parquet file is walked to count them."""
        if after is not None:
            return
        rows = source.rows
        if rows is None:
            with _opened(source.path) as tar:
                rows = sum(1 for _ in _keys(tar))
        if rows:
            yield Span(0, rows, None)

    def read(self, shard: Shard, schema: pa.Schema) -> Iterator[Item]:
        """See `Reader.read`."""
        maker = _ItemMaker(self.config, shard, schema)
        index = 0
        for row, problem in self._rows(shard.source):
            if index == shard.rows:
                raise InputError(f"{shard.source.path}: more than the {shard.rows} rows planned; it changed")
            yield maker.make(index, row, problem)
            index += 1
        if index != shard.rows:
            raise InputError(f"{shard.source.path}: {index} rows where {shard.rows} were planned; it changed")

    def _rows(self, source: Source) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Each row, and what is wrong with it."""
        if source.beside is None:
            with _opened(source.path) as tar:
                for sample in _samples(tar):
                    yield {**sample.row, "key": sample.key}, sample.problem
            return
        with reading(source.beside), inputs.open_input(source.beside) as stream, readable(source.beside):
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS):
                for row in plain(batch).to_pylist():
                    yield row, None


class _ItemMaker:
    """Rows of an earlier dataset to items, with the types of the job's schema."""

    def __init__(self, config: InputConfig, shard: Shard, schema: pa.Schema) -> None:
        self._config = config
        self._shard = shard
        self._names = {**{name: name for name in schema.names}, **_renamed(config)}
        self._convert = {name: converter(schema.field(name).type) for name in self._names if name in schema.names}
        self._to_text = converter(pa.string())

    def make(self, index: int, row: Mapping[str, Any], problem: str | None) -> Item:
        """The item of one row."""
        columns: dict[str, Any] = {}
        for output, convert in self._convert.items():
            name = self._names[output]
            try:
                columns[output] = convert(row.get(name))
            except BadRow as error:
                columns[output] = None
                problem = problem or f"column '{name}': {error}"
        url = columns.pop("url", None)
        key = self._to_text(row.get("key"))
        if not is_a_name(key):
            problem = problem or f"the key {key!r:.100} cannot be a file name"
            key = key_of(self._config, self._shard.id, index)
        clips, failure = None, failure_of(row) or (Failure.of(BadRow(problem)) if problem else None)
        part = _part_of(row, self._config.clip_col)
        if self._config.clip_col is not None and failure is None:
            try:
                clips = clips_of(row.get(self._config.clip_col))
                if clips and part is not None and self._config.clip_col == CUTS:
                    clips = of_source(clips, part)
            except BadClip as error:
                failure = Failure.of(error)
        return Item(
            shard_id=self._shard.id,
            index=index,
            key=key,
            url=url,
            columns=columns,
            clips=clips,
            stored=Stored(
                tar=self._shard.source.path, facts=facts_of(row), part=part, last=index == self._shard.rows - 1
            ),
            failure=failure,
        )


def _renamed(config: InputConfig) -> dict[str, str]:
    """Columns that go on under a name that an option gives them; `clips` of the earlier dataset stay what they are."""
    return {output: name for output, name in wanted(config).items() if output != CLIPS}


def _part_of(row: Mapping[str, Any], clip_col: str | None) -> Clip | None:
    """Where in its source a stored clip is; None where it is no clip, or nothing that can be read says so.

    Several spans are no part but wishes, of a list that had such a column; and so are those that `clip_col` names.
    """
    if row.get(OWN_PART) is None or clip_col == OWN_PART:
        return None
    try:
        spans = clips_of(row[OWN_PART])
    except BadClip:
        return None
    return spans[0] if spans is not None and len(spans) == 1 else None


def facts_of(row: Mapping[str, Any]) -> FetchFacts:
    """What the network had said of a row."""
    known: dict[str, Any] = {name: value for name, kind in _FACTS.items() if isinstance(value := row.get(name), kind)}
    return FetchFacts(**known)


def failure_of(row: Mapping[str, Any]) -> Failure | None:
    """Why a row had failed; None when it had not.

    img2dataset has no error codes: they follow from its messages, as far as these say more than the status.
    """
    status = row.get("status", SUCCESS)
    if status in (SUCCESS, None):
        return None
    message = str(row.get("error_message") or status)
    code = row.get("error_code")
    if not isinstance(code, str) or not code:
        answered = _HTTP_ERROR.search(message)
        code = f"http_{answered[1]}" if answered else "fetch_error" if status == DOWNLOAD else "media_error"
    transient = code in ROW_ERRORS and ROW_ERRORS[code].transient
    return Failure(code=code, message=message, status=status if status in _STATUSES else DOWNLOAD, transient=transient)


def numbered(paths: Sequence[str]) -> tuple[list[int], list[int]]:
    """The order of the shards of these tars, as places in `paths`, and by place the number of each.

    Tars that are all called by numbers, no two by the same, keep them. Others are counted as they come.
    """
    matches = [re.fullmatch(r"(\d+)\.tar", posixpath.basename(path)) for path in paths]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(paths) or len(set(numbers)) < len(numbers):
        return list(range(len(paths))), list(range(len(paths)))
    return sorted(range(len(paths)), key=numbers.__getitem__), numbers


def merged(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for all tars, which need not have the same columns: types that do not agree become double or text."""
    if all(schema is schemas[0] for schema in schemas):
        return schemas[0]
    kinds: dict[str, list[pa.DataType]] = {}
    for schema in dict.fromkeys(schemas):
        for field in schema:
            found = kinds.setdefault(field.name, [])
            if field.type not in found and not pa.types.is_null(field.type):
                found.append(field.type)
    url = kinds.pop("url")
    return pa.schema([pa.field(name, _common(found)) for name, found in [*kinds.items(), ("url", url)]])


def _common(kinds: list[pa.DataType]) -> pa.DataType:
    if len(kinds) == 1:
        return kinds[0]
    numbers = bool(kinds) and all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
    if not numbers:
        return pa.string()
    return pa.int64() if all(pa.types.is_integer(kind) for kind in kinds) else pa.float64()


def _beside(path: str) -> InputFile | None:
    """NNNNN.parquet of NNNNN.tar."""
    stem = path.removesuffix(".tar")
    if stem == path:
        return None
    try:
        return inputs.input_file(f"{stem}.parquet")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{stem}.parquet cannot be read: {error}") from error


@contextmanager
def _opened(path: str) -> Iterator[Tar]:
    with reading(path), inputs.open_input(path, HEADER_BLOCK) as stream:
        yield Tar(path, stream)


class _Sample(NamedTuple):
    """A sample of a tar, without its media: what its texts say, and what is wrong with them."""

    key: str
    row: dict[str, Any]
    problem: str | None


def _keys(tar: Tar) -> Iterator[str]:
    """The key of each sample: neighbours with the same one are one sample."""
    before = None
    for member in tar.members():
        if member.key != before:
            yield member.key
        before = member.key


def _samples(tar: Tar) -> Iterator[_Sample]:
    key: str | None = None
    texts: dict[str, str] = {}
    problem: str | None = None
    for member in tar.members():
        if member.key != key:
            if key is not None:
                yield _sample(key, texts, problem)
            key, texts, problem = member.key, {}, None
        if member.extension in ("json", "txt"):
            if member.size > TEXT_BYTES:
                problem = f"its {member.extension} has {member.size} bytes"
            else:
                texts[member.extension] = _text(tar, member)
    if key is not None:
        yield _sample(key, texts, problem)


def _text(tar: Tar, member: Member) -> str:
    return b"".join(tar.content(member)).decode("utf-8", "replace")


def _sample(key: str, texts: Mapping[str, str], problem: str | None) -> _Sample:
    row: dict[str, Any] = {}
    if "json" in texts:
        try:
            said = json.loads(texts["json"])
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            row = said
        else:
            problem = problem or "its json is not an object"
    if row.get("caption") is None and "txt" in texts:
        row["caption"] = texts["txt"]
    return _Sample(key, row, problem)
