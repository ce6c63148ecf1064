"""How close `decode="fast"` is to `decode="exact"`: SSIM and PSNR over the corpus of `run.py`, and the time of both.

    python benchmarks/quality.py [PICTURES]

Compares the pixels before they are encoded, so that nothing but the decoding and resizing differs, and draws
docs/quality.jpg: for two sizes the pictures whose likeness is the median, the 5th percentile and the least. Needs
scikit-image (in the `tests` extra).
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import corpus
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from img2dataset_dist.config import ImageConfig
from img2dataset_dist.decoders.decode import decode
from img2dataset_dist.media import read_header
from img2dataset_dist.transforms.image import sufficient
from img2dataset_dist.transforms.resize import Pixels, plan, resize

OUT = Path(__file__).resolve().parent / "out"
FILES = 2000
SIZES = (128, 256, 384, 512)
DRAWN = (128, 256)
PLOT = OUT.parent.parent / "docs" / "quality.jpg"
_TILE, _GAP, _TITLE = 256, 8, 26
_AMPLIFIED = 8


def main(count: int) -> None:
    """Print a line per target size."""
    cv2.setNumThreads(1)
    folder = corpus.make(OUT, FILES).folder
    bodies = [path.read_bytes() for path in sorted(folder.iterdir())[:: max(1, FILES // count)]]
    print(f"{len(bodies)} pictures; border mode; CPU times of header, decode and resize")
    print("image_size  SSIM mean  5th pct  least   PSNR mean  least   fast ms  exact ms")
    lines = []
    for size in SIZES:
        times: dict[str, list[float]] = {"fast": [], "exact": []}
        ssim, psnr = [], []
        for body in bodies:
            pair = [_timed(body, ImageConfig(image_size=size, decode=how), times[how]) for how in ("fast", "exact")]
            ssim.append(structural_similarity(*pair, channel_axis=2))
            error = float(np.mean((pair[0].astype(float) - pair[1]) ** 2))
            psnr.append(peak_signal_noise_ratio(*pair) if error else 99.0)
        print(
            f"{size:10}  {statistics.mean(ssim):9.4f}  {np.percentile(ssim, 5):7.4f}  {min(ssim):.4f}  "
            f"{statistics.mean(psnr):8.1f}  {min(psnr):6.1f}  {1e3 * statistics.mean(times['fast']):8.2f}  "
            f"{1e3 * statistics.mean(times['exact']):8.2f}",
            flush=True,
        )
        if size in DRAWN:
            lines += [(size, what, ssim[at], bodies[at]) for what, at in _typical(ssim).items()]
    draw(lines)


def _typical(ssim: list[float]) -> dict[str, int]:
    """Which picture is the median, the 5th percentile and the least."""
    order = sorted(range(len(ssim)), key=ssim.__getitem__)
    return {"median": order[len(order) // 2], "5th percentile": order[len(order) // 20], "least": order[0]}


def draw(lines: list[tuple[int, str, float, bytes]]) -> None:
    """A line per picture: exact, fast, and the difference, amplified, on grey."""
    width = 2 * (3 * _TILE + 2 * _GAP) + 5 * _GAP
    sheet = Image.new("RGB", (width, (_TILE + _TITLE + _GAP) * (len(lines) // 2) + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, (size, what, ssim, body) in enumerate(lines):
        exact, fast = (_timed(body, ImageConfig(image_size=size, decode=how), []) for how in ("exact", "fast"))
        difference = np.clip((fast.astype(int) - exact) * _AMPLIFIED + 128, 0, 255).astype(np.uint8)
        left = _GAP + number // (len(lines) // 2) * (3 * _TILE + 5 * _GAP)
        top = _GAP + number % (len(lines) // 2) * (_TILE + _TITLE + _GAP)
        title = f"{size} px, {what}: SSIM {ssim:.4f}     exact | fast | difference x {_AMPLIFIED}"
        pen.text((left, top), title, fill="#202020", font=font)
        for column, pixels in enumerate((exact, fast, difference)):
            tile = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
            scale = _TILE / max(tile.size)
            tile = tile.resize((round(tile.width * scale), round(tile.height * scale)), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + column * (_TILE + _GAP), top + _TITLE))
    sheet.save(PLOT, quality=88, subsampling=0)
    print(f"drawn to {PLOT.relative_to(PLOT.parent.parent)}")


def _timed(body: bytes, options: ImageConfig, times: list[float]) -> Pixels:
    began = time.thread_time()
    header = read_header(body)
    todo = plan(*header.upright, options)
    pixels = decode(body, header, sufficient(todo)).pixels
    if todo is not None:
        pixels = resize(pixels, todo)
    times.append(time.thread_time() - began)
    return pixels


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
