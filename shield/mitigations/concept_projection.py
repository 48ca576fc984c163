"""Take out of each prediction what points toward a protected concept.

DVE (arXiv 2602.01089), for models of rectified flow: with d = v(concept) - v(anchor), two predictions more from the
same latents, the prediction v is replaced by v - (<v, d> / <d, d>) d, which is at right angles to d. The anchor is what
stands for the concept when a prompt is rewritten. Theirs is for flow models; ours works on whatever the denoiser
predicts, and was tried on v-predictions. It needs no unconditional prediction.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shield.errors import MissingSignalError
from shield.types import MitigationContext


@dataclass(frozen=True)
class ConceptProjection:
    """`strength` is the share of the projection that is taken out. Two extra denoiser calls a step.

    Needs a protected concept in the prompt; the first one that was found counts.
    """

    strength: float = 1.0

    name: ClassVar[str] = "concept_projection"
    needs_prompt: ClassVar[bool] = False

    def predicted(self, case: MitigationContext) -> Tensor:
        """(1, ...). Raises MissingSignalError without a protected concept in the prompt."""
        if not case.mentions or case.encode is None:
            raise MissingSignalError("concept_projection needs a protected concept in the prompt; none was found.")
        if "texts" not in case.memory:
            case.memory["texts"] = case.encode([case.mentions[0].concept, case.mentions[0].substitute])
        concept, anchor = (case.rerun(case.memory["texts"].rows([row])).float() for row in (0, 1))
        return without(case.noise_cond.float(), concept - anchor, self.strength).to(case.noise_cond)


def without(prediction: Tensor, direction: Tensor, strength: float = 1.0) -> Tensor:
    """`prediction` (1, ...) less this share of its projection on `direction`."""
    size = direction.pow(2).sum().clamp_min(1e-12)
    return prediction - strength * (prediction * direction).sum() / size * direction
