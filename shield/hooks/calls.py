"""One call of a module: its arguments by name, only some of its rows, and hooks around it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shield.model.families import Family

UNBATCHED = frozenset({"txt_ids", "img_ids"})

Before = Callable[[nn.Module, tuple, dict], tuple[tuple, dict] | None]
After = Callable[[nn.Module, tuple, dict, Any], Any]


def named_arguments(family: Family, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments by name; UNets are called with the first one, two or three in this order without names."""
    order = (family.sample, "timestep", family.embeds)
    return {**dict(zip(order, args, strict=False)), **kwargs}


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


def asked_at(named: dict[str, Any], timestep: float | None) -> dict[str, Any]:
    """`named` at another timestep, in the form, dtype and place of the one that was given; None changes nothing."""
    if timestep is None:
        return named
    given = named["timestep"]
    other = torch.full_like(given, timestep) if isinstance(given, Tensor) else type(given)(timestep)
    return {**named, "timestep": other}


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
