"""Draw the results of open_web.py, fetch_only.py or memory.py: `plot_web.py results.json picture.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from plot import COLOURS, NAMES

WAYS = {"bare": "pycurl alone", "fetcher": "our fetcher", "command": "our command", "peer": "img2dataset's function"}
WAY_COLOURS = ("#9fc8d6", "#1f6f8b", "#0c3c4d", "#b8b8b8")
SCENES = {
    "http": "http\nkept", "http-close": "http\nnew", "https": "https\nkept", "https-close": "https\nnew",
    "https-h2": "HTTP/2",
}  # fmt: skip


def main(results: Path, picture: Path) -> None:
    """Which figure it is, the results themselves tell."""
    data = json.loads(results.read_text())
    figure = fetch_only(data) if "scenes" in data else open_web(data) if "goals" in data else memory(data)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def open_web(data: dict[str, Any]) -> Any:
    """Pictures that the server has sent, over time, one line per run."""
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name, colour in zip(NAMES, COLOURS, strict=True):
        for number, each in enumerate(data["runs"].get(name, [])):
            sent = sorted(each["sent"])
            axis.step([*sent, each["wall"]], [*range(1, len(sent) + 1), len(sent)], where="post", color=colour,
                      label=None if number else name)  # fmt: skip
            committed = "all rows committed" if each["committed"] == each["rows"] else f"{each['committed']} committed"
            axis.plot([each["wall"]], [len(sent)], "o" if each["committed"] else "x", color=colour)
            if not number:
                axis.annotate(committed, (each["wall"], len(sent)), (6, -14), textcoords="offset points", fontsize=8)
    axis.set_title(f"pictures sent by the server, of {data['urls']} URLs", fontsize=11)
    axis.set_xlabel("seconds")
    axis.set_xlim(0, 1.15 * data["limit"])
    axis.legend(frameon=False, loc="lower right")
    return figure


def fetch_only(data: dict[str, Any]) -> Any:
    """CPU time per request by connection and way, one panel per size of body; logarithmic."""
    kinds = list(dict.fromkeys(scene["body"] for scene in data["scenes"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(11, 4), layout="constrained", squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        scenes = [scene for scene in data["scenes"] if scene["body"] == kind]
        for offset, (way, colour) in enumerate(zip(WAYS, WAY_COLOURS, strict=True)):
            for place, scene in enumerate(scenes):
                if way in scene["ways"]:
                    value = scene["ways"][way]["cpu_ms"]["median"]
                    bar = axis.bar(place + 0.21 * (offset - 1.5), value, 0.2, color=colour,
                                   label=WAYS[way] if place == 0 else None)  # fmt: skip
                    axis.bar_label(bar, fmt="%.2g", fontsize=7)
        axis.set_xticks(range(len(scenes)), [SCENES[scene["listener"]] for scene in scenes])
        axis.set_yscale("log")
        axis.set_title(f"CPU ms per request, bodies of {data['bytes'][kind] / 1000:.0f} kB", fontsize=11)
    axes[0][0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def memory(data: dict[str, Any]) -> Any:
    """Resident memory of the largest process over time."""
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name, colour in zip(NAMES, COLOURS, strict=True):
        samples = data["runs"].get(name, {}).get("samples", [])
        axis.plot([each[0] for each in samples], [each[1] / 1000 for each in samples], color=colour, label=name)
        if samples:
            axis.annotate(data["runs"][name]["how"], (samples[-1][0], samples[-1][1] / 1000), (6, 0),
                          textcoords="offset points", fontsize=8)  # fmt: skip
    axis.axhline(1.0, color="#c05050", linewidth=0.8, linestyle="--")
    megabytes = sum(data["bytes"]) / len(data["bytes"]) / 1e6
    axis.set_title(
        f"resident memory of the worker, GB: {data['urls']} JPEGs of {megabytes:.0f} MB, "
        f"thread_count={data['threads']}", fontsize=11,
    )  # fmt: skip
    axis.set_xlabel("seconds")
    axis.set_xlim(0, 1.15 * max(each[0] for name in data["runs"] for each in data["runs"][name]["samples"]))
    axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
