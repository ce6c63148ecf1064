"""Real photographs for tests, cut from those that the scikit-image package ships, and lists of their URLs."""

from __future__ import annotations

import csv
import functools
import gzip
import importlib.util
import io
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOUR = (
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
    "motorcycle_right.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
GREY = ("brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "moon.png", "page.png", "text.png")
"""The real photographs in skimage/data, all under free licences. The rest of that folder is drawings and test cards,
and files that are downloaded on first use, which tests must not do."""

ORIENTATION, MAKE, MODEL, TAKEN = 0x0112, 0x010F, 0x0110, 0x0132


def data_folder() -> Path:
    """Where the photographs are. scikit-image itself is not imported, that takes a second."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise RuntimeError("scikit-image is not installed: pip install '.[tests]'")
    return Path(spec.origin).parent / "data"


@functools.cache
def photograph(name: str) -> Image.Image:
    """One of `COLOUR` or `GREY`, decoded."""
    with Image.open(data_folder() / name) as image:
        return image.convert("RGB" if name in COLOUR else "L")


def photos(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Write `count` distinct pictures, the same ones for the same seed, and return their names.

    Mostly colour JPEGs of 200 to 900 pixels a side. Of each 20 in a row, number 3 is a PNG, 7 a WebP, 11 a JPEG stored
    sideways with EXIF orientation 6, 13 a JPEG with the EXIF tags of a camera, and 17 a grey JPEG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index in range(count):
        suffix, content = picture(index, seed)
        names.append(f"photo_{index:05d}.{suffix}")
        (folder / names[-1]).write_bytes(content)
    return names


def picture(index: int, seed: int = 0) -> tuple[str, bytes]:
    """Suffix and content of one picture of `photos`."""
    rng = random.Random(f"{seed}/{index}")
    kind = index % 20
    image = _cut(photograph(rng.choice(GREY if kind == 17 else COLOUR)), rng)
    if kind == 3:
        return "png", encode(image, "PNG", compress_level=1)
    if kind == 7:
        return "webp", encode(image, "WEBP", quality=80, method=0)
    exif = Image.Exif()
    if kind in (11, 13):
        exif[MAKE], exif[MODEL], exif[TAKEN] = "Acme", "Pinhole 2", f"2024:05:{1 + index % 28:02d} 10:00:00"
    if kind == 11:
        exif[ORIENTATION] = 6
        image = image.transpose(Image.Transpose.ROTATE_90)  # orientation 6 says: turn clockwise to see it upright
    return "jpg", encode(image, "JPEG", quality=rng.randint(80, 95), exif=exif)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """`image` as a file of that kind, options as Pillow has them."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _cut(image: Image.Image, rng: random.Random) -> Image.Image:
    """A random half to whole of each side, at a random size."""
    width, height = (round(side * rng.uniform(0.5, 1)) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    scale = rng.randint(300, 900) / max(width, height)
    size = (max(200, round(width * scale)), max(200, round(height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))


def url_list(path: Path, urls: Sequence[str | None], columns: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Write a list in the format that the name says: txt, csv, tsv, json, jsonl, each also .gz, or parquet.

    The URLs are column `url`; txt takes nothing beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table: dict[str, Sequence[Any]] = {"url": urls, **(columns or {})}
    suffix = path.suffixes[-2] if path.suffix == ".gz" else path.suffix
    if suffix == ".parquet":
        pq.write_table(pa.table({name: list(values) for name, values in table.items()}), path)
        return str(path)
    content = _text(suffix, table).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def _text(suffix: str, table: Mapping[str, Sequence[Any]]) -> str:
    rows: Iterable[tuple[Any, ...]] = list(zip(*table.values(), strict=True))
    if suffix == ".txt":
        assert list(table) == ["url"], "txt has no other columns"
        return "".join(f"{row[0] or ''}\n" for row in rows)
    if suffix in (".json", ".jsonl"):
        objects = [json.dumps(dict(zip(table, row, strict=True))) for row in rows]
        return "\n".join(objects) + "\n" if suffix == ".jsonl" else "[" + ",\n".join(objects) + "]"
    out = io.StringIO()
    writer = csv.writer(out, delimiter={".csv": ",", ".tsv": "\t"}[suffix], lineterminator="\n")
    writer.writerows([tuple(table), *rows])
    return out.getvalue()
