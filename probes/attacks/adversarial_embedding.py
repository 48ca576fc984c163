"""Prompt embeddings that make a pruned model draw a picture again, found by plain gradient descent.

Hintersdorf et al., "Finding DoRI: Discovery of Retained Images in Diffusion Models", ICML 2026, arXiv 2507.16880.
Starting from a caption's embedding y, Adam (learning rate 0.1) lowers the training loss on the picture's latent x0,

    || target(x0, eps, t) - denoiser(x_t, t, y) ||^2      t uniform, eps normal, both fresh at every step,

for 50 steps of 8 draws. Only y has a gradient. The target is what the model was trained for: eps, v, x0, or the
velocity eps - x0 of flow matching, whose t is uniform here, too. y is all that the denoiser is told about the text: one
encoder's states in SD, those of two or three and the pooled embedding in SDXL, SD3 and Flux. Not in any text we
could read, and chosen here: Adam's betas (torch's), no decay, no clipping, y in float32 whatever the denoiser is in.

An unbounded embedding can also *inject* a picture that the model never saw, given enough steps. What was found says
nothing without the same search, at the same budget, on matched pictures that weren't in the training data.

Ours searches many goals in one batch. Each has its own random numbers and its own rows of Adam's state, and the summed
loss has no cross terms, so a goal's result doesn't depend on its neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from probes.model.batches import in_batches
from probes.model.denoising import call_of
from probes.model.generate import encode_prompts
from probes.model.training_loss import frozen, training_loss
from probes.runs.progress import ProgressCallback
from probes.types import Goal, SearchResult, Subject

INITS = ("caption", "noise", "other")


@dataclass(frozen=True)
class AdversarialEmbedding:
    """Searches the prompt embedding that draws a picture, by gradient descent.

    ``rows`` bounds the denoiser's batch: goals at once times ``batch``.
    ``checkpointing`` computes activations twice instead of holding them: less memory, the same result.
    """

    name: ClassVar[str] = "adversarial_embedding"

    steps: int = 50
    lr: float = 0.1
    batch: int = 8
    rows: int = 64
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1:
            raise ValueError(f"An attack needs 0 or more steps of 1 or more draws, not {self.steps} of {self.batch}.")

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations, with gradient, for each goal."""
        return self.steps * self.batch

    def search(
        self,
        subject: Subject,
        goals: Sequence[Goal],
        *,
        snapshots: Sequence[int] = (),
        progress: ProgressCallback | None = None,
    ) -> list[SearchResult]:
        """One SearchResult for each goal, with the embedding at every step count in ``snapshots`` and at ``steps``.

        Costs steps * batch denoiser evaluations (with gradient) for each goal. UnsupportedError for a family that
        probes/model/denoising.py has no row for.
        """
        kept = kept_steps(snapshots, self.steps)
        call_of(subject.pipe)  # refuses other families before any work
        with frozen(subject.denoiser, self.checkpointing):
            return in_batches(
                partial(self._search, subject, kept=kept), list(goals), max(1, self.rows // self.batch), progress
            )

    def _search(self, subject: Subject, goals: Sequence[Goal], kept: Sequence[int]) -> list[SearchResult]:
        embeds = torch.stack([goal.prompt_embeds for goal in goals]).to(subject.device, torch.float32, copy=True)
        clean = torch.stack([goal.latents for goal in goals]).to(subject.device, torch.float32)
        draws = [torch.Generator().manual_seed(goal.seed) for goal in goals]
        embeds.requires_grad_(True)
        adam = torch.optim.Adam([embeds], lr=self.lr)
        snapshots = {0: embeds.detach().cpu().clone()} if 0 in kept else {}
        losses: list[torch.Tensor] = []
        for step in range(1, self.steps + 1):
            loss = training_loss(subject, clean, embeds, draws, self.batch)
            (embeds.grad,) = torch.autograd.grad(loss.sum(), embeds)
            adam.step()
            losses.append(loss.detach().cpu())
            if step in kept:
                snapshots[step] = embeds.detach().cpu().clone()
        return [
            SearchResult(
                goal.id,
                {step: snapshots[step][row] for step in kept},
                [float(loss[row]) for loss in losses],
                self.evaluations,
            )
            for row, goal in enumerate(goals)
        ]


def kept_steps(snapshots: Sequence[int], last: int, what: str = "steps") -> list[int]:
    """The step counts whose embedding is kept: those asked for and the last. ValueError for one beyond it."""
    kept = sorted({*snapshots, last})
    if kept[0] < 0 or kept[-1] > last:
        raise ValueError(f"Snapshots must lie within the {last} {what}, not {list(snapshots)}.")
    return kept


def initial_embeds(
    subject: Subject, init: str, prompts: Sequence[str], *, seed: int, other: str | None = None
) -> torch.Tensor:
    """Where searches start, (B, T, D): the caption's embedding, normal noise, or the embedding of ``other``."""
    if init == "caption":
        return encode_prompts(subject, prompts)
    if init == "other":
        if other is None:
            raise ValueError('init "other" needs the other prompt.')
        return encode_prompts(subject, [other]).expand(len(prompts), -1, -1).clone()
    if init == "noise":
        shape = encode_prompts(subject, [""]).shape[1:]
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed + row)) for row in range(len(prompts))]
        )
    raise ValueError(f"Unknown init {init!r}: use one of {', '.join(INITS)}.")
