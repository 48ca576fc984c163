"""Denoisers that keep features from one step for the next: caches of diffusers, and forwards that were replaced.

What the shield asks beside the pipeline's own calls must neither be answered from such a memory nor leave anything in
it. So reruns go around it: the hooks of diffusers' caches (first block, MagCache, TaylorSeer, pyramid attention
broadcast, FasterCache) are taken out of the chain, and modules whose forward was replaced on the instance (as DeepCache
does) run their class's own. A cache that was filled by a prompt that was exchanged at the first step is filled anew;
what was exchanged later, or where nobody can look into the memory, is predicted apart at every step
(shield/runtime/steering.py).
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from shield.model.walk import modules_in

OWN = frozenset({"accelerate", "diffusers", "peft", "torch", "transformers"})  # whose wrappers keep no features
FORWARDS = ("forward", "_old_forward")  # the second is what accelerate's hooks call


class FeatureCaches:
    """What one denoiser, with its companion, keeps between steps. Falsy when that is nothing."""

    def __init__(self, *parts: nn.Module | None) -> None:
        self._hooks: list[tuple[nn.Module, Any]] = []
        self._replaced: list[tuple[nn.Module, str]] = []
        for module in modules_in(*parts):
            held = vars(module)
            if registry := held.get("_diffusers_hook"):
                self._hooks += [(module, hook) for hook in registry.hooks.values() if _is_cache(hook)]
            for name in FORWARDS:
                if name in held and _is_foreign(held[name]):
                    self._replaced.append((module, name))

    def __bool__(self) -> bool:
        return bool(self._hooks or self._replaced)

    @property
    def kinds(self) -> list[str]:
        """What keeps features, in words."""
        return sorted({type(h).__name__ for _, h in self._hooks} | {f"{n} replaced" for _, n in self._replaced})

    @property
    def can_be_emptied(self) -> bool:
        """Whether all of it is known: caches of diffusers alone."""
        return bool(self._hooks) and not self._replaced

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Within the block the denoiser computes everything, and what it keeps stays as it is."""
        with ExitStack() as stack:
            for _, hook in self._hooks:
                for name, plain in _plain(hook.fn_ref).items():
                    stack.callback(setattr, hook.fn_ref, name, getattr(hook.fn_ref, name))
                    setattr(hook.fn_ref, name, plain)
            for module, name in self._replaced:
                stack.callback(setattr, module, name, vars(module)[name])
                setattr(module, name, _own_forward(module, name))
            yield

    def empty(self) -> None:
        """As at the start of a call; the context of the running one stays."""
        contexts = self.contexts()
        for module, hook in self._hooks:
            if hook._is_stateful:
                hook.reset_state(module)
        _set(contexts)

    def contexts(self) -> list[tuple[Any, str, Any]]:
        """In which of a pipeline's calls (cond or uncond) the caches are: (manager, attribute, value)."""
        return [
            (manager, name, vars(manager)[name])
            for _, hook in self._hooks
            for manager in _managers(hook)
            for name in ("_context", "_current_context")
            if name in vars(manager)
        ]

    def fill(self, calls: Iterable[tuple[Callable[[], Any], list]]) -> None:
        """Empties the caches and makes these calls, each in its context, so that they hold what those leave there."""
        contexts = self.contexts()
        self.empty()
        for call, context in calls:
            _set(context)
            call()
        _set(contexts)


def _managers(hook: Any) -> list[Any]:
    return [value for value in vars(hook).values() if hasattr(value, "get_state") and hasattr(value, "set_context")]


def _is_cache(hook: Any) -> bool:
    return bool(getattr(hook, "_is_stateful", False) or _managers(hook))


def _is_foreign(forward: Any) -> bool:
    while isinstance(forward, functools.partial):
        forward = forward.func
    return (getattr(forward, "__module__", None) or "").split(".")[0] not in OWN


def _plain(reference: Any) -> dict[str, Callable[..., Any]]:
    """What takes the place of a cache's own functions in the chain around a forward."""
    forward = reference.original_forward or reference.forward
    before: Callable[..., Any] = lambda module, *args, **kwargs: (args, kwargs)  # noqa: E731
    return {"forward": forward, "pre_forward": before, "post_forward": lambda module, output: output}


def _own_forward(module: nn.Module, name: str) -> Callable[..., Any]:
    """The class's forward, with accelerate's moves between devices where they are."""
    own = functools.partial(type(module).forward, module)
    hook = vars(module).get("_hf_hook")
    if hook is None or name != "forward":
        return own

    def moved(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook.pre_forward(module, *args, **kwargs)
        return hook.post_forward(module, own(*args, **kwargs))

    return moved


def _set(contexts: list[tuple[Any, str, Any]]) -> None:
    for manager, name, value in contexts:
        setattr(manager, name, value)
