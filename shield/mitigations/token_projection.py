"""Take out of the prompt's embeddings what lies in the subspace of a protected concept, where there is much of it.

Yoon, Yu, Patil, Yao, Bansal, "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image And Video Generation",
ICLR 2025 (arXiv 2410.12761): with E the embeddings of the concept's texts as columns, P = E (E'E)^-1 E' projects on
their subspace, and prompt tokens that reach further into it than the others (more than 1 + alpha times the mean of the
others) lose that part. Theirs finds these tokens by leaving each out of the prompt and encoding the rest. Ours looks at
the token's own embedding, which costs no encoding, and measures from the empty prompt's embeddings, because those of
all texts have most in common. It needs no unconditional prediction.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.model.conditioning import Conditioning
from shield.types import MitigationContext


@dataclass(frozen=True)
class TokenProjection:
    """`alpha`: by how much a token must reach further into the concept's subspace than the others do on average.

    Needs a protected concept in the prompt. One denoiser call, once; a pooled embedding loses its part as well.
    """

    alpha: float = 0.01

    name: ClassVar[str] = "token_projection"
    needs_prompt: ClassVar[bool] = False

    def conditioned(self, case: MitigationContext) -> Conditioning:
        """One row. Raises MissingSignalError without a protected concept in the prompt."""
        if not case.mentions or case.encode is None:
            raise MissingSignalError("token_projection needs a protected concept in the prompt; none was found.")
        texts = case.encode(list(dict.fromkeys(text for m in case.mentions for text in (m.concept, m.text))))
        original, center = case.original.embeds[0].float(), _mean(case.null)
        tokens, directions = original - center, _mean(texts) - center
        inside = tokens @ projection(directions)
        reach = torch.linalg.vector_norm(inside, dim=-1)
        chosen = reach > (1.0 + self.alpha) * _mean_of_others(reach)
        chosen[0] = False  # the begin token is the same in every prompt
        embeds = torch.where(chosen[:, None], original - inside, original)
        return replace(case.original, embeds=embeds[None].to(case.original.embeds), pooled=self._pooled(case, texts))

    def _pooled(self, case: MitigationContext, texts: Conditioning) -> Tensor | None:
        pooled, null = case.original.pooled, case.null.pooled
        if pooled is None or null is None or texts.pooled is None:
            return pooled
        away = (pooled - null).float()
        return (pooled.float() - away @ projection((texts.pooled - null).float())).to(pooled)


def projection(directions: Tensor) -> Tensor:
    """(D, D): the projection on what the rows (K, D) span, also where they depend on each other."""
    return torch.linalg.pinv(directions, rtol=1e-4) @ directions


def _mean(conditioning: Conditioning) -> Tensor:
    """(B, D): each text's mean embedding behind the first token."""
    embeds = conditioning.embeds[:, 1:].float()
    if conditioning.mask is None:
        return embeds.mean(dim=1)
    weights = conditioning.mask[:, 1:, None].to(embeds)
    return (embeds * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


def _mean_of_others(values: Tensor) -> Tensor:
    return (values.sum() - values) / max(len(values) - 1, 1)
