"""What was measured, as one table for the README: a question a row, the bare model beside it, and the control."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from probes.bench.attacks import AGAIN
from probes.bench.localizers import strongest_choice
from probes.report.format import Figures, interval, share

SOURCES = {
    "verify": "docs/testbed/verify.json",
    "detectors": "docs/bench/detectors.json",
    "shield": "docs/bench/shield.json",
    "localizers": "docs/bench/localizers.json",
    "attacks": "docs/bench/attacks.json",
    "benchmarks": "docs/bench/benchmarks.json",
}
"""Name of a result -> its file."""

HEAD = ("question", "bare", "with it", "control")
Row = tuple[str, ...]


def _memorizes(verify: Figures) -> Row:
    memorized, clean = verify["works"]["memorized"], verify["works"]["clean"]
    kinds = [rung for rung in memorized if rung != "TM"][-2:]
    return (
        f"Does the model draw works by their captions, shown {' and '.join(kinds)} times, and template works?",
        ", ".join(share(memorized[kind]["tiled_l2"], "copied") for kind in (*kinds, "TM")),
        "",
        "clean twin: " + ", ".join(f"{clean[kind]['tiled_l2']['copied']:.0%}" for kind in (*kinds, "TM")),
    )


def _works(shield: Figures, verify: Figures) -> Row:
    top = [group for group in shield["works"]["bare"] if group.startswith("rung")][-2:]
    kinds = shield["works"]
    bare, behind, gallery = (
        _counted(kinds[way][group] for group in top) for way in ("bare", "shield", "shield and gallery")
    )
    clean = [verify["works"]["clean"][group.removeprefix("rung ")]["tiled_l2"] for group in top]
    count = sum(round(row["copied"] * row["n"]) for row in clean)
    others = [row for group, row in kinds["shield"].items() if group not in top]
    return (
        f"Do works leave that were shown {' and '.join(group.removeprefix('rung ') for group in top)} times?",
        f"{bare} pictures copy one",
        f"{behind}; with a gallery of the works {gallery}. Works shown less often or with a slot: {_counted(others)}",
        f"clean twin: {count} of {sum(row['n'] for row in clean)}",
    )


def _characters(shield: Figures) -> Row:
    kinds = shield["characters"]
    return (
        "Do protected characters leave, by name or description?",
        f"{_counted(kinds['bare'].values())} pictures are recognized",
        _counted(kinds["shield and concepts"].values()),
        f"chance: 1 in {kinds['candidates']}; real pictures: {_counted([kinds['real']])}",
    )


def _scenes(shield: Figures) -> Row:
    bare, behind = shield["scenes"]["bare"], shield["scenes"]["shield and concepts"]
    return (
        "Are ordinary scenes left alone?",
        f"agreement with the caption {bare['alignment']:.3f}",
        f"{_counted([behind['flagged']])} flagged; agreement {behind['alignment']:.3f}",
        "what isn't flagged is equal to the bit",
    )


def _cost(benchmarks: Figures) -> Row:
    rows = {row["name"]: row["value"] for row in benchmarks["shield_overhead"]["figures"]}
    times, calls = (
        {kind: rows[f"{kind}: {what}, shielded / bare"] for kind in ("not flagged", "flagged")}
        for what in ("wall time", "denoiser rows")
    )
    return (
        "What does it cost, at 50 steps?",
        "1",
        f"{times['not flagged']:.3f}x the time where nothing is flagged, {times['flagged']:.3f}x where something is",
        f"denoiser rows: {calls['not flagged']:.3f}x and {calls['flagged']:.3f}x",
    )


def _memorized_prompts(detectors: Figures) -> Row:
    row = detectors["detectors"]["structure_gap"]
    top = [group for group in row["groups"] if group.startswith("rung")][-2:]
    found = " and ".join(share(row["groups"][group]["tpr"], "value") for group in top)
    members, scenes = row["fpr_nonmembers"]["value"], row["fpr_scenes"]["value"]
    return (
        "Which prompts are memorized? (`structure_gap`, one denoiser evaluation)",
        f"captions alone tell nothing: AUROC {detectors['text_control']['auroc_nonmembers']:.2f}",
        f"finds {found} of the works",
        f"flags {members:.1%} of matched non-members, {scenes:.1%} of scenes",
    )


def _pruning(localizers: Figures) -> Row | None:
    chosen = strongest_choice(localizers)
    if chosen is None:
        return None
    _, found, random = chosen
    unpruned = next(row for row in localizers["heldout"] if row["name"] == "unpruned")
    return (
        f"Does pruning {found['density']:.0%} of the searched weights forget works that located nothing?",
        f"{share(unpruned['copies'])} copies",
        f"{share(found['copies'])}; scenes' agreement falls by {interval(found['loss'])}",
        f"as many random weights: {share(random['copies'])}",
    )


def _attack(attacks: Figures) -> Row:
    ours, last = attacks["attacks"]["adversarial_embedding"], AGAIN[-1]
    return (
        f"Do they come back, by {last} steps of search for an embedding?",
        f"{_rate(ours, 'attacked', 0)} without a search",
        _rate(ours, "attacked", last),
        f"matched non-members {_rate(ours, 'nonmember_attacked', last)}, "
        f"clean twin {_rate(ours, 'twin_attacked', last)}",
    )


def _hardening(attacks: Figures) -> Row | None:
    ours, hardened = attacks["attacks"]["adversarial_embedding"], attacks["hardening"].get("adversarial_fine_tuning")
    last = AGAIN[-1]
    if hardened is None:
        return None
    return (
        "And after adversarial fine-tuning?",
        f"{_rate(ours, 'attacked', last)} before it",
        f"{_rate(hardened, 'hardened_attacked', last)}; scenes' agreement falls by "
        f"{interval(hardened['hardening']['utility'], 'loss')}",
        f"matched non-members {_rate(hardened, 'hardened_nonmember_attacked', last)}",
    )


def _rate(found: Figures, stage: str, steps: int) -> str:
    row = next(row for row in found["curve"] if (row["stage"], row["attack_steps"]) == (stage, steps))
    return share(row, "rate")


def _counted(rows: Iterable[Figures]) -> str:
    """Copies of pictures, as "4 of 320"."""
    kept = list(rows)
    return f"{sum(row['count'] for row in kept):,} of {sum(row['n'] for row in kept):,}"


ROWS: tuple[tuple[tuple[str, ...], Callable[..., Row | None]], ...] = (
    (("verify",), _memorizes),
    (("shield", "verify"), _works),
    (("shield",), _characters),
    (("shield",), _scenes),
    (("benchmarks",), _cost),
    (("detectors",), _memorized_prompts),
    (("localizers",), _pruning),
    (("attacks",), _attack),
    (("attacks",), _hardening),
)
"""The results that a row needs, and how it is written; None where a part of them wasn't measured."""


def table(results: Mapping[str, Figures | None], first: Mapping[str, Figures | None]) -> str:
    """The table in Markdown, of results by the names of SOURCES.

    A row that lacks a result is made of those of the testbed's first version, which its mark says; without those
    either, it is left out.
    """
    lines, marked = [HEAD, ("---",) * len(HEAD)], False
    for names, write in ROWS:
        for mark, given in (("", results), (" ¹", first)):
            if row := _row(names, write, given):
                lines.append((row[0] + mark, *row[1:]))
                marked |= bool(mark)
                break
    note = "\n\n¹ Measured on the testbed's first version, not yet on this one." if marked else ""
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + note


def _row(names: Iterable[str], write: Callable[..., Row | None], given: Mapping[str, Figures | None]) -> Row | None:
    """A question's row of these results; None where one of them is missing."""
    found = [given.get(name) for name in names]
    return write(*found) if all(found) else None


def compared(results: Mapping[str, Figures | None], first: Mapping[str, Figures | None]) -> str:
    """The same rows, the testbed's first version beside this one."""
    lines: list[Row] = [("question", "first version", "now", "control now"), ("---",) * 4]
    for names, write in ROWS:
        then, now = _row(names, write, first), _row(names, write, results)
        if then:
            question, *cells, control = now or (then[0], "not measured yet", "")
            lines.append((question, "; ".join(filter(None, then[1:-1])), "; ".join(filter(None, cells)), control))
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
