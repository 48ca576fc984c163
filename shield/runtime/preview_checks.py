"""Looks at a picture while it is drawn: what it is heading for, beside what is protected.

At a few steps the predicted clean latent becomes a cheap preview (shield/hooks/preview.py), which is compared with the
gallery's works and with the concepts that a CLIP knows. A memorized prompt pulls there from the first step: at zero
terminal signal the conditional prediction of that step already is the mean of what the prompt may mean, and for a
memorized one that is the work. We know of nobody else who looks; it needs no extra denoiser call.

The conditional prediction is looked at, not the guided one: it doesn't move with the guidance scale, and on the
testbed the works stood further out. A preview shows no more than its few pixels, so its scores have thresholds of
their own, calibrated on benign prompts for each checkpoint and step (shield/calibration/previews.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor

from shield.errors import TraceError
from shield.hooks.forward import Forward
from shield.hooks.preview import Preview, clean_latents, preview_of, small_pictures
from shield.hooks.steps import step_at, steps_of
from shield.protected.gallery import Gallery
from shield.protected.meaning import Meaning, Space
from shield.runtime.policy import Policy
from shield.types import Screen

Look = tuple[float, str | None]
"""(score, the work or concept it is a score of); NaN and None where there is nothing to see."""


class Check(Protocol):
    """What previews are compared with at one share of the schedule. Its fields are what a threshold holds for."""

    @property
    def name(self) -> str: ...

    @property
    def share(self) -> float: ...

    @property
    def first_k(self) -> int:
        """1 for the first step, else 2: from then on guidance and scheduler decide where the trajectory is."""


@dataclass(frozen=True)
class GalleryPreview:
    """Correlation of the preview with the most similar protected picture, or its mirror image. A gallery that has grown
    since the threshold was made flags more than the wanted share, never less of what it flagged.
    """

    share: float
    preview: str = "linear"

    name: ClassVar[str] = "gallery_preview"

    @property
    def first_k(self) -> int:
        return 2 if self.share else 1


@dataclass(frozen=True)
class ConceptPreview:
    """Cosine of the preview with the nearest concept's texts, for one CLIP and its `concepts` (a fingerprint of both).
    Don't trust it for concepts that this CLIP doesn't recognize in a finished picture.
    """

    share: float
    concepts: str
    preview: str = "linear"

    name: ClassVar[str] = "concept_preview"

    @property
    def first_k(self) -> int:
        return 2 if self.share else 1


class PreviewMonitor:
    """What the previews of one pipeline are compared with, and when."""

    def __init__(self, pipe: Any, policy: Policy, gallery: Gallery | None, space: Space | None) -> None:
        self.pipe, self.gallery, self.space, self.kind = pipe, gallery, space, policy.preview
        self.checks: list[Check] = []
        for share in sorted(set(policy.watch_steps)):
            if gallery is not None and len(gallery):
                self.checks.append(GalleryPreview(share, policy.preview))
            if space is not None:
                self.checks.append(ConceptPreview(share, space.fingerprint, policy.preview))
        self.preview: Preview | None = preview_of(pipe) if self.checks and self.kind == "linear" else None

    def due(self, index: int) -> list[Check]:
        """The checks of step `index`, counted from 0, of the running call."""
        return [check for check in self.checks if step_at(check.share, steps_of(self.pipe)) == index]

    def seen(
        self, forward: Forward, prediction: Tensor, checks: Sequence[Check], size: tuple[int, int]
    ) -> list[list[Look]]:
        """For each check, what it says about each image of `prediction` (B, ...), the conditional one of this step."""
        nothing: Look = (float("nan"), None)
        try:
            latents = clean_latents(self.pipe, forward, prediction, size)
        except TraceError:  # epsilon at zero signal says nothing about the picture
            return [[nothing] * len(prediction) for _ in checks]
        finite = latents.isfinite().flatten(1).all(dim=1)
        pictures = self._pictures(torch.where(finite.view(-1, 1, 1, 1), latents, 0.0))
        said = [self._compared(check, pictures) for check in checks]
        return [[look if ok else nothing for look, ok in zip(looks, finite.tolist(), strict=True)] for looks in said]

    def _pictures(self, latents: Tensor) -> list[Image.Image]:
        return small_pictures(self.pipe, latents) if self.preview is None else self.preview.pictures(latents)

    def _compared(self, check: Check, pictures: list[Image.Image]) -> Sequence[Look]:
        if isinstance(check, GalleryPreview):
            assert self.gallery is not None
            return self.gallery.similar(pictures)
        assert self.space is not None
        return self.space.shown(pictures)


def watch_of(pipe: Any, policy: Policy, gallery: Gallery | None, screen: Screen | None) -> PreviewMonitor | None:
    """The watch that a policy asks for with what is protected; None where there is nothing to compare with."""
    space = screen.space if isinstance(screen, Meaning) and screen.space.sees else None
    watch = PreviewMonitor(pipe, policy, gallery, space)
    return watch if watch.checks else None


def picture_size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """(height, width) of a call's pictures in pixels: as asked for, else the pipeline's own."""
    own = getattr(pipe, "default_sample_size", 0)
    sides = own if isinstance(own, list | tuple) else (own, own)
    return tuple(int(given or side * pipe.vae_scale_factor) for given, side in zip((height, width), sides, strict=True))  # type: ignore[return-value]
