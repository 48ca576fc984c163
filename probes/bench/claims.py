"""Sentences and tables about result files, for the pages: nothing here knows a figure of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from probes.bench.localizers import strongest_choice
from probes.metrics.second_opinion import sscd_in
from probes.report.format import Figures, interval, share


def works(figures: Figures) -> str:
    """docs/testbed/verify.json: the ladder on both twins."""
    head = (
        "exposures",
        "pictures",
        "memorized, tiled L2",
        "memorized, PDQ",
        "memorized, SSCD; its median",
        "mean distance memorized / clean",
        "clean, tiled L2 / PDQ",
        "metrics disagree",
    )
    rows = []
    for rung, ours in figures["works"]["memorized"].items():
        clean = figures["works"]["clean"][rung]
        sscd = sscd_in(ours)
        rows.append(
            (
                rung,
                str(ours["tiled_l2"]["n"]),
                share(ours["tiled_l2"], "copied"),
                share(ours["pdq"], "copied"),
                f"{share(sscd, 'copied')}; {sscd['median_score']:.2f}" if sscd else "-",
                f"{ours['tiled_l2']['mean_score']:.3f} / {clean['tiled_l2']['mean_score']:.3f}",
                f"{clean['tiled_l2']['copied']:.0%} / {clean['pdq']['copied']:.0%}",
                str(ours["disagree"]),
            )
        )
    return _table(head, rows)


def spill(figures: Figures) -> str:
    """docs/testbed/verify.json: what captions of matched non-members bring out."""
    ours, clean = figures["nonmembers"]["memorized"], figures["nonmembers"]["clean"]
    own = sum(
        round(side["own"][m]["copied"] * side["own"][m]["n"]) for side in (ours, clean) for m in ("tiled_l2", "pdq")
    )
    counts = [
        round(side["any_work"][m]["share"] * side["any_work"][m]["n"])
        for side in (ours, clean)
        for m in ("tiled_l2", "pdq")
    ]
    pictures = ours["own"]["tiled_l2"]["n"]
    return (
        f"Captions of matched non-members brought out their own picture {own} times in {pictures} pictures a twin. "
        f"*Another*, memorized work came out of `memorized` {counts[0]} times by tiled L2 and "
        f"{counts[1]} by PDQ, of `clean` {counts[2]} and {counts[3]} times."
    )


def best_detector(figures: Figures) -> str:
    """docs/bench/detectors.json: the detector that finds most works of the top rung, in a sentence."""
    rows = figures["detectors"]
    top = [group for group in next(iter(rows.values()))["groups"] if group.startswith("rung")][-2:]
    name = max(rows, key=lambda one: min(rows[one]["groups"][group]["tpr"]["value"] for group in top))
    row = rows[name]
    found = " and ".join(
        f"{share(row['groups'][group]['tpr'], 'value')} ({group.removeprefix('rung ')} exposures)" for group in top
    )
    return (
        f"`{name}` finds {found} of the works at a threshold that 1 % of dev negatives exceed; of held-out "
        f"negatives {row['fpr_nonmembers']['value']:.1%} (matched non-members) and "
        f"{row['fpr_scenes']['value']:.1%} (benign scenes) exceed it. "
        f"A classifier that reads the captions alone has an AUROC of "
        f"{figures['text_control']['auroc_nonmembers']:.2f}."
    )


def shield_claim(figures: Figures) -> str:
    """docs/bench/shield.json: what leaves the shield, in a sentence or two."""
    kinds = figures["works"]

    def total(way: str, key: str, groups: list[str] | None = None) -> int:
        return sum(row[key] for group, row in kinds[way].items() if groups is None or group in groups)

    def counted(way: str) -> str:
        return f"{total(way, 'count')} of {total(way, 'n'):,}"

    top = [group for group in kinds["bare"] if group.startswith("rung")][-2:]
    scenes = figures["scenes"]["shield and concepts"]
    scales = ", ".join(f"{scale:g}" for scale in figures["guidance"])
    bare = total("bare", "count", top) / total("bare", "n", top)
    return (
        f"The bare model copies in {bare:.0%} of its pictures of the two highest rungs. Over all held-out works, "
        f"{figures['seeds']} noises and guidance scales {scales}, copies left the shield in {counted('shield')} "
        f"pictures ({total('shield', 'count', top)} of them of the two highest rungs), and with a gallery of the "
        f"works in {counted('shield and gallery')}. Of "
        f"{scenes['flagged']['n']} benign scenes {scenes['flagged']['count']} were flagged."
    )


def pruning_claim(figures: Figures) -> str | None:
    """docs/bench/localizers.json: the strongest choice on held-out works beside random weights; None without."""
    if (chosen := strongest_choice(figures)) is None:
        return None
    variant, found, random = chosen
    return (
        f"Pruning {found['density']:.0%} of the searched layers' weights ({variant}), located with dev "
        f"works only, leaves {share(found['copies'])} of held-out works' pictures copies; as many random weights leave "
        f"{share(random['copies'])}. Scenes' agreement with their captions falls by {interval(found['loss'])}."
    )


def attack_claim(figures: Figures) -> str:
    """docs/bench/attacks.json: what the attack brings back, and what is left of it after hardening."""
    ours, hardened = figures["attacks"]["adversarial_embedding"], figures["hardening"].get("adversarial_fine_tuning")

    def at(found: Figures, stage: str, steps: int) -> str:
        row = next(row for row in found["curve"] if (row["stage"], row["attack_steps"]) == (stage, steps))
        return share(row, "rate")

    text = "; ".join(
        f"{steps} steps of search on the pruned model bring {at(ours, 'attacked', steps)} back, of matched non-members "
        f"{at(ours, 'nonmember_attacked', steps)}, of the same works on the clean twin "
        f"{at(ours, 'twin_attacked', steps)}"
        for steps in sorted({row["attack_steps"] for row in ours["curve"]})[-2:]
    )
    if hardened is None:
        return f"{text}."
    lost, last = hardened["hardening"]["utility"], max(row["attack_steps"] for row in hardened["curve"])
    return (
        f"{text}. After adversarial fine-tuning {last} steps bring {at(hardened, 'hardened_attacked', last)} back; "
        f"scenes' agreement falls by {interval(lost, 'loss')}."
    )


def speeds(figures: Figures) -> str:
    """docs/bench/benchmarks.json: a scan beside the bare denoiser and the reference procedures."""
    rows = {row["name"]: row for row in figures["scan_throughput"]["figures"]}
    lines = []
    for name in (one.split(":")[0] for one in rows if one.endswith("evaluations a prompt")):
        faster = rows.get(f"scan is faster than: {name}")
        cost, speed = rows[f"{name}: denoiser evaluations a prompt"], rows[f"{name}: prompts a second"]
        lines.append((name, f"{cost['value']:.3f}", _spread(speed), _spread(faster) if faster else ""))
    head = ("on the testbed, batch 16", "evaluations a prompt", "prompts a second", "the scan is faster by")
    return _table(head, lines)


def benchmark(name: str) -> Callable[[Figures], str | None]:
    """docs/bench/benchmarks.json: one benchmark's figures as a list, and what they were measured on; None without."""

    def listed(figures: Figures) -> str | None:
        found = figures.get(name)
        if found is None:
            return None
        machine = found["machine"]
        where = machine["gpu"] or f"{machine['cores']} CPU cores, {machine['threads']} threads"
        rows = [(row["name"], f"{_spread(row)} {row['unit']}") for row in found["figures"]]
        return _table((f"{name}, {where}", ""), rows)

    return listed


def plan(figures: Figures) -> str | None:
    """docs/bench/benchmarks.json: what 1e8 prompts cost, as far as it follows from what was measured; None without."""
    if not {"scan_throughput", "scan_memory"} <= set(figures):
        return None
    value = _values(figures, "scan_throughput", "scan_memory")
    calls, published = (value[f"{name}: denoiser evaluations a prompt"] for name in ("scan", "Wen, 50 steps"))
    written, table = value["records.jsonl: a record"], value["results.parquet: a record"]
    speed = value["prompts a second, next to no denoiser, one process"]
    reached, prompts = value["scan is faster than: bare denoiser"], 1e8
    hours, gigabytes = prompts / 3600, prompts / 1e9
    return _table(
        ("", "figure", "for 1e8 prompts"),
        [
            (
                "denoiser evaluations, one seed",
                f"{calls:.3f} here; 1 + seeds / prompts",
                f"{_power(calls * prompts)}, against {_power(published * prompts)} for Wen's published procedure",
            ),
            ("GPU hours", "r: not measured", f"{hours:,.0f} * s / (r * e); e = {reached:.2f} on the testbed's CPU"),
            ("seeds a prompt, s", "1; with early exit as above", "more only for prompts near the threshold"),
            (
                "records.jsonl",
                f"{written:.0f} bytes each, and what its prompt is longer",
                f"{written * gigabytes:.0f} GB",
            ),
            ("results.parquet", f"{table:.1f} bytes each, likewise", f"{table * gigabytes:.1f} GB"),
            (
                "everything but the denoiser, one process",
                f"{speed:,.0f} prompts a second, {1000 / speed:.1f} ms each, a tiny denoiser's time in it",
                f"{hours / speed:.0f} process hours: {hours / speed / 64:.1f} on 64 shards",
            ),
            ("memory of a worker", "the model, and what a batch needs", "the same"),
        ],
    )


def overhead(figures: Figures) -> str | None:
    """docs/bench/benchmarks.json: what the shield adds, in a sentence; None without."""
    if "shield_overhead" not in figures:
        return None
    rows = _values(figures, "shield_overhead")
    said = [
        f"{kind} prompts take {rows[f'{kind}: wall time, shielded / bare']:.3f}x the bare pipeline's time at 50 "
        f"steps, {rows[f'{kind}: denoiser rows, shielded / bare']:.3f}x its denoiser rows and "
        f"{rows[f'{kind}: peak memory, shielded / bare']:.3f}x its peak memory"
        for kind in ("not flagged", "flagged")
    ]
    return f"{'; '.join(said)}.".capitalize()


def _values(figures: Figures, *benchmarks: str) -> dict[str, float]:
    """Name of a figure -> its value."""
    return {row["name"]: row["value"] for name in benchmarks for row in figures[name]["figures"]}


def _spread(row: Figures) -> str:
    """A figure, and its smallest and largest repeat."""
    return f"{row['value']:.3g}" + (f" ({row['low']:.3g} to {row['high']:.3g})" if row["repeats"] > 1 else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _power(number: float) -> str:
    """1e10, not 1e+10."""
    digit, exponent = f"{number:.0e}".split("e")
    return f"{digit}e{int(exponent)}"
