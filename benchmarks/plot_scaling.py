"""Draw the results of scaling.py: `plot_scaling.py scaling.json picture.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from plot import COLOURS, DPI, NAMES

PANELS = {
    "source": ("CPU ms per image", "longer side of the picture, px", "cpu_ms"),
    "image_size": ("CPU ms per image", "image_size, of pictures of 1500 px", "cpu_ms"),
    "threads": ("images per second", "thread_count, per process", "rate"),
}
LINES = {0.0: "-", 0.02: "-", 0.2: "--"}
"""Style by the seconds that the server waits."""


def main(results: Path, picture: Path) -> None:
    """One panel for each thing that was varied, one line per program."""
    data = json.loads(results.read_text())
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9, 3.5), layout="constrained")
    for axis, (panel, (title, label, what)) in zip(axes, PANELS.items(), strict=True):
        points = [point for point in data["points"] if point["panel"] == panel]
        _panel(axis, points, what, wide=panel == "source")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(label, fontsize=9)
    if axes[0].lines:
        axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    if axes[2].lines:
        axes[2].legend(frameon=False, fontsize=8, loc="lower right")
    machine = data["machine"]
    figure.supxlabel(
        f"{machine['cores']} cores ({machine['cpu']}), JPEG to webdataset, start not counted, "
        f"thread_count={data['options']['thread_count']} but on the right", fontsize=8, color="#555555",
    )  # fmt: skip
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=DPI)


def _panel(axis: Any, points: list[dict[str, Any]], what: str, *, wide: bool) -> None:
    xs = sorted({point["x"] for point in points})
    for latency in sorted({point["latency"] for point in points}):
        for name, colour in zip(NAMES, COLOURS, strict=True):
            line = sorted((p["x"], p[what]) for p in points if (p["name"], p["latency"]) == (name, latency))
            label = f"{'ours' if name == NAMES[0] else 'peer'}, {1000 * latency:.0f} ms away" if latency else name
            axis.plot(*zip(*line, strict=True), LINES[latency], marker="o", markersize=3.5, color=colour, label=label)
    axis.set_xscale("log", base=2)
    if wide:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.set_ylim(bottom=0)
    axis.set_xticks(xs, list(map(str, xs)), fontsize=8, rotation=45 if len(xs) > len("7 fit") else 0)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
