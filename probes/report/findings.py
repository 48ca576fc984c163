"""What a run found: a verdict for its headline and a list of findings, each with its interval and the next command."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from probes.report.figures import Difference, RateRow, difference, group_of
from probes.report.reported_run import ORDER, Finding, ReportedRun
from probes.report.sentences import many, percent, share
from probes.report.wording import CONTROLS, wording_of


def findings(run: ReportedRun) -> list[Finding]:
    """All findings, the gravest first."""
    made = [finding for make in FINDINGS if (finding := make(run)) is not None]
    return sorted(made, key=lambda finding: ORDER.index(finding.severity))


HEADLINES = {"attack": "attack", "prune": "pruned", "harden": "hardened", "locality": "locality", "localize": "mask"}


def headline(run: ReportedRun, made: Sequence[Finding]) -> Finding:
    """The finding that a run of this kind was made for; that nothing can be said, where it has none."""
    wanted = (HEADLINES.get(run.kind), "recall", "flags", "mask")
    chosen = next((one for key in wanted for one in made if key is not None and one.key == key), None)
    return chosen or Finding(
        "recall",
        "unknown",
        f"Can't say whether {run.model} memorizes",
        "No picture of this run could be judged and no score was compared with a threshold.",
        next=run.command("audit", "--prompts", "PROMPTS.csv", "--out", "runs/audit"),
    )


def recall(run: ReportedRun) -> Finding | None:
    """Does the model return copies when it is asked for works, and more so than a control?"""
    row = run.asked("before")
    if row is None:
        return None
    control = run.row("twin", "members") or run.row("before", "nonmembers")
    gap = difference(row, control) if control and row["group"] == "members" else None
    against = _against(gap, "a twin model without these works" if run.row("twin", "members") else "unseen pictures")
    near = _near(run, "before")
    detail = f"{share(row)} are copies{near}. {against}".strip()
    if not row["copied"]:
        title = f"No copies from {run.model}: at most {percent(row['high'])}% of such pictures are"
        nearest = run.pictures("before", False)
        severity = "medium" if near else "good" if row["high"] <= 0.05 else "low"
        return Finding("recall", severity, title, detail, row, _more(run), nearest)
    if row["low"] <= 0 or (gap is not None and gap["low"] <= 0):
        copies = f"{row['copied']} of {many(row['n'], 'picture')}"
        title = f"Can't say yet: {copies} copied a work, too few to tell {run.model} from its control"
        return Finding("recall", "unknown", title, detail, row, _more(run), run.pictures("before"))
    asked = many(row["works"], "work" if row["group"] == "members" else "prompt")
    title = f"{run.model} memorizes: {percent(row['rate'])}% of pictures of {asked} are copies"
    mask = ("--mask", run.mask) if run.kind == "audit" and run.figures["mask"] else ()
    then = run.command("harden", *mask, "--out", "runs/hardened")
    return Finding("recall", "high", title, detail, row, then, run.pictures("before"))


def shielded(run: ReportedRun) -> Finding | None:
    row = run.row("shielded", "members", "prompts")
    if row is None:
        return None
    if row["copied"]:
        then = run.command("calibrate", "--fpr", "0.05")
        title = f"{row['copied']} copies came through the shield"
        return Finding("shielded", "high", title, f"{share(row)} are copies.", row, then, run.pictures("shielded"))
    near, pictures = _near(run, "shielded"), run.pictures("shielded", False)
    if near:
        title, then = (
            "No copy came through the shield, but near copies did",
            run.command("calibrate", "--fpr", "0.05"),
        )
        return Finding("shielded", "medium", title, f"{share(row)} are copies{near}.", row, then, pictures)
    return Finding("shielded", "good", "No copy came through the shield", _bound(row), row, None, pictures)


def pruned(run: ReportedRun) -> Finding | None:
    return _removed(run, "pruned", "pruning", run.command("attack", *run.masked, "--out", "runs/attacked"))


def hardened(run: ReportedRun) -> Finding | None:
    return _removed(run, "hardened", "hardening", run.command("harden", "--epochs", "10", "--out", "runs/longer"))


def _removed(run: ReportedRun, stage: str, what: str, then: str) -> Finding | None:
    """What is left of the copies after weights were changed; and beside as many random weights."""
    row, before = run.asked(stage), run.asked("before")
    if row is None:
        return None
    was = f" Before: {share(before)}." if before else ""
    random = run.row("random_pruned", "members") if stage == "pruned" else None
    if random:
        was += f" With as many random weights pruned: {share(random)}."
    title = (
        f"After {what} the caption still returns {percent(row['rate'])}% copies"
        if row["copied"]
        else f"After {what} the caption returns no copy"
    )
    severity = "good" if not row["copied"] else "medium" if before and row["rate"] < before["rate"] else "high"
    pictures = run.pictures(stage, bool(row["copied"]))
    return Finding(
        stage,
        severity,
        title,
        f"{share(row)} are copies.{was}",
        row,
        then if row["copied"] or stage == "pruned" else None,
        pictures,
    )


def attack(run: ReportedRun) -> Finding | None:
    after = "pruning" if run.figures["pruned"] else ""
    then = run.command("harden", *run.masked, "--out", "runs/hardened")
    return _attacked(run, "attacked", "attack", after, then)


def hardened_attack(run: ReportedRun) -> Finding | None:
    then = run.command("harden", "--epochs", "10", "--out", "runs/hardened-longer")
    return _attacked(run, "hardened_attacked", "hardened_attack", "hardening", then)


def _attacked(run: ReportedRun, stage: str, key: str, after: str, then: str) -> Finding | None:
    """An attack's gap to its controls at the largest budget: one that reaches beyond all of them shows memory."""
    curve = [row for row in run.figures["curve"] if row["stage"] == stage and row["rate"] is not None]
    if not curve:
        return None
    row = max(curve, key=lambda one: one["attack_steps"])
    gaps = [
        gap
        for gap in run.figures["gaps"]
        if (gap["stage"], gap["attack_steps"]) == (stage, row["attack_steps"]) and gap["gap"] is not None
    ]
    far = wording_of(run.figures["attack"]).far(row["attack_steps"])
    behind = f" after {after}" if after else ""
    said = " ".join(_against(gap, CONTROLS.get(gap["control"], gap["control"])) for gap in gaps)
    detail = f"At {far}: {share(row)} are copies. {said}".strip()
    pictures = [r for r in run.pictures(stage) if r.get("attack_steps") == row["attack_steps"]]
    if not gaps:
        title = f"Can't say what the attack{behind} shows: it has no control"
        return Finding(key, "unknown", title, detail, row, then, pictures)
    if all(gap["low"] > 0 for gap in gaps):
        title = f"An attack{behind} brings works back, and not unseen pictures: the memory is still there"
        return Finding(key, "high", title, detail, row, then, pictures)
    if any(gap["gap"] > 0 for gap in gaps):
        title = f"An attack{behind} brings works back, too few to tell from its controls"
        return Finding(key, "unknown", title, detail, row, then, pictures)
    title = f"An attack{behind} brings back no more than it does of its controls"
    return Finding(key, "good", title, detail, row, None, pictures)


def harm(run: ReportedRun) -> Finding | None:
    """What ordinary scenes lose by pruning or hardening, whichever is more."""
    losses = [(run.figures["utility"], "pruning"), ((run.figures["hardening"] or {}).get("utility"), "hardening")]
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
    then = run.command("prune", run.mask, "--sweep", "0.01,0.05,0.1", "--out", "runs/sweep") if lost else None
    return Finding("harm", "low" if lost else "good", title, detail, next=then)


def flags(run: ReportedRun) -> Finding | None:
    """How many prompts of a scan are over the threshold."""
    if run.figures.get("flagged") is None:
        return None
    flagged, judged = run.figures["flagged"], run.figures["flagged"] + run.figures["cleared"]
    if not judged:
        title = f"Can't say which prompts {run.model} memorized: there is no threshold at these settings"
        detail = f"{run.figures['undecided']} scores are ranked below, and none was compared with a threshold."
        return Finding("flags", "unknown", title, detail, next=run.command("calibrate", "--prompts", "BENIGN.txt"))
    what = "prompts" if judged == len({r["item"] for r in run.records if r["stage"] != "work"}) else "scores"
    title = f"{flagged or 'None'} of {judged} {what} {'looks' if flagged == 1 else 'look'} memorized"
    limit = run.figures.get("threshold")
    detail = f"Flagged above {limit:.4g}." if limit is not None else ""
    detail += f" {run.figures['undecided']} scores couldn't be compared." if run.figures["undecided"] else ""
    severity = "medium" if flagged else "good"
    draw = flagged and run.asked("before") is None
    then = run.command("scan", *run.prompts, "--pictures", "--out", "runs/pictures") if draw else None
    return Finding("flags", severity, title, detail.strip(), next=then)


def mask(run: ReportedRun) -> Finding | None:
    """Whether different prompts locate the same weights."""
    about = run.figures["mask"]
    if run.kind != "localize" or not about:
        return None
    overlap = [row for row in about.get("overlap", ()) if row["iou"] is not None and row["iou_random"] is not None]
    detail = f"{about['weights']} of {about.get('size', '?')} weights, {about['density']:.2%} of these layers."
    then = run.command("prune", run.folder, "--out", "runs/pruned")
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


def locality(run: ReportedRun) -> Finding | None:
    about = run.figures["locality"]
    if not about or "stay" not in about:
        return None
    near, n = about["stay"]["nearest_to_own_start"], about["stay"]["n"]
    if not n:
        title = "Can't say whether a memory is in one place: no search brought a work back"
        return Finding("locality", "unknown", title, f"{about['steps']} steps each.")
    apart = near > n / 2
    title = f"Searches find a work in {'many places' if apart else 'the same region'}, starting from noise"
    detail = f"{near} of {n} results lie nearer to their own start than to any other start of the same work."
    then = run.command("harden", "--out", "runs/hardened")
    return Finding("locality", "medium" if apart else "low", title, detail, next=then)


def unjudged(run: ReportedRun) -> Finding | None:
    """Pictures of works and prompts that no criterion could score."""
    asked = [r for r in run.records if r["stage"] in ("before", "shielded", "pruned", "hardened")]
    asked = [r for r in asked if group_of(r) in ("members", "prompts") and r["picture"]]
    left = [r for r in asked if r["copied"] is None]
    if not left:
        return None
    why = left[0].get("unjudged") or "no reason given"
    detail = f"Mostly because {why}. They count neither as copies nor as clean."
    title = f"{len(left)} of {len(asked)} pictures couldn't be judged"
    return Finding("unjudged", "unknown", title, detail, evidence=left)


FINDINGS: Sequence[Callable[[ReportedRun], Finding | None]] = (
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


def _near(run: ReportedRun, stage: str) -> str:
    """How many more are near copies."""
    if run.grading is None:
        return ""
    near = sum(map(run.grading.near, run.pictures(stage, False)))
    return f", and {near} more {'is a near copy' if near == 1 else 'are near copies'}" if near else ""


def _more(run: ReportedRun) -> str:
    """More pictures narrow the interval."""
    if run.kind == "scan":
        return run.command("scan", *run.prompts, "--pictures", "--max-seeds", "10", "--out", "runs/more")
    prompts = [word for file in run.prompts[:1] for word in ("--prompts", file)]
    return run.command("audit", *prompts, "--out", "runs/more")
