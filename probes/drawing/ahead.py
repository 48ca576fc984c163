"""Which threshold will flag, known before the first denoiser call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from probes.drawing.draw import Sampling
from probes.types import Subject
from shield.calibration.setting_call import foretold_setting
from shield.errors import NotCalibratedError
from shield.runtime.command import calibrate_command
from shield.thresholds import Threshold, found
from shield.types import Detector


def threshold_ahead(
    subject: Subject, sampling: Sampling, detector: Detector, thresholds: Sequence[Threshold]
) -> tuple[Threshold | None, str | None]:
    """The threshold that holds for this detector at this sampling; None, and why, where there is none."""
    call = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
    try:
        setting = foretold_setting(subject.pipe, call, detector.first_k)
        command = partial(calibrate_command, subject.pipe, [detector.name], call, subject.name)
        return found(thresholds, detector, setting, command), None
    except NotCalibratedError as error:
        return None, str(error)
