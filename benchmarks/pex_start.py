"""How long img2dataset.pex takes to start: cold, which unpacks it, and warm; and Python alone beside it.

    python benchmarks/pex_start.py img2dataset.pex img2dataset-thin.pex

Cold has a new PEX_ROOT each time, but the pex itself is in the page cache of this machine if there is room. A Spark
worker starts as `-m pyspark.daemon` once per executor, then forks: one warm start is all that it costs.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

COLD, WARM = 3, 20
WAYS = {"-c pass": ("-c", "pass"), "--version": ("--version",), "--help": ("--help",)}


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pex", nargs="+", help="files that make pex and make pex-thin have built")
    parser.add_argument("--root", help="folder to unpack into, on the disk that is asked about")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| | size, MB | unpacked, MB | cold, s | " + " | ".join(f"warm `{way}`, s" for way in WAYS) + " |")
    print("| --- " * (4 + len(WAYS)) + "|")
    for path in options.pex:
        root = tempfile.mkdtemp(prefix="pex-start-", dir=options.root)
        try:
            print(row(os.path.abspath(path), root), flush=True)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    times = warm([sys.executable], dict(os.environ), {"-c pass": ("-c", "pass"), "--version": ("--version",)})
    print(f"| Python itself | | | | {' | '.join(times)} | |")


def row(path: str, root: str) -> str:
    """One line of the table."""
    size = os.path.getsize(path) / 1e6
    seconds = []
    for number in range(COLD):
        environment = {**os.environ, "PEX_ROOT": os.path.join(root, str(number))}
        seconds.append(once([path, "-c", "pass"], environment))
        unpacked = disk(environment["PEX_ROOT"])
        if number + 1 < COLD:
            shutil.rmtree(environment["PEX_ROOT"])
    times = warm([path], environment, WAYS)
    cold = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
    return f"| {os.path.basename(path)} | {size:.0f} | {unpacked / 1e6:.0f} | {cold} | {' | '.join(times)} |"


def warm(command: list[str], environment: dict[str, str], ways: dict[str, tuple[str, ...]]) -> list[str]:
    """Median seconds of each way to start, after one start that is not counted."""
    medians = []
    for arguments in ways.values():
        times = [once([*command, *arguments], environment) for _ in range(WARM + 1)][1:]
        medians.append(f"{statistics.median(times):.3f}")
    return medians


def once(command: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of a process to its end."""
    begin = time.perf_counter()
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def disk(folder: str) -> int:
    """Bytes on disk below a folder; a file with two names counts once."""
    seen = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


if __name__ == "__main__":
    main()
