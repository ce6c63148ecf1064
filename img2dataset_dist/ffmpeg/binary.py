"""Which ffmpeg is run: the one of the option `ffmpeg`, else the one in the wheel `imageio-ffmpeg`."""

from __future__ import annotations

import functools
import glob
import importlib.util
import os
import shutil
import subprocess

from img2dataset_dist.errors import ConfigError

_PATIENCE = 60.0
"""Seconds for an ffmpeg to say who it is."""


@functools.cache
def locate(wanted: str | None) -> str:
    """The full path of an ffmpeg that runs on this machine. Asked once per process, and then remembered.

    Args:
        wanted: a path or a command, as the option `ffmpeg` has it; None for the one that was installed with us.

    Raises:
        ConfigError: it is not there, or does not run.
    """
    path = _in_wheel() if wanted is None else shutil.which(wanted)
    name = "the ffmpeg of imageio-ffmpeg" if wanted is None else f"ffmpeg={wanted!r}"
    if path is None:
        raise ConfigError(f"{name}: there is no such program; leave the option out for the one that is installed")
    said = _ask(path, name, "-hide_banner", "-version")
    if said.returncode or not said.stdout.startswith(b"ffmpeg version"):
        raise ConfigError(f"{name}: it is no ffmpeg that runs here: {_first_line(said) or 'it says nothing'}")
    return os.path.abspath(path)


@functools.cache
def check_nvidia(binary: str, encoder: str) -> None:
    """Make sure that `hardware="nvidia"` can be had, by encoding a picture. Asked once per process.

    Raises:
        ConfigError: this ffmpeg has no NVENC, or this machine no card for it.
    """
    said = _ask(
        binary, "hardware='nvidia'", "-nostdin", "-hide_banner", "-loglevel", "error", "-f", "lavfi",
        "-i", "color=size=256x256:rate=1", "-frames:v", "1", "-c:v", encoder, "-f", "null", "-",
    )  # fmt: skip
    if said.returncode:
        raise ConfigError(
            f"hardware='nvidia': {encoder} does not work here: {_first_line(said)}; "
            "set hardware='none', or ffmpeg to one that has NVENC on a machine with such a card"
        )


def _ask(path: str, name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(  # noqa: S603 (the user's own choice)
            [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{name}: it cannot be run: {error}") from error


def _first_line(said: subprocess.CompletedProcess[bytes]) -> str:
    lines = (said.stderr + b"\n" + said.stdout).decode(errors="replace").strip().splitlines()
    return lines[0][:300] if lines else ""


def _in_wheel() -> str | None:
    """The program that comes with imageio-ffmpeg. `IMAGEIO_FFMPEG_EXE` is left aside: the option decides."""
    spec = importlib.util.find_spec("imageio_ffmpeg")
    if spec is None or spec.origin is None:
        return None
    found = glob.glob(os.path.join(glob.escape(os.path.dirname(spec.origin)), "binaries", "ffmpeg-*"))
    return max((path for path in found if os.access(path, os.X_OK)), default=None)
