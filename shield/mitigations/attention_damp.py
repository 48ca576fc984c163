"""Take the text's padding out of the picture's attention, and give its share to the begin token.

Behind the words a CLIP prompt is filled up with tokens that have read all of it, and a memorized picture hangs on
them. Ren, Li, Zeng, Xie, Lyu, Xing, Tang, "Unveiling and Mitigating Memorization in Text-to-image Diffusion Models
through Cross Attention", ECCV 2024 (arXiv 2403.11052) mask the padding and multiply the begin token's logit by 1.25.
Theirs forks the UNet, masks the unconditional half too, and lowers the begin token's attention where its logit is
negative. Ours needs no other attention: attention over n further copies of the begin token *is* attention without the
n padding tokens and with log(1 + n) added to the begin token's logit, in every layer and every step. `fill` "null"
takes the empty prompt's padding, which has read nothing, in the manner of the pad-token swap of arXiv 2605.02908
(CVPR 2026; they swap the token before it is encoded). One extra denoiser call, once.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from shield.errors import MissingSignalError
from shield.model.conditioning import Conditioning
from shield.types import MitigationContext


@dataclass(frozen=True)
class AttentionDamp:
    """Replaces every token after the end token, and with `end` the end token too, which has read the prompt as well.

    Changes the conditional half only; pooled embeddings (SDXL) stay. For pipelines with CLIP's text alone. `rewritten`:
    it works on the prompts that rewriters propose, for those that pull even so, instead of the request.
    """

    fill: Literal["begin", "null"] = "begin"
    end: bool = True
    rewritten: bool = False

    name: ClassVar[str] = "attention_damp"

    @property
    def needs_prompt(self) -> bool:
        return self.rewritten

    def conditioned(self, context: MitigationContext) -> Conditioning:
        """One row. Raises MissingSignalError where the prompt's length isn't known or it leaves no padding."""
        if context.length is None:
            raise MissingSignalError("attention_damp needs to know where the prompt ends; its length isn't known here.")
        base = context.original if context.safe is None else context.safe
        embeds = base.embeds
        first = context.length - (1 if self.end else 0)
        if first >= embeds.shape[1]:
            raise MissingSignalError(f"attention_damp needs padding; the prompt fills all {embeds.shape[1]} tokens.")
        padding = (
            embeds[:, :1].expand_as(embeds)
            if self.fill == "begin"
            else context.null.fitted(embeds.shape[1]).embeds.to(embeds)
        )
        return replace(base, embeds=torch.cat([embeds[:, :first], padding[:, first:]], dim=1))
