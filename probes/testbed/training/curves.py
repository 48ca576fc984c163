"""The training's log as a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

COLUMNS = 5


def read_log(path: Path) -> list[dict]:
    """Entries by step; a resumed run may have logged a step twice, then the later entry counts."""
    entries = {e["step"]: e for e in map(json.loads, path.read_text().splitlines())}
    return [entries[step] for step in sorted(entries)]


def plot(folder: Path, stages: Iterable[str], path: Path) -> None:
    """Loss of each of the stages that have a log, one panel a stage, smoothed over five entries; written to `path`.

    Nothing is written where no stage has one.
    """
    from matplotlib.figure import Figure

    logs = {name: folder / f"{name}.log.jsonl" for name in stages}
    logs = {name: log for name, log in logs.items() if log.exists()}
    if not logs:
        return
    rows = -(-len(logs) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.1 * rows), layout="constrained")
    for panel, (name, log) in enumerate(logs.items(), 1):
        entries = read_log(log)
        steps, losses = [e["step"] for e in entries], np.array([e["loss"] for e in entries])
        axes = figure.add_subplot(rows, COLUMNS, panel)
        axes.plot(steps, losses, color="#c8c8c8", lw=0.8)
        width = min(5, len(losses))
        axes.plot(steps[width - 1 :], np.convolve(losses, np.ones(width) / width, "valid"), color="#c0392b")
        axes.set(title=name, xlabel="step", yscale="log")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
