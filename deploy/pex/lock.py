# ruff: noqa: INP001 (a script)
"""Choose the versions that the pex holds anew: writes requirements.txt, spark.txt and tools.txt beside this file.

    python deploy/pex/lock.py --cache .venv/pex          # make pex-locks

A lock names for each package the version, and the hashes of all its files; it holds for every Python and machine of
`PYTHONS` and `MACHINES`, which is checked at the end: each must have a ready wheel. (But for pyspark, which is
published as source only; it is the same everywhere.)
"""

from __future__ import annotations

import argparse
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
EXTRAS = ("--extra", "stores", "--extra", "wandb")
HEADER = "# Made by `make pex-locks` from {sources}; do not edit.\n"


def main() -> None:
    """Write the locks, then check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the tool that does it")
    tools = parser.parse_args().cache.absolute() / "locker"
    if not (tools / "bin" / "uv").exists():
        venv.create(tools, with_pip=True, clear=True)
        _run(str(tools / "bin" / "python"), "-m", "pip", "install", "-qq", "uv")
    uv = str(tools / "bin" / "uv")
    write(uv, "requirements", "setup.py", *EXTRAS)
    write(uv, "spark", "--constraint", "deploy/pex/requirements.txt")
    write(uv, "tools")
    for python in PYTHONS:
        for machine in MACHINES:
            print(f"is there a wheel of everything for Python {python} on {machine}?", flush=True)
            target = ["--python-version", python, "--python-platform", machine, "--target", str(tools / "nothing")]
            kind = ["--dry-run", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
            _run(uv, "pip", "install", *kind, *target, "--requirement", "deploy/pex/requirements.txt")


def write(uv: str, name: str, *more: str) -> None:
    """Write NAME.txt from its NAME.in (pex.in for requirements.txt) and what else is given."""
    source = "pex.in" if name == "requirements" else f"{name}.in"
    lock = HERE / f"{name}.txt"
    print(f"writing {lock.relative_to(ROOT)}", flush=True)
    options = [
        "--universal",
        "--python-version",
        PYTHONS[0],
        "--generate-hashes",
        "--upgrade",
        "--quiet",
        "--no-header",
    ]
    _run(uv, "pip", "compile", *options, *more, f"deploy/pex/{source}", "--output-file", f"deploy/pex/{lock.name}")
    sources = f"setup.py and {source}" if name == "requirements" else source
    lock.write_text(HEADER.format(sources=sources) + lock.read_text())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 (commands of this file)


if __name__ == "__main__":
    main()
