"""Push away from the prompt until the trajectory has left the memorized picture's basin, then guide as usual.

Jain, Kobayashi, Shibuya, Takida, Memon, Togelius, Mitsufuji, "Classifier-Free Guidance inside the Attraction Basin
May Cause Memorization", CVPR 2025 (arXiv 2411.16738). While a trajectory is in the basin its guidance gap is large;
the transition point is the gap's first local minimum. Theirs runs a separate trajectory to find it when guidance is
negative, uses the norm over the whole batch, and never switches on when no minimum comes. Ours watches each image's
own gap on the fly and switches on at `latest` at the latest.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shield.errors import MissingSignalError
from shield.types import MitigationContext


@dataclass(frozen=True)
class OppositeGuidance:
    """`scale` replaces the guidance scale before the transition: negative pushes away, 0 ignores the prompt.

    `latest` is the share of steps after which guidance is usual again even without a minimum; 1 never gives in. Costs
    no call.
    """

    scale: float = -1.0
    latest: float = 1.0

    name: ClassVar[str] = "opposite_guidance"
    needs_prompt: ClassVar[bool] = False

    def predicted(self, context: MitigationContext) -> Tensor:
        """(1, ...): c' with u + g (c' - u) = u + scale (c - u). Raises MissingSignalError when guidance is off."""
        if context.noise_uncond is None:
            raise MissingSignalError("opposite_guidance needs classifier-free guidance; this run has none.")
        gap = context.noise_cond - context.noise_uncond
        if self._transition(context, float(gap.float().pow(2).mean().sqrt())):
            return context.noise_cond
        return context.noise_uncond + (self.scale / context.guidance_scale) * gap

    def _transition(self, context: MitigationContext, size: float) -> bool:
        """Whether the gap's first local minimum lies behind us. Known one step after it: d[-2] < d[-3] and d[-2] <
        d[-1].
        """
        sizes = context.memory.setdefault("sizes", [])
        sizes.append(size)
        if len(sizes) > 2 and sizes[-3] > sizes[-2] < sizes[-1]:
            context.memory["transition"] = True
        return context.memory.get("transition", False) or context.step >= self.latest * context.steps
