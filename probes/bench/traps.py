"""The testbed's works as traps, by rung, among its matched non-members: on the model that saw them and on its twin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probes.runs.folder import write_json
from probes.traps.trial import STATISTICS, trial
from shield.model.loading import SHIPPED


def bench_traps(out: Path, runs: Path, device: str = "auto") -> dict[str, Any]:
    """Writes traps.json to ``out`` and a run folder for each model to ``runs``, which are gone on from."""
    found = {model: trial(model, runs / model, device=device, resume=True).summary for model in SHIPPED}
    result = {"format": 1, "models": found}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "traps.json", result)
    return result


def table(figures: Mapping[str, Any]) -> str:
    """p and AUROC of each rung on each model, and how many traps alone have a p of at most 0.05."""
    heads = [f"`{model}`, {name}: p (AUROC), alone" for model in figures["models"] for name in STATISTICS]
    lines = ["| copies | works | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    for rows in zip(*(found["rungs"] for found in figures["models"].values()), strict=True):
        cells = [
            f"{row[name]['p']:.2g} ({row[name]['auroc']:.2f}), {row[name]['alone']}"
            for row in rows
            for name in STATISTICS
        ]
        lines.append(f"| {rows[0]['copies']} | {rows[0]['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)
