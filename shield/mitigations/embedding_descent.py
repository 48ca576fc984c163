"""Change the prompt's embeddings a little, until they no longer pull to the memorized picture.

Wen, Liu, Chen, Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion Models", ICLR 2024 (arXiv
2407.21720): AdamW on the conditional embeddings at the first step, at most ten iterations, begin token fixed, until
the gap is small. Theirs compares the norm over the whole batch with one target for all prompts; ours lowers each
image's own gap to a share of what it was, keeps the unconditional half out of the graph, and is used only if the
detectors then pass it.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.model.conditioning import Conditioning
from shield.types import MitigationContext


@dataclass(frozen=True)
class EmbeddingDescent:
    """Stops when the gap is `share` of its first size or after `iterations`; each is one denoiser call and its
    gradient.

    Token embeddings only; pooled ones stay. Needs memory for one image's backward pass.
    """

    share: float = 0.4
    iterations: int = 10
    learning_rate: float = 0.05

    name: ClassVar[str] = "embedding_descent"
    needs_prompt: ClassVar[bool] = False

    def conditioned(self, context: MitigationContext) -> Conditioning:
        """One row. Raises MissingSignalError when guidance is off."""
        if context.noise_uncond is None:
            raise MissingSignalError("embedding_descent needs classifier-free guidance; this run has none.")
        dtype, uncond = context.original.embeds.dtype, context.noise_uncond.detach().float()
        first = _size(context.noise_cond.detach().float() - uncond)
        with torch.inference_mode(False), torch.enable_grad():
            embeds = context.original.embeds.detach().clone().float().requires_grad_(True)
            optimizer = torch.optim.AdamW([embeds], lr=self.learning_rate)
            for _ in range(self.iterations):
                used = replace(context.original, embeds=embeds.to(dtype))
                size = _size(context.rerun(used).float() - uncond)
                if size <= self.share * first:
                    break
                (embeds.grad,) = torch.autograd.grad(size, [embeds])
                embeds.grad[:, 0] = 0.0
                optimizer.step()
        return replace(context.original, embeds=_begin_kept(embeds.detach(), context.original.embeds).to(dtype))


def _size(gap: Tensor) -> Tensor:
    return gap.pow(2).mean().sqrt()


def _begin_kept(embeds: Tensor, original: Tensor) -> Tensor:
    """Weight decay moves the begin token even without a gradient; it is put back."""
    return torch.cat([original[:, :1].to(embeds), embeds[:, 1:]], dim=1)
