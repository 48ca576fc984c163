"""Thresholds from negatives: score prompts that are known not to be memorized, keep the wanted quantile.

One stopped pipeline call per batch: with a detector that reads the first step only, one denoiser call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shield.errors import BadRequestError
from shield.hooks.recording import recorded
from shield.model.families import family_of
from shield.runtime.settings import models_of, running_setting
from shield.thresholds import Setting, Threshold, calibrated
from shield.types import Detector, Trace


@dataclass(frozen=True)
class NegativeSampling:
    """How the negatives are generated: `options` are further arguments of the pipeline's call."""

    steps: int = 25
    guidance_scale: float = 5.0
    batch_size: int = 8
    options: tuple[tuple[str, Any], ...] = ()


def scored(
    pipe: Any,
    detectors: Sequence[Detector],
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: NegativeSampling = NegativeSampling(),  # noqa: B008
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, list[float]], Setting]:
    """Every detector's scores by name, over all prompts and seeds (prompts fastest), and the setting they hold for.

    Noise comes from a CPU generator per image, so that scores don't depend on the batch. `progress` is told how many
    images each batch scored. Where guidance is off or distilled, the empty prompt is predicted beside. Raises
    BadRequestError without prompts.
    """
    if not prompts or not seeds:
        raise BadRequestError(f"{len(prompts)} prompts and {len(seeds)} seeds were given; one of each is needed.")
    horizon = max(detector.first_k for detector in detectors)
    needs = frozenset().union(*(detector.needs for detector in detectors))
    scores: dict[str, list[float]] = {detector.name: [] for detector in detectors}
    work = [(prompt, seed) for seed in seeds for prompt in prompts]
    setting, models = None, models_of(pipe)
    for start in range(0, len(work), sampling.batch_size):
        batch = work[start : start + sampling.batch_size]
        trace = traced(pipe, batch, needs, sampling, first_k=horizon)
        for detector in detectors:
            scores[detector.name] += detector.score(trace).tolist()
        if setting is None:
            levels, micro = [(step.timestep, step.signal) for step in trace.first(horizon)], trace.micro_conditioning
            shape = denoiser_input(pipe, trace)
            setting = running_setting(pipe, models, shape, levels, sampling.guidance_scale, micro)
        if progress is not None:
            progress(len(batch))
    assert setting is not None
    return scores, setting


def traced(
    pipe: Any, batch: Sequence[tuple[str, int]], needs: frozenset[str], sampling: NegativeSampling, **steps: Any
) -> Trace:
    """What one call for pairs of prompt and seed shows at `steps` (`recorded` takes them), after which it ends."""
    noises = [torch.Generator("cpu").manual_seed(seed) for _, seed in batch]
    call = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance_scale, "generator": noises}
    with torch.no_grad(), recorded(pipe, needs, stop=True, extra_uncond=True, **steps) as trace:
        pipe(prompt=[prompt for prompt, _ in batch], **call, **dict(sampling.options))
    return trace


def calibrate(
    pipe: Any,
    detectors: Sequence[Detector],
    prompts: Sequence[str],
    seeds: Sequence[int],
    fpr: float,
    model: str,
    sampling: NegativeSampling = NegativeSampling(),  # noqa: B008
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Threshold]:
    """One threshold per detector that flags at most `fpr` of prompts like these, known not to be memorized.

    Several seeds of one prompt aren't independent; the count of prompts is kept in the provenance. Raises
    BadRequestError (too few negatives for the rate) before anything is written.
    """
    scores, setting = scored(pipe, detectors, prompts, seeds, sampling, progress)
    about = {"prompts": len(set(prompts)), "seeds": list(seeds), "versions": versions(), **(provenance or {})}
    return [calibrated(d, scores[d.name], fpr, setting, model, about) for d in detectors]


def denoiser_input(pipe: Any, trace: Trace) -> tuple[int, ...]:
    """The shape of one image's latents as the denoiser is given them, packed ones with channels last."""
    shape = trace.latent_shape
    return (*shape[1:], shape[0]) if family_of(pipe).packed else shape


def versions() -> dict[str, str]:
    """Of the libraries that scores depend on."""
    import diffusers
    import transformers

    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__}
