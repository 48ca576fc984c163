"""Plots of `diffshield locality`. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from probes.report.mask_plots import short
from probes.report.plots import MEMBER, NONMEMBER, STYLE, TWIN, svg

_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Group, what it is called, color, marker.
_GROUPS = (
    ("results", "results of one work", MEMBER, "o"),
    ("captions", "captions of different works", NONMEMBER, "s"),
    ("starts", "starts, which trigger nothing", TWIN, "^"),
    ("noises", "one caption, other noise", "#888888", "D"),
    ("random, results", "random masks as large as the results'", "#E69F00", "v"),
    ("random, captions", "random masks as large as the captions'", "#888888", "D"),
)


def plots(found: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SVG of what was analyzed: map, activations, and the masks of each localizer."""
    drawn = {}
    if found.get("map"):
        drawn["map"] = map_plot(found["map"])
    if found.get("activations"):
        drawn["activations"] = layers_plot(relative(found["activations"]), "distance of activations (captions: 1)")
    for kind in dict.fromkeys(row["kind"] for row in found.get("masks", ())):
        rows = [row for row in found["masks"] if row["kind"] == kind]
        drawn[f"masks_{kind}"] = layers_plot(rows, f"overlap of {kind} masks (IoU)")
    return drawn


def map_plot(found: Mapping[str, Any]) -> str:
    """Starts (hollow), results (filled) and captions (crosses) in the plane of most variance, a color for each work."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for group, marker, size, name in (
            ("starts", "o", 34, "start"),
            ("results", "o", 34, "result"),
            ("captions", "x", 40, "caption of a work"),
        ):
            points = [point for point in found["points"] if point["group"] == group]
            ink = ["#888888" if group == "captions" else _COLORS[point["block"] % len(_COLORS)] for point in points]
            faces: Any = {"facecolors": "none", "edgecolors": ink} if group == "starts" else {"c": ink}
            axes.scatter(
                [point["x"] for point in points],
                [point["y"] for point in points],
                marker=marker,
                s=size,
                label=name,
                **faces,
            )
        axes.set(
            xlabel=f"first two principal components ({100 * found['explained']:.0f}% of the variance)",
            xticks=[],
            yticks=[],
        )
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure)


def relative(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cells as multiples of group "captions", since layers differ in size; layers whose captions are equal are out."""
    found = []
    for row in rows:
        unit = row["groups"]["captions"]["value"]
        if unit:
            groups = {
                name: {
                    **cell,
                    **{key: None if cell[key] is None else cell[key] / unit for key in ("value", "low", "high")},
                }
                for name, cell in row["groups"].items()
            }
            found.append({**row, "groups": groups})
    return found


def layers_plot(rows: Sequence[Mapping[str, Any]], label: str) -> str:
    """A line for each layer with the groups' means and intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 1.2 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        known = [group for group in _GROUPS if any(group[0] in row["groups"] for row in rows)]
        for number, (group, name, color, marker) in enumerate(known):
            places = [place + 0.16 * (number - (len(known) - 1) / 2) for place in range(len(rows))]
            cells = [(place, row["groups"].get(group)) for place, row in zip(places, rows, strict=True)]
            drawn = [(place, cell) for place, cell in cells if cell is not None and cell["value"] is not None]
            values = [cell["value"] for _, cell in drawn]
            errors = [
                [0.0 if cell[end] is None else abs(cell["value"] - cell[end]) for _, cell in drawn]
                for end in ("low", "high")
            ]
            axes.errorbar(
                values,
                [place for place, _ in drawn],
                xerr=errors,
                color=color,
                marker=marker,
                linestyle="",
                markersize=4.5,
                capsize=2,
                label=name,
            )
        axes.set_yticks(range(len(rows)), [short(row["layer"]) for row in rows])
        axes.invert_yaxis()
        axes.set(xlabel=label)
        axes.set_xlim(left=0)
        axes.grid(axis="x", color="#88888844", linewidth=0.8)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure)
