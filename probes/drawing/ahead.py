"""Which threshold will flag, known before the first denoiser call."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.drawing.draw import Sampling
from probes.types import Subject
from shield.calibration.setting_call import foretold_setting
from shield.errors import NotCalibratedError
from shield.runtime.command import calibrate_command
from shield.thresholds import OWN_CALL, Threshold, found
from shield.types import Detector


def threshold_ahead(
    subject: Subject,
    sampling: Sampling,
    detector: Detector,
    thresholds: Sequence[Threshold],
    folder: Path | str | None = None,
) -> tuple[Threshold | None, str | None]:
    """The threshold that holds for this detector at this sampling; None, and why, where there is none. ``folder`` is
    where thresholds are looked for, unless it is the usual place.
    """
    call = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
    try:
        setting = foretold_setting(subject.pipe, call, detector.first_k)
        return found(thresholds, detector, setting, lambda: _command(subject, detector, call, folder)), None
    except NotCalibratedError as error:
        return None, str(error)


def _command(subject: Subject, detector: Detector, call: Mapping[str, Any], folder: Path | str | None) -> str:
    command = calibrate_command(subject.pipe, [detector.name], call, subject.name)
    is_own = folder is None or command.startswith(OWN_CALL)
    return command if is_own else f"{command} --out {shlex.quote(str(folder))}"
