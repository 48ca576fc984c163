"""The queue in front of one shielded pipeline: bounded, fair to clients, and batching what can be drawn together.

One thread draws, since a pipeline has one denoiser. It takes the oldest request and, up to `batch` images, those
waiting behind it that ask for the same settings: one pipeline call for all, each image with its own generator.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

import torch
from PIL import Image

from shield import Shield, Verdict


class QueueError(Exception):
    """A request that isn't taken: the queue is full (`of_one` False), or one client's share of it is (True)."""

    def __init__(self, sentence: str, of_one: bool) -> None:
        super().__init__(sentence)
        self.of_one = of_one


@dataclass(frozen=True)
class DrawingSettings:
    """What all images of one pipeline call share. `size` is (width, height); None: the pipeline's own."""

    steps: int
    guidance: float
    size: tuple[int, int] | None = None
    negative_prompt: str | None = None


@dataclass(frozen=True)
class ShieldedImage:
    """One image that was drawn, its seed and the shield's verdict on it."""

    image: Image.Image
    seed: int
    verdict: Verdict


@dataclass
class QueuedRequest:
    """One client's wish: `prompt` once for each of `seeds`. `result` is what was drawn, in the order of the seeds."""

    client: str
    prompt: str
    seeds: Sequence[int]
    settings: DrawingSettings
    result: Future[list[ShieldedImage]] = field(default_factory=Future)


class DrawingQueue:
    """Draws requests in the order they came.

    Args:
        safe: The shielded pipeline.
        waiting: Requests at most that wait or are being drawn.
        of_one: The same, of one client.
        batch: Images at most in one pipeline call; a request for more is drawn alone.
        on_drawn: Told every ShieldedImage with its request, in the drawing thread, before the request's result is set.
    """

    def __init__(
        self,
        safe: Shield,
        waiting: int = 64,
        of_one: int = 8,
        batch: int = 4,
        on_drawn: Callable[[QueuedRequest, ShieldedImage], None] | None = None,
    ) -> None:
        self.safe, self.waiting, self.of_one, self.batch, self.on_drawn = safe, waiting, of_one, batch, on_drawn
        self.calls = 0
        self._requests: deque[QueuedRequest] = deque()
        self._taken: Counter[str] = Counter()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._draw_all, name="drawing", daemon=True)
        self._thread.start()

    def put(self, request: QueuedRequest) -> None:
        """Queue a request. Raises QueueError."""
        with self._changed:
            if self._closed:
                raise QueueError("The service is shutting down.", of_one=False)
            if self._taken.total() >= self.waiting:
                raise QueueError(f"{self.waiting} requests are waiting already; try again later.", of_one=False)
            if self._taken[request.client] >= self.of_one:
                raise QueueError(f"{self.of_one} of your requests are waiting already; try again later.", of_one=True)
            self._taken[request.client] += 1
            self._requests.append(request)
            self._changed.notify()

    def __len__(self) -> int:
        """Requests that wait or are being drawn."""
        with self._changed:
            return self._taken.total()

    def close(self) -> None:
        """End after the call that is running; requests that still wait are cancelled."""
        with self._changed:
            self._closed = True
            for request in self._requests:
                request.result.cancel()
            self._changed.notify()
        self._thread.join()

    def _draw_all(self) -> None:
        while (batch := self._next()) is not None:
            wanted = [request for request in batch if request.result.set_running_or_notify_cancel()]
            if wanted:
                self._draw(wanted)
            with self._changed:
                self._taken.subtract(request.client for request in batch)
                self._taken += Counter()  # forgets clients without a request

    def _next(self) -> list[QueuedRequest] | None:
        """The oldest request and those that fit into its call; waits for one. None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._requests)
            if not self._requests:
                return None
            batch = [self._requests.popleft()]
            room = self.batch - len(batch[0].seeds)
            for request in [one for one in self._requests if one.settings == batch[0].settings]:
                if len(request.seeds) <= room:
                    self._requests.remove(request)
                    batch.append(request)
                    room -= len(request.seeds)
            return batch

    def _draw(self, batch: Sequence[QueuedRequest]) -> None:
        """One pipeline call. An error of a call for several requests is looked for in calls for each of them."""
        try:
            drawn = self._called(batch)
        except Exception as error:
            if len(batch) > 1:
                for request in batch:
                    self._draw([request])
            else:
                batch[0].result.set_exception(error)
            return
        for request in batch:
            own, drawn = drawn[: len(request.seeds)], drawn[len(request.seeds) :]
            for one in own:
                if self.on_drawn is not None:
                    self.on_drawn(request, one)
            request.result.set_result(own)

    def _called(self, batch: Sequence[QueuedRequest]) -> list[ShieldedImage]:
        settings, seeds = batch[0].settings, [seed for request in batch for seed in request.seeds]
        more: dict[str, Any] = {}
        if settings.size is not None:
            more["width"], more["height"] = settings.size
        if settings.negative_prompt is not None:
            more["negative_prompt"] = [settings.negative_prompt] * len(seeds)
        self.calls += 1
        output = self.safe(
            [request.prompt for request in batch for _ in request.seeds],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            **more,
        )
        return [ShieldedImage(*one) for one in zip(output.images, seeds, output.verdicts, strict=True)]
