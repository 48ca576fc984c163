"""Thresholds for one checkpoint at one setting from the benign prompts that ship, at one denoiser evaluation each.

A first-step score compares two predictions for pure noise. The conditional one is made for each prompt, with guidance
off; the unconditional one depends on the noise alone, so it is made once for each of a few noises and shared by all
prompts (shield/hooks/shared_uncond.py). Detectors that read later steps, where the picture depends on guidance, need
the guided steps themselves, and so does a ControlNet in guess mode, which leaves the unconditional half without
control.

A few noises for many prompts: prompts are spread over them evenly, in the order of `benign_prompts`, so that however
far a calibration gets, it has seen every kind of prompt. The threshold's rate is over prompts and noises like these.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from shield.benign.prompts import benign_prompts, digest_of
from shield.calibration.budget import prompts_needed, rate_interval, smallest_rate
from shield.calibration.detectors import denoiser_input, versions
from shield.calibration.score_log import ScoreLog
from shield.calibration.setting_call import NOISE, guidance_of, rows_of, with_pictures
from shield.calibration.trajectories import (
    asked_detectors,
    draws_needed,
    joint_thresholds,
    scores_in,
    settings_of,
    smallest_joint_rate,
)
from shield.calibration.untouched import untouched
from shield.errors import BadRequestError
from shield.hooks.calls import hooked, named_arguments
from shield.hooks.intercept import denoiser_of
from shield.hooks.recording import recorded
from shield.hooks.shared_uncond import SharedUncond
from shield.model.families import family_of
from shield.model.memory import free_memory, out_of_memory
from shield.runtime.settings import Models, models_of, running_setting
from shield.runtime.trajectory import DetectorAt, points_read
from shield.thresholds import Setting, Threshold, calibrated
from shield.types import Detector, Trace

FEWEST = 19  # prompts that are scored however long it takes: a rate of 5 %
CPU_BATCH, GPU_BATCH = 4, 8


@dataclass(frozen=True)
class Progress:
    """How far a calibration is: prompts `done` of `total`, after `seconds`. `total` falls where time runs short."""

    done: int
    total: int
    seconds: float

    @property
    def remaining(self) -> float:
        """Seconds that the rest takes at the speed so far."""
        return self.seconds / max(self.done, 1) * (self.total - self.done)


@dataclass
class CalibrationScores:
    """What a calibration has found: scores by detector or look, in the order of the prompts that were `used`, the
    settings that they hold for, the noises' `seeds`, and the denoiser `evaluations` (rows) spent.
    """

    scores: dict[Any, list[float]]
    settings: dict[Any, Setting] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    evaluations: int = 0
    seconds: float = 0.0


def self_calibrate(
    pipe: Any,
    detectors: Sequence[Detector | DetectorAt],
    call: Mapping[str, Any] | None = None,
    *,
    fpr: float = 0.01,
    prompts: Sequence[str] | None = None,
    noises: int = 8,
    seeds: Sequence[int] | None = None,
    batch_size: int | None = None,
    seconds: float | None = None,
    log: ScoreLog | None = None,
    model: str = "this checkpoint",
    models: Models | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[Threshold]:
    """One threshold for each detector at the setting of a call. The pipeline is left as it was, to the bit.

    Args:
        pipe: A loaded pipeline of a known family, with the scheduler that it is used with.
        detectors: What to calibrate; those with `first_k=1` cost one evaluation a prompt and one a noise. Looks at
            points of the schedule share one false-alarm rate and cost the guided steps as far as the last of them.
        call: The call's arguments without prompt and noise, as `call_arguments` returns them: height, width,
            num_inference_steps, guidance_scale, strength, image and so on.
        fpr: The wanted false-alarm rate.
        prompts: Benign prompts, in the order in which they are to be used; by default shipped ones, twice as many as
            the rate needs and one more.
        noises: How many noises the prompts are spread over.
        seeds: Noises that each prompt is scored with, instead.
        batch_size: Prompts at once; fewer where memory is short.
        seconds: Time after which no batch is begun, once 19 prompts are scored. Thresholds then stand for the rate
            that so many prompts allow, which is `fpr` of the Threshold.
        log: Scores of an earlier attempt, which are taken from there, and where new ones are kept.
        model: The checkpoint's name, for the file and whoever reads it.
        models: Names of what moves a score, where they are known already.
        progress: Told after each batch.

    Returns:
        Thresholds in the detectors' order. Their provenance says which prompts, how many noises, evaluations and
        seconds, which rate was wanted, and between which rates their own one lies with 95 % confidence.

    Raises:
        BadRequestError: No prompts or detectors, or scores that are no numbers.
        UnsupportedPipelineError, TraceError: The pipeline or its scheduler can't be read.
        MissingSignalError: A detector needs what this pipeline doesn't show.
    """
    looks = [one for one in detectors if isinstance(one, DetectorAt)]
    chosen = benign_prompts("calibration", _usual_count(fpr, looks)) if prompts is None else list(prompts)
    if not chosen or not detectors or noises < 1:
        raise BadRequestError(
            f"{len(chosen)} prompts, {len(detectors)} detectors and {noises} noises were given; one of each is needed."
        )
    batch = batch_size or (CPU_BATCH if pipe._execution_device.type == "cpu" else GPU_BATCH)
    usual = [NOISE + place for place in range(noises)]
    chunks = _batches(chosen, usual, batch) if seeds is None else _every(chosen, seeds, batch)
    found = _Work(pipe, detectors, call or {}, models or models_of(pipe), log).scored(chunks, batch, seconds, progress)
    rate = max(fpr, smallest_rate(len(found.used)))
    about = _provenance(found, "benign prompts that ship, calibration half" if prompts is None else "given", fpr)
    about |= {"asked_sha256": digest_of(chosen)}
    made: dict[Any, Threshold] = {}
    if looks:
        joint = max(fpr, smallest_joint_rate(len(found.used), len(asked_detectors(looks))))
        thresholds = joint_thresholds(looks, found.scores, found.settings, joint, model, about)
        made = dict(zip(looks, thresholds, strict=True))
    about |= {"rate_interval": list(rate_interval(len(found.used), rate))}
    for one in detectors:
        if one not in made:
            made[one] = calibrated(one, found.scores[one], rate, found.settings[one], model, about)
    return [made[one] for one in detectors]


def _provenance(found: CalibrationScores, source: str, fpr: float) -> dict[str, Any]:
    return {
        "source": source,
        "prompts": len(set(found.used)),
        "prompts_sha256": digest_of(found.used),
        "seeds": found.seeds,
        "wanted_fpr": fpr,
        "evaluations": found.evaluations,
        "seconds": round(found.seconds, 2),
        "versions": versions(),
    }


def _usual_count(fpr: float, looks: Sequence[DetectorAt] = ()) -> int:
    needed = draws_needed(fpr, len(asked_detectors(looks))) if looks else prompts_needed(fpr)
    return min(2 * needed + 1, len(benign_prompts("calibration")))


class _Work:
    """Scores prompts at one setting."""

    def __init__(
        self,
        pipe: Any,
        detectors: Sequence[Detector | DetectorAt],
        call: Mapping[str, Any],
        models: Models,
        log: ScoreLog | None,
    ) -> None:
        self.pipe, self.models, self.family = pipe, models, family_of(pipe)
        self.log, self.named = log, {repr(one): one for one in detectors}
        self.call = with_pictures(pipe, call)
        self.shared = SharedUncond(pipe)
        guess = bool(self.call.get("guess_mode"))
        self.looks = [one for one in detectors if isinstance(one, DetectorAt)]
        plain = [one for one in detectors if not isinstance(one, DetectorAt)]
        at_once = [one for one in plain if one.first_k == 1 and not guess]
        others = [one for one in plain if one not in at_once]
        self.groups = [(group, group is at_once) for group in (at_once, others) if group]
        self.found = CalibrationScores({detector: [] for detector in detectors})

    @torch.inference_mode()
    def scored(
        self,
        chunks: Sequence[tuple[Sequence[str], int]],
        batch_size: int,
        seconds: float | None,
        progress: Callable[[Progress], None] | None,
    ) -> CalibrationScores:
        """Every chunk's scores, or those of as many as the time allows."""
        started, total = perf_counter(), sum(len(prompts) for prompts, _ in chunks)
        with untouched(self.pipe), self._counted():
            batches, limit = deque(chunks), batch_size
            while batches and not self._is_late(started, seconds, len(batches[0][0])):
                batch, seed = batches.popleft()
                try:
                    self._score(batch[:limit], seed)
                except RuntimeError as error:
                    if not out_of_memory(error) or len(batch[:limit]) == 1:
                        raise
                    limit = len(batch[:limit]) // 2
                    batches.appendleft((batch, seed))
                    free_memory()
                    continue
                if batch[limit:]:
                    batches.appendleft((batch[limit:], seed))
                self.found.seconds = perf_counter() - started
                if progress is not None:
                    progress(self._progress(total, seconds))
        return self.found

    def _is_late(self, started: float, seconds: float | None, more: int) -> bool:
        """Whether the next batch would end after the time that is given."""
        done = len(self.found.used)
        if seconds is None or done < FEWEST:
            return False
        spent = perf_counter() - started
        return spent + more * spent / done > seconds

    def _progress(self, total: int, seconds: float | None) -> Progress:
        done, spent = len(self.found.used), self.found.seconds
        if seconds is not None:
            total = min(total, max(done, FEWEST, int(seconds * done / spent)))
        return Progress(done, total, spent)

    def _score(self, prompts: Sequence[str], seed: int) -> None:
        kept = self._kept(prompts, seed)
        found = self._fresh(prompts, seed) if kept is None else kept
        if self.log is not None and kept is None:
            self.log.keep(prompts, seed, {name: found[one] for name, one in self.named.items()})
        for one, values in found.items():
            self.found.scores[one] += values
        self.found.used += prompts
        self.found.seeds = sorted({*self.found.seeds, seed})

    def _kept(self, prompts: Sequence[str], seed: int) -> dict[Any, list[float]] | None:
        """The scores of an earlier attempt, once a first batch has shown what they hold for."""
        held = None if self.log is None or not self.found.settings else self.log.known(prompts, seed)
        return None if held is None else {self.named[name]: values for name, values in held.items()}

    def _fresh(self, prompts: Sequence[str], seed: int) -> dict[Any, list[float]]:
        found: dict[Any, list[float]] = {}
        for group, is_alone in self.groups:
            trace = self._trace(group, is_alone, prompts, seed)
            for detector in group:
                found[detector] = detector.score(trace).tolist()
                if detector not in self.found.settings:
                    self.found.settings[detector] = self._setting(trace)
        if self.looks:
            detectors = [one.detector for one in self.looks]
            trace = self._trace(detectors, False, prompts, seed, points_read(self.looks))
            found |= scores_in(self.pipe, self.looks, trace)
            if self.looks[0] not in self.found.settings:
                scale = guidance_of(self.pipe, self.call)
                self.found.settings |= settings_of(self.pipe, self.looks, trace, self.models, scale)
        return found

    def _trace(
        self,
        group: Sequence[Detector],
        is_alone: bool,
        prompts: Sequence[str],
        seed: int,
        points: Sequence[float] | None = None,
    ) -> Trace:
        """What the pipeline's first steps, or those at some points, show for these prompts on one noise."""
        needs = frozenset().union(*(detector.needs for detector in group))
        horizon = max(detector.first_k for detector in group)
        generators = [torch.Generator("cpu").manual_seed(seed) for _ in prompts]
        call = rows_of(self.pipe, self._alone() if is_alone else self._guided(len(prompts)), len(prompts))
        uncond = self.shared.of([seed] * len(prompts)) if is_alone else True
        with recorded(self.pipe, needs, horizon, True, uncond, points) as trace:
            self.pipe(prompt=list(prompts), generator=generators, **call)
        return trace

    def _alone(self) -> dict[str, Any]:
        """The call with guidance off, so that the denoiser is given conditional rows alone."""
        if self.family.guided == "never":
            return dict(self.call)  # its scale is an input of the denoiser
        if self.family.layout == "separate":
            return {**self.call, self.family.guidance: 1.0}
        scale_enters = getattr(denoiser_of(self.pipe).config, "time_cond_proj_dim", None) is not None
        is_off = guidance_of(self.pipe, self.call) <= 1.0
        return (
            dict(self.call)
            if scale_enters or is_off
            else {**self.call, self.family.guidance: 1.0 - self.family.guidance_offset}
        )

    def _guided(self, count: int) -> dict[str, Any]:
        """The call as it is; where the unconditional half is a call of its own, it takes place with a negative prompt
        only.
        """
        if self.family.guided == "negative" and guidance_of(self.pipe, self.call) > 1.0:
            return {**self.call, "negative_prompt": [""] * count}
        return self.call

    def _setting(self, trace: Trace) -> Setting:
        levels, shape = [(step.timestep, step.signal) for step in trace.steps], denoiser_input(self.pipe, trace)
        scale = guidance_of(self.pipe, self.call)
        return running_setting(self.pipe, self.models, shape, levels, scale, trace.micro_conditioning)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.found.evaluations += len(named_arguments(self.family, args, kwargs)[self.family.sample])

        with hooked(denoiser_of(self.pipe), count):
            yield


def _batches(prompts: Sequence[str], seeds: Sequence[int], size: int) -> list[tuple[Sequence[str], int]]:
    """(prompts, seed) in the prompts' order; each batch has one noise, and the noises take turns."""
    starts = range(0, len(prompts), size)
    return [(prompts[start : start + size], seeds[place % len(seeds)]) for place, start in enumerate(starts)]


def _every(prompts: Sequence[str], seeds: Sequence[int], size: int) -> list[tuple[Sequence[str], int]]:
    """(prompts, seed) of every prompt with every noise; each batch has one noise."""
    return [batch for seed in seeds for batch in _batches(prompts, [seed], size)]
