"""The stages of an audit up to the attack on the pruned model; probes/audit/audit.py says what they write."""

from __future__ import annotations

from typing import Any

from probes.audit.session import AuditSession
from probes.drawing.agreement import record_benign
from probes.drawing.draw import drawn_by_pipeline, drawn_by_shield, jobs_for, record_works
from probes.localizers import RandomMask
from probes.pruners import pruned
from probes.runs.stage_log import Skip
from shield.errors import NotCalibratedError


def works(session: AuditSession) -> None:
    record_works(session.run, session.cohorts.drawn())


def scan(session: AuditSession) -> None:
    draw = drawn_by_pipeline(
        session.subject, session.plan.sampling, session.detectors, pictures=False, thresholds=session.thresholds
    )
    session.draw("scan", session.subject, jobs_for(session.cohorts.drawn(), session.plan.scan_seeds), draw)


def before(session: AuditSession) -> None:
    session.draw("before", session.subject, jobs_for(session.cohorts.drawn(), session.plan.picture_seeds))


def benign(session: AuditSession) -> None:
    """Benign prompts that ship, so that agreement over seeds has something to be compared with."""
    plan, batch = session.plan, session.plan.sampling.batch_size
    draw, track = drawn_by_pipeline(session.subject, plan.sampling), session.track("benign prompts")
    record_benign(session.run, session.subject.name, plan.picture_seeds, plan.benign, draw, batch, track)


def shielded(session: AuditSession) -> None:
    """Members, suspects and non-members through the shield; skipped where it isn't calibrated."""
    from shield import Shield

    cohorts = session.cohorts
    targets = [target for target in cohorts.drawn() if target.kind != "scene" and target not in cohorts.ladder]
    targets += [target for target in cohorts.members if target not in targets]
    try:
        shield = Shield(session.subject.pipe, thresholds=session.thresholds, calibrate="never")
        draw = drawn_by_shield(shield, session.plan.sampling)
        session.draw("shielded", session.subject, jobs_for(targets, session.plan.picture_seeds), draw)
    except NotCalibratedError as error:
        raise Skip(f"The shield wasn't tried: {error}") from error


def twin(session: AuditSession) -> None:
    assert session.truth.twin is not None
    session.draw("twin", session.truth.twin, jobs_for(session.cohorts.members, session.plan.picture_seeds))


def localize(session: AuditSession) -> dict[str, Any]:
    plan, targets = session.plan, session.cohorts.locate
    prompts, track = [target.prompt for target in targets], session.track("localize")
    mask = plan.localizer.locate(session.subject, prompts, seed=plan.locate_seed, progress=track).mask
    mask.save(session.run.folder / "mask.safetensors")
    control = RandomMask(like=mask).locate(session.subject, seed=plan.locate_seed).mask
    return {
        "localizer": plan.localizer.name,
        "prompts": [target.id for target in targets],
        "density": mask.density(),
        "weights": mask.count(),
        "densities": mask.densities(),
        "iou_random": mask.iou(control),
    }


def prune(session: AuditSession) -> None:
    cohorts = session.cohorts
    targets = dict.fromkeys([*cohorts.members, *cohorts.nonmembers, *cohorts.scenes])
    with pruned(session.subject, session.mask()):
        session.draw("pruned", session.subject, jobs_for(list(targets), session.plan.picture_seeds))


def prune_at_random(session: AuditSession) -> None:
    control = RandomMask(like=session.mask()).locate(session.subject, seed=session.plan.locate_seed).mask
    with pruned(session.subject, control):
        jobs = jobs_for(session.cohorts.members, session.plan.picture_seeds)
        session.draw("random_pruned", session.subject, jobs)


def attack_members(session: AuditSession) -> dict[str, Any]:
    with pruned(session.subject, session.mask()):
        return session.attack("attacked", session.start, session.subject, session.cohorts.members)


def attack_nonmembers(session: AuditSession) -> dict[str, Any]:
    with pruned(session.subject, session.mask()):
        return session.attack("nonmember_attacked", session.start, session.subject, session.cohorts.nonmembers)


def attack_twin(session: AuditSession) -> dict[str, Any]:
    assert session.truth.twin is not None
    return session.attack("twin_attacked", "twin", session.truth.twin, session.cohorts.members)
