"""Fine-tuning a memory away with its caption as the only trigger: the baseline of adversarial fine-tuning.

    L = L_keep + weight * L_away
    L_away   training loss on (surrogate picture, caption): the surrogate is the *pruned* model's picture for the
             caption, so it means the same and isn't the work
    L_keep   what keeps the model what it is, on ordinary (picture, caption) pairs. ``preserve`` "predictions": squared
             distance from the original model's prediction, a share ``empty`` of them for the empty prompt, which
             guidance needs as much. "pictures": the training loss, as the paper has it; it teaches what the pictures
             are instead, and where they are the model's own (guided) ones, scenes suffer for it

What this gains over pruning is owed to fine-tuning alone. Where no training data is at hand, the model's own pictures
of ordinary captions are the pairs to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.model.denoising import predict
from probes.model.generate import encode_prompts
from probes.model.training_loss import drawn_times, noised, training_loss
from probes.types import Memory, Pair, Subject


@dataclass(frozen=True)
class CaptionFineTuning:
    """Options. A step takes the round's memories and ``keep_batch`` pairs, each with ``draws`` timesteps and noises."""

    name: ClassVar[str] = "caption_fine_tuning"
    trains: ClassVar[str] = ""
    needs_keep: ClassVar[bool] = True

    weight: float = 0.25
    keep_batch: int = 24
    draws: int = 2
    preserve: Literal["predictions", "pictures"] = "predictions"
    empty: float = 0.25

    @property
    def has_teacher(self) -> bool:
        return self.preserve == "predictions"

    def lesson(self, subject: Subject, memories: Sequence[Memory], number: Callable[[str], int]) -> list[Pair]:
        """Surrogates with their captions' embeddings."""
        return [Pair(memory.surrogate, memory.goal.prompt_embeds) for memory in memories]

    def loss(
        self,
        subject: Subject,
        teacher: torch.nn.Module | None,
        lesson: Sequence[Pair],
        keep: Sequence[Pair],
        draw: torch.Generator,
    ) -> torch.Tensor:
        """L of the module's docstring, a scalar."""
        picked = torch.randperm(len(keep), generator=draw)[: self.keep_batch].tolist()
        some = [keep[place] for place in picked]
        kept = self._of(subject, some, draw) if teacher is None else self._moved(subject, teacher, some, draw)
        return kept + self.weight * self._of(subject, lesson, draw)

    def _of(self, subject: Subject, pairs: Sequence[Pair], draw: torch.Generator) -> torch.Tensor:
        latents, embeds = stacked(subject, pairs)
        return training_loss(subject, latents, embeds, [draw] * len(pairs), self.draws).mean()

    def _moved(
        self, subject: Subject, teacher: torch.nn.Module, pairs: Sequence[Pair], draw: torch.Generator
    ) -> torch.Tensor:
        """How far predictions have moved from the original's, a scalar."""
        latents, embeds = stacked(subject, pairs)
        dropped = torch.rand(len(pairs), generator=draw) < self.empty
        if dropped.any():
            none = encode_prompts(subject, [""]).to(embeds)
            embeds = torch.where(dropped[:, None, None].to(embeds.device), none, embeds)
        latents, embeds = (some.repeat_interleave(self.draws, dim=0) for some in (latents, embeds))
        scheduler = subject.pipe.scheduler
        time = drawn_times(scheduler, len(latents), draw).to(embeds.device)
        noisy = noised(scheduler, latents, torch.randn(latents.shape, generator=draw).to(latents), time)
        with torch.no_grad():
            wanted = predict(subject, noisy, time, embeds, teacher)
        return (predict(subject, noisy, time, embeds) - wanted).float().square().mean()


def stacked(subject: Subject, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B, C, H, W) and embeddings (B, T, D) of pairs, float32, on the subject's device."""
    return (
        torch.stack([pair.latents for pair in pairs]).to(subject.device, torch.float32),
        torch.stack([pair.prompt_embeds for pair in pairs]).to(subject.device, torch.float32),
    )
