"""Where a scan's chunks are scored. To add an engine: write one file, add one line to ENGINES.

An engine gives results in the chunks' order, holds only a bounded number of chunks, and never writes: the process that
asked appends to records.jsonl, so each record is written exactly once whatever becomes of the workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from probes.drawing.draw import Job
from probes.inputs.prompts import PromptRecord
from probes.scan.engines.in_process import InProcess
from probes.scan.engines.ray_actors import RayActors
from probes.scan.scorer import ScoredChunk, ScoringConfig, Started, Turn, Weighed


class Engine(Protocol):
    """Workers with one loaded model each. Used as a context manager, which ends them."""

    def __init__(self, config: ScoringConfig, workers: int | None = None, address: str = "local") -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...

    def started(self, example: PromptRecord) -> Started:
        """Load the model on every worker, and settle the batch with an example prompt."""

    def weighed(self, jobs: Sequence[Job]) -> Weighed:
        """The words of a few jobs' prompts, by one worker."""

    def scored(self, chunks: Iterable[Sequence[Turn]]) -> Iterator[tuple[Sequence[Turn], ScoredChunk]]:
        """Each chunk with its result, in order. Takes chunks as it has room for them."""


ENGINES: dict[str, type[Engine]] = {"local": InProcess, "ray": RayActors}

__all__ = ["ENGINES", "Engine", "InProcess", "RayActors"]
