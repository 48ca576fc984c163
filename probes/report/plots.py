"""The plots of a report, as SVG text that takes its ink from the page, so that one file suits light and dark.

Needs matplotlib, no display and no torch. Every point has its interval; a point without one isn't drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from probes.report.figures import RateRow
from probes.report.wording import EMBEDDING

# Okabe and Ito's colors: told apart by the color-blind, on white and on black.
MEMBER, NONMEMBER, TWIN = "#D55E00", "#0072B2", "#009E73"
_INK = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

CURVES = (
    ("attacked", "members", MEMBER, "o"),
    ("nonmember_attacked", "matched non-members", NONMEMBER, "s"),
    ("twin_attacked", "clean twin, same works", TWIN, "^"),
)
HARDENED = (
    ("hardened_attacked", "members, hardened", MEMBER, "o"),
    ("hardened_nonmember_attacked", "matched non-members, hardened", NONMEMBER, "s"),
    ("twin_attacked", "clean twin, same works", TWIN, "^"),
)


def ladder_plot(
    ladder: Sequence[RateRow], scores: Sequence[Mapping[str, Any]], metric: str, threshold: float | None
) -> str:
    """Replication rate and copy score against exposures in training, with intervals.

    ``ladder`` rows: rung, exposures, rate, low, high, n; ``scores`` rows: rung, value, low, high.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        rungs = [row["rung"] for row in ladder]
        names = [f"{row['exposures']:.0f}" if row.get("exposures") is not None else str(row["rung"]) for row in ladder]
        points(left, range(len(ladder)), ladder, "rate", color=MEMBER, marker="o")
        points(right, [rungs.index(row["rung"]) for row in scores], scores, "value", color=NONMEMBER, marker="s")
        left.set(ylim=(-0.04, 1.04), ylabel="share of pictures that are copies")
        right.set(ylabel=f"mean copy score ({metric})")
        if threshold is not None:
            right.axhline(threshold, color=_INK, linestyle="--", linewidth=1)
            # On the left, where works were shown least and scores lie far from it.
            right.annotate("threshold", (0.01, threshold), xycoords=("axes fraction", "data"), va="bottom")
        for axes in (left, right):
            axes.set_xticks(range(len(names)), names)
            axes.set(xlabel="times the work was shown in training", xlim=(-0.4, len(names) - 0.6))
            axes.grid(axis="y", color="#88888844", linewidth=0.8)
        return svg(figure)


def attack_plot(
    curve: Sequence[RateRow], curves: Sequence[tuple[str, str, str, str]] = CURVES, axis: str = EMBEDDING.axis
) -> str:
    """Share of copies against steps, members and both controls. Rows: stage, attack_steps, rate, low, high."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.9), layout="constrained")
        axes = figure.subplots()
        steps = sorted({row["attack_steps"] for row in curve})
        for shift, (stage, name, color, marker) in zip((-0.06, 0, 0.06), curves, strict=True):
            rows = [row for row in curve if row["stage"] == stage]
            if rows:
                places = [steps.index(row["attack_steps"]) + shift for row in rows]
                points(axes, places, rows, "rate", name, color=color, marker=marker)
        axes.set_xticks(range(len(steps)), [str(step) for step in steps])
        axes.set(ylim=(-0.04, 1.04), xlabel=axis, ylabel="share of pictures that are copies")
        axes.grid(axis="y", color="#88888844", linewidth=0.8)
        if any(row["rate"] is not None for row in curve):
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure)


def tradeoff_plot(rows: Sequence[Mapping[str, Any]], before: RateRow) -> str:
    """Share of copies against the share of weights pruned, with the random control; and harm against it, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        places = [100 * row["density"] for row in rows]
        points(left, places, rows, "rate", "located weights", color=MEMBER, marker="o")
        points(
            left, places, [row["random"] for row in rows], "rate", "as many random weights", color=NONMEMBER, marker="s"
        )
        if before["rate"] is not None:
            left.axhline(before["rate"], color="#888888", linestyle="--", linewidth=1, label="before")
        left.set(ylim=(-0.04, 1.04), xlabel="weights pruned (%)", ylabel="share of pictures that are copies")
        left.legend(frameon=False)
        harm, label = _harm(rows)
        points(right, places, harm, "value", color=MEMBER, marker="o")
        right.axhline(0, color="#888888", linewidth=0.8)
        right.set(xlabel="weights pruned (%)", ylabel=label)
        for axes in (left, right):
            axes.grid(axis="y", color="#88888844", linewidth=0.8)
        return svg(figure)


def _harm(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """Loss of alignment where it is known, else drift, of ordinary scenes."""
    if any(row["utility"] for row in rows):
        losses = [row["utility"] or {} for row in rows]
        return [{**loss, "value": loss.get("loss")} for loss in losses], "loss of scene alignment"
    drifts: list[Mapping[str, Any]] = [
        next((one for one in row["drift"] if one["group"] == "scenes"), {}) for row in rows
    ]
    return drifts, "drift of ordinary scenes"


def points(
    axes: Axes,
    places: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    key: str,
    label: str | None = None,
    **style: Any,
) -> None:
    """A line through the points that have a value, each with its interval as an error bar; ``style`` as matplotlib's.

    Rows: the key, low, high.
    """
    known = [(place, row) for place, row in zip(places, rows, strict=True) if row.get(key) is not None]
    below = [max(0.0, row[key] - row["low"]) for _, row in known]
    above = [max(0.0, row["high"] - row[key]) for _, row in known]
    axes.errorbar(
        [place for place, _ in known],
        [row[key] for _, row in known],
        yerr=(below, above),
        label=label,
        **{"capsize": 3, "linewidth": 1.6, "markersize": 6, **style},
    )


def svg(figure: Figure) -> str:
    """The figure as an <svg> element for inlining: no prolog, no date, ink and fonts from the page."""
    text = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    # A fixed width in points would overflow a narrow page; the viewBox keeps the proportions.
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawn, count=1)
    return drawn.replace(_INK, "currentColor")
