"""Which layers of a denoiser memories are looked for in, and which of their inputs are a feed-forward's neurons.

A feed-forward ends in an output projection W (d, d_ff). Its neurons are the d_ff inputs of W, whatever makes them: an
activated projection, or the product of a projection and an activated gate (GEGLU, SwiGLU, Sana's gated convolutions).
Column j of W is all that neuron j does, and belongs to no other, also where the projections before W are fused or
convolve: a neuron is pruned by its column.

A feed-forward of text tokens alone (SD3's, Flux's and AuraFlow's `ff_context`, Qwen-Image's `txt_mlp`, Z-Image's
`context_refiner`) isn't among them, since the UNets of the published experiments have none; nor is one of picture
tokens before they meet the text (Z-Image's `noise_refiner`), whose first step is the same for every prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from probes.errors import UnsupportedError
from probes.types import natural_order

FUSED = r"single_transformer_blocks\.\d+\.(proj_out|attn\.to_out)"  # Flux, Chroma; Flux.2
"""Output projections that attention and feed-forward share: attention's columns, then `mlp_hidden_dim` neurons."""
FEED_FORWARDS = (
    r"\.(ff|img_mlp)\.net\.2",  # diffusers' FeedForward: UNets, SD3, Flux, Chroma, PixArt; Qwen-Image
    r"\.ff\.out_projection",  # AuraFlow
    r"\.ff\.linear_out",  # Flux.2
    r"layers\.\d+\.feed_forward\.w2",  # Z-Image
    r"\.ff\.conv_point",  # Sana
    FUSED,
)
FFN_OUTPUTS = f"({'|'.join(FEED_FORWARDS)})$"
VALUES = r"^(down_blocks|mid_block)\..*attn2\.to_v$"  # of cross-attention on the way down


@dataclass(frozen=True)
class Layer:
    """A linear layer, or a convolution of single pixels, and how many of its inputs, the last ones, are looked at."""

    module: torch.nn.Linear | torch.nn.Conv2d
    width: int

    @property
    def weight(self) -> torch.Tensor:
        """In the shape that the module has it in."""
        return self.module.weight.detach()

    def inputs(self, given: torch.Tensor) -> torch.Tensor:
        """What the module is given, as (B, ..., width)."""
        return self._last(given)[..., -self.width :]

    def outputs(self, answer: torch.Tensor) -> torch.Tensor:
        """What the module answers, as (B, ..., d)."""
        return self._last(answer)

    def _last(self, values: torch.Tensor) -> torch.Tensor:
        return values.movedim(1, -1) if isinstance(self.module, torch.nn.Conv2d) else values


def matching_layers(denoiser: torch.nn.Module, pattern: str) -> dict[str, Layer]:
    """Layers whose path matches, in natural order. UnsupportedError if none does."""
    found = {path for path, module in denoiser.named_modules() if _is_linear(module) and re.search(pattern, path)}
    if not found:
        raise UnsupportedError(f"{type(denoiser).__name__} has no linear layer whose path matches {pattern!r}.")
    return {path: layer_at(denoiser, path) for path in sorted(found, key=natural_order)}


def matching_weights(denoiser: torch.nn.Module, pattern: str) -> dict[str, torch.Tensor]:
    """Weights of the layers whose path matches, each in its module's shape; see matching_layers."""
    return {path: layer.weight for path, layer in matching_layers(denoiser, pattern).items()}


def layer_at(denoiser: torch.nn.Module, path: str) -> Layer:
    """The layer of this path: the neurons of a fused output projection, all inputs of any other."""
    module: Any = denoiser.get_submodule(path)
    owner: Any = denoiser.get_submodule(path.rpartition(".")[0])
    return Layer(module, owner.mlp_hidden_dim if re.search(f"{FUSED}$", path) else module.weight[0].numel())


def columns(weight: torch.Tensor, width: int) -> torch.Tensor:
    """The last ``width`` columns (d, width) of a layer's weight."""
    return weight.flatten(1)[:, -width:]


def in_whole(chosen: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A selection (d, width) of a weight's last columns as one of the whole weight, in its shape."""
    whole = torch.zeros(weight.shape, dtype=torch.bool)
    columns(whole, chosen.shape[1])[:] = chosen
    return whole


def _is_linear(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, torch.nn.Linear)
