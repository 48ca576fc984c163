"""Every detector on the testbed at the first step: works against matched non-members and benign scenes.

Thresholds come from dev negatives, figures from heldout ones, seeds are used for nothing else. A caption that was never
trained on and brings a work out all the same is no negative: it is a group of its own, "spill-over". Three controls
stand beside each detector: the text alone, the same captions on the clean twin (which never saw the works), and the
extra denoiser calls it costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from probes.bench.text_control import TrigramBayes
from probes.metrics.statistics import auroc, bootstrap_mean, rate_interval
from probes.model.generate import generators
from probes.report.format import earlier, interval, share
from probes.runs.cost import counted, peak_tensors
from probes.runs.folder import write_json
from probes.testbed.negatives import KINDS, negative_captions, spilling
from shield.calibration.detectors import NegativeSampling, scored
from shield.detectors import DETECTORS
from shield.hooks.recording import recorded
from shield.model.loading import load
from shield.types import Detector

SEEDS = tuple(range(600, 610))
FPR = 0.01
REPEATS = 5
EARLY = 5  # a detector that reads more steps than these needs most of a picture
MODELS = {"memorized": "testbed", "clean": "testbed-clean"}


@dataclass(frozen=True)
class Prompt:
    """A caption with its group ("rung 1000", "TM", "matched", "scenes") and the work or caption it stands for."""

    group: str
    item: str
    caption: str


SPILLING = "spill-over"


def prompts_of(split: str, manifest: Any, spilling: Collection[str] = ()) -> list[Prompt]:
    """Works by rung, matched non-members and benign scenes; of these two, the `spilling` captions apart."""
    works = [
        Prompt("TM" if w.memorization == "TM" else f"rung {w.rung}", w.id, w.captions[0]) for w in manifest.works(split)
    ]
    negatives = [
        Prompt(SPILLING if caption in spilling else group, caption, caption)
        for group, captions in negative_captions(split, manifest).items()
        for caption in captions
    ]
    return works + negatives


@dataclass(frozen=True)
class Scores:
    """One detector's (prompts, seeds) scores."""

    prompts: Sequence[Prompt]
    values: np.ndarray

    def of(self, *groups: str) -> np.ndarray:
        return self.values[[i for i, p in enumerate(self.prompts) if p.group in groups]]

    def items(self, group: str) -> list[str]:
        """The item of each value of `of(group).ravel()`."""
        return [p.item for p in self.prompts if p.group == group for _ in range(self.values.shape[1])]


def bench_detectors(
    out: Path,
    names: Sequence[str],
    seeds: Sequence[int] = SEEDS,
    batch_size: int = 32,
    device: str = "auto",
    progress: Callable[[str], None] = print,
) -> dict:
    """Scores both splits on both twins and writes detectors.json; returns the figures.

    Of an earlier file about the same model, the spilling captions and the other detectors' rows are kept.
    """
    from probes.testbed.manifest import load_manifest
    from shield.hooks.intercept import denoiser_of
    from shield.model.fingerprint import model_sha256

    manifest = load_manifest()
    sampling = NegativeSampling(manifest.sampling["steps"], manifest.sampling["guidance_scale"], batch_size)
    pipes = {twin: load(model, device=device) for twin, model in MODELS.items()}
    setting = {
        "format": 1,
        "sampling": manifest.sampling,
        "fpr": FPR,
        "model_sha256": model_sha256(denoiser_of(pipes["memorized"])),
    }
    before = earlier(out / "detectors.json", setting)
    result = {**setting, "spilling": before.get("spilling", {}), "detectors": before.get("detectors", {})}
    out.mkdir(parents=True, exist_ok=True)
    prompts = {}
    for split in ("dev", "heldout"):
        if split not in result["spilling"]:
            captions = negative_captions(split, manifest)
            found = spilling(pipes["memorized"], [c for group in KINDS for c in captions[group]], manifest)
            result["spilling"][split] = sorted(found)
            write_json(out / "detectors.json", result)
        progress(f"{split}: {len(result['spilling'][split])} captions bring out a work that isn't theirs")
        prompts[split] = prompts_of(split, manifest, result["spilling"][split])
    chosen = [DETECTORS[name]() for name in names]
    scores: dict[tuple[str, str], dict[str, Scores]] = {}
    for twin, split in (("memorized", "dev"), ("memorized", "heldout"), ("clean", "heldout")):
        scores[twin, split] = score_all(pipes[twin], chosen, prompts[split], seeds, sampling)
        progress(f"{twin}, {split}: {len(prompts[split])} captions scored on {len(seeds)} noises")
    for detector in chosen:
        row = figures(*(found[detector.name] for found in scores.values()))
        result["detectors"][detector.name] = {"seeds": len(seeds), **row}
    for name, row in result["detectors"].items():  # earlier ones too, so that all were timed in the same minute
        row |= cost(pipes["memorized"], DETECTORS[name](), sampling)
    result |= {"prompts": {split: _counts(prompts[split]) for split in prompts}, "text_control": text_control(prompts)}
    write_json(out / "detectors.json", result)
    return result


def score_all(
    pipe: Any,
    detectors: Sequence[Detector],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: NegativeSampling,
) -> dict[str, Scores]:
    """Every prompt with every seed at the detectors' first steps; those that read as many steps share a pass."""
    captions = [p.caption for p in prompts]
    found: dict[str, list[float]] = {}
    for first_k in sorted({detector.first_k for detector in detectors}):
        some = [detector for detector in detectors if detector.first_k == first_k]
        found |= scored(pipe, some, captions, seeds, sampling)[0]
    return {name: Scores(prompts, np.array(found[name]).reshape(len(seeds), len(prompts)).T) for name in found}


def figures(dev: Scores, heldout: Scores, twin: Scores) -> dict:
    """Per group of works: AUROC against matched, scenes and both (and the clean twin's), and the share above the
    threshold that 1 % of dev negatives exceed; with the rate at which heldout negatives exceed it.
    """
    threshold = float(np.quantile(dev.of(*KINDS), 1 - FPR))
    result: dict = {"threshold": threshold, "groups": {}}
    for negatives in KINDS:
        flagged = (heldout.of(negatives) > threshold).ravel()
        result[f"fpr_{negatives}"] = _interval([bool(f) for f in flagged], heldout.items(negatives))
    for group in dict.fromkeys(p.group for p in heldout.prompts if p.group not in KINDS):
        works = heldout.of(group).ravel()
        result["groups"][group] = {
            "auroc_nonmembers": auroc(works, heldout.of("nonmembers")),
            "auroc_scenes": auroc(works, heldout.of("scenes")),
            "auroc": auroc(works, heldout.of(*KINDS)),
            "auroc_on_twin": auroc(twin.of(group).ravel(), twin.of(*KINDS)),
            "tpr": _interval([bool(w > threshold) for w in works], heldout.items(group)),
            "mean": _mean(works, heldout.items(group)),
        }
    return result


def cost(pipe: Any, detector: Detector, sampling: NegativeSampling) -> dict:
    """Of one scored prompt, in a batch of eight: denoiser rows, those beyond the same steps without a detector, wall
    time, and by how much the tensors held at once exceed theirs (the whole batch's).
    """
    prompts = ["a star on a blue background"] * 8

    def score() -> None:
        scored(pipe, [detector], prompts, [0], sampling)

    def bare() -> None:
        call = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
        with torch.no_grad(), recorded(pipe, (), detector.first_k, stop=True):
            pipe(prompts, generator=generators([0] * len(prompts)), **call)

    rows, bytes_held, times = {}, {}, []
    for call in (bare, score):
        call()
        with counted(pipe.unet) as spent:
            bytes_held[call] = peak_tensors(call)
        rows[call] = spent.evaluations / len(prompts)
    for _ in range(REPEATS):
        start = time.perf_counter()
        score()
        times.append(1000 * (time.perf_counter() - start) / len(prompts))
    return {
        "denoiser_rows": rows[score],
        "extra_rows": rows[score] - rows[bare],
        "milliseconds": median(times),
        "megabytes": max(0.0, bytes_held[score] - bytes_held[bare]) / 2**20,
    }


def text_control(prompts: dict[str, list[Prompt]]) -> dict:
    """AUROC of a trigram classifier trained on dev captions: works against matched non-members, heldout."""
    captions = {
        split: {
            True: [p.caption for p in rows if p.group.startswith("rung") and p.group != "rung 0"],
            False: [p.caption for p in rows if p.group in ("rung 0", "nonmembers")],
        }
        for split, rows in prompts.items()
    }
    model = TrigramBayes.trained(captions["dev"][True], captions["dev"][False])
    ones, others = ([model.score(c) for c in captions["heldout"][kind]] for kind in (True, False))
    return {"auroc_nonmembers": auroc(ones, others), "n": len(ones), "n_negatives": len(others)}


def _interval(outcomes: Sequence[bool], items: Sequence[str]) -> dict:
    found = rate_interval(outcomes, items)
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "items": found.clusters}


def _mean(values: np.ndarray, items: Sequence[str]) -> dict:
    found = bootstrap_mean(values, items)
    return {"value": found.value, "low": found.low, "high": found.high}


def _counts(prompts: Sequence[Prompt]) -> dict[str, int]:
    return {group: sum(p.group == group for p in prompts) for group in dict.fromkeys(p.group for p in prompts)}


def ranked(result: Mapping[str, Any]) -> list[str]:
    """The detectors' names, the one that finds most of the top two rungs first."""

    def found(name: str) -> tuple[float, float]:
        groups = [result["detectors"][name]["groups"][group] for group in _top(result)[-2:]]
        return min(g["tpr"]["value"] for g in groups), min(g["auroc"] for g in groups)

    return sorted(result["detectors"], key=found, reverse=True)


def _top(result: Mapping[str, Any]) -> list[str]:
    """The three highest rungs' groups."""
    return [group for group in next(iter(result["detectors"].values()))["groups"] if group.startswith("rung")][-3:]


def leaderboard(result: dict) -> str:
    """A line for each detector, ranked: what it finds, and its cost."""
    top = _top(result)
    heads = [f"AUROC, {group.removeprefix('rung ')}" for group in top]
    heads += [f"TPR, {group.removeprefix('rung ')}" for group in top[-2:]]
    lines = [
        f"| detector | noises | {' | '.join(heads)} | negatives flagged | evaluations (extra) | ms | MB |",
        "|---" * (len(heads) + 6) + "|",
    ]
    for name in ranked(result):
        row = result["detectors"][name]
        cells = [f"{row['groups'][group]['auroc']:.2f}" for group in top]
        cells += [share(row["groups"][group]["tpr"], "value") for group in top[-2:]]
        flagged = " / ".join(f"{row[f'fpr_{kind}']['value']:.1%}" for kind in KINDS)
        lines.append(
            f"| `{name}` | {row['seeds']} | {' | '.join(cells)} | {flagged} "
            f"| {row['denoiser_rows']:.0f} ({row['extra_rows']:.0f}) | {row['milliseconds']:.0f} "
            f"| {row['megabytes']:.1f} |"
        )
    return "\n".join(lines)


def table(result: dict) -> str:
    """The figures as a Markdown table, one line for a detector and group of works."""
    lines = [
        "| detector | works | AUROC non-members | AUROC scenes | AUROC both | on the twin | TPR [95 %] |",
        "|---" * 7 + "|",
    ]
    for name, row in result["detectors"].items():
        for group, g in row["groups"].items():
            lines.append(
                f"| {name} | {group} | {g['auroc_nonmembers']:.3f} | {g['auroc_scenes']:.3f} | {g['auroc']:.3f} "
                f"| {g['auroc_on_twin']:.3f} | {interval(g['tpr'], digits=2)} |"
            )
        lines.append(
            f"| {name} | *negatives flagged* | {row['fpr_nonmembers']['value']:.3f} | {row['fpr_scenes']['value']:.3f} "
            "| | | |"
        )
    text = result["text_control"]
    return "\n".join([*lines, f"| text alone | rungs above 0 | {text['auroc_nonmembers']:.3f} | | | | |"])
