"""The demo's web site: many distinct pictures, cut from a few photographs."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

CROPS = 300
ORIENTATION = 0x0112
SUFFIXES = {7: "png", 19: "webp"}
"""Of every 25 crops, these numbers are no JPEGs."""
SIDEWAYS = 2
"""Number of the crop that is there a second time, turned."""
PAGE = "<!doctype html><html><body><p>Please log in to see this picture.</p></body></html>\n"


def make_site(photographs: list[Path], site: Path) -> list[str]:
    """Fill the folder `site` and return the names of its good pictures. A site from an earlier run is used again.

    There are `CROPS` pictures of 640 to 1600 pixels, nearly all JPEGs, the first three photographs whole, one that is
    stored sideways with an EXIF tag that says so; and broken.jpg, which ends half-way, and login.html.
    """
    complete = site / "complete.txt"
    if complete.exists():
        return complete.read_text().split()
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    shares = [range(start, CROPS, len(photographs)) for start in range(len(photographs))]
    with ThreadPoolExecutor(2) as pool:
        crops = list(pool.map(lambda pair: _cut(*pair, site), zip(photographs, shares, strict=True)))
    names = sorted(name for some in crops for name in some)
    for path in photographs[:3]:
        shutil.copyfile(path, site / f"whole_{path.name}")
        names.append(f"whole_{path.name}")
    names.append(_sideways(site / names[SIDEWAYS], site / "sideways.jpg"))
    content = (site / names[0]).read_bytes()
    (site / "broken.jpg").write_bytes(content[: len(content) // 2])
    (site / "login.html").write_text(PAGE)
    complete.write_text("\n".join(names))
    return names


def _cut(photograph: Path, numbers: range, site: Path) -> list[str]:
    """Crops of one photograph, one per number."""
    names = []
    with Image.open(photograph) as opened:
        image = opened.convert("RGB")
    for number in numbers:
        rng = random.Random(number)
        share = rng.uniform(0.3, 0.75)
        width, height = (round(side * share * rng.uniform(0.8, 1.2)) for side in image.size)
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        scale = rng.randint(640, 1600) / max(width, height)
        size = (max(64, round(width * scale)), max(64, round(height * scale)))
        box = (left, top, left + width, top + height)
        crop = image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2.0)
        names.append(f"picture_{number:03d}.{SUFFIXES.get(number % 25, 'jpg')}")
        crop.save(site / names[-1], quality=90)
    return names


def _sideways(source: Path, target: Path) -> str:
    """A copy that is stored turned to the left and says so, as a camera held upright does it."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(source) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(target, quality=90, exif=exif)
    return target.name
