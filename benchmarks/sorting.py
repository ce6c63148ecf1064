"""What it costs the driver to sort a list by host (`schedule="by_host"`): seconds and peak memory against rows."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from img2dataset_dist import schedule
from img2dataset_dist.config import InputConfig
from img2dataset_dist.plan import make_plan
from img2dataset_dist.storage import Folder


def main() -> None:
    """Each list is made and sorted in a process of its own, so that its peak is that list's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[1_000_000, 10_000_000], help="rows of the txt lists")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        measure(flags.one)
        return
    for rows in flags.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "urls.txt"
            with path.open("w") as file:  # half of the rows on 100 hosts, the rest on a host for every 20 rows
                for n in range(rows):
                    host = f"cdn{n * 7919 % 100}" if n % 2 else f"site{n * 104729 % max(1, rows // 20)}"
                    file.write(f"https://{host}.example.org/pictures/{n:09d}/photograph.jpg\n")
            print(f"{rows:,} rows, {path.stat().st_size / 1e6:.0f} MB:", end=" ", flush=True)
            subprocess.run([sys.executable, __file__, "--one", str(path)], check=True)


def measure(path: Path) -> None:
    """Sort one list into 64 lanes."""
    plan = make_plan(InputConfig(url_list=str(path), schedule="by_host"))
    began = time.perf_counter()
    done = schedule.sort(plan, Folder.at(str(path.parent / "sorted")))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    rows = [lane.rows for lane in done.lanes]
    print(f"{seconds:.1f} s, peak {peak:.0f} MB, {len(rows)} lanes of {min(rows):,} to {max(rows):,} rows")


if __name__ == "__main__":
    main()
