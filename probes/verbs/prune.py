"""`diffshield prune`: what zeroing a mask's weights does to memorized prompts, and what it costs elsewhere.

Before and inside the pruned model, on the same prompts and seeds: share of copies, detector scores, agreement of
benign scenes with their captions, and drift, the difference between the pictures themselves. As many random weights
are pruned as a control. With a sweep over k, the curve between forgetting and harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probes.audit.plan import AuditPlan
from probes.audit.request import AuditRequest, Done, mask_file, opened, read_mask
from probes.audit.resurgence import Resurgence, format_resurgence, resurge
from probes.audit.stages import run_stages
from probes.audit.tradeoff import sweep
from probes.errors import MaskError
from probes.inputs.cohorts import Sizes
from probes.metrics.statistics import bootstrap_mean
from probes.paths import takes_paths
from probes.pruners import pruned, save_pruned
from probes.report.figures import group_of
from probes.report.html import write_report
from probes.report.summary import Summary
from probes.runs.folder import made_folder, write_json
from probes.runs.provenance import sha256_of
from probes.runs.records import Record

PRUNE = AuditPlan(sizes=Sizes(members=8, nonmembers=6, scenes=10), picture_seeds=tuple(range(9000, 9004)))


@takes_paths
def prune(
    mask: Path,
    out: Path,
    request: AuditRequest | None = None,
    *,
    plan: AuditPlan = PRUNE,
    ks: Sequence[float] = (),
    then: Resurgence | None = None,
    save: Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Done:
    """Compare the model with its pruned self into the run folder ``out``; the model itself stays bit-equal.

    ``mask`` is a mask file or a localize run's folder. ``ks`` draws tradeoff.svg for masks of these k, made from the
    norms that localize left beside the mask, without collecting activations again. ``then`` trains the pruned model on
    with ordinary captions and asks again (probes/audit/resurgence.py). ``save`` writes the pruned model
    as a diffusers checkpoint.

    Raises MaskError (also for a mask that selects nothing), AuditError, PromptFileError, RunError, WeightsError.
    """
    request, selected = request or AuditRequest(), read_mask(mask)
    if not selected.count():
        raise MaskError(f"{mask_file(mask)} selects no weight, so nothing would be pruned; locate with a larger --k.")
    if save is not None and save.exists() and not resume and (not save.is_dir() or any(save.iterdir())):
        raise MaskError(f"{save} exists and isn't empty; choose another folder for the pruned checkpoint.")
    if save is not None:
        made_folder(save.parent)
    norms = mask_file(mask).with_name("norms.safetensors")
    points = sweep(norms, ks) if ks else None
    more = {"mask": sha256_of(mask_file(mask)), "ks": list(ks), **(then.settings() if then else {})}
    with opened("prune", out, request, plan, selected, more, resume=resume, show_progress=show_progress) as session:
        if then is not None:
            then.captions(session)  # refuses before any work
        run_stages(session, "work", "before", "pruned", "random_pruned")
        curve = points.draw(session) if points is not None else []
        again: list[dict[str, Any]] = []
        if then is not None:
            cohorts = session.cohorts
            again = resurge(
                session, then, lambda: pruned(session.subject, selected), cohorts.members, cohorts.nonmembers
            )
        records = list(session.run.records())
        summary: Summary = {
            **session.summary(),
            "scores": score_changes(records, plan.detectors),
            "tradeoff": curve,
            "resurgence": again,
            "saved": str(save) if save else None,
            "mask": {
                "density": selected.density(),
                "weights": selected.count(),
                "densities": selected.densities(),
                **selected.meta,
            },
        }
        write_json(out / "summary.json", summary)
        if save is not None and not (save.is_dir() and any(save.iterdir())):
            save_pruned(session.subject, selected, save)
    return Done(out, write_report(out), summary)


def score_changes(records: Sequence[Record], detectors: Sequence[str]) -> list[dict[str, Any]]:
    """Mean detector score of each group before and inside the pruned model, same prompts and seeds, paired."""
    rows = []
    for name in detectors:
        before = _by_picture(records, "before", name)
        for group in dict.fromkeys(group_of(r) for r in records if r["stage"] == "pruned"):
            inside = {
                key: value
                for key, value in _by_picture(records, "pruned", name).items()
                if value[1] == group and key in before
            }
            if inside:
                change = bootstrap_mean(
                    [value - before[key][0] for key, (value, _) in inside.items()], [item for item, _ in inside]
                )
                rows.append(
                    {
                        "detector": name,
                        "group": group,
                        "n": change.n,
                        "works": change.clusters,
                        "before": float(np.mean([before[key][0] for key in inside])),
                        "pruned": float(np.mean([value for value, _ in inside.values()])),
                        "change": change.value,
                        "low": change.low,
                        "high": change.high,
                    }
                )
    return rows


def _by_picture(records: Sequence[Record], stage: str, name: str) -> dict[tuple[str, int | None], tuple[float, str]]:
    return {
        (r["item"], r["seed"]): (score, group_of(r))
        for r in records
        if r["stage"] == stage and (score := r["scores"].get(name)) is not None
    }


def format_pruning(summary: Summary) -> list[str]:
    """What the report's sentences don't say: drift, the points of a sweep, and what couldn't be judged."""
    lines = []
    for row in summary["drift"]:
        yardstick = "" if row["seeds"] is None else f"; between two seeds {row['seeds']:.3f}"
        lines.append(
            f"Pictures of {row['group']} moved by {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}, "
            f"{row['n']} pictures{yardstick})."
        )
    for point in summary["tradeoff"]:
        rate, other = (f"{one['copied']} of {one['n']}" for one in (point, point["random"]))
        loss = "" if point["utility"] is None else f", alignment loss {point['utility']['loss']:.3f}"
        lines.append(
            f"k {point['k']:g} ({point['density']:.2%} of the weights): {rate} copies, random weights {other}{loss}"
        )
    return [*lines, *format_resurgence(summary["resurgence"]), *summary["limits"]]
