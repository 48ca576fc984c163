"""`diffshield attack`: does a search on the prompt's embedding bring works back, and is that memory or injection?

The same search at the same budget runs on works that were in the training data, on matched pictures that weren't, and
on the works once more with a clean twin that never saw them. An unbounded embedding can inject any picture, given
enough steps; what only the first of the three gives up is memory. The verdict is the gap, with its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.attacks import ATTACKS, AdversarialEmbedding, AnyAttack, Paraphrase, TextFree
from probes.attacks.adversarial_embedding import INITS
from probes.attacks.paraphrase import format_ladder, ladder
from probes.audit.plan import AuditPlan
from probes.audit.request import AuditRequest, Done, mask_file, opened, read_mask
from probes.audit.stages import run_stages
from probes.inputs.cohorts import Sizes
from probes.paths import takes_paths
from probes.report.figures import GapRow
from probes.report.html import write_report
from probes.report.summary import Summary
from probes.report.wording import CONTROLS, EMBEDDING, Wording, wording_of
from probes.runs.folder import write_json
from probes.runs.provenance import sha256_of
from probes.types import UnitMask
from shield.errors import BadRequestError

STEPS = (0, 1, 10, 25, 50, 150)
LEVELS = (0, 1, 2, 3, 4)
ATTACK = AuditPlan(sizes=Sizes(members=8, nonmembers=8, scenes=0), picture_seeds=tuple(range(9000, 9002)))
WHO = {
    "attacked": "members",
    "nonmember_attacked": "non-members",
    "twin_attacked": "clean twin",
    "hardened_attacked": "members, hardened",
    "hardened_nonmember_attacked": "non-members, hardened",
}
AGAINST = {"attacked": "Against", "hardened_attacked": "Hardened, against"}
UNPRUNED = "No mask was given: the model was attacked as it is."


@takes_paths
def attack(
    out: Path,
    request: AuditRequest | None = None,
    *,
    mask: Path | None = None,
    steps: Sequence[int] | None = None,
    init: str = "caption",
    init_prompt: str | None = None,
    batch: int = AdversarialEmbedding.batch,
    plan: AuditPlan = ATTACK,
    method: str = AdversarialEmbedding.name,
    resume: bool = False,
    show_progress: bool = True,
) -> Done:
    """Attack the model, pruned by ``mask`` if there is one, with its controls, into the run folder ``out``.

    ``method`` is a name of ATTACKS; ``steps`` are STEPS by default, the LEVELS of a paraphrase, and the probe's own of
    one without text.

    One search to the last of ``steps`` is judged at each of them, on seeds that it never saw. The testbed's own twin
    is used unless ``request`` names another; a control that there is nothing for is skipped and said so. Raises
    BadRequestError (steps, init), MaskError, AuditError, PromptFileError, RunError, WeightsError.
    """
    request = request or AuditRequest()
    request = replace(request, twin=request.twin or request.checkpoint.twin)
    steps = steps or usual_steps(method)
    plan = attack_plan(plan, steps, init, init_prompt, batch, method)
    selected = read_mask(mask) if mask is not None else UnitMask({})
    more: dict[str, Any] = {"mask": None if mask is None else sha256_of(mask_file(mask))}
    if method != AdversarialEmbedding.name:
        more["attack"] = method
    with opened("attack", out, request, plan, selected, more, resume=resume, show_progress=show_progress) as session:
        captioned = () if isinstance(plan.attack, TextFree) else (session.start, "twin")
        run_stages(session, "work", *captioned, "attacked", "nonmember_attacked", "twin_attacked")
        summary = session.summary()
        if mask is None:
            summary["limits"] = [UNPRUNED, *summary["limits"]]
        summary |= {"attack": method, "verdicts": verdicts(summary["gaps"], wording_of(method))}
        if method == Paraphrase.name:
            summary["ladder_of_paraphrases"] = ladder(list(session.run.records()))
        write_json(out / "summary.json", summary)
    return Done(out, write_report(out), summary)


def usual_steps(method: str) -> tuple[int, ...]:
    """Where an attack is judged unless something else is asked for. BadRequestError for an unknown one."""
    _refuse_unknown(method)
    chosen = ATTACKS[method]
    if issubclass(chosen, TextFree):
        return chosen.levels
    return LEVELS if chosen is Paraphrase else STEPS


def _refuse_unknown(method: str) -> None:
    if method not in ATTACKS:
        raise BadRequestError(f"There is no attack {method!r}; use {', '.join(ATTACKS)}.")


def _refuse_levels(probe: TextFree, levels: Sequence[int], init: str) -> None:
    if init != "caption":
        raise BadRequestError(f"{probe.name} draws with the empty prompt and searches nothing; leave --init out.")
    outside = [level for level in levels if not probe.lowest <= level <= probe.highest]
    if outside:
        raise BadRequestError(
            f"A level of {probe.name} is a percentage from {probe.lowest} to {probe.highest}, not {_listed(outside)}; "
            f"by default: --at {','.join(map(str, probe.levels))}."
        )


def attack_plan(
    plan: AuditPlan,
    steps: Sequence[int],
    init: str,
    init_prompt: str | None,
    batch: int,
    method: str = AdversarialEmbedding.name,
) -> AuditPlan:
    """The plan with this search. BadRequestError for what can't be searched."""
    _refuse_unknown(method)
    if method == Paraphrase.name and init != "caption":
        raise BadRequestError(f"A paraphrase distorts the caption; it can't start from {init!r}.")
    if init not in INITS:
        raise BadRequestError(f"A search starts from {', '.join(INITS)}, not {init!r}.")
    if (init == "other") != (init_prompt is not None):
        raise BadRequestError('The start "other", and only that one, needs the other prompt.')
    chosen = plan.attack if plan.attack.name == method else ATTACKS[method]()
    if isinstance(chosen, TextFree):
        _refuse_levels(chosen, steps, init)
    elif not steps or min(steps) < 0 or max(steps) == 0 or batch < 1:
        raise BadRequestError(
            f"An attack needs step counts of 0 or more, one of them above 0, and 1 or more draws a "
            f"step; {', '.join(map(str, steps)) or 'no steps'} and {batch} were given."
        )
    search: AnyAttack = replace(chosen, steps=max(steps), batch=batch)
    return replace(plan, attack=search, snapshots=tuple(sorted(set(steps))), init=init, init_prompt=init_prompt)


def verdicts(rows: Sequence[GapRow], wording: Wording = EMBEDDING) -> list[str]:
    """For each attack and control, at which step counts the gap's interval lies above zero."""
    said = []
    for stage, control in dict.fromkeys((row["stage"], row["control"]) for row in rows):
        judged = [row for row in rows if (row["stage"], row["control"]) == (stage, control) and row["gap"] is not None]
        start = f"{AGAINST[stage]} {CONTROLS[control]}: "
        above = [row["attack_steps"] for row in judged if row["low"] > 0]
        level = [row["attack_steps"] for row in judged if row["low"] <= 0]
        if not judged:
            said.append(f"{start}nothing could be judged.")
        elif not above:
            more = any(row["gap"] > 0 for row in judged)
            far = "brings back more, but not for certain" if more else "never brings back more"
            ruled = ", and so few works don't rule it out" if more else ""
            said.append(f"{start}the attack {far}, so it shows no memory{ruled}.")
        else:
            meet = f"; no gap is shown at {_listed(level)}" if level else ""
            said.append(f"{start}the attack brings back more at {wording.far(*above)}{meet}.")
    return said


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


def format_attack(summary: Summary) -> list[str]:
    """The curve and the verdicts for a terminal."""
    paired = format_ladder(summary.get("ladder_of_paraphrases", ()))
    return [*format_curve(summary), *paired, *summary["verdicts"], *summary["limits"]]


def format_curve(summary: Summary) -> list[str]:
    """Each point of the attack's curve for a terminal."""
    far, lines = wording_of(summary.get("attack")).far, []
    for row in summary["curve"]:
        rate = (
            "not judged"
            if row["rate"] is None
            else (f"{row['copied']} of {row['n']} copies ({row['low']:.0%} to {row['high']:.0%})")
        )
        lines.append(f"{WHO[row['stage']]}, {far(row['attack_steps'])}: {rate}, {row['unscored']} not judged")
    return lines
