"""Fine-tuning a memory away with its caption as the only trigger: the baseline of adversarial fine-tuning.

    L = L_keep + weight * L_away
    L_away   training loss on (surrogate picture, caption): the surrogate is the *pruned* model's picture for the
             caption, so it means the same and isn't the work
    L_keep   training loss on ordinary (picture, caption) pairs, so that the model stays what it is

What this gains over pruning is owed to fine-tuning alone. Where no training data is at hand, the model's own pictures
of ordinary captions are the pairs to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from probes.attacks.adversarial_embedding import training_loss
from probes.types import Memory, Pair, Subject


@dataclass(frozen=True)
class CaptionFineTuning:
    """Options. A step takes the round's memories and ``keep_batch`` pairs, each with ``draws`` timesteps and noises."""

    name: ClassVar[str] = "caption_fine_tuning"
    trains: ClassVar[str] = ""
    has_teacher: ClassVar[bool] = False

    weight: float = 1.0
    keep_batch: int = 8
    draws: int = 4

    def lesson(self, subject: Subject, memories: Sequence[Memory], number: Callable[[str], int]) -> list[Pair]:
        """Surrogates with their captions' embeddings."""
        return [Pair(memory.surrogate, memory.goal.prompt_embeds) for memory in memories]

    def loss(self, subject: Subject, teacher: torch.nn.Module | None, lesson: Sequence[Pair], keep: Sequence[Pair],
             draw: torch.Generator) -> torch.Tensor:
        """L of the module's docstring, a scalar."""
        picked = torch.randperm(len(keep), generator=draw)[:self.keep_batch].tolist()
        return (self._of(subject, [keep[place] for place in picked], draw)
                + self.weight * self._of(subject, lesson, draw))

    def _of(self, subject: Subject, pairs: Sequence[Pair], draw: torch.Generator) -> torch.Tensor:
        latents = torch.stack([pair.latents for pair in pairs]).to(subject.device, torch.float32)
        embeds = torch.stack([pair.prompt_embeds for pair in pairs]).to(subject.device, torch.float32)
        return training_loss(subject, latents, embeds, [draw] * len(pairs), self.draws).mean()
