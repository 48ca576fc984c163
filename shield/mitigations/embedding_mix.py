"""Guide with a mixture of the request's and a rewritten prompt's embeddings.

Roy, Mishra, Karande, Mandal, "Guardians of Generation", ICCV 2025 workshops (arXiv 2503.16171): e = (1 - w)
e_original + w e_rewritten, one guidance pass. Their tables need w = .5 to .75, and they never report the unprotected
rate. Ours mixes pooled embeddings with the same weight, replaces the original altogether by default, and is used only
after the detectors have passed it.
"""

from dataclasses import dataclass
from typing import ClassVar

from shield.errors import MissingSignalError
from shield.model.conditioning import Conditioning
from shield.types import MitigationContext


@dataclass(frozen=True)
class EmbeddingMix:
    """`weight` is the rewritten prompt's share; 1 replaces the original. Mixing is position by position, not by
    meaning.
    """

    weight: float = 1.0

    name: ClassVar[str] = "embedding_mix"
    needs_prompt: ClassVar[bool] = True

    def conditioned(self, context: MitigationContext) -> Conditioning:
        """One row. Raises MissingSignalError without a rewritten prompt."""
        if context.safe is None:
            raise MissingSignalError("embedding_mix needs a rewritten prompt; none was accepted.")
        return context.original.mixed(context.safe, self.weight)
