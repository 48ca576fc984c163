"""How much each text token is attended to, in one cross-attention layer, watched from outside.

A hook on the layer takes its inputs and computes the attention probabilities a second time, for this layer only. No
attention processor is exchanged, so fused attention stays on everywhere and the layer's own output is bit-equal.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from shield.errors import MissingSignalError
from shield.signals import ENDING


def token_shares(layer: Any, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
    """(rows, T) float32: the share of attention that each text token gets, over all heads and places; rows sum to 1."""
    return token_maps(layer, hidden_states, encoder_hidden_states).mean(dim=1)


def token_maps(layer: Any, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
    """(rows, P, T) float32: the share of attention that each of P places gives each text token, over all heads."""
    query = layer.head_to_batch_dim(layer.to_q(hidden_states)).float()
    key = layer.head_to_batch_dim(layer.to_k(encoder_hidden_states)).float()
    probabilities = (query @ key.transpose(1, 2) * layer.scale).softmax(dim=-1)
    return probabilities.view(len(hidden_states), -1, *probabilities.shape[1:]).mean(dim=1)


@contextmanager
def attention_watched(denoiser: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, the dictionary holds the latest call's token shares of each layer named by its module path, or
    with ENDING before the path where the places attend to the last token, (rows, P).

    Raises MissingSignalError for a path that names no cross-attention layer of this denoiser, and for a layer within
    something compiled, where torch may leave out hooks.
    """
    latest: dict[str, Tensor] = {}
    paths = list(paths)
    for name in paths:
        _refuse_compiled(denoiser, name.removeprefix(ENDING), "watched")
    modules = dict(denoiser.named_modules()) if paths else {}
    with ExitStack() as stack:
        for name in paths:
            path = name.removeprefix(ENDING)
            layer = modules.get(path)
            if layer is None or not hasattr(layer, "to_k"):
                raise MissingSignalError(f"This denoiser has no cross-attention layer {path!r}.")
            stack.callback(layer.register_forward_hook(_writer(latest, name), with_kwargs=True).remove)
        yield latest


@contextmanager
def attention_biased(denoiser: nn.Module, paths: Iterable[str], bias: Tensor) -> Iterator[None]:
    """Within the block, `bias` (T,) is added to the logits of these layers' attention to each text token.

    Adding log(f) scales a token's attention by f before it is normalized. Raises MissingSignalError for a
    layer within something compiled, where torch may leave out hooks.
    """
    paths = list(paths)
    for path in paths:
        _refuse_compiled(denoiser, path, "changed")

    thread = get_ident()

    def add(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if thread != get_ident():  # another call of the same denoiser
            return None
        hidden_states = args[0] if args else kwargs["hidden_states"]
        mask = bias.to(hidden_states).expand(len(hidden_states), 1, -1)
        given = kwargs.get("attention_mask")
        return args, {**kwargs, "attention_mask": mask if given is None else given + mask}

    with ExitStack() as stack:
        for path in paths:
            layer = denoiser.get_submodule(path)
            stack.callback(layer.register_forward_pre_hook(add, with_kwargs=True).remove)
        yield


def _refuse_compiled(denoiser: nn.Module, path: str, what: str) -> None:
    """Nothing from the denoiser down to the layer may be compiled, be it whole or block by block
    (`compile_repeated_blocks`).
    """
    modules: list[Any]
    parts, modules = path.split("."), [denoiser]  # a path that leads nowhere is another error
    for part in parts:
        modules.append(getattr(modules[-1], part, None))
    for depth, module in enumerate(modules):
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            place = ".".join(parts[:depth]) or "it"
            raise MissingSignalError(
                f"Attention of {path} can't be {what} in a compiled denoiser; don't compile {place}."
            )


def _writer(latest: dict[str, Tensor], name: str) -> Any:
    thread = get_ident()

    def write(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if thread != get_ident():  # another call of the same denoiser
            return
        hidden_states = args[0] if args else kwargs["hidden_states"]
        text = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
        if text is None:
            raise MissingSignalError(f"{name.removeprefix(ENDING)} attends to the picture itself, not to the text.")
        with torch.no_grad():
            maps = token_maps(layer, hidden_states, text)
        latest[name] = maps[..., -1] if name.startswith(ENDING) else maps.mean(dim=1)

    return write
