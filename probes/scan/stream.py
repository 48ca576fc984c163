"""Scores of a stream of prompts, appended to a run in the prompts' order, however many there are.

Nothing here grows with their number: prompts are read as they are needed, and what a resumed run holds already is told
by counting, since records are in the order of the prompts. Chunks are cut at fixed places. A resumed run repeats a
chunk that was cut short as a whole and appends only what is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from probes.drawing.draw import jobs_for, record_of
from probes.inputs.prompts import PromptRecord
from probes.runs.folder import Run, record_id
from probes.runs.progress import ProgressCallback
from probes.scan.engines import Engine
from probes.scan.scorer import Turn
from probes.types import Judgement
from shield.thresholds import Threshold

STAGE = "scan"
UNJUDGED = Judgement({}, None, "no picture was made")


@dataclass(frozen=True)
class Spent:
    """One chunk that was scored and written."""

    evaluations: int
    threshold: Threshold | None


def turns_of(targets: Iterable[PromptRecord], seeds: Sequence[int], together: bool) -> Iterator[Turn]:
    """One turn for each prompt and seed, or, ``together``, one for each prompt with all its seeds."""
    for target in targets:
        jobs = tuple(jobs_for([target], seeds))
        yield from [jobs] if together else ((job,) for job in jobs)


def record_stream(
    run: Run,
    engine: Engine,
    turns: Iterable[Turn],
    chunk: int,
    *,
    total: int | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[Spent]:
    """Score the turns that the run doesn't hold and append their records; yields after each chunk."""
    identity = {key: value for key, value in run.config.items() if key != "shard"}  # all shards' ids come from one scan
    model = run.config["model"]
    done, written = _written(run, chunk, together=bool(run.config.get("early_exit")))
    chunks = _cut(itertools.islice(turns, done, None), chunk)
    for batch, scored in engine.scored(chunks):
        for turn, row in zip(batch, scored.rows, strict=True):
            for job, drawn in zip(turn, row, strict=False):
                target = job.target
                name = record_id(
                    identity, target.prompt, job.seed, stage=STAGE, model=model, item=target.id, attack_steps=None
                )
                if name not in written:
                    run.append(record_of(name, STAGE, model, job, drawn, UNJUDGED, None))
        written.clear()  # only the first chunk can hold what is there
        done += len(batch)
        if progress is not None:
            progress(done, total or done)
        yield Spent(scored.evaluations, next((one.threshold for row in scored.rows for one in row), None))


def _written(run: Run, chunk: int, together: bool) -> tuple[int, set[str]]:
    """How many turns lie in chunks that are complete, and the ids of the records after those.

    The last chunk with a record counts as cut short: with early exit nobody can tell whether its last prompt was done.
    """
    count, last = 0, None
    ids: set[str] = set()
    for record in run.records():
        if not together or record["item"] != last:
            if count % chunk == 0:
                ids.clear()
            count, last = count + 1, record["item"]
        ids.add(record["id"])
    return (count - 1) // chunk * chunk if count else 0, ids


def _cut(turns: Iterator[Turn], size: int) -> Iterator[list[Turn]]:
    while batch := list(itertools.islice(turns, size)):
        yield batch
