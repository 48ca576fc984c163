"""What brings memories back, what removes them, and all of it in one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.api.call import Call, Results, results_of
from probes.attacks import AdversarialEmbedding
from probes.audit.audit import audit as run_audit
from probes.audit.plan import AuditPlan
from probes.inputs.given import Prompts
from probes.paths import as_path
from probes.types import UnitMask
from probes.verbs.attack import ATTACK
from probes.verbs.attack import attack as run_attack
from probes.verbs.harden import HARDEN, STEPS, hardening, usual_lr
from probes.verbs.harden import harden as run_harden


def attack(
    model: Any,
    works: Prompts | None = None,
    *,
    method: str = AdversarialEmbedding.name,
    mask: UnitMask | Path | str | None = None,
    nonmembers: Prompts | None = None,
    twin: str | None = None,
    attack_steps: Sequence[int] | None = None,
    seeds: Sequence[int] = ATTACK.picture_seeds,
    limit: int | None = None,
    batch: int = AdversarialEmbedding.batch,
    plan: AuditPlan = ATTACK,
    steps: int | None = None,
    guidance_scale: float | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
) -> Results:
    """Tries to bring works back, beside the same search on non-members and on a clean twin.

    Args:
        model: As in `scan`.
        works: Works with their reference pictures, pairs (prompt, picture) or a file; None takes the testbed's. On the
            testbed its captions alone will do.
        method: A name of probes.attacks.ATTACKS.
        mask: Attack the model without these weights.
        nonmembers: Matched prompts and pictures that were never trained on, the control.
        twin: A model that never saw the works; the testbed has one.
        attack_steps: Step counts to judge at, up to the last.
        seeds: Noises that pictures are drawn with.
        limit: Use the first works only.
        batch: Draws of each search step.
        plan: Everything else, as probes.audit.plan has it.
        steps: Denoising steps of a picture; by default the model's own.
        guidance_scale: By default the model's own.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.

    Returns:
        Figures and pictures: images(stage="attacked", attack_steps=10) of the works, stages nonmember_attacked and
        twin_attacked of the controls. Only the gap between them shows memory.

    Raises:
        BadRequestError: An unknown attack, or step counts that can't be judged at.
        MaskError: A mask of another model.
        AuditError, PromptFileError, RunError, WeightsError: As in `scan`.
    """
    call = Call.on(model, out, device, resume, steps, guidance_scale)
    request = call.request(works, nonmembers, None, twin, limit)
    done = run_attack(
        call.folder,
        request,
        mask=call.mask_file(mask),
        steps=attack_steps,
        batch=batch,
        plan=replace(plan, sampling=call.sampling, picture_seeds=tuple(seeds)),
        method=method,
        **call.options,
    )
    return results_of(done)


def harden(
    model: Any,
    works: Prompts | None = None,
    *,
    method: str = HARDEN.hardening.hardener.name,
    mask: UnitMask | Path | str | None = None,
    nonmembers: Prompts | None = None,
    benign: Prompts | None = None,
    twin: str | None = None,
    attack_steps: Sequence[int] = STEPS,
    seeds: Sequence[int] = HARDEN.picture_seeds,
    limit: int | None = None,
    plan: AuditPlan = HARDEN,
    steps: int | None = None,
    guidance_scale: float | None = None,
    save: Path | str | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
    **amounts: Any,
) -> Results:
    """Trains memories out of the weights, and attacks again with the controls. The model itself stays bit-equal.

    Args:
        model: As in `scan`.
        works: As in `attack`.
        method: A name of probes.hardeners.HARDENERS.
        mask: Surrogates come from the model without these weights.
        nonmembers: As in `attack`.
        benign: Ordinary prompts: half are kept, half are judged by. None takes the testbed's scenes.
        twin: As in `attack`.
        attack_steps: Step counts to attack again at.
        seeds: Noises that pictures are drawn with.
        limit: Use the first works only.
        plan: Everything else, as probes.audit.plan has it.
        steps: Denoising steps of a picture; by default the model's own.
        guidance_scale: By default the model's own.
        save: Folder for the hardened model, as a diffusers checkpoint.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.
        **amounts: How much is trained: members, dev, keep, epochs, updates, lr, batch, rank.

    Returns:
        Figures and pictures of stages before, hardened, hardened_attacked and hardened_nonmember_attacked.

    Raises:
        BadRequestError: An unknown hardener or amount.
        AuditError, MaskError, PromptFileError, RunError, WeightsError: As in `attack`.
    """
    call = Call.on(model, out, device, resume, steps, guidance_scale)
    request = call.request(works, nonmembers, benign, twin, limit)
    much = hardening(method, **{"lr": usual_lr(call.checkpoint), **amounts})
    done = run_harden(
        call.folder,
        request,
        mask=call.mask_file(mask),
        steps=attack_steps,
        plan=replace(
            plan,
            sampling=call.sampling,
            picture_seeds=tuple(seeds),
            sizes=replace(plan.sizes, members=much.members),
            hardening=much,
        ),
        save=as_path(save),
        **call.options,
    )
    return results_of(done)


def audit(
    model: Any,
    prompts: Prompts | None = None,
    *,
    quick: bool = False,
    twin: str | None = None,
    limit: int | None = None,
    plan: AuditPlan | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
) -> Results:
    """Scans, shields, locates, prunes, attacks and hardens a model, with controls, and writes one report.

    Args:
        model: As in `scan`.
        prompts: As in `attack`; None takes the testbed's works.
        quick: Few works and seeds.
        twin: A model that never saw the works; the testbed has one.
        limit: Use the first prompts only.
        plan: How much is done, as probes.audit.plan has it, in place of `quick`.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.

    Returns:
        The report, its figures and the pictures of every stage. What couldn't be judged is in summary["limits"].

    Raises:
        AuditError: No prompts for a model nothing is known about.
        PromptFileError, RunError, WeightsError: As in `scan`.
    """
    call = Call.on(model, out, device, resume)
    done = run_audit(
        call.subject.name,
        call.folder,
        pipe=call.subject.pipe,
        quick=quick,
        prompts=call.file(prompts),
        limit=limit,
        twin=twin,
        device=device,
        resume=resume,
        plan=plan,
        show_progress=False,
    )
    return results_of(done)
