"""Draw results.json: `plot.py results.json picture.png`. Needs matplotlib, which run.py installs beside it."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

NAMES = ("img2dataset_dist", "img2dataset")
COLOURS = ("#1f6f8b", "#a8a8a8")
DPI = 100
"""A figure of nine inches is shown pixel for pixel where a page is 900 pixels wide."""
GOAL = "#c0392b"
HEIGHT = 0.36


def main(results: Path, picture: Path) -> None:
    """A pair of bars for each row of the table, every run a dot, the goals marked; on the right the CPU time."""
    data = json.loads(results.read_text())
    rows = list(data["rows"].values())
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 1.4 + 0.75 * len(rows)), sharey=True, layout="constrained", width_ratios=(3, 2)
    )
    _bars(left, rows, "rate", 0)
    _bars(right, rows, "cpu_ms", 1)
    for place, row in enumerate(rows):
        _goal(left, place, row)
    left.set_yticks(range(len(rows)), [textwrap.fill(row["title"], 17) for row in rows], fontsize=10)
    left.invert_yaxis()
    left.set_title("images per second (more is better)", fontsize=11)
    right.set_title("CPU ms per image (less is better)", fontsize=11)
    figure.legend(*right.get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=2, fontsize=10)
    machine, options = data["machine"], data["options"]
    figure.supxlabel(
        f"{machine['cores']} cores ({machine['cpu']}), photographs to {options['image_size']} px, nginx on loopback; "
        "median, and each run",
        fontsize=8, color="#555555",
    )  # fmt: skip
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=DPI)


def _bars(axis: Any, rows: list[dict[str, Any]], what: str, digits: int) -> None:
    for offset, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
        for place, row in enumerate(rows):
            y = place + (HEIGHT + 0.02) * (offset - 0.5)
            bar = axis.barh(y, row[name][what]["median"], HEIGHT, color=colour, label=name if place == 0 else None)
            values = [_figure(run, what) for run in row[name]["runs"]]
            axis.plot(values, [y] * len(values), "k.", markersize=4, alpha=0.6)
            text = f"{row[name][what]['median']:.{digits}f}"
            if what == "rate" and not offset:
                text += f"   {row['ratio']['rate']['median']:.1f}x"
            axis.bar_label(bar, [text], padding=7, fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=9)
    axis.margins(x=0.24)


def _goal(axis: Any, place: int, row: dict[str, Any]) -> None:
    """Where our bar should reach: so many times the peer's median."""
    x, y = row["goal"] * row[NAMES[1]]["rate"]["median"], place - HEIGHT - 0.07
    axis.plot([x], [y], marker="v", color=GOAL, markersize=6)
    axis.annotate(f"goal {row['goal']:g}x", (x, y), (6, 0), textcoords="offset points", color=GOAL, fontsize=8.5,
                  va="center")  # fmt: skip


def _figure(run: dict[str, float], what: str) -> float:
    return run["successes"] / run["work"] if what == "rate" else 1000 * run["cpu"] / run["successes"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
