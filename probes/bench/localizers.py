"""Localizers on the testbed: what pruning what they found does to memories that they never saw, and where these sit.

Masks are located with the captions of every other dev work of the top two rungs. The sweep (how many weights, weights
or neurons, which base, which blocks, how many steps) is judged on the other dev works. For each of LOSSES the best mask
that costs scenes at most that much agreement is then judged on held-out works, beside the published setting, the
strongest mask, and as many random weights. Independently of any localizer, parts are exchanged with the clean twin
(probes/bench/transplant.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from probes.bench.transplant import GROUPS, transplanted
from probes.inputs.truth import testbed_alignment
from probes.localizers import Curvature, FFNSubspace, RandomMask, ValueNeurons
from probes.metrics.second_opinion import rated, said_by_sscd, sscd_metric
from probes.metrics.statistics import bootstrap_mean
from probes.model.generate import generate
from probes.model.layers import matching_weights
from probes.pruners import ScaleWeights, pruned
from probes.report.format import earlier, interval, share, share_by_both
from probes.runs.folder import write_json
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import load_manifest
from probes.testbed.negatives import negative_captions
from probes.types import Pruner, Subject, UnitMask
from shield.model.loading import load
from shield.protected.pictures import open_image

LOSSES = (0.02, 0.05)
KS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
FEW_KS = (0.2, 0.4)
FACTORS = (0.25, 0.5)
BASE = 24  # captions of each kind to compare with instead of the empty prompt
FIRST_SEED = 9100
OPTIONS = ("k", "tau", "unit", "normalize_tokens", "conditional_only", "agreement", "modules")
NEMO_PROMPTS = 6
FEED_FORWARDS = r"\.ff\.net\.2$"  # of the testbed's UNet, as a sweep's rows name them
KEYS_VALUES = r"\.attn2\.to_[kv]$"


@dataclass(frozen=True)
class LocalizerPanel:
    """Works to be forgotten and scenes to be kept, with a noise for each picture."""

    works: Sequence[Any]
    scenes: Sequence[str]
    seeds: int

    @property
    def prompts(self) -> list[str]:
        return [w.captions[0] for w in self.works for _ in range(self.seeds)] + list(self.scenes)

    @property
    def noises(self) -> list[int]:
        works = [FIRST_SEED + k for _ in self.works for k in range(self.seeds)]
        return works + [FIRST_SEED + k for k in range(len(self.scenes))]


class Bench:
    """One subject and its twin; every figure is of pictures drawn inside a context manager that changes the model."""

    def __init__(self, device: str, batch_size: int, progress: Callable[[str], None]) -> None:
        self.manifest, self.judge, self.alignment = load_manifest(), copy_judge(sscd=sscd_metric()), testbed_alignment()
        self.subject = Subject(load("testbed", device=device), "testbed")
        self.twin = Subject(load("testbed-clean", device=device), "testbed-clean")
        self.batch_size, self.progress = batch_size, progress
        works = [w for w in self.manifest.works("dev", min_rung=self.manifest.rungs[-2]) if w.memorization == "VM"]
        heldout = [
            w for w in self.manifest.works("heldout", min_rung=self.manifest.rungs[-2]) if w.memorization == "VM"
        ]
        scenes = {split: [s.caption for s in self.manifest.scenes(split)] for split in ("dev", "heldout")}
        self.located = [w.captions[0] for w in works[::2]]
        self.dev, self.heldout = (
            LocalizerPanel(works[1::2], scenes["dev"][:16], 1),
            LocalizerPanel(heldout, scenes["heldout"][:40], 4),
        )
        self.negatives = tuple(negative_captions("dev", self.manifest)["nonmembers"][:BASE])
        self.benign = tuple(scenes["dev"][16 : 16 + BASE])  # none of those that are drawn
        self._norms: dict[FFNSubspace, Any] = {}
        self._unchanged: dict[int, np.ndarray] = {}

    def figures(self, panel: LocalizerPanel, subject: Subject | None = None) -> dict[str, Any]:
        """Copies of own works, their mean distance, agreement of scenes and its loss since the panel's first call."""
        made = generate(
            (subject or self.subject).pipe,
            panel.prompts,
            panel.noises,
            batch_size=self.batch_size,
            steps=self.manifest.sampling["steps"],
            guidance_scale=self.manifest.sampling["guidance_scale"],
        )
        items = [w.id for w in panel.works for _ in range(panel.seeds)]
        references = [open_image(w.file) for w in panel.works for _ in range(panel.seeds)]
        judged = self.judge.judge(made[: len(items)], references)
        copied = [one.copied for one in judged]
        agreement = self.alignment.similarity(made[len(items) :], panel.scenes)
        loss = bootstrap_mean(self._unchanged.setdefault(id(panel), agreement) - agreement, list(panel.scenes))
        scores = [one.scores[self.judge.metrics[0].name] for one in judged]
        return {
            "copies": rated(copied, said_by_sscd([one.scores for one in judged]), items),
            "distance": float(np.mean([s for s in scores if s is not None])),
            "alignment": float(agreement.mean()),
            "loss": {"value": loss.value, "low": loss.low, "high": loss.high},
        }

    def has_unchanged(self, panel: LocalizerPanel) -> bool:
        """Whether the panel was drawn before, so that there is something to lose against."""
        return id(panel) in self._unchanged

    def mask(self, localizer: FFNSubspace) -> UnitMask:
        """What the localizer finds; norms are collected once for all k and units."""
        key = replace(localizer, k=1.0, unit="weight", agreement=0.0)
        if key not in self._norms:
            self._norms[key] = (key.norms(self.subject, self.located, 7), key.norms(self.subject, key.base, 7))
        return localizer.mask(matching_weights(self.subject.denoiser, localizer.modules), *self._norms[key])

    def point(
        self, panel: LocalizerPanel, name: str, mask: UnitMask, pruner: Pruner | None = None, **about: Any
    ) -> dict[str, Any]:
        """One row: a mask's figures."""
        with pruned(self.subject, mask, pruner):
            row = {"name": name, **about, "density": mask.density(), "weights": mask.count(), **self.figures(panel)}
        self.progress(line(row))
        return row

    def random(self, mask: UnitMask) -> UnitMask:
        return RandomMask(like=mask).locate(self.subject, seed=7).mask

    def sweep(self, measured: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
        """Every variant on dev works that it wasn't located with; those ``measured`` before aren't drawn again."""
        known = {_key(row): row for row in measured}
        for name, localizer in self.variants():
            about = options(localizer)
            for what in (name, "random") if name == "published" else (name,):
                row = known.get(_key({"name": what, **about}))
                if row is None:
                    mask = self.mask(localizer)
                    row = self.point(self.dev, what, self.random(mask) if what == "random" else mask, **about)
                yield row

    def chosen(self, rows: Sequence[dict[str, Any]], loss: float) -> tuple[str, FFNSubspace]:
        """The variant with the fewest copies, then the smallest loss, of those that lose at most this on dev."""
        allowed = [row for row in rows if row["name"] != "random" and row["loss"]["value"] <= loss]
        best = min(allowed, key=lambda row: (row["copies"]["share"], row["loss"]["value"]))
        return next(
            (name, localizer)
            for name, localizer in self.variants()
            if name == best["name"] and options(localizer) == {key: best[key] for key in options(localizer)}
        )

    def judged(
        self, rows: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]] = ()
    ) -> Iterator[dict[str, Any]]:
        """Held out: unchanged; the chosen masks, the published and the strongest one, value neurons, flat directions of
        ordinary prompts; each beside random; and the stronger chosen one's weights shrunk instead of deleted. Of what
        was ``measured`` before, nothing is located, and only the unchanged model is drawn again, to have what others
        lose against.
        """
        known = {row["name"]: row for row in measured}
        yield {"name": "unpruned", "density": 0.0, **self.figures(self.heldout)}
        named = dict(self.variants())
        best = {
            f"chosen for a loss up to {loss:g}: {name}, k={localizer.k:g}": localizer
            for loss in LOSSES
            for name, localizer in (self.chosen(rows, loss),)
        }
        usual = replace(named["published"], k=FFNSubspace.k)
        name = list(best)[-1]

        def neurons() -> UnitMask:
            located = ValueNeurons(negatives=self.negatives).locate(self.subject, self.located[:NEMO_PROMPTS], seed=7)
            return located.mask

        def flat() -> UnitMask:
            share = masks[name]().density()
            curvature = Curvature(k=share, steps=usual.steps, guidance_scale=usual.guidance_scale)
            return curvature.locate(self.subject, self.benign, seed=7).mask

        masks: dict[str, Callable[[], UnitMask]] = {
            **{what: cache(partial(self.mask, localizer)) for what, localizer in best.items()},
            "published": cache(partial(self.mask, usual)),
            "strongest": cache(partial(self.mask, replace(usual, k=KS[-1]))),
            "value_neurons": cache(neurons),
            "curvature": cache(flat),
        }
        drawn: dict[Any, dict[str, Any]] = {}
        for what, mask in masks.items():
            for ending in ("", ", random"):
                same = (best.get(what, what), ending)  # both losses may allow the same mask
                if same not in drawn:
                    drawn[same] = known.get(what + ending) or self.point(
                        self.heldout, what + ending, self.random(mask()) if ending else mask()
                    )
                yield {**drawn[same], "name": what + ending}
        for factor in FACTORS:
            what = f"{name}, times {factor:g}"
            yield known.get(what) or self.point(self.heldout, what, masks[name](), ScaleWeights(factor))

    def variants(self) -> list[tuple[str, FFNSubspace]]:
        """All that is swept, named; the same name for all k."""
        sampling = self.manifest.sampling
        usual = FFNSubspace(steps=sampling["steps"], guidance_scale=sampling["guidance_scale"], modules=FEED_FORWARDS)
        matched = replace(usual, base=self.negatives, conditional_only=True)
        plain = replace(matched, normalize_tokens=False)
        full = {
            "published": usual,
            "non-members as base": matched,
            "scenes as base": replace(matched, base=self.benign),
            "non-members and scenes as base": replace(matched, base=self.negatives + self.benign),
        }
        full["scenes as base, plain norms"] = replace(full["scenes as base"], normalize_tokens=False)
        for tau, steps in ((4, "4 steps"), (1, "1 step")):
            full[f"scenes as base, plain norms, {steps}"] = replace(full["scenes as base, plain norms"], tau=tau)
        best = full["scenes as base, plain norms, 1 step"]
        full["1 step, keys and values"] = replace(best, modules=KEYS_VALUES)
        full["1 step, keys, values and feed-forward"] = replace(best, modules=f"{FEED_FORWARDS}|{KEYS_VALUES}")
        some = {
            "neurons": replace(usual, unit="neuron"),
            "plain norms": plain,
            "plain norms, neurons": replace(plain, unit="neuron"),
            "1 step": replace(usual, tau=1),
            "4 steps": replace(usual, tau=4),
            "in half of the steps": replace(usual, agreement=0.5),
            "down blocks": replace(usual, modules=r"^down.*" + FEED_FORWARDS),
            "middle block": replace(usual, modules=r"^mid.*" + FEED_FORWARDS),
            "up blocks": replace(usual, modules=r"^up.*" + FEED_FORWARDS),
        }
        return [
            (name, replace(one, k=k))
            for several, ks in ((full, KS), (some, FEW_KS))
            for name, one in several.items()
            for k in ks
        ]

    def transplants(self, measured: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
        """For each part: the model with the twin's, and the twin with the model's; not again what was ``measured``."""
        known = {row["part"]: row for row in measured}
        ours, theirs = self.subject.denoiser, self.twin.denoiser
        for part, pattern in GROUPS.items():
            if part in known:
                yield known[part]
                continue
            with transplanted(ours, theirs, pattern) as share:
                without = self.figures(self.dev)
            with transplanted(theirs, ours, pattern):
                alone = self.figures(self.dev, self.twin)
            self.progress(
                f"{part} ({share:.0%} of the parameters): copies {without['copies']['share']:.0%} without "
                f"it, {alone['copies']['share']:.0%} with nothing else"
            )
            yield {"part": part, "share_of_parameters": share, "without": without, "alone": alone}


def options(localizer: FFNSubspace) -> dict[str, Any]:
    """What tells variants apart, for a row."""
    return {key: getattr(localizer, key) for key in OPTIONS}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["name"], *(row[key] for key in OPTIONS))


def bench_localizers(
    out: Path, *, batch_size: int = 32, device: str = "auto", progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Writes localizers.json after each row; returns the figures. Rows that the file holds are kept, and until the last
    one is there it says that it is unfinished.
    """
    out.mkdir(parents=True, exist_ok=True)
    bench, file = Bench(device, batch_size, progress), out / "localizers.json"
    setting = {
        "format": 1,
        "losses": list(LOSSES),
        "located_with": len(bench.located),
        "model_sha256": bench.subject.sha256(),
    }
    known = earlier(file, setting)
    result: dict[str, Any] = {**known, **setting, "unfinished": True, "unpruned": bench.figures(bench.dev)}
    for name, measure in (
        ("sweep", bench.sweep),
        ("heldout", lambda measured: bench.judged(result["sweep"], measured)),
        ("transplants", bench.transplants),
    ):
        measured, rows = known.get(name, []), list[dict[str, Any]]()
        for row in measure(measured):
            rows.append(row)
            write_json(file, {**result, name: [*rows, *measured[len(rows) :]]})
        result[name] = rows
    del result["unfinished"]
    write_json(file, result)
    return result


def strongest_choice(result: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    """Held out: the variant that was chosen for the largest loss, its row, and that of as many random weights; None
    while one of them is missing. Rows are final as soon as they are there.
    """
    start, rows = f"chosen for a loss up to {result['losses'][-1]:g}: ", {row["name"]: row for row in result["heldout"]}
    for name, row in rows.items():
        if name.startswith(start) and (random := rows.get(f"{name}, random")):
            return name.removeprefix(start), row, random
    return None


def line(row: dict[str, Any]) -> str:
    about = f" k={row['k']:g}" if "k" in row else ""
    return (
        f"{row['name']}{about}: density {row['density']:.3f}, copies {share(row['copies'])}, distance "
        f"{row['distance']:.3f}, loss {row['loss']['value']:.3f}"
    )


def table(result: dict[str, Any]) -> str:
    """Held-out figures and transplants as Markdown."""
    lines = [
        "| pruned | weights | held-out works copied | mean distance | loss of agreement |",
        "|---|---|---|---|---|",
    ]
    for row in result["heldout"]:
        lines.append(
            f"| {row['name']} | {row['density']:.1%} | {share_by_both(row['copies'])} | {row['distance']:.3f} "
            f"| {interval(row['loss'])} |"
        )
    lines += [
        "",
        "| part | parameters | copies, it from the twin | agreement | copies, only it from the model |",
        "|---|---|---|---|---|",
    ]
    for row in result["transplants"]:
        without, alone = row["without"], row["alone"]
        lines.append(
            f"| {row['part']} | {row['share_of_parameters']:.0%} | {without['copies']['share']:.0%} "
            f"| {without['alignment']:.3f} | {alone['copies']['share']:.0%} |"
        )
    return "\n".join(lines)
