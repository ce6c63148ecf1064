"""Memory of a worker while bodies of 20 MB come in: 400 photographs of 24 megapixels, 256 requests at once.

nginx sends each answer at 3 MB/s, from 40 addresses, so that without a limit hundreds of half-read bodies pile up. Both
programs run with `thread_count=256 processes_count=1` and their defaults otherwise; what takes more than the limits of
time or memory is ended. The goal: no process of ours has ever more than 10^9 bytes resident, and no row is lost.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import contenders
import corpus
import limited
import run
import serving
from contenders import OURS, PEER
from PIL import Image

OUT = run.OUT
URLS = 400
PICTURES = 4
SIZE = (6000, 4000)
BYTES = 18_500_000
"""A picture is made of ever smaller tiles until it has so many bytes."""

TILES = (120, 95, 75, 60, 45)
QUALITY = 97
GOAL_MB = 1000


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--urls", type=int, default=URLS, help="length of the list (%(default)s)")
    parser.add_argument("--threads", type=int, default=256, help="thread_count of both (%(default)s)")
    parser.add_argument("--limit", type=float, default=240, help="seconds that a run may take (%(default)s)")
    parser.add_argument("--limit-mb", type=float, default=6000, help="10^6 bytes a process may have (%(default)s)")
    parser.add_argument("--patience", type=int, default=60, help="nginx's send_timeout, in seconds (%(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="without img2dataset; draws no plot")
    parser.add_argument("--name", default="memory", help="of the results (%(default)s); another one draws no plot")
    flags = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    folder = big_pictures()
    names = sorted(path.name for path in folder.glob("*.jpg"))
    sizes = [(folder / name).stat().st_size for name in names]
    result: dict[str, Any] = {
        "machine": run.machine(), "load_before": os.getloadavg()[0], "urls": flags.urls, "threads": flags.threads,
        "bytes": sizes, "pixels": SIZE, "rate": serving.SLOW_RATE, "limit": flags.limit, "limit_mb": flags.limit_mb,
        "patience": flags.patience,
        "runs": {},
    }  # fmt: skip
    print(heading(result))
    with serving.serve(folder, OUT / "server", patience=flags.patience) as server:
        for each in [contenders.ours()] if flags.no_peer else [contenders.ours(), contenders.peer(OUT)]:
            result["runs"][each.name] = once(each, server, names, flags)
            print(f"  {each.name}: {line(result['runs'][each.name])}", flush=True)
    print(table(result["runs"]))
    ours = result["runs"][OURS]
    kept = ours["successes"] == flags.urls
    word = "PASS" if ours["peak_mb"] < GOAL_MB and kept else "FAIL"
    print(f"goal {word}: {ours['peak_mb']:.0f} MB of {GOAL_MB} MB, {ours['successes']} of {flags.urls} successes")
    written = OUT / f"{flags.name}.json"
    written.write_text(json.dumps(result) + "\n")
    print(f"written to {written.relative_to(run.HERE.parent)}, and the time lines beside it as csv")
    if not flags.no_peer and flags.name == "memory":
        run.draw(written, run.PLOT.with_name("performance-memory.png"), script="plot_web.py")


def once(
    contender: contenders.Contender, server: serving.Server, names: list[str], flags: argparse.Namespace
) -> dict[str, Any]:
    """Run one of them."""
    work = OUT / f"{flags.name}-{contender.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    urls = server.urls("http-slow", names, flags.urls, serving.SLOW_HOSTS)
    (work / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
    command = [*contender.command, f"--url_list={work / 'urls.txt'}", f"--output_folder={work / 'out'}"]
    command += [f"--thread_count={flags.threads}", "--processes_count=1"]
    port = server.ports["http-slow"]
    ended = limited.execute(
        command, work, contenders.environment(server.trust), seconds=flags.limit, megabytes=flags.limit_mb,
        gauge=lambda: connections(port),
    )  # fmt: skip
    rows, successes, _ = contenders.receipts(work / "out")
    with (OUT / f"{flags.name}-{contender.name}.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["seconds", "largest_process_mb", "all_processes_mb", "connections", "pss_mb"])
        writer.writerows(asdict(sample).values() for sample in ended.samples)
    return {
        "rows": rows, "successes": successes, "peak_mb": ended.peak_mb, "wall": ended.wall, "cpu": ended.cpu,
        "how": ended.how, "connections": max((each.gauge for each in ended.samples), default=0.0),
        "samples": [list(asdict(each).values()) for each in ended.samples],
    }  # fmt: skip


def connections(port: int) -> float:
    """How many TCP connections to the server are established."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return float(sum(fields[2].endswith(wanted) and fields[3] == "01" for fields in map(str.split, lines)))


def big_pictures() -> Path:
    """The folder of the big pictures: mosaics of small tiles, each a photograph of the benchmark."""
    pictures = corpus.make(OUT, run.FILES)
    folder = OUT / f"big-{SIZE[0]}x{SIZE[1]}-{QUALITY}"
    folder.mkdir(exist_ok=True)
    for number in range(PICTURES):
        path = folder / f"{number:05d}.jpg"
        if path.exists():
            continue
        print(f"making a picture of {SIZE[0]} x {SIZE[1]} pixels")
        files = [pictures.folder / name for name in pictures.names[number::PICTURES]]
        data = next(
            (data for side in TILES if len(data := _mosaic(files, side)) >= BYTES), None
        ) or _mosaic(files, TILES[-1])  # fmt: skip
        partial = path.with_suffix(".part")
        partial.write_bytes(data)
        partial.rename(path)
    return folder


def _mosaic(files: list[Path], side: int) -> bytes:
    """One picture of tiles of `side` pixels."""
    mosaic = Image.new("RGB", SIZE)
    places = [(x, y) for y in range(0, SIZE[1], side) for x in range(0, SIZE[0], side)]
    for i, place in enumerate(places):
        with Image.open(files[i % len(files)]) as tile:
            tile.draft("RGB", (side, side))
            mosaic.paste(tile.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), place)
    stream = io.BytesIO()
    mosaic.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def heading(result: dict[str, Any]) -> str:
    """What is measured, and where."""
    megabytes = [round(size / 1e6, 1) for size in result["bytes"]]
    options = f"thread_count={result['threads']} processes_count=1, defaults otherwise"
    lines = [
        "machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**result["machine"]),
        f"pictures   {result['urls']} URLs of {len(megabytes)} JPEGs of {SIZE[0]} x {SIZE[1]} pixels, {megabytes} MB",
        f"server     nginx, {result['rate'] / 1e6:.0f} MB/s for each answer, {len(serving.SLOW_HOSTS)} addresses",
        f"options    {options}; limits {result['limit']:.0f} s and {result['limit_mb']:.0f} MB",
    ]
    if result["load_before"] > run.BUSY * result["machine"]["cores"]:
        lines.append(f"NOTE       the machine is busy already (load {result['load_before']:.2f}): expect noise")
    return "\n".join(lines)


def line(figures: dict[str, Any]) -> str:
    """One run."""
    return (
        f"peak {figures['peak_mb']:.0f} MB, {figures['successes']} successes in {figures['rows']} committed rows, "
        f"{figures['wall']:.1f} s, {figures['cpu']:.1f} s CPU, {figures['connections']:.0f} connections, "
        f"{figures['how']}"
    )


def table(runs: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = ["", "| | peak MB of the worker | rows committed | successes | seconds | most connections | ended |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in (OURS, PEER):
        if name in runs:
            each = runs[name]
            cells = [f"{each['peak_mb']:.0f}", each["rows"], each["successes"], f"{each['wall']:.0f}",
                     f"{each['connections']:.0f}", each["how"]]  # fmt: skip
            lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
