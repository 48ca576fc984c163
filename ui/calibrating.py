"""Whether a model is calibrated for what is asked, how long calibrating takes, and doing it with its progress told.

The page doesn't calibrate with a picture, as a Shield's first call does: whoever waits for a picture wasn't asked.
Until somebody presses the button, names and protected pictures alone are looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shield.calibration.budget import prompts_needed
from shield.calibration.on_call import CPU_SECONDS, Effort
from shield.calibration.setting_call import call_arguments, foretold_setting
from shield.calibration.store import Store
from shield.errors import NotCalibratedError, ShieldError
from shield.hooks.calls import hooked, named_arguments
from shield.hooks.intercept import denoiser_of
from shield.model.families import family_of
from shield.runtime.policy import preset
from shield.runtime.settings import RecognizedModels
from shield.thresholds import Threshold, found
from shield.wrapper import Shield
from ui.request import DrawingRequest

ROWS = 2 * prompts_needed(Effort().fpr) + 1
"""Benign prompts that a calibration scores, at one denoiser evaluation each."""


@dataclass(frozen=True)
class Calibrating:
    """How far a calibration is: denoiser evaluations."""

    done: int
    total: int = ROWS


def is_calibrated(pipe: Any, models: RecognizedModels, asked: DrawingRequest, thresholds: Sequence[Threshold]) -> bool:
    """Whether one of these thresholds, or of those that this machine made, holds for each detector of what is asked.

    True as well where that can't be told, so that the Shield says why.
    """
    detectors = preset(asked.policy).detectors
    try:
        named = models.of(pipe, watched=False)
        horizon = max((one.first_k for one in detectors), default=1)
        setting = foretold_setting(pipe, call_arguments(_call(asked)), horizon, named)
    except ShieldError:
        return True
    kept = [one for one in Store().of_checkpoint(named.denoiser) if Effort().is_met(one)]
    return all(_holds([*thresholds], one, setting) or _any_holds(kept, one, setting) for one in detectors)


def _holds(thresholds: Sequence[Threshold], detector: Any, setting: Any) -> bool:
    try:
        return bool(found(thresholds, detector, setting))
    except NotCalibratedError:
        return False


def _any_holds(kept: Sequence[Threshold], detector: Any, setting: Any) -> bool:
    """Of those that were made here several may hold, and the newest decides."""
    return any(_holds([one], detector, setting) for one in kept)


def calibrate(pipe: Any, asked: DrawingRequest, tell: Callable[[Calibrating], None]) -> None:
    """Makes and keeps the thresholds for what is asked. `tell` may raise to cancel: nothing is kept then.

    Raises:
        ShieldError: The pipeline can't be calibrated.
    """
    family, done = family_of(pipe), 0

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal done
        done += len(named_arguments(family, args, kwargs)[family.sample])
        tell(Calibrating(min(done, ROWS)))

    with hooked(denoiser_of(pipe), count):
        Shield(pipe, preset(asked.policy)).calibrate(
            **{name: value for name, value in _call(asked).items() if name != "num_inference_steps"}, steps=asked.steps
        )


def duration(pipe: Any, seconds: float, evaluations: int) -> str:
    """About how long a calibration takes here, in words, where so many evaluations took so many seconds."""
    wanted = ROWS * seconds / max(evaluations, 1)
    on_cpu = pipe._execution_device.type == "cpu"
    minutes = math.ceil((min(wanted, CPU_SECONDS) if on_cpu else wanted) / 60)
    return "up to a minute" if minutes <= 1 else f"about {minutes} minutes"


def _call(asked: DrawingRequest) -> dict[str, Any]:
    return {"num_inference_steps": asked.steps, "guidance_scale": asked.guidance_scale}
