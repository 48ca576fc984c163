"""Adversarial fine-tuning: a model learns to answer searched triggers of a picture with something else.

Hintersdorf et al., "Finding DoRI", ICML 2026, arXiv 2507.16880. In every round fresh adversarial embeddings y_adv are
searched for the current weights; the whole denoiser then learns to answer them with the surrogate picture, beside
ordinary pairs that it has to keep (the loss is in caption_fine_tuning.py).

Not in any text we could read, and chosen here: learning rate, batch sizes, and that the caption itself is a trigger
beside y_adv.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from probes.attacks.adversarial_embedding import AdversarialEmbedding
from probes.hardeners.caption_fine_tuning import CaptionFineTuning
from probes.types import Goal, Memory, Pair, Subject


@dataclass(frozen=True)
class AdversarialFineTuning(CaptionFineTuning):
    """Options of caption_fine_tuning, and the ``attack`` that searches the triggers."""

    name: ClassVar[str] = "adversarial_fine_tuning"

    attack: AdversarialEmbedding = field(default_factory=AdversarialEmbedding)

    def lesson(self, subject: Subject, memories: Sequence[Memory], number: Callable[[str], int]) -> list[Pair]:
        """Surrogates with their captions' embeddings, and with what the attack found for the current weights."""
        goals = [Goal(m.goal.id, m.goal.latents, m.goal.prompt_embeds, number(m.goal.id)) for m in memories]
        found = self.attack.search(subject, goals)
        return [
            *super().lesson(subject, memories, number),
            *(
                Pair(memory.surrogate, one.prompt_embeds[self.attack.steps])
                for memory, one in zip(memories, found, strict=True)
            ),
        ]
