"""A contact sheet of a dataset: pictures from all over it on one page.

Reads little: of a tar a few headers and the pictures that are shown, of a parquet file the row groups that hold them.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, ImageOps

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.kinds import extension_of
from img2dataset_dist.media import IMAGES
from img2dataset_dist.model import SUCCESS
from img2dataset_dist.storage import Folder

SUFFIXES = frozenset({"jpeg", *map(extension_of, IMAGES)})
COLUMNS = ("jpg", "png", "webp", "avif")
SIDE = 128
"""Longest side of a thumbnail in pixels."""

_GAP = 6
_LABEL = 16
_HEADER = 40
_LEAST_WIDTH = 480
_BLOCK = tarfile.BLOCKSIZE
_WINDOW = 256 * 1024
_ROWS = 64
_PAPER, _INK, _BROKEN = "white", "#303030", "#d8d8d8"

Pictures = dict[str, bytes]
"""Key to content."""


@dataclass(frozen=True, slots=True)
class _Dataset:
    """What is there: the shards that are complete, how to sample one, and the totals, None when nobody counted."""

    folder: Folder
    shards: list[str]
    sample: Callable[[Folder, str, int, random.Random], Pictures]
    rows: int | None
    successes: int | None


def preview(dataset: str, image: str, *, count: int = 60, columns: int = 10, seed: int = 0) -> int:
    """Draw a contact sheet of a dataset: thumbnails with their keys, under a line that says how the download went.

    Args:
        dataset: folder with webdataset, parquet or files output, on any fsspec path.
        image: the picture to write, on any fsspec path; its suffix names the format.
        count: how many pictures to show at most. They come from as many shards as possible.
        columns: pictures per line.
        seed: another one chooses other pictures.

    Returns:
        How many pictures are on the sheet.

    Raises:
        ConfigError: there is no dataset there, or no picture in it, or `image` has no suffix of a picture.
    """
    if count < 1 or columns < 1:
        raise ConfigError(f"count and columns must be at least 1, got count={count} and columns={columns}")
    suffix = os.path.splitext(image)[1].lower()
    kind = Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE:
        raise ConfigError(f"image={image!r} needs the suffix of a picture, for example {image}.jpg")
    found = _open(dataset)
    pictures = _sample(found, count, random.Random(seed))  # noqa: S311 (not for secrets)
    if not pictures:
        raise ConfigError(f"no pictures in {dataset!r}: none of its {len(found.shards)} shards holds one")
    sheet = _draw(_title(dataset, found, len(pictures)), pictures, columns)
    out = io.BytesIO()
    sheet.save(out, kind)
    with fsspec.open(image, "wb", auto_mkdir=True) as file:
        file.write(out.getvalue())
    return len(pictures)


def _open(dataset: str) -> _Dataset:
    """Look at the names in the folder and decide what it is."""
    folder = Folder.at(dataset)
    names = folder.names()
    done = {name.removesuffix("_stats.json") for name in names if re.fullmatch(r"\d+_stats\.json", name)}
    rows, successes = _totals(folder, sorted(done))

    def complete(pattern: str) -> list[str]:
        matches = [name for name in names if re.fullmatch(pattern, name)]
        return [name for name in matches if not done or name.partition(".")[0] in done]

    for pattern, sample in ((r"[^._].*\.tar", _from_tar), (r"\d+", _from_files), (r"[^._].*\.parquet", _from_parquet)):
        shards = complete(pattern)
        if shards and not (sample is _from_parquet and _media_column(folder, shards[0]) is None):
            return _Dataset(folder, shards, sample, rows, successes)
    if not names:
        raise ConfigError(f"there is no dataset in {dataset!r}: it is empty or does not exist")
    raise ConfigError(
        f"there are no pictures to show in {dataset!r}: looked for *.tar, for folders named by numbers, and for "
        f"*.parquet with a column {', '.join(COLUMNS)}; it holds {', '.join(names[:5])}{', ...' * (len(names) > 5)}"  # noqa: PLR2004
    )


def _totals(folder: Folder, done: list[str]) -> tuple[int | None, int | None]:
    """Rows and successes of all shards by their stats files."""
    rows = successes = 0
    for name in done:
        try:
            stats = json.loads(folder.read(f"{name}_stats.json") or b"")
            rows, successes = rows + int(stats["count"]), successes + int(stats["successes"])
        except (ValueError, KeyError, TypeError):  # not one of ours, or of an older version
            return None, None
    return (rows, successes) if done else (None, None)


def _sample(dataset: _Dataset, count: int, rng: random.Random) -> list[tuple[str, bytes]]:
    """Up to `count` pictures, evenly from all shards in random order, sorted by key."""
    shards = list(dataset.shards)
    rng.shuffle(shards)
    pictures: list[tuple[str, bytes]] = []
    for index, shard in enumerate(shards):
        wanted = -(-(count - len(pictures)) // (len(shards) - index))
        pictures += dataset.sample(dataset.folder, shard, wanted, rng).items()
        if len(pictures) >= count:
            break
    return sorted(pictures)


def _from_files(folder: Folder, shard: str, wanted: int, rng: random.Random) -> Pictures:
    below = folder.sub(shard)
    names = [name for name in below.names() if _is_picture(name)]
    chosen = rng.sample(names, min(wanted, len(names)))
    return {name.rpartition(".")[0]: content for name in chosen if (content := below.read(name)) is not None}


def _from_parquet(folder: Folder, shard: str, wanted: int, rng: random.Random) -> Pictures:
    media = _media_column(folder, shard)
    if media is None:
        return {}
    with folder.fs.open(folder.full(shard), "rb") as file:
        table = pq.ParquetFile(file)
        has = set(table.schema_arrow.names)
        statuses = table.read(columns=["status"])["status"].to_pylist() if "status" in has else []
        good = [row for row in range(table.metadata.num_rows) if not statuses or statuses[row] == SUCCESS]
        chosen = set(rng.sample(good, min(wanted, len(good))))
        pictures, first = {}, 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            here = {row - first for row in chosen if first <= row < first + rows}
            for row, content in _group_rows(table, group, here, [media, *({"key"} & has)]):
                if content[media] is not None:
                    pictures[str(content.get("key", f"{shard} {first + row}"))] = content[media]
            first += rows
    return pictures


def _group_rows(table: Any, group: int, chosen: set[int], columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """These rows of one row group, which is streamed and not read past the last of them."""
    if not chosen:
        return
    first, last = 0, max(chosen)
    for batch in table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=columns):
        for row in range(first, first + batch.num_rows):
            if row in chosen:
                yield row, batch.slice(row - first, 1).to_pylist()[0]
        first += batch.num_rows
        if first > last:
            return


def _media_column(folder: Folder, shard: str) -> str | None:
    """The column with the pictures; None when the file holds only metadata, or is no parquet file."""
    try:
        with folder.fs.open(folder.full(shard), "rb") as file:
            schema = pq.read_schema(file)
    except (OSError, ValueError):
        return None
    return next((field.name for field in schema if field.name in COLUMNS and "binary" in str(field.type)), None)


def _from_tar(folder: Folder, shard: str, wanted: int, rng: random.Random) -> Pictures:
    """Jump to random places in the tar and take the next picture that was not taken yet."""
    pictures: Pictures = {}
    taken: set[int] = set()
    with folder.fs.open(folder.full(shard), "rb") as file:
        size = file.seek(0, io.SEEK_END)
        for _ in range(wanted):
            start = rng.randrange(0, max(size, 1))
            found = _next_picture(file, start, taken) or _next_picture(file, 0, taken)
            if found is None:
                break
            name, position, length = found
            taken.add(position)
            file.seek(position)
            pictures[os.path.basename(name).rpartition(".")[0]] = file.read(length)
    return pictures


def _next_picture(file: IO[bytes], start: int, taken: set[int]) -> tuple[str, int, int] | None:
    """Name, position and length of the first picture at or after `start` that is not taken."""
    position = _next_header(file, start - start % _BLOCK)
    while position is not None:
        file.seek(position)
        try:
            info = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.HeaderError:  # the zeros at the end, or a tar cut off
            return None
        position += _BLOCK
        if info.isreg() and _is_picture(info.name) and position not in taken:
            return info.name, position, info.size
        position += -(-info.size // _BLOCK) * _BLOCK
    return None


def _next_header(file: IO[bytes], start: int) -> int | None:
    """Position of the first tar header at or after `start`: a block whose checksum is right."""
    file.seek(start)
    while window := file.read(_WINDOW):
        for offset in range(0, len(window) - _BLOCK + 1, _BLOCK):
            if window[offset + 257 : offset + 262] == b"ustar":
                try:
                    tarfile.TarInfo.frombuf(window[offset : offset + _BLOCK], "utf-8", "surrogateescape")
                except tarfile.HeaderError:
                    continue
                return start + offset
        start += len(window)
    return None


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in SUFFIXES


def _title(dataset: str, found: _Dataset, shown: int) -> str:
    name = os.path.basename(dataset.rstrip("/")) or dataset
    parts = [f"{len(found.shards):,} shard{'s' * (len(found.shards) != 1)}", f"{shown} shown"]
    if found.rows and found.successes is not None:
        percent = 100 * found.successes / found.rows
        parts.insert(0, f"{found.successes:,} of {found.rows:,} rows succeeded ({percent:.1f}%)")
    return f"{name}: {', '.join(parts)}"


def _draw(title: str, pictures: list[tuple[str, bytes]], columns: int) -> Image.Image:
    """The sheet: the title, then lines of thumbnails, each with its key below."""
    columns = min(columns, len(pictures))
    lines = -(-len(pictures) // columns)
    across, down = SIDE + _GAP, SIDE + _LABEL + _GAP
    big, small = ImageFont.load_default(16), ImageFont.load_default(10)
    least = max(_LEAST_WIDTH, round(big.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (max(least, columns * across + _GAP), _HEADER + lines * down), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 10), title, fill=_INK, font=big)
    for index, (key, content) in enumerate(pictures):
        left, top = _GAP + index % columns * across, _HEADER + index // columns * down
        thumbnail = _thumbnail(content)
        sheet.paste(thumbnail, (left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2))
        label = key if small.getlength(key) <= SIDE else "..." + key[-18:]
        pen.text((left + SIDE / 2, top + SIDE + _LABEL / 2), label, fill=_INK, font=small, anchor="mm")
    return sheet


def _thumbnail(content: bytes) -> Image.Image:
    """The picture upright, at most `SIDE` pixels a side, alpha onto white; a grey square when it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft("RGB", (2 * SIDE, 2 * SIDE))
            upright = ImageOps.exif_transpose(opened)
            upright.thumbnail((SIDE, SIDE))
            picture = upright.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        broken = Image.new("RGB", (SIDE, SIDE), _BROKEN)
        ImageDraw.Draw(broken).text((SIDE / 2, SIDE / 2), "cannot be decoded", fill=_INK, anchor="mm")
        return broken
    paper = Image.new("RGB", picture.size, _PAPER)
    paper.paste(picture, mask=picture.getchannel("A"))
    return paper
