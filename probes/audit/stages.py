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


def complete(loop: AuditSession) -> dict[str, Any]:
    """Run what isn't done yet, write summary.json, return it."""
    run_stages(loop, "work", "scan", "before", "shielded")
    loop.panel = with_suspects(loop.panel, list(loop.run.records()))
    run_stages(
        loop,
        "twin",
        "localize",
        "pruned",
        "random_pruned",
        "attacked",
        "nonmember_attacked",
        "twin_attacked",
        *hardening.STAGES,
    )
    summary = loop.summary()
    write_json(loop.run.folder / "summary.json", summary)
    return summary


def run_stages(loop: AuditSession, *stages: str) -> None:
    """These stages, each once."""
    work: dict[str, Callable[[], Mapping[str, Any] | None]] = {
        "work": loop.works,
        "scan": loop.scan,
        "before": loop.before,
        "shielded": loop.shielded,
        "twin": loop.twin,
        "localize": loop.localize,
        "pruned": loop.pruned,
        "random_pruned": loop.random_pruned,
        "attacked": loop.attacked,
        "nonmember_attacked": loop.nonmember_attacked,
        "twin_attacked": loop.twin_attacked,
        **hardening.stages(loop),
    }
    for stage in stages:
        loop.stages.do(stage, _supported(work[stage]))
