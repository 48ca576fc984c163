"""What a run found: a verdict for its headline and a list of findings, each with its interval and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from probes.report.figures import Difference, RateRow, difference, group_of
from probes.report.grades import Grading
from probes.report.sentences import many, percent, share
from probes.report.summary import Figures
from probes.report.wording import CONTROLS, wording_of
from probes.runs.records import Record

ORDER = ("high", "medium", "unknown", "low", "good")
"""Severities, the worst first. "unknown" stands before what is known to be small."""


@dataclass(frozen=True)
class Finding:
    """One thing that a run found.

    Attributes:
        key: What it is about; the headline is the finding of a run's own kind.
        severity: One of ORDER.
        title: The finding itself, in a few words.
        detail: Its numbers and its control.
        row: What an interval bar is drawn of: rate, low, high.
        next: The command to go on with.
        evidence: Records whose pictures show it.
    """

    key: str
    severity: str
    title: str
    detail: str
    row: RateRow | None = None
    next: str | None = None
    evidence: Sequence[Record] = field(default=(), repr=False)


@dataclass(frozen=True)
class Found:
    """A run as its findings see it."""

    kind: str
    folder: str
    model: str
    figures: Figures
    records: Sequence[Record]
    grading: Grading | None
    prompts: Sequence[str] = ()

    def row(self, stage: str, *groups: str) -> RateRow | None:
        """The first judged row of a stage."""
        rows = {row["group"]: row for row in self.figures["rows"] if row["stage"] == stage and row["rate"] is not None}
        return next((rows[group] for group in groups if group in rows), None)

    def asked(self, stage: str) -> RateRow | None:
        """A stage's row of what was asked about: works in the training data, or the user's prompts."""
        return self.row(stage, "members", "prompts")

    def pictures(self, stage: str, copied: bool | None = True) -> list[Record]:
        """Drawn pictures of a stage with this verdict, the most alike first."""
        drawn = [r for r in self.records if r["stage"] == stage and r["copied"] is copied and r["picture"]]
        members = self.members
        drawn = [r for r in drawn if group_of(r) == "prompts" or (group_of(r) == "members" and r["item"] in members)]
        grading = self.grading
        if grading is None:
            return drawn
        return sorted(drawn, key=lambda r: 1.0 if (score := grading.score(r)) is None else grading.place(score))

    @cached_property
    def members(self) -> set[str]:
        """Works that every stage draws, which rows count; others stand on the ladder of exposures alone."""
        for stages in (("shielded", "twin", "pruned"), ("hardened",), ("before",)):
            if drawn := {r["item"] for r in self.records if r["stage"] in stages}:
                return drawn
        return set()

    def command(self, verb: str, *words: str) -> str:
        return shlex.join(["diffshield", *verb.split(), *words, "--model", self.model])

    @property
    def mask(self) -> str:
        return f"{self.folder}/mask.safetensors"


def findings(found: Found) -> list[Finding]:
    """All findings, the gravest first."""
    made = [finding for make in FINDINGS if (finding := make(found)) is not None]
    return sorted(made, key=lambda finding: ORDER.index(finding.severity))


HEADLINES = {"attack": "attack", "prune": "pruned", "harden": "hardened", "locality": "locality", "localize": "mask"}


def headline(found: Found, made: Sequence[Finding]) -> Finding:
    """The finding that a run of this kind was made for; that nothing can be said, where it has none."""
    wanted = (HEADLINES.get(found.kind), "recall", "flags", "mask")
    chosen = next((one for key in wanted for one in made if key is not None and one.key == key), None)
    return chosen or Finding(
        "recall",
        "unknown",
        f"Can't say whether {found.model} memorizes",
        "No picture of this run could be judged and no score was compared with a threshold.",
        next=found.command("audit", "--prompts", "PROMPTS.csv", "--out", "runs/audit"),
    )


def recall(found: Found) -> Finding | None:
    """Does the model return copies when it is asked for works, and more so than a control?"""
    row = found.asked("before")
    if row is None:
        return None
    control = found.row("twin", "members") or found.row("before", "nonmembers")
    gap = difference(row, control) if control and row["group"] == "members" else None
    against = _against(gap, "a twin model without these works" if found.row("twin", "members") else "unseen pictures")
    near = _near(found, "before")
    detail = f"{share(row)} are copies{near}. {against}".strip()
    if not row["copied"]:
        title = f"No copies from {found.model}: at most {percent(row['high'])}% of such pictures are"
        nearest = found.pictures("before", False)
        severity = "medium" if near else "good" if row["high"] <= 0.05 else "low"
        return Finding("recall", severity, title, detail, row, _more(found), nearest)
    if row["low"] <= 0 or (gap is not None and gap["low"] <= 0):
        copies = f"{row['copied']} of {many(row['n'], 'picture')}"
        title = f"Can't say yet: {copies} copied a work, too few to tell {found.model} from its control"
        return Finding("recall", "unknown", title, detail, row, _more(found), found.pictures("before"))
    asked = many(row["works"], "work" if row["group"] == "members" else "prompt")
    title = f"{found.model} memorizes: {percent(row['rate'])}% of pictures of {asked} are copies"
    mask = ("--mask", found.mask) if found.kind == "audit" and found.figures["mask"] else ()
    then = found.command("harden", *mask, "--out", "runs/hardened")
    return Finding("recall", "high", title, detail, row, then, found.pictures("before"))


def shielded(found: Found) -> Finding | None:
    row = found.row("shielded", "members", "prompts")
    if row is None:
        return None
    if row["copied"]:
        then = found.command("calibrate", "--fpr", "0.05")
        title = f"{row['copied']} copies came through the shield"
        return Finding("shielded", "high", title, f"{share(row)} are copies.", row, then, found.pictures("shielded"))
    near, pictures = _near(found, "shielded"), found.pictures("shielded", False)
    if near:
        title, then = (
            "No copy came through the shield, but near copies did",
            found.command("calibrate", "--fpr", "0.05"),
        )
        return Finding("shielded", "medium", title, f"{share(row)} are copies{near}.", row, then, pictures)
    return Finding("shielded", "good", "No copy came through the shield", _bound(row), row, None, pictures)


def pruned(found: Found) -> Finding | None:
    return _removed(found, "pruned", "pruning", found.command("attack", "--mask", found.mask, "--out", "runs/attacked"))


def hardened(found: Found) -> Finding | None:
    return _removed(found, "hardened", "hardening", found.command("harden", "--epochs", "10", "--out", "runs/longer"))


def _removed(found: Found, stage: str, what: str, then: str) -> Finding | None:
    """What is left of the copies after weights were changed; and beside as many random weights."""
    row, before = found.asked(stage), found.asked("before")
    if row is None:
        return None
    was = f" Before: {share(before)}." if before else ""
    random = found.row("random_pruned", "members") if stage == "pruned" else None
    if random:
        was += f" With as many random weights pruned: {share(random)}."
    title = (
        f"After {what} the caption still returns {percent(row['rate'])}% copies"
        if row["copied"]
        else f"After {what} the caption returns no copy"
    )
    severity = "good" if not row["copied"] else "medium" if before and row["rate"] < before["rate"] else "high"
    pictures = found.pictures(stage, bool(row["copied"]))
    return Finding(
        stage,
        severity,
        title,
        f"{share(row)} are copies.{was}",
        row,
        then if row["copied"] or stage == "pruned" else None,
        pictures,
    )


def attack(found: Found) -> Finding | None:
    after = "pruning" if found.figures["pruned"] else ""
    then = found.command("harden", "--mask", found.mask, "--out", "runs/hardened")
    return _attacked(found, "attacked", "attack", after, then)


def hardened_attack(found: Found) -> Finding | None:
    then = found.command("harden", "--epochs", "10", "--out", "runs/hardened-longer")
    return _attacked(found, "hardened_attacked", "hardened_attack", "hardening", then)


def _attacked(found: Found, stage: str, key: str, after: str, then: str) -> Finding | None:
    """An attack's gap to its controls at the largest budget: one that reaches beyond all of them shows memory."""
    curve = [row for row in found.figures["curve"] if row["stage"] == stage and row["rate"] is not None]
    if not curve:
        return None
    row = max(curve, key=lambda one: one["attack_steps"])
    gaps = [
        gap
        for gap in found.figures["gaps"]
        if (gap["stage"], gap["attack_steps"]) == (stage, row["attack_steps"]) and gap["gap"] is not None
    ]
    far = wording_of(found.figures["attack"]).far(row["attack_steps"])
    behind = f" after {after}" if after else ""
    said = " ".join(_against(gap, CONTROLS.get(gap["control"], gap["control"])) for gap in gaps)
    detail = f"At {far}: {share(row)} are copies. {said}".strip()
    pictures = [r for r in found.pictures(stage) if r.get("attack_steps") == row["attack_steps"]]
    if not gaps:
        title = f"Can't say what the attack{behind} shows: it has no control"
        return Finding(key, "unknown", title, detail, row, then, pictures)
    if all(gap["low"] > 0 for gap in gaps):
        title = f"An attack{behind} brings works back, and not unseen pictures: the memory is still there"
        return Finding(key, "high", title, detail, row, then, pictures)
    severity = "good" if all(gap["gap"] <= 0 for gap in gaps) else "low"
    title = f"An attack{behind} brings back no more than it does of its controls"
    return Finding(key, severity, title, detail, row, None, pictures)


def harm(found: Found) -> Finding | None:
    """What ordinary scenes lose by pruning or hardening, whichever is more."""
    losses = [(found.figures["utility"], "pruning"), ((found.figures["hardening"] or {}).get("utility"), "hardening")]
    known = [(loss, what) for loss, what in losses if loss]
    if not known:
        return None
    loss, what = max(known, key=lambda one: one[0]["loss"])
    lost = loss["low"] > 0
    title = f"Ordinary scenes {'fit their captions less' if lost else 'fit their captions as before'} after {what}"
    detail = (
        f"Alignment {loss['alignment_before']:.3f} to {loss['alignment_after']:.3f}, loss {loss['loss']:.3f} "
        f"(95% interval {loss['low']:.3f} to {loss['high']:.3f}, {loss['scenes']} scenes)."
    )
    then = found.command("prune", found.mask, "--sweep", "0.01,0.05,0.1", "--out", "runs/sweep") if lost else None
    return Finding("harm", "low" if lost else "good", title, detail, next=then)


def flags(found: Found) -> Finding | None:
    """How many prompts of a scan are over the threshold."""
    if found.figures.get("flagged") is None:
        return None
    flagged, judged = found.figures["flagged"], found.figures["flagged"] + found.figures["cleared"]
    if not judged:
        title = f"Can't say which prompts {found.model} memorized: there is no threshold at these settings"
        detail = f"{found.figures['undecided']} scores are ranked below, and none was compared with a threshold."
        return Finding("flags", "unknown", title, detail, next=found.command("calibrate", "--prompts", "BENIGN.txt"))
    what = "prompts" if judged == len({r["item"] for r in found.records if r["stage"] != "work"}) else "scores"
    title = f"{flagged or 'None'} of {judged} {what} {'looks' if flagged == 1 else 'look'} memorized"
    limit = found.figures.get("threshold")
    detail = f"Flagged above {limit:.4g}." if limit is not None else ""
    detail += f" {found.figures['undecided']} scores couldn't be compared." if found.figures["undecided"] else ""
    severity = "medium" if flagged else "good"
    draw = flagged and found.asked("before") is None
    then = found.command("scan", *found.prompts, "--pictures", "--out", "runs/pictures") if draw else None
    return Finding("flags", severity, title, detail.strip(), next=then)


def mask(found: Found) -> Finding | None:
    """Whether different prompts locate the same weights."""
    about = found.figures["mask"]
    if found.kind != "localize" or not about:
        return None
    overlap = [row for row in about.get("overlap", ()) if row["iou"] is not None and row["iou_random"] is not None]
    detail = f"{about['weights']} of {about.get('size', '?')} weights, {about['density']:.2%} of these layers."
    then = found.command("prune", found.folder, "--out", "runs/pruned")
    if not overlap:
        title = "Weights were located; can't say whether other prompts find the same ones"
        return Finding("mask", "unknown", title, f"{detail} It takes more prompts to compare masks.", next=then)
    last = overlap[-1]
    more = last["iou"] > last["iou_random"]
    title = f"Prompts that share nothing locate {'overlapping' if more else 'different'} weights"
    detail += (
        f" Masks of {last['prompts']} prompts overlap by {last['iou']:.2f} (intersection over union), random ones "
        f"of that size by {last['iou_random']:.2f}."
    )
    return Finding("mask", "medium" if more else "low", title, detail, next=then)


def locality(found: Found) -> Finding | None:
    about = found.figures["locality"]
    if not about or "stay" not in about:
        return None
    near, n = about["stay"]["nearest_to_own_start"], about["stay"]["n"]
    if not n:
        title = "Can't say whether a memory is in one place: no search brought a work back"
        return Finding("locality", "unknown", title, f"{about['steps']} steps each.")
    apart = near > n / 2
    title = f"Searches find a work in {'many places' if apart else 'the same region'}, starting from noise"
    detail = f"{near} of {n} results lie nearer to their own start than to any other start of the same work."
    then = found.command("harden", "--out", "runs/hardened")
    return Finding("locality", "medium" if apart else "low", title, detail, next=then)


def unjudged(found: Found) -> Finding | None:
    """Pictures of works and prompts that no criterion could score."""
    asked = [r for r in found.records if r["stage"] in ("before", "shielded", "pruned", "hardened")]
    asked = [r for r in asked if group_of(r) in ("members", "prompts") and r["picture"]]
    left = [r for r in asked if r["copied"] is None]
    if not left:
        return None
    why = left[0].get("unjudged") or "no reason given"
    detail = f"Mostly because {why}. They count neither as copies nor as clean."
    title = f"{len(left)} of {len(asked)} pictures couldn't be judged"
    return Finding("unjudged", "unknown", title, detail, evidence=left)


FINDINGS: Sequence[Callable[[Found], Finding | None]] = (
    recall,
    shielded,
    pruned,
    attack,
    hardened,
    hardened_attack,
    harm,
    flags,
    mask,
    locality,
    unjudged,
)


def _against(gap: Difference | None, control: str) -> str:
    """A difference of two rates as a sentence; nothing without one."""
    if gap is None or gap["gap"] is None:
        return ""
    return (
        f"That is {100 * gap['gap']:+.0f} points against {control} (95% interval {100 * gap['low']:+.0f} to "
        f"{100 * gap['high']:+.0f})."
    )


def _bound(row: RateRow) -> str:
    return f"{share(row)} are copies; with 95% confidence at most {percent(row['high'])}% of such pictures are."


def _near(found: Found, stage: str) -> str:
    """How many more are near copies."""
    if found.grading is None:
        return ""
    near = sum(map(found.grading.near, found.pictures(stage, False)))
    return f", and {near} more {'is a near copy' if near == 1 else 'are near copies'}" if near else ""


def _more(found: Found) -> str:
    """More pictures narrow the interval."""
    if found.kind == "scan":
        return found.command("scan", *found.prompts, "--pictures", "--max-seeds", "10", "--out", "runs/more")
    prompts = [word for file in found.prompts[:1] for word in ("--prompts", file)]
    return found.command("audit", *prompts, "--out", "runs/more")
