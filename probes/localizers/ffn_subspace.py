"""Feed-forward weights that memorized prompts drive harder than a base prompt does.

Chavhan et al., "Memorized Images in Diffusion Models share a Subspace that can be Located and Deleted", 2024,
arXiv 2406.18566. For the output projection W (d, d_ff) of every feed-forward block and each of the first ``tau``
denoising steps, score S = |W| * n, where n_j is the l2 norm of input neuron j over all tokens of all prompts (Wanda,
Sun et al. 2023). A weight is selected if it is among the int(k * d_ff) highest of its row for the memorized prompts
*and* scores higher than for the base prompts; the mask is the union over steps.

What a neuron is in a gated, fused or convolutional feed-forward, probes/model/layers.py says.

Why it works where it works: what a memorized prompt needs beyond any other prompt sits in few neurons, early on.

Ours differs in cost, not in result: a run ends after ``tau`` steps, prompts share batches, and a base prompt that is
the same for all runs once. Norms are per prompt (root mean square), which for as many base prompts as memorized ones
(the paper's case) is the same comparison. Nothing but running sums is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch.utils.hooks import RemovableHandle

from probes.errors import UnsupportedError
from probes.model.batches import in_batches
from probes.model.generate import first_steps, prompts_together
from probes.model.layers import FFN_OUTPUTS, Layer, columns, in_whole, matching_layers, matching_weights
from probes.runs.cost import counted
from probes.runs.progress import ProgressCallback
from probes.types import Located, Subject, UnitMask
from shield.model.families import Family, family_of


@dataclass(frozen=True)
class FFNSubspace:
    """Locates the feed-forward weights that memorized prompts drive harder than a base prompt does.

    ``normalize_tokens`` divides every token's activations by their l2 norm first, as the authors' code does (the score
    then ignores how strong an activation is); False is plain Wanda. ``conditional_only`` leaves the unconditional half
    of guidance out of the norms. ``base`` are the prompts compared against: "" selects whatever any prompt drives,
    memorized or not; captions of the same grammar that were never trained on select less. ``agreement`` is the share of
    the ``tau`` steps that must select a weight (0: any one of them). ``unit`` "neuron" selects whole columns of W by
    n_j * ||W_j||. ``modules`` is a regular expression on module paths.
    """

    name: ClassVar[str] = "ffn_subspace"

    k: float = 0.01
    tau: int = 10
    steps: int = 50
    guidance_scale: float = 7.5
    normalize_tokens: bool = True
    conditional_only: bool = False
    base: tuple[str, ...] = ("",)
    agreement: float = 0.0
    unit: Literal["weight", "neuron"] = "weight"
    modules: str = FFN_OUTPUTS
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1:
            raise ValueError(f"k is a share of each row's weights, above 0 and at most 1, not {self.k}.")
        if not 1 <= self.tau <= self.steps:
            raise ValueError(f"tau counts denoising steps: from 1 to the {self.steps} steps, not {self.tau}.")
        if not self.base:
            raise ValueError('base needs at least one prompt; the empty prompt is ("",).')

    def sampled(self, steps: int, guidance_scale: float) -> FFNSubspace:
        """The same in a schedule of so many steps, of which no more than there are can be watched."""
        return replace(self, steps=steps, guidance_scale=guidance_scale, tau=min(self.tau, steps))

    def locate(
        self, subject: Subject, prompts: Sequence[str], *, seed: int = 0, progress: ProgressCallback | None = None
    ) -> Located:
        """Mask over the matching modules. All prompts start from the same noise (``seed``), as in the paper."""
        weights = matching_weights(subject.denoiser, self.modules)
        with counted(subject.denoiser) as cost:
            target = self.norms(subject, prompts, seed, progress)
            base = self.norms(subject, self.base, seed)
        mask = self.mask(weights, target, base)
        meta = {
            "localizer": self.name,
            "model": subject.name,
            "model_sha256": subject.sha256(),
            "k": str(self.k),
            "tau": str(self.tau),
            "unit": self.unit,
            "prompts": str(len(prompts)),
            "seed": str(seed),
        }
        return Located(UnitMask(mask.masks, meta), cost.evaluations)

    def norms(
        self, subject: Subject, prompts: Sequence[str], seed: int, progress: ProgressCallback | None = None
    ) -> dict[str, torch.Tensor]:
        """Activation norms (tau, d_ff) for each module, float64: root of the mean over prompts of summed squares."""
        if not prompts:
            raise ValueError("Locating needs at least one prompt.")
        family = family_of(subject.pipe)
        if self.conditional_only and family.layout != "stacked":
            raise UnsupportedError(
                f"conditional_only needs guidance in one stacked denoiser call; "
                f"{type(subject.pipe).__name__} makes separate calls."
            )
        layers = matching_layers(subject.denoiser, self.modules)
        halved = family if self.conditional_only else None
        sums = _SquareSums(self.tau, self.normalize_tokens)

        def work(batch: Sequence[str]) -> Sequence[str]:
            attempt = _SquareSums(self.tau, self.normalize_tokens, rows=len(batch), family=halved)
            with attempt.watching(layers):
                first_steps(
                    subject,
                    batch,
                    [seed] * len(batch),
                    steps=self.steps,
                    stop=self.tau,
                    guidance_scale=self.guidance_scale,
                    on_step=attempt.step_done,
                )
            sums.add(attempt)
            return batch

        in_batches(work, list(prompts), prompts_together(subject.pipe, self.batch_size), progress)
        return {path: (square / len(prompts)).sqrt() for path, square in sums.squares.items()}

    def mask(
        self, weights: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]
    ) -> UnitMask:
        """The mask that these norms (tau, d_ff) give for weights whose last d_ff columns they are of.

        Cheap: sweep k and tau here.
        """
        select = select_weights if self.unit == "weight" else select_neurons
        masks = {}
        for path, weight in weights.items():
            hidden = columns(weight, target[path].shape[1])
            per_step = [select(hidden, target[path][step], base[path][step], self.k) for step in range(self.tau)]
            votes = torch.stack(per_step).sum(dim=0)
            masks[path] = in_whole(votes > self.agreement * self.tau, weight)
        return UnitMask(masks)


def select_weights(weight: torch.Tensor, target: torch.Tensor, base: torch.Tensor, k: float) -> torch.Tensor:
    """Weights (d, d_ff) among the int(k * d_ff) highest |W| * target of their row and above |W| * base."""
    size = weight.abs().to("cpu", torch.float64)
    ours, theirs = size * target, size * base
    top = torch.zeros_like(ours, dtype=torch.bool)
    top.scatter_(1, ours.topk(int(k * weight.shape[1]), dim=1).indices, True)
    return top & (ours > theirs)


def select_neurons(weight: torch.Tensor, target: torch.Tensor, base: torch.Tensor, k: float) -> torch.Tensor:
    """Whole columns of (d, d_ff): the int(k * d_ff) highest ||W_j|| * target_j, where target_j is above base_j."""
    size = weight.to("cpu", torch.float64).norm(dim=0)
    top = torch.zeros_like(size, dtype=torch.bool)
    top[(size * target).topk(int(k * len(size))).indices] = True
    return (top & (target > base)).expand(weight.shape).clone()


class _SquareSums:
    """Running sums of squared activations, for each module a tensor (tau, d_ff)."""

    def __init__(self, tau: int, normalize_tokens: bool, rows: int = 0, family: Family | None = None) -> None:
        """With a family, only the conditional ones of a call's rows, which are ``rows`` of them, are summed up."""
        self.squares: dict[str, torch.Tensor] = {}
        self._tau, self._normalize, self._rows, self._family = tau, normalize_tokens, rows, family
        self._step = 0

    def step_done(self, step: int) -> None:
        self._step = step + 1

    def add(self, other: _SquareSums) -> None:
        for path, square in other.squares.items():
            self.squares[path] = self.squares[path] + square if path in self.squares else square

    def watching(self, layers: Mapping[str, Layer]) -> _Hooks:
        return _Hooks(
            [layer.module.register_forward_pre_hook(self._watch(path, layer)) for path, layer in layers.items()]
        )

    def _watch(self, path: str, layer: Layer):  # type: ignore[no-untyped-def]
        def watch(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            hidden = layer.inputs(args[0].detach())
            if self._family is not None:
                hidden = hidden[self._family.halves(len(hidden), self._rows)[0]]
            tokens = hidden.flatten(0, -2).float()
            if self._normalize:
                tokens = tokens / tokens.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            square = tokens.double().square().sum(dim=0).cpu()
            sums = self.squares.setdefault(path, torch.zeros(self._tau, len(square), dtype=torch.float64))
            sums[self._step] += square

        return watch


class _Hooks:
    """Removes its hooks when the block ends."""

    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self._handles = handles

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
