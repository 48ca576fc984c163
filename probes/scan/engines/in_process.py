"""One model in this process. On a GPU the next chunk is scored while the last one's records are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from probes.drawing.draw import Job
from probes.errors import EngineChoiceError
from probes.inputs.prompts import PromptRecord
from probes.scan.scorer import PromptScorer, ScoredChunk, ScoringConfig, Started, Turn, Weighed

AHEAD = 2


class InProcess:
    """EngineError for more than one worker: processes need another engine."""

    def __init__(self, config: ScoringConfig, workers: int | None = None, address: str = "local") -> None:
        if workers not in (None, 1):
            raise EngineChoiceError(f"The engine local has one worker, not {workers}; use --engine ray, or --shard.")
        self._config = config

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.__dict__.pop("scorer", None)

    def started(self, example: PromptRecord) -> Started:
        self.scorer = PromptScorer(self._config)
        return self.scorer.started(example)

    def weighed(self, jobs: Sequence[Job]) -> Weighed:
        return self.scorer.weighed(jobs)

    def scored(self, chunks: Iterable[Sequence[Turn]]) -> Iterator[tuple[Sequence[Turn], ScoredChunk]]:
        if self.scorer.subject.device.type == "cpu":  # there a second thread takes from the denoiser what it hides
            for chunk in chunks:
                yield chunk, self.scorer.score(chunk)
            return
        pending: deque[tuple[Sequence[Turn], Future[ScoredChunk]]] = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="scan")
        try:
            for chunk in chunks:
                pending.append((chunk, pool.submit(self.scorer.score, chunk)))
                if len(pending) == AHEAD:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
