"""`diffshield locality`: does a memory sit in one place? Three analyses of embeddings that bring works back.

Hintersdorf et al., "Finding DoRI", ICML 2026, arXiv 2507.16880. For each of a few works, searches start from several
normal noises; those whose picture is a copy are compared.

    embeddings    distances between results of one work, beside those between captions; whether a result stays nearest
                  to its own start
    activations   distances between a layer's activations (feed-forward and value layers) for the results of one work at
                  one fixed noise, beside those of captions of different works, of the starts, which trigger nothing,
                  and of one caption at different noises
    masks         overlap of the weights that a localizer flags for each embedding alone: results of one work, captions
                  of different works, and random masks of each one's size; overlaps come with the sizes of the sets

Ours adds starts, other noises, random masks and sizes, without which neither "far apart" nor "overlapping" means
anything. Activations and subspace masks are those of the first denoising step, where all embeddings meet the same
latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probes.attacks import searching
from probes.audit.layers import Groups, Maker, activation_rows, apart, mask_rows, subspace_masks
from probes.audit.plan import AuditPlan
from probes.audit.request import AuditRequest, Done, mask_file, opened, read_mask
from probes.audit.search import Searches
from probes.audit.session import AuditSession
from probes.audit.stages import run_stages
from probes.drawing.draw import Drawn, Job, drawn_by_pipeline
from probes.inputs.base_prompts import base_prompts
from probes.inputs.cohorts import Sizes
from probes.inputs.prompts import PromptRecord
from probes.localizers import FFNSubspace, ValueNeurons
from probes.metrics.pairs import mean_of_pairs
from probes.model.generate import encode_prompts
from probes.paths import takes_paths
from probes.pruners import pruned
from probes.report import locality_plots
from probes.report.figures import rate_row
from probes.report.html import write_report
from probes.report.summary import Summary
from probes.runs.folder import write_json
from probes.runs.provenance import sha256_of
from probes.runs.stage_log import Skip
from probes.types import UnitMask
from probes.verbs.attack import UNPRUNED
from probes.verbs.localize import neurons_of
from shield.errors import BadRequestError

LOCALITY = AuditPlan(sizes=Sizes(members=16, nonmembers=16, scenes=0), picture_seeds=(9000,))
NO_GOAL = "None of the works has a reference picture, so no embedding can be searched."
TOO_FEW = "No work came back from two searches or more, so there are no pairs of results to compare."


@dataclass(frozen=True)
class Start:
    """One search: a work, and the number of the noise that it starts from."""

    work: PromptRecord
    number: int

    @property
    def target(self) -> PromptRecord:
        """The work under a name of the search's own, which decides its noise and its seeds."""
        return replace(self.work, id=f"{self.work.id}-start{self.number}")


@takes_paths
def locality(
    out: Path,
    request: AuditRequest | None = None,
    *,
    mask: Path | None = None,
    works: int = 4,
    starts: int = 8,
    masks: Sequence[str] = (FFNSubspace.name,),
    plan: AuditPlan = LOCALITY,
    resume: bool = False,
    show_progress: bool = True,
) -> Done:
    """Analyze the model, pruned by ``mask`` if there is one, into the run folder ``out``; it stays bit-equal.

    ``starts`` searches for each of ``works`` members, of ``plan.attack``'s budget; the other members' captions are
    compared with. ``masks`` names the localizers whose masks are compared: ffn_subspace, value_neurons. Raises
    AuditError, BadRequestError, MaskError, PromptFileError, RunError, WeightsError.
    """
    request = request or AuditRequest()
    if starts < 2:
        raise BadRequestError(f"Locality compares two or more searches for each work, not {starts}.")
    unknown = set(masks) - {FFNSubspace.name, ValueNeurons.name}
    if unknown:
        raise BadRequestError(
            f"Locality compares masks of {FFNSubspace.name} and {ValueNeurons.name}, not of "
            f"{', '.join(sorted(unknown))}."
        )
    if ValueNeurons.name in masks and request.nonmembers is None and request.checkpoint.truth is None:
        raise BadRequestError(
            f"{ValueNeurons.name} compares with prompts that weren't memorized: give them with --nonmembers."
        )
    selected = read_mask(mask) if mask is not None else UnitMask({})
    more = {
        "mask": None if mask is None else sha256_of(mask_file(mask)),
        "works": works,
        "starts": starts,
        "masks": list(masks),
    }
    with opened("locality", out, request, plan, selected, more, resume=resume, show_progress=show_progress) as session:
        run_stages(session, "work")
        study = _Study(session, works, starts, masks, request)
        for stage, work in (("search", study.search), ("locality", study.draw), ("analyze", study.analyze)):
            session.stages.do(stage, work)
        summary = study.summary()
        if mask is None:
            summary["limits"] = [UNPRUNED, *summary["limits"]]
        if len(study.works) < works:
            fewer = f"{works} works were asked for, and {len(study.works)} with a reference picture are there."
            summary["limits"] = [fewer, *summary["limits"]]
        write_json(out / "summary.json", summary)
        for name, svg in locality_plots.plots(summary["locality"] or {}).items():
            (out / f"{name}.svg").write_text(svg, encoding="utf-8")
    return Done(out, write_report(out), summary)


class _Study:
    """The stages of one analysis."""

    def __init__(
        self, session: AuditSession, works: int, starts: int, masks: Sequence[str], request: AuditRequest
    ) -> None:
        self.session, self.masks, self.request = session, masks, request
        self.works = [work for work in session.cohorts.members if work.reference is not None][:works]
        self.starts = [Start(work, number) for work in self.works for number in range(starts)]
        attack = searching(session.plan.attack)
        self.searches = Searches(session.run.folder / "embeddings" / "locality", attack, (0, attack.steps), "noise")

    def search(self) -> dict[str, Any]:
        if not self.starts:
            raise Skip(NO_GOAL)
        with pruned(self.session.subject, self.session.mask()):
            self.searches.search(
                self.session.subject, [start.target for start in self.starts], self.session.track("search")
            )
        return {"attack": asdict(self.session.plan.attack)}

    def draw(self) -> None:
        """One picture of each result, judged; its record names the work."""
        session, steps = self.session, self.session.plan.attack.steps
        if not self.starts:
            raise Skip(NO_GOAL)
        by_target = {start.target.id: start for start in self.starts}
        draw = drawn_by_pipeline(session.subject, session.plan.sampling)

        def named(jobs: Sequence[Job]) -> list[Drawn]:
            return [
                replace(one, more={"item": by_target[job.target.id].work.id, "start": by_target[job.target.id].number})
                for job, one in zip(jobs, draw(jobs), strict=True)
            ]

        jobs = [
            Job(start.target, seed, self.searches.embeds(start.target)[steps], steps)
            for start in self.starts
            for seed in session.plan.picture_seeds
        ]
        with pruned(session.subject, session.mask()):
            session.draw("locality", session.subject, jobs, named)

    def analyze(self) -> dict[str, Any]:
        """All three analyses of the searches that brought their work back."""
        if not self.starts:
            raise Skip(NO_GOAL)
        won, subject, seed = self._won(), self.session.subject, self.session.plan.locate_seed
        groups = self._groups(won)
        if not any(len(block) > 1 for block in groups["results"]):
            raise Skip(TOO_FEW)
        flagged = {group: groups[group] for group in ("results", "captions")}
        with pruned(subject, self.session.mask()):
            activated = activation_rows(subject, {**flagged, "starts": groups["starts"]}, seed)
            masks = [row for name in self.masks for row in mask_rows(subject, flagged, name, self._maker(name, seed))]
        distances = {
            group: mean_of_pairs([apart(torch.stack(list(block))) for block in blocks if block])
            for group, blocks in groups.items()
        }
        return {
            "embeddings": [{"group": group, **row} for group, row in distances.items()],
            "stay": self._stay(won),
            "map": embedding_map(groups),
            "activations": activated,
            "masks": masks,
            "works": [work.id for work in self.works],
        }

    def _won(self) -> list[Start]:
        copied = {
            (record["item"], record["start"])
            for record in self.session.run.records()
            if record["stage"] == "locality" and record["copied"]
        }
        return [start for start in self.starts if (start.work.id, start.number) in copied]

    def _embeds(self, start: Start, steps: int) -> torch.Tensor:
        return self.searches.embeds(start.target)[steps]

    def _groups(self, won: Sequence[Start]) -> Groups:
        """All embeddings to compare; results and starts in a block for each work."""
        steps, others = self.session.plan.attack.steps, self.session.cohorts.nonmembers

        def blocks(starts: Sequence[Start], at: int) -> list[list[torch.Tensor]]:
            return [[self._embeds(start, at) for start in starts if start.work == work] for work in self.works]

        def captions(targets: Sequence[PromptRecord]) -> list[list[torch.Tensor]]:
            return [list(encode_prompts(self.session.subject, [target.prompt for target in targets]).cpu())]

        groups = {
            "results": blocks(won, steps),
            "starts": blocks(self.starts, 0),
            "captions": captions(self.session.cohorts.members),
        }
        return {**groups, "captions of non-members": captions(others)} if others else groups

    def _stay(self, won: Sequence[Start]) -> dict[str, Any]:
        """How many results lie nearest to their own start, among the starts of their work."""
        steps, near, moved = self.session.plan.attack.steps, 0, []
        for start in won:
            result = self._embeds(start, steps)
            away = {
                other.number: float((result - self._embeds(other, 0)).norm())
                for other in self.starts
                if other.work == start.work
            }
            near += min(away, key=lambda number: away[number]) == start.number
            moved.append(away[start.number])
        return {"n": len(won), "nearest_to_own_start": near, "moved": float(np.mean(moved))}

    def _maker(self, name: str, seed: int) -> Maker:
        session = self.session
        if name == FFNSubspace.name:
            return subspace_masks(session.subject, session.plan.localizer, seed)
        negatives = (
            tuple(target.prompt for target in session.cohorts.nonmembers)
            if self.request.nonmembers
            else base_prompts("nonmembers", [], self.request.checkpoint)
        )
        localizer = ValueNeurons(negatives=negatives)
        usual, track = localizer.usual(session.subject, seed), session.track(name)

        def masks(names: Sequence[str], embeds: torch.Tensor) -> list[UnitMask]:
            found = neurons_of(
                session.run, localizer, session.subject, {one: one for one in names}, embeds, usual, seed, track
            )
            return [localizer.mask(session.subject, [one]) for one in found]

        return masks

    def summary(self) -> Summary:
        session = self.session
        records = session.records("locality")
        summary = session.summary()
        row = rate_row(records, session.metric, stage="locality", group="members", rung=None)
        return {
            **summary,
            "rows": [*summary["rows"], *([row] if records else [])],
            "locality": {**session.stages.detail("analyze"), "searches": row, "steps": session.plan.attack.steps},
        }


def embedding_map(groups: Groups) -> dict[str, Any]:
    """Starts, results and captions in the plane of most variance (PCA): a picture, no place to measure distances."""
    named = [
        (group, place, embeds)
        for group in ("starts", "results", "captions")
        for place, block in enumerate(groups[group])
        for embeds in block
    ]
    flat = np.stack([embeds.numpy().ravel() for _, _, embeds in named]).astype(np.float64)
    left, sizes, _ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    places = left[:, :2] * sizes[:2]
    return {
        "explained": float(np.square(sizes[:2]).sum() / np.square(sizes).sum()),
        "points": [
            {"group": group, "block": block, "x": float(x), "y": float(y)}
            for (group, block, _), (x, y) in zip(named, places, strict=True)
        ],
    }


def format_locality(summary: Summary) -> list[str]:
    """The three analyses for a terminal."""
    found, lines = summary["locality"] or {}, []
    for row in found.get("embeddings", ()):
        lines.append(f"embeddings, {row['group']}: {_told(row)} apart, {row['n']} embeddings")
    for name in ("activations", "masks"):
        for row in found.get(name, ()):
            told = ", ".join(f"{group} {_told(cell)}" for group, cell in row["groups"].items())
            lines.append(f"{name}, {row['layer']}: {told}")
    return [*lines, *summary["limits"]]


def _told(cell: Mapping[str, Any]) -> str:
    if cell["value"] is None:
        return "unknown"
    interval = "" if cell["low"] is None else f" ({cell['low']:.3g} to {cell['high']:.3g})"
    return f"{cell['value']:.3g}{interval}"
