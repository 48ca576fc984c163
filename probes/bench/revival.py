"""weight_revival on the testbed: what a pruned checkpoint's zeros give away, and what resampled weights don't.

The mask is the one that docs/bench/localizers.json chose on dev works for the largest allowed loss. Held-out works are
drawn from the zeroed model and from the model whose zeros were filled in; the same with as many random zeros, with
weights that were resampled instead, and with the clean twin under the same mask, whose own pictures of these captions
can only be injected.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probes.attacks.weight_revival import WeightRevival, revived
from probes.bench.localizers import LOSSES, Bench
from probes.pruners import ResampleWeights, ZeroWeights, pruned
from probes.pruners.pruned import weight_of
from probes.report.format import earlier, interval, share, share_by_both, stored
from probes.runs.folder import write_json
from probes.types import Pruner, Subject, UnitMask
from shield.errors import BadRequestError


def bench_revival(
    out: Path, *, batch_size: int = 32, device: str = "auto", progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Writes revival.json; returns the figures. Needs localizers.json in the same folder (diffshield bench localizers).

    Rows that the file holds, of the same mask and models, are kept: after a break the same call goes on. Raises
    BadRequestError where localizers.json is missing or is of other weights.
    """
    bench, file = Bench(device, batch_size, progress), out / "revival.json"
    name, localizer = bench.chosen(_sweep(out / "localizers.json", bench), LOSSES[-1])
    mask = bench.mask(localizer)
    setting = {
        "format": 1,
        "model_sha256": bench.subject.sha256(),
        "twin_sha256": bench.twin.sha256(),
        "mask": f"{name}, k={localizer.k:g}",
        "density": mask.density(),
    }
    drawing = _Drawing(bench, file, {**setting, "rows": earlier(file, setting).get("rows", [])})
    for what, subject, one, pruner in (
        ("located", bench.subject, mask, ZeroWeights()),
        ("random", bench.subject, bench.random(mask), ZeroWeights()),
        ("located, resampled", bench.subject, mask, ResampleWeights()),
        ("clean twin, located", bench.twin, mask, ZeroWeights()),
    ):
        drawing.rows(what, subject, one, pruner)
    return drawing.result


@dataclass
class _Drawing:
    """The result file row by row; what it holds isn't drawn again."""

    bench: Bench
    file: Path
    result: dict[str, Any]

    def rows(self, what: str, subject: Subject, mask: UnitMask, pruner: Pruner) -> None:
        """The pruned model's row, and the row of the same model with its zeros filled in."""
        rows = self.result["rows"]
        held = {(row["name"], row.get("revived")) for row in rows}
        missing = [filled_in for filled_in in (False, True) if (what, filled_in) not in held]
        if not missing:
            return
        self._compare()
        original = {path: weight_of(subject.denoiser, path).detach().clone() for path in mask.masks}
        with pruned(subject, mask, pruner), ExitStack() as stack:
            zeroed = {path: weight_of(subject.denoiser, path) == 0 for path in mask.masks}
            for filled_in in missing:
                zeros = stack.enter_context(revived(subject, WeightRevival())) if filled_in else {}
                row = {
                    "name": what,
                    "pruner": pruner.name,
                    "revived": filled_in,
                    "zeros": sum(zeros.values()),
                    "signs": _signs(subject, zeroed, original) if zeros else None,
                    **self.bench.figures(self.bench.heldout, subject),
                }
                self._keep(row)
                self.bench.progress(f"{what}, {'revived' if filled_in else pruner.name}: copies {share(row['copies'])}")

    def _compare(self) -> None:
        """The unpruned model, drawn anew after a break: what the others lose is what their scenes lose beside it."""
        if not self.bench.has_unchanged(self.bench.heldout):
            row = {"name": "unpruned", **self.bench.figures(self.bench.heldout)}
            if not self.result["rows"]:
                self._keep(row)

    def _keep(self, row: dict[str, Any]) -> None:
        self.result["rows"].append(row)
        write_json(self.file, self.result)


def _sweep(file: Path, bench: Bench) -> list[dict[str, Any]]:
    found = stored(file)
    is_half = "unfinished" in found and "heldout" not in found  # which would choose among fewer variants
    if is_half or found.get("model_sha256") != bench.subject.sha256():
        raise BadRequestError(
            f"The choice of a mask is read from {file}, which is missing, half of a sweep or of other weights; make it "
            f"with: diffshield bench localizers --out {file.parent}"
        )
    return found["sweep"]


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
            f"| {row['name']} | {row.get('pruner', '')} | {filled_in} | {signs} | {share_by_both(row['copies'])} "
            f"| {row['distance']:.3f} | {interval(row['loss'])} |"
        )
    return "\n".join(lines)
