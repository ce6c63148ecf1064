"""Draw video.json: `plot_video.py video.json picture.png`. Needs matplotlib, which run.py installs beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

TITLES = {
    "ours": "img2dataset_dist",
    "by hand": "the same ffmpeg by hand",
    "ours-medium": "img2dataset_dist,\nvideo_preset=medium",
    "by hand, medium": "the same by hand, medium",
    "video2dataset": "video2dataset (medium)",
}
COLOURS = {"ours": "#1f6f8b", "ours-medium": "#1f6f8b", "video2dataset": "#a8a8a8"}


def main(results: Path, picture: Path) -> None:
    """A bar for each way, every run a dot."""
    data = json.loads(results.read_text())
    ways = [way for way in TITLES if way in data["ways"]]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 1.2 + 0.55 * len(ways)), sharey=True, layout="constrained", width_ratios=(3, 2)
    )
    for axis, what, digits in ((left, "rate", 2), (right, "cpu_per_row", 2)):
        for place, way in enumerate(ways):
            found = data["ways"][way]
            bar = axis.barh(place, found[what]["median"], 0.6, color=COLOURS.get(way, "#d8c9a3"))
            values = [
                one["rows"] / one["work"] if what == "rate" else one["cpu"] / one["rows"] for one in found["runs"]
            ]
            axis.plot(values, [place] * len(values), "k.", markersize=4, alpha=0.6)
            axis.bar_label(bar, [f"{found[what]['median']:.{digits}f}"], padding=7, fontsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.2)
    left.set_yticks(range(len(ways)), [TITLES[way] for way in ways], fontsize=9)
    left.invert_yaxis()
    left.set_title("videos per second (more is better)", fontsize=11)
    right.set_title("CPU s per video (less is better)", fontsize=11)
    machine = data["machine"]
    figure.supxlabel(
        f"{machine['cores']} cores ({machine['cpu']}), {data['film_seconds']} s of 640 x 360 to {data['height']} "
        f"pixels and {data['fps']} frames per second, nginx on loopback; median, and each run",
        fontsize=8, color="#555555",
    )  # fmt: skip
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
