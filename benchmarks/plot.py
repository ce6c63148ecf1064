"""Draw results.json: `plot.py results.json picture.png`. Needs matplotlib, which run.py installs beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

NAMES = ("img2dataset_dist", "img2dataset")
COLOURS = ("#1f6f8b", "#b8b8b8")
PANELS = (("rate", "images per second (more is better)", 0), ("cpu_ms", "CPU ms per image (less is better)", 1))


def main(results: Path, picture: Path) -> None:
    """One panel per figure, one pair of bars per scheme, every run a dot."""
    data = json.loads(results.read_text())
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 4), layout="constrained")
    for axis, (what, title, digits) in zip(axes, PANELS, strict=True):
        _panel(axis, data["schemes"], what, digits)
        axis.set_title(title, fontsize=11)
    axes[1].legend(frameon=False, loc="upper left")
    machine, pictures = data["machine"], data["corpus"]
    figure.supxlabel(
        f"{machine['cores']} cores ({machine['cpu']}), {pictures['files']} JPEGs of "
        f"{pictures['mean_bytes'] / 1000:.0f} kB to {data['options']['image_size']} px, nginx on loopback; "
        "median, and each run",
        fontsize=8,
        color="#555555",
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)


def _panel(axis: Any, schemes: dict[str, Any], what: str, digits: int) -> None:
    for offset, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
        for place, figures in enumerate(schemes.values()):
            x = place + 0.38 * (offset - 0.5)
            bar = axis.bar(x, figures[name][what]["median"], 0.36, color=colour, label=name if place == 0 else None)
            axis.bar_label(bar, fmt=f"%.{digits}f", padding=6)
            values = [_figure(run, what) for run in figures[name]["runs"]]
            axis.plot([x] * len(values), values, "k.", markersize=5, alpha=0.7)
    axis.set_xticks(range(len(schemes)), list(schemes))
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)


def _figure(run: dict[str, float], what: str) -> float:
    return run["successes"] / run["work"] if what == "rate" else 1000 * run["cpu"] / run["successes"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
