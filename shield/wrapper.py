"""`Shield`: a diffusers pipeline that watches itself. Call it like the pipeline; the output has `.verdicts`."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from shield.calibration.on_call import MODES, Effort, OnCall, log
from shield.calibration.setting_call import service_calls
from shield.errors import BadRequestError, NotCalibratedError, ShieldError, WeightsError
from shield.hooks.running import alone
from shield.hooks.ways_in import gives_picture
from shield.model.families import Family, family_of
from shield.model.loading import load
from shield.model.prediction import refuse_unreadable, unreadable
from shield.model_names import is_same
from shield.protected.concepts import shipped_concepts
from shield.protected.gallery import Gallery
from shield.runtime.arguments import (
    as_callback,
    as_gallery,
    as_mode,
    as_pipeline,
    as_policy,
    as_prompts,
    as_rate,
    as_screen,
    as_seconds,
    as_thresholds,
)
from shield.runtime.blind_spots import BlindSpots
from shield.runtime.call import Plan
from shield.runtime.command import calibrate_command, calibrate_watch_command
from shield.runtime.drawing import PipelineCall, draw, hand_out
from shield.runtime.parts import Parts
from shield.runtime.policy import Policy
from shield.runtime.preview_checks import PreviewMonitor, picture_size, watch_of
from shield.runtime.requested import bound_arguments, requested_images, says_something
from shield.runtime.retry import restored_on_error
from shield.runtime.settings import Models, RecognizedModels, setting_of
from shield.runtime.stand_in import StandIn
from shield.thresholds import OWN_CALL, Threshold, asked_to
from shield.types import Screen, Verdict

__all__ = ["Shield", "setting_of"]

# What is checked whenever it is set, by the constructor or later.
_TAKES: dict[str, Callable[[Any], Any]] = {
    "pipe": as_pipeline,
    "policy": as_policy,
    "gallery": as_gallery,
    "concepts": as_screen,
    "thresholds": as_thresholds,
    "calibration": lambda given: as_mode(given, MODES),
    "fpr": as_rate,
    "seconds": as_seconds,
    "on_verdict": as_callback,
}


class Shield(StandIn):
    """Wraps a pipeline so that memorized and protected pictures don't leave it.

    `policy`: a Policy or a preset's name. `gallery`: a folder of pictures, a list of files or pictures, a saved
    gallery's folder or name, or a Gallery; finished pictures are checked against it, and previews with
    Policy(watch_steps=...). `concepts`: a registry's file, a list of names, a Concepts (by spelling) or a Meaning (also
    by what they mean); prompts are screened for them. True stands for the names that ship, which every preset screens
    for by default, and False for none. `thresholds`: a folder or Threshold objects; by default the shipped ones. What
    isn't flagged is bit-equal to the bare pipeline's on the same seed and costs no denoiser call.

    `calibrate`: with "auto" the first call at a setting that no threshold holds for makes one, from the benign prompts
    that ship, and keeps it on this machine ($DIFFSHIELD_HOME, else the user's data folder); with "never" nothing is
    made or read there, and a call that no threshold holds for can't be judged. By default "auto", but "never" where
    `thresholds` are given. `fpr` is the false-alarm rate that is wanted and `seconds` the time that one setting may
    take, by default 120 on a CPU: where that is short, fewer prompts are scored, and the threshold's own `fpr` is
    larger. The logger `shield` says at INFO what is made, and a progress bar shows it where stderr is a terminal.
    `calibrate()` does it ahead, at the start of a service.

    `on_verdict` is called with each Verdict before the call returns, for instance a VerdictLog, which appends it to a
    file; the logger `shield.verdicts` has a record for each at INFO.

    A Shield takes its pipeline's place: `safe.scheduler = other`, `safe.load_lora_weights(file)` and every other
    attribute reach the pipeline, and methods that return it (`safe.to("cuda")`) return the Shield. Its own attributes
    are the constructor's arguments, which can be set later too (`calibrate` as `calibration`), `calibrate()`, `screen`
    and `model_sha256`.

    Threads may share a Shield, and pipelines with Shields of their own a denoiser: calls that have a part in common
    wait for each other. So don't wait within a callback for another thread's call of the same model. A bare pipeline's
    call, in another thread or in a callback, is let through, and isn't judged.

    Raises BadRequestError for an argument of another kind, UnsupportedPipelineError, and NotCalibratedError when a
    check of previews, or with `calibrate="never"` a detector, was never calibrated for this checkpoint (unless the
    policy says to block or pass what it can't judge).
    """

    __slots__ = (
        "__weakref__",
        "_made",
        "_own",
        "_recognized",
        "_watched",
        "calibration",
        "concepts",
        "fpr",
        "gallery",
        "on_verdict",
        "pipe",
        "policy",
        "seconds",
        "thresholds",
    )

    def __init__(
        self,
        pipe: Any,
        policy: Policy | str = "balanced",
        gallery: Gallery | Path | str | Sequence[Any] | None = None,
        concepts: Screen | Path | str | Sequence[Any] | bool | None = None,
        thresholds: Path | str | Iterable[Threshold] | None = None,
        calibrate: str | None = None,
        fpr: float = 0.01,
        seconds: float | None = None,
        on_verdict: Callable[[Verdict], Any] | None = None,
    ) -> None:
        self.pipe: Any = pipe
        self.policy: Policy = policy  # type: ignore[assignment]
        self.gallery: Gallery | None = gallery  # type: ignore[assignment]
        self.concepts: Screen | None = concepts  # type: ignore[assignment]
        self.thresholds: list[Threshold] = thresholds  # type: ignore[assignment]
        self.calibration: str = calibrate or ("auto" if thresholds is None else "never")
        self.fpr, self.seconds, self.on_verdict = fpr, seconds, on_verdict
        self._made = OnCall()
        self._recognized = RecognizedModels()
        self._own: str | None = None
        self._watched: tuple[Any, PreviewMonitor | None] | None = None
        self._refuse_uncalibrated()

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", dtype: Any = None, **options: Any) -> "Shield":
        """Loads a checkpoint and wraps it: `options` of Shield are Shield's, others `load`'s (shield/model/loading.py),
        as diffusers' from_pretrained takes them: variant, revision, token, torch_dtype.

        Raises:
            BadRequestError: As Shield and `load`.
            WeightsError: As `load`.
        """
        own = {option: options.pop(option) for option in inspect.signature(cls).parameters if option in options}
        return cls(load(name, device, dtype, **options), **own)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _TAKES[name](value) if name in _TAKES else value)

    def calibrate(
        self,
        sizes: Sequence[tuple[int, int]] | None = None,
        strengths: Sequence[float] | None = None,
        steps: int | Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        fpr: float | None = None,
        **call: Any,
    ) -> list[Threshold]:
        """Makes and keeps now what later calls would make, for a service to run at start. What is known costs nothing,
        and of several processes one makes it while the others wait.

        Args:
            sizes: (height, width) of the pictures that will be asked for; the pipeline's own by default.
            strengths: Of image to image and inpainting, likewise.
            steps: Numbers of steps, likewise. Most detectors read the first step alone, whose timestep few schedulers
                make depend on it.
            prompts: Benign prompts instead of those that ship: all of them, as far as `seconds` allow.
            fpr: The wanted false-alarm rate, which becomes the Shield's own.
            call: Other arguments of the calls, such as a distilled model's `guidance_scale`.

        Returns:
            The thresholds that hold there, one for each detector and setting. Those that were given or shipped come
            first. `fpr` of each is the rate it stands for, larger than the wanted one where time was short.

        Raises:
            BadRequestError: The pipeline takes no such argument, or there are no prompts.
            ShieldError: The pipeline can't be calibrated.
        """
        self.fpr = self.fpr if fpr is None else fpr
        effort = Effort(self.fpr, self.seconds, as_prompts(prompts))
        with alone(self.pipe):
            calls = service_calls(self.pipe, sizes, strengths, steps, call)
            return self._made.ahead(
                self.pipe, self.policy.calibrated_ahead, calls, self._models(), self.thresholds, effort
            )

    @property
    def screen(self) -> Screen | None:
        """What prompts are screened for: `concepts`, else the names that ship, where the policy has it so."""
        return shipped_concepts() if self.concepts is None and self.policy.registry else self.concepts

    @property
    def family(self) -> Family:
        """What the shield knows about pipelines of this kind."""
        return family_of(self.pipe)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own call and output, with `.verdicts` (list of Verdict, one per image).

        Raises BadRequestError for prompts the pipeline can't use, NotCalibratedError or MissingSignalError when an
        image can't be judged and the policy says to raise. After an exception hooks, scheduler and generators are as
        they were.
        """
        with alone(self.pipe), _without_inference_mode():
            return self._called(args, kwargs)

    def _called(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        started = perf_counter()
        request, named = bound_arguments(self.pipe, args, kwargs)
        if self.gallery and self.pipe.vae is None:
            raise BadRequestError(
                f"A gallery compares finished pictures, and this {type(self.pipe).__name__} has no autoencoder (vae) "
                "to make them; give it one, or take the gallery away."
            )
        blind_spots = BlindSpots.of(request, self.gallery, self.pipe, partial(Parts, self.pipe, self._recognized))
        call = PipelineCall(blind_spots.arguments(request, named), request, blind_spots)
        images, models = requested_images(request, self.screen), self._models()
        before = perf_counter() - started
        thresholds = self._thresholds(request, models)
        started = perf_counter()
        plan = self._plan(request, models, thresholds)
        before += perf_counter() - started
        with restored_on_error(self.pipe, request.get("generator")):
            return hand_out(draw(self.pipe, plan, call, images), plan, blind_spots, before, self.on_verdict)

    def _thresholds(self, request: Mapping[str, Any], models: Models) -> list[Threshold]:
        """The thresholds for this call: those given or shipped, and where none of them holds those that were made."""
        makes, detectors = self.calibration == "auto", self.policy.calibrated_ahead
        if not (makes or self._made.has_made) or (detectors and self._unreadable()):
            return self.thresholds
        effort = Effort(self.fpr, self.seconds)
        try:
            return [
                *self.thresholds,
                *self._made.of(self.pipe, detectors, request, models, self.thresholds, effort, makes),
            ]
        except ShieldError as error:
            if self.policy.on_unscored == "raise" or isinstance(error, WeightsError):
                raise
            log.warning(f"This call can't be judged, because nothing could be calibrated for it: {error}")
            return self.thresholds

    def _plan(self, request: Mapping[str, Any], models: Models, thresholds: Sequence[Threshold]) -> Plan:
        stacked = self.family.layout == "stacked"
        named = [request.get(name) for name in ("negative_prompt", "negative_prompt_2", "negative_prompt_3")]
        zeros = self.pipe.config.get("force_zeros_for_empty_prompt", False)
        negative = any(says_something(n) or (zeros and n is not None) for n in named)
        given = [request.get(n) is not None for n in ("negative_prompt_embeds", "negative_pooled_prompt_embeds")]
        separate = {  # as the pipelines decide
            "negative": request.get("negative_prompt") is not None or all(given),
            "undistilled": not self.pipe.config.get("is_distilled", False),
        }.get(self.family.guided or "", True)
        scale = self._guidance_scale(request)
        return Plan(
            family=self.family,
            policy=self.policy,
            thresholds=thresholds,
            models=models,
            guided=not stacked and separate and scale > 1.0,
            own_uncond=negative or any(given),
            screen=self.screen,
            watch=self._watch(),
            size=picture_size(self.pipe, request.get("height"), request.get("width")),
            gallery=self.gallery,
            from_picture=gives_picture(request),
            unreadable=self._unreadable(),
            calibrate=partial(self._calibrate_command, request),
            calibrate_watch=partial(calibrate_watch_command, self.pipe, self.policy.watch_steps, request),
        )

    def _calibrate_command(self, request: Mapping[str, Any]) -> str:
        return calibrate_command(self.pipe, [detector.name for detector in self.policy.detectors], request)

    def _unreadable(self) -> str | None:
        """Why the scheduler's steps can't be judged; None when they can be, or nothing looks at steps.

        Raises UnsupportedPipelineError or TraceError instead where the policy says to raise, before the first step.
        """
        if not self.policy.detectors and self._watch() is None:
            return None
        if self.policy.on_unscored == "raise":
            refuse_unreadable(self.pipe.scheduler)
        return unreadable(self.pipe.scheduler)

    def _watch(self) -> PreviewMonitor | None:
        """What is looked for on the way; made anew when the gallery was filled or the autoencoder exchanged."""
        now = (self.pipe.vae, self.gallery, bool(self.gallery))
        if self._watched is None or self._watched[0] != now:
            self._watched = (now, watch_of(self.pipe, self.policy, self.gallery, self.concepts))
        return self._watched[1]

    def _guidance_scale(self, request: Mapping[str, Any]) -> float:
        return self.family.scale(request.get(self.family.guidance))

    @property
    def model_sha256(self) -> str:
        """The denoiser's name (shield/model/fingerprint.py), looked up anew when it has changed. Where text encoders or
        ControlNet are no longer those that were wrapped, a name of both.
        """
        models = self._models()
        if models.conditioning == self._own:
            return models.denoiser
        return sha256(f"{models.denoiser} {models.conditioning}".encode()).hexdigest()

    def _models(self) -> Models:
        """Names of what runs now."""
        models = self._recognized.of(self.pipe, watched=self._watch() is not None)
        self._own = self._own or models.conditioning
        return models

    def _refuse_uncalibrated(self) -> None:
        if self.policy.on_unscored != "raise":
            return
        models = self._models()
        made = {t.detector for t in self.thresholds if is_same(t.setting.model_sha256, models.denoiser)}
        detectors = self.policy.detectors if self.calibration == "never" else ()
        command, itself = self._calibrate_command({}), "wrap it with calibrate='auto'"
        ways = itself if command.startswith(OWN_CALL) else f"{itself}, {asked_to(command)}"
        needed = [(detector.name, ways) for detector in detectors]
        watch, command = self._watch(), calibrate_watch_command(self.pipe, self.policy.watch_steps)
        needed += [(check.name, asked_to(command)) for check in (watch.checks if watch else ())]
        for name, ways in needed:
            if name not in made:
                raise NotCalibratedError(
                    f"{name} was never calibrated for this checkpoint ({models.denoiser[:12]}); "
                    f"{ways}, or choose a policy with on_unscored='block' or 'pass'."
                )


@contextmanager
def _without_inference_mode() -> Iterator[None]:
    """Mitigations differentiate, which tensors of `torch.inference_mode` can't be; without gradients all the same."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield
