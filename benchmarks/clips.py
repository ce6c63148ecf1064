"""Clips of long videos: fetched by byte ranges, and with the whole file; samples/s, bytes and requests for each.

A film of ten minutes, with its index at the beginning and at its end, comes from a server on loopback that waits before
each answer and sends no connection more than so many bytes a second (`tests/support/media_server.py`), as a site does.
Each row wants one clip of ten seconds somewhere in it, copied (`clip_precision=low`). The two ways take turns, as whole
commands; what they store must be the same to the byte. Writes benchmarks/out/clips.json. docs/video.md has the figures.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import certifi
import contenders
import imageio_ffmpeg
import limited
import run

sys.path.insert(0, str(run.HERE.parent / "tests"))
from support.media_server import HOSTS, MediaServer

OUT = run.OUT
MINUTES = 10
CLIP = 10.0
ROWS = 32
SPEED = 2_500_000
LATENCY = 0.05
IN_FLIGHT = 16
WAYS = {"ranges": "--clip_ranges=True", "whole": "--clip_ranges=False"}
FILMS = {"first": "index at the beginning", "last": "index at the end"}

COMMAND = (
    "--media=video", "--input_format=csv", "--url_col=url", "--clip_col=clips", "--output_format=files",
    "--processes_count=1", "--number_sample_per_shard=1000", "--progress=none",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a command took: seconds from the first row to the last receipt, CPU seconds of all, bytes and requests."""

    rows: int
    wall: float
    cpu: float
    sent: int
    requests: int
    stored: str

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.rows / self.wall


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured, and with what."""

    server: MediaServer
    rows: int
    in_flight: int

    def once(self, way: str, film: str) -> Taken:
        """One run of the command."""
        work = OUT / f"clips-{way}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self._list(work / "list.csv", film)
        self.server.clear()
        ended = limited.execute(
            [*contenders.ours().command, f"--url_list={work / 'list.csv'}", f"--output_folder={work / 'out'}", *COMMAND,
             WAYS[way], f"--thread_count={self.in_flight}", f"--max_connections_per_host={self.in_flight}"],
            work, contenders.environment(Path(certifi.where())), seconds=1800,
        )  # fmt: skip
        stats = [json.loads(path.read_text()) for path in (work / "out").glob("*_stats.json")]
        done = sum(each["successes"] for each in stats)
        if ended.code != 0 or done != self.rows:
            raise SystemExit(f"{way}, {film}: {ended.how}, {done} of {self.rows} rows; {work / 'log.txt'} says why")
        seconds = max(each["end_time"] for each in stats) - min(each["start_time"] for each in stats)
        return Taken(
            rows=done, wall=seconds, cpu=ended.cpu, sent=self.server.sent(),
            requests=sum(self.server.counts().values()), stored=digest(work / "out"),
        )  # fmt: skip

    def _list(self, path: Path, film: str) -> None:
        chance = random.Random(1)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["url", "clips"])
            for row in range(self.rows):
                start = round(chance.uniform(0, 60 * MINUTES - CLIP), 2)
                url = self.server.url(f"/{film}.mp4?row={row}", HOSTS[row % len(HOSTS)])
                writer.writerow([url, json.dumps([[start, start + CLIP]])])


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each (%(default)s)")
    parser.add_argument("--rows", type=int, default=ROWS, help="in a run (%(default)s)")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="requests at once (%(default)s)")
    parser.add_argument("--speed", type=float, default=SPEED, help="bytes/s of a connection (%(default)s)")
    parser.add_argument("--latency", type=float, default=LATENCY, help="seconds before each answer (%(default)s)")
    flags = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    folder = films()
    result: dict[str, Any] = {
        "machine": run.machine(), "load_before": os.getloadavg()[0], "rows": flags.rows, "in_flight": flags.in_flight,
        "speed": flags.speed, "latency": flags.latency, "clip_seconds": CLIP, "film_seconds": 60 * MINUTES,
        "film_bytes": {name: (folder / f"{name}.mp4").stat().st_size for name in FILMS},
    }  # fmt: skip
    print(heading(result))
    with MediaServer(folder, bytes_per_second=flags.speed, latency=flags.latency) as server:
        result["films"] = measure(Bench(server=server, rows=flags.rows, in_flight=flags.in_flight), flags.runs)
    print(table(result["films"]))
    written = OUT / "clips.json"
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {written.relative_to(run.HERE.parent)}")


def measure(bench: Bench, runs: int) -> dict[str, Any]:
    """Everything, in turns, so that what else the machine does hits all alike."""
    found: dict[str, dict[str, list[Taken]]] = {film: {way: [] for way in WAYS} for film in FILMS}
    for turn in range(1, runs + 1):
        for film, ways in found.items():
            for way, taken in ways.items():
                taken.append(bench.once(way, film))
                print(f"  run {turn} {FILMS[film]:22} {way:6} {taken[-1].rate:6.2f} samples/s, "
                      f"{taken[-1].sent / 1e6:8.1f} MB, {taken[-1].requests:4} requests", flush=True)  # fmt: skip
            if len({each.stored for taken in ways.values() for each in taken}) != 1:
                raise SystemExit(f"{FILMS[film]}: the ways stored different clips")
    return {film: summary(ways) for film, ways in found.items()}


def summary(ways: dict[str, list[Taken]]) -> dict[str, Any]:
    """Median and range of each way, and of the ratios in the same turn."""
    pairs = list(zip(ways["ranges"], ways["whole"], strict=True))
    figures = {
        way: {
            "rate": run.spread(each.rate for each in taken),
            "mb_per_sample": run.spread(each.sent / each.rows / 1e6 for each in taken),
            "requests_per_sample": run.spread(each.requests / each.rows for each in taken),
            "cpu_per_sample": run.spread(each.cpu / each.rows for each in taken),
            "runs": [asdict(each) for each in taken],
        }
        for way, taken in ways.items()
    }
    ratios = {
        "faster": run.spread(ranges.rate / whole.rate for ranges, whole in pairs),
        "fewer_bytes": run.spread(whole.sent / ranges.sent for ranges, whole in pairs),
    }
    return {"ways": figures, **ratios}


def heading(result: dict[str, Any]) -> str:
    """What is measured, and where."""
    lines = [
        "machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**result["machine"]),
        "films      {} s, {}".format(
            result["film_seconds"], ", ".join(f"{FILMS[name]}: {size}" for name, size in result["film_bytes"].items())
        ),
        "rows       {rows} in a run, a clip of {clip_seconds} s each, {in_flight} in flight".format(**result),
        "server     {latency} s before each answer, {speed:.0f} bytes/s for a connection".format(**result),
    ]
    if result["load_before"] > run.BUSY * result["machine"]["cores"]:
        lines.append(f"NOTE       the machine is busy already (load {result['load_before']:.2f}): expect noise")
    return "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table: median [least..most]."""
    lines = [
        "",
        "| film | way | samples/s | MB per sample | requests per sample | CPU s per sample |",
        "|---|---|---|---|---|---|",
    ]
    for film, figures in found.items():
        for way, each in figures["ways"].items():
            cells = [
                run.cell(each[what], digits)
                for what, digits in (
                    ("rate", 2), ("mb_per_sample", 2), ("requests_per_sample", 1), ("cpu_per_sample", 2),
                )
            ]  # fmt: skip
            lines.append(f"| {FILMS[film]} | {way} | {' | '.join(cells)} |")
        lines.append(
            f"| {FILMS[film]} | | {run.cell(figures['faster'], 1)} times as many | "
            f"{run.cell(figures['fewer_bytes'], 1)} times fewer | | |"
        )
    return "\n".join([*lines, ""])


def films() -> Path:
    """The folder with the films; they are made once: a minute that is encoded, ten times over."""
    folder = OUT / "clips-films"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "last.mp4").exists():
        _ffmpeg(
            "-f", "lavfi", "-i", "mandelbrot=size=640x360:rate=30,trim=duration=60",
            "-f", "lavfi", "-i", "aevalsrc=sin(2*PI*t*(200+t*9)):s=44100:d=60",
            "-c:v", "libx264", "-preset", "veryfast", "-b:v", "900k", "-maxrate", "1200k", "-bufsize", "2400k",
            "-g", "120", "-pix_fmt", "yuv420p",
            "-c:a", "aac", "-b:a", "96k", str(folder / "minute.mp4"),
        )  # fmt: skip
        minutes = ("-stream_loop", str(MINUTES - 1), "-i", str(folder / "minute.mp4"), "-c", "copy")
        _ffmpeg(*minutes, "-movflags", "+faststart", str(folder / "first.mp4"))
        _ffmpeg(*minutes, str(folder / "last.part.mp4"))
        (folder / "last.part.mp4").rename(folder / "last.mp4")
    return folder


def digest(folder: Path) -> str:
    """Of all clips in a dataset, by their names and bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.mp4")):
        found.update(path.name.encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _ffmpeg(*arguments: str) -> None:
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *arguments], check=True, timeout=900
    )


if __name__ == "__main__":
    main()
