"""Run folder -> report.json and one self-contained report.html: sentences, table, pictures side by side, plots.

Needs no torch, so a report can be made again anywhere the run folder is. Figures come from the run's summary.json, or
from its records where a run was stopped before it wrote one. Nothing is said without its n, its interval and what was
left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from probes.errors import RunError
from probes.metrics.statistics import bootstrap_mean
from probes.report import figures as summary
from probes.report import locality_plots, mask_plots, plots, scores
from probes.report.sheets import sheets
from probes.report.summary import deciding_metric, read_json, stored_summary
from probes.report.wording import wording_of
from probes.runs.folder import Run, write_json
from probes.runs.records import Record

FORMAT = 1

STAGES = {
    "before": "before",
    "shielded": "through the shield",
    "twin": "clean twin",
    "pruned": "pruned",
    "random_pruned": "random weights pruned (control)",
    "attacked": "pruned, then attacked",
    "nonmember_attacked": "pruned, then attacked",
    "twin_attacked": "clean twin, attacked",
    "locality": "searched from noise",
    "hardened": "hardened",
    "hardened_attacked": "hardened, then attacked",
    "hardened_nonmember_attacked": "hardened, then attacked",
}
GROUPS = {
    "members": "works in the training data",
    "nonmembers": "never trained on",
    "prompts": "your prompts",
    "characters": "characters",
    "styles": "house styles",
    "scenes": "ordinary scenes",
}
LOCALITY = {
    "results": "results of one work",
    "starts": "starts of one work",
    "captions": "captions of different works",
    "captions of non-members": "captions of pictures never seen",
}
CONTROLS = {
    "nonmember_attacked": "pictures the model never saw",
    "twin_attacked": "the same works on the clean twin",
    "hardened_nonmember_attacked": "pictures the model never saw",
}

# What it means if an attack on members beats its controls.
_MEMORY = {
    "attacked": "so the attack shows memory that is still there",
    "hardened_attacked": "so hardening left memory that can be found",
}
_HARDENED = "From the hardened model the same attack at {} got the work back"
_MAYBE_TEXT, _MAYBE_WHOLE, _MAYBE_TRUE = (str, type(None)), (int, type(None)), (bool, type(None))
_FIELDS: Mapping[str, Any] = {
    "stage": str,
    "item": str,
    "kind": str,
    "prompt": _MAYBE_TEXT,
    "picture": _MAYBE_TEXT,
    "scores": dict,
    "copied": _MAYBE_TRUE,
    "flagged": _MAYBE_TRUE,
    "seed": _MAYBE_WHOLE,
    "attack_steps": _MAYBE_WHOLE,
    "rung": _MAYBE_WHOLE,
    "exposures": _MAYBE_WHOLE,
    "memorization": _MAYBE_TEXT,
    "unjudged": _MAYBE_TEXT,
    "reason": _MAYBE_TEXT,
    "action": _MAYBE_TEXT,
    "split": _MAYBE_TEXT,
    "model": _MAYBE_TEXT,
}
_NEEDED = ("stage", "item", "kind", "prompt", "picture", "scores", "copied", "seed")
_NOTHING = "so at this budget the attack shows no memory beyond what the control gives as well"

# Stage, group, and how the sentence about their rate begins.
_SAYINGS = (
    ("before", "members", "Asked by caption for works in its training data, the model returned a copy"),
    ("before", "prompts", "Asked with your prompts, the model returned a copy of the reference picture"),
    ("before", "nonmembers", "Asked the same way for pictures it was never trained on, it returned a copy"),
    ("twin", "members", "A twin model, trained the same way but without these works, returned a copy"),
    ("shielded", "members", "Behind the shield, what was handed out was a copy"),
    ("pruned", "members", "After pruning the located weights, the caption returned a copy"),
    ("random_pruned", "members", "With as many random weights pruned instead, it returned a copy"),
    ("locality", "members", "Searched from noise, the works came back"),
    ("hardened", "members", "After hardening, the caption returned a copy"),
)


def write_report(folder: Path | str) -> Path:
    """Write report.json and report.html into the run folder; returns the HTML's path. RunError if it is no run."""
    run = Run.open(folder)
    if run.about.get("kind") == "traps":
        raise RunError(
            f"{run.folder} is a test of traps, which has no pictures to report: its figures are in summary.json."
        )
    records = [_checked(run.folder, record) for record in run.records()]
    if not records and not (run.folder / "summary.json").exists():
        raise RunError(f"{run.folder} holds no records yet, so there is nothing to report.")
    figures = stored_summary(run, records)
    sentences = plain_words(figures, records)
    write_json(run.folder / "report.json", {"format": FORMAT, "run": run.about, "sentences": sentences, **figures})
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            run=run.about,
            folder=run.folder.resolve().name,
            records=len(records),
            sentences=sentences,
            figures=figures,
            budget=f"{wording_of(figures['attack']).unit}s",
            rows=table_rows(figures),
            plots=_plots(figures, records),
            sheets=sheets(run.folder, records),
            group_names=GROUPS,
            stage_names=STAGES,
            locality_names=LOCALITY,
            control_names=CONTROLS,
            stages=read_json(run.folder / "stages.json") or [],
        )
    )
    path = run.folder / "report.html"
    temporary = path.with_name("report.html.part")
    try:
        temporary.write_text(page, encoding="utf-8", errors="replace")
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"Can't write {path}: {error.strerror or error}.") from error
    return path


def _checked(folder: Path, record: Record) -> Record:
    """The record, if its fields are of the kinds that every stage writes; RunError otherwise."""
    wrong = [name for name in _NEEDED if name not in record]
    wrong += [name for name, kinds in _FIELDS.items() if name in record and not isinstance(record[name], kinds)]
    scores = record.get("scores")
    if isinstance(scores, dict) and not all(_number(score) for score in scores.values()):
        wrong.append("scores")
    if wrong:
        raise RunError(
            f"{folder / 'records.jsonl'} can't be reported: record {record['id'][:40]!r} has no or another "
            f"kind of {wrong[0]}."
        )
    return record


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value))


def sentences_of(folder: Path | str) -> list[str]:
    """The sentences of a report that was written. RunError if there is none."""
    report = read_json(Path(folder) / "report.json")
    if report is None:
        raise RunError(f"{folder} has no report yet. Make one with: diffshield report {folder}")
    return report["sentences"]


def table_rows(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the main table: picture stages, then each attack at its largest number of steps."""
    last = max((row["attack_steps"] for row in figures["curve"]), default=None)
    attacked = [
        {**row, "label": f"{_attacked_name(figures, row['stage'])} ({wording_of(figures['attack']).far(last)})"}
        for row in figures["curve"]
        if row["attack_steps"] == last
    ]
    groups = [*GROUPS, *(row["group"] for row in figures["rows"])]
    stages = [*STAGES, *(row["stage"] for row in figures["rows"])]
    ordered = sorted(figures["rows"], key=lambda row: (stages.index(row["stage"]), groups.index(row["group"])))
    return [{**row, "label": STAGES.get(row["stage"], row["stage"])} for row in ordered] + attacked


def _attacked_name(figures: Mapping[str, Any], stage: str) -> str:
    name = STAGES.get(stage, stage)
    return name if figures["pruned"] else name.removeprefix("pruned, then ")


def plain_words(figures: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    """What was found, for a reader who knows no statistics; each sentence carries its own numbers."""
    found = {(row["stage"], row["group"]): row for row in figures["rows"]}
    said = [*scores.score_words(figures), *scores.agreement_words(figures["agreement"])]
    for stage, group, start in _SAYINGS:
        row = found.get((stage, group))
        if stage == "hardened":
            said += attack_words(figures, "attacked")
        if row and row["rate"] is not None:
            said.append(f"{start} in {share(row)}.")
    said += attack_words(figures, "hardened_attacked")
    for utility, what in ((figures["utility"], "pruning"), ((figures["hardening"] or {}).get("utility"), "hardening")):
        if utility:
            said.append(
                f"Agreement of ordinary scenes with their captions went from {utility['alignment_before']:.3f} "
                f"to {utility['alignment_after']:.3f} through {what} (loss {utility['loss']:.3f}, 95% interval "
                f"{utility['low']:.3f} to {utility['high']:.3f}, {many(utility['scenes'], 'scene')})."
            )
    return [*said, *mask_words(figures["mask"]), *unscored_words(records)]


def mask_words(mask: Mapping[str, Any]) -> list[str]:
    """How many weights were located, where a run measured how much the masks of other prompts overlap."""
    overlaps = [row for row in mask.get("overlap", ()) if row["iou"] is not None]
    if not overlaps:
        return []
    last = overlaps[-1]
    random = "none" if last["iou_random"] is None else f"{last['iou_random']:.2f}"
    return [
        f"{mask['weights']} of {mask['size']} weights ({mask['density']:.2%}) were located with {mask['prompts']} "
        f"prompts. Two sets of {last['prompts']} prompts that share none find masks that overlap by "
        f"{last['iou']:.2f} (intersection over union); random masks of that size by {random}."
    ]


def attack_words(figures: Mapping[str, Any], stage: str) -> list[str]:
    """An attack at its largest budget: the raw rate, then the gap to each control, which is the verdict."""
    steps = max((row["attack_steps"] for row in figures["curve"]), default=0)
    member = next((r for r in figures["curve"] if (r["stage"], r["attack_steps"]) == (stage, steps)), None)
    if not steps or member is None or member["rate"] is None:
        return []
    wording = wording_of(figures["attack"])
    start = wording.start if stage == "attacked" else _HARDENED
    said = [f"{start.format(wording.far(steps))} in {share(member)}."]
    for row in figures.get("ladder_of_paraphrases", ()):
        if row["level"] == steps and row["p"] is not None:
            said.append(
                f"On the same noises the caption itself returned copies in {percent(row['caption'])}% (paired "
                f"over works, p = {row['p']:.2g})."
            )
    for gap in figures["gaps"]:
        if (gap["stage"], gap["attack_steps"]) == (stage, steps) and gap["gap"] is not None:
            interval = f"95% interval {100 * gap['low']:+.0f} to {100 * gap['high']:+.0f}"
            said.append(
                f"Compared with the same attack on {CONTROLS.get(gap['control'], gap['control'])}, that is "
                f"{100 * gap['gap']:+.0f} percentage points ({interval}), "
                f"{_MEMORY[stage] if gap['low'] > 0 else _NOTHING}."
            )
    return said


def unscored_words(records: Sequence[Record]) -> list[str]:
    """How many pictures couldn't be judged, and why most of them couldn't; nothing where none were drawn."""
    pictures = [r for r in records if r["stage"] not in summary.MATERIAL and r["kind"] not in ("scene", "kept")]
    reasons: dict[str, int] = defaultdict(int)
    for record in pictures:
        if record.get("copied") is None:
            reasons[record.get("unjudged") or "no reason given"] += 1
    if not reasons:
        return [f"All {len(pictures)} pictures of works and prompts could be judged."] if pictures else []
    listed = "; ".join(f"{count}: {reason}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]))
    return [
        f"{sum(reasons.values())} of {len(pictures)} pictures could not be judged ({listed}). They count neither "
        "as copies nor as clean."
    ]


def share(row: Mapping[str, Any]) -> str:
    """Like "12 of 16 pictures (75%, 95% interval 50 to 92%, 8 works)"."""
    works = f", {many(row['works'], 'work')}" if row.get("works") else ""
    return (
        f"{row['copied']} of {many(row['n'], 'picture')} ({percent(row['rate'])}%, 95% interval "
        f"{percent(row['low'])} to {percent(row['high'])}%{works})"
    )


def many(number: int, what: str) -> str:
    """Like "1 step" and "2 steps"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def percent(value: float) -> str:
    """A share in percent without decimals; only exactly 0 and 1 are shown as 0 and 100."""
    rounded = round(100 * value)
    if rounded == 0 and value > 0:
        return "<1"
    return ">99" if rounded == 100 and value < 1 else str(rounded)


def _plots(figures: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Markup]:
    drawn = {}
    if any(row["rate"] is not None for row in figures["ladder"]):
        metric = deciding_metric(figures["criterion"], records) or "no metric"
        threshold = figures["criterion"].get("metrics", {}).get(metric, {}).get("threshold")
        rungs = ladder_scores(records, metric)
        drawn["ladder"] = Markup(plots.ladder_plot(figures["ladder"], rungs, metric, threshold))
    curve = [row for row in figures["curve"] if row["rate"] is not None]
    for name, curves in (("attacked", plots.CURVES), ("hardened_attacked", plots.HARDENED)):
        if any(row["stage"] == name for row in curve):
            drawn[name] = Markup(plots.attack_plot(figures["curve"], curves, wording_of(figures["attack"]).axis))
    if figures["tradeoff"]:
        before = next((row for row in figures["rows"] if (row["stage"], row["group"]) == ("before", "members")), None)
        drawn["tradeoff"] = Markup(plots.tradeoff_plot(figures["tradeoff"], before or {"rate": None}))
    if figures["mask"].get("densities"):
        drawn["density"] = Markup(mask_plots.density_plot(figures["mask"]["densities"]))
    if figures["mask"].get("overlap"):
        drawn["overlap"] = Markup(mask_plots.overlap_plot(figures["mask"]["overlap"]))
    threshold = figures["threshold"]
    for name, bars in figures["histogram"].items():
        if bars["counts"]:
            line = threshold if name == next(iter(figures["histogram"])) else None
            drawn[f"scores_{name}"] = Markup(scores.histogram_plot(bars["counts"], bars["edges"], name, line))
    for name, svg in locality_plots.plots(figures["locality"] or {}).items():
        drawn[f"locality_{name}"] = Markup(svg)
    return drawn


def ladder_scores(records: Iterable[Record], metric: str) -> list[dict[str, Any]]:
    """Mean copy score of stage "before" for each rung, with a bootstrap interval over works."""
    scores: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for record in records:
        value = (record.get("scores") or {}).get(metric)
        on_ladder = record["stage"] == "before" and record["kind"] == "work" and record.get("rung") is not None
        if on_ladder and value is not None:
            scores[record["rung"]].append((value, record["item"]))
    rows = []
    for rung, pairs in sorted(scores.items()):
        mean = bootstrap_mean([value for value, _ in pairs], [item for _, item in pairs])
        rows.append({"rung": rung, "value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n})
    return rows


def _environment() -> Environment:
    """Everything is escaped; a name that the template misspells is an error."""
    environment = Environment(
        loader=PackageLoader("probes.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment
