"""The curve between forgetting and harm: masks of several k from one set of norms, each pruned, drawn and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from probes.audit.norms import Norms, load_norms
from probes.drawing.draw import jobs_for
from probes.errors import MaskError
from probes.localizers import FFNSubspace, RandomMask
from probes.model.layers import matching_layers
from probes.pruners import pruned
from probes.report.drift import drift
from probes.report.figures import rate_row, utility
from probes.report.plots import tradeoff_plot
from probes.runs.records import Record
from probes.types import UnitMask
from shield.errors import BadRequestError

if TYPE_CHECKING:
    from probes.audit.session import AuditSession


@dataclass(frozen=True)
class Sweep:
    """Masks for each k, from norms that were collected once."""

    localizer: FFNSubspace
    target: Norms
    base: Norms
    ks: tuple[float, ...]

    def draw(self, session: AuditSession) -> list[dict[str, Any]]:
        """Members and benign scenes for each k, and members with as many random weights; writes tradeoff.svg.

        The session must have drawn stage "before" already. MaskError if the norms are another model's.
        """
        rows = [self._point(session, k) for k in self.ks]
        before = rate_row([r for r in session.records("before") if r["item"] in session.members], session.metric)
        (session.run.folder / "tradeoff.svg").write_text(tradeoff_plot(rows, before), encoding="utf-8")
        return rows

    def _point(self, session: AuditSession, k: float) -> dict[str, Any]:
        mask = self.mask(session.subject.denoiser, k)
        control = RandomMask(like=mask).locate(session.subject, seed=session.plan.locate_seed).mask
        ours, random = f"sweep-{k:g}", f"sweep_random-{k:g}"
        members = list(session.cohorts.members)
        self._stage(session, ours, mask, [*members, *session.cohorts.scenes])
        self._stage(session, random, control, members)
        records = list(session.run.records())
        return {
            "k": k,
            "density": mask.density(),
            "weights": mask.count(),
            **_figures(session, records, ours),
            "random": rate_row([r for r in records if r["stage"] == random], session.metric),
        }

    def mask(self, denoiser: torch.nn.Module, k: float) -> UnitMask:
        """The mask of this k; MaskError if the norms are another model's."""
        layers = matching_layers(denoiser, self.localizer.modules)
        for path, layer in layers.items():
            norms = self.target.get(path)
            if norms is None or norms.shape[1] != layer.width:
                raise MaskError(
                    f"These norms are another model's: {path} has {layer.width} inputs here and "
                    f"{'none' if norms is None else norms.shape[1]} in the norms."
                )
        weights = {path: layer.weight for path, layer in layers.items()}
        return replace(self.localizer, k=k).mask(weights, self.target, self.base)

    def _stage(self, session: AuditSession, stage: str, mask: UnitMask, targets: Sequence[Any]) -> None:
        def work() -> None:
            with pruned(session.subject, mask):
                session.draw(stage, session.subject, jobs_for(targets, session.plan.picture_seeds))

        session.stages.do(stage, work)


def sweep(norms: Path, ks: Sequence[float]) -> Sweep:
    """The sweep that a localize run's norms allow. MaskError without them, BadRequestError for a k that is no share."""
    if not all(0 < k <= 1 for k in ks):
        raise BadRequestError(f"A sweep needs shares k above 0 and at most 1, not {', '.join(map(str, ks))}.")
    localizer, target, base = load_norms(norms)
    return Sweep(localizer, target, base, tuple(sorted(set(ks))))


def _figures(session: AuditSession, records: Sequence[Record], stage: str) -> dict[str, Any]:
    """Rate of copies among members, alignment of scenes before and after, and their drift."""
    members = session.members
    ours = [record for record in records if record["stage"] == stage]
    return {
        **rate_row([record for record in ours if record["item"] in members], session.metric),
        "utility": utility(records, stage),
        "drift": drift(session.run.folder, records, stage),
    }
