"""How the cost of a picture grows: with the size of the picture, with `image_size`, and with `thread_count`.

CPU milliseconds per picture are those of the whole command less what it takes for a list of one URL. The pictures come
from nginx; for `thread_count` from a server that lets each request wait (`latency_server.py`), since without a wait a
few transfers suffice. Writes benchmarks/out/scaling.json and draws docs/scaling.png. docs/performance.md explains it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import contenders
import corpus
import latency_server
import run
import serving
from contenders import OURS, Options

OUT = run.OUT
PLOT = run.PLOT.with_name("scaling.png")
SOURCES = {256: (100, 6000), 512: (100, 4000), 760: (100, 3000), 1500: (100, 1600), 3000: (40, 640), 6000: (16, 240)}
"""Longer side of the pictures: how many there are, and how many URLs are asked for."""
IMAGE_SIZES = (64, 128, 256, 384, 512, 768, 1024)
IMAGE_SIZE_SOURCE = 1500
"""Longer side of the pictures for those, so that all of them make pictures smaller."""
THREADS = (4, 8, 16, 32, 64, 128, 256, 512)
LATENCIES = (0.02, 0.2)
"""Seconds: the next city, and another continent."""
FASTEST = 600
"""Pictures per second that are not exceeded: a run lasts `SECONDS` at this rate, or at what the waits allow."""
SECONDS = 6
SHARDS = 8
LEAST_SHARD = 25

Urls = Callable[[int], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement: what was varied, whose program, and what a picture cost."""

    panel: str
    x: int
    name: str
    latency: float
    urls: int
    rate: float
    cpu_ms: float
    server_cpu_ms: float
    peak_mb: float
    mean_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Who takes part, with the options that are not varied; `starts` is what their starts cost in CPU seconds."""

    both: list[contenders.Contender]
    options: Options
    runs: int
    scale: int
    starts: dict[str, float]

    def sources(self, sides: list[int]) -> Iterator[Point]:
        """Pictures of several sizes."""
        for side in sides:
            files, count = SOURCES[side]
            with self._nginx(corpus.sized(OUT, side, files)) as (urls, server, mean):
                yield from self._points("source", side, self.options, (urls, server, mean), count // self.scale)

    def image_sizes(self, sizes: list[int]) -> Iterator[Point]:
        """Results of several sizes."""
        files, count = SOURCES[IMAGE_SIZE_SOURCE]
        with self._nginx(corpus.sized(OUT, IMAGE_SIZE_SOURCE, files)) as scene:
            for size in sizes:
                options = replace(self.options, image_size=size)
                yield from self._points("image_size", size, options, scene, count // self.scale)

    def threads(self, counts: list[int], latencies: list[float]) -> Iterator[Point]:
        """Transfers at once, to servers that are near and far."""
        pictures = corpus.sized(OUT, 760, SOURCES[760][0])
        for latency in latencies:
            with latency_server.serve(pictures.folder, latency) as server:
                for threads in counts:
                    options = replace(self.options, thread_count=threads)
                    rate = min(FASTEST, threads * options.processes_count / latency)
                    scene = (server.urls, server, pictures.mean_bytes)
                    count = round(rate * SECONDS / self.scale)
                    yield from self._points("threads", threads, options, scene, count, latency=latency)

    def _points(
        self,
        panel: str,
        x: int,
        options: Options,
        scene: tuple[Urls, contenders.Serving, float],
        count: int,
        *,
        latency: float = 0.0,
    ) -> Iterator[Point]:
        urls, server, mean = scene
        options = replace(options, number_sample_per_shard=max(LEAST_SHARD, count // SHARDS))
        for each in self.both:
            done = [
                contenders.run(each, options, urls(count), OUT / "run-scaling", server) for _ in range(self.runs)
            ]  # fmt: skip
            start = self.starts[each.name]
            yield Point(
                panel=panel, x=x, name=each.name, latency=latency, urls=count, mean_bytes=round(mean),
                rate=round(statistics.median(one.rate for one in done), 1),
                cpu_ms=round(statistics.median(1000 * (one.cpu - start) / one.successes for one in done), 3),
                server_cpu_ms=round(statistics.median(1000 * one.server_cpu / one.successes for one in done), 3),
                peak_mb=round(max(one.peak_mb for one in done)),
            )  # fmt: skip
            os.sync()

    @contextmanager
    def _nginx(self, pictures: corpus.Corpus) -> Iterator[tuple[Urls, contenders.Serving, float]]:
        with serving.serve(pictures.folder, OUT / "server") as server:
            yield lambda count: server.urls("http", pictures.names, count), server, pictures.mean_bytes


def starts(both: list[contenders.Contender], options: Options) -> dict[str, float]:
    """CPU seconds that each takes for a list of one URL."""
    pictures = corpus.sized(OUT, 760, SOURCES[760][0])
    with serving.serve(pictures.folder, OUT / "server") as server:
        urls = server.urls("http", pictures.names, 1)
        return {
            each.name: statistics.median(
                contenders.run(each, options, urls, OUT / "run-scaling", server).cpu for _ in range(3)
            )
            for each in both
        }


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and small runs, to see that it works")
    parser.add_argument("--runs", type=int, default=1, help="of each point, of which the median counts (%(default)s)")
    parser.add_argument("--panels", nargs="+", choices=PANELS, default=list(PANELS))
    parser.add_argument("--no-peer", action="store_true", help="without img2dataset")
    flags = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    both = [contenders.ours()] if flags.no_peer else [contenders.ours(), contenders.peer(OUT)]
    options = Options(processes_count=run.cores(), thread_count=64, number_sample_per_shard=run.SHARD)
    result: dict[str, Any] = {
        "machine": run.machine(), "load_before": os.getloadavg()[0], "options": asdict(options), "quick": flags.quick,
        "versions": {each.name: dict(each.versions) for each in both}, "starts": starts(both, options),
    }  # fmt: skip
    print("machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**result["machine"]))
    print(f"starts     {', '.join(f'{name} {cpu:.2f} s CPU' for name, cpu in result['starts'].items())}")
    bench = Bench(
        both=both, options=options, runs=flags.runs, scale=10 if flags.quick else 1, starts=result["starts"]
    )  # fmt: skip
    points = []
    for panel in flags.panels:
        for point in PANELS[panel](bench, flags.quick):
            points.append(point)
            print(line(point), flush=True)
    result["points"] = [asdict(point) for point in points]
    print(table(points))
    whole = not flags.quick and not flags.no_peer and len(flags.panels) == len(PANELS)
    written = OUT / ("scaling.json" if whole else "scaling-part.json")
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {written.relative_to(run.HERE.parent)}")
    run.draw(written, PLOT if whole else OUT / "scaling-part.png", script="plot_scaling.py")


PANELS: dict[str, Callable[[Bench, bool], Iterator[Point]]] = {
    "source": lambda bench, quick: bench.sources([256, 760, 3000] if quick else list(SOURCES)),
    "image_size": lambda bench, quick: bench.image_sizes([64, 256, 1024] if quick else list(IMAGE_SIZES)),
    "threads": lambda bench, quick: bench.threads([8, 64, 512] if quick else list(THREADS), list(LATENCIES)),
}


def line(point: Point) -> str:
    """One point, for those who wait."""
    wait = f" {1000 * point.latency:.0f} ms away" if point.latency else ""
    return (
        f"  {point.panel} {point.x}{wait} {point.name}: {point.cpu_ms:.2f} ms CPU, {point.rate:.1f} images/s, "
        f"{point.peak_mb:.0f} MB, {point.urls} URLs of {point.mean_bytes / 1000:.0f} kB"
    )


def table(points: list[Point]) -> str:
    """The points as a Markdown table."""
    lines = [
        "", "| varied | server away, ms | | CPU ms per image | images/s | peak MB of a process | kB per image |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for each in points:
        name = "ours" if each.name == OURS else each.name
        lines.append(
            f"| {each.panel} {each.x} | {1000 * each.latency:.0f} | {name} | {each.cpu_ms:.2f} | {each.rate:.0f} "
            f"| {each.peak_mb:.0f} | {each.mean_bytes / 1000:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
