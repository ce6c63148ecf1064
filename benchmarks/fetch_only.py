"""What a request costs when nothing is decoded: CPU time and rate of fetching alone, from nginx on loopback.

Four ways take turns: pycurl's multi interface and nothing else (the floor), our fetcher in a process of its own, our
whole command with `--output_format=dummy --disable_all_reencoding`, and the peer's `download_image` in threads. All
have the same number of requests in flight, in one process. docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import contenders
import corpus
import limited
import run
import serving
from PIL import Image

OUT = run.OUT
LISTENERS = {
    "http": "http, kept connections",
    "http-close": "http, a connection each",
    "https": "https, kept connections",
    "https-close": "https, a connection each",
    "https-h2": "https, HTTP/2",
}
BODIES = ("photo", "small")
WAYS = ("bare", "fetcher", "command", "peer")
REQUESTS = 5000
PEER_REQUESTS = {"http": 2000, "https": 300}
"""It connects for each request whatever the server offers, and takes long for each; figures are per request."""

SMALL_SIDE = 36
"""Pixels of the small pictures, which gives about 1 kB."""

COMMAND = (
    "--output_format=dummy", "--disable_all_reencoding", "--compute_hash=None", "--extract_exif=False",
    "--processes_count=1", "--number_sample_per_shard=1000", "--progress=none",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What so many requests took: seconds and CPU seconds of the client, `start` for what came before the first."""

    requests: int
    bytes: int
    wall: float
    cpu: float
    start: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per request, without the start."""
        return 1000 * (self.cpu - self.start) / self.requests

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.wall


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured, and with what."""

    server: serving.Server
    names: dict[str, list[str]]
    root: Path
    peer_python: str
    in_flight: int
    requests: int

    def once(self, way: str, listener: str, body: str) -> Taken | None:
        """One run; None where a way has nothing to do with a listener."""
        count = self.requests
        if way == "peer":
            if listener not in PEER_REQUESTS:
                return None
            count = min(count, PEER_REQUESTS[listener])
        urls = self.server.urls(listener, self.names[body], count)
        taken = self._command(urls) if way == "command" else self._probe(way, urls)
        expected = sum((self.root / self.names[body][i % len(self.names[body])]).stat().st_size for i in range(count))
        if (taken.requests, taken.bytes) != (count, expected):
            raise SystemExit(f"{way}, {listener}, {body}: {taken} in place of {count} requests, {expected} bytes")
        return taken

    def _probe(self, way: str, urls: list[str]) -> Taken:
        path = _work("probe") / "urls.txt"
        path.write_text("".join(f"{url}\n" for url in urls))
        command = [self.peer_python if way == "peer" else sys.executable, str(run.HERE / "fetch_probe.py"), way]
        done = subprocess.run(
            [*command, str(path), str(self.in_flight)], check=True, stdout=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, env=contenders.environment(self.server.trust), timeout=600,
        )  # fmt: skip
        return Taken(**json.loads(done.stdout))

    def _command(self, urls: list[str]) -> Taken:
        """The whole command; its start is what a list of one URL takes."""
        start, _ = self._run(urls[:1])
        ended, stats = self._run(urls)
        seconds = max(each["end_time"] for each in stats) - min(each["start_time"] for each in stats)
        return Taken(
            requests=sum(each["successes"] for each in stats), bytes=sum(each["bytes_downloaded"] for each in stats),
            wall=seconds, cpu=ended.cpu, start=start.cpu,
        )  # fmt: skip

    def _run(self, urls: list[str]) -> tuple[limited.Ended, list[dict[str, Any]]]:
        work = _work("command")
        (work / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
        ended = limited.execute(
            [*contenders.ours().command, f"--url_list={work / 'urls.txt'}", f"--output_folder={work / 'out'}", *COMMAND,
             f"--thread_count={self.in_flight}"],
            work, contenders.environment(self.server.trust), seconds=600,
        )  # fmt: skip
        if ended.code != 0:
            raise SystemExit(f"command: {ended.how}; {work / 'log.txt'} says why")
        return ended, [json.loads(path.read_text()) for path in (work / "out").glob("*_stats.json")]


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each (%(default)s)")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="in a run (%(default)s)")
    parser.add_argument("--in-flight", type=int, default=64, help="requests at once (%(default)s)")
    parser.add_argument("--listeners", nargs="+", choices=list(LISTENERS), default=list(LISTENERS))
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=list(BODIES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--name", default="fetch-only", help="of the results (%(default)s); another one draws no plot")
    flags = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    root, names = bodies()
    result: dict[str, Any] = {
        "machine": run.machine(), "load_before": os.getloadavg()[0], "in_flight": flags.in_flight,
        "requests": flags.requests,
        "bytes": {body: round(sum((root / each).stat().st_size for each in names[body]) / len(names[body]))
                  for body in names},
    }  # fmt: skip
    print(heading(result))
    peer_python = str(contenders.venv(OUT / "peer-venv", contenders.PEER_REQUIREMENTS))
    with serving.serve(root, OUT / "server") as server:
        bench = Bench(
            server=server, names=names, root=root, peer_python=peer_python, in_flight=flags.in_flight,
            requests=flags.requests,
        )  # fmt: skip
        result["scenes"] = measure(bench, flags)
    print(table(result["scenes"]))
    written = OUT / f"{flags.name}.json"
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {written.relative_to(run.HERE.parent)}")
    if flags.name == "fetch-only":
        run.draw(written, run.PLOT.with_name("performance-fetch-only.png"), script="plot_web.py")


def measure(bench: Bench, flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything, in turns, so that what else the machine does hits all alike."""
    scenes = [(listener, body) for body in flags.bodies for listener in flags.listeners]
    found: dict[tuple[str, str], dict[str, list[Taken]]] = {scene: {} for scene in scenes}
    for turn in range(1, flags.runs + 1):
        for scene in scenes:
            for way in flags.ways:
                taken = bench.once(way, *scene)
                if taken is not None:
                    found[scene].setdefault(way, []).append(taken)
                    print(f"  run {turn} {scene[1]:5} {LISTENERS[scene[0]]:24} {way:8} {taken.cpu_ms:7.3f} ms CPU per "
                          f"request, {taken.rate:7.0f} requests/s", flush=True)  # fmt: skip
    return [summary(scene, ways) for scene, ways in found.items()]


def summary(scene: tuple[str, str], ways: dict[str, list[Taken]]) -> dict[str, Any]:
    """Median and range of each way, and of the ratios to the floor in the same turn."""
    floor = ways.get("bare", [])
    return {
        "listener": scene[0], "body": scene[1],
        "ways": {
            way: {
                "cpu_ms": run.spread(each.cpu_ms for each in taken),
                "rate": run.spread(each.rate for each in taken),
                "ratio": run.spread(a.cpu_ms / b.cpu_ms for a, b in zip(taken, floor, strict=True)) if floor else None,
                "runs": [asdict(each) for each in taken],
            }
            for way, taken in ways.items()
        },
    }  # fmt: skip


def heading(result: dict[str, Any]) -> str:
    """What is measured, and where."""
    lines = [
        "machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**result["machine"]),
        f"requests   {result['requests']} in a run, {result['in_flight']} in flight, "
        + ", ".join(f"{body}: {size} bytes on average" for body, size in result["bytes"].items()),
    ]
    if result["load_before"] > run.BUSY * result["machine"]["cores"]:
        lines.append(f"NOTE       the machine is busy already (load {result['load_before']:.2f}): expect noise")
    return "\n".join(lines)


def table(scenes: list[dict[str, Any]]) -> str:
    """The figures as Markdown tables: median [least..most]."""
    lines = [""]
    for title, what, digits in (("CPU ms per request", "cpu_ms", 3), ("requests/s", "rate", 0)):
        lines.append(f"| {title} | pycurl alone | our fetcher | our command | the peer's function |"
                     + (" fetcher / pycurl | command / pycurl |" if what == "cpu_ms" else ""))  # fmt: skip
        lines.append("|---|---|---|---|---|" + ("---|---|" if what == "cpu_ms" else ""))
        for scene in scenes:
            ways = scene["ways"]
            cells = [_cell(ways[way][what], digits) if way in ways else "" for way in WAYS]
            if what == "cpu_ms":
                pairs = [ways.get(way, {}).get("ratio") for way in ("fetcher", "command")]
                cells += [_cell(pair, 2) if pair else "" for pair in pairs]
            lines.append(f"| {LISTENERS[scene['listener']]}, {scene['body']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: dict[str, float], digits: int) -> str:
    return f"{value['median']:.{digits}f} [{value['min']:.{digits}f}..{value['max']:.{digits}f}]"


def bodies() -> tuple[Path, dict[str, list[str]]]:
    """The folder that is served, and the names in it: photographs, and thumbnails of them of about 1 kB."""
    pictures = corpus.make(OUT, run.FILES)
    root = OUT / "fetch-only"
    (root / "small").mkdir(parents=True, exist_ok=True)
    if not (root / "photo").exists():
        (root / "photo").symlink_to(pictures.folder)
    chosen = pictures.names[:500]
    for name in chosen:
        if not (root / "small" / name).exists():
            with Image.open(pictures.folder / name) as image:
                image.thumbnail((SMALL_SIDE, SMALL_SIDE))
                image.convert("RGB").save(root / "small" / name, "JPEG", quality=80)
    return root, {body: [f"{body}/{name}" for name in names_of] for body, names_of in _both(pictures.names, chosen)}


def _both(photos: Sequence[str], small: Sequence[str]) -> tuple[tuple[str, Sequence[str]], ...]:
    return ("photo", photos), ("small", small)


def _work(name: str) -> Path:
    work = OUT / f"fetch-only-{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


if __name__ == "__main__":
    main()
