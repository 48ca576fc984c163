"""How widely the picture attends to the prompt's tokens in one early cross-attention layer.

For an ordinary prompt attention rests on the begin token; a memorized one spreads it over its trigger tokens. Ren,
Li, Zeng, Xie, Lyu, Xing, Tang, "Unveiling and Mitigating Memorization in Text-to-image Diffusion Models through Cross
Attention", ECCV 2024 (arXiv 2403.11052), metric E: entropy of the fourth cross-attention layer at the first step.
Theirs forks the UNet and takes odd rows for the conditional ones, which holds for one picture only. An independent
test found it far weaker than the noise gap (Jeon et al., ICML 2025: AUROC .846): it's here as a second opinion that
costs nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.types import Trace


@dataclass(frozen=True)
class AttentionEntropy:
    """Entropy in nats of the attention shares of the text tokens, mean over the first `first_k` steps, per image.

    0 when all attention rests on one token, log T when it is even. `layer` is the module path in a UNet with SD 1.x's
    names; families without cross-attention (SD3, Flux) have no such layer.
    """

    first_k: int = 1
    layer: str = "down_blocks.1.attentions.1.transformer_blocks.0.attn2"

    name: ClassVar[str] = "attention_entropy"

    @property
    def needs(self) -> frozenset[str]:
        """The layer's attention alone."""
        return frozenset({f"attention:{self.layer}"})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when the layer wasn't recorded."""
        shares = [step.attended(self.layer) for step in trace.first(self.first_k)]
        return torch.stack([-torch.xlogy(share, share).sum(1) for share in shares]).mean(0)
