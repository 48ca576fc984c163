"""The one place that touches a pipeline: hooks on the denoiser's forward, always removed.

A hook sees what `callback_on_step_end` can't: the conditional and unconditional predictions before guidance mixes
them. It reads them in the layout that shield/model/families.py states ([uncond x B, cond x B] in one call, or two
calls), hands them on as one Forward a step, and may return another conditional prediction, from which the pipeline's
own guidance formula goes on. Nothing of the pipeline is copied or restarted. Every hook here is a context manager;
after it, also after an exception, the denoiser holds the hooks that it held before.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from shield.errors import TraceError
from shield.hooks.attention import attention_watched
from shield.hooks.calls import (
    asked_about,
    asked_at,
    call_arguments,
    hooked,
    named_arguments,
    picked_rows,
    prediction_of,
    with_prediction,
)
from shield.hooks.companion import Companion
from shield.hooks.custody import ASIDE, BESIDE, COND, UNCOND, Custody
from shield.hooks.feature_caches import FeatureCaches
from shield.hooks.forward import Forward
from shield.hooks.latents import rescaled
from shield.hooks.running import alone
from shield.hooks.steps import StepCount, observed
from shield.model.conditioning import Conditioning, read, written
from shield.model.families import family_of
from shield.model.prediction import noise_levels, prediction_type, unreadable
from shield.model.schedules import refuse_inverse

_DEPTH: ContextVar[int] = ContextVar("depth", default=0)


OnForward = Callable[[Forward], Tensor | None]
OnInputs = Callable[[dict[str, Any], int, bool], dict[str, Any] | None]


class _Hook:
    """Turns the denoiser's calls into Forwards. One instance serves one pipeline call."""

    def __init__(
        self,
        pipe: Any,
        on_forward: OnForward,
        on_inputs: OnInputs | None,
        guidance: float | None,
        custody: Custody | None,
        wants: Callable[[int], bool],
    ) -> None:
        self.attention: dict[str, Tensor] = {}
        self.pipe, self.family = pipe, family_of(pipe)
        self.on_forward, self.on_inputs, self.guidance = on_forward, on_inputs, guidance
        self.companion = Companion(self.family, self._stacked)
        self.custody, self.wants = custody, wants
        self.depth, self.thread = _DEPTH.get(), get_ident()
        self.index, self.images = -1, 0
        self.previous: Forward | None = None
        self.features = FeatureCaches(denoiser_of(pipe), getattr(pipe, self.family.companion or "", None))
        self.first_calls: list[tuple[nn.Module, dict[str, Any], list]] = []
        self.count = StepCount(pipe.scheduler, 2 if self.family.layout == "separate" else 1)
        self.prediction = "unknown" if unreadable(pipe.scheduler) else prediction_type(pipe.scheduler)
        self.factors: Tensor | None = None

    @property
    def _blind(self) -> bool:
        """What runs is no step of this hook's call: another thread's, one within a callback, or the shield's own."""
        return self.depth != _DEPTH.get() or self.thread != get_ident()

    def is_ours(self) -> bool:
        """Whether what runs belongs to this hook's call."""
        return not self._blind

    def stepped(self, *_: Any) -> None:
        """The scheduler took a step."""
        if self._blind:
            self.count.disturbed()
        else:
            self.count.ended()

    def prepared(self, args: tuple, kwargs: dict, output: Any) -> None:
        """The pipeline made its latents: one row for each image."""
        if not self._blind:
            latents = output[0] if isinstance(output, tuple | list) else output
            self.images = len(latents)

    def beside(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Pre-hook of the companion: lets `on_inputs` replace its arguments, and remembers them."""
        if self._blind:
            return None
        named = named_arguments(self.family, args, kwargs)
        changed = self._changed_inputs(named, self.companion.batch(named), BESIDE)
        self.companion.seen(module, named if changed is None else changed[1])
        return changed

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Pre-hook: lets `on_inputs` replace the denoiser's arguments."""
        if self._blind:
            return None
        named = named_arguments(self.family, args, kwargs)
        if self.custody is not None and self.count.is_full and not _is_aside(named):
            self.custody.missed()
            self.count.ended()
        if _is_aside(named):
            return self._changed_inputs(named, len(named[self.family.sample]), ASIDE)
        return self._changed_inputs(named, self._batch(named), UNCOND if self.count.calls else COND)

    def _changed_inputs(self, named: dict[str, Any], batch: int, whose: str) -> tuple[tuple, dict] | None:
        """Other arguments, where `on_inputs` has any. The custody is shown what came and what is handed on."""
        if self.custody is not None:
            self.custody.given(named, batch, whose)
        changed = None if self.on_inputs is None else self.on_inputs(named, batch, whose == UNCOND)
        if self.custody is not None and whose != BESIDE:
            self.custody.handed(named if changed is None else changed)
        return None if changed is None else ((), call_arguments(self.family, changed))

    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """Forward hook: shows the step to `on_forward` and returns the denoiser's output with its answer in."""
        if self._blind:
            return None
        named = named_arguments(self.family, args, kwargs)
        if self.custody is not None:
            self.custody.ran(named)
        if _is_aside(named):
            return None
        self.count.called()
        is_second = self.count.calls > 1
        self.index += not is_second
        is_simple = self.family.layout == "stacked" and not self.features
        if not self.wants(self.index) and is_simple:
            self._let_go()
            return None
        prediction = prediction_of(self.family, output, self._channels(named))
        if is_second:
            return self._second_half(module, named, prediction, output)
        forward = self._forward(module, named, prediction, self._timestep(named))
        self._let_go()
        self.previous = forward
        changed = self._answered(module, named, forward)
        if changed is None:
            return None
        whole, (cond, _) = prediction.clone(), self.family.halves(len(prediction), len(changed))
        whole[cond] = changed.to(whole)
        forward.noise_cond = changed
        return with_prediction(self.family, output, whole)

    def _let_go(self) -> None:
        """The step before can't be run again any more."""
        if self.previous is not None:
            self.previous.rerun = _expired

    def _answered(self, module: nn.Module, named: dict[str, Any], forward: Forward) -> Tensor | None:
        """What `on_forward` says to the step so far, with the caches as if the inputs it changed had been there."""
        is_fillable = self.index == 0 and self.features.can_be_emptied
        self.first_calls = [*self.first_calls, (module, named, self.features.contexts())] if is_fillable else []
        forward.refills = len(self.first_calls)
        with once_more():  # whatever it runs is no step of a call that is watched
            changed = self.on_forward(forward)
        if forward.refills and self.on_inputs is not None:
            inputs = [self.on_inputs(n, self._batch(n), place > 0) for place, (_, n, _) in enumerate(self.first_calls)]
            if any(given is not None for given in inputs):
                self._refill(inputs)
        return changed

    def _refill(self, inputs: list[dict[str, Any] | None]) -> None:
        calls = [
            (partial(module, **call_arguments(self.family, named if given is None else given)), contexts)
            for (module, named, contexts), given in zip(self.first_calls, inputs, strict=True)
        ]
        with once_more():
            self.features.fill(calls)

    def _second_half(self, module: nn.Module, named: dict[str, Any], noise_uncond: Tensor, output: Any) -> Any:
        """Separate layout: the unconditional call completes the step. Cond has left already, so uncond is what can
        change.
        """
        forward = self.previous
        assert forward is not None
        forward.noise_uncond = noise_uncond
        cond_before = forward.noise_cond
        changed = self._answered(module, named, forward)
        if changed is None:
            return None
        if self.guidance is None or self.guidance == 1.0:
            raise TraceError("Editing a pipeline with separate guidance calls needs its guidance scale.")
        # u' + g (c - u') == u + g (c' - u), solved for u'
        edited = noise_uncond + self.guidance * (changed - cond_before) / (1.0 - self.guidance)
        if self.family.renormalized:  # to the norm of c, which has left, instead of that of c'
            sizes = [torch.linalg.vector_norm(one.float(), dim=-1, keepdim=True) for one in (changed, cond_before)]
            self.factors = torch.where(sizes[0] == sizes[1], 1.0, sizes[0] / sizes[1].clamp_min(1e-12))
        return with_prediction(self.family, output, edited.to(noise_uncond.dtype))

    def renormalizing(self) -> Tensor | None:
        """What the step's guided prediction is to be multiplied by, told once."""
        factors, self.factors = self.factors, None
        return factors

    def _timestep(self, named: dict) -> float:
        value = named[self.family.time]
        if isinstance(value, Tensor):
            value = (value.flatten()[0] if value.ndim else value).item()
        return self.family.scheduler_time(float(value))

    def _channels(self, named: dict) -> int:
        """Of a prediction without what a learned variance adds."""
        return int(named[self.family.sample].shape[1])

    def _stacked(self, named: dict) -> bool:
        """Whether a call runs both halves. Some pipelines don't say; all make one row of latents for each image."""
        if self.family.layout != "stacked":
            return False
        if self.images and len(named[self.family.sample]) == self.images:
            return False
        says = getattr(self.pipe, "do_classifier_free_guidance", None)
        return len(named[self.family.sample]) == 2 * self.images if says is None else bool(says)

    def _batch(self, named: dict) -> int:
        return len(named[self.family.sample]) // (2 if self._stacked(named) else 1)

    def _levels(self, timestep: float) -> tuple[str, float, float]:
        """What is predicted and (signal, noise); NaN where nobody knows how the scheduler keeps its noise."""
        if self.prediction == "unknown":
            return self.prediction, float("nan"), float("nan")
        return self.prediction, *noise_levels(self.pipe.scheduler, timestep, is_running=True)

    def _forward(self, module: nn.Module, named: dict, prediction: Tensor, timestep: float) -> Forward:
        batch, total = self._batch(named), len(prediction)
        if self._stacked(named) and total % 2:
            raise TraceError(f"With guidance on, an even number of rows is needed; the denoiser was given {total}.")
        kind, signal, noise = self._levels(timestep)
        latents = named[self.family.sample]
        if not self.family.packed:
            latents = latents[:, : prediction.shape[1]]  # without an inpainting model's mask and masked picture
        cond, other = self.family.halves(total, batch)
        uncond = prediction[other] if self._stacked(named) else None
        start = cond.start

        def rerun(
            rows: Sequence[int],
            conditioning: Conditioning,
            timestep: float | None = None,
            latents: Tensor | None = None,
        ) -> Tensor:
            picked = {k: picked_rows(v, [start + r for r in rows], total, k) for k, v in named.items()}
            asked = None if timestep is None else self.family.denoiser_time(timestep)
            picked = asked_about(asked_at(picked, self.family, asked), self.family, latents)
            with once_more(), self.features.bypassed():  # no step of any hook's call
                picked |= self.companion.residuals(rows, conditioning, asked, latents)
                output = module(**call_arguments(self.family, written(self.family, picked, conditioning)))
                return prediction_of(self.family, output, self._channels(picked))

        shares = {path: share[cond] for path, share in self.attention.items()}
        return Forward(
            self.index,
            timestep,
            signal,
            noise,
            kind,
            latents[cond],
            prediction[cond],
            uncond,
            read(self.family, named, start, batch),
            rerun,
            shares,
            self.pipe,
            bool(self.features) or self.family.ragged,
            0,
            *micro_conditioning(named, start),
        )


def micro_conditioning(named: dict[str, Any], start: int) -> tuple[tuple[float, ...], bool]:
    """That of the conditional rows, which begin at `start`, and whether the rows before them have another one."""
    ids = (named.get("added_cond_kwargs") or {}).get("time_ids")
    if ids is None:
        return (), False
    return tuple(ids[start].tolist()), bool((ids[:start] != ids[start : 2 * start]).any())


def _expired(*args: Any, **kwargs: Any) -> Tensor:
    """Stands in for `rerun` after its step, so that a kept Forward doesn't keep the call's arguments alive."""
    raise TraceError("A step can be run again only while it is the current one.")


def _is_aside(named: dict[str, Any]) -> bool:
    """SD3's skip-layer guidance: a second call in a step, on cond rows alone."""
    return named.get("skip_layers") is not None


def denoiser_of(pipe: Any) -> nn.Module:
    """The module that predicts noise: `pipe.unet` or `pipe.transformer`. Raises UnsupportedPipelineError."""
    return getattr(pipe, family_of(pipe).denoiser)


@contextmanager
def intercepted(
    pipe: Any,
    on_forward: OnForward,
    on_inputs: OnInputs | None = None,
    guidance: float | None = None,
    layers: Iterable[str] = (),
    custody: Custody | None = None,
    wants: Callable[[int], bool] = lambda index: True,
) -> Iterator[None]:
    """Within the block, every denoising step of one pipeline call is shown to `on_forward`.

    `on_forward(forward)` returns None (nothing changes, not a bit) or another conditional prediction shaped like
    `forward.noise_cond`. `on_inputs(named_arguments, batch, is_uncond_call)` may return other arguments before the
    call. `layers` are module paths of cross-attention layers to watch. `guidance` is needed to edit the predictions
    of a family with separate calls, which show a step twice: cond alone, then both. `custody` follows the call's
    latents. `wants(index)` is asked at each prediction of a step: where it is False, the step needn't be shown. The
    call is this thread's; blocks over the same model in other threads wait (shield/hooks/running.py).

    Raises UnsupportedPipelineError (also for a scheduler that runs towards noise), and TraceError, also when the block
    ends without a step that the hook saw. With a scheduler that the shield doesn't know, a Forward's noise levels are
    NaN.
    """
    with alone(pipe):
        hook = _Hook(pipe, on_forward, on_inputs, guidance, custody, wants)
        with _hooks(pipe, hook, layers):
            yield


@contextmanager
def _hooks(pipe: Any, hook: _Hook, layers: Iterable[str]) -> Iterator[None]:
    refuse_inverse(pipe.scheduler)
    denoiser, companion = denoiser_of(pipe), getattr(pipe, hook.family.companion or "", None)
    with ExitStack() as stack:
        hook.attention = stack.enter_context(attention_watched(denoiser, layers))
        stack.enter_context(observed(pipe.scheduler, "step", hook.stepped))
        if hasattr(pipe, "prepare_latents"):
            stack.enter_context(observed(pipe, "prepare_latents", hook.prepared))
        if hook.family.renormalized:
            stack.enter_context(rescaled(pipe.scheduler, hook.renormalizing))
        stack.enter_context(hooked(denoiser, hook.before, hook.after))
        if companion is not None:
            stack.enter_context(hooked(companion, hook.beside))
        if hook.custody is not None:
            stack.enter_context(hook.custody.kept(hook.is_ours))
        try:
            yield
        except BaseException:
            hook.features.empty()  # pipelines do so at the end of a call only
            raise
    if hook.index < 0:
        raise TraceError("The denoiser wasn't seen to run, so nothing could be judged: was it exchanged or wrapped?")


@contextmanager
def once_more() -> Iterator[None]:
    """Within the block the pipeline is called again; hooks that were set outside it don't see that call."""
    token = _DEPTH.set(_DEPTH.get() + 1)
    try:
        yield
    finally:
        _DEPTH.reset(token)
