"""`make bench`: img2dataset_dist and img2dataset on the same pictures, from the same server, in turns.

Everything it needs it makes itself below benchmarks/out/: the pictures, the server, the peer's own virtual
environment. It prints tables, writes benchmarks/out/results.json and draws docs/performance.png. It asserts nothing
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
from dataclasses import asdict, dataclass, replace
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
FILES = 2000
URLS = 4000
PEER_HTTPS_URLS = 2000
"""The peer takes minutes for all of them over https; a rate per image needs no more."""
SHARD = 500
BUSY = 0.3
"""Load per core before the start from which on the figures may be worth little."""
DISTURBED = 0.1
"""Cores that other programs kept busy on average during a run, from which on the run says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table: our program with `flags`, and how many times the peer's images/s it should reach."""

    name: str
    title: str
    goal: float
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A kind of work, which the peer does once in each turn: pictures from a listener of the server."""

    listener: str
    rows: tuple[Row, ...]
    mixed: bool = False
    peer_urls: int = URLS


SCENES = (
    Scene(
        listener="http",
        rows=(
            Row(name="http", title="http, JPEG", goal=3),
            Row(name="http-exact", title="http, JPEG, decode=exact", goal=1.4, flags=("--decode=exact",)),
        ),
    ),
    Scene(listener="http", mixed=True, rows=(Row(name="http-mixed", title="http, JPEG PNG WebP", goal=2.5),)),
    Scene(
        listener="https", peer_urls=PEER_HTTPS_URLS, rows=(Row(name="https", title="https, JPEG, keep-alive", goal=11),)
    ),
    Scene(
        listener="https-new",
        peer_urls=PEER_HTTPS_URLS,
        rows=(Row(name="https-new", title="https, JPEG, connection per URL", goal=8),),
    ),
)
NAMES = tuple(row.name for scene in SCENES for row in scene.rows)


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works; draws no plot")
    parser.add_argument("--only", choices=NAMES, nargs="+", help="these rows of the table; draws no plot")
    parser.add_argument("--runs", type=int, help="counted runs of each, after one to warm up (3; quick: 1)")
    parser.add_argument("--threads", type=int, default=64, help="thread_count of both (%(default)s)")
    flags = parser.parse_args()
    scale = 10 if flags.quick else 1
    OUT.mkdir(exist_ok=True)
    both = (contenders.ours(), contenders.peer(OUT))
    scenes = chosen(flags.only or NAMES)
    pictures = {mixed: corpus.make(OUT, FILES // scale, mixed=mixed) for mixed in {scene.mixed for scene in scenes}}
    bench = Bench(
        ours=both[0], peer=both[1], scale=scale, runs=flags.runs or (1 if flags.quick else 3),
        options=Options(processes_count=cores(), thread_count=flags.threads, number_sample_per_shard=SHARD // scale),
    )  # fmt: skip
    result: dict[str, Any] = {
        "machine": machine(),
        "load_before": os.getloadavg()[0],
        "versions": {each.name: dict(each.versions) for each in both},
        "corpora": {"mixed" if mixed else "jpeg": about(each) for mixed, each in sorted(pictures.items())},
        "options": asdict(bench.options),
        "quick": flags.quick,
        "rows": {},
    }
    print(heading(result), flush=True)
    for scene in scenes:
        result["rows"] |= bench.measure(scene, pictures[scene.mixed])
    print(goals(result["rows"], quick=flags.quick))
    print(table(result["rows"]))
    name = "quick" if flags.quick else "-".join(flags.only) if flags.only else "results"
    written = OUT / f"{name}.json"
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {written.relative_to(HERE.parent)}")
    if name == "results":
        draw(written)


def chosen(names: Iterable[str]) -> list[Scene]:
    """The scenes of these rows, with no others in them."""
    wanted = set(names)
    left = [replace(scene, rows=tuple(row for row in scene.rows if row.name in wanted)) for scene in SCENES]
    return [scene for scene in left if scene.rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured, and with what; `scale` divides the number of URLs."""

    ours: contenders.Contender
    peer: contenders.Contender
    options: Options
    runs: int
    scale: int

    def measure(self, scene: Scene, pictures: corpus.Corpus) -> dict[str, Any]:
        """Our rows and then the peer, in each of `runs` turns after one that does not count. Returns row to figures."""
        found: dict[str, list[Run]] = {name: [] for name in (*(row.name for row in scene.rows), PEER)}
        with serving.serve(pictures.folder, OUT / "server") as server:
            for turn in range(self.runs + 1):
                for row in scene.rows:
                    urls = server.urls(scene.listener, pictures.names, URLS // self.scale)
                    run = self._once(self.ours.having(*row.flags), urls, server)
                    found[row.name].append(run)
                    print(line(row.name, turn, OURS, run), flush=True)
                urls = server.urls(scene.listener, pictures.names, scene.peer_urls // self.scale)
                found[PEER].append(self._once(self.peer, urls, server))
                print(line(scene.rows[0].name, turn, PEER, found[PEER][-1]), flush=True)
        counted = {name: runs[1:] for name, runs in found.items()}
        return {
            row.name: {"title": row.title, "goal": row.goal, **summary({OURS: counted[row.name], PEER: counted[PEER]})}
            for row in scene.rows
        }

    def _once(self, contender: contenders.Contender, urls: list[str], server: serving.Server) -> Run:
        run = contenders.run(contender, self.options, urls, OUT / f"run-{contender.name}", server)
        os.sync()  # its files must not be written out during the next run
        time.sleep(1)
        return run


def line(name: str, turn: int, who: str, run: Run) -> str:
    """One run, for those who wait."""
    label = f"run {turn}" if turn else "warm-up"
    others = run.others / run.wall
    return (
        f"  {name:10} {label:7} {who:16} {run.rate:6.1f} images/s ({run.wall_rate:6.1f} with start), "
        f"{run.cpu_ms:5.2f} ms CPU, {run.peak_mb:4.0f} MB, all {run.pss_mb:4.0f} MB, {run.successes} of {run.rows}"
        + (f"   DISTURBED: others used {others:.2f} cores" if others > DISTURBED else "")
    )


def summary(measured: dict[str, list[Run]]) -> dict[str, Any]:
    """Median and range of everything, and of the ratios of runs in the same turn."""
    result: dict[str, Any] = {
        name: {
            "rate": spread(run.rate for run in runs),
            "wall_rate": spread(run.wall_rate for run in runs),
            "cpu_ms": spread(run.cpu_ms for run in runs),
            "server_cpu_ms": spread(1000 * run.server_cpu / run.successes for run in runs),
            "peak_mb": spread(run.peak_mb for run in runs),
            "pss_mb": spread(run.pss_mb for run in runs),
            "stored_bytes": spread(run.stored / run.successes for run in runs),
            "others": spread(run.others / run.wall for run in runs),
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


def about(pictures: corpus.Corpus) -> dict[str, Any]:
    """A corpus, for the results."""
    return {
        "files": len(pictures.names), "mean_bytes": round(pictures.mean_bytes),
        "kinds": {kind: {"files": count, "mean_bytes": round(mean)} for kind, (count, mean) in pictures.kinds.items()},
        "photographs": pictures.photographs, "source": pictures.source,
    }  # fmt: skip


def heading(result: dict[str, Any]) -> str:
    """What is compared, and where."""
    where = result["machine"]
    lines = [
        "machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**where),
        f"server     {serving.version()}, one worker process, loopback",
        "options    " + " ".join(f"{name}={value}" for name, value in result["options"].items()),
    ]
    for name, pictures in result["corpora"].items():
        kinds = [f"{of['files']} {kind} of {of['mean_bytes'] / 1e3:.0f} kB" for kind, of in pictures["kinds"].items()]
        lines.append(f"pictures   {name}: {', '.join(kinds)} on average")
    lines += [
        "           crops of {photographs} photographs, {source}".format(**next(iter(result["corpora"].values())))
    ]
    for name, versions in result["versions"].items():
        listed = ", ".join(f"{package} {version}" for package, version in versions.items() if package != name)
        lines.append(f"{name} {versions[name]}, with {listed}")
    if result["load_before"] > BUSY * where["cores"]:
        lines.append(f"NOTE       the machine is busy already (load {result['load_before']:.2f}): expect noise")
    return "\n".join(lines)


def goals(rows: dict[str, Any], *, quick: bool) -> str:
    """What should be reached and what was, as a Markdown table."""
    lines = ["", f"| images/s | {OURS} | {PEER} | times | goal | |", "|---|---|---|---|---|---|"]
    for figures in rows.values():
        ratio, goal = figures["ratio"]["rate"], figures["goal"]
        cells = [figures["title"], cell(figures[OURS]["rate"], 0), cell(figures[PEER]["rate"], 0), cell(ratio, 2)]
        verdict = "too few to tell" if quick else "met" if ratio["median"] >= goal else "missed"
        lines.append(f"| {' | '.join(cells)} | {goal:g} | {verdict} |")
    return "\n".join(lines)


def table(rows: dict[str, Any]) -> str:
    """All figures as a Markdown table: median [least..most]."""
    lines = [
        "",
        "| | images/s | with start, end | CPU ms per image | server's CPU ms | peak MB of a process | of all | rows |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for figures in rows.values():
        for name in (OURS, PEER):
            each = figures[name]
            cells = [
                cell(each["rate"], 0), cell(each["wall_rate"], 0), cell(each["cpu_ms"], 1),
                cell(each["server_cpu_ms"], 1), cell(each["peak_mb"], 0), cell(each["pss_mb"], 0),
                f"{each['successes']} of {each['rows']}",
            ]  # fmt: skip
            lines.append(f"| {figures['title']}: {name} | " + " | ".join(cells) + " |")
        ratio = figures["ratio"]
        cells = [cell(ratio["rate"], 2), cell(ratio["wall_rate"], 2), cell(ratio["cpu"], 2), "", "", "", ""]
        lines.append(f"| **{figures['title']}: times better** | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def cell(value: dict[str, float], digits: int) -> str:
    """Median [least..most]."""
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
        for each in Path("/proc/cpuinfo").read_text().splitlines():
            if each.startswith("model name"):
                cpu = each.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu, "cores": cores(), "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
    }  # fmt: skip


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
