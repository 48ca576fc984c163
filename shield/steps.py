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


class StepCount:
    """How many denoiser calls the current step had so far. One instance serves one pipeline call."""

    def __init__(self, scheduler: Any, calls_per_step: int) -> None:
        self.scheduler, self.calls_per_step = scheduler, calls_per_step
        self.calls = self.steps = 0
        self._timesteps: Tensor | None = None

    def ended(self) -> None:
        """The scheduler took its step."""
        self.calls = 0

    def called(self) -> None:
        """The denoiser was called. Raises TraceError when that can't be the same pipeline call any more."""
        timesteps = self.scheduler.timesteps
        if self._timesteps is None:
            self._timesteps = timesteps
        self.steps += self.calls == 0
        if timesteps is not self._timesteps or self.steps > len(timesteps):
            raise TraceError("A second pipeline call began within one block; use one block for one pipeline call.")
        if self.calls == self.calls_per_step:
            raise TraceError(
                f"The denoiser was called {self.calls + 1} times without a step of the scheduler, and this pipeline "
                f"calls it at most {self.calls_per_step} times a step: was the scheduler exchanged under way?"
            )
        self.calls += 1


@contextmanager
def steps_observed(scheduler: Any, on_step: Callable[[], None]) -> Iterator[None]:
    """Within the block, `on_step` is called after every `scheduler.step`."""
    step, held = scheduler.step, vars(scheduler).get("step")

    @wraps(step)  # pipelines read its signature to know what it takes
    def observed(*args: Any, **kwargs: Any) -> Any:
        output = step(*args, **kwargs)
        on_step()
        return output

    scheduler.step = observed
    try:
        yield
    finally:
        if held is not None:
            scheduler.step = held
        else:
            vars(scheduler).pop("step", None)
