"""What each worker of a scan does: load the model once, score chunks of prompts, say what it cost.

A chunk's result depends on the chunk alone, so it doesn't matter which worker scores it, nor how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from probes.drawing.ahead import threshold_ahead
from probes.drawing.draw import Draw, Drawn, Job, Sampling, drawn_by_pipeline
from probes.drawing.trajectories import drawn_along, looks_for
from probes.inputs.prompts import PromptRecord
from probes.model.batches import best_batch, in_batches
from probes.model.loading import load
from probes.runs.cost import counted
from probes.runs.records import Record
from probes.scan.early_exit import Boundary, mean_of
from probes.scan.words import weighed
from probes.types import Subject
from shield import home
from shield.detectors import DETECTORS
from shield.model import assets
from shield.model.assets import stored_thresholds
from shield.model.memory import out_of_memory
from shield.model_names import values_of
from shield.thresholds import Threshold, options_of
from shield.types import Detector

# What a CPU gets without being asked: larger batches don't make it faster.
CPU_BATCH = 16
# Where the testbed and thresholds are, which a worker elsewhere isn't told by its own environment.
PLACES = (assets.ENVIRONMENT, home.ENVIRONMENT)


def _named_places() -> dict[str, str]:
    return {name: os.environ[name] for name in PLACES if name in os.environ}


Turn = tuple[Job, ...]
"""A prompt with the seeds that it may be scored with, in this order."""


@dataclass(frozen=True)
class ScoringConfig:
    """How prompts are scored: the same on every worker. ``batch_size`` None: found on the worker's device.

    ``dtype`` is a torch dtype's name, None for the model's own. ``boundary`` lets prompts stop before their last seed.
    ``thresholds`` flag, by default those that are stored. ``pipe`` is the model itself, where it is loaded already.
    ``points`` of the schedule are scored instead of the first steps. ``folder`` is where ``thresholds`` come from.
    """

    model: str
    detectors: tuple[str, ...]
    steps: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int | None = None
    boundary: Boundary | None = None
    device: str = "auto"
    dtype: str | None = None
    channels_last: bool = False
    compiled: bool = False
    places: Mapping[str, str] = field(default_factory=_named_places)
    thresholds: Sequence[Threshold] | None = None
    pipe: Any = field(default=None, repr=False, compare=False)
    points: tuple[float, ...] | None = None
    folder: str | None = None

    def draw(self, subject: Subject, pictures: bool = False) -> Draw:
        """What scores prompts, and draws them with ``pictures``. BadRequestError for a detector without points."""
        thresholds = self.known_thresholds()
        if self.points:
            asked = looks_for(self.scorers(), self.points)
            return drawn_along(subject, self.sampling, asked, pictures=pictures, thresholds=thresholds)
        return drawn_by_pipeline(subject, self.sampling, self.scorers(), pictures=pictures, thresholds=thresholds)

    def ahead(self, subject: Subject) -> tuple[Threshold | None, str | None]:
        """What will flag, or why nothing will. Not known ahead of later points, and of a compiled denoiser, which would
        be traced for it.
        """
        if self.compiled or self.points:
            return None, None
        return threshold_ahead(subject, self.sampling, self.scorers()[0], self.known_thresholds(), self.folder)

    def known_thresholds(self) -> Sequence[Threshold]:
        """Those given, else those that are stored where the work is done."""
        return stored_thresholds() if self.thresholds is None else self.thresholds

    def scorers(self) -> list[Detector]:
        """The detectors, each reading the first ``steps`` denoising steps; those that read one only do so anyway."""
        made = [DETECTORS[name]() for name in self.detectors]
        return [
            replace(one, first_k=self.steps) if "first_k" in options_of(one) else one  # type: ignore[type-var]
            for one in made
        ]


@dataclass(frozen=True)
class ScoredChunk:
    """A chunk's results: for each turn one Drawn per seed that was used, and the denoiser evaluations spent."""

    rows: list[list[Drawn]]
    evaluations: int


@dataclass(frozen=True)
class Weighed:
    """For each job its prompt's words as [text, share], the denoiser evaluations spent, and why one has none."""

    words: list[list[list[Any]]]
    evaluations: int = 0
    why: str | None = None


@dataclass(frozen=True)
class Started:
    """What a worker found: the model's name, what it is known by, the batch it works with, and the threshold that will
    flag, or why there is none.
    """

    sha256: str
    batch_size: int
    values: str | None = None
    threshold: Threshold | None = None
    why: str | None = None


def weighed_jobs(subject: Subject, jobs: Sequence[Job], config: ScoringConfig) -> Weighed:
    """The words of each job's prompt with their shares; whoever asks counts what it costs."""
    structure = config.detectors[0] != "noise_gap"
    found = [weighed(subject.pipe, job.target.prompt, job.seed, config.sampling, structure) for job in jobs]
    words = [[[word.text, word.weight] for word in words] for words, _ in found]
    return Weighed(words, why=next((why for _, why in found if why), None))


class PromptScorer:
    """One loaded model. Raises what loading raises: WeightsError, BadRequestError, UnsupportedPipelineError."""

    def __init__(self, config: ScoringConfig) -> None:
        os.environ.update(config.places)
        self.config = config
        pipe = load(config.model, config.device, config.dtype) if config.pipe is None else config.pipe
        self.subject = Subject(pipe, config.model)
        if config.channels_last:
            self.subject.denoiser.to(memory_format=torch.channels_last)
        if config.compiled:
            self.subject.denoiser.compile()
        self.draw: Draw = config.draw(self.subject)

    @cached_property
    def sha256(self) -> str:
        return self.subject.sha256()

    def started(self, example: PromptRecord) -> Started:
        """Find the batch where none was given: on a GPU the largest that fits and pays, tried with this prompt."""
        if self.config.batch_size is not None:
            self.batch_size = self.config.batch_size
        elif self.subject.device.type == "cpu":
            self.batch_size = CPU_BATCH
        else:
            self.batch_size = best_batch(lambda size: self.draw([Job(example, seed) for seed in range(size)]))
        return Started(self.sha256, self.batch_size, values_of(self.sha256), *self.config.ahead(self.subject))

    def score(self, turns: Sequence[Turn]) -> ScoredChunk:
        """Every turn with its first seed, then those that are undecided with the next one, and so on."""
        rows: list[list[Drawn]] = [[] for _ in turns]
        going = list(range(len(turns)))
        with counted(self.subject.denoiser) as cost:
            while going:
                jobs = [turns[place][len(rows[place])] for place in going]
                for place, drawn in zip(going, self._drawn(jobs), strict=True):
                    rows[place].append(drawn)
                going = [place for place in going if self._goes_on(turns[place], rows[place])]
        return ScoredChunk([self._decided(row) for row in rows], cost.evaluations)

    def weighed(self, jobs: Sequence[Job]) -> Weighed:
        """The words of each job's prompt with their shares, and what that cost."""
        with counted(self.subject.denoiser) as cost:
            found = weighed_jobs(self.subject, jobs, self.config)
        return replace(found, evaluations=cost.evaluations)

    def _drawn(self, jobs: Sequence[Job]) -> list[Drawn]:
        def work(batch: Sequence[Job]) -> Sequence[Drawn]:
            try:
                return self.draw(batch)
            except RuntimeError as error:
                if out_of_memory(error):
                    self.batch_size = max(1, min(self.batch_size, len(batch) // 2))
                raise

        return in_batches(work, jobs, self.batch_size)

    def _goes_on(self, turn: Turn, row: Sequence[Drawn]) -> bool:
        if len(row) == len(turn):
            return False
        return self.config.boundary is None or self.config.boundary.decision(self._values(row)) is None

    def _decided(self, row: list[Drawn]) -> list[Drawn]:
        """With early exit every record of a prompt holds the prompt's mean and the decision."""
        if self.config.boundary is None:
            return row
        values = self._values(row)
        mean = None if None in values else mean_of(values)
        about: Record = {"prompt_score": mean, "prompt_flagged": self.config.boundary.decision(values)}
        return [replace(drawn, more={**drawn.more, **about}) for drawn in row]

    def _values(self, row: Sequence[Drawn]) -> list[float | None]:
        return [drawn.scores[self.config.detectors[0]] for drawn in row]
