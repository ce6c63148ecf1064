"""Where the CPU time of one worker goes: `python benchmarks/profile_pipeline.py`, after `make bench` or without.

Runs img2dataset_dist in one process (`--distributor=inline`) over the benchmark's pictures, samples its threads with
py-spy from outside, and prints CPU milliseconds per image by thread and by function. py-spy counts a thread when it
is on a core, so a thread that waits for the GIL, a socket or a queue costs nothing here; C code counts for the Python
function that called it. Sampling may need the right to trace processes (root, or kernel.yama.ptrace_scope=0).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import contenders
import corpus
import serving
from run import FILES, OUT, SHARD

REQUIREMENTS = ("py-spy>=0.4",)
PACKAGE = "img2dataset_dist/"
SECONDS_LIMIT = 600


def main() -> None:
    """Parse the flags, sample, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", choices=("http", "https"), default="http")
    parser.add_argument("--urls", type=int, default=FILES, help="how many (%(default)s)")
    parser.add_argument("--rate", type=int, default=250, help="samples per second (%(default)s)")
    parser.add_argument("--gil", action="store_true", help="sample only the thread that holds the GIL")
    flags, more = parser.parse_known_args()
    spy = contenders.venv(OUT / "profile-venv", REQUIREMENTS).with_name("py-spy")
    pictures = corpus.make(OUT, FILES)
    work = OUT / "profile"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with serving.serve(pictures.folder, OUT / "server") as server:
        urls = server.urls(flags.scheme, pictures.names, flags.urls)
        (work / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
        cpu = sample(spy, flags, work, contenders.environment(server.trust), more)
    stacks = read(work / "stacks.txt")
    total = sum(stacks.values())
    what = "holding the GIL" if flags.gil else "on a core"
    print(
        f"\n{flags.urls} images over {flags.scheme}, {1000 * cpu / flags.urls:.2f} ms CPU per image (py-spy's excluded)"
    )
    print(f"{total} samples of threads {what}; in the lists: share of them, and of the CPU time per image\n")
    for title, counts in (("thread", by_thread(stacks)), ("function", by_function(stacks)), ("leaf", by_leaf(stacks))):
        print(title)
        for name, count in counts.most_common(25):
            print(f"  {count / total:6.1%}  {1000 * cpu / flags.urls * count / total:6.3f} ms  {name}")
        print()
    print(f"all stacks, for a flame graph: {work.relative_to(OUT.parent.parent) / 'stacks.txt'}")


def sample(spy: Path, flags: argparse.Namespace, work: Path, env: dict[str, str], more: list[str]) -> float:
    """Run the job under py-spy. Returns the CPU seconds that the job itself used; `more` are options for the job."""
    job = [
        sys.executable, "-m", "img2dataset_dist", f"--url_list={work / 'urls.txt'}", f"--output_folder={work / 'out'}",
        "--output_format=webdataset", "--distributor=inline", "--thread_count=64",
        f"--number_sample_per_shard={SHARD}", "--progress=none", "--allow_private_addresses", *more,
    ]  # fmt: skip
    with (work / "log.txt").open("wb") as log:
        process = subprocess.Popen(job, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=work)
        record = [str(spy), "record", "--pid", str(process.pid), "--format", "raw", "--threads", "--nonblocking"]
        record += ["--rate", str(flags.rate), "--duration", str(SECONDS_LIMIT), "--output", str(work / "stacks.txt")]
        watcher = subprocess.Popen([*record, *(["--gil"] if flags.gil else [])], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.wait()
    if process.returncode or not (work / "stacks.txt").exists():
        raise SystemExit(f"the job or py-spy failed; {work / 'log.txt'} says why")
    return usage.ru_utime + usage.ru_stime


Stack = tuple[str, ...]


def read(path: Path) -> Counter[Stack]:
    """Py-spy's raw format: `thread;frame;frame count` on each line, outermost first."""
    stacks: Counter[Stack] = Counter()
    for line in path.read_text().splitlines():
        frames, _, count = line.rpartition(" ")
        if count.isdigit():  # a frame of generated code may hold a line break
            stacks[tuple(frames.split(";"))] += int(count)
    return stacks


def by_thread(stacks: Counter[Stack]) -> Counter[str]:
    """Samples by kind of thread: numbers in names are left out."""
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        name = stack[0].partition(": ")[2]  # "thread (123): shard-4"; py-spy knows no name at the very start
        counts[name.rstrip("0123456789_-") or "(unnamed)"] += count
    return counts


def by_function(stacks: Counter[Stack]) -> Counter[str]:
    """Samples by the innermost function of this project, whatever that called."""
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        own = [frame for frame in stack if PACKAGE in frame]
        counts[_short(own[-1]) if own else f"(outside: {_short(stack[-1])})"] += count
    return counts


def by_leaf(stacks: Counter[Stack]) -> Counter[str]:
    """Samples by the innermost Python function and line of all."""
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        counts[stack[-1]] += count
    return counts


def _short(frame: str) -> str:
    """`name (path:line)` without the line."""
    return frame.rpartition(":")[0] + ")" if ":" in frame else frame


if __name__ == "__main__":
    main()
