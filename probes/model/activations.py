"""What some layers of a denoiser are given and answer, while a block runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch

from shield.hooks.calls import hooked

Seen = TypeVar("Seen")


@contextmanager
def watched(
    denoiser: torch.nn.Module, paths: Sequence[str], see: Callable[[str, torch.Tensor, torch.Tensor], Seen]
) -> Iterator[dict[str, Seen]]:
    """Inside the block, what ``see(path, input, output)`` made of each layer's latest call."""
    seen: dict[str, Seen] = {}

    def keeping(path: str) -> Callable[..., None]:
        def keep(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            seen[path] = see(path, args[0], output)

        return keep

    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(hooked(denoiser.get_submodule(path), after=keeping(path)))
        yield seen
