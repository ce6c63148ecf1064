"""The two programs, how they are run, and what is measured and checked of a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import limited

OURS = "img2dataset_dist"
PEER = "img2dataset"
PEER_REQUIREMENTS = (
    "img2dataset==1.47.0",
    "standard-imghdr; python_version >= '3.13'",  # a module it imports, which Python 3.13 has dropped
)
PEER_VERSIONS = ("img2dataset", "opencv-python-headless", "numpy", "pyarrow", "exifread-nocycle", "webdataset")
OUR_VERSIONS = ("opencv-python-headless", "numpy", "pyarrow", "exifread", "simplejpeg", "pyspng", "pillow", "pycurl")
TIME_LIMIT = 3600


class Serving(Protocol):
    """A server, as far as a run needs to know it."""

    @property
    def trust(self) -> Path:
        """File of certificates that a client should trust."""

    def cpu_seconds(self) -> float:
        """What its processes have used so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A program that is run; `versions` has those of its packages that matter for speed."""

    name: str
    command: list[str]
    versions: Mapping[str, str]

    def having(self, *flags: str) -> Contender:
        """The same program with more flags, which only it knows."""
        return replace(self, command=[*self.command, *flags])


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What both are asked to do; both take these names."""

    processes_count: int
    thread_count: int
    number_sample_per_shard: int
    image_size: int = 256
    resize_mode: str = "border"
    encode_quality: int = 95
    output_format: str = "webdataset"
    input_format: str = "txt"

    def flags(self) -> list[str]:
        """The options as command-line flags."""
        return [f"--{name}={getattr(self, name)}" for name in self.__dataclass_fields__]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came out of one run.

    Attributes:
        rows, successes: as the program counted them; the number of images in its tars was checked to be the same.
        wall: seconds of the whole command, start and end included.
        work: seconds from when the first shard began to when the last was complete.
        cpu: seconds that all its processes used, however deep, start included (`reaper.py`).
        server_cpu: seconds that the server used meanwhile.
        peak_mb: largest resident size that any of its processes ever had, in 10^6 bytes.
        pss_mb: most that all of them together had, at the moments that were looked at; what they share counts once.
        stored: bytes of all images in the tars.
        others: CPU seconds that anything else on the machine used meanwhile: a quiet machine has next to none.
    """

    rows: int
    successes: int
    wall: float
    work: float
    cpu: float
    server_cpu: float
    peak_mb: float
    pss_mb: float
    stored: int
    others: float

    @property
    def rate(self) -> float:
        """Images per second of work."""
        return self.successes / self.work

    @property
    def wall_rate(self) -> float:
        """Images per second of the whole command."""
        return self.successes / self.wall

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per image."""
        return 1000 * self.cpu / self.successes


class LostRowsError(Exception):
    """A run did not account for every row, or fewer images arrived than were served."""


def ours() -> Contender:
    """This project, as it is installed for the Python that runs the benchmark."""
    from img2dataset_dist.about import VERSION  # noqa: PLC0415 (the peer's run needs nothing of it)

    versions = {OURS: VERSION, **_versions(sys.executable, OUR_VERSIONS)}
    command = [sys.executable, "-m", "img2dataset_dist", "--allow_private_addresses"]  # loopback is one
    return Contender(name=OURS, command=command, versions=versions)


def peer(out: Path) -> Contender:
    """img2dataset from its own package, in a virtual environment of its own below `out`."""
    python = venv(out / "peer-venv", PEER_REQUIREMENTS)
    return Contender(
        name=PEER, command=[str(python.with_name("img2dataset"))], versions=_versions(str(python), PEER_VERSIONS)
    )


def venv(folder: Path, requirements: tuple[str, ...]) -> Path:
    """The Python of a virtual environment that has `requirements`; it is made when it is not there or has others."""
    python, mark = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join((f"# Python {sys.version}", *requirements))
    if not mark.exists() or mark.read_text() != wanted:
        print(f"installing {', '.join(requirements)} into {folder.name}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", "-q"]
        subprocess.run([*install, *requirements], check=True, stdin=subprocess.DEVNULL)
        mark.write_text(wanted)
    return python


def environment(trust: Path) -> dict[str, str]:
    """For both: trust the server, go there directly, and ask no other machine for anything."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "SSL_CERT_FILE": str(trust), "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}


def run(contender: Contender, options: Options, urls: list[str], work: Path, server: Serving) -> Run:
    """Run a contender over `urls` of the server, in `work`, which is emptied first.

    Raises:
        LostRowsError: rows or images are missing.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
    command = [*contender.command, f"--url_list={work / 'urls.txt'}", f"--output_folder={work / 'out'}"]
    served, busy = server.cpu_seconds(), _busy_seconds()
    ended = limited.execute([*command, *options.flags()], work, environment(server.trust), seconds=TIME_LIMIT)
    served, busy = server.cpu_seconds() - served, _busy_seconds() - busy
    if ended.code != 0:
        raise SystemExit(f"{contender.name}: {ended.how}; {work / 'log.txt'} says why")
    rows, successes, seconds = receipts(work / "out")
    images, stored = _images(work / "out")
    if not rows == successes == images == len(urls):
        raise LostRowsError(
            f"{contender.name}: {len(urls)} URLs, {rows} rows, {successes} successes, {images} images in the tars; "
            f"see {work}"
        )
    return Run(
        rows=rows, successes=successes, wall=ended.wall, work=seconds, cpu=ended.cpu,
        server_cpu=served,
        peak_mb=ended.peak_mb, pss_mb=ended.pss_mb, stored=stored, others=max(0.0, busy - served - ended.cpu),
    )  # fmt: skip


def _busy_seconds() -> float:
    """CPU seconds of everything on the machine since it started, with what its host took away; 0 where unknown."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def receipts(folder: Path) -> tuple[int, int, float]:
    """Rows, successes and seconds of work, from the NNNNN_stats.json that both write."""
    found = [json.loads(path.read_text()) for path in folder.glob("*_stats.json")]
    if not found:
        return 0, 0, 0.0
    seconds = max(each["end_time"] for each in found) - min(each["start_time"] for each in found)
    return sum(each["count"] for each in found), sum(each["successes"] for each in found), seconds


def _images(folder: Path) -> tuple[int, int]:
    """How many distinct samples have both their image and their JSON in the tars, and the bytes of the images."""
    keys: dict[str, set[str]] = {"jpg": set(), "json": set()}
    stored = 0
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, kind = member.name.partition(".")
                keys[kind].add(key)
                stored += member.size if kind == "jpg" else 0
    return len(keys["jpg"] & keys["json"]), stored


def _versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    code = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        pass
"""
    done = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True)
    return dict(line.split() for line in done.stdout.splitlines())
