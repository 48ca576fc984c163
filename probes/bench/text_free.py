"""Probes without text on held-out works: from the model as it is, and pruned, beside non-members and the clean twin.

The mask is the one of `diffshield bench attacks`. A picture is drawn from the empty prompt alone, so what comes out of
a pruned model was in its weights, whatever became of the way from the caption to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.attacks import Completion, Inpainting, Noise
from probes.bench.attacks import located, plan_of
from probes.report.format import share_by_both
from probes.report.wording import wording_of
from probes.runs.folder import write_json
from probes.verbs.attack import attack

LEVELS = {Completion.name: (40, 60, 80), Inpainting.name: (50, 75), Noise.name: Noise.levels}
NOISES = 32  # pictures from noise alone; each is compared with every work
MODELS = ("model as it is", "pruned model")
STAGES = ("attacked", "nonmember_attacked", "twin_attacked")


def bench_text_free(
    out: Path, runs: Path, *, seeds: int = 1, progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Writes text_free.json to ``out`` and run folders to ``runs``; returns the figures."""
    result: dict[str, Any] = {"format": 1, "seeds": seeds, "noises": NOISES, "models": {}}
    for model in MODELS:
        found = result["models"][model] = {}
        for name, levels in LEVELS.items():
            progress(f"{name}, {model}")
            folder = runs / f"{name}-{model.replace(' ', '-')}"
            plan = plan_of(seeds)
            if name == Noise.name:
                plan = replace(plan, picture_seeds=tuple(range(9000, 9000 + NOISES)))
            mask = None if model == MODELS[0] else located(runs / "mask.safetensors")
            done = attack(folder, mask=mask, method=name, steps=levels, plan=plan, resume=folder.exists())
            found[name] = {key: done.summary[key] for key in ("curve", "gaps", "cost")}
            result["model_sha256"] = done.summary["model_sha256"]
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / "text_free.json", result)
    return result


def table(result: Mapping[str, Any]) -> str:
    """Copies at each level of each probe, beside its controls, and the gap to non-members."""
    lines = [
        "| probe | level | works | matched non-members | works, clean twin | gap to non-members |",
        "|---" * 6 + "|",
    ]
    for model, probes in result["models"].items():
        for name, found in probes.items():
            rows = {(row["stage"], row["attack_steps"]): row for row in found["curve"]}
            gaps = {gap["attack_steps"]: gap for gap in found["gaps"] if gap["control"] == "nonmember_attacked"}
            for level in sorted({level for _, level in rows}):
                cells = [share_by_both(rows[stage, level], "rate") for stage in STAGES]
                gap = gaps[level]
                cells.append(f"{100 * gap['gap']:+.0f} [{100 * gap['low']:+.0f}, {100 * gap['high']:+.0f}]")
                lines.append(f"| {name}, {model} | {wording_of(name).far(level)} | {' | '.join(cells)} |")
    return "\n".join(lines)
