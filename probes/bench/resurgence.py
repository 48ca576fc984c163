"""Ordinary fine-tuning of the pruned testbed, and whether held-out works come back from their captions then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.audit.plan import TESTBED_LR
from probes.audit.resurgence import Resurgence
from probes.bench.attacks import located
from probes.drawing.draw import Sampling
from probes.report.format import share_by_both
from probes.runs.folder import write_json
from probes.testbed.checkpoint import Checkpoint
from probes.verbs.prune import PRUNE, prune

UPDATES = (0, 50, 200)


def bench_resurgence(out: Path, runs: Path, *, seeds: int = 1) -> dict[str, Any]:
    """Writes resurgence.json to ``out`` and a run folder to ``runs``; returns the figures."""
    plan = replace(
        PRUNE, picture_seeds=tuple(range(9000, 9000 + seeds)), sampling=Sampling(*Checkpoint.of("testbed").sampling())
    )
    then, folder = Resurgence(updates=UPDATES, attack_steps=0, lr=TESTBED_LR), runs / "prune"
    mask = located(runs / "mask.safetensors")
    done = prune(mask, folder, plan=plan, then=then, resume=folder.exists())
    result = {
        "format": 1,
        "seeds": seeds,
        "lr": then.lr,
        "batch": then.batch,
        "model_sha256": done.summary["model_sha256"],
        "density": done.summary["mask"]["density"],
        "rows": [{"updates": row["updates"], "caption": row["caption"]} for row in done.summary["resurgence"]],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "resurgence.json", result)
    return result


def table(result: Mapping[str, Any]) -> str:
    """Copies from the caption after each number of updates."""
    lines = ["| updates on ordinary captions | works copied from their captions | pictures |", "|---|---|---|"]
    lines += [
        f"| {row['updates']} | {share_by_both(row['caption'], 'rate')} | {row['caption']['n']} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)
