"""What a picture costs when its bytes are in memory, in one thread: `floor_probe.py KIND HOW ROUNDS FILE...`.

KIND is the suffix of the files, HOW is `fast` or `exact` as in `--decode`. Three ways take turns over the same files:

- `bare`: the codecs alone, called straight, with the arguments that the program arrives at;
- `functions`: the same steps by the program's own functions;
- `transforms`: the program's whole chain for a row, with its EXIF tags and its records.

Prints JSON: CPU ms per picture by way and step, median of the rounds, and how many pictures came out of `bare` with the
very bytes of `functions`. When those are not all, `bare` no longer does what the program does.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyspng
import simplejpeg

from img2dataset_dist import transforms
from img2dataset_dist.config import ImageConfig, JobConfig
from img2dataset_dist.decoders.decode import decode
from img2dataset_dist.media import read_header
from img2dataset_dist.model import Fetched, Item
from img2dataset_dist.transforms.encode import encode
from img2dataset_dist.transforms.image import sufficient
from img2dataset_dist.transforms.resize import plan, resize, square

SIZE, QUALITY = 256, 95
OPTIONS = {"image_size": SIZE, "resize_mode": "border", "encode_quality": QUALITY}
STEPS = ("header", "decode", "resize", "pad", "encode", "sha256")

Made = tuple[bytes, list[float]]
"""An encoded picture, and the CPU clock before the first step and after each."""
clock = time.process_time


def bare(body: bytes, kind: str, how: str) -> Made:
    """The codecs alone."""
    times = [clock()]
    width, height = simplejpeg.decode_jpeg_header(body)[1::-1] if kind == "jpg" else (0, 0)
    times.append(clock())
    if kind == "jpg":
        pixels = simplejpeg.decode_jpeg(body, "BGR", **(_reduced(width, height) if how == "fast" else {}))
    elif kind == "png":
        pixels = cv2.cvtColor(pyspng.load(body), cv2.COLOR_RGB2BGR)
    else:
        pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    times.append(clock())
    pixels = _shrunk(pixels, _target(width, height) if width else _target(*pixels.shape[1::-1]), how)
    times.append(clock())
    rows, columns = SIZE - pixels.shape[0], SIZE - pixels.shape[1]
    top, left = rows // 2, columns // 2
    white = (255, 255, 255)
    pixels = cv2.copyMakeBorder(
        pixels, top, rows - top, left, columns - left, cv2.BORDER_CONSTANT, value=white
    )  # fmt: skip
    times.append(clock())
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    times.append(clock())
    hashlib.sha256(body).hexdigest()
    times.append(clock())
    return data, times


def _target(width: int, height: int) -> tuple[int, int]:
    scale = SIZE / max(width, height)
    return round(width * scale), round(height * scale)


def _reduced(width: int, height: int) -> dict[str, Any]:
    """As `decoders/jpeg.py` asks: an eighth, a quarter or half of the size if twice the target is still met."""
    to = _target(width, height)
    scale = next((n for n in (8, 4, 2) if 2 * to[0] * n <= width and 2 * to[1] * n <= height), 1)
    return {"min_width": -(-width // scale), "min_height": -(-height // scale), "min_factor": 1, "fastupsample": True}


def _shrunk(pixels: Any, to: tuple[int, int], how: str) -> Any:
    """As `transforms/resize.py`: linear, or linear to a multiple and then area; exact: area, in float if faster."""
    height, width = pixels.shape[:2]
    scale = min(width / to[0], height / to[1])
    if how == "fast":
        if scale > 2:
            times = max(2, math.ceil(scale / 2.5))
            pixels = cv2.resize(pixels, (to[0] * times, to[1] * times), interpolation=cv2.INTER_LINEAR)
        return cv2.resize(pixels, to, interpolation=cv2.INTER_AREA if scale > 2 else cv2.INTER_LINEAR)
    if pixels.size <= 4_000_000 and (width % to[0] or height % to[1]):
        return cv2.convertScaleAbs(cv2.resize(pixels.astype(np.float32), to, interpolation=cv2.INTER_AREA))
    return cv2.resize(pixels, to, interpolation=cv2.INTER_AREA)


def functions(image: ImageConfig) -> Callable[[bytes], Made]:
    """The same by the program's functions."""

    def made(body: bytes) -> Made:
        times = [clock()]
        header = read_header(body)
        todo = plan(*header.upright, image)
        times.append(clock())
        pixels = decode(body, header, sufficient(todo)).pixels
        times.append(clock())
        assert todo is not None
        assert todo.square is not None
        pixels = resize(pixels, todo)
        times.append(clock())
        pixels = square(pixels, todo.square)
        times.append(clock())
        data = encode(pixels, image)
        times.append(clock())
        hashlib.new("sha256", body, usedforsecurity=False).hexdigest()
        times.append(clock())
        return data, times

    return made


def chain(job: JobConfig) -> Callable[[bytes], Made]:
    """The program's transforms for one row."""
    built = transforms.build(job)
    item = Item(shard_id=0, index=0, key="0", url="http://127.0.0.1/")

    def made(body: bytes) -> Made:
        start = clock()
        sample = transforms.apply(built, Fetched(item=item, body=body))
        assert sample.data is not None, sample.failure
        return sample.data, [start, clock()]

    return made


def main(kind: str, how: str, rounds: int, files: Sequence[str]) -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    bodies = [Path(file).read_bytes() for file in files]
    job = JobConfig.from_flat({"url_list": "none.txt", **OPTIONS, "decode": how})
    ways = {
        "bare": lambda body: bare(body, kind, how), "functions": functions(job.image), "transforms": chain(job),
    }  # fmt: skip
    same = sum(ways["bare"](body)[0] == ways["functions"](body)[0] for body in bodies)  # and all is warm
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, make in ways.items():
            times = np.array([make(body)[1] for body in bodies])
            found[way].append(list(1000 * np.diff(times).mean(axis=0)))
    result: dict[str, Any] = {"pictures": len(bodies), "same": same}
    for way, every in found.items():
        names = STEPS if len(every[0]) > 1 else ()
        result[way] = {name: statistics.median(one[i] for one in every) for i, name in enumerate(names)}
        result[way]["all"] = statistics.median(map(sum, every))
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
