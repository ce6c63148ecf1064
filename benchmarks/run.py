"""`make bench`: img2dataset_dist and img2dataset on the same pictures, from the same server, in turns.

Everything it needs it makes itself below benchmarks/out/: the pictures, the server, the peer's own virtual
environment. It prints a table, writes benchmarks/out/results.json and draws docs/performance.png. It asserts nothing
about time, but ends with an error when any row is lost. docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import contenders
import corpus
import serving
from contenders import OURS, PEER, Options, Run

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
PLOT = HERE.parent / "docs" / "performance.png"
PLOT_REQUIREMENTS = ("matplotlib>=3.8",)
SCHEMES = ("http", "https")
FILES = 2000
URLS = 4000
PEER_HTTPS_URLS = 2000
"""The peer takes minutes for all of them over https; a rate per image needs no more."""
SHARD = 500
BUSY = 0.3
"""Load per core before the start from which on the figures may be worth little."""


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works; draws no plot")
    parser.add_argument("--only", choices=SCHEMES, help="one of the two schemes; draws no plot")
    parser.add_argument("--runs", type=int, help="counted runs of each, after one to warm up (3; quick: 1)")
    parser.add_argument("--threads", type=int, default=64, help="thread_count of both (%(default)s)")
    flags = parser.parse_args()
    runs = flags.runs or (1 if flags.quick else 3)
    scale = 10 if flags.quick else 1
    OUT.mkdir(exist_ok=True)
    both = [contenders.ours(), contenders.peer(OUT)]
    cores = _cores()
    options = Options(processes_count=cores, thread_count=flags.threads, number_sample_per_shard=SHARD // scale)
    pictures = corpus.make(OUT, FILES // scale)
    load = os.getloadavg()[0]
    with serving.serve(pictures.folder, OUT / "server") as server:
        result: dict[str, Any] = {
            "machine": machine(),
            "load_before": load,
            "server": server.version,
            "versions": {each.name: dict(each.versions) for each in both},
            "corpus": {"files": len(pictures.names), "mean_bytes": round(pictures.mean_bytes),
                       "photographs": pictures.photographs, "source": pictures.source},
            "options": asdict(options),
            "quick": flags.quick,
            "schemes": {},
        }  # fmt: skip
        print(heading(result))
        bench = Bench(both=both, options=options, server=server, names=pictures.names, runs=runs, scale=scale)
        for scheme in [flags.only] if flags.only else SCHEMES:
            result["schemes"][scheme] = summary(bench.measure(scheme))
    print(table(result))
    written = OUT / ("quick.json" if flags.quick else f"{flags.only}.json" if flags.only else "results.json")
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {written.relative_to(HERE.parent)}")
    if not flags.quick and not flags.only:
        draw(written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured; `scale` divides the number of URLs."""

    both: list[contenders.Contender]
    options: Options
    server: serving.Server
    names: list[str]
    runs: int
    scale: int

    def measure(self, scheme: str) -> dict[str, list[Run]]:
        """Run both in turns, `runs` times after one uncounted run of each."""
        measured: dict[str, list[Run]] = {each.name: [] for each in self.both}
        for turn in range(self.runs + 1):
            for each in self.both:
                count = PEER_HTTPS_URLS if (scheme, each.name) == ("https", PEER) else URLS
                urls = self.server.urls(scheme, self.names, count // self.scale)
                run = contenders.run(each, self.options, urls, OUT / f"run-{each.name}", self.server)
                label = f"run {turn}" if turn else "warm-up"
                print(
                    f"  {scheme:5} {label:7} {each.name:16} {run.rate:6.1f} images/s ({run.wall_rate:6.1f} with "
                    f"start), {run.cpu_ms:5.2f} ms CPU, {run.peak_mb:4.0f} MB, {run.successes} of {len(urls)}",
                    flush=True,
                )
                if turn:
                    measured[each.name].append(run)
                os.sync()  # its files must not be written out during the next run
                time.sleep(1)
        return measured


def summary(measured: dict[str, list[Run]]) -> dict[str, Any]:
    """Median and range of everything, and of the ratios of neighbouring runs."""
    result: dict[str, Any] = {
        name: {
            "rate": spread(run.rate for run in runs),
            "wall_rate": spread(run.wall_rate for run in runs),
            "cpu_ms": spread(run.cpu_ms for run in runs),
            "server_cpu_ms": spread(1000 * run.server_cpu / run.successes for run in runs),
            "peak_mb": spread(run.peak_mb for run in runs),
            "stored_bytes": spread(run.stored / run.successes for run in runs),
            "rows": runs[0].rows,
            "successes": runs[0].successes,
            "runs": [asdict(run) for run in runs],
        }
        for name, runs in measured.items()
    }
    pairs = list(zip(measured[OURS], measured[PEER], strict=True))
    result["ratio"] = {
        "rate": spread(one.rate / other.rate for one, other in pairs),
        "wall_rate": spread(one.wall_rate / other.wall_rate for one, other in pairs),
        "cpu": spread(other.cpu_ms / one.cpu_ms for one, other in pairs),
    }
    return result


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    known = [round(value, 3) for value in values]
    return {"median": round(statistics.median(known), 3), "min": min(known), "max": max(known)}


def heading(result: dict[str, Any]) -> str:
    """What is compared, and where."""
    pictures, options, where = result["corpus"], result["options"], result["machine"]
    lines = [
        "machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**where),
        "pictures   {files} JPEGs of {kb:.0f} kB on average, crops of {photographs} photographs".format(
            kb=pictures["mean_bytes"] / 1000, **pictures
        ),
        f"           {pictures['source']}",
        f"server     {result['server']}, one worker process, loopback",
        "options    " + " ".join(f"{name}={value}" for name, value in options.items()),
    ]
    for name, versions in result["versions"].items():
        listed = ", ".join(f"{package} {version}" for package, version in versions.items() if package != name)
        lines.append(f"{name} {versions[name]}, with {listed}")
    if result["load_before"] > BUSY * where["cores"]:
        lines.append(f"NOTE       the machine is busy already (load {result['load_before']:.2f}): expect noise")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table: median [least..most]."""
    lines = [
        "",
        "| | images/s | with start and end | CPU ms per image | server's CPU ms | peak MB of a process | rows kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for scheme, figures in result["schemes"].items():
        for name in (OURS, PEER):
            each = figures[name]
            cells = [
                _cell(each["rate"], 0), _cell(each["wall_rate"], 0), _cell(each["cpu_ms"], 1),
                _cell(each["server_cpu_ms"], 1), _cell(each["peak_mb"], 0), f"{each['successes']} of {each['rows']}",
            ]  # fmt: skip
            lines.append(f"| {scheme}, {name} | " + " | ".join(cells) + " |")
        ratio = figures["ratio"]
        cells = [_cell(ratio["rate"], 2), _cell(ratio["wall_rate"], 2), _cell(ratio["cpu"], 2), "", "", ""]
        lines.append(f"| **{scheme}, times better** | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(value: dict[str, float], digits: int) -> str:
    return f"{value['median']:.{digits}f} [{value['min']:.{digits}f}..{value['max']:.{digits}f}]"


def draw(results: Path, plot: Path = PLOT, *, script: str = "plot.py") -> None:
    """Make the plot, in an environment of its own; without one there is no plot, and no error."""
    try:
        python = contenders.venv(OUT / "plot-venv", PLOT_REQUIREMENTS)
        subprocess.run([str(python), str(HERE / script), str(results), str(plot)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no plot: {error}", file=sys.stderr)
        return
    print(f"drawn to {plot.relative_to(HERE.parent)}")


def machine() -> dict[str, Any]:
    """What this runs on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu, "cores": _cores(), "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
    }  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
