"""Plots of a mask: how dense it is in each layer, and how much the masks of different prompts overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from probes.report.plots import MEMBER, NONMEMBER, STYLE, svg


def density_plot(densities: Mapping[str, float]) -> str:
    """Selected share of each layer, in percent, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 0.8 + 0.26 * len(densities)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(densities)), [100 * value for value in densities.values()], color=MEMBER)
        axes.set_yticks(range(len(densities)), [short(path) for path in densities])
        axes.invert_yaxis()
        axes.set(xlabel="weights selected (%)")
        axes.grid(axis="x", color="#88888844", linewidth=0.8)
        return svg(figure)


def overlap_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Overlap of two sets' masks against the sets' size, beside random masks of equal size, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.5), layout="constrained")
        axes = figure.subplots()
        for key, name, color, marker in (
            ("iou", "located", MEMBER, "o"),
            ("iou_random", "random masks of equal size", NONMEMBER, "s"),
        ):
            known = [(row["prompts"], row[key]) for row in rows if row[key] is not None]
            axes.plot(
                [size for size, _ in known], [value for _, value in known], color=color, marker=marker, label=name
            )
        axes.set_xscale("log", base=2)
        sizes = [row["prompts"] for row in rows]
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set(
            ylim=(-0.02, 1.02),
            xlabel="prompts in each of two sets that share none",
            ylabel="overlap of their masks (IoU)",
        )
        axes.grid(axis="y", color="#88888844", linewidth=0.8)
        axes.legend(frameon=False)
        return svg(figure)


def short(path: str) -> str:
    """A module path as diffusers writes it, without what all feed-forward layers share."""
    for part in (".transformer_blocks.0", ".ff.net.2"):
        path = path.replace(part, "")
    return path
