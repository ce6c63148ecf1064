"""How near the whole job comes to the codecs alone: CPU time per picture over http, against the codec floor.

The floor is decoding, resizing, padding and encoding a picture and hashing its bytes, called straight on bytes in
memory, in one thread (`floor_probe.py`): alone on the machine, and with as many such processes at once as there are
cores, since those share caches and memory. The job's figure is a slope: what `LONG` URLs take more than `SHORT` ones,
per URL, so that no process's start is in it. docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

import contenders
import corpus
import run
import serving

OUT = run.OUT
SHORT, LONG = 2000, 6000
PICTURES = {"jpg": 400, "png": 100, "webp": 100}
ROUNDS = 3
GOAL = 1.15
STEPS = ("header", "decode", "resize", "pad", "encode", "sha256", "all")
WAYS = {"bare": "codecs alone", "functions": "our functions", "transforms": "our transforms"}
SHARES = {"jpg": 0.81, "png": 0.10, "webp": 0.09}


class Case(NamedTuple):
    """A kind of picture, and the `--decode` of it."""

    kind: str
    how: str

    def __str__(self) -> str:
        """For people and as a key."""
        return f"{self.kind} {self.how}"


class Job(NamedTuple):
    """A job that is held against a floor: `cases` with their shares. Only the first has a goal."""

    name: str
    mixed: bool
    how: str
    shares: dict[str, float]


CASES = (Case("jpg", "fast"), Case("jpg", "exact"), Case("png", "fast"), Case("webp", "fast"))
JOBS = (
    Job("http", mixed=False, how="fast", shares={"jpg": 1.0}),
    Job("http-exact", mixed=False, how="exact", shares={"jpg": 1.0}),
    Job("http-mixed", mixed=True, how="fast", shares=SHARES),
)
Probed = dict[str, Any]


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--runs", type=int, help="turns (3; quick: 1)")
    parser.add_argument("--no-job", action="store_true", help="the floor alone")
    flags = parser.parse_args()
    scale = 10 if flags.quick else 1
    OUT.mkdir(exist_ok=True)
    pictures = {mixed: corpus.make(OUT, run.FILES // scale, mixed=mixed) for mixed in (False, True)}
    jobs = () if flags.no_job else JOBS
    found: dict[str, dict[str, list[Any]]] = {"alone": {}, "at_once": {}, "jobs": {}}
    load = os.getloadavg()[0]
    print("machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**run.machine()))
    for _ in range(flags.runs or (1 if flags.quick else 3)):
        for case in CASES:
            command = probe(case, pictures[case.kind != "jpg"], scale)
            for name, count in (("alone", 1), ("at_once", run.cores())):
                found[name].setdefault(str(case), []).append(together(command, count))
                print(f"  {name:8} {case}: " + told(found[name][str(case)][-1]), flush=True)
        for job in jobs:
            found["jobs"].setdefault(job.name, []).append(slope(job, pictures[job.mixed], scale))
            print(f"  {job.name}: {found['jobs'][job.name][-1]:.3f} ms CPU per further picture", flush=True)
    result: dict[str, Any] = {
        "machine": run.machine(), "load_before": load, "quick": flags.quick, "goal": GOAL,
        "alone": {case: merged(runs) for case, runs in found["alone"].items()},
        "at_once": {case: merged(runs) for case, runs in found["at_once"].items()},
    }  # fmt: skip
    result["jobs"] = {job.name: held(job, found["jobs"][job.name], result) for job in jobs}
    print(floors(result))
    print(ratios(result))
    written = OUT / ("floor-quick.json" if flags.quick else "floor.json")
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {written.relative_to(run.HERE.parent)}")


def probe(case: Case, pictures: corpus.Corpus, scale: int) -> list[str]:
    """The command that measures a case."""
    names = [name for name in pictures.names if name.endswith(case.kind)]
    count = min(len(names), PICTURES[case.kind] // scale)
    files = [str(pictures.folder / names[i * len(names) // count]) for i in range(count)]
    return [sys.executable, str(run.HERE / "floor_probe.py"), *case, str(ROUNDS), *files]


def together(command: list[str], count: int) -> Probed:
    """Run it so many times at once; the mean of what they found."""
    processes = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(command[1:4])} failed")
    return merged([json.loads(each) for each in told], mean=True)


def merged(several: list[Probed], *, mean: bool = False) -> Probed:
    """The median of each figure of several probes, or the mean."""
    middle = statistics.mean if mean else statistics.median
    result: Probed = {name: several[0][name] for name in ("pictures", "same")}
    for way in WAYS:
        result[way] = {step: middle(one[way][step] for one in several) for step in several[0][way]}
    return result


def slope(job: Job, pictures: corpus.Corpus, scale: int) -> float:
    """CPU milliseconds per picture of our whole program, without its start and end."""
    options = contenders.Options(
        processes_count=run.cores(), thread_count=64, number_sample_per_shard=run.SHARD // scale
    )
    ours = contenders.ours().having(f"--decode={job.how}")
    runs = []
    with serving.serve(pictures.folder, OUT / "server") as server:
        for count in (SHORT // scale, LONG // scale):
            urls = server.urls("http", pictures.names, count)
            runs.append(contenders.run(ours, options, urls, OUT / "run-floor", server))
            os.sync()
            if runs[-1].others > run.DISTURBED * runs[-1].wall:
                print(f"  DISTURBED: others used {runs[-1].others / runs[-1].wall:.2f} cores", flush=True)
    return 1000 * (runs[1].cpu - runs[0].cpu) / (runs[1].successes - runs[0].successes)


def held(job: Job, slopes: list[float], result: dict[str, Any]) -> dict[str, Any]:
    """A job against its floors."""
    floor = {
        name: sum(
            share * result[name][str(Case(kind, job.how))]["bare"]["all"] for kind, share in job.shares.items()
        )
        for name in ("alone", "at_once")
    }  # fmt: skip
    return {
        "cpu_ms": run.spread(slopes), "floor": floor, "cases": [str(Case(kind, job.how)) for kind in job.shares],
        "ratio": {name: run.spread(each / ms for each in slopes) for name, ms in floor.items()},
    }  # fmt: skip


def told(probed: Probed) -> str:
    """One probe."""
    return ", ".join(f"{name} {probed[way]['all']:.2f} ms" for way, name in WAYS.items())


def floors(result: dict[str, Any]) -> str:
    """The floors and their steps as a Markdown table."""
    lines = ["", f"| CPU ms per picture | | {' | '.join(STEPS)} |", "|---|---|" + "---|" * len(STEPS)]
    for case, alone in result["alone"].items():
        for way, name in WAYS.items():
            cells = [f"{alone[way][step]:.3f}" if step in alone[way] else "" for step in STEPS]
            lines.append(f"| {case} | {name} | {' | '.join(cells)} |")
        at_once = result["at_once"][case]["bare"]
        cells = [f"{at_once[step]:.3f}" for step in STEPS]
        lines.append(f"| {case} | {WAYS['bare']}, {result['machine']['cores']} at once | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def ratios(result: dict[str, Any]) -> str:
    """The jobs against the floor as a Markdown table."""
    lines = [
        "| CPU ms per picture | whole job | floor | job / floor | floor, all cores busy | job / that | goal | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    others = [case for case, alone in result["alone"].items() if alone["same"] < alone["pictures"]]
    for name, job in result["jobs"].items():
        cells = [name, run.cell(job["cpu_ms"], 2)]
        for floor in ("alone", "at_once"):
            cells += [f"{job['floor'][floor]:.2f}", run.cell(job["ratio"][floor], 2)]
        verdict = ", ".join(
            f"{'met' if job['ratio'][floor]['median'] <= GOAL else 'missed'} {when}"
            for floor, when in (("alone", "alone"), ("at_once", "with all cores busy"))
        )
        if set(job["cases"]) & set(others):
            verdict = "no floor: see below"
        if result["quick"]:
            verdict = "too few pictures to tell"
        lines.append(f"| {' | '.join(cells)} | {GOAL} | {verdict} |")
    for case in others:
        probed = result["alone"][case]
        same = f"{probed['same']} of {probed['pictures']}"
        lines += ["", f"{case}: only {same} came out as our functions make them; bring floor_probe.bare up to date"]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
