"""A plot for each result file, drawn from the file alone: changing how a figure looks needs no new measurement."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.bench.detectors import ranked
from probes.report.format import Figures, finished
from probes.report.plots import points

MANY = "C0o- C1o- C2o- C4o- C5o- C6o- C8o- C9o- C0s- C1s- C2s- C4s- C5s- C6s- C8s- C9s- C0^- C1^- C2^-".split()
OURS, CONTROL, TWIN = "C3o-", "C7s--", "C0x--"
SMALL: dict[str, Any] = {"markersize": 5, "linewidth": 1, "capsize": 2, "elinewidth": 0.7}


def draw(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Draws the plots of these result files (of all that have one) that lie in the folder; returns the pictures."""
    made = []
    for name in names or PLOTS:
        file = folder / f"{name}.json"
        found = finished(file)
        figure = PLOTS[name](found) if found else None
        if figure is not None:
            made.append(file.with_suffix(".png"))
            figure.savefig(made[-1], dpi=130)
    return made


def detectors(result: Figures) -> Figure:
    """A panel for each detector, the best first: AUROC by rung, against either kind of negatives and on the twin."""
    names, columns = ranked(result), 4
    lines = ceil(len(names) / columns)
    figure = Figure(figsize=(2.5 * columns, 2.2 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        row = result["detectors"][name]
        rungs = [group for group in row["groups"] if group.startswith("rung")]
        for key, style, label in (
            ("auroc_nonmembers", OURS, "against matched non-members"),
            ("auroc_scenes", "C1s-", "against scenes"),
            ("auroc_on_twin", TWIN, "against both, on the clean twin"),
        ):
            axes.plot([row["groups"][rung][key] for rung in rungs], style, ms=4, lw=1, label=label)
        axes.axhline(0.5, color="#999999", lw=0.8)
        axes.set_xticks(range(len(rungs)), [rung.removeprefix("rung ") for rung in rungs], fontsize=8)
        axes.set_ylim(-0.04, 1.04)
        axes.set_title(name, fontsize=10)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    labels = panels[0].get_legend_handles_labels()
    figure.legend(*labels, frameon=False, ncols=3, loc="outside upper center", fontsize=9)
    figure.supxlabel("exposures in training", fontsize=9)
    figure.supylabel("AUROC", fontsize=9)
    return figure


def shield(result: Figures) -> Figure | None:
    """Copies that left, by rung: the bare pipeline's, behind the shield, and behind it with a gallery.

    None while works weren't measured.
    """
    ways = result.get("works")
    if ways is None:
        return None
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (way, color) in enumerate(zip(ways, ("C3", "C0", "C2"), strict=True)):
        where = [n + (place - 1) * 0.27 for n in range(len(ways[way]))]
        rows = list(ways[way].values())
        axes.bar(where, [row["share"] for row in rows], 0.25, color=color, label=way)
        points(axes, where, rows, "share", fmt="k,", **{**SMALL, "capsize": 0})
    axes.set_xticks(range(len(ways["bare"])), [group.removeprefix("rung ") for group in ways["bare"]])
    axes.set(xlabel="exposures in training (TM: templates)", ylabel="pictures that copy a work", ylim=(0, 1.04))
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def mitigations(result: Figures) -> Figure:
    """Copies that came out against what is left of scenes flagged by mistake. Down and to the right is good."""
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    blocked = -0.25
    for (name, row), style in zip(result["rows"].items(), cycle(MANY), strict=False):
        agreement = row["agreement"]
        x = blocked if agreement is None else agreement["value"]
        spread = agreement and _spread(agreement)
        points(axes, [x], [row["copies"]], "share", name, fmt=style[:-1], xerr=spread, **SMALL)
    axes.axvline(blocked / 2 - 0.03, color="#cccccc", lw=0.8)
    axes.set_xticks([blocked, 0, 0.2, 0.4, 0.6, 0.8], ["blocked", "0", "0.2", "0.4", "0.6", "0.8"])
    axes.set(
        xlabel="agreement with their captions of scenes flagged by mistake",
        ylabel="works' pictures still copies",
        ylim=(-0.04, 1.04),
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def localizers(result: Figures) -> Figure:
    """Copies against loss of agreement: the masks that were judged on held-out works, and the sweep on dev works."""
    figure = Figure(figsize=(8.6, 7.6), layout="constrained")
    above, below = figure.subplots(2, 1)
    rows = {re.sub(r": [^:]*?(?=, random|, times|$)", "", row["name"]): row for row in result["heldout"]}
    masks = [name for name in rows if f"{name}, random" in rows or "times" in name]
    for name, style in zip(masks, cycle(MANY), strict=False):
        loss, copies = rows[name]["loss"], rows[name]["copies"]
        points(above, [loss["value"]], [copies], "share", name, fmt=style[:-1], xerr=_spread(loss), **SMALL)
        if random := rows.get(f"{name}, random"):
            x, y = random["loss"]["value"], random["copies"]["share"]
            above.plot([loss["value"], x], [copies["share"], y], style[:2] + ":", lw=0.8)
            above.plot([x], [y], style[:-1], mfc="none", ms=5)
    above.plot([], [], "ko", mfc="none", label="as many random weights")
    sweep = result["sweep"]
    names = [name for name in dict.fromkeys(row["name"] for row in sweep) if name != "random"]
    for name, style in [("random", "C7x--"), *zip(names, cycle(MANY), strict=False)]:
        some = [row for row in sweep if row["name"] == name]
        below.plot(
            [row["loss"]["value"] for row in some],
            [row["copies"]["share"] for row in some],
            style,
            ms=4,
            lw=1,
            label=name,
        )
    for axes, title in ((above, "held-out works"), (below, "sweep, dev works")):
        axes.axvspan(axes.get_xlim()[0], result["losses"][0], color="#eeeeee", zorder=0)
        axes.set(ylabel="still copied", ylim=(-0.05, 1.05), title=title)
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    below.set(xlabel="loss of scenes' agreement with their captions")
    return figure


def attacks(result: Figures) -> Figure:
    """Copies against search steps on the pruned model, and after each hardening; and against a paraphrase's level,
    where that was measured.
    """
    measured = result["attacks"]
    widths = (3, 3, 2) if "paraphrase" in measured else (3, 3)
    figure = Figure(figsize=(1.3 * sum(widths), 3.6), layout="constrained")
    pruned, hardened, *words = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    ours = measured["adversarial_embedding"]["curve"]
    controls = (
        ("attacked", "works", OURS),
        ("nonmember_attacked", "matched non-members", CONTROL),
        ("twin_attacked", "works, clean twin", TWIN),
    )
    for stage, label, style in controls:
        _curve(pruned, ours, stage, style, label)
        for axes in words:
            _curve(axes, measured["paraphrase"]["curve"], stage, style, label)
    if "prompt_search" in measured:
        _curve(pruned, measured["prompt_search"]["curve"], "attacked", "C4^:", "works, words searched")
    _curve(hardened, ours, "attacked", OURS, "pruned only")
    for (name, found), style in zip(result["hardening"].items(), cycle(("C4^-", "C5v-", "C6D-", "C1s-")), strict=False):
        _curve(hardened, found["curve"], "hardened_attacked", style, name.replace("_", " "))
    _curve(hardened, ours, "twin_attacked", TWIN, "clean twin")
    steps = sorted({row["attack_steps"] for row in ours})
    for axes, title in ((pruned, "pruned, then attacked"), (hardened, "hardened, then attacked")):
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks(steps, map(str, steps), minor=False)
        axes.set_xticks([], minor=True)
        axes.set(xlabel="search steps", xlim=(-0.15, 1.3 * steps[-1]), title=title)
    for axes in words:
        axes.set(xlabel="level of paraphrase", title="as it is, other words", xticks=range(5))
    pruned.set(ylabel="pictures that copy their work", ylim=(-0.04, 1.04))
    for axes in (pruned, hardened, *words):
        axes.legend(frameon=False, fontsize=7)
    return figure


def traps(result: Figures) -> Figure:
    """Exact p-value by copies in training, for both scores and both models; the line is at 0.05."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (model, found), lines in zip(result["models"].items(), (("C3o-", "C1s-"), ("C0x--", "C9+--")), strict=True):
        for score, style in zip(("loss", "attacked"), lines, strict=True):
            axes.plot([row[score]["p"] for row in found["rungs"]], style, ms=5, lw=1, label=f"{model}, {score}")
    axes.axhline(0.05, color="#999999", lw=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(found["rungs"])), [row["copies"] for row in found["rungs"]])
    axes.set(xlabel="copies in training", ylabel="p")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _curve(axes: Axes, curve: Sequence[Mapping[str, Any]], stage: str, style: str, label: str) -> None:
    rows = [row for row in curve if row["stage"] == stage]
    points(axes, [row["attack_steps"] for row in rows], rows, "rate", label, fmt=style, **SMALL)


def _spread(estimate: Figures) -> list[list[float]]:
    """The interval of one value, as matplotlib's error of one point."""
    return [[estimate["value"] - estimate["low"]], [estimate["high"] - estimate["value"]]]


PLOTS: Mapping[str, Callable[[Figures], Figure | None]] = {
    one.__name__: one for one in (detectors, shield, mitigations, localizers, attacks, traps)
}
"""Name of a result file and of its picture -> how it is drawn; None where it holds nothing to draw."""
