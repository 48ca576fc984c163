"""The ways into a call that no prompt screen and no detector sees, watched.

A prompt can come as embeddings or learned words, which can't be read; a picture can come in to be changed, or as the
latents to start from (shield/hooks/ways_in.py); a callback can exchange what a pipeline works with. Each is noticed
here and told in the verdict, beside what the chain of custody tells (shield/hooks/custody.py). A given picture that the
gallery knows is dealt with like a finished copy (`on_copy`); what nobody could judge by the policy's `on_unverified`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shield.errors import BadRequestError, ShieldError
from shield.hooks.intercept import once_more
from shield.hooks.ways_in import PICTURES, foreign_processors, given, learned_words, starts_low
from shield.protected.gallery import Gallery
from shield.protected.pictures import UNREADABLE, open_image
from shield.protected.turns import nearest_turned
from shield.reasons import Reason
from shield.runtime.parts import Parts

# As the denoiser is given them (shield/hooks/custody.py).
OBSERVED = frozenset({"latents", "prompt_embeds", "pooled_prompt_embeds", "add_text_embeds"})
SIGMAS = 6.0  # beyond which latents are no sample of plain noise


@dataclass
class BlindSpots:
    """What is noticed in one call: `blind` couldn't be judged; `copies` are given pictures that the gallery knows.
    `words`: by the prompt's place, what is said about its learned words; `each`: how many images a prompt has.
    `parts()` is what the call runs through; `lost`: a callback changed some of it.
    """

    blind: list[Reason] = field(default_factory=list)
    copies: list[Reason] = field(default_factory=list)
    words: dict[int, Reason] = field(default_factory=dict)
    each: int = 1
    parts: Callable[[], Parts] | None = None
    lost: bool = False
    _now: Parts | None = None

    @classmethod
    def of(
        cls, request: Mapping[str, Any], gallery: Gallery | None, pipe: Any, parts: Callable[[], Parts] | None = None
    ) -> "BlindSpots":
        """What the arguments of a call already tell."""
        noticed = cls(given(request, bool(gallery)), each=request.get("num_images_per_prompt") or 1, parts=parts)
        noticed.blind += foreign_processors(pipe)
        noticed.words = learned_words(pipe, request)
        if (request.get("denoising_end") or 1.0) < 1.0:
            noticed.blind.append(Reason("unfinished"))
        if request.get("latents") is not None:
            noticed.blind += _told_of_latents(request, pipe.scheduler)
        if gallery:
            noticed._compare(request, gallery)
        return noticed

    def _compare(self, request: Mapping[str, Any], gallery: Gallery) -> None:
        for name in PICTURES:
            for number, picture in enumerate(_pictures(request.get(name)), start=1):
                try:
                    look = gallery.nearest if "mask" in name else partial(nearest_turned, gallery)
                    found = [look(reading) for reading in _readings(picture)]
                except (ShieldError, *UNREADABLE):
                    self.notice(Reason("incomparable", detail=f"{number} ({name})"))
                    continue
                copied = next((nearest for nearest in found if nearest is not None and nearest.copied), None)
                if copied is not None:
                    where = f"{number} ({name})"
                    found_copy = Reason("given_copy", copied.metric, copied.score, work=copied.work, detail=where)
                    self.copies.append(found_copy)

    def about(self, row: int) -> tuple[Reason, ...]:
        """What couldn't be judged about one image."""
        words = self.words.get(row // self.each)
        return (*self.blind, *([] if words is None else [words]))

    def arguments(self, request: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A call's named arguments with its callbacks watched. What they do stays as it is."""
        named = dict(kwargs)
        given, legacy = request.get("callback_on_step_end"), request.get("kwargs", {}).get("callback")
        if given is not None:
            named["callback_on_step_end"] = self._watched(given)
            if hasattr(given, "tensor_inputs"):
                named["callback_on_step_end_tensor_inputs"] = given.tensor_inputs
        if legacy is not None:
            named["callback"] = self._in_custody(legacy)
        return named

    def _watched(self, callback: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def call(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            before = {name: _kept(tensor) for name, tensor in tensors.items()}
            after = self._in_custody(callback)(pipe, step, timestep, tensors)
            if not isinstance(after, dict):
                raise BadRequestError(
                    f"callback_on_step_end returns a dictionary of tensors, the one that it was given if nothing is to "
                    f"change; it returned {'None' if after is None else f'a value of type {type(after).__name__}'}."
                )
            for name in {**before, **after}:
                if name not in OBSERVED and _changed(before.get(name), after.get(name)):
                    self.notice(Reason("callback", step=step, detail=name))
            return after

        return call

    def _in_custody(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """A callback whose calls of a pipeline are no steps of the one that it was given to, and whose changes to that
        one's parts are told. `step` is the first number that it is given.
        """

        def call(*args: Any) -> Any:
            if self._now is None and self.parts is not None:
                self._now = self.parts()
            with once_more():
                answer = callback(*args)
            step = next((arg for arg in args if isinstance(arg, int)), None)
            for part in () if self._now is None else self._now.changed():
                self.lost = True
                self.notice(Reason("callback", step=step, detail=part))
            return answer

        return call

    def begin(self) -> None:
        """The pipeline is called, for the first time or once more: what it did after its last step doesn't count."""
        self._now = None

    def notice(self, what: Reason) -> None:
        """Tells something about every image, once at however many steps it happens."""
        if replace(what, step=None) not in [replace(told, step=None) for told in self.blind]:
            self.blind.append(what)


def is_noise(latents: Tensor) -> bool:
    """Whether every row of (B, ...) has a mean of 0, a variance of 1, and neighbors along no axis that resemble each
    other, as far as a sample of its size can tell. A noised or inverted picture has neighbors that do.
    """
    rows = latents.detach().float().cpu()
    size = rows[0].numel()
    allowed = SIGMAS / math.sqrt(size)
    statistics = [rows.flatten(1).mean(1), (rows.flatten(1).pow(2).mean(1) - 1.0) / math.sqrt(2.0)]
    for axis in range(1, rows.ndim):
        ahead, behind = rows.narrow(axis, 1, rows.shape[axis] - 1), rows.narrow(axis, 0, rows.shape[axis] - 1)
        statistics.append((ahead * behind).flatten(1).sum(1) / size)
    return all(bool((value.abs() <= allowed).all()) for value in statistics)


def _told_of_latents(request: Mapping[str, Any], scheduler: Any) -> list[Reason]:
    latents = request["latents"]
    if not isinstance(latents, Tensor) or not is_noise(latents):
        return [Reason("not_noise")]
    return [Reason("latents_show")] if starts_low(request, scheduler) else []


def _kept(tensor: Any) -> tuple[Tensor, Tensor] | None:
    return (tensor, tensor.clone()) if isinstance(tensor, Tensor) else None


def _changed(kept: tuple[Tensor, Tensor] | None, after: Any) -> bool:
    """Whether a callback returned something else than it was given, or wrote into it; None returns nothing.

    Where guidance ends, its unconditional half, the first rows, is left out, which is no change.
    """
    if kept is None:
        return isinstance(after, Tensor)
    given, copy = kept
    after = given if after is None else after
    if not isinstance(after, Tensor):
        return True
    left = copy[-len(after) :]
    return after.shape != left.shape or not torch.equal(after, left) or not torch.equal(given, copy)


def _pictures(given: Any) -> list[Any]:
    """The pictures in whatever a pipeline takes for one: a picture, an array or tensor of several, nested lists."""
    if given is None:
        return []
    if isinstance(given, list | tuple):
        return [picture for part in given for picture in _pictures(part)]
    if isinstance(given, Tensor | np.ndarray) and given.ndim == 4:
        return list(given)
    return [given]


def _readings(picture: Any) -> list[Image.Image]:
    """A given picture as a viewer shows it and, where that may differ, as pipelines take it: without its transparency,
    not turned upright. Exceptions of UNREADABLE for latents and what is no picture.
    """
    shown = open_image(picture)
    if not isinstance(picture, Image.Image) or (picture.mode in ("RGB", "L") and not picture.getexif()):
        return [shown]
    return [shown, picture.convert("RGB")]
