"""The modules below a module, listed often: at every call, what keeps features or adds to attention is looked for."""

from collections.abc import Iterator

from torch import nn


def modules_in(*roots: nn.Module | None) -> Iterator[nn.Module]:
    """Each module of these once, as `nn.Module.modules` yields them. That one goes through a generator for each level,
    which takes five times as long.
    """
    seen: set[int] = set()
    ahead = [root for root in reversed(roots) if root is not None]
    while ahead:
        module = ahead.pop()
        if id(module) not in seen:
            seen.add(id(module))
            yield module
            ahead.extend(part for part in reversed(module._modules.values()) if part is not None)
