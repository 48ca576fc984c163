"""What was measured, as one table for the README: a question a row, the bare model beside it, and the control."""

from __future__ import annotations

from collections.abc import Iterable

from probes.report.format import Figures, interval, share

SOURCES = {
    "verify": "docs/testbed/verify.json",
    "detectors": "docs/bench/detectors.json",
    "shield": "docs/bench/shield.json",
    "localizers": "docs/bench/localizers.json",
    "attacks": "docs/bench/attacks.json",
    "benchmarks": "docs/bench/benchmarks.json",
}
"""Name of a result -> its file; `table` takes their contents in this order."""

HEAD = ("question", "bare", "with it", "control")


def table(
    verify: Figures, detectors: Figures, shield: Figures, localizers: Figures, attacks: Figures, benchmarks: Figures
) -> str:
    """The table in Markdown, of the contents of SOURCES."""
    rows = [
        _works(shield, verify),
        _characters(shield),
        _scenes(shield),
        _cost(benchmarks),
        _memorized_prompts(detectors),
        _pruning(localizers),
        *_attack(attacks),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *rows))


def _works(shield: Figures, verify: Figures) -> tuple[str, ...]:
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


def _characters(shield: Figures) -> tuple[str, ...]:
    kinds = shield["characters"]
    return (
        "Do protected characters leave, by name or description?",
        f"{_counted(kinds['bare'].values())} pictures are recognized",
        _counted(kinds["shield and concepts"].values()),
        f"chance: 1 in {kinds['candidates']}; real pictures: {_counted([kinds['real']])}",
    )


def _scenes(shield: Figures) -> tuple[str, ...]:
    bare, behind = shield["scenes"]["bare"], shield["scenes"]["shield and concepts"]
    return (
        "Are ordinary scenes left alone?",
        f"agreement with the caption {bare['alignment']:.3f}",
        f"{_counted([behind['flagged']])} flagged; agreement {behind['alignment']:.3f}",
        "what isn't flagged is equal to the bit",
    )


def _cost(benchmarks: Figures) -> tuple[str, ...]:
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


def _memorized_prompts(detectors: Figures) -> tuple[str, ...]:
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


def _pruning(localizers: Figures) -> tuple[str, ...]:
    rows = {row["name"]: row for row in localizers["heldout"]}
    bound = localizers["losses"][-1]
    name = next(one for one in rows if one.startswith(f"chosen for a loss up to {bound:g}") and "random" not in one)
    found = rows[name]
    return (
        f"Does pruning {found['density']:.0%} of the located weights forget works that located nothing?",
        f"{share(rows['unpruned']['copies'])} copies",
        f"{share(found['copies'])}; scenes' agreement falls by {interval(found['loss'])}",
        f"as many random weights: {share(rows[f'{name}, random']['copies'])}",
    )


def _attack(attacks: Figures) -> list[tuple[str, ...]]:
    ours, hardened = attacks["attacks"]["adversarial_embedding"], attacks["hardening"]["adversarial_fine_tuning"]
    last = max(row["attack_steps"] for row in hardened["curve"])

    def at(found: Figures, stage: str, steps: int) -> str:
        row = next(row for row in found["curve"] if (row["stage"], row["attack_steps"]) == (stage, steps))
        return share(row, "rate")

    return [
        (
            f"Do they come back, by {last} steps of search for an embedding?",
            f"{at(ours, 'attacked', 0)} without a search",
            at(ours, "attacked", last),
            f"matched non-members {at(ours, 'nonmember_attacked', last)}, clean twin {at(ours, 'twin_attacked', last)}",
        ),
        (
            "And after adversarial fine-tuning?",
            f"{at(ours, 'attacked', last)} before it",
            f"{at(hardened, 'hardened_attacked', last)}; scenes' agreement falls by "
            f"{interval(hardened['hardening']['utility'], 'loss')}",
            f"matched non-members {at(hardened, 'hardened_nonmember_attacked', last)}",
        ),
    ]


def _counted(rows: Iterable[Figures]) -> str:
    """Copies of pictures, as "4 of 320"."""
    kept = list(rows)
    return f"{sum(row['count'] for row in kept):,} of {sum(row['n'] for row in kept):,}"
