"""`diffshield scan`: which prompts of a file look memorized. Scores only, or pictures and copy scores as well.

A score needs the first denoising step alone, and its unconditional half is shared by all prompts
(shield/hooks/shared_uncond.py), so a scan costs one denoiser evaluation for each prompt and noise. Scores only: prompts
are a stream, so memory doesn't grow with their number, and any engine may do the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from probes.drawing.agreement import BENIGN
from probes.drawing.draw import USUAL_DETECTORS, Sampling
from probes.errors import EarlyExitError
from probes.inputs.cohorts import Cohorts, Sizes, cohorts_of_manifest, with_truth
from probes.inputs.known_ahead import scores_ahead
from probes.inputs.prompts import PromptRecord, each_prompt
from probes.metrics.prevalence import Rate
from probes.paths import takes_paths
from probes.report.summary import Summary
from probes.runs.folder import ModelAbout, Run, is_of_model, write_json
from probes.runs.progress import bars
from probes.runs.provenance import describe_input
from probes.runs.stage_log import Stages
from probes.runs.table import refuse_without_pyarrow, write_results
from probes.scan.early_exit import Boundary, drawn_at_random
from probes.scan.engines import ENGINES, Engine
from probes.scan.figures import early_exit_figures, figures, format_scan, report_fields
from probes.scan.outcome import WORDS, Telling, described_threshold, known_rate, outcome_figures, weigh_words
from probes.scan.pilot import EarlyExit, boundary_of
from probes.scan.protected import check_protected
from probes.scan.scorer import ScoringConfig, Started
from probes.scan.shards import Shard
from probes.scan.stream import STAGE, record_stream, turns_of
from probes.scan.with_pictures import with_pictures
from probes.testbed.checkpoint import Checkpoint
from shield.detectors import DETECTORS
from shield.errors import BadRequestError
from shield.runtime.arguments import as_thresholds
from shield.runtime.trajectory import detectors_at, told_joined
from shield.thresholds import Threshold

# With early exit a chunk is so many batches of prompts, so that the later seeds' batches aren't nearly empty.
ROUNDS_AHEAD = 4
# So many prompts are kept in memory.
HELD = 10_000

__all__ = ["ExecutionConfig", "Scanned", "format_scan", "scan", "summarized"]


@dataclass(frozen=True)
class Scanned:
    """What a scan wrote: its folder, its table, and its figures."""

    folder: Path
    table: Path
    summary: Summary = field(repr=False)


@dataclass(frozen=True)
class ExecutionConfig:
    """What a scan runs on. No record depends on it beyond rounding, except on ``dtype``.

    ``batch_size`` None: found on the device. ``engine`` is one of ENGINES; ``address`` is Ray's.
    """

    engine: str = "local"
    workers: int | None = None
    address: str = "local"
    batch_size: int | None = None
    dtype: str | None = None
    channels_last: bool = False
    compiled: bool = False


class PromptSource:
    """A scan's prompts. They are read and counted at once, which also finds mistakes; of a file of more than HELD
    nothing is kept, and it is read anew each time that it is gone through.

    Raises AuditError (no prompts for a model nothing is known about), PromptFileError, RunError.
    """

    def __init__(
        self, file: Path | None, checkpoint: Checkpoint, column: str | None = None, limit: int | None = None
    ) -> None:
        self.manifest = checkpoint.known(file)
        self.inputs = [describe_input(file)] if file else []
        self._file, self._column, self._limit = file, column, limit
        self.cohorts = Cohorts() if file else cohorts_of_manifest(self.manifest, Sizes())
        self._held: list[PromptRecord] | None = None
        every = iter(self)
        held = list(itertools.islice(every, HELD))
        self.first, self.count = held[0], len(held) + sum(1 for _ in every)
        self._held = held if self.count == len(held) else None

    def __iter__(self) -> Iterator[PromptRecord]:
        if self._held is not None:
            return iter(self._held)
        if self._file is None:
            return itertools.islice(self.cohorts.drawn(), self._limit)
        return with_truth(each_prompt(self._file, column=self._column, limit=self._limit), self.manifest)


@takes_paths
def scan(
    prompts: Path | None,
    out: Path,
    *,
    model: str = "testbed",
    column: str | None = None,
    limit: int | None = None,
    seeds: Sequence[int] = (500,),
    detectors: Sequence[str] = USUAL_DETECTORS,
    steps: int = 1,
    pictures: bool = False,
    sampling: Sampling | None = None,
    device: str = "auto",
    resume: bool = False,
    show_progress: bool = True,
    execution: ExecutionConfig | None = None,
    shard: Shard | None = None,
    early_exit: EarlyExit | None = None,
    points: Sequence[float] | None = None,
    thresholds: Path | None = None,
    concepts: Sequence[str] = (),
    gallery: str | None = None,
    words: int = WORDS,
    tpr: str | None = None,
    benign: int = BENIGN,
    say: Callable[[str], None] = lambda sentence: None,
    pipe: Any = None,
) -> Scanned:
    """Score every prompt with every seed into the run folder ``out``.

    ``steps`` is how many denoising steps the detectors read; the first of ``sampling.steps``. Without ``pictures``
    nothing beyond them is computed; with them a record also holds copy scores, where the prompt has a reference
    picture, and alignment, where the model has an OpenCLIP. Without ``prompts`` the testbed's own captions are taken.
    ``points`` are shares of the schedule to score at, flagged by thresholds that share one false-alarm budget; every
    picture is then drawn as far as the last (probes/drawing/trajectories.py).
    ``shard`` takes a part of the prompts only; ``early_exit`` lets a prompt stop before its last seed. ``thresholds``
    is a folder of those that flag, by default the stored ones. Prompts are screened for ``concepts``, names or
    registries' files, by default the names that ship; pictures are compared with ``gallery``. The ``words``
    highest-scoring flagged prompts are said with the pull of their words. ``tpr`` is the share of memorized prompts
    that are flagged, as known_rate reads it.
    With pictures over several seeds, ``benign`` prompts are drawn beside a file's, and near-duplicates compared. What
    will be known is told to ``say`` before the first score.
    ``pipe`` is the model, where it is loaded already; ``model`` is then what it is called.

    Raises AuditError (no prompts for a model nothing is known about), BadRequestError (unknown detector, more steps
    than the schedule has, a gallery without pictures), EarlyExitError, EngineError, GalleryError, MissingExtraError (no
    pyarrow for the table), PromptFileError, RegistryError, RunError, WeightsError.
    """
    refuse_without_pyarrow()
    sampling, checkpoint = sampling or Sampling(), Checkpoint.of(model, pipe)
    _check(detectors, steps, sampling)
    if points and (steps > 1 or early_exit):
        raise BadRequestError(
            "A trajectory's points say which steps are read; leave --read-steps and --early-exit out."
        )
    if points:
        detectors_at((), points)  # refuses what is no share of the schedule
    if points and (joined := told_joined(points, sampling.steps)):
        say(joined)
    config: dict[str, Any] = {
        "model": model,
        "column": column,
        "limit": limit,
        "seeds": list(seeds),
        "detectors": list(detectors),
        "steps": steps,
        "pictures": pictures,
    }
    config |= {"points": list(points)} if points else {}
    limits = None if thresholds is None else as_thresholds(thresholds)
    protected = check_protected(concepts, gallery, pictures)
    config |= {name: value for name, value in (("concepts", list(concepts)), ("gallery", gallery)) if value}
    if thresholds is not None:
        config["thresholds"] = str(thresholds)
    if pictures:
        if shard or early_exit or (execution and execution != ExecutionConfig(batch_size=execution.batch_size)):
            raise BadRequestError(
                "Pictures are drawn by one process in the model's own precision; leave --pictures "
                "out, or --engine, --shard, --early-exit, --dtype, --channels-last and --compile."
            )
        told = Telling(words, known_rate(tpr, config), benign)
        return Scanned(
            out,
            *with_pictures(
                prompts, out, config, sampling, checkpoint, device, resume, show_progress, limits, told, say, protected
            ),
        )
    execution = execution or ExecutionConfig(batch_size=sampling.batch_size)
    source = PromptSource(prompts, checkpoint, column, limit)
    scoring = _scoring(checkpoint, detectors, steps, sampling, execution, device, limits)
    scoring = replace(scoring, points=tuple(points) if points else None, folder=config.get("thresholds"))
    config |= {
        "sampling": {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale},
        "dtype": execution.dtype,
    }
    told = Telling(words, known_rate(tpr, config), benign)
    boundary = None
    if early_exit:
        boundary = _boundary(source, out, config, scoring, execution, early_exit, resume, show_progress)
    config |= {
        "early_exit": asdict(boundary) if boundary else None,
        "shard": [shard.index, shard.of] if shard else None,
    }
    scoring = replace(scoring, boundary=boundary)
    pilot = early_exit.pilot if early_exit else None
    return _scores(source, out, config, scoring, execution, shard or Shard(), resume, show_progress, pilot, told, say)


def _scoring(
    checkpoint: Checkpoint,
    detectors: Sequence[str],
    steps: int,
    sampling: Sampling,
    execution: ExecutionConfig,
    device: str,
    limits: Sequence[Threshold] | None,
) -> ScoringConfig:
    """How every worker scores."""
    return ScoringConfig(
        checkpoint.name,
        tuple(detectors),
        steps,
        sampling,
        execution.batch_size,
        device=device,
        dtype=execution.dtype,
        channels_last=execution.channels_last,
        compiled=execution.compiled,
        thresholds=limits,
        pipe=checkpoint.pipe,
    )


def _check(detectors: Sequence[str], steps: int, sampling: Sampling) -> None:
    unknown = [name for name in detectors if name not in DETECTORS]
    if unknown or not detectors:
        raise BadRequestError(f"There is no detector {', '.join(unknown)!r}; use {', '.join(DETECTORS)}.")
    if not 1 <= steps <= sampling.steps:
        raise BadRequestError(f"Detectors read 1 to {sampling.steps} steps of this schedule, not {steps}.")


def _scores(
    source: PromptSource,
    out: Path,
    config: dict[str, Any],
    scoring: ScoringConfig,
    execution: ExecutionConfig,
    shard: Shard,
    resume: bool,
    show_progress: bool,
    pilot: Path | None = None,
    told: Telling | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Scanned:
    """Scores of the shard's prompts. EngineError for an unknown engine, EarlyExitError for another model's pilot."""
    told, seeds, together = told or Telling(), config["seeds"], config["early_exit"] is not None
    total = shard.count(source.count) * (1 if together else len(seeds))
    with _engine(scoring, execution) as engine, bars(show_progress) as track:
        started = engine.started(source.first)
        about: ModelAbout = {"name": scoring.model, "sha256": started.sha256, "values": started.values}
        if pilot is not None and not is_of_model(Run.open(pilot), about):
            raise EarlyExitError(f"The pilot {pilot} was made with other weights than {scoring.model} has now.")
        with Run.start(out, config, resume=resume, kind="scan", inputs=source.inputs, seeds=seeds, model=about) as run:
            stages = Stages(run.folder)
            ahead = scores_ahead(started.threshold, started.why)
            run.note(hardware={**asdict(execution), "batch_size": started.batch_size}, known_ahead=ahead)
            for sentence in ahead:
                say(sentence)

            def work() -> dict[str, Any]:
                threshold: Threshold | None = None
                turns = turns_of(shard.own(source), seeds, together)
                for spent in record_stream(
                    run, engine, turns, _chunk(started, together), total=total, progress=track("scan")
                ):
                    stages.cost.evaluations += spent.evaluations
                    threshold = spent.threshold if threshold is None else threshold
                return described_threshold(threshold)

            stages.do(STAGE, work)
            weigh_words(run, stages, stages.detail(STAGE).get("threshold"), told.words, engine.weighed)
            summary = summarized(run, stages, source.cohorts, told.tpr)
            table = write_results(run)
            run.finish("complete")
    return Scanned(out, table, summary)


def _chunk(started: Started, together: bool) -> int:
    return started.batch_size * (ROUNDS_AHEAD if together else 1)


def _engine(scoring: ScoringConfig, execution: ExecutionConfig) -> Engine:
    if execution.engine not in ENGINES:
        raise BadRequestError(f"There is no engine {execution.engine!r}; use {', '.join(ENGINES)}.")
    return ENGINES[execution.engine](scoring, execution.workers, execution.address)


def summarized(run: Run, stages: Stages, cohorts: Cohorts, tpr: Rate | None = None) -> Summary:
    """Make and write summary.json of a run with scores."""
    detectors = run.config["detectors"]
    early = run.config.get("early_exit")
    summary: Summary = {
        **figures(run, cohorts, detectors),
        **outcome_figures(run, stages, tpr),
        **report_fields(run, stages, None, {}, cohorts.limits),
        "early_exit": early_exit_figures(run, Boundary(**early)) if early else None,
    }
    write_json(run.folder / "summary.json", summary)
    return summary


def _boundary(
    source: PromptSource,
    out: Path,
    config: dict[str, Any],
    scoring: ScoringConfig,
    execution: ExecutionConfig,
    early_exit: EarlyExit,
    resume: bool,
    show_progress: bool,
) -> Boundary:
    """From the pilot that was given, or from one of this file's own prompts, drawn at random, in ``out``/pilot."""
    folder = early_exit.pilot
    if folder is None:
        folder = out / "pilot"
        chosen = drawn_at_random(source, early_exit.prompts_of(source.count))
        small = _Chosen(source, chosen)
        whole = {**config, "early_exit": None, "shard": None, "pilot": len(chosen)}
        again = resume or (folder / "run.json").exists()
        _scores(small, folder, whole, scoring, execution, Shard(), again, show_progress)
    return boundary_of(folder, config, early_exit.error)


class _Chosen(PromptSource):
    """Some prompts of a file, as a scan's prompts."""

    def __init__(self, source: PromptSource, chosen: Sequence[PromptRecord]) -> None:
        self.manifest, self.inputs, self.cohorts = source.manifest, source.inputs, Cohorts()
        self._held, self.first, self.count = list(chosen), chosen[0], len(chosen)
