"""Neurons of the value layers without which a prompt no longer decides what the first step makes of the noise.

Hintersdorf et al., "Finding NeMo: Localizing Neurons Responsible for Memorization in Diffusion Models", NeurIPS 2024,
arXiv 2406.02366. The first prediction for a memorized prompt hardly depends on the noise it starts from, so the highest
structural similarity between the predictions of several seeds is a score of memorization. For one prompt:

    candidates   neurons of the cross-attention value layers (down and middle blocks) whose mean |activation| lies more
                 than theta standard deviations above its mean over other prompts, and the k highest of each layer;
                 theta falls from 5 to 1 and k grows from 0 until the score with all of them at zero is low enough
    refinement   layers, then single neurons, are given back as long as the score stays low enough

and the mask is the union over prompts. "Low enough" is the mean score of prompts known not to be memorized plus one
standard deviation. The paper's 0.428 is that figure for Stable Diffusion 1.4; here it always comes from ``negatives``,
and so do the activations' statistics.

Ours compares predicted clean latents instead of eps - x_T: at the last timestep one is a negative multiple of the
other, and where no signal is left eps is the noise itself, whatever the prompt. SSIM has one scale, since a 16 x 16
latent has no room for three. Where no candidates push the score low enough, the refinement keeps what they reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import torch

from probes.model.denoising import first_noise, predict, unpacked
from probes.model.generate import encode_prompts
from probes.model.layers import VALUES, matching_weights
from probes.model.training_loss import last_timestep
from probes.pruners import pruned
from probes.runs.cost import counted
from probes.runs.progress import ProgressCallback
from probes.types import Located, Subject, UnitMask
from shield.detectors.ssim_gap import ssim, stretched
from shield.model.prediction import converted, noise_levels, prediction_type


@dataclass(frozen=True)
class Usual:
    """What other prompts do: the score not to exceed, and for each layer mean and standard deviation (d,)."""

    threshold: float
    activations: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Neurons:
    """One prompt's result: layer -> output neurons, with the scores before and after, and how many were tried."""

    neurons: Mapping[str, tuple[int, ...]]
    before: float
    after: float
    candidates: int = 0

    def count(self) -> int:
        return sum(map(len, self.neurons.values()))


@dataclass(frozen=True)
class ValueNeurons:
    """Locates the neurons of value layers without which a memorized prompt no longer decides the first prediction.

    ``negatives`` are prompts known not to be memorized, at least two, of the same kind as the memorized ones.
    ``seeds`` noises make a score. ``spread`` standard deviations above the negatives' mean is the score to get below.
    """

    name: ClassVar[str] = "value_neurons"

    negatives: tuple[str, ...] = ()
    seeds: int = 10
    theta: float = 5.0
    theta_step: float = 0.25
    theta_least: float = 1.0
    spread: float = 1.0
    modules: str = VALUES

    def __post_init__(self) -> None:
        if len(self.negatives) < 2:
            raise ValueError(
                f"{self.name} needs at least two prompts that are known not to be memorized, to compare "
                f"with; {len(self.negatives)} were given."
            )
        if self.seeds < 2 or not self.theta >= self.theta_least or self.theta_step <= 0:
            raise ValueError(
                f"{self.name} needs two or more seeds and a theta that falls, not {self.seeds} seeds and "
                f"{self.theta} to {self.theta_least} by {self.theta_step}."
            )

    def locate(
        self, subject: Subject, prompts: Sequence[str], *, seed: int = 0, progress: ProgressCallback | None = None
    ) -> Located:
        """Mask of whole rows of the value layers. ``seed`` is the first of ``seeds`` noises."""
        if not prompts:
            raise ValueError("Locating needs at least one prompt.")
        with counted(subject.denoiser) as cost:
            usual, found = self.usual(subject, seed), []
            for done, embeds in enumerate(encode_prompts(subject, prompts), start=1):
                found.append(self.neurons(subject, embeds, usual, seed))
                if progress is not None:
                    progress(done, len(prompts))
        meta = {
            "localizer": self.name,
            "model": subject.name,
            "model_sha256": subject.sha256(),
            "unit": "neuron",
            "prompts": str(len(prompts)),
            "seed": str(seed),
            "threshold": f"{usual.threshold:.4f}",
        }
        return Located(replace(self.mask(subject, found), meta=meta), cost.evaluations)

    def usual(self, subject: Subject, seed: int) -> Usual:
        """Threshold and activations of the negatives; costs ``seeds`` evaluations for each."""
        embeds = encode_prompts(subject, self.negatives)
        scores = torch.tensor([self.score(subject, one, {}, seed) for one in embeds], dtype=torch.float64)
        sizes = {
            path: torch.stack([self._activations(subject, one)[path] for one in embeds])
            for path in matching_weights(subject.denoiser, self.modules)
        }
        return Usual(
            float(scores.mean() + self.spread * scores.std()),
            {path: (size.mean(dim=0), size.std(dim=0)) for path, size in sizes.items()},
        )

    def neurons(self, subject: Subject, embeds: torch.Tensor, usual: Usual, seed: int) -> Neurons:
        """Neurons behind one prompt, given as its embedding (T, D); none if its score is usual already."""
        before = after = self.score(subject, embeds, {}, seed)
        if before <= usual.threshold:
            return Neurons({}, before, before)
        surprise = {
            path: (size - usual.activations[path][0]) / usual.activations[path][1].clamp_min(1e-12)
            for path, size in self._activations(subject, embeds).items()
        }
        chosen: dict[str, tuple[int, ...]] = {}
        rounds = int((self.theta - self.theta_least) / self.theta_step + 1e-9) + 1
        for k in range(rounds):
            chosen = candidates(surprise, self.theta - k * self.theta_step, k)
            after = self.score(subject, embeds, chosen, seed)
            if after <= usual.threshold:
                break
        tried = sum(map(len, chosen.values()))
        return replace(
            self._refined(subject, embeds, chosen, max(after, usual.threshold), seed), before=before, candidates=tried
        )

    def _refined(
        self, subject: Subject, embeds: torch.Tensor, chosen: Mapping[str, tuple[int, ...]], limit: float, seed: int
    ) -> Neurons:
        """Gives back layers, then neurons, that aren't needed to stay at or below ``limit``."""
        kept = {path: neurons for path, neurons in chosen.items() if neurons}

        def needed(without: dict[str, tuple[int, ...]]) -> bool:
            return self.score(subject, embeds, without, seed) > limit

        for path in list(kept):
            without = {other: neurons for other, neurons in kept.items() if other != path}
            kept = kept if needed(without) else without
        for path, neuron in [(path, neuron) for path, neurons in kept.items() for neuron in neurons]:
            rest = tuple(other for other in kept[path] if other != neuron)
            without = {**kept, path: rest}
            kept = kept if needed(without) else without
        kept = {path: neurons for path, neurons in kept.items() if neurons}
        score = self.score(subject, embeds, kept, seed)
        return Neurons(kept, score, score)

    def score(self, subject: Subject, embeds: torch.Tensor, blocked: Mapping[str, tuple[int, ...]], seed: int) -> float:
        """Highest similarity of two of ``seeds`` first predictions under an embedding (T, D), these neurons at zero."""
        noise = first_noise(subject, range(seed, seed + self.seeds))
        scheduler = subject.pipe.scheduler
        last = last_timestep(scheduler)
        with torch.no_grad(), pruned(subject, self._rows(subject, blocked)):
            rows = embeds.to(subject.device).expand(self.seeds, -1, -1)
            predicted = predict(subject, noise, last, rows)
        clean = converted(
            predicted.float(), prediction_type(scheduler), "x0", *noise_levels(scheduler, last), noise.float()
        )
        return highest_similarity(clean)

    def mask(self, subject: Subject, found: Sequence[Neurons]) -> UnitMask:
        """The union of several prompts' neurons as a mask over all value layers."""
        blocked: dict[str, set[int]] = {}
        for one in found:
            for path, neurons in one.neurons.items():
                blocked.setdefault(path, set()).update(neurons)
        paths = matching_weights(subject.denoiser, self.modules)
        return self._rows(subject, {path: tuple(blocked.get(path, ())) for path in paths})

    def _rows(self, subject: Subject, blocked: Mapping[str, tuple[int, ...]]) -> UnitMask:
        masks, weights = {}, matching_weights(subject.denoiser, self.modules)
        for path, neurons in blocked.items():
            masks[path] = torch.zeros(weights[path].shape, dtype=torch.bool)
            masks[path][list(neurons)] = True
        return UnitMask(masks)

    def _activations(self, subject: Subject, embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean |activation| over tokens (d,) for each layer. Values depend on the prompt alone: no denoiser runs."""
        tokens = unpacked(subject.pipe, embeds.to(subject.device, subject.dtype)[None]).embeds[0]
        with torch.no_grad():
            return {
                path: subject.denoiser.get_submodule(path)(tokens).float().abs().mean(dim=0).cpu()
                for path in matching_weights(subject.denoiser, self.modules)
            }


def candidates(surprise: Mapping[str, torch.Tensor], theta: float, k: int) -> dict[str, tuple[int, ...]]:
    """For each layer the neurons above ``theta`` and its ``k`` highest, most surprising last."""
    chosen = {}
    for path, values in surprise.items():
        count = max(int((values > theta).sum()), min(k, len(values)))
        chosen[path] = tuple(reversed(values.topk(count).indices.tolist()))
    return chosen


def highest_similarity(maps: torch.Tensor) -> float:
    """Highest SSIM (Wang et al. 2004) of two of the maps (B, C, H, W), each channel stretched to 0..1 first."""
    wide = stretched(maps)
    one, two = (list(places) for places in zip(*combinations(range(len(maps)), 2), strict=True))
    return float(ssim(wide[one], wide[two]).max())
