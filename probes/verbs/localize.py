"""`diffshield localize`: which weights are behind a set of prompts, and whether other prompts find the same ones.

The prompts are split into two halves that share none. Norms are sums over prompts, so one pass over each half gives
the mask of all prompts, the mask of each half, and the masks of smaller sets inside them: overlap against the size of
a set costs nothing more. Neurons are found for each prompt alone, one record each, and sets are unions. Every overlap
stands beside that of two random masks of the same size in each module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from probes.audit.norms import Norms, joined, save_norms
from probes.audit.plan import FULL
from probes.errors import UnsupportedError
from probes.inputs.base_prompts import base_prompts, ordinary_prompts
from probes.inputs.cohorts import Sizes, cohorts_of_manifest
from probes.inputs.prompts import read_prompts
from probes.localizers import LOCALIZERS, SHIPPED, Curvature, FFNSubspace, RandomMask, ValueNeurons
from probes.localizers.value_neurons import Neurons, Usual
from probes.model.generate import encode_prompts
from probes.model.layers import matching_weights
from probes.paths import takes_paths
from probes.report import mask_plots
from probes.report.summary import Measured, summary_of
from probes.runs.folder import Run, record_id, write_json
from probes.runs.progress import ProgressCallback, bars
from probes.runs.provenance import describe_input
from probes.runs.stage_log import Stages
from probes.testbed.checkpoint import Checkpoint
from probes.types import Localizer, Subject, UnitMask
from shield.errors import BadRequestError

TAU = 6  # steps that are watched, or all of fewer
# Those of every localizer's options that aren't the sampling's, by default; TAU for a tau of None.
OPTIONS = {"k": 0.05, "tau": None, "normalize_tokens": True, "conditional_only": False, "unit": "weight"}

AnyLocalizer = FFNSubspace | ValueNeurons | Curvature | RandomMask | Localizer


@dataclass(frozen=True)
class Localized:
    """What was located: the run folder, the mask in it, and the figures."""

    folder: Path
    mask: UnitMask
    summary: Measured = field(repr=False)

    @property
    def file(self) -> Path:
        return self.folder / "mask.safetensors"


@takes_paths
def localize(
    prompts: Path | None,
    out: Path,
    *,
    localizer: AnyLocalizer = FULL.localizer,
    model: str = "testbed",
    column: str | None = None,
    limit: int | None = None,
    seed: int = 7,
    device: str = "auto",
    resume: bool = False,
    show_progress: bool = True,
    pipe: Any = None,
) -> Localized:
    """Locate into the run folder ``out``: mask.safetensors, density.svg, overlap.svg, summary.json.

    Also norms.safetensors of a subspace, or a record of each prompt's neurons. Without ``prompts`` the testbed's dev
    works are used, which nothing is judged by, or for the curvature, which is averaged over ordinary prompts, its dev
    non-members and scenes. The model stays bit-equal. A random mask looks at no prompts.
    ``pipe`` is the model, where it is loaded already; ``model`` is then what it is called.

    Raises AuditError (no prompts for a model nothing is known about), PromptFileError, RunError, UnsupportedError and
    WeightsError.
    """
    checkpoint, ordinary = Checkpoint.of(model, pipe), prompts is None and isinstance(localizer, Curvature)
    used = ordinary_prompts(checkpoint)[:limit] if ordinary else _prompts(prompts, checkpoint, column, limit)
    config = {
        "model": model,
        "column": column,
        "limit": limit,
        "seed": seed,
        "localizer": localizer.name,
        "options": {name: value for name, value in vars(localizer).items() if name != "like"},
    }
    inputs = [describe_input(prompts)] if prompts else []
    subject = checkpoint.subject(device)
    if hasattr(localizer, "modules"):
        _check_layers(subject, localizer)
    about: dict[str, Any] = {
        "kind": "localize",
        "inputs": inputs,
        "seeds": [seed],
        "model": {"name": model, "sha256": subject.sha256()},
    }
    with Run.start(out, config, resume=resume, **about) as run, bars(show_progress) as track:
        stages = Stages(run.folder, subject.denoiser)
        stages.do("localize", lambda: _located(run, localizer, subject, used, seed, track("localize")))
        summary = _summary(run, stages, localizer.name)
        write_json(run.folder / "summary.json", summary)
        run.finish("complete")
    return Localized(out, UnitMask.load(out / "mask.safetensors"), summary)


def _check_layers(subject: Subject, localizer: Any) -> None:
    """Refuses a model without the localizer's layers before a run begins. Raises UnsupportedError."""
    try:
        matching_weights(subject.denoiser, localizer.modules)
    except UnsupportedError as error:
        if not isinstance(localizer, ValueNeurons):
            raise
        raise UnsupportedError(
            f"{localizer.name} looks at cross-attention on a UNet's way down, and {subject.name} has a "
            f"{type(subject.denoiser).__name__}, which has none; take --method {FFNSubspace.name}."
        ) from error


def localizer_of(
    method: str,
    base: str | None,
    options: Mapping[str, Any],
    prompts: Path | None,
    checkpoint: Checkpoint,
    column: str | None = None,
    limit: int | None = None,
) -> AnyLocalizer:
    """The localizer of a command's options; ``base`` as base_prompts says. BadRequestError for what can't be.

    None as ``base`` is "null" for a subspace and "nonmembers" for value neurons, which take no other option.
    """
    if method not in LOCALIZERS:
        raise BadRequestError(f"Weights are located by {', '.join(LOCALIZERS)}, not {method!r}.")
    options = {**options, "tau": min(TAU, options["steps"]) if options["tau"] is None else options["tau"]}
    if method == RandomMask.name:
        return RandomMask(density=options["k"])
    if method == Curvature.name:
        try:
            return Curvature(**{name: options[name] for name in ("k", "tau", "steps", "guidance_scale")})
        except ValueError as error:
            raise BadRequestError(str(error)) from error
    if method not in SHIPPED:
        own = LOCALIZERS[method]
        return own(
            **{name: value for name, value in options.items() if name in getattr(own, "__dataclass_fields__", ())}
        )
    if options["unit"] not in ("weight", "neuron"):
        raise BadRequestError(f"A unit is weight or neuron, not {options['unit']!r}.")
    base = base or ("nonmembers" if method == ValueNeurons.name else "null")
    compared = base_prompts(base, _prompts(prompts, checkpoint, column, limit), checkpoint)
    try:
        if method == ValueNeurons.name:
            return ValueNeurons(negatives=compared)
        return FFNSubspace(**options, base=compared)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def _prompts(prompts: Path | None, checkpoint: Checkpoint, column: str | None, limit: int | None) -> list[str]:
    manifest = checkpoint.known(prompts)
    if prompts is not None:
        return [target.prompt for target in read_prompts(prompts, column=column, limit=limit)]
    return [target.prompt for target in cohorts_of_manifest(manifest, Sizes()).locate][:limit]


def _located(
    run: Run, localizer: AnyLocalizer, subject: Subject, prompts: Sequence[str], seed: int, progress: ProgressCallback
) -> dict[str, Any]:
    if isinstance(localizer, FFNSubspace):
        return _subspace(run.folder, localizer, subject, prompts, seed, progress)
    if isinstance(localizer, ValueNeurons):
        return _values(run, localizer, subject, prompts, seed, progress)
    used = () if isinstance(localizer, RandomMask) else prompts
    mask = localizer.locate(subject, used, seed=seed, progress=progress).mask
    mask.save(run.folder / "mask.safetensors")
    return {**_described(mask), "prompts": len(used), "base": 0, "overlap": []}


def _subspace(
    folder: Path,
    localizer: FFNSubspace,
    subject: Subject,
    prompts: Sequence[str],
    seed: int,
    progress: ProgressCallback,
) -> dict[str, Any]:
    weights = matching_weights(subject.denoiser, localizer.modules)
    halves = [nested_norms(localizer, subject, half, seed) for half in (prompts[::2], prompts[1::2]) if half]
    progress(1, 2)
    base = localizer.norms(subject, localizer.base, seed)
    progress(2, 2)
    target = joined([half[max(half)] for half in halves], [max(half) for half in halves])
    mask = localizer.mask(weights, target, base)
    meta = {"k": str(localizer.k), "tau": str(localizer.tau), "unit": localizer.unit}
    _save(mask, folder, localizer, subject, prompts, seed, meta)
    save_norms(folder / "norms.safetensors", localizer, target, base)
    sets = [{size: localizer.mask(weights, norms, base) for size, norms in half.items()} for half in halves]
    return {
        **_described(mask),
        "prompts": len(prompts),
        "base": len(localizer.base),
        "overlap": overlaps(subject, sets, seed) if len(sets) == 2 else [],
    }


def _values(
    run: Run, localizer: ValueNeurons, subject: Subject, prompts: Sequence[str], seed: int, progress: ProgressCallback
) -> dict[str, Any]:
    """A record for each prompt: its neurons, the score before and after, how many neurons were tried."""
    usual = localizer.usual(subject, seed)
    named = {f"prompt-{number:06d}": prompt for number, prompt in enumerate(prompts, start=1)}
    embeds = encode_prompts(subject, prompts)
    found = neurons_of(run, localizer, subject, named, embeds, usual, seed, progress)
    mask = localizer.mask(subject, found)
    _save(mask, run.folder, localizer, subject, prompts, seed, {"unit": "neuron", "threshold": str(usual.threshold)})
    sets = [
        {size: localizer.mask(subject, half[:size]) for size in nested_sizes(len(half))}
        for half in (found[::2], found[1::2])
    ]
    return {
        **_described(mask),
        "prompts": len(prompts),
        "base": len(localizer.negatives),
        "overlap": overlaps(subject, sets, seed),
        "threshold": usual.threshold,
        "neurons": [one.count() for one in found],
        "usual": sum(not one.candidates for one in found),
        "above": sum(one.after > usual.threshold for one in found),
    }


def neurons_of(
    run: Run,
    localizer: ValueNeurons,
    subject: Subject,
    prompts: Mapping[str, str],
    embeds: torch.Tensor,
    usual: Usual,
    seed: int,
    progress: ProgressCallback,
) -> list[Neurons]:
    """Neurons of embeddings (B, T, D) with names and prompts; each is a record, and isn't searched again."""
    done = run.done_ids()
    ids = [record_id(run.config, prompt, seed, stage="localize", item=item) for item, prompt in prompts.items()]
    for row, (item, prompt) in enumerate(prompts.items()):
        if ids[row] not in done:
            one = localizer.neurons(subject, embeds[row], usual, seed)
            run.append(
                {
                    "id": ids[row],
                    "stage": "localize",
                    "item": item,
                    "kind": "prompt",
                    "prompt": prompt,
                    "seed": seed,
                    "picture": None,
                    "copied": None,
                    "neurons": one.neurons,
                    "before": one.before,
                    "after": one.after,
                    "candidates": one.candidates,
                    "scores": {"before": one.before, "after": one.after},
                }
            )
        progress(row + 1, len(prompts))
    records = {record["id"]: record for record in run.records()}
    return [
        Neurons(
            {path: tuple(neurons) for path, neurons in record["neurons"].items()},
            record["before"],
            record["after"],
            record["candidates"],
        )
        for record in (records[identity] for identity in ids)
    ]


def _save(
    mask: UnitMask,
    folder: Path,
    localizer: AnyLocalizer,
    subject: Subject,
    prompts: Sequence[str],
    seed: int,
    more: Mapping[str, str],
) -> None:
    meta = {
        "localizer": localizer.name,
        "model": subject.name,
        "model_sha256": subject.sha256(),
        "prompts": str(len(prompts)),
        "seed": str(seed),
        **more,
    }
    UnitMask(mask.masks, meta).save(folder / "mask.safetensors")


def nested_sizes(count: int) -> list[int]:
    """1, 2, 4, 8 ... and ``count`` itself; empty for none."""
    sizes = [2**power for power in range(count.bit_length()) if 2**power < count]
    return [*sizes, count] if count else []


def nested_norms(localizer: FFNSubspace, subject: Subject, prompts: Sequence[str], seed: int) -> dict[int, Norms]:
    """Number of prompts (see nested_sizes) -> norms of that many first prompts. Each prompt runs once."""
    found: dict[int, Norms] = {}
    done = 0
    for size in nested_sizes(len(prompts)):
        block = localizer.norms(subject, prompts[done:size], seed)
        found[size] = joined([found[done], block], [done, size - done]) if done else block
        done = size
    return found


def overlaps(subject: Subject, sets: Sequence[Mapping[int, UnitMask]], seed: int) -> list[dict[str, Any]]:
    """IoU of the masks of two sets of prompts that share none, by size; and of random masks as large as these."""
    rows = []
    for size in sorted(set(sets[0]) & set(sets[1])):
        one, two = sets[0][size], sets[1][size]
        random_one = RandomMask(like=one).locate(subject, seed=2 * seed).mask
        random_two = RandomMask(like=two).locate(subject, seed=2 * seed + 1).mask
        rows.append(
            {
                "prompts": size,
                "iou": one.iou(two),
                "iou_random": random_one.iou(random_two),
                "weights": [one.count(), two.count()],
            }
        )
    return rows


def _described(mask: UnitMask) -> dict[str, Any]:
    return {"density": mask.density(), "weights": mask.count(), "size": mask.size(), "densities": mask.densities()}


def _summary(run: Run, stages: Stages, name: str) -> Measured:
    """Figures, and the plots of them."""
    detail = stages.detail("localize")
    (run.folder / "density.svg").write_text(mask_plots.density_plot(detail["densities"]), encoding="utf-8")
    if detail["overlap"]:
        (run.folder / "overlap.svg").write_text(mask_plots.overlap_plot(detail["overlap"]), encoding="utf-8")
    drawn_none = summary_of(run, (), stages.entries, members=(), metric=None, criterion={}, limits=())
    return {**drawn_none, "mask": {"localizer": name, **detail}}


def format_mask(summary: Measured) -> list[str]:
    """The summary for a terminal."""
    mask = summary["mask"]
    lines = [
        f"{mask['weights']} of {mask['size']} weights ({mask['density']:.2%}) in {len(mask['densities'])} layers, "
        f"located with {mask['prompts']} prompts"
    ]
    if not mask["weights"]:
        lines.append(
            "No weight was selected, so there is nothing to prune: --k is less than one weight of a row, or no prompt "
            "drives the highest ones harder than the base."
        )
    if "neurons" in mask:
        lines.append(
            f"{median(mask['neurons']):g} neurons a prompt (median); {mask['usual']} prompts scored no higher "
            f"than the negatives, {mask['above']} score higher even without their neurons"
        )
    for row in mask["overlap"]:
        if row["iou"] is not None:
            random = "none" if row["iou_random"] is None else f"{row['iou_random']:.3f}"
            lines.append(
                f"two sets of {row['prompts']} prompts that share none: overlap (IoU) {row['iou']:.3f}; "
                f"random masks of that size {random}"
            )
    return [*lines, f"{summary['cost'][0]['evaluations']} denoiser evaluations"]
