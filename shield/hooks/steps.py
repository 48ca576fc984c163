"""Which step of its call a denoiser is in, told by the scheduler: a call of `scheduler.step` ends a step.

Timesteps don't tell. bfloat16 rounds those of neighboring steps to one, and the second evaluations of KDPM2 and Heun
repeat them or let them rise. The scheduler is asked to step exactly once for each step, in every pipeline, and it is
set anew (another tensor of timesteps) for every call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor

from shield.errors import TraceError

AfterCall = Callable[[tuple, dict, Any], None]


class StepCount:
    """How many denoiser calls the current step had so far. One instance serves one pipeline call."""

    def __init__(self, scheduler: Any, calls_per_step: int) -> None:
        self.scheduler, self.calls_per_step = scheduler, calls_per_step
        self.calls = self.steps = 0
        self._timesteps: Tensor | None = None

    def ended(self) -> None:
        """The scheduler took its step."""
        self.calls = 0

    def disturbed(self) -> None:
        """Somebody else's call, as from a callback, ran the scheduler in between, and may have set it anew."""
        self._timesteps = None

    @property
    def is_full(self) -> bool:
        """Whether the current step had all its denoiser calls."""
        return self.calls == self.calls_per_step

    def called(self) -> None:
        """The denoiser was called. Raises TraceError when that can't be the same pipeline call any more."""
        timesteps = self.scheduler.timesteps
        if self._timesteps is None:
            self._timesteps = timesteps
        self.steps += self.calls == 0
        if timesteps is not self._timesteps or self.steps > len(timesteps):
            raise TraceError("A second pipeline call began within one block; use one block for one pipeline call.")
        if self.is_full:
            raise TraceError(
                f"The denoiser was called {self.calls + 1} times without a step of the scheduler, and this pipeline "
                f"calls it at most {self.calls_per_step} times a step: was the scheduler exchanged under way?"
            )
        self.calls += 1


@contextmanager
def observed(
    owner: Any, name: str, after: AfterCall, before: Callable[[tuple, dict], None] | None = None
) -> Iterator[None]:
    """Within the block, `before(args, kwargs)` and `after(args, kwargs, output)` are told of every call of the method
    `owner.name`.
    """
    method = getattr(owner, name)

    @wraps(method)  # pipelines read its signature to know what it takes
    def call(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(args, kwargs)
        output = method(*args, **kwargs)
        after(args, kwargs, output)
        return output

    with replaced(owner, name, call):
        yield


@contextmanager
def replaced(owner: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Within the block `owner.name` is `method`; afterwards what the instance held, or its class's own."""
    held = vars(owner).get(name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        if held is not None:
            setattr(owner, name, held)
        else:
            vars(owner).pop(name, None)


def steps_of(pipe: Any) -> int:
    """How many steps the running call has, or the last one had."""
    return getattr(pipe, "num_timesteps", 0) or len(pipe.scheduler.timesteps)


def step_at(share: float, steps: int) -> int:
    """The step, counted from 0, at this share (0..1) of a schedule: 0 is the first step, 1 the last."""
    return min(int(share * steps), steps - 1)
