"""The closed loop on held-out works: prune, attack with controls, harden in three ways, attack again.

The mask is located with dev works' captions at the setting that the dev sweep chose. Every attack has one budget. The
run folders stay beside the result and hold every picture; a bench that was stopped goes on from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.attacks import ATTACKS, TextFree
from probes.audit.audit import as_usual
from probes.audit.plan import FULL, TESTBED_LR, AuditPlan, Hardening
from probes.drawing.draw import Sampling
from probes.hardeners import HARDENERS, AdversarialFineTuning
from probes.hardeners.training import FineTuning
from probes.inputs.cohorts import Sizes, cohorts_of_manifest
from probes.report.format import earlier, interval, share_by_both
from probes.report.wording import wording_of
from probes.runs.folder import write_json
from probes.testbed.checkpoint import Checkpoint
from probes.testbed.manifest import load_manifest
from probes.verbs.attack import attack
from probes.verbs.harden import harden

STEPS = (0, 1, 10, 25, 50, 150)
AGAIN = STEPS[:-1]  # on a hardened model, and on dev works while it is trained
WORDS = (0, 10, 50)  # steps of a search for a prompt
DRAWS = 4  # of noise and timestep in a step of a search
SIZES = Sizes(members=10, locate=12, nonmembers=8, scenes=20)
CHECKED = 4  # dev works that decide when to stop
LONGER = "adversarial_fine_tuning_longer"
"""Triggers as strong as the attack that is judged, and twice the dev works decide when to stop."""
HARDENED = (*HARDENERS, LONGER)
SEARCHES = tuple(name for name, kind in ATTACKS.items() if not issubclass(kind, TextFree))


def hardening_of(name: str) -> Hardening:
    """How one of HARDENED is trained; chosen on dev works."""
    if name == LONGER:
        usual = hardening_of("adversarial_fine_tuning")
        return replace(
            usual,
            hardener=_searching(50),
            dev=2 * CHECKED,
            keep=192,
            schedule=replace(usual.schedule, epochs=5, batch=9),
        )
    ours = name == "adversarial_fine_tuning"
    return Hardening(
        members=SIZES.members,
        dev=CHECKED,
        keep=96,
        tries=1,
        controls=SIZES.scenes,
        hardener=_searching(25) if ours else HARDENERS[name](),
        schedule=FineTuning(
            epochs=4, updates=10, batch=7, lr=TESTBED_LR / 2 if name == "negative_guidance" else TESTBED_LR
        ),
    )


def _searching(steps: int) -> AdversarialFineTuning:
    """Trained on triggers of so many steps."""
    usual = AdversarialFineTuning()
    return replace(usual, attack=replace(usual.attack, steps=steps, batch=DRAWS))


def plan_of(seeds: int, hardening: Hardening | None = None) -> AuditPlan:
    """Sizes and budget of every run here."""
    plan = replace(
        FULL,
        sizes=SIZES,
        picture_seeds=tuple(range(9000, 9000 + seeds)),
        sampling=Sampling(*Checkpoint.of("testbed").sampling(), batch_size=32),
        attack=replace(FULL.attack, batch=DRAWS),
    )
    return plan if hardening is None else replace(plan, hardening=hardening)


def bench_attacks(
    out: Path,
    runs: Path,
    *,
    seeds: int = 10,
    attacks: Sequence[str] = SEARCHES,
    hardeners: Sequence[str] = HARDENED,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes attacks.json to ``out`` and run folders to ``runs``; returns the figures.

    Of an earlier attacks.json of the same model and number of noises, the other attacks and hardenings are kept.
    """
    file = out / "attacks.json"
    setting = {"format": 2, "seeds": seeds, "model_sha256": Checkpoint.of("testbed").loaded().subject().sha256()}
    result: dict[str, Any] = {**setting, "attacks": {}, "hardening": {}} | earlier(file, setting)
    out.mkdir(parents=True, exist_ok=True)
    for name in attacks:
        progress(name)
        result["attacks"][name] = attacked(name, runs, seeds)
        write_json(file, result)
    for name in hardeners:
        progress(f"hardening by {name}")
        result["hardening"][name] = hardened(name, runs, seeds)
        write_json(file, result)
    return result


def attacked(name: str, runs: Path, seeds: int) -> dict[str, Any]:
    """One attack with its controls, on the pruned model. A paraphrase is of captions that bring works out: unpruned."""
    folder, steps = runs / name, {"adversarial_embedding": STEPS, "prompt_search": WORDS}.get(name)
    mask = None if name == "paraphrase" else located(runs / "mask.safetensors")
    done = attack(
        folder,
        mask=mask,
        method=name,
        steps=steps,
        batch=DRAWS,
        resume=folder.exists(),
        plan=plan_of(seeds, hardening_of("adversarial_fine_tuning")),
    )
    return _kept(done.summary)


def hardened(name: str, runs: Path, seeds: int) -> dict[str, Any]:
    """One hardening, and the attack on it with its controls."""
    folder = runs / f"harden-{name}"
    done = harden(
        folder,
        mask=located(runs / "mask.safetensors"),
        steps=AGAIN,
        resume=folder.exists(),
        plan=plan_of(seeds, hardening_of(name)),
    )
    return _kept(done.summary)


def located(file: Path) -> Path:
    """The mask that an audit would prune, located with dev works, in a file."""
    if not file.exists():
        checkpoint = Checkpoint.of("testbed").loaded()
        subject = checkpoint.subject()
        plan = as_usual(FULL, checkpoint)
        captions = [target.prompt for target in cohorts_of_manifest(load_manifest(), SIZES).locate]
        file.parent.mkdir(parents=True, exist_ok=True)
        plan.localizer.locate(subject, captions, seed=plan.locate_seed).mask.save(file)
    return file


def _kept(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's summary what its tables need."""
    keys = ("model_sha256", "rows", "curve", "gaps", "verdicts", "hardening", "ladder_of_paraphrases", "cost")
    return {key: summary[key] for key in keys if key in summary}


def attack_table(result: Mapping[str, Any]) -> str:
    """Copies at each number of steps of each attack, beside its controls."""
    lines = ["| attack | at | works | matched non-members | works, clean twin |", "|---" * 5 + "|"]
    for name, found in result["attacks"].items():
        model, rows = "model as it is" if name == "paraphrase" else "pruned model", _by_steps(found)
        for steps in sorted({steps for _, steps in rows}):
            cells = [_share(rows.get((stage, steps))) for stage in ("attacked", "nonmember_attacked", "twin_attacked")]
            lines.append(f"| {name}, {model} | {_steps(steps, name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def hardening_table(result: Mapping[str, Any]) -> str:
    """What is left after each hardening: from the caption (0 steps) and from the attack; and what scenes lost."""
    lines = [
        f"| hardened by | {' | '.join(map(_steps, AGAIN))} | non-members, {AGAIN[-1]} steps | loss of agreement |",
        "|---" * (len(AGAIN) + 3) + "|",
    ]
    ours = result["attacks"]["adversarial_embedding"]
    curves = [("nothing (pruned)", ours, "attacked", "nonmember_attacked")]
    curves += [
        (name, found, "hardened_attacked", "hardened_nonmember_attacked") for name, found in result["hardening"].items()
    ]
    curves.append(("(clean twin)", ours, "twin_attacked", ""))
    for name, found, stage, control in curves:
        rows = _by_steps(found)
        cells = [_share(rows.get((stage, n))) for n in AGAIN] + [_share(rows.get((control, AGAIN[-1])))]
        lost = (found.get("hardening") or {}).get("utility") if stage.startswith("hardened") else None
        cells.append(interval(lost, "loss") if lost else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_steps(found: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, Any]]:
    return {(row["stage"], row["attack_steps"]): row for row in found["curve"]}


def _steps(number: int, attack: str | None = None) -> str:
    return wording_of(attack).far(number) if number else "caption"


def _share(row: Mapping[str, Any] | None) -> str:
    return "" if row is None or row["rate"] is None else share_by_both(row, "rate")
