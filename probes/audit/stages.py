"""An audit's stages by name, each run once and in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from probes.audit import hardening_stages as hardening
from probes.audit.session import AuditSession
from probes.errors import UnsupportedError
from probes.inputs.cohorts import with_suspects
from probes.runs.folder import write_json
from probes.runs.stage_log import Skip


def _supported(work: Callable[[], Mapping[str, Any] | None]) -> Callable[[], Mapping[str, Any] | None]:
    """The same work; a method that doesn't know this family of models leaves its stage out."""

    def supported() -> Mapping[str, Any] | None:
        try:
            return work()
        except UnsupportedError as error:
            raise Skip(str(error)) from error

    return supported


def complete(session: AuditSession) -> dict[str, Any]:
    """Run what isn't done yet, write summary.json, return it."""
    run_stages(session, "work", "scan", "before", "shielded")
    session.cohorts = with_suspects(session.cohorts, list(session.run.records()))
    run_stages(
        session,
        "twin",
        "localize",
        "pruned",
        "random_pruned",
        "attacked",
        "nonmember_attacked",
        "twin_attacked",
        *hardening.STAGES,
    )
    summary = session.summary()
    write_json(session.run.folder / "summary.json", summary)
    return summary


def run_stages(session: AuditSession, *stages: str) -> None:
    """These stages, each once."""
    work: dict[str, Callable[[], Mapping[str, Any] | None]] = {
        "work": session.works,
        "scan": session.scan,
        "before": session.before,
        "shielded": session.shielded,
        "twin": session.twin,
        "localize": session.localize,
        "pruned": session.pruned,
        "random_pruned": session.random_pruned,
        "attacked": session.attacked,
        "nonmember_attacked": session.nonmember_attacked,
        "twin_attacked": session.twin_attacked,
        **hardening.stages(session),
    }
    for stage in stages:
        session.stages.do(stage, _supported(work[stage]))
