"""Calls that share a part of a pipeline wait for each other, whichever Shields and pipelines they go through.

One denoiser may serve several pipelines, Shields and threads (diffusers' own recipe), and so may a scheduler, an
autoencoder and a tokenizer. A watched call holds hooks on them and wraps their methods, so it has them for itself; a
call in the same thread, as from a callback, goes through. Nothing is kept on the parts themselves: copying, saving and
moving a model know nothing of it. A bare pipeline doesn't wait, and its steps aren't taken for a watched call's
(shield/hooks/intercept.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, get_ident
from typing import Any

from torch import nn

from shield.errors import TraceError

_CHANGED = Condition()
_OWNERS: dict[int, tuple[int, int]] = {}  # id of a part -> the thread that has it, and how often
_WAITING: dict[int, frozenset[int]] = {}  # thread -> what it waits for

_UNSHARED = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")


@contextmanager
def alone(pipe: Any) -> Iterator[None]:
    """Within the block no other thread is in such a block for a pipeline that shares a part with this one.

    Raises TraceError instead of waiting for a call that waits for this one.
    """
    parts = _parts(pipe)  # kept until the end, so that no id is given to another object
    thread, keys = get_ident(), frozenset(map(id, parts))
    with _CHANGED:
        _wait(thread, keys)
        for key in keys:
            _OWNERS[key] = (thread, _OWNERS.get(key, (thread, 0))[1] + 1)
    try:
        yield
    finally:
        with _CHANGED:
            for key in keys:
                times = _OWNERS[key][1] - 1
                if times:
                    _OWNERS[key] = (thread, times)
                else:
                    del _OWNERS[key]
            _CHANGED.notify_all()


def _parts(pipe: Any) -> list[Any]:
    """What calls of this pipeline have in common with calls of another one."""
    parts = [pipe, *(part for part in vars(pipe).values() if isinstance(part, nn.Module))]
    parts += [part for name in _UNSHARED if (part := getattr(pipe, name, None)) is not None]
    return [getattr(part, "_orig_mod", part) for part in parts]  # a compiled module is the one that it was made from


def _wait(thread: int, keys: frozenset[int]) -> None:
    try:
        while _others(thread, keys):
            if _leads_back(thread, keys):
                raise TraceError(
                    "Two calls within callbacks wait for each other's model; call one pipeline from the other alone."
                )
            _WAITING[thread] = keys
            _CHANGED.wait()
    finally:
        _WAITING.pop(thread, None)


def _others(thread: int, keys: frozenset[int]) -> set[int]:
    """The other threads that have any of these parts."""
    return {_OWNERS[key][0] for key in keys if key in _OWNERS} - {thread}


def _leads_back(thread: int, keys: frozenset[int]) -> bool:
    """Whether somebody that this thread would wait for waits for it, himself or through others."""
    seen: set[int] = set()
    ahead = _others(thread, keys)
    while ahead:
        other = ahead.pop()
        seen.add(other)
        wanted = _WAITING.get(other, frozenset())
        if any(_OWNERS.get(key, (None,))[0] == thread for key in wanted):
            return True
        ahead |= _others(other, wanted) - seen
    return False
