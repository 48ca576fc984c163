"""Which words of a prompt carry its pull: the gradient of the guidance gap, in one backward pass.

Wen, Liu, Chen, Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion Models", ICLR 2024 (arXiv
2407.21720) take the L2 norm of the first-step gap's gradient for each token of the text encoder's output. A causal
encoder gathers the whole prompt in its last and padding tokens there, which belong to no word. Ours goes on through
the text encoders to the embeddings that they look up, so that pooled embeddings and several encoders count too; each
norm is taken times the typical length of its encoder's embeddings, which puts all of them in units of the gap.
"""

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shield.errors import MissingSignalError
from shield.model.conditioning import encoded
from shield.types import MitigationContext, WordWeight

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def word_weights(
    pipe: Any, prompt: str, context: MitigationContext, noise_uncond: Tensor | None = None, structure: bool = True
) -> tuple[WordWeight, ...]:
    """Each word of `prompt` with its share (0..1) of what all words together pull; in the prompt's order.

    `context` is the image's at the current step; `noise_uncond` the empty prompt's prediction, (1, ...), predicted when
    it is None. `structure` leaves out the gap's spatial means (as structure_gap does). Costs one denoiser call and its
    gradient, and memory for one image's backward pass. Raises MissingSignalError when the gradient is no number or a
    tokenizer can't say which characters a token stands for.
    """
    uncond = context.rerun(context.null) if noise_uncond is None else noise_uncond
    with torch.inference_mode(False), torch.enable_grad(), _looked_up(pipe) as leaves:
        conditioning = encoded(pipe, [prompt], context.original.embeds.shape[1], differentiable=True)
        gap = (context.rerun(conditioning).float() - uncond.detach().float()).flatten(2)
        gap = gap - gap.mean(2, keepdim=True) if structure else gap
        names = list(leaves)
        slopes = torch.autograd.grad(gap.norm(), [leaves[name] for name in names], allow_unused=True)
    weights = [0.0] * len(prompt)
    for name, slope in zip(names, slopes, strict=True):
        if slope is not None:
            _spread(weights, _tokenizer(pipe, name), prompt, leaves[name].detach()[0], slope[0])
    return _shares(prompt, weights)


@contextmanager
def _looked_up(pipe: Any) -> Iterator[dict[str, Tensor]]:
    """Within the block, the token embeddings that each text encoder looks up become leaves of the graph: (1, T, D)."""
    leaves: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            encoder = getattr(pipe, name, None)
            if encoder is None:
                continue
            for module in encoder.modules():
                if isinstance(module, nn.Embedding) and module.num_embeddings == encoder.config.vocab_size:
                    stack.callback(module.register_forward_hook(_leaf_maker(leaves, name)).remove)
        yield leaves


def _leaf_maker(leaves: dict[str, Tensor], name: str) -> Any:
    def cut(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        leaves[name] = output.detach().float().requires_grad_(True)
        return leaves[name].to(output.dtype)

    return cut


def _tokenizer(pipe: Any, encoder: str) -> Any:
    return getattr(pipe, encoder.replace("text_encoder", "tokenizer"))


def _spread(weights: list[float], tokenizer: Any, prompt: str, looked_up: Tensor, slope: Tensor) -> None:
    """Adds each token's weight to the characters that it stands for, evenly. `looked_up` and `slope` are (T, D)."""
    if not tokenizer.is_fast:
        raise MissingSignalError(f"{type(tokenizer).__name__} doesn't say where its tokens stand in the prompt.")
    made = tokenizer(prompt, truncation=True, max_length=len(looked_up), return_offsets_mapping=True)
    pulls = (slope.norm(dim=1) * looked_up.norm(dim=1).mean()).tolist()
    if not all(map(math.isfinite, pulls)):
        raise MissingSignalError("The gap's gradient is no number here, so no word can be named.")
    for (start, end), pull in zip(made["offset_mapping"], pulls, strict=False):
        for place in range(start, end):
            weights[place] += pull / (end - start)


def _shares(prompt: str, weights: list[float]) -> tuple[WordWeight, ...]:
    words = list(WORD.finditer(prompt))
    sums = [sum(weights[word.start() : word.end()]) for word in words]
    total = sum(sums)
    return tuple(WordWeight(w.group(), *w.span(), s / total) for w, s in zip(words, sums, strict=True) if total > 0)
