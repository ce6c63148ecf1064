"""What long lists cost the driver: memory, and seconds until the first shard is given out, against rows and files.

Every figure is from a process of its own that runs a whole job with an engine that works on nothing (`InstantEngine`):
the plan, the walk, the totals and the reports are real, no picture is fetched. "Going on" is a second run after the
first was killed when nine tenths of the shards were given out, with receipts for all of those but the last four.
Writes benchmarks/out/big_lists.json and draws docs/big-lists.png. docs/big-lists.md explains it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import run

from img2dataset_dist import download
from img2dataset_dist.model import Event, Receipt, Shard, Stats

HERE = Path(__file__).resolve().parent
PLOT = run.PLOT.with_name("big-lists.png")
ROWS = (100_000, 1_000_000, 10_000_000)
TEXT_ROWS = (100_000, 1_000_000, 3_000_000)
TEXTS = ("csv", "json", "csv.gz")
FILES = (100, 1000, 10_000)
FILE_ROWS = 100
"""Rows of each file where the number of files is varied."""

SHARDS = (10_000, 100_000, 200_000)
DELAY = 0.03
"""Seconds of a request to the pretended object store."""

GROUP = 100_000
FILE_GROUPS = 10
SHARD = 10_000
LEFT = 4
"""Shards that were under way when the first run was killed."""


class InstantEngine:
    """Answers at once; the environment says after how many shards to be killed."""

    def __init__(self, config: object) -> None:
        """There is nothing to set."""

    def close(self) -> None:
        """Nothing to end."""

    def run(self, job: Any, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:  # noqa: ARG002
        """A receipt for every shard."""
        stop = int(os.environ.get("STOP_AFTER", "0"))
        for number, shard in enumerate(shards, 1):
            if number == 1:
                MARKS["first"] = time.perf_counter()
            if stop and number == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            if stop and number > stop - LEFT:
                continue
            if stop:
                (Path(job.output_url) / f"{job.shard_name(shard.id)}_stats.json").touch()
            yield Receipt(shard_id=shard.id, stats=Stats(count=shard.rows), attempt="", fingerprint="")


MARKS: dict[str, float] = {}


def child(options: dict[str, Any]) -> None:
    """One job, measured from within."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    __import__("support.counted")
    sys.modules["big_lists"] = sys.modules["__main__"]
    idle = peak_mb()
    began, cpu = time.perf_counter(), time.process_time()
    done = download(
        distributor="big_lists:InstantEngine", output_format="dummy", progress="none", **options
    )  # fmt: skip
    print(json.dumps({
        "rows_done": done.count, "first_s": MARKS.get("first", began) - began, "all_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu, "idle_mb": idle, "peak_mb": peak_mb(),
    }))  # fmt: skip


def peak_mb() -> float:
    """Largest resident size of this process so far, in 10^6 bytes; getrusage would count the parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def measure(options: dict[str, Any], **environment: str) -> dict[str, Any] | None:
    """Run a child; None when it killed itself, as it was told to."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    done = subprocess.run(command, check=False, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL and "STOP_AFTER" in environment:
        return None
    if done.returncode:
        sys.exit(f"{options}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def parquet_list(folder: Path, rows: int) -> Path:
    """Files of a million rows in ten row groups, with a URL and a caption."""
    folder.mkdir()
    made = 0
    while made < rows:
        with pq.ParquetWriter(
            folder / f"{made:012d}.parquet", pa.schema({"url": pa.string(), "text": pa.string()})
        ) as out:
            for _ in range(FILE_GROUPS):
                span = range(made, min(made + GROUP, rows))
                urls = [f"https://site{n % 9973}.example.org/{n}.jpg" for n in span]
                out.write_table(pa.table({"url": urls, "text": [f"picture {n}" for n in span]}))
                made += len(span)
                if made == rows:
                    break
    return folder


def text_list(folder: Path, kind: str, rows: int) -> Path:
    """One file of text."""
    folder.mkdir()
    path = folder / f"list.{kind}"
    with contextlib.closing(gzip.open(path, "wb", 1) if kind.endswith(".gz") else path.open("wb", 2**20)) as out:
        as_json = kind.startswith("json")
        out.write(b"[" if as_json else b"url,text\n")
        for n in range(rows):
            url, text = (
                f"https://site{n % 9973}.example.org/pictures/{n:09d}/photograph.jpg",
                f"a caption of picture {n}",
            )
            row = ("," if n else "") + json.dumps({"url": url, "text": text}) if as_json else f"{url},{text}\n"
            out.write(row.encode())
        out.write(b"]" if as_json else b"")
    return folder


def many_files(folder: Path, files: int) -> Path:
    """Small parquet files."""
    folder.mkdir()
    for file in range(files):
        span = range(file * FILE_ROWS, (file + 1) * FILE_ROWS)
        table = pa.table(
            {"url": [f"https://site{n % 9973}.example.org/{n}.jpg" for n in span], "text": list(map(str, span))}
        )
        pq.write_table(table, folder / f"{file:06d}.parquet")
    return folder


def by_rows(scratch: Path, kind: str, counts: Iterable[int]) -> Iterator[dict[str, Any]]:
    """A fresh run, and one that goes on."""
    for rows in counts:
        folder = parquet_list(scratch / "list", rows) if kind == "parquet" else text_list(scratch / "list", kind, rows)
        size = sum(path.stat().st_size for path in folder.iterdir())
        options = {
            "url_list": str(folder), "input_format": kind, "output_folder": str(scratch / "out"),
            "number_sample_per_shard": SHARD,
        }  # fmt: skip
        fresh = measure(options)
        shutil.rmtree(scratch / "out")
        measure(options, STOP_AFTER=str(max(LEFT + 1, rows // SHARD * 9 // 10)))
        again = measure(options)
        assert fresh is not None
        assert again is not None
        yield {"panel": kind, "x": rows, "mb": size / 1e6, **fresh, "again_s": again["first_s"]}
        shutil.rmtree(folder)
        shutil.rmtree(scratch / "out")


def by_files(scratch: Path, counts: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The same files on a disk, and where every request takes 30 ms."""
    for files in counts:
        folder = many_files(scratch / "list", files)
        for panel, prefix, delay in (("files", "", 0.0), ("files, 30 ms away", "counted://", DELAY)):
            options = {
                "url_list": f"{prefix}{folder}", "input_format": "parquet", "output_folder": str(scratch / "out"),
                "number_sample_per_shard": SHARD,
            }  # fmt: skip
            point = measure(options, COUNTED_DELAY=str(delay))
            assert point is not None
            job = (scratch / "out" / "_img2dataset" / "job.json").stat().st_size
            yield {"panel": panel, "x": files, **point, "job_json": job}
            shutil.rmtree(scratch / "out")
        shutil.rmtree(folder)


def by_shards(scratch: Path, counts: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Shards that run through one driver, then as many receipts, with two files each, that a run finds."""
    rows = 50
    for shards in counts:
        folder = parquet_list(scratch / "list", shards * rows)
        out = scratch / "out"
        options = {
            "url_list": str(folder), "input_format": "parquet", "output_folder": str(out),
            "number_sample_per_shard": rows,
        }  # fmt: skip
        fresh = measure(options)
        assert fresh is not None
        for number in range(shards - 1):
            for suffix in ("_stats.json", ".tar", ".parquet"):
                (out / f"{number:05d}{suffix}").touch()
        again = measure(options)
        assert again is not None
        yield {"panel": "shards", "x": shards, **fresh, "again_s": again["first_s"], "again_mb": again["peak_mb"]}
        shutil.rmtree(folder)
        shutil.rmtree(out)


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="of parquet lists (%(default)s)")
    parser.add_argument("--text-rows", type=int, nargs="*", default=TEXT_ROWS, help="of text lists (%(default)s)")
    parser.add_argument("--files", type=int, nargs="*", default=FILES, help="numbers of files (%(default)s)")
    parser.add_argument("--shards", type=int, nargs="*", default=SHARDS, help="numbers of shards (%(default)s)")
    parser.add_argument("--folder", help="where the lists are made; 2 GB for 10^8 rows (the temporary folder)")
    parser.add_argument("--quick", action="store_true", help="small ones only, to see that it works")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        child(flags.child)
        return
    few = 1 if flags.quick else None
    run.OUT.mkdir(exist_ok=True)
    result: dict[str, Any] = {"machine": run.machine(), "load_before": os.getloadavg()[0], "points": []}
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        scratch = Path(folder)
        panels = [
            by_rows(scratch, "parquet", flags.rows[:few]),
            *(by_rows(scratch, kind, flags.text_rows[:few]) for kind in TEXTS),
            by_files(scratch, flags.files[:few]),
            by_shards(scratch, flags.shards[:few]),
        ]
        for panel in panels:
            for point in panel:
                result["points"].append(point)
                print(line(point), flush=True)
    written = run.OUT / ("big_lists-quick.json" if flags.quick else "big_lists.json")
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result["points"]))
    run.draw(written, run.OUT / "big_lists-quick.png" if flags.quick else PLOT, script="plot_big_lists.py")


def line(point: dict[str, Any]) -> str:
    """One point, for those who wait."""
    again = f", {point['again_s']:.2f} s when going on" if "again_s" in point else ""
    return (
        f"  {point['panel']} {point['x']:,}: {point['idle_mb']:.0f} -> {point['peak_mb']:.0f} MB, first shard after "
        f"{point['first_s']:.2f} s{again}, all after {point['all_s']:.1f} s ({point['cpu_s']:.1f} s CPU)"
    )


def table(points: list[dict[str, Any]]) -> str:
    """The points as a Markdown table."""
    lines = [
        "", "| list | rows, files or shards | MB | peak MB | before | first shard, s | going on, s | all, s | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for each in points:
        size = f"{each['mb']:.0f}" if "mb" in each else ""
        again = f"{each['again_s']:.2f}" if "again_s" in each else ""
        again += f" ({each['again_mb']:.0f} MB)" if "again_mb" in each else ""
        lines.append(
            f"| {each['panel']} | {each['x']:,} | {size} | {each['peak_mb']:.0f} | {each['idle_mb']:.0f} "
            f"| {each['first_s']:.2f} | {again} | {each['all_s']:.1f} | {each['cpu_s']:.1f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
