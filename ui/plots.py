"""The plot of the Shield tab: one detector's score at every denoising step, beside its threshold."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probes.report.plots import MEMBER, STYLE, svg
from ui.wording import MEANS, title


def score_plot(curve: Sequence[float | None], detector: str, threshold: float | None) -> str:
    """As SVG. `curve`: a score for each step, None where there was nothing to score."""
    known = _known(curve)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [step for step, _ in known],
            [score for _, score in known],
            color=MEMBER,
            marker="o",
            markersize=4,
            label="score of each step",
        )
        if threshold is not None:
            axes.axhline(threshold, color=STYLE["text.color"], linestyle="--", linewidth=1, label="threshold (step 1)")
        axes.set(xlabel="denoising step", ylabel=title(detector))
        axes.set_ylim(bottom=0)
        axes.set_xlim(0.5, len(curve) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#88888844", linewidth=0.8)
        axes.legend(frameon=False, loc="best")
        return svg(figure)


def in_words(curve: Sequence[float | None], detector: str, threshold: float | None) -> str:
    """What the plot shows, for those who don't see it."""
    known = [score for _, score in _known(curve)]
    name = title(detector).capitalize()
    means = f"{name} says {MEANS[detector]}. " if detector in MEANS else ""
    limit = "It has no threshold here."
    if threshold is not None:
        limit = f"A picture is flagged above {threshold:.3g} at step 1."
    return f"{means}Without the shield it is {known[0]:.3g} at the first step and {known[-1]:.3g} at the last. {limit}"


def _known(curve: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(step, score) for step, score in enumerate(curve, start=1) if score is not None]
