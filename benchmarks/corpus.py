"""The pictures of the benchmark: crops of real photographs, as files like those that web pages show.

The photographs come from Debian's wallpaper packages, which are downloaded and unpacked below the benchmark's folder
and never installed; without Debian, from scikit-image's samples. The same sources give the same bytes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

SIDE = 760
"""Longer side of a crop in pixels, on average."""
QUALITIES = (90, 93, 95, 96, 97)
RECIPE = 1
"""Goes up when other bytes come out, so that no old corpus is taken for a new one."""
MIXED_RECIPE = 1
"""The same for the mixed corpus."""
PNG_LEVEL = 6
"""What zlib, libpng and Pillow do unless told otherwise."""
WEBP_QUALITIES = (75, 80, 90)
"""What cwebp does unless told otherwise, and what servers of pictures are commonly set to."""
TILE = 1500
"""Longest side of a tile of the mosaics; hardly any photograph has fewer pixels."""
EXIF_EVERY = 8
"""One picture in so many carries the tags of a camera; on the web most have lost theirs."""
ENOUGH = 10


class Source(NamedTuple):
    """A Debian package, and the pictures in it that are photographs: patterns of paths in it, and what they miss."""

    package: str
    patterns: tuple[str, ...]
    others: tuple[str, ...] = ()


_PLASMA = (
    "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
    "OneStandsOut", "Path", "Volna", "summer_1am",
)  # fmt: skip
SOURCES = (
    Source("lomiri-wallpapers-16.04", ("usr/share/backgrounds/*.jpg",), ("analogpattern", "umang", "warty")),
    Source("lomiri-wallpapers-20.04", ("usr/share/backgrounds/Kleiber*.jpg",)),
    Source("mate-backgrounds", ("usr/share/backgrounds/mate/nature/*.jpg",)),
    Source(
        "plasma-workspace-wallpapers", tuple(f"usr/share/wallpapers/{name}/contents/images/*.jpg" for name in _PLASMA)
    ),
)


class Corpus(NamedTuple):
    """What was made.

    Attributes:
        folder: holds the pictures, `00000.jpg` and so on.
        names: their names, sorted.
        mean_bytes: mean size of a file.
        kinds: by suffix (jpg, png, webp), how many there are and their mean size.
        photographs: of how many photographs they are crops.
        source: where those came from, for people.
    """

    folder: Path
    names: list[str]
    mean_bytes: float
    kinds: dict[str, tuple[int, float]]
    photographs: int
    source: str


def make(out: Path, count: int, *, mixed: bool = False) -> Corpus:
    """The corpus of `count` pictures below `out`; what an earlier run made is kept.

    All are JPEG, or with `mixed` of each hundred 10 are PNG and 9 are WebP: the same crops, saved another way.
    """
    photographs, source = _photographs(out)
    name = f"mixed-{RECIPE}.{MIXED_RECIPE}" if mixed else f"corpus-{RECIPE}"
    folder = out / f"{name}-{count}-of-{len(photographs)}"
    names = [f"{number:05d}.{_kind(number) if mixed else 'jpg'}" for number in range(count)]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        print(f"cutting {len(missing)} pictures out of {len(photographs)} photographs")
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            (path, folder, [name for name in missing if int(name[:5]) % len(photographs) == i])
            for i, path in enumerate(photographs)
        ]
        # Of their own: memory that this process once had would count as the peak of the programs that it starts.
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            list(pool.map(_cut, *zip(*jobs, strict=True)))
    return Corpus(folder, names, *_sizes(folder, names), len(photographs), source)


def sized(out: Path, side: int, count: int) -> Corpus:
    """`count` JPEGs whose longer side has just so many pixels, 4:3; those beyond `TILE` are mosaics of crops.

    No photograph has enough pixels for the largest, and scaled up they would be blurred, which makes them cheap.
    """
    photographs, source = _photographs(out)
    folder = out / f"sized-{RECIPE}-{side}-{count}-of-{len(photographs)}"
    names = [f"{number:05d}.jpg" for number in range(count)]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        print(f"making {len(missing)} pictures of {side} pixels")
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(_mosaic, photographs, folder, side), missing))
    return Corpus(folder, names, *_sizes(folder, names), len(photographs), source)


def _mosaic(photographs: Sequence[Path], folder: Path, side: int, name: str) -> None:
    """One picture of as many tiles as it needs."""
    number, across = int(name[:5]), -(-side // TILE)
    rand = random.Random(number)
    width, height = side // across, side * 3 // 4 // across
    whole = Image.new("RGB", (width * across, height * across))
    for i in range(across * across):
        photograph = Image.open(photographs[(number * across * across + i) % len(photographs)]).convert("RGB")
        whole.paste(_crop(photograph, width, height, rand), (i % across * width, i // across * height))
    unfinished = folder / f"{name}.part"
    whole.save(unfinished, "JPEG", quality=QUALITIES[number % len(QUALITIES)])
    unfinished.rename(folder / name)


def _sizes(folder: Path, names: Sequence[str]) -> tuple[float, dict[str, tuple[int, float]]]:
    """Mean bytes of all, and number and mean by kind."""
    sizes: dict[str, list[int]] = {}
    for name in names:
        sizes.setdefault(name.rpartition(".")[2], []).append((folder / name).stat().st_size)
    kinds = {kind: (len(of_kind), sum(of_kind) / len(of_kind)) for kind, of_kind in sizes.items()}
    return sum(map(sum, sizes.values())) / len(names), kinds


def _kind(number: int) -> str:
    """81% jpg, 10% png, 9% webp, evenly mixed: as every hundred has them."""
    place = number % 100
    if place % 10 == 3:
        return "png"
    return "webp" if place % 11 == 4 else "jpg"


def _cut(photograph: Path, folder: Path, names: Sequence[str]) -> None:
    """Crops of one photograph: any place, any zoom down to 1:1, sides 4:3 to 3:4, about `SIDE` pixels."""
    image = Image.open(photograph).convert("RGB")
    for name in names:
        stem, _, kind = name.partition(".")
        rand = random.Random(int(stem))
        crop = _crop(image, *_shape(rand), rand)
        unfinished = folder / f"{stem}.part"
        _save(crop, unfinished, kind, int(stem), rand)
        unfinished.rename(folder / name)


def _save(crop: Image.Image, path: Path, kind: str, number: int, rand: random.Random) -> None:
    if kind == "png":
        crop.save(path, "PNG", compress_level=PNG_LEVEL)
    elif kind == "webp":
        crop.save(path, "WEBP", quality=rand.choice(WEBP_QUALITIES))
    else:
        options = {"exif": _tags(number)} if number % EXIF_EVERY == 0 else {}
        crop.save(path, "JPEG", quality=rand.choice(QUALITIES), **options)


def _crop(image: Image.Image, width: int, height: int, rand: random.Random) -> Image.Image:
    zoom = rand.uniform(1.0, max(1.0, 0.9 * min(image.width / width, image.height / height)))
    crop_width, crop_height = min(image.width, round(width * zoom)), min(image.height, round(height * zoom))
    left, top = rand.randint(0, image.width - crop_width), rand.randint(0, image.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    return image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def _shape(rand: random.Random) -> tuple[int, int]:
    longer = round(rand.uniform(0.8, 1.2) * SIDE)
    shorter = round(longer * rand.uniform(0.75, 1.0))
    return (longer, shorter) if rand.random() < 0.6 else (shorter, longer)


def _tags(number: int) -> Image.Exif:
    """A dozen tags as a camera writes them; upright, so that nobody has to turn the picture."""
    exif = Image.Exif()
    taken = "2021:06:05 12:00:00"
    exif.update({0x010F: "Canon", 0x0110: "Canon EOS 80D", 0x0112: 1, 0x0131: "darktable", 0x0132: taken})
    exif.get_ifd(0x8769).update(
        {
            0x829A: IFDRational(1, 250), 0x829D: IFDRational(28, 10), 0x8827: 100 + number, 0x9003: taken,
            0x9209: 16, 0x920A: IFDRational(50), 0xA002: SIDE, 0xA003: SIDE,
        }
    )  # fmt: skip
    return exif


def _photographs(out: Path) -> tuple[list[Path], str]:
    """All photographs there are, and what to call their source."""
    found: list[Path] = []
    packages = []
    for source in SOURCES:
        pictures = _from_debian(source, out / "photographs")
        found += pictures
        packages += [source.package] if pictures else []
    if len(found) >= ENOUGH:
        return found, f"Debian packages {', '.join(packages)}"
    print("too few photographs from Debian; taking those of the Python package scikit-image")
    return _from_scikit_image(out / "photographs"), "scikit-image's sample pictures"


def _from_debian(source: Source, folder: Path) -> list[Path]:
    """The photographs in a package, unpacked into `folder`; none when it cannot be had."""
    root = folder / source.package
    if not root.exists():
        print(f"unpacking the Debian package {source.package}")
        unfinished = folder / f"{source.package}.part"
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            _run(["apt-get", "download", "-qq", source.package], unfinished)
            (archive,) = unfinished.glob("*.deb")
            _run(["dpkg-deb", "-x", archive.name, "."], unfinished)
        except (OSError, ValueError) as error:
            print(f"  not available: {error}", file=sys.stderr)
            return []
        archive.unlink()
        unfinished.rename(root)
    found = {path for pattern in source.patterns for path in root.glob(pattern) if not path.is_symlink()}
    return sorted(path for path in found if not path.name.startswith(source.others or ("\0",)))


def _from_scikit_image(folder: Path) -> list[Path]:
    """The photographs among the samples in scikit-image's own package, scaled up to have crops of the right size."""
    root = folder / "scikit-image"
    if not root.exists():
        _run(
            [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(root), "scikit-image"], folder
        )
    names = ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "rocket.jpg",
             "motorcycle_left.png", "motorcycle_right.png", "ihc.png")  # fmt: skip
    found = []
    for path in (root / "skimage" / "data" / name for name in names):
        if not path.exists():
            continue
        large = root / f"{path.stem}.large.png"
        if not large.exists():
            with Image.open(path) as image:
                factor = max(1.0, 1600 / min(image.size))
                size = (round(image.width * factor), round(image.height * factor))
                image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(large)
        found.append(large)
    if not found:
        raise SystemExit("no photographs: neither Debian packages nor scikit-image's samples could be had")
    return found


def _run(command: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
