"""Thresholds for the setting of a call that is about to run: found, or made from the benign prompts that ship, once.

The setting is foretold without a denoiser call (`foretold_setting`) and looked up in turn among the thresholds that
were given or shipped, those that this process made, and those that this machine keeps (shield/calibration/store.py).
Where none holds, they are made and kept. The answer is remembered by the call's arguments.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from shield.benign.prompts import digest_of
from shield.calibration.self_calibrate import Progress, self_calibrate
from shield.calibration.setting_call import call_arguments, foretold_setting
from shield.calibration.store import Store
from shield.errors import NotCalibratedError
from shield.model.families import family_of
from shield.runtime.settings import ENCODERS, Models
from shield.runtime.trajectory import DetectorAt, threshold_at
from shield.thresholds import Setting, Threshold, found, options_of
from shield.types import Detector

CPU_SECONDS = 120.0
WHOLE = 1 << 20  # more steps than a schedule has
MODES = ("auto", "never")
log = logging.getLogger("shield")


@dataclass(frozen=True)
class Effort:
    """What a calibration is to reach and may cost: the false-alarm rate, and the time (None: 120 s on a CPU, and as
    long as it takes elsewhere). `prompts`: benign ones instead of those that ship.
    """

    fpr: float = 0.01
    seconds: float | None = None
    prompts: tuple[str, ...] | None = None

    def is_met(self, threshold: Threshold) -> bool:
        """Whether a threshold was made for this rate and, where prompts are named, on these."""
        about = threshold.provenance
        own = self.prompts is None or about.get("asked_sha256") == digest_of(list(self.prompts))
        return own and about.get("wanted_fpr") == self.fpr


class OnCall:
    """Finds or makes what calls of one Shield need, and remembers it."""

    def __init__(self) -> None:
        self._answers: dict[Any, tuple[tuple[Threshold, ...], list[Threshold]]] = {}
        self._made: list[Threshold] = []

    @property
    def has_made(self) -> bool:
        """Whether this process made any threshold."""
        return bool(self._made)

    def of(
        self,
        pipe: Any,
        detectors: Sequence[Detector | DetectorAt],
        request: Mapping[str, Any],
        models: Models,
        given: Sequence[Threshold],
        effort: Effort,
        makes: bool = True,
    ) -> list[Threshold]:
        """One threshold for each detector that none of `given` holds for; without those that this call can't show.

        Args:
            pipe: The pipeline, left as it was.
            detectors: Of the policy.
            request: All of the call's arguments by name.
            models: Names of what runs now.
            given: Thresholds that come before those that were made.
            effort: What a calibration is to reach and may cost.
            makes: Whether thresholds are made, or read from where this machine keeps them, where there are none.

        Raises:
            ShieldError: As `foretold_setting` and `self_calibrate`.
        """
        if not detectors or all(getattr(pipe, name, None) is None for name in ENCODERS):
            return []
        call = _sized(pipe, request)
        key = (_told(call), tuple(map(id, given)), tuple(detectors), models, effort, makes, _state(pipe))
        if key not in self._answers:
            answer = self._answer(pipe, detectors, call, models, given, effort, makes)
            self._answers[key] = (tuple(given), answer)  # kept, so that no other object gets a threshold's id
        return self._answers[key][1]

    def ahead(
        self,
        pipe: Any,
        detectors: Sequence[Detector | DetectorAt],
        calls: Sequence[Mapping[str, Any]],
        models: Models,
        given: Sequence[Threshold],
        effort: Effort,
    ) -> list[Threshold]:
        """The thresholds that these calls, arguments by name, will ask for: found or made, each once.

        Raises:
            ShieldError: As `foretold_setting` and `self_calibrate`.
        """
        held: list[Threshold] = []
        for call in calls if detectors else ():
            made = self._answer(pipe, detectors, call_arguments(call), models, given, effort, makes=True)
            setting = foretold_setting(pipe, call_arguments(call), _horizon(detectors), models)
            found_here = [_given(given, one, setting) or _first(made, one, setting) for one in detectors]
            held += [one for one in found_here if one is not None and one not in held]
            self._made = [*(one for one in made if one not in self._made), *self._made]
        return held

    def _answer(
        self,
        pipe: Any,
        detectors: Sequence[Detector | DetectorAt],
        call: Mapping[str, Any],
        models: Models,
        given: Sequence[Threshold],
        effort: Effort,
        makes: bool,
    ) -> list[Threshold]:
        looks = [one for one in detectors if isinstance(one, DetectorAt)]
        setting = foretold_setting(pipe, call, _horizon(detectors), models)
        shown = [one for one in detectors if one in looks or one.first_k <= len(setting.timesteps)]
        needed = [one for one in shown if _given(given, one, setting) is None]
        kept = [one for one in self._made if effort.is_met(one)]
        if makes and any(_first(kept, one, setting) is None for one in needed):
            own = Store().of_checkpoint(models.denoiser)
            kept += [one for one in own if effort.is_met(one)]
        held = [(one, _first(kept, one, setting)) for one in needed]
        missing = [one for one, threshold in held if threshold is None]
        if any(one in looks for one in missing):  # those of one budget are made together
            given_or_held = [(one, threshold) for one, threshold in held if one not in looks]
            held, missing = given_or_held, [one for one in detectors if one in looks or one in missing]
        made = self._once(pipe, missing, call, setting, models, effort) if makes and missing else []
        return [*made, *(threshold for _, threshold in held if threshold is not None)]

    def _once(
        self,
        pipe: Any,
        detectors: Sequence[Detector | DetectorAt],
        call: Mapping[str, Any],
        setting: Setting,
        models: Models,
        effort: Effort,
    ) -> list[Threshold]:
        """The thresholds of one setting, which are made by one process and kept for the others."""
        named = [[one.name, options_of(one)] for one in detectors]
        alike = setting if any(one.first_k > 1 for one in detectors) else _first_step_alone(setting)
        asked = [] if effort.prompts is None else [digest_of(list(effort.prompts))]
        entry, store = [named, alike, effort.fpr, *asked], Store()

        def make() -> list[Threshold]:
            where = store.entry(models.denoiser, entry)
            return _made(pipe, detectors, call, setting, models, effort, f"kept in {where}")

        def wait() -> None:
            log.info("Another process calibrates this checkpoint at this setting; waiting for it.")

        made = store.made_once(models.denoiser, entry, make, wait)
        self._made = [*made, *self._made]
        return made


def _made(
    pipe: Any,
    detectors: Sequence[Detector | DetectorAt],
    call: Mapping[str, Any],
    setting: Setting,
    models: Models,
    effort: Effort,
    where: str,
) -> list[Threshold]:
    names = " and ".join(dict.fromkeys(one.name for one in detectors))
    points = sorted({one.point for one in detectors if isinstance(one, DetectorAt)})
    names += f" at {', '.join(f'{point:g}' for point in points)} of the schedule" if points else ""
    on_cpu = pipe._execution_device.type == "cpu"  # what is offloaded lies on the CPU, and runs elsewhere
    seconds = CPU_SECONDS if effort.seconds is None and on_cpu else effort.seconds
    said = (
        f"Calibrating {names} for this checkpoint ({models.denoiser[:12]}) on benign prompts, once for latents of "
        f"{list(setting.latent_shape)} from timestep {setting.timesteps[0]:g}; {where}."
    )
    log.info(said)
    with _bar(said) as progress:
        made = self_calibrate(
            pipe,
            detectors,
            call,
            fpr=effort.fpr,
            prompts=effort.prompts,
            seconds=seconds,
            models=models,
            progress=progress,
        )
    about = made[0].provenance
    short = f" instead of {effort.fpr:.2%}, which the time didn't allow" if made[0].fpr > effort.fpr else ""
    low, high = about["rate_interval"]
    log.info(
        f"Calibrated {names} on {made[0].negatives} prompts in {about['seconds']:.0f} s ({about['evaluations']} "
        f"denoiser evaluations): at most {made[0].fpr:.2%} of prompts like these are flagged{short}; "
        f"with 95 % confidence between {low:.2%} and {high:.2%}."
    )
    return made


@contextmanager
def _bar(said: str) -> Iterator[Callable[[Progress], None] | None]:
    """The sentence and a progress bar on stderr, where somebody reads it; otherwise nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    console.print(said, markup=False, highlight=False)
    columns = (TextColumn("calibrating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("calibrating", total=None)
        yield lambda far: bar.update(task, completed=far.done, total=far.total)


def _horizon(detectors: Sequence[Detector | DetectorAt]) -> int:
    """How many first steps of a schedule their settings name."""
    return max(WHOLE if isinstance(one, DetectorAt) else one.first_k for one in detectors)


def _given(thresholds: Iterable[Threshold], detector: Detector | DetectorAt, setting: Setting) -> Threshold | None:
    """The one that holds, or None. Raises WeightsError where two different ones hold."""
    try:
        if isinstance(detector, DetectorAt):
            return threshold_at(thresholds, detector, setting, len(setting.timesteps))
        return found(thresholds, detector, setting)
    except NotCalibratedError:
        return None


def _first(thresholds: Iterable[Threshold], detector: Detector | DetectorAt, setting: Setting) -> Threshold | None:
    """The first that holds, or None: of those that were made, several may."""
    return next((one for one in thresholds if _given([one], detector, setting) is not None), None)


def _first_step_alone(setting: Setting) -> Setting:
    """What a first-step score depends on, so that calls with other numbers of steps share an entry."""
    return replace(setting, steps=0, guidance_scale=0.0, scheduler="", caches=None)


def _sized(pipe: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that move a score; of given latents, which aren't among them, the size."""
    call = call_arguments({name: value for name, value in request.items() if name != "self"})
    latents = request.get("latents")
    if isinstance(latents, torch.Tensor) and latents.ndim == 4 and not family_of(pipe).packed and "height" in request:
        height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
        call |= {"height": height, "width": width}
    return call


def _state(pipe: Any) -> tuple[Any, ...]:
    """What of the pipeline itself moves a score, beside its models."""
    scheduler = pipe.scheduler
    return type(scheduler).__name__, repr(sorted(scheduler.config.items()))


def _told(value: Any) -> Any:
    """Something equal for arguments that lead to the same setting: of pictures and large arrays the size."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), _told(one)) for name, one in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(_told, value))
    if isinstance(value, Image.Image):
        return ("picture", value.size)
    if isinstance(value, torch.Tensor | np.ndarray):
        return ("array", tuple(value.shape))
    return repr(value)
