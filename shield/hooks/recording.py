"""From what a hook sees of a call's steps to the trace that detectors read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.hooks.extra_predictions import late, redrawn, shifted
from shield.hooks.forward import Forward
from shield.hooks.intercept import intercepted
from shield.hooks.steps import step_at, steps_of
from shield.model.conditioning import null_conditioning
from shield.model.families import Family, family_of
from shield.model.prediction import refuse_unreadable
from shield.signals import ENDING, TENSORS, Signals
from shield.types import Step, Trace

PredictUncond = Callable[[Forward], Tensor]
ALL = frozenset(TENSORS)


def record(forward: Forward, signals: Signals, channels_last: bool) -> Step:
    """The signals as a Step: float32, on the CPU, channels first. What is asked for costs extra denoiser calls."""
    shares = {layer: _share(forward, layer).float().cpu() for layer in signals.layers}
    step = replace(_step(forward, signals.tensors, channels_last), attention=shares)
    if forward.index or forward.pipe is None:
        return step

    def answered(changes: dict[str, Any] | None) -> Step | None:
        return None if changes is None else _step(replace(forward, **changes), ALL, channels_last)

    return replace(
        step,
        late=answered(late(forward.pipe, forward)) if signals.late else None,
        shifted=answered(shifted(forward.pipe, forward)) if signals.shifted else None,
        redrawn=tuple(one for changes in redrawn(forward, signals.redrawn) if (one := answered(changes))),
    )


def _step(forward: Forward, tensors: frozenset[str], channels_last: bool) -> Step:
    """The step without its attention and without what else it could be asked about."""
    levels = (forward.index, forward.timestep, forward.signal, forward.noise, forward.prediction)
    held = (getattr(forward, name) if name in tensors else None for name in TENSORS)
    latents, cond, uncond = (None if tensor is None else archived(tensor, channels_last) for tensor in held)
    return Step(*levels, latents, cond, uncond)


def archived(tensor: Tensor, channels_last: bool) -> Tensor:
    """A prediction or latents as traces hold them: a float32 copy on the CPU, (B, C, ...). A copy, since pipelines and
    schedulers may write in place.
    """
    copied = tensor.detach().to(device="cpu", dtype=torch.float32, copy=True)
    return copied.movedim(-1, 1).contiguous() if channels_last else copied


def _share(forward: Forward, layer: str) -> Tensor:
    if layer not in forward.attention:
        raise MissingSignalError(f"{layer.removeprefix(ENDING)} wasn't seen to run, so its attention isn't known.")
    return forward.attention[layer]


class _Enough(Exception):
    """Ends a pipeline call once the wanted steps are recorded. Never leaves recorded()."""


@contextmanager
def recorded(
    pipe: Any,
    needs: Iterable[str],
    first_k: int | None = None,
    stop: bool = False,
    extra_uncond: "bool | PredictUncond" = False,
    points: Sequence[float] | None = None,
) -> Iterator[Trace]:
    """Records `needs` (names of shield/signals.py) of one pipeline call's first `first_k` steps (all when None), or of
    the steps at these `points`, shares of its schedule.

    `stop=True` ends the pipeline call quietly once those steps are recorded: the block is left at that point, without
    the call's result. `extra_uncond=True` predicts the empty prompt beside every recorded step that has no
    unconditional prediction (guidance off, or distilled): one more denoiser call. A function there is asked instead,
    with the Forward, as shield/hooks/shared_uncond.py does. The trace stays valid after the block. Nothing is changed:
    pictures are bit-equal.

        with recorded(pipe, {"noise_cond", "noise_uncond"}, first_k=1, stop=True) as trace:
            pipe(prompts)
        scores = NoiseGap().score(trace)

    Raises MissingSignalError (unknown signal), UnsupportedPipelineError (also for a scheduler that the shield doesn't
    know), TraceError (two pipeline calls in one block).
    """
    signals, family, trace = Signals.named(needs), family_of(pipe), Trace()
    if signals != Signals():
        refuse_unreadable(pipe.scheduler)
    predict = partial(_predicted_null, pipe) if extra_uncond is True else extra_uncond or None
    wanted = partial(_wanted_steps, pipe, first_k, points)
    recorder = _Recorder(family, signals, wanted, stop, trace, predict if "noise_uncond" in signals.tensors else None)
    with ExitStack() as stack:
        if stop:
            stack.enter_context(suppress(_Enough))
        stack.enter_context(intercepted(pipe, recorder, layers=signals.layers))
        yield trace


def _wanted_steps(pipe: Any, first_k: int | None, points: Sequence[float] | None) -> frozenset[int]:
    """The steps of the running call that are recorded, counted from 0."""
    steps = steps_of(pipe)
    if points is not None:
        return frozenset(step_at(point, steps) for point in points)
    return frozenset(range(steps if first_k is None else first_k))


def _predicted_null(pipe: Any, forward: Forward) -> Tensor:
    """What the denoiser predicts for the empty prompt on every row of this step."""
    rows = range(len(forward.noise_cond))
    return forward.rerun(rows, null_conditioning(pipe, forward.conditioning.embeds.shape[1]).repeated(len(rows)))


class _Recorder:
    """An `on_forward` that only writes down."""

    def __init__(
        self,
        family: Family,
        signals: Signals,
        wanted: Callable[[], frozenset[int]],
        stop: bool,
        trace: Trace,
        predict_uncond: PredictUncond | None,
    ) -> None:
        self.family, self.signals, self.trace, self.predict_uncond = family, signals, trace, predict_uncond
        self.find_wanted, self.stop = wanted, stop
        self.wanted: frozenset[int] = frozenset()

    def __call__(self, forward: Forward) -> None:
        if forward.index == 0:
            self.wanted = self.find_wanted()
        last = max(self.wanted, default=-1)
        if self.stop and forward.index > last:
            raise _Enough
        if forward.index not in self.wanted:
            return
        self.trace.micro_conditioning = forward.micro_conditioning
        if (forward.noise_uncond is None or forward.other_micro) and self.predict_uncond is not None:
            forward = replace(forward, noise_uncond=self.predict_uncond(forward))
        step = record(forward, self.signals, self.family.packed)
        completes = bool(self.trace.steps) and self.trace.steps[-1].index == forward.index
        if completes:
            self.trace.steps[-1] = step
        else:
            self.trace.steps.append(step)
        whole = self.family.layout == "stacked" or completes or forward.noise_uncond is not None
        if self.stop and whole and forward.index == last:
            raise _Enough
