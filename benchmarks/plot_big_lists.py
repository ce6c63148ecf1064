"""Draw the results of big_lists.py: `plot_big_lists.py big_lists.json picture.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from plot import DPI

COLOURS = {"parquet": "#1f6f8b", "csv": "#d98324", "json": "#7a5195", "csv.gz": "#5c8a3a"}


def main(results: Path, picture: Path) -> None:
    """Memory, the first shard and the whole list against rows; memory and the first shard against files."""
    data = json.loads(results.read_text())
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), layout="constrained")
    for kind, colour in COLOURS.items():
        points = [point for point in data["points"] if point["panel"] == kind]
        _line(axes[0], points, "peak_mb", colour, kind)
        _line(axes[1], points, "first_s", colour, kind)
        _line(axes[1], points, "again_s", colour, None, style="--")
    for panel, colour in (("files", "#1f6f8b"), ("files, 30 ms away", "#a8a8a8")):
        points = [point for point in data["points"] if point["panel"] == panel]
        _line(
            axes[2],
            points,
            "first_s",
            colour,
            panel.replace("files", "on a disk", 1) if panel == "files" else "30 ms away",
        )
    axes[0].set_ylim(0, 300)
    for axis, title, label in zip(
        axes,
        ("peak MB of the driver", "first shard after, s (dashed: going on)", "first shard after, s"),
        ("rows of the list", "rows of the list", "parquet files"),
        strict=True,
    ):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(label, fontsize=9)
        axis.set_xscale("log")
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1:]:
        axis.set_ylim(bottom=0)
    machine = data["machine"]
    figure.supxlabel(
        f"{machine['cores']} cores ({machine['cpu']}), {SHARD:,} rows in a shard, no shard is worked on",
        fontsize=8, color="#555555",
    )  # fmt: skip
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=DPI)


SHARD = 10_000


def _line(
    axis: Any, points: list[dict[str, Any]], what: str, colour: str, label: str | None, *, style: str = "-"
) -> None:
    if points:
        xs, ys = zip(*sorted((point["x"], point[what]) for point in points), strict=True)
        axis.plot(xs, ys, style, marker="o", markersize=3.5, color=colour, label=label)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
