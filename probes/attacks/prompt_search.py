"""Words that make a model draw a picture, found among the tokenizer's own: a prompt that anybody could type.

Wen et al., "Hard Prompts Made Easy" (PEZ), NeurIPS 2023, arXiv 2302.03668: keep soft token embeddings, project them to
the nearest of the vocabulary (cosine), take the gradient at the projection, and apply it to the soft ones (AdamW,
learning rate 0.1, decay 0.1). Hong et al., "MemBench", TMLR 2025, search such prompts to find memorized pictures: what
a defense of the prompt's meaning hides, other words may bring back. PEZ matches a picture's CLIP features; the loss
here is the denoiser's training loss on the goal's latent, through the pipeline's text encoder, so that the answer is
about what the model draws. MemBench searches without a picture, by Markov chains over the first-step gap.

Unlike an adversarial embedding a prompt of n tokens has few bits, so it can hardly inject a picture that the model
doesn't hold; the controls are run all the same. Every step has the same draws of timestep and noise for a goal, so that
prompts compare: the best one so far is what a number of steps has found.

Goals are searched in one batch, each with its own random numbers and rows, so none depends on its neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from probes.attacks.adversarial_embedding import kept_steps
from probes.errors import UnsupportedError
from probes.model.batches import in_batches
from probes.model.training_loss import frozen, training_loss
from probes.runs.progress import ProgressCallback
from probes.types import Goal, SearchResult, Subject
from shield.hooks.calls import hooked
from shield.model.families import family_of


@dataclass(frozen=True)
class PromptSearch:
    """Searches prompts of ``tokens`` tokens, or as many as the goal's prompt has, which is then where it starts.

    Each of ``steps`` costs ``batch`` denoiser evaluations with gradient, and a text encoder's. ``rows`` bounds the
    denoiser's batch: goals at once times ``batch``.
    """

    name: ClassVar[str] = "prompt_search"

    steps: int = 50
    lr: float = 0.1
    decay: float = 0.1
    tokens: int = 8
    batch: int = 8
    rows: int = 64

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.tokens < 1:
            raise ValueError(
                f"A search needs 0 or more steps of 1 or more draws and 1 or more tokens, not "
                f"{self.steps} of {self.batch} and {self.tokens}."
            )

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations for each goal."""
        return self.steps * self.batch

    def search(
        self,
        subject: Subject,
        goals: Sequence[Goal],
        *,
        snapshots: Sequence[int] = (),
        progress: ProgressCallback | None = None,
    ) -> list[SearchResult]:
        """One SearchResult a goal: the best prompt's embedding, and its words, after every count in ``snapshots`` and
        after ``steps``. UnsupportedError for a pipeline with several text encoders.
        """
        kept = kept_steps(snapshots, self.steps)
        refuse_several_encoders(subject)
        with frozen(subject.denoiser), frozen(subject.pipe.text_encoder):
            return in_batches(
                partial(self._search, subject, kept=kept), list(goals), max(1, self.rows // self.batch), progress
            )

    def _search(self, subject: Subject, goals: Sequence[Goal], kept: Sequence[int]) -> list[SearchResult]:
        words = Words(subject)
        ids = torch.stack([words.start(goal, self.tokens) for goal in goals]).to(subject.device)
        free = words.free(ids)
        soft = words.table[ids].clone().requires_grad_(True)
        adam = torch.optim.AdamW([soft], lr=self.lr, weight_decay=self.decay)
        clean = torch.stack([goal.latents for goal in goals]).to(subject.device, torch.float32)
        best = [_Best(ids[row]) for row in range(len(goals))]
        snapshots: list[dict[int, torch.Tensor]] = [{0: one.ids} if 0 in kept else {} for one in best]
        losses: list[torch.Tensor] = []
        for step in range(1, self.steps + 1):
            ids = torch.where(free, words.nearest(soft.detach(), words.ordinary), ids)
            hard = words.table[ids].clone().requires_grad_(True)
            draws = [torch.Generator().manual_seed(goal.seed) for goal in goals]
            loss = training_loss(subject, clean, words.encoded(ids, hard), draws, self.batch)
            (slope,) = torch.autograd.grad(loss.sum(), [hard])
            soft.grad = slope * free[..., None]
            adam.step()
            losses.append(loss.detach().cpu())
            for row, one in enumerate(best):
                one.seen(ids[row], float(losses[-1][row]))
                if step in kept:
                    snapshots[row][step] = one.ids
        return [
            self._found(words, goal, snapshots[row], [float(loss[row]) for loss in losses])
            for row, goal in enumerate(goals)
        ]

    def _found(self, words: Words, goal: Goal, ids: dict[int, torch.Tensor], losses: list[float]) -> SearchResult:
        with torch.no_grad():
            embeds = {step: words.encoded(one[None], words.table[one[None]])[0].cpu() for step, one in ids.items()}
        if 0 in embeds and goal.prompt:
            embeds[0] = goal.prompt_embeds.clone()
        return SearchResult(
            goal.id, embeds, losses, self.evaluations, {step: words.text(one) for step, one in ids.items()}
        )


def refuse_several_encoders(subject: Subject) -> None:
    """UnsupportedError for a pipeline with several text encoders, before any work."""
    if family_of(subject.pipe).name not in ("sd", "lcm"):
        raise UnsupportedError(
            f"Words are searched in pipelines with one text encoder and a UNet (Stable Diffusion 1 and 2); "
            f"{type(subject.pipe).__name__} has another layout. Search an embedding: --attack adversarial_embedding."
        )


class _Best:
    """The prompt with the lowest loss so far."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids, self.loss = ids.clone(), float("inf")

    def seen(self, ids: torch.Tensor, loss: float) -> None:
        if loss < self.loss:
            self.ids, self.loss = ids.clone(), loss


class Words:
    """A pipeline's tokens: rows of T ids, begin token first, padding last."""

    def __init__(self, subject: Subject) -> None:
        self.pipe: Any = subject.pipe
        self.tokenizer = self.pipe.tokenizer
        self.table = self.pipe.text_encoder.get_input_embeddings().weight.detach().float()
        special = set(self.tokenizer.all_special_ids)
        self.ordinary = torch.tensor([i for i in range(len(self.table)) if i not in special], device=self.table.device)
        self._directions = torch.nn.functional.normalize(self.table[self.ordinary], dim=1)
        self.special = torch.tensor(sorted(special), device=self.table.device)

    def start(self, goal: Goal, tokens: int) -> torch.Tensor:
        """(T,): the goal's prompt, or that many random tokens of the goal's own."""
        length = self.tokenizer.model_max_length
        if goal.prompt:
            ids = self.tokenizer(goal.prompt, padding="max_length", truncation=True, max_length=length).input_ids
            return torch.tensor(ids)
        draw = torch.Generator().manual_seed(goal.seed)
        some = self.ordinary.cpu()[torch.randint(len(self.ordinary), (min(tokens, length - 2),), generator=draw)]
        ids = self.tokenizer("", padding="max_length", truncation=True, max_length=length).input_ids
        return torch.tensor([ids[0], *some.tolist(), *ids[1 : length - len(some)]])

    def free(self, ids: torch.Tensor) -> torch.Tensor:
        """(G, T) bool: places that may get another word; begin, end and padding may not."""
        ended = (ids == self.tokenizer.eos_token_id).cumsum(dim=1) > 0
        return ~ended & ~torch.isin(ids, self.special)

    def nearest(self, soft: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
        """(G, T): the token whose embedding points most where ``soft`` (G, T, D) does."""
        return among[(soft @ self._directions.T).argmax(dim=-1)]

    def encoded(self, ids: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """What the text encoder makes (G, T, D), float32, of tokens whose embeddings (G, T, D) are given."""
        encoder = self.pipe.text_encoder
        with hooked(encoder.get_input_embeddings(), after=lambda *call: embeds.to(call[-1].dtype)):
            return encoder(ids)[0].float()

    def text(self, ids: torch.Tensor) -> str:
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()
