# ruff: noqa: INP001 (a script)
"""Build img2dataset.pex: one file that is the command, and a Python with the package and all that it needs.

    python deploy/pex/build.py --cache .venv/pex --output img2dataset.pex           # make pex
    python deploy/pex/build.py --cache .venv/pex --output thin.pex --thin           # make pex-thin: without pyspark

The same checkout gives the same bytes, whenever and wherever it is built with the same minor version of Python and the
same zlib on the same kind of machine: all wheels are those of the lock files, checked by hash. Two are built here, that
of pyspark, which is published as source only, and our own; by tools that are locked too, with a fixed time and fixed
modes of files.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "img2dataset_dist")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
EPOCH = "315532800"  # 1980, where the times of a zip begin

ROOT_MARK = 'PEX_ROOT="${PEX_ROOT:-${DEFAULT_PEX_ROOT}}"\n'
ROOT_CHOICE = """\
# img2dataset: where the home folder cannot be written, pex would unpack into a new folder at every start. A folder of
# this user, on this host, is unpacked into once. Nobody else may own it: it holds code.
if [ -z "${PEX_ROOT:-}" ] && [ ! -w "${DEFAULT_PEX_ROOT}" ] \\
    && ! { mkdir -p "${DEFAULT_PEX_ROOT}" 2>/dev/null && [ -w "${DEFAULT_PEX_ROOT}" ]; }; then
    own="${TMPDIR:-/tmp}/img2dataset-pex-$(id -u 2>/dev/null || echo user)"
    mkdir -m 700 "${own}" 2>/dev/null || :
    if [ -d "${own}" ] && [ ! -L "${own}" ] && [ -O "${own}" ]; then
        export PEX_ROOT="${own}"
    fi
fi

"""
PYTHON_MARK = 'echo >&2 "Failed to find any of these python binaries on the PATH:"\n'
PYTHON_ADVICE = f"""\
echo >&2 "${{0##*/}} needs CPython {PYTHON} (as python{PYTHON} or python3), and there is none on PATH=${{PATH:-}}"
echo >&2 "install it, name it in PEX_PYTHON, or build the pex with the Python that is there"
exit 1
"""


def main() -> None:
    """Build what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps tools and wheels")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--thin", action="store_true", help="leave pyspark out")
    options = parser.parse_args()
    os.umask(0o022)  # modes of files are part of a wheel
    options.cache.mkdir(parents=True, exist_ok=True)
    with locked(options.cache / "lock"):
        tools = make_tools(options.cache.absolute())
        locks = ["requirements"] if options.thin else ["requirements", "spark"]
        wheels = [make_wheels(options.cache.absolute(), tools, name) for name in locks]
        with tempfile.TemporaryDirectory(dir=options.cache) as work:
            wheels.append(make_own_wheel(Path(work).absolute(), tools))
            built = Path(work).absolute() / options.output.name
            make_pex(built, tools, wheels, thin=options.thin)
            finish(built, options.output)
    print(
        f"{options.output}: {options.output.stat().st_size / 1e6:.0f} MB, for CPython {PYTHON} on {platform.machine()}"
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone in the cache: two builds at once would write the same wheels."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_tools(cache: Path) -> Path:
    """The Python of a venv that holds what tools.txt says."""
    lock = HERE / "tools.txt"
    folder = cache / f"tools-{key(lock)}"
    python = folder / "bin" / "python"
    if not (folder / ".done").exists():
        print("installing the tools that build the pex", flush=True)
        venv.create(folder, with_pip=True, clear=True, symlinks=True)
        run(str(python), "-m", "pip", "install", "-qq", "--require-hashes", "--requirement", str(lock))
        (folder / ".done").touch()
    return python


def make_wheels(cache: Path, tools: Path, name: str) -> Path:
    """The folder with the wheels of NAME.txt for this Python and machine."""
    lock = HERE / f"{name}.txt"
    folder = cache / f"{name}-{key(lock, HERE / 'tools.txt')}"
    if not (folder / ".done").exists():
        print(f"getting the wheels of {lock.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        # No cache: it may hold a pyspark that other tools have built.
        options = ["-qq", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--require-hashes"]
        run(str(tools), "-m", "pip", "wheel", *options, "--requirement", str(lock), "--wheel-dir", str(folder))
        (folder / ".done").touch()
    return folder


def key(*locks: Path) -> str:
    """Part of a folder's name: what it holds is made of this."""
    content = b"".join(lock.read_bytes() for lock in locks) + platform.machine().encode()
    return f"cp{PYTHON}-{hashlib.sha256(content).hexdigest()[:12]}"


def make_own_wheel(work: Path, tools: Path) -> Path:
    """The folder with our own wheel, built from a copy: in the checkout it would pick up what older builds left."""
    copy, folder = work / "source", work / "own"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    options = ["-qq", "--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir"]
    run(str(tools), "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(copy))
    return folder


def make_pex(output: Path, tools: Path, wheels: list[Path], *, thin: bool) -> None:
    """Pack the wheels of these folders.

    Wheels go in as they are installed. (As files they would be packed in seconds, but each unpacking would leave a copy
    of all of them in the folder for temporary files.) /bin/sh starts it: a warm start never opens the zip. PYTHONPATH
    counts, as for any Python: that is where a cluster puts its pyspark.
    """
    dists = [part for folder in wheels for part in ("--pre-resolved-dists", str(folder))]
    extras = "stores,wandb" if thin else "spark,stores,wandb"
    run(
        str(tools.parent / "pex"),
        *dists,
        f"--pex-root={output.parent / 'pex-root'}",
        f"--interpreter-constraint=CPython=={PYTHON}.*",
        "--venv",
        "--sh-boot",
        "--non-hermetic-venv-scripts",
        "--entry-point=img2dataset_dist.pex_entry:main",
        f"--output-file={output}",
        f"img2dataset_dist[{extras}]",
        "yt-dlp",
    )


def finish(built: Path, output: Path) -> None:
    """Move a pex to its place, with two changes in the script that starts it: see `ROOT_CHOICE`, `PYTHON_ADVICE`."""
    with zipfile.ZipFile(built) as archive:
        start = min(entry.header_offset for entry in archive.infolist())
    new = output.with_name(f".{output.name}.new")
    with open(built, "rb") as old, open(new, "wb") as file:
        script = old.read(start).decode()
        for mark, text in ((ROOT_MARK, ROOT_CHOICE), (PYTHON_MARK, PYTHON_ADVICE)):
            if script.count(mark) != 1:
                sys.exit(f"build.py: a pex of this version does not begin with {mark!r} once; adapt it")
            script = script.replace(mark, text + mark)
        file.write(script.encode())
        shutil.copyfileobj(old, file, 1 << 20)
    with zipfile.ZipFile(new, "a") as archive:
        archive.comment = b""  # counts as a change: the directory is written again, with the offsets as they are now
    new.chmod(0o755)
    new.replace(output)


def run(*command: str) -> None:
    """Run a step; what it said is shown when it fails."""
    # A fixed time, and none of the builder's own settings of pex and Python.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PEX_", "PYTHON"))}
    environment = {**kept, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": "0"}
    done = subprocess.run(  # noqa: S603 (commands of this file)
        command, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}build.py: this failed with exit code {done.returncode}: {' '.join(command)}")


if __name__ == "__main__":
    main()
