"""A job that makes videos smaller and thinner: against the same ffmpeg by hand, and against video2dataset.

Films of ten seconds, made once, come from nginx on loopback. In each turn: img2dataset_dist makes them `HEIGHT` pixels
high at `FPS` frames per second into tars; then the very commands that it gives to ffmpeg are run by hand over the
same files on the disk, as many at once, which is what the work costs at least; then video2dataset 1.3.0 from its own
package does the same job in its own virtual environment, with the same ffmpeg: as two commands, one that downloads and
one that makes a subset, since steps while it downloads end each of its shards with an error
(`'ResolutionSubsampler' object has no attribute 'encode_formats'`). The programs' encoder presets differ (veryfast
here, ffmpeg's medium there), so ours also runs with medium. Writes benchmarks/out/video.json and draws
docs/performance-video.png; docs/video.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import contenders
import limited
import run
import serving
import yaml

from img2dataset_dist.config import JobConfig
from img2dataset_dist.ffmpeg import binary
from img2dataset_dist.ffmpeg.command import Source, Workshop, call
from img2dataset_dist.ffmpeg.probe import probe
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.transforms.video import threads

OUT = run.OUT
PLOT = run.HERE.parent / "docs" / "performance-video.png"
ROWS, FILMS, SECONDS, SHARDS = 96, 8, 10, 4
HEIGHT, FPS = 160, 10
GOAL = 1.1
"""Times the seconds that ffmpeg takes by hand."""

PEER = "video2dataset"
PEER_REQUIREMENTS = ("video2dataset==1.3.0", "pyarrow<21", "setuptools<80")
"""pyarrow, since newer ones want a newer numpy than it takes, so that it does not start as pip installs it."""
PEER_VERSIONS = ("video2dataset", "torch", "ffmpeg-python", "yt-dlp", "numpy", "pyarrow")
OUR_VERSIONS = ("av", "imageio-ffmpeg", "yt-dlp", "pycurl")
SOURCES = (
    "mandelbrot=size=640x360:rate=25:start_scale={scale},trim=duration={seconds}",
    "testsrc2=size=640x360:rate=25:duration={seconds},noise=alls={scale}:allf=t",
)
_versions, _busy_seconds = contenders._versions, contenders._busy_seconds  # noqa: SLF001 (the same measures)
WAYS = ("ours", "ours-medium", "by hand", "by hand, medium", PEER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a run took.

    Attributes:
        work: seconds from when the first shard began to when the last was complete; of a run by hand, all of them.
        wall: seconds of the whole command.
        cpu: seconds of all its processes.
        others: CPU seconds of everything else meanwhile but the server.
        stored: bytes of the videos.
        peak_mb: most that all its processes had in memory together, in 10^6 bytes; None of a run by hand.
    """

    rows: int
    work: float
    wall: float
    cpu: float
    others: float
    stored: int
    peak_mb: float | None = None


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each, after one to warm up (%(default)s)")
    parser.add_argument("--rows", type=int, default=ROWS, help="in a run (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="these; draws no plot")
    parser.add_argument("--peer", type=Path, help="a Python that has video2dataset; none: it is installed")
    flags = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    folder = films()
    peer = None
    if PEER in flags.only:
        peer = flags.peer or contenders.venv(OUT / "video-peer-venv", PEER_REQUIREMENTS)
    bench = Bench(folder=folder, names=sorted(path.name for path in folder.glob("*.mp4")), rows=flags.rows, peer=peer)
    result: dict[str, Any] = {
        "machine": run.machine(), "load_before": os.getloadavg()[0], "rows": flags.rows, "height": HEIGHT, "fps": FPS,
        "film_seconds": SECONDS, "film_bytes": sum(path.stat().st_size for path in folder.iterdir()) // FILMS,
        "versions": {
            "img2dataset_dist": _versions(sys.executable, OUR_VERSIONS),
            **({PEER: _versions(str(peer), PEER_VERSIONS)} if peer else {}),
        },
    }  # fmt: skip
    print(json.dumps({name: result[name] for name in ("machine", "load_before", "versions")}, indent=1), flush=True)
    result["ways"] = measure(bench, [way for way in WAYS if way in flags.only], flags.runs)
    print(table(result["ways"]))
    written = OUT / ("video.json" if len(flags.only) == len(WAYS) else "video-some.json")
    written.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {written.relative_to(run.HERE.parent)}")
    if len(flags.only) == len(WAYS):
        run.draw(written, PLOT, script="plot_video.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured: `rows` URLs of the films called `names` in `folder`; `peer` is a Python that has the other."""

    folder: Path
    names: Sequence[str]
    rows: int
    peer: Path | None

    def once(self, way: str) -> Taken:
        """One run of one way."""
        if way.startswith("by hand"):
            return self._by_hand("medium" if way.endswith("medium") else "veryfast")
        work = OUT / f"video-{way}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        with serving.serve(self.folder, OUT / "server") as server:
            urls = server.urls("http", list(self.names), self.rows)
            (work / "list.csv").write_text("url\n" + "".join(f"{url.partition('?')[0]}\n" for url in urls))
            served, busy = server.cpu_seconds(), _busy_seconds()
            parts = [self._part(command, folder, work, server.trust) for command, folder in self._commands(way, work)]
            served, busy = server.cpu_seconds() - served, _busy_seconds() - busy
        rows, successes, _ = contenders.receipts(work / "out")
        videos, stored = check(work / "out")
        if not rows == successes == videos == self.rows:
            raise SystemExit(f"{way}: {rows} rows, {successes} successes, {videos} videos of {self.rows}; see {work}")
        cpu = sum(ended.cpu for ended, _ in parts)
        return Taken(
            rows=rows, work=sum(seconds for _, seconds in parts), wall=sum(ended.wall for ended, _ in parts), cpu=cpu,
            others=max(0.0, busy - served - cpu), stored=stored, peak_mb=max(ended.pss_mb for ended, _ in parts),
        )  # fmt: skip

    def _part(self, command: list[str], folder: Path, work: Path, trust: Path) -> tuple[limited.Ended, float]:
        """Run a command to its end; what it took, and its seconds of work."""
        ended = limited.execute(command, work, self._environment(command, trust), seconds=3600)
        if ended.code != 0:
            raise SystemExit(f"{folder}: {ended.how}; {work / 'log.txt'} says why")
        return ended, contenders.receipts(folder)[2]

    def _commands(self, way: str, work: Path) -> list[tuple[list[str], Path]]:
        """Commands and their output folders. Both get the same list, the same number of processes and shards."""
        listed, out = f"--url_list={work / 'list.csv'}", work / "out"
        per_shard = max(1, self.rows // SHARDS)
        if way != PEER:
            preset = ["--video_preset=medium"] if way.endswith("medium") else []
            return [([
                *contenders.ours().command, listed, f"--output_folder={out}", "--output_format=webdataset",
                "--input_format=csv", "--media=video", f"--video_height={HEIGHT}", f"--video_fps={FPS}",
                f"--number_sample_per_shard={per_shard}", *preset,
            ], out)]  # fmt: skip
        first = work / "fetched"
        for name, steps in (("fetch", {}), ("subset", STEPS)):
            (work / f"{name}.yaml").write_text(yaml.safe_dump(peer_config(per_shard, steps)))
        start = [str(self.peer), "-c", "from video2dataset.main import main; main()", "--output_format=webdataset"]
        tars = f"--url_list={first}/{{00000..{SHARDS - 1:05d}}}.tar"
        return [
            ([*start, listed, f"--output_folder={first}", "--input_format=csv", f"--config={work / 'fetch.yaml'}"],
             first),
            ([*start, tars, f"--output_folder={out}", "--input_format=webdataset", "--stage=subset",
              f"--config={work / 'subset.yaml'}"], out),
        ]  # fmt: skip

    def _environment(self, command: list[str], trust: Path) -> dict[str, str]:
        """The peer finds our ffmpeg as `ffmpeg`."""
        environment = contenders.environment(trust)
        if command[0] == str(self.peer):
            programs = OUT / "video-programs"
            programs.mkdir(exist_ok=True)
            link = programs / "ffmpeg"
            link.unlink(missing_ok=True)
            link.symlink_to(binary.locate(None))
            environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
        return environment

    def _by_hand(self, preset: str) -> Taken:
        """The commands alone, over files that are there, as many at once as a job of ours has."""
        flat = {"url_list": "x", "media": "video", "video_height": HEIGHT, "video_fps": FPS, "video_preset": preset}
        config = JobConfig.from_flat(flat)
        shop = Workshop(recipe=Recipe.of(config.media), threads=threads(config), max_pixels=2**31 - 1)
        program = binary.locate(None)
        at_once = config.processes() * (config.engine.transform_processes or 2)
        with tempfile.TemporaryDirectory(dir=OUT) as made:
            commands = []
            for row in range(self.rows):
                path = self.folder / self.names[row % len(self.names)]
                source = Source(path=str(path), probe=probe(str(path), "mp4", max_pixels=shop.max_pixels))
                todo = call(source, None, shop, os.path.join(made, str(row)))
                commands.append([program, "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *todo.arguments])
            busy, began, times = _busy_seconds(), time.monotonic(), os.times()
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(lambda command: subprocess.run(command, check=True, stdin=subprocess.DEVNULL), commands))
            seconds, now = time.monotonic() - began, os.times()
            cpu = now.children_user + now.children_system - times.children_user - times.children_system
            stored = sum(path.stat().st_size for path in Path(made).iterdir())
        others = max(0.0, _busy_seconds() - busy - cpu)
        return Taken(rows=self.rows, work=seconds, wall=seconds, cpu=cpu, others=others, stored=stored)


STEPS = {
    "ResolutionSubsampler": {"args": {"height": HEIGHT, "resize_mode": ["scale"]}},
    "FrameSubsampler": {"args": {"frame_rate": FPS}},
}


def peer_config(per_shard: int, steps: dict[str, Any]) -> dict[str, Any]:
    """The same job in its words."""
    return {
        "subsampling": steps,
        "reading": {"yt_args": {"download_size": 360, "download_audio_rate": 44100, "yt_metadata_args": None},
                    "timeout": 60, "sampler": None},
        "storage": {"number_sample_per_shard": per_shard, "oom_shard_count": 5, "captions_are_subtitles": False},
        "distribution": {"processes_count": run.cores(), "thread_count": 16, "subjob_size": 1000,
                         "distributor": "multiprocessing"},
    }  # fmt: skip


def check(folder: Path) -> tuple[int, int]:
    """How many videos are in the tars, and their bytes; one of each tar is decoded.

    Raises:
        SystemExit: it is not what was asked for.
    """
    count = stored = 0
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.name.endswith(".mp4")]
            count += len(members)
            stored += sum(member.size for member in members)
            with av.open(archive.extractfile(members[0])) as video:
                frames = list(video.decode(video=0))
        if frames[0].height != HEIGHT or abs(len(frames) - SECONDS * FPS) > 1:
            raise SystemExit(f"{path}: {len(frames)} frames of {frames[0].height} pixels")
    return count, stored


def measure(bench: Bench, ways: Sequence[str], runs: int) -> dict[str, Any]:
    """All ways, in turns, after one that does not count."""
    found: dict[str, list[Taken]] = {way: [] for way in ways}
    for turn in range(runs + 1):
        for way, taken in found.items():
            one = bench.once(way)
            busy = one.others / one.wall
            note = f"   DISTURBED: others used {busy:.2f} cores" if busy > run.DISTURBED else ""
            label = f"run {turn}" if turn else "warm-up"
            print(f"  {label:7} {way:16} {one.work:6.1f} s ({one.wall:6.1f} with start), {one.cpu:6.1f} s CPU{note}",
                  flush=True)  # fmt: skip
            if turn:
                taken.append(one)
            os.sync()
            time.sleep(1)
    return {way: summary(way, found) for way in found}


_SAME = {"ours": "by hand", "ours-medium": "by hand, medium", PEER: "by hand, medium"}
"""What each is held against: the same commands, or with the same preset."""


def summary(way: str, found: dict[str, list[Taken]]) -> dict[str, Any]:
    """Median and range of everything, and of the ratios in the same turn."""
    taken = found[way]
    result: dict[str, Any] = {
        "rate": run.spread(one.rows / one.work for one in taken),
        "work": run.spread(one.work for one in taken),
        "wall": run.spread(one.wall for one in taken),
        "cpu_per_row": run.spread(one.cpu / one.rows for one in taken),
        "others": run.spread(one.others / one.wall for one in taken),
        "runs": [asdict(one) for one in taken],
    }
    hand = found.get(_SAME.get(way, ""))
    if hand:
        pairs = list(zip(taken, hand, strict=True))
        result["to_hand"] = run.spread(one.work / other.work for one, other in pairs)
        result["wall_to_hand"] = run.spread(one.wall / other.wall for one, other in pairs)
    if way.startswith("ours") and PEER in found:
        result["to_peer"] = run.spread(other.work / one.work for one, other in zip(taken, found[PEER], strict=True))
        result["wall_to_peer"] = run.spread(
            other.wall / one.wall for one, other in zip(taken, found[PEER], strict=True)
        )
    return result


def table(ways: dict[str, Any]) -> str:
    """The figures as a Markdown table: median [least..most]."""
    lines = [
        "",
        "| | videos/s | CPU s per video | time, by hand = 1 | with start and end | video2dataset's time |",
        "|---|---|---|---|---|---|",
    ]
    for way, each in ways.items():
        cells = [run.cell(each["rate"], 2), run.cell(each["cpu_per_row"], 2)]
        cells += [run.cell(each[name], 2) if name in each else "" for name in ("to_hand", "wall_to_hand", "to_peer")]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    if "to_hand" in ways.get("ours", {}):
        reached = ways["ours"]["to_hand"]["median"] <= GOAL
        lines.append(f"\ngoal: at most {GOAL:g} times ffmpeg by hand: {'reached' if reached else 'MISSED'}")
    return "\n".join([*lines, ""])


def films() -> Path:
    """The folder with the films; they are made once."""
    folder = OUT / f"video-films-{FILMS}-{SECONDS}"
    if not folder.exists():
        making = folder.with_suffix(".part")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        for number in range(FILMS):
            source = SOURCES[number % len(SOURCES)].format(scale=number + 2, seconds=SECONDS)
            tone = f"aevalsrc=sin(2*PI*t*({200 + 50 * number}+t*9)):s=44100:d={SECONDS}"
            command = [
                "-f", "lavfi", "-i", source, "-f", "lavfi", "-i", tone, "-c:v", "libx264", "-preset", "veryfast",
                "-b:v", "900k", "-g", "100", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "96k", "-movflags",
                "+faststart", str(making / f"film_{number}.mp4"),
            ]  # fmt: skip
            subprocess.run([binary.locate(None), "-nostdin", "-loglevel", "error", "-y", *command], check=True)
        making.rename(folder)
    return folder


if __name__ == "__main__":
    main()
