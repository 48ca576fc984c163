"""Guide with a mixture of two predictions: the request's and a rewritten prompt's.

The formula on the page of "Guardians of Generation" (Roy et al., ICCV 2025 workshops, arXiv 2503.16171), which its
code doesn't use; the weight is the rewritten prompt's here, as in their tables. Unlike a mixture of embeddings it
doesn't depend on how the two prompts' tokens line up. It costs one extra denoiser call for the flagged image at every
step.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.types import MitigationContext


@dataclass(frozen=True)
class NoiseMix:
    """The rewritten prompt's share goes from `weight` at the first step to `final_weight` at the last, evenly.

    `final_weight` None keeps it constant. Early steps decide what a picture shows: a share that falls lets details
    through.
    """

    weight: float = 0.9
    final_weight: float | None = None

    name: ClassVar[str] = "noise_mix"
    needs_prompt: ClassVar[bool] = True

    def predicted(self, context: MitigationContext) -> Tensor:
        """(1, ...). Raises MissingSignalError without a rewritten prompt."""
        if context.safe is None:
            raise MissingSignalError("noise_mix needs a rewritten prompt; none was accepted.")
        return torch.lerp(context.noise_cond, context.rerun(context.safe).to(context.noise_cond), self._share(context))

    def _share(self, context: MitigationContext) -> float:
        if self.final_weight is None or context.steps < 2:
            return self.weight
        return self.weight + (self.final_weight - self.weight) * context.step / (context.steps - 1)
