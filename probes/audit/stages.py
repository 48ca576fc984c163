"""An audit's stages: what each does, and what it can't be done without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probes.audit import hardening_stages as hardening
from probes.audit import pruning_stages as pruning
from probes.audit.session import NOTHING, AuditSession
from probes.errors import UnsupportedError
from probes.inputs.cohorts import with_suspects
from probes.report.summary import Summary
from probes.runs.folder import write_json
from probes.runs.stage_log import Skip

NO_TWIN = "There is no clean twin of this model, so nobody can say what an attack injects into a model without it."


def has_twin(session: AuditSession) -> str | None:
    return None if session.truth.twin is not None else NO_TWIN


def has_suspects(session: AuditSession) -> str | None:
    return None if session.cohorts.locate else NOTHING


def has_mask(session: AuditSession) -> str | None:
    return None if session.located else NOTHING


@dataclass(frozen=True)
class Stage:
    """Its work, which may return details for stages.json, and what it needs: each says what is missing, or None."""

    work: Callable[[AuditSession], Mapping[str, Any] | None]
    needs: tuple[Callable[[AuditSession], str | None], ...] = ()

    def do(self, session: AuditSession) -> Mapping[str, Any] | None:
        """Skip without what it needs, and where a method doesn't know this family of models."""
        for need in self.needs:
            if missing := need(session):
                raise Skip(missing)
        try:
            return self.work(session)
        except UnsupportedError as error:
            raise Skip(str(error)) from error


STAGES = {
    "work": Stage(pruning.works),
    "scan": Stage(pruning.scan),
    "before": Stage(pruning.before),
    "benign": Stage(pruning.benign),
    "shielded": Stage(pruning.shielded),
    "twin": Stage(pruning.twin, (has_twin,)),
    "localize": Stage(pruning.localize, (has_suspects,)),
    "pruned": Stage(pruning.prune, (has_mask,)),
    "random_pruned": Stage(pruning.prune_at_random, (has_mask,)),
    "attacked": Stage(pruning.attack_members, (has_mask,)),
    "nonmember_attacked": Stage(pruning.attack_nonmembers, (has_mask,)),
    "twin_attacked": Stage(pruning.attack_twin, (has_twin,)),
    "surrogates": Stage(hardening.surrogates, (hardening.has_memories, has_mask)),
    "kept": Stage(hardening.kept, (hardening.has_memories, hardening.has_captions)),
    "harden": Stage(hardening.harden, (hardening.has_memories, hardening.has_material)),
    "hardened": Stage(hardening.draw, (hardening.has_weights,)),
    "hardened_attacked": Stage(hardening.attack_members, (hardening.has_weights,)),
    "hardened_nonmember_attacked": Stage(hardening.attack_nonmembers, (hardening.has_weights,)),
}
# Those that a user's suspects are found by.
FINDING = ("work", "scan", "before", "shielded")


def complete(session: AuditSession) -> Summary:
    """Run what isn't done yet, write summary.json, return it."""
    run_stages(session, *FINDING)
    if session.cohorts.prompts and session.plan.benign and len(session.plan.picture_seeds) > 1:
        run_stages(session, "benign")
    session.cohorts = with_suspects(session.cohorts, list(session.run.records()))
    run_stages(session, *(name for name in STAGES if name not in (*FINDING, "benign")))
    summary = session.summary()
    write_json(session.run.folder / "summary.json", summary)
    return summary


def run_stages(session: AuditSession, *names: str) -> None:
    """These stages, each once."""
    for name in names:
        session.stages.do(name, lambda stage=STAGES[name]: stage.do(session))  # type: ignore[misc]
