"""Guide toward what the prompt says with its spiking tokens damped, and away from what it says with them.

Zhao, Triantafillou, Triantafillou, "You Don't Need All That Attention: Surgical Memorization Mitigation in
Text-to-Image Diffusion Models" (GUARD), ICML 2026 (arXiv 2603.00133): with u the unconditional prediction, the guided
one is u + g (plus - u) - r (minus - u). A memorized prompt's attention spikes at few positions, which a z-score finds;
`plus` is predicted with the attention to them scaled down in the early blocks, `minus` is the memory's own direction.
Theirs forks the pipeline and finds the spikes in a scouting run. Ours takes the request's prediction as `minus`, which
is at hand, finds the spikes with one call at the image's first mitigated step, and adds log(`damping`) to their logits
by a hook, so that the layers go on as they are. One extra denoiser call a step.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.hooks.attention import attention_biased, attention_watched
from shield.types import MitigationContext


@dataclass(frozen=True)
class AttractRepel:
    """Attention to tokens more than `spike` standard deviations above the mean, the strongest in any case, is scaled by
    `damping` before it is normalized; the begin token counts for neither. `repulsion` is r.

    Needs guidance and cross-attention (not SD3, not Flux).
    """

    repulsion: float = 2.0
    damping: float = 0.3
    spike: float = 1.0

    name: ClassVar[str] = "attract_repel"
    needs_prompt: ClassVar[bool] = False

    def predicted(self, context: MitigationContext) -> Tensor:
        """c' with u + g (c' - u) = u + g (plus - u) - r (c - u). Raises MissingSignalError where it can't be had."""
        if context.noise_uncond is None:
            raise MissingSignalError("attract_repel needs classifier-free guidance; this run has none.")
        if "bias" not in context.memory:
            context.memory["layers"] = early_layers(context.denoiser)
            context.memory["bias"] = self._bias(context, context.memory["layers"])
        with attention_biased(context.denoiser, context.memory["layers"], context.memory["bias"]):
            plus = context.rerun(context.original).to(context.noise_cond)
        return plus - (self.repulsion / context.guidance_scale) * (context.noise_cond - context.noise_uncond)

    def _bias(self, context: MitigationContext, layers: list[str]) -> Tensor:
        """(T,) to add to the logits."""
        with attention_watched(context.denoiser, layers) as shares:
            context.rerun(context.original)
        share = torch.stack([shares[layer][0].float() for layer in layers]).mean(0)
        return spikes(share, self.spike).to(share) * math.log(self.damping)


def early_layers(denoiser: Any) -> list[str]:
    """Module paths of the cross-attention layers on the way down. Raises MissingSignalError when there are none."""
    modules = denoiser.named_modules() if denoiser is not None else ()
    found = [path for path, _ in modules if path.startswith("down_blocks.") and path.endswith(".attn2")]
    if not found:
        raise MissingSignalError("attract_repel needs cross-attention layers; this denoiser has none.")
    return found


def spikes(share: Tensor, limit: float) -> Tensor:
    """(T,) bool: tokens behind the first whose share of attention (T,) stands out, the strongest of them always."""
    rest = share[1:]
    standing = (rest - rest.mean()) / rest.std(correction=0).clamp_min(1e-12) > limit
    standing[rest.argmax()] = True
    return torch.cat([standing.new_zeros(1), standing])
