"""Previews of one call's images, compared with what is protected."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from shield.errors import MissingSignalError, NotCalibratedError
from shield.hooks.forward import Forward
from shield.runtime.call import CallState, ImageState
from shield.runtime.preview_checks import Check, Look
from shield.runtime.scoring import NO_NUMBER, scored
from shield.thresholds import Threshold, found


class Previews:
    """Looks at the images of one call where a check is due."""

    def __init__(self, call: CallState) -> None:
        self.call = call

    def score(self, forward: Forward, prediction: Tensor, images: Sequence[ImageState]) -> None:
        """Writes down what each due check says about these images' rows of a conditional prediction (B, ...)."""
        said = self.looks(forward, prediction, [image.row for image in images])
        for check, values in zip(self.call.due, said, strict=True):
            limit = self.limit(check, forward)
            for image, (value, nearest) in zip(images, values, strict=True):
                why = "it has no threshold at this step" if limit is None else NO_NUMBER if value != value else None
                image.scores.append(scored(check.name, value, limit, forward.index, nearest, why))

    def looks(self, forward: Forward, prediction: Tensor, rows: Sequence[int]) -> list[list[Look]]:
        """What each due check says about these rows of a conditional prediction (B, ...)."""
        assert self.call.plan.watch is not None
        picked = replace(forward, latents=forward.latents[list(rows)])
        looks = self.call.plan.watch.seen(picked, prediction[list(rows)], self.call.due, self.call.plan.size)
        if self.call.policy.on_unscored == "raise" and any(value != value for said in looks for value, _ in said):
            raise MissingSignalError("A preview shows no picture: the latents hold NaN, or this step predicts none.")
        return looks

    def limit(self, check: Check, forward: Forward) -> Threshold | None:
        """The check's threshold at this step; None where there is none and the policy doesn't say to raise."""
        setting = self.call.setting(forward, [(forward.timestep, forward.signal)])
        self.call.settings[check] = replace(setting, autoencoder_sha256=self.call.plan.models.autoencoder)
        try:
            return found(self.call.plan.thresholds, check, self.call.settings[check], self.call.plan.calibrate_watch)
        except NotCalibratedError:
            if self.call.policy.on_unscored == "raise":
                raise
            return None

    def passes(self, forward: Forward, image: ImageState, prediction: Tensor) -> bool:
        """Whether every check that is due at the current step passes this image's (1, ...) prediction."""
        if not self.call.due:
            return True
        alone = replace(forward, latents=forward.latents[[image.row]])
        limits = [self.limit(check, forward) for check in self.call.due]
        values = [said[0][0] for said in self.looks(alone, prediction, [0])]
        unjudged = self.call.policy.on_unscored == "pass"
        pairs = zip(values, limits, strict=True)
        return all(unjudged if limit is None else value <= limit.value for value, limit in pairs)
