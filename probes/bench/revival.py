"""weight_revival on the testbed: what a pruned checkpoint's zeros give away, and what resampled weights don't.

The mask is the one that docs/bench/localizers.json chose on dev works for the largest allowed loss. Held-out works are
drawn from the zeroed model and from the model whose zeros were filled in; the same with as many random zeros, with
weights that were resampled instead, and with the clean twin under the same mask, whose own pictures of these captions
can only be injected.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from probes.attacks.weight_revival import WeightRevival, revived
from probes.bench.localizers import LOSSES, Bench
from probes.pruners import ResampleWeights, ZeroWeights, pruned
from probes.pruners.pruned import weight_of
from probes.report.format import interval, share
from probes.runs.folder import write_json
from probes.types import Pruner, Subject, UnitMask
from shield.errors import BadRequestError


def bench_revival(
    out: Path, *, batch_size: int = 32, device: str = "auto", progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Writes revival.json; returns the figures. Needs localizers.json in the same folder (diffshield bench localizers).

    Raises BadRequestError where that is missing or is of other weights.
    """
    bench = Bench(device, batch_size, progress)
    name, localizer = bench.chosen(_sweep(out / "localizers.json", bench), LOSSES[-1])
    mask = bench.mask(localizer)
    result: dict[str, Any] = {
        "format": 1,
        "model_sha256": bench.subject.sha256(),
        "mask": f"{name}, k={localizer.k:g}",
        "density": mask.density(),
        "rows": [{"name": "unpruned", **bench.figures(bench.heldout)}],
    }
    for what, subject, one, pruner in (
        ("located", bench.subject, mask, ZeroWeights()),
        ("random", bench.subject, bench.random(mask), ZeroWeights()),
        ("located, resampled", bench.subject, mask, ResampleWeights()),
        ("clean twin, located", bench.twin, mask, ZeroWeights()),
    ):
        result["rows"] += _rows(bench, what, subject, one, pruner)
        write_json(out / "revival.json", result)
    return result


def _sweep(file: Path, bench: Bench) -> list[dict[str, Any]]:
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if found.get("model_sha256") != bench.subject.sha256():
        raise BadRequestError(
            f"The choice of a mask is read from {file}, which is missing or of other weights; make it with: "
            f"diffshield bench localizers --out {file.parent}"
        )
    return found["sweep"]


def _rows(bench: Bench, what: str, subject: Subject, mask: UnitMask, pruner: Pruner) -> list[dict[str, Any]]:
    """The pruned model's row, and the row of the same model with its zeros filled in."""
    original = {path: weight_of(subject.denoiser, path).detach().clone() for path in mask.masks}
    rows = []
    with pruned(subject, mask, pruner), ExitStack() as stack:
        zeroed = {path: weight_of(subject.denoiser, path) == 0 for path in mask.masks}
        for filled_in in (False, True):
            zeros = stack.enter_context(revived(subject, WeightRevival())) if filled_in else {}
            row = {
                "name": what,
                "pruner": pruner.name,
                "revived": filled_in,
                "zeros": sum(zeros.values()),
                "signs": _signs(subject, zeroed, original) if zeros else None,
                **bench.figures(bench.heldout, subject),
            }
            rows.append(row)
            bench.progress(f"{what}, {'revived' if filled_in else pruner.name}: copies {share(row['copies'])}")
    return rows


def _signs(subject: Subject, zeroed: dict[str, torch.Tensor], original: dict[str, torch.Tensor]) -> float:
    """Share of the filled-in weights that have the original's sign."""
    right = filled = 0
    for path, zeros in zeroed.items():
        now = weight_of(subject.denoiser, path)
        given = zeros & (now != 0)
        right += int((now.sign() == original[path].sign())[given].sum())
        filled += int(given.sum())
    return right / filled


def table(result: dict[str, Any]) -> str:
    """Every row as Markdown."""
    lines = [
        "| weights | pruner | zeros filled in | signs right | works copied | mean distance | loss of agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        signs = "" if row.get("signs") is None else f"{row['signs']:.0%}"
        filled_in = f"{row['zeros']:,}" if row.get("revived") else ""
        lines.append(
            f"| {row['name']} | {row.get('pruner', '')} | {filled_in} | {signs} | {share(row['copies'])} "
            f"| {row['distance']:.3f} | {interval(row['loss'])} |"
        )
    return "\n".join(lines)
