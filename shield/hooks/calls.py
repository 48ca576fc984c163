"""One call of a module: its arguments by name, only some of its rows, and hooks around it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shield.errors import TraceError
from shield.model.families import TEXT_MASK, Family

UNBATCHED = frozenset({"txt_ids", "img_ids"})

Before = Callable[[nn.Module, tuple, dict], tuple[tuple, dict] | None]
After = Callable[[nn.Module, tuple, dict, Any], Any]


def named_arguments(family: Family, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments by name, as tensors; some are called with the first one, two or three in this order without names."""
    order = (family.sample, family.time, family.embeds)
    named = {**dict(zip(order, args, strict=False)), **kwargs}
    return _with_tensors(family, named) if family.listed else named


def call_arguments(family: Family, named: dict[str, Any]) -> dict[str, Any]:
    """What the denoiser takes for arguments as `named_arguments` returns them."""
    return _with_lists(family, named) if family.listed else named


def prediction_of(family: Family, output: Any, channels: int) -> Tensor:
    """The scheduler's prediction in a denoiser's output, for latents of this many channels.

    Of a learned variance behind the prediction, as many channels again, nothing is read.
    """
    found = output[0] if isinstance(output, tuple) else output.sample
    if family.listed:
        found = torch.stack(list(found)).squeeze(2)
    if not isinstance(found, Tensor):
        raise TraceError(f"The denoiser returned {type(found).__name__}; a tensor is needed.")
    found = found[:, :channels] if _has_variance(family, found, channels) else found
    return found if family.sign == 1.0 else family.sign * found


def with_prediction(family: Family, output: Any, prediction: Tensor) -> Any:
    """The denoiser's output with another prediction in; a learned variance stays."""
    given = output[0] if isinstance(output, tuple) else output.sample
    signed = prediction if family.sign == 1.0 else family.sign * prediction
    if family.listed:
        rows = list(signed.to(given[0]).unsqueeze(2).unbind(0))
        return (rows, *output[1:]) if isinstance(output, tuple) else type(output)(sample=rows)
    if _has_variance(family, given, channels := signed.shape[1]):
        changed = torch.cat([signed.to(given), given[:, channels:]], dim=1)
    else:
        changed = signed.to(given)
    return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)


def _has_variance(family: Family, output: Tensor, channels: int) -> bool:
    return not family.packed and output.shape[1] == 2 * channels


def _with_tensors(family: Family, named: dict[str, Any]) -> dict[str, Any]:
    """Latents as (B, C, H, W), texts padded to the longest with a mask."""
    texts, latents = named[family.embeds], named[family.sample]
    mask = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.bool, device=texts[0].device)
    for row, text in enumerate(texts):
        mask[row, : len(text)] = True
    padded = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    return {**named, family.sample: torch.stack(list(latents)).squeeze(2), family.embeds: padded, TEXT_MASK: mask}


def _with_lists(family: Family, named: dict[str, Any]) -> dict[str, Any]:
    texts = [row[mask] for row, mask in zip(named[family.embeds], named[TEXT_MASK], strict=True)]
    changed = {**named, family.sample: list(named[family.sample].unsqueeze(2).unbind(0)), family.embeds: texts}
    changed.pop(TEXT_MASK)
    return changed


def picked_rows(value: Any, rows: Sequence[int], total: int, name: str = "") -> Any:
    """`value` with only these rows wherever it is batched by `total` rows: tensors, and containers of tensors."""
    if isinstance(value, Tensor):
        if name in UNBATCHED or value.ndim == 0 or value.shape[0] != total:
            return value
        return value[list(rows)]
    if isinstance(value, dict):
        return {key: picked_rows(item, rows, total, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(picked_rows(item, rows, total) for item in value)
    return value


def asked_at(named: dict[str, Any], family: Family, timestep: float | None) -> dict[str, Any]:
    """`named` at another timestep, in the form, dtype and place of the one that was given; None changes nothing."""
    if timestep is None:
        return named
    given = named[family.time]
    other = torch.full_like(given, timestep) if isinstance(given, Tensor) else type(given)(timestep)
    return {**named, family.time: other}


def asked_about(named: dict[str, Any], family: Family, latents: Tensor | None) -> dict[str, Any]:
    """`named` with other latents; channels beyond theirs (an inpainting model's mask) stay. None changes nothing."""
    if latents is None:
        return named
    given = named[family.sample]
    beyond = [] if family.packed else [given[:, latents.shape[1] :]]
    return {**named, family.sample: torch.cat([latents.to(given), *beyond], dim=1)}


@contextmanager
def hooked(module: nn.Module, before: Before | None = None, after: After | None = None) -> Iterator[None]:
    """Within the block, `before` may replace the arguments of every call of `module` and `after` its output.

    A module that was compiled in place (`module.compile()`) runs torch's own hooks as part of the compiled call, which
    would be compiled anew; these stay around it.
    """
    compiled = module._compiled_call_impl
    with ExitStack() as stack:
        if compiled is not None:
            stack.callback(setattr, module, "_compiled_call_impl", compiled)
            module._compiled_call_impl = _around(module, compiled, before, after)
        else:
            if before is not None:
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            if after is not None:
                stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        yield


def _around(module: nn.Module, compiled: Callable, before: Before | None, after: After | None) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = (None if before is None else before(module, args, kwargs)) or (args, kwargs)
        output = compiled(*args, **kwargs)
        edited = None if after is None else after(module, args, kwargs, output)
        return output if edited is None else edited

    return call
