"""Weights that lie where the loss is flat on average: what few examples use, found without a list of memorized prompts.

Merullo, Vatsavaya, Bushnaq, Lewis, "From Memorization to Reasoning in the Spectrum of Loss Curvature", 2025, arXiv
2510.24256 (language models and vision transformers). A memory is sharp for its own example, but each one in a direction
of its own, so that averaged over data these directions are flat, while what everything shares is steep. With K-FAC the
curvature of a linear layer W is G (x) A, A = E[a a'] of its inputs and G = E[g g'] of the gradients at its outputs; in
their eigenbases a component u_i v_j' of W has the curvature lambda_i mu_j. They keep the components that hold a share
of all curvature and drop the rest.

Ours differs in two ways. No training data is needed: inputs come from the model's own first denoising steps of ordinary
prompts, and gradients from targets that the model itself draws (the true Fisher information of its squared error: a
normal vector at the output, sent back). And a mask selects weights, not directions: those whose part in flat components
exceeds their part in steep ones by most. `flat` gives the components themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from probes.model.activations import watched
from probes.model.batches import in_batches
from probes.model.generate import first_steps, prompts_together
from probes.model.layers import FFN_OUTPUTS, Layer, columns, in_whole, matching_layers, matching_weights
from probes.model.training_loss import frozen
from probes.runs.cost import counted
from probes.runs.progress import ProgressCallback
from probes.types import Located, Subject, UnitMask
from shield.hooks.forward import Forward
from shield.hooks.intercept import intercepted


@dataclass
class Factors:
    """Sums over tokens of a a' (d_ff, d_ff) and g g' (d, d), float64, and how many tokens; one layer's."""

    inputs: torch.Tensor
    gradients: torch.Tensor
    tokens: int = 0

    def joined(self, other: Factors) -> Factors:
        return Factors(self.inputs + other.inputs, self.gradients + other.gradients, self.tokens + other.tokens)


@dataclass(frozen=True)
class Curvature:
    """Selects the share ``k`` of each row's weights that lie most in flat components.

    ``keep`` is the share of all curvature that the steep components hold. ``tau`` first steps of ``steps`` are watched.
    Label-free: ``locate`` is given ordinary prompts, not the memorized ones. Memory grows with the square of a layer's
    width (16 layers of SD 1.x: 2 GB).
    """

    name: ClassVar[str] = "curvature"

    k: float = 0.05
    keep: float = 0.9
    tau: int = 6
    steps: int = 25
    guidance_scale: float = 5.0
    modules: str = FFN_OUTPUTS
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not (0 < self.k <= 1 and 0 < self.keep < 1):
            raise ValueError(f"k and keep are shares, above 0 and at most 1, not {self.k} and {self.keep}.")
        if not 1 <= self.tau <= self.steps:
            raise ValueError(f"tau counts denoising steps: from 1 to the {self.steps} steps, not {self.tau}.")

    def locate(
        self, subject: Subject, prompts: Sequence[str], *, seed: int = 0, progress: ProgressCallback | None = None
    ) -> Located:
        """Mask over the matching modules. ``prompts`` are ordinary ones; the n-th starts from noise ``seed + n``."""
        weights = matching_weights(subject.denoiser, self.modules)
        with counted(subject.denoiser) as cost:
            factors = self.factors(subject, prompts, seed, progress)
        masks = {path: self.mask(weight, factors[path]) for path, weight in weights.items()}
        meta = {
            "localizer": self.name,
            "model": subject.name,
            "model_sha256": subject.sha256(),
            "k": str(self.k),
            "keep": str(self.keep),
            "tau": str(self.tau),
            "prompts": str(len(prompts)),
            "seed": str(seed),
        }
        return Located(UnitMask(masks, meta), cost.evaluations)

    def factors(
        self, subject: Subject, prompts: Sequence[str], seed: int = 0, progress: ProgressCallback | None = None
    ) -> dict[str, Factors]:
        """K-FAC's two factors for each module. One forward and one backward pass a step beside the pipeline's own."""
        if not prompts:
            raise ValueError("Curvature needs at least one ordinary prompt to be averaged over.")
        found: dict[str, Factors] = {}
        layers = matching_layers(subject.denoiser, self.modules)

        def work(numbers: Sequence[int]) -> Sequence[int]:
            seeds = [seed + n for n in numbers]
            watch = _Backward(subject, layers, seeds)
            with intercepted(subject.pipe, watch):
                first_steps(
                    subject,
                    [prompts[n] for n in numbers],
                    seeds,
                    steps=self.steps,
                    guidance_scale=self.guidance_scale,
                    stop=self.tau,
                )
            for path, more in watch.found.items():
                found[path] = found[path].joined(more) if path in found else more
            return numbers

        with frozen(subject.denoiser):
            in_batches(work, range(len(prompts)), prompts_together(subject.pipe, self.batch_size), progress)
        return found

    def mask(self, weight: torch.Tensor, factors: Factors) -> torch.Tensor:
        """The selected of a weight whose last d_ff columns the factors are of. Cheap: sweep k and keep here."""
        hidden = columns(weight, len(factors.inputs)).to("cpu", torch.float64)
        low = flat(hidden, factors, self.keep)
        part = low.abs() - (hidden - low).abs()
        chosen = torch.zeros(hidden.shape, dtype=torch.bool)
        chosen.scatter_(1, part.topk(int(self.k * hidden.shape[1]), dim=1).indices, True)
        return in_whole(chosen, weight)


def flat(weight: torch.Tensor, factors: Factors, keep: float) -> torch.Tensor:
    """The part (d, d_ff), float64, of a weight that is left when the steepest components, which hold the share ``keep``
    of all curvature, are taken out. Subtract it for the published edit.
    """
    outs, left = torch.linalg.eigh(factors.gradients / max(factors.tokens, 1))
    ins, right = torch.linalg.eigh(factors.inputs / max(factors.tokens, 1))
    curvature = outs.clamp_min(0)[:, None] * ins.clamp_min(0)[None, :]
    order = curvature.flatten().argsort(descending=True)
    mass = curvature.flatten()[order].cumsum(0)
    steep = torch.zeros(curvature.numel(), dtype=torch.bool)
    steep[order[: int((mass < keep * mass[-1]).sum()) + 1]] = True
    components = left.T @ weight.to("cpu", torch.float64) @ right
    return left @ components.masked_fill(steep.view_as(curvature), 0.0) @ right.T


@dataclass
class _Backward:
    """Shown each step, runs it again with gradients and sends normal vectors back from the output."""

    subject: Subject
    layers: Mapping[str, Layer]
    seeds: Sequence[int]
    found: dict[str, Factors] = field(default_factory=dict)

    def __call__(self, forward: Forward) -> None:
        draws = [torch.Generator().manual_seed((seed << 12) + forward.index) for seed in self.seeds]
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            watched(self.subject.denoiser, list(self.layers), _with_gradient) as seen,
        ):
            predicted = forward.rerun(range(len(self.seeds)), forward.conditioning).float()
            drawn = torch.stack([torch.randn(predicted.shape[1:], generator=draw) for draw in draws])
            outputs = [seen[path][1] for path in self.layers]
            slopes = torch.autograd.grad((predicted * drawn.to(predicted)).sum(), outputs)
        for (path, layer), slope in zip(self.layers.items(), slopes, strict=True):
            self._add(path, _tokens(layer.inputs(seen[path][0])), _tokens(layer.outputs(slope)))

    def _add(self, path: str, inputs: torch.Tensor, slopes: torch.Tensor) -> None:
        more = Factors(inputs.T @ inputs, slopes.T @ slopes, len(inputs))
        self.found[path] = self.found[path].joined(more) if path in self.found else more


def _tokens(values: torch.Tensor) -> torch.Tensor:
    """(tokens, width), float64, on the CPU."""
    return values.detach().flatten(0, -2).to("cpu", torch.float64)


def _with_gradient(path: str, given: torch.Tensor, answer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's input, and its output, which asks for a gradient."""
    return given.detach(), answer if answer.requires_grad else answer.requires_grad_(True)
