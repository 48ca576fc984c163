"""`diffshield calibrate`: thresholds for a model at the settings it is used at, from prompts that it hasn't memorized.

By default from the benign prompts that ship, of the testbed from its own negatives. How many prompts a rate needs is
checked before the model is loaded. Scores are kept on the way, so a calibration that was stopped can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from probes.inputs.prompts import read_prompts
from probes.paths import takes_paths
from probes.runs.progress import ProgressCallback
from probes.testbed.checkpoint import Checkpoint
from probes.testbed.negatives import KINDS, dev_negatives
from probes.verbs.calibrate_copies import read_picture
from shield.benign.prompts import benign_prompts, digest_of
from shield.errors import BadRequestError, NotCalibratedError
from shield.runtime.trajectory import DetectorAt, told_joined
from shield.thresholds import Threshold, drop_replaced, found, load_thresholds, save_threshold
from shield.types import Detector

OWN = "the testbed's own"
TESTBED_SEEDS = tuple(range(100, 108))


@dataclass(frozen=True)
class CalibratedCalls:
    """The calls to calibrate for: each size (height, width in pixels) with each strength.

    ``strengths`` or an ``image`` make it image to image; without an image smooth random colors stand for one. What is
    None is the model's own.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    strengths: tuple[float, ...] = ()
    image: Path | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    dtype: str | None = None

    @property
    def count(self) -> int:
        return max(1, len(self.sizes)) * max(1, len(self.strengths))

    def calls(self, pipe: Any, sampling: tuple[int, float]) -> list[dict[str, Any]]:
        """The arguments of each call. Raises BadRequestError for what this pipeline doesn't take."""
        from shield.calibration.setting_call import service_calls

        steps, guidance_scale = sampling
        made = service_calls(pipe, self.sizes, self.strengths, steps, {"guidance_scale": guidance_scale})
        picture = None if self.image is None else read_picture(self.image)
        return made if picture is None else [{**call, "image": _fitted(picture, call.get("image"))} for call in made]

    def pipeline(self, pipe: Any) -> Any:
        """The pipeline itself, or the one of the same parts that takes pictures."""
        if not self.strengths and self.image is None:
            return pipe
        from diffusers import AutoPipelineForImage2Image

        try:
            return AutoPipelineForImage2Image.from_pipe(pipe)
        except ValueError:
            raise BadRequestError(
                f"There is no image to image with a {type(pipe).__name__}; leave --strength and --image out."
            ) from None


@dataclass(frozen=True)
class Benign:
    """The prompts to calibrate on. ``seeds``: noises that each is scored with; None: each with one of eight."""

    prompts: tuple[str, ...]
    source: str
    seeds: tuple[int, ...] | None = None

    @property
    def scores(self) -> int:
        return len(self.prompts) * len(self.seeds or (0,))

    def check(self, fpr: float, needed: int) -> None:
        """BadRequestError where they are too few for the rate, which needs so many scores."""
        if self.scores < needed:
            each = f" with {len(self.seeds)} noises each" if self.seeds else ""
            raise BadRequestError(
                f"A false-alarm rate of {fpr:g} needs at least {needed} scores of benign prompts, and {self.source} "
                f"gives {self.scores} ({len(self.prompts)} prompts{each}). Give more prompts, --seeds "
                f"{-(-needed // max(1, len(self.prompts)))}, or --fpr {1 / (self.scores + 1):.2g}."
            )


def benign_of(
    prompts: Path | None, needed: int, seeds: Sequence[int] | None, column: str | None = None, limit: int | None = None
) -> Benign:
    """A file's prompts, or those that ship: twice as many as are needed and one more, as far as there are so many.

    Raises BadRequestError, PromptFileError.
    """
    noises = None if seeds is None else tuple(seeds)
    if prompts is not None:
        found = tuple(target.prompt for target in read_prompts(prompts, column=column, limit=limit))
        return Benign(found, str(prompts), noises)
    every = benign_prompts("calibration")
    count = min(limit or 2 * needed + 1, len(every))
    return Benign(tuple(every[:count]), "the benign prompts that ship", noises)


@takes_paths
def calibrate_detectors(
    model: str,
    detectors: Sequence[str],
    out: Path,
    *,
    prompts: Path | None = None,
    column: str | None = None,
    limit: int | None = None,
    negatives: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    fpr: float,
    settings: CalibratedCalls = CalibratedCalls(),  # noqa: B008
    points: Sequence[float] | None = None,
    batch_size: int | None = None,
    resume: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = lambda sentence: None,
    progress: ProgressCallback | None = None,
) -> dict[Path, Threshold]:
    """One threshold file for each detector and setting; returns them by path. With ``points``, shares of the schedule,
    one for each detector at each of them, with one false-alarm rate for all of these.

    ``negatives`` are the testbed's own, of KINDS, which it takes by default; ("benign",) or ``prompts`` take others.
    With ``resume`` thresholds that are there are kept, and scores that an attempt left are not made again.

    Raises BadRequestError before the model is loaded for an unknown detector and for too few prompts, and for settings
    that its pipeline doesn't take; PromptFileError, WeightsError as they say.
    """
    from shield.detectors import DETECTORS
    from shield.runtime.trajectory import detectors_at

    unknown = [name for name in detectors if name not in DETECTORS]
    if unknown or not detectors:
        raise BadRequestError(f"There is no detector {', '.join(unknown)!r}; use {', '.join(DETECTORS)}.")
    checkpoint = Checkpoint.of(model)
    chosen = [DETECTORS[name]() for name in detectors]
    asked = list(detectors_at(chosen, points)) if points else chosen
    needed = _scores_needed(asked, fpr)
    own = prompts is None and checkpoint.truth is not None and tuple(negatives or KINDS) != ("benign",)
    if not own:
        benign = benign_of(prompts, needed, seeds, column, limit)
        benign.check(fpr, needed)
    pipe = checkpoint.loaded(device, settings.dtype).pipe
    if own:
        captions = tuple(dev_negatives(pipe, negatives or KINDS, progress))[:limit]
        source = f"testbed dev {' and '.join(negatives or KINDS)} that bring out no work"
        benign = Benign(captions, source, tuple(seeds or TESTBED_SEEDS))
        benign.check(fpr, needed)
    say(_foretold(benign, settings.count, fpr, needed))
    work = _Calibration(model, asked, benign, fpr, out, batch_size, resume, progress)
    used = settings.pipeline(pipe)
    calls = settings.calls(used, checkpoint.sampling(settings.steps, settings.guidance_scale))
    made = {path: one for call in calls for path, one in work.made(used, call, len(calls)).items()}
    looks = [one for one in made.values() if "point" in one.options]
    for steps in sorted({one.setting.steps for one in looks}):
        if joined := told_joined([one.options["point"] for one in looks if one.setting.steps == steps], steps):
            say(joined)
    return made


def _scores_needed(asked: Sequence[Any], fpr: float) -> int:
    """How many scores of benign prompts the rate takes; of looks that share it, more."""
    from shield.calibration.budget import prompts_needed
    from shield.calibration.trajectories import asked_detectors, draws_needed
    from shield.runtime.trajectory import DetectorAt

    looks = [one for one in asked if isinstance(one, DetectorAt)]
    return draws_needed(fpr, len(asked_detectors(looks))) if looks else prompts_needed(fpr)


def _foretold(benign: Benign, settings: int, fpr: float, needed: int) -> str:
    noises = "one of eight noises each" if benign.seeds is None else f"{len(benign.seeds)} noises each"
    return (
        f"{len(benign.prompts)} prompts ({benign.source}) with {noises} at {settings} setting(s): about "
        f"{benign.scores * settings} scores; a false-alarm rate of {fpr:g} needs {needed} at least."
    )


@dataclass
class _Calibration:
    """Makes the thresholds of one setting after the other."""

    model: str
    detectors: Sequence[Detector | DetectorAt]
    benign: Benign
    fpr: float
    out: Path
    batch_size: int | None
    resume: bool
    progress: ProgressCallback | None
    done: int = field(default=0, init=False)

    def made(self, pipe: Any, call: dict[str, Any], settings: int) -> dict[Path, Threshold]:
        """The thresholds at this call's setting, those of an earlier attempt or new ones, saved."""
        from shield.calibration.score_log import ScoreLog
        from shield.calibration.self_calibrate import self_calibrate
        from shield.calibration.setting_call import foretold_setting
        from shield.calibration.store import digest
        from shield.runtime.settings import models_of

        models = models_of(pipe)
        horizon = max(one.first_k for one in self.detectors)
        setting = foretold_setting(pipe, call, horizon, models)
        if self.resume and (kept := self._kept(setting)):
            self.done += self.benign.scores
            return kept
        named = digest([list(map(repr, self.detectors)), setting])
        log = ScoreLog(self.out / f"{named}.scores.jsonl", self.resume)
        total, before = self.benign.scores * settings, self.done
        thresholds = self_calibrate(
            pipe,
            self.detectors,
            call,
            fpr=self.fpr,
            prompts=self.benign.prompts,
            seeds=self.benign.seeds,
            batch_size=self.batch_size,
            log=log,
            model=self.model,
            models=models,
            progress=lambda far: None if self.progress is None else self.progress(before + far.done, total),
        )
        self.done += self.benign.scores
        about = {"negatives": self.benign.source}
        saved = [replace(one, provenance={**one.provenance, **about}) for one in thresholds]
        paths = {save_threshold(one, self.out): one for one in saved}
        for path, one in paths.items():
            drop_replaced(one, path)
        log.done()
        return paths

    def _kept(self, setting: Any) -> dict[Path, Threshold]:
        """The thresholds in the folder that hold here and were made of the same prompts for the same rate; none unless
        every detector has one. Those of points of the schedule are made anew.
        """
        if any(isinstance(one, DetectorAt) for one in self.detectors):
            return {}
        there, asked = load_thresholds(self.out), digest_of(list(self.benign.prompts))
        alike = [
            one
            for one in there
            if (one.provenance.get("asked_sha256"), one.fpr, one.negatives) == (asked, self.fpr, self.benign.scores)
        ]
        try:
            chosen = [found(alike, detector, setting) for detector in self.detectors]
        except NotCalibratedError:
            return {}
        return {Path(one.file or ""): one for one in chosen}


def _fitted(picture: Image.Image, like: Image.Image | None) -> Image.Image:
    """The picture at the size of another one, where a size was asked for."""
    return picture if like is None else picture.resize(like.size, Image.Resampling.LANCZOS)
