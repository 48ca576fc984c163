"""The closed loop on held-out works: prune, attack with controls, harden in three ways, attack again.

The mask is located with dev works' captions at the setting that the dev sweep chose. Every attack has one budget. The
run folders stay beside the result and hold every picture; a bench that was stopped goes on from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.attack import attack
from probes.audit import FULL, TESTBED_LR, Plan, as_usual
from probes.bench.figures import interval, share
from probes.fine_tuning import FineTuning
from probes.harden import harden
from probes.hardeners import HARDENERS, AdversarialFineTuning
from probes.hardening import Hardening
from probes.panel import Sizes, panel_of_manifest
from probes.runs import write_json
from probes.sampling import verb_sampling
from probes.scan import Sampling
from probes.testbed.manifest import load_manifest
from probes.types import Subject
from shield.load import load

STEPS = (0, 1, 10, 25, 50)
DRAWS = 4  # of noise and timestep in a step of a search
SIZES = Sizes(members=10, locate=12, nonmembers=8, scenes=20)
LR = {"adversarial_fine_tuning": TESTBED_LR, "caption_fine_tuning": TESTBED_LR, "negative_guidance": TESTBED_LR / 2}


def plan_of(hardener: str, seeds: int) -> Plan:
    """Sizes and schedule of one hardening, chosen on dev works."""
    trained = HARDENERS[hardener]()
    if isinstance(trained, AdversarialFineTuning):
        trained = replace(trained, attack=replace(trained.attack, steps=25, batch=DRAWS))
    hardening = Hardening(members=SIZES.members, dev=4, keep=96, tries=1, controls=SIZES.nonmembers, hardener=trained,
                          schedule=FineTuning(epochs=4, updates=10, lr=LR[hardener], batch=7))  # fmt: skip
    return replace(FULL, sizes=SIZES, picture_seeds=tuple(range(9000, 9000 + seeds)), hardening=hardening,
                   sampling=Sampling(*verb_sampling("testbed", None, None), batch_size=32),
                   attack=replace(FULL.attack, batch=DRAWS))  # fmt: skip


def bench_attacks(out: Path, runs: Path, *, seeds: int = 3, hardeners: Sequence[str] = tuple(HARDENERS),
                  progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Writes attacks.json and attacks.png to ``out`` and run folders to ``runs``; returns the figures."""
    mask = located(runs / "mask.safetensors")
    done = attack(runs / "attack", mask=mask, steps=STEPS, batch=DRAWS, plan=plan_of("adversarial_fine_tuning", seeds),
                  resume=(runs / "attack").exists())  # fmt: skip
    result: dict[str, Any] = {"format": 1, "seeds": seeds, "attack": _kept(done.summary), "hardening": {}}
    for name in hardeners:
        folder = runs / f"harden-{name}"
        progress(f"hardening by {name}")
        done = harden(folder, mask=mask, steps=STEPS, plan=plan_of(name, seeds), resume=folder.exists())
        result["hardening"][name] = _kept(done.summary)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "attacks.json", result)
    plot(result, out / "attacks.png")
    return result


def located(file: Path) -> Path:
    """The mask that an audit would prune, located with dev works, in a file."""
    if not file.exists():
        subject = Subject(load("testbed"), "testbed")
        plan = as_usual(FULL, subject)
        captions = [target.prompt for target in panel_of_manifest(load_manifest(), SIZES).locate]
        file.parent.mkdir(parents=True, exist_ok=True)
        plan.localizer.locate(subject, captions, seed=plan.locate_seed).mask.save(file)
    return file


def _kept(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's summary what its tables need."""
    return {key: summary[key] for key in ("model_sha256", "rows", "curve", "gaps", "verdicts", "hardening", "cost")}


def attack_table(result: Mapping[str, Any]) -> str:
    """Copies at each number of steps on the pruned model, beside its controls."""
    names = {"attacked": "works, pruned model", "nonmember_attacked": "matched non-members, pruned model",
             "twin_attacked": "works, clean twin"}  # fmt: skip
    curve = result["attack"]["curve"]
    lines = ["| search steps | " + " | ".join(names.values()) + " |", "|---" * (1 + len(names)) + "|"]
    for steps in sorted({row["attack_steps"] for row in curve}):
        cells = [_share(row) for stage in names for row in curve
                 if (row["stage"], row["attack_steps"]) == (stage, steps)]  # fmt: skip
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def hardening_table(result: Mapping[str, Any]) -> str:
    """What is left after each hardening: from the caption (0 steps) and from the attack; and what scenes lost."""
    steps = [f"{n} step{'s' if n > 1 else ''}" if n else "caption" for n in STEPS]
    lines = [f"| hardened by | {' | '.join(steps)} | non-members, {STEPS[-1]} steps | loss of agreement |",
             "|---" * (len(STEPS) + 3) + "|"]  # fmt: skip
    curves = [("nothing (pruned)", result["attack"], "attacked", "nonmember_attacked")]
    curves += [(name, found, "hardened_attacked", "hardened_nonmember_attacked")
               for name, found in result["hardening"].items()]  # fmt: skip
    curves.append(("(clean twin)", result["attack"], "twin_attacked", ""))
    for name, found, stage, control in curves:
        rows = {(row["stage"], row["attack_steps"]): row for row in found["curve"]}
        cells = [_share(rows.get((stage, n))) for n in STEPS] + [_share(rows.get((control, STEPS[-1])))]
        lost = (found.get("hardening") or {}).get("utility") if stage.startswith("hardened") else None
        cells.append(interval(lost, "loss") if lost else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Copies against search steps: the pruned model beside its controls, and what each hardening left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for stage, name, style in (("attacked", "works, pruned model", "C3o-"), ("twin_attacked", "clean twin", "C0x--"),
                               ("nonmember_attacked", "non-members, pruned model", "C7s--")):  # fmt: skip
        _curve(left, result["attack"]["curve"], stage, name, style)
    _curve(right, result["attack"]["curve"], "attacked", "pruned only", "C3o-")
    for number, (name, found) in enumerate(result["hardening"].items()):
        _curve(right, found["curve"], "hardened_attacked", name.replace("_", " "), f"C{number}{'^vD'[number]}-")
    _curve(right, result["attack"]["curve"], "twin_attacked", "clean twin", "C0x--")
    left.set(ylabel="copies", ylim=(-0.04, 1.04), title="pruned")
    right.set(title="hardened")
    for axes in (left, right):
        axes.set_xlabel("search steps")
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=130)


def _curve(axes: Any, curve: Sequence[Mapping[str, Any]], stage: str, name: str, style: str) -> None:
    rows = [row for row in curve if row["stage"] == stage and row["rate"] is not None]
    steps, rates = [row["attack_steps"] for row in rows], [row["rate"] for row in rows]
    below = [row["rate"] - row["low"] for row in rows], [row["high"] - row["rate"] for row in rows]
    axes.errorbar(steps, rates, yerr=below, fmt=style, ms=4, lw=1, capsize=2, label=name)


def _share(row: Mapping[str, Any] | None) -> str:
    return "" if row is None or row["rate"] is None else share(row, "rate")
