"""A picture of what scans cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[dict[str, Any]]


def plot(figures: dict[str, Rows], path: Path) -> None:
    """Speed against the limit and the references, memory against prompts, speed against workers: what there is."""
    from matplotlib.figure import Figure

    panels = {name: draw for name, draw in PANELS.items() if figures.get(name)}
    if not panels:
        return
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, (name, draw) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        draw(axes, figures[name])
    figure.savefig(path, dpi=130)


def speeds(axes: Any, rows: Rows) -> None:
    rows = [row for row in rows if row["name"].endswith("prompts a second")][::-1]
    for place, row in enumerate(rows):
        axes.barh(place, row["value"], color="C0" if row["name"].startswith("scan") else "#999999")
        axes.text(row["value"], place, f" {row['value']:.3g}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row["name"].split(":")[0] for row in rows], fontsize=8)
    axes.set(xscale="log", xlabel="prompts a second (testbed)")
    axes.set_xlim(right=4 * max(row["value"] for row in rows))


def memory(axes: Any, rows: Rows) -> None:
    points = [
        (float(row["name"].split(" at ")[1].split()[0].replace(",", "")), row["value"])
        for row in rows
        if row["name"].startswith("resident")
    ]
    axes.plot(*zip(*points, strict=True), "o-", ms=4)
    axes.set(xscale="log", xlabel="prompts scored", ylabel="resident memory, MB")
    axes.set_ylim(0, 1.2 * max(rss for _, rss in points))


def workers(axes: Any, rows: Rows) -> None:
    rows = [row for row in rows if row["name"].endswith("prompts a second")]
    counts = [int(row["name"].split()[0]) for row in rows]
    axes.plot(counts, [row["value"] for row in rows], "o-", ms=4)
    axes.set(xlabel="Ray workers", ylabel="prompts a second", xticks=counts)
    axes.set_ylim(0, 1.2 * max(row["value"] for row in rows))


PANELS = {"scan_throughput": speeds, "scan_memory": memory, "scan_workers": workers}
