"""Actors on Ray, on this machine or a cluster: one loaded model each, a bounded number of chunks in flight.

The driver keeps at most AHEAD chunks per worker asked for and not yet written, so that a slow writer or a slow worker
holds the others back instead of filling memory. A worker that is lost (killed, out of memory, its machine gone) is
replaced and its chunks are asked for again; a chunk that takes TRIES workers with it ends the scan, which can be
resumed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probes.drawing.draw import Job
from probes.errors import EngineError
from probes.inputs.prompts import PromptRecord
from probes.scan.scorer import PromptScorer, ScoredChunk, ScoringConfig, Started, Turn, Weighed
from shield.errors import first_line

IN_FLIGHT, AHEAD, TRIES = 2, 6, 3
_OBJECT_STORE = 256 << 20


class Worker:
    """What an actor runs. The model is loaded by ``start``, so that a mistake there comes back as what it is."""

    def start(self, config: ScoringConfig, example: PromptRecord) -> Started:
        self.scorer = PromptScorer(config)
        return self.scorer.started(example)

    def score(self, turns: Sequence[Turn]) -> ScoredChunk:
        return self.scorer.score(turns)

    def weighed(self, jobs: Sequence[Job]) -> Weighed:
        return self.scorer.weighed(jobs)

    def pid(self) -> int:
        return os.getpid()


@dataclass
class Task:
    """A chunk on its way: how many workers it was given to, and which one has it now."""

    number: int
    chunk: Sequence[Turn]
    tries: int = 0
    worker: Any = None


class RayActors:
    """``workers`` actors (by default one for each GPU of the cluster, else one).

    ``address``: "local" starts Ray here and ends it with the scan, "auto" finds the cluster this machine belongs to,
    anything else is a cluster's address. EngineError without the extra ``ray``, and if there is no such cluster.
    """

    def __init__(self, config: ScoringConfig, workers: int | None = None, address: str = "local") -> None:
        self._ray = _imported()
        self._config, self._count, self._address = config, workers, address
        self.workers: list[Any] = []
        self.lost = 0

    def __enter__(self) -> RayActors:
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if self._address == "local":
            cores = max(os.cpu_count() or 1, self._count or 1)
            options |= {"num_cpus": cores, "object_store_memory": _OBJECT_STORE, "include_dashboard": False}
        try:
            self._ray.init(address=self._address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"Ray can't be used at {self._address!r}: {first_line(error)}") from error
        return self

    def __exit__(self, *exception: object) -> None:
        self.workers.clear()
        self._ray.shutdown()

    def started(self, example: PromptRecord) -> Started:
        gpus = int(self._ray.cluster_resources().get("GPU", 0)) if self._config.device != "cpu" else 0
        count = self._count or gpus or 1
        # One core each, whatever their number: sums of several threads differ in their last bits.
        self._actor = self._ray.remote(num_gpus=1 if gpus else 0, num_cpus=1, max_restarts=0)(Worker)
        self._example = example
        self.workers = [self._actor.remote() for _ in range(count)]
        try:
            found = self._ray.get([worker.start.remote(self._config, example) for worker in self.workers])
        except self._lost as error:
            raise EngineError(f"A worker was lost while it loaded {self._config.model}: {first_line(error)}") from error
        return replace(found[0], batch_size=min(one.batch_size for one in found))

    def weighed(self, jobs: Sequence[Job]) -> Weighed:
        try:
            return self._ray.get(self.workers[0].weighed.remote(jobs))
        except self._lost as error:
            raise EngineError(
                f"A worker was lost while it weighed words: {first_line(error)} --resume goes on."
            ) from error

    @property
    def _lost(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError

    def scored(self, chunks: Iterable[Sequence[Turn]]) -> Iterator[tuple[Sequence[Turn], ScoredChunk]]:
        source, again = enumerate(chunks), deque[Task]()
        running: dict[Any, Task] = {}
        found: dict[int, tuple[Sequence[Turn], ScoredChunk]] = {}
        turn = 0
        while True:
            self._hand_out(source, again, running, turn + AHEAD * len(self.workers))
            if not running:
                return
            (ready, *_), _ = self._ray.wait(list(running), num_returns=1)
            task = running.pop(ready)
            try:
                found[task.number] = task.chunk, self._ray.get(ready)
            except self._lost as error:
                again.append(self._returned(task, error))
            while turn in found:
                yield found.pop(turn)
                turn += 1

    def _hand_out(
        self, source: Iterator[tuple[int, Sequence[Turn]]], again: deque[Task], running: dict[Any, Task], limit: int
    ) -> None:
        """Give every worker something to do, but no chunk whose turn is ``limit`` or later."""
        for worker in self.workers:
            while sum(task.worker is worker for task in running.values()) < IN_FLIGHT:
                task = again.popleft() if again else self._next(source, running, limit)
                if task is None:
                    return
                task.worker, task.tries = worker, task.tries + 1
                running[worker.score.remote(task.chunk)] = task

    def _next(self, source: Iterator[tuple[int, Sequence[Turn]]], running: dict[Any, Task], limit: int) -> Task | None:
        if self._waiting is None:
            number, chunk = next(source, (None, None))
            if number is None or chunk is None:
                return None
            self._waiting = Task(number, chunk)
        if self._waiting.number >= limit:
            return None
        task, self._waiting = self._waiting, None
        return task

    _waiting: Task | None = None

    def _returned(self, task: Task, error: Exception) -> Task:
        """A lost worker's task, to be given out again; the worker is replaced the first time it is missed."""
        if task.tries >= TRIES:
            raise EngineError(
                f"The prompts from {task.chunk[0][0].target.id} on were with {TRIES} workers when these "
                f"were lost: {first_line(error)} Go on with --resume, or a smaller --batch."
            ) from error
        if task.worker in self.workers:
            fresh = self._actor.remote()
            self.workers[self.workers.index(task.worker)] = fresh
            self.lost += 1
            fresh.start.remote(self._config, self._example)  # runs before what is asked of it next
        task.worker = None
        return task


def _imported() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise EngineError("The engine ray needs the extra of that name: pip install 'diffusion-shield[ray]'.") from None
    return ray
