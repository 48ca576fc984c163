"""The chain of custody of one pipeline call: what was judged is what becomes the picture.

The detectors read the first steps. That says something about the picture only if the picture comes from them: if the
denoiser is given what the scheduler returned, with the first step's embeddings, at every step; if the scheduler is
given what the denoiser was asked about; and if what is decoded is what the scheduler returned last. So these are
compared, bit by bit, whatever way another tensor could have come in by. A step that the scheduler took and the
denoiser's hook didn't see, another denoiser or scheduler, and methods that were replaced under way are told likewise.

Between two steps a pipeline itself scales latents (`scale_model_input`, observed) and repeats them for guidance;
inpainting puts the kept part of the given picture back (`add_noise`, `scale_noise`, observed). Nothing is asked of the
denoiser: it costs comparisons of small tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from shield.hooks import latents as moves
from shield.hooks import steps
from shield.hooks.steps import observed
from shield.model.autoencoders import forms, latent_channels, unpacked
from shield.model.families import family_of
from shield.reasons import Reason, ReasonKind

Value = Tensor | int | float | str
COND, UNCOND, ASIDE, BESIDE = "cond", "uncond", "aside", "beside"  # whose arguments a call's are


class Custody:
    """Follows one call. `notice` is told each break; `lost`: a step came from something that nobody watched; `start`:
    the latents that the call began with, before they were scaled.
    """

    def __init__(self, pipe: Any, notice: Callable[[Reason], None]) -> None:
        self.pipe, self.family, self.notice = pipe, family_of(pipe), notice
        self.scheduler, self.denoiser = pipe.scheduler, getattr(pipe, self.family.denoiser)
        self.steps, self.lost = 0, False
        self.start: Tensor | None = None
        self._latents: Tensor | None = None
        self._calls = 0  # of the denoiser since the last step
        self._scaled: list[tuple[Tensor, Tensor]] = []
        self._noised: list[Tensor] = []
        self._prepared: list[Tensor] = []
        self._kept_part: Tensor | None = None
        self._first: dict[str, dict[str, Value]] = {}
        self._handed: dict[str, Any] = {}
        self._memory: dict[str, Value] | None = None
        self._is_decoded = False
        if not _is_own_step(self.scheduler):
            self.notice(Reason("step_replaced", detail=type(self.scheduler).__name__))

    @contextmanager
    def kept(self, is_ours: Callable[[], bool]) -> Iterator[None]:
        """Within the block the call is followed; what happens while `is_ours` is False belongs to another one."""
        vae = getattr(self.pipe.vae, "_orig_mod", self.pipe.vae)
        told = (
            (self.scheduler, "step", self._stepped, self._stepping),
            (self.scheduler, "scale_model_input", self._was_scaled, None),
            (self.scheduler, "add_noise", self._was_noised, None),
            (self.scheduler, "scale_noise", self._was_noised, None),
            (self.pipe, "prepare_latents", self._was_prepared, None),
            (vae, "decode", self._decoded, None),
        )
        with ExitStack() as stack:
            for owner, name, after, before in told:
                if hasattr(owner, name):
                    stack.enter_context(observed(owner, name, _only(is_ours, after), before and _only(is_ours, before)))
            self._step, self._state = self.scheduler.step, self._state_now()
            yield

    def given(self, named: dict[str, Any], batch: int, whose: str) -> None:
        """The pipeline calls the denoiser (or, BESIDE it, its companion) with these arguments, for `batch` images."""
        self._compare_constants(named, whose)
        if whose == BESIDE:
            return
        self._calls += whose != ASIDE
        if self._state_now() != self._state or self.scheduler.step is not self._step:
            self._lose("parts_exchanged")
        sample = named[self.family.sample]
        latents = sample if self.family.packed else sample[:, : latent_channels(self.pipe)]
        source: Tensor | None = latents
        if self._scaled:
            source = next((before for before, after in self._scaled if _same(latents, after)), None)
        if source is None or not _repeats(source, source[-batch:]):
            self._exchanged()
        else:
            self._goes_on(source[-batch:])

    def handed(self, named: dict[str, Any]) -> None:
        """The shield hands these arguments on to the denoiser."""
        self._handed = {name: named[name] for name in (self.family.sample, self.family.embeds)}

    def ran(self, named: dict[str, Any]) -> None:
        """The denoiser ran with these."""
        if not all(self._is_handed(named[name], tensor) for name, tensor in self._handed.items()):
            self._lose("arguments_exchanged")
        self._handed = {}

    def _is_handed(self, given: Tensor, handed: Tensor) -> bool:
        return given is handed or (self.family.listed and _same(given, handed))

    def missed(self) -> None:
        """The denoiser is called again, and the scheduler's step wasn't seen."""
        self._lose("step_missed")

    def ended(self, pictures: Any, output_type: str) -> None:
        """The call returned these pictures, or latents."""
        if output_type == "latent":
            if isinstance(pictures, Tensor) and self._latents is not None and not self._are_returned(pictures):
                self._exchanged()
        elif not self._is_decoded:
            self._lose("not_decoded")
        if self._calls:
            self.missed()

    def _are_returned(self, latents: Tensor) -> bool:
        """Whether the call returned its latents: as they are or, packed ones, as the autoencoder takes them."""
        if self.family.packed and latents.ndim == 4:
            self._unpack(latents)
            return self._is_at(latents, [_as_is, *forms(self.pipe.vae)])
        return self._is_at(latents, [_as_is])

    def _stepping(self, args: tuple, kwargs: dict) -> None:
        if not self._calls:
            self._lose("denoiser_missed", self._last_step())
        if self._memory is not None and not _all_same(dict(_values(vars(self.scheduler))), self._memory):
            self.notice(Reason("scheduler_memory"))
        self._goes_on(kwargs["sample"] if "sample" in kwargs else args[2])

    def _stepped(self, args: tuple, kwargs: dict, output: Any) -> None:
        self._latents = (output[0] if isinstance(output, tuple) else output.prev_sample).clone()
        self.steps += 1
        self._calls, self._scaled, self._noised = 0, [], []
        self._memory = {name: _copied(value) for name, value in _values(vars(self.scheduler))}

    def _was_scaled(self, args: tuple, kwargs: dict, output: Tensor) -> None:
        self._scaled.append(((kwargs["sample"] if "sample" in kwargs else args[0]).clone(), output.clone()))

    def _was_noised(self, args: tuple, kwargs: dict, output: Tensor) -> None:
        self._noised.append(output.clone())

    def _was_prepared(self, args: tuple, kwargs: dict, output: Any) -> None:
        several = output if isinstance(output, tuple | list) else [output]
        self._prepared += [tensor.clone() for tensor in several if isinstance(tensor, Tensor)]

    def _decoded(self, args: tuple, kwargs: dict, output: Any) -> None:
        z = args[0] if args else kwargs["z"]
        z = z.squeeze(2) if z.ndim == 5 else z  # a video's autoencoder takes one frame
        self._is_decoded = True
        if self._latents is None:
            return
        if self.family.packed:
            self._unpack(z)
        if not self._is_at(z, forms(self.pipe.vae)):
            self._exchanged()

    def _unpack(self, like: Tensor) -> None:
        """Puts what is held into the autoencoder's shape, at the end of the call."""
        assert self._latents is not None
        factor = self.pipe.vae_scale_factor
        sides = [side * factor for side in like.shape[-2:]]
        kept = [t for t in (*self._noised, *self._prepared) if t.shape[1:] == self._latents.shape[1:]]

        def whole(tensor: Tensor) -> Tensor:
            return unpacked(self.pipe, tensor, sides)

        self._latents, self._noised, self._prepared = whole(self._latents), [], list(map(whole, kept))
        self._kept_part = None if self._kept_part is None else whole(self._kept_part)

    def _goes_on(self, now: Tensor) -> None:
        """The call goes on with these latents."""
        if self._latents is not None and not (_same(now, self._latents) or self._is_put_back(now, _as_is)):
            self._exchanged()
        self._latents = now.clone()
        self.start = self._latents if self.start is None else self.start

    def _is_at(self, now: Tensor, forms: Sequence[Callable[[Tensor], Tensor]]) -> bool:
        """Whether the call ends with the latents it is at, in any of these forms."""
        assert self._latents is not None
        wanted = [(form, form(self._latents.to(now))) for form in forms]
        return any(_close(now, want).all() or self._is_put_back(now, form) for form, want in wanted)

    def _is_put_back(self, now: Tensor, form: Callable[[Tensor], Tensor]) -> bool:
        """Inpainting: whether these are the latents with the picture's kept part put back, the same part always."""
        assert self._latents is not None
        if "Inpaint" not in type(self.pipe).__name__:
            return False
        differs = ~_close(now, form(self._latents.to(now)))
        if self._kept_part is not None and (differs & ~self._kept_part).any():
            return False
        for kept in (*self._noised, *self._prepared):
            if kept.shape[1:] == self._latents.shape[1:] and (_close(now, form(kept.to(now))) | ~differs).all():
                if form is _as_is and self._kept_part is None:
                    self._kept_part = differs
                return True
        return False

    def _compare_constants(self, named: dict[str, Any], whose: str) -> None:
        """What belongs to the request is the same at every step; where guidance ends, its conditional half is left."""
        varying = (
            {self.family.sample, self.family.time} if whose != BESIDE else {"sample", "timestep", "conditioning_scale"}
        )
        now = dict(_values({name: value for name, value in named.items() if name not in varying}))
        sample = named[self.family.sample]
        if not self.family.packed and whose != BESIDE:
            now["masked picture"] = sample[:, latent_channels(self.pipe) :]
        first = self._first.setdefault(whose, {name: _copied(value) for name, value in now.items()})
        for name in {**first, **now}:
            if name not in first or name not in now or not _same(now[name], self._cond_rows(first[name], now[name])):
                is_text = name in (self.family.embeds, self.family.pooled, self.family.mask)
                self.notice(Reason("embeddings_exchanged") if is_text else Reason("argument_changed", detail=name))

    def _cond_rows(self, first: Value, now: Value) -> Value:
        """As many rows as there are now, of those that are left where guidance ends."""
        if not (isinstance(first, Tensor) and isinstance(now, Tensor)):
            return first
        return first[self.family.halves(len(first), len(now))[0]] if now.ndim and len(now) < len(first) else first

    def _state_now(self) -> tuple:
        """What runs when the pipeline calls its denoiser and its scheduler."""
        denoiser = getattr(self.pipe, self.family.denoiser)
        hooks = (*denoiser._forward_pre_hooks, *denoiser._forward_hooks)
        own = (vars(denoiser).get(name) for name in ("forward", "_compiled_call_impl"))
        return id(self.pipe.scheduler), id(denoiser), *map(id, own), hooks

    def _exchanged(self) -> None:
        self.notice(Reason("latents_changed", step=self._last_step()))

    def _lose(self, kind: ReasonKind, step: int | None = None) -> None:
        self.lost = True
        self.notice(Reason(kind, step=step))

    def _last_step(self) -> int | None:
        """The step that the scheduler took last, from 0; None before the first."""
        return self.steps - 1 if self.steps else None


def _only(is_ours: Callable[[], bool], tell: Callable[..., None]) -> Callable[..., None]:
    def told(*args: Any) -> None:
        if is_ours():
            tell(*args)

    return told


def _is_own_step(scheduler: Any) -> bool:
    """Whether the scheduler's step is that of a class of diffusers, wrapped by nobody but the shield."""
    step = vars(scheduler).get("step")
    while getattr(step, "__globals__", {}).get("__name__") in (steps.__name__, moves.__name__):
        step = step.__wrapped__
    own = type(scheduler).step
    return own.__module__.split(".")[0] == "diffusers" and (step is None or getattr(step, "__func__", None) is own)


def _values(value: Any, name: str = "") -> Iterator[tuple[str, Value]]:
    """The tensors and numbers in mappings and sequences by the way that leads to them, without those that another model
    makes.
    """
    if isinstance(value, Tensor | int | float | str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if "residual" not in key and "controlnet_" not in key:
                yield from _values(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _values(item, f"{name}.{place}")


def _as_is(latents: Tensor) -> Tensor:
    return latents


def _copied(value: Value) -> Value:
    return value.clone() if isinstance(value, Tensor) else value


def _same(one: Value, other: Value) -> bool:
    """To the bit, whatever the device; no number is the same as no number."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        is_number = not isinstance(one, Tensor) and not isinstance(other, Tensor)
        return is_number and (one == other or (one != one and other != other))
    if one.shape != other.shape:
        return False
    if other.dtype != one.dtype or other.device != one.device:
        other = other.to(one)
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def _all_same(one: dict[str, Value], other: dict[str, Value]) -> bool:
    return one.keys() == other.keys() and all(_same(tensor, other[name]) for name, tensor in one.items())


def _repeats(whole: Tensor, part: Tensor) -> bool:
    return len(whole) % len(part) == 0 and all(_same(rows, part) for rows in whole.split(len(part)))


def _close(now: Tensor, want: Tensor) -> Tensor:
    """Where they are the same but for rounding, as between an autoencoder's number format and the latents'; a bool
    tensor like `now`, all False for another shape.
    """
    if now.shape[1:] != want.shape[1:]:
        return torch.zeros_like(now, dtype=torch.bool)
    return torch.isclose(now, want.to(now), rtol=4.0 * torch.finfo(now.dtype).eps, atol=1e-6, equal_nan=True)
