"""Contact sheets, and the ladder of exposures as a plot: what a bench shows beside its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw


def sheet(rows: Sequence[Sequence[Image.Image]], names: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Contact sheet: a name above each row, a heading above each column."""
    cell, line = 132, 16
    wide = max(len(row) for row in rows)
    image = Image.new("RGB", (wide * cell + 4, line + len(rows) * (cell + line)), "white")
    draw = ImageDraw.Draw(image)
    for k, column in enumerate(columns):
        draw.text((4 + k * cell, 2), column, fill=(90, 90, 90))
    for n, (row, name) in enumerate(zip(rows, names, strict=True)):
        top = line + n * (cell + line)
        draw.text((4, top + 1), name, fill=(20, 20, 20))
        for k, picture in enumerate(row):
            image.paste(picture, (4 + k * cell, top + line))
    return image


def ladder_plot(works: dict, metrics: Sequence[str], path: Path) -> None:
    """Replication rate against exposures, both twins and these metrics, with 95 % intervals."""
    from matplotlib.figure import Figure

    from probes.report.plots import points

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    rungs = [k for k in works["memorized"] if k != "TM"]
    for twin, color in (("memorized", "#c0392b"), ("clean", "#2471a3")):
        for metric, mark in zip(metrics, ("o-", "s--", "^:"), strict=False):
            rows = [works[twin][k][metric] for k in rungs]
            points(axes, range(len(rungs)), rows, "copied", f"{twin}, {metric}", fmt=mark, color=color, markersize=4)
    axes.set_xticks(range(len(rungs)), rungs)
    axes.set(xlabel="exposures in training", ylabel="share of pictures that are copies", ylim=(-0.05, 1.05))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
