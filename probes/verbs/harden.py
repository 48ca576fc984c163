"""`diffshield harden`: remove memories for good, and attack again, with the controls of every attack.

Pruning hides a memory where an adversarial embedding still finds it. Here the weights are trained until it doesn't:
by adversarial fine-tuning, or by one of its baselines with the same works, schedule and judgement. What the attack
gets out of the hardened model is compared with what it gets out of a twin that never saw the works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.audit import hardening_stages as stages_of_hardening
from probes.audit.plan import TESTBED_LR, AuditPlan, Hardening
from probes.audit.request import AuditRequest, Done, mask_file, opened, read_mask
from probes.audit.resurgence import Resurgence, format_resurgence, resurge
from probes.audit.stages import run_stages
from probes.errors import AuditError
from probes.hardeners import HARDENERS
from probes.hardeners.training import FineTuning, hardened, save_hardened
from probes.inputs.cohorts import Sizes, with_dev
from probes.paths import takes_paths
from probes.report.html import write_report
from probes.report.summary import Summary
from probes.runs.folder import made_folder, write_json
from probes.runs.provenance import sha256_of
from probes.testbed.checkpoint import Checkpoint
from probes.types import UnitMask
from probes.verbs.attack import STEPS, attack_plan, format_curve, verdicts
from shield.errors import BadRequestError

HARDEN = AuditPlan(sizes=Sizes(members=16, nonmembers=8, scenes=10), picture_seeds=tuple(range(9000, 9002)))
AMOUNTS = ("members", "dev", "keep"), ("epochs", "updates", "lr", "batch", "rank")
UNPRUNED = "No mask was given: surrogates come from the model as it is, and borrowed pictures replace copies."


@takes_paths
def harden(
    out: Path,
    request: AuditRequest | None = None,
    *,
    mask: Path | None = None,
    steps: Sequence[int] = STEPS,
    plan: AuditPlan = HARDEN,
    then: Resurgence | None = None,
    save: Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Done:
    """Harden the model into the run folder ``out`` and attack it again; the model itself stays bit-equal.

    ``mask`` gives the pruned model that surrogates come from. How much is trained is in ``plan.hardening``. ``then``
    trains the hardened model on with ordinary captions and asks again (probes/audit/resurgence.py). ``save`` writes the
    hardened model as a diffusers checkpoint. Raises AuditError, BadRequestError (steps), MaskError,
    PromptFileError, RunError, WeightsError.
    """
    request = request or AuditRequest()
    request = replace(request, twin=request.twin or request.checkpoint.twin)
    plan = attack_plan(plan, steps, plan.init, plan.init_prompt, plan.attack.batch)
    if save is not None and save.exists() and not resume and (not save.is_dir() or any(save.iterdir())):
        raise AuditError(f"{save} exists and isn't empty; choose another folder for the hardened checkpoint.")
    if save is not None:
        made_folder(save.parent)
    selected = read_mask(mask) if mask is not None else UnitMask({})
    more: dict[str, Any] = {
        "mask": None if mask is None else sha256_of(mask_file(mask)),
        "hardener": plan.hardening.hardener.name,
    }
    if then is not None:
        more |= then.settings()
    with opened("harden", out, request, plan, selected, more, resume=resume, show_progress=show_progress) as session:
        session.cohorts = with_dev(session.cohorts)
        if then is not None:
            then.captions(session)  # refuses before any work
        run_stages(
            session,
            "work",
            "before",
            "twin",
            "twin_attacked",
            "surrogates",
            "kept",
            "harden",
            "hardened",
            "hardened_attacked",
            "hardened_nonmember_attacked",
        )
        again: list[dict[str, Any]] = []
        if then is not None and session.stages.complete("harden"):
            weights = out / "harden" / "hardened.safetensors"
            works, controls = stages_of_hardening.members(session), stages_of_hardening.nonmembers(session)
            again = resurge(session, then, lambda: hardened(session.subject, weights), works, controls)
        summary = session.summary()
        summary["resurgence"] = again
        if mask is None:
            summary["limits"] = [UNPRUNED, *summary["limits"]]
        summary["verdicts"] = verdicts(summary["gaps"])
        summary["saved"] = str(save) if save else None
        write_json(out / "summary.json", summary)
        if save is not None and session.stages.complete("harden") and not (save.is_dir() and any(save.iterdir())):
            save_hardened(session.subject, out / "harden" / "hardened.safetensors", save)
    return Done(out, write_report(out), summary)


def hardening(method: str, **amounts: Any) -> Hardening:
    """How much to train: members, dev and keep of a Hardening, epochs, updates, lr, batch and rank of its schedule.

    BadRequestError for what can't be trained.
    """
    if method not in HARDENERS:
        raise BadRequestError(f"A model is hardened by {', '.join(HARDENERS)}, not {method!r}.")
    ours, schedule = ({name: amounts[name] for name in names if name in amounts} for names in AMOUNTS)
    if unknown := amounts.keys() - ours.keys() - schedule.keys():
        known = ", ".join(name for names in AMOUNTS for name in names)
        raise BadRequestError(f"There is no amount {', '.join(sorted(unknown))} of training; there are {known}.")
    if amounts.get("lr", 1.0) <= 0:
        raise BadRequestError(f"A learning rate is above 0, not {amounts['lr']:g}.")
    return Hardening(**ours, hardener=HARDENERS[method](), schedule=FineTuning(**schedule))


def usual_lr(checkpoint: Checkpoint) -> float:
    """The learning rate where none is given."""
    return FineTuning.lr if checkpoint.truth is None else TESTBED_LR


def format_hardening(summary: Summary) -> list[str]:
    """Training, cost for ordinary scenes, the curve and the verdicts for a terminal."""
    done, lines = summary["hardening"], []
    if done:
        ended = "stopped early" if done["stopped_early"] else "to the end"
        lines.append(
            f"{done['hardener']}: works {len(done['works'])}, dev {len(done['dev'])}, epochs "
            f"{done['epochs']:g} ({ended}), parameters {done['parameters']}, surrogates borrowed "
            f"{done['borrowed_surrogates']}"
        )
    again = format_resurgence(summary.get("resurgence", ()))
    return [*lines, *format_curve(summary), *again, *summary["verdicts"], *summary["limits"]]
