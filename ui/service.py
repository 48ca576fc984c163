"""A shielded pipeline as a service: `diffshield serve`. Image generation in the shape of OpenAI's API.

    diffshield serve --model testbed
    curl -s localhost:8000/v1/images/generations --json '{"prompt": "a cat on a blue background", "seed": 1}'

POST /v1/images/generations takes OpenAI's `prompt, n, size, response_format` and beside them `seed, steps, guidance,
negative_prompt`; each image of `data` has the rewritten prompt in `revised_prompt` and the verdict in `shield`.
Blocked images are left out; where all are, the answer is 400 with the code `content_policy_violation`, which OpenAI's
own client raises as BadRequestError. 503 where an image couldn't be judged and the policy refuses such images.
GET /v1/models, /health and /metrics (Prometheus). ui/guard.py refuses foreign names and long bodies.

A verdict holds scores; `verdicts=False` keeps them from clients.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from probes.testbed.checkpoint import Checkpoint
from shield import Shield, VerdictLog
from shield.errors import BadRequestError, MissingSignalError, NotCalibratedError, ShieldError
from ui.drawing_queue import DrawingQueue, DrawingSettings, QueuedRequest, QueueError, ShieldedImage
from ui.guard import Guard
from ui.visitors import address

LONGEST, MOST_IMAGES, MOST_STEPS, MOST_SIDE, MOST_BODY = 2000, 4, 100, 2048, 64 * 1024
RETRY = {"Retry-After": "5"}
log = logging.getLogger("shield.service")

Text = Annotated[str, StringConstraints(max_length=LONGEST, strip_whitespace=True)]


class Wish(BaseModel):
    """One request. OpenAI's fields that say nothing to a local pipeline (`quality`, `style`, `user`) are let pass."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST, strip_whitespace=True)]
    n: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    size: Annotated[str, StringConstraints(pattern=r"^(auto|[1-9]\d{1,3}x[1-9]\d{1,3})$")] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    model: str | None = None
    quality: str | None = None
    style: str | None = None
    user: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    guidance: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] | None = None
    negative_prompt: Text | None = None


class Metrics:
    """What /metrics counts; a registry of its own, so that several services fit into one process."""

    def __init__(self, queue: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.answers = Counter("diffshield_answers", "Answers by HTTP status.", ["code"], registry=own)
        self.images = Counter("diffshield_images", "Images by the status of their verdict.", ["status"], registry=own)
        self.unjudged = Counter("diffshield_unjudged_images", "Images that couldn't be judged.", registry=own)
        self.seconds = Histogram("diffshield_request_seconds", "Time from request to answer.", registry=own)
        waiting = Gauge("diffshield_requests_waiting", "Requests that wait or are being drawn.", registry=own)
        waiting.set_function(queue)


class Service:
    """The routes around one shielded pipeline.

    Args:
        safe: The shielded pipeline, calibrated for its usual settings.
        model: What it is called in /v1/models.
        waiting, of_one, batch: See DrawingQueue.
        verdict_log: A file to which every verdict is appended, one JSON object a line.
        verdicts: Whether clients are told verdicts with their scores.
        api_key: What clients have to send as a bearer token; None: nothing.
    """

    def __init__(
        self,
        safe: Shield,
        model: str,
        *,
        waiting: int = 64,
        of_one: int = 8,
        batch: int = 4,
        verdict_log: Path | None = None,
        verdicts: bool = True,
        api_key: str | None = None,
    ) -> None:
        self.safe, self.model, self.verdicts, self.api_key = safe, model, verdicts, api_key
        self.checkpoint = Checkpoint.of(model, safe.pipe)
        self.log = None if verdict_log is None else VerdictLog(verdict_log)
        self.queue = DrawingQueue(safe, waiting, of_one, batch, self._told)
        self.metrics = Metrics(lambda: len(self.queue))
        self.started = int(time.time())

    async def generate(self, wish: Wish, client: str) -> JSONResponse:
        """The answer to one request. Raises QueueError, ShieldError, HTTPException."""
        request = self._request(wish, client)
        self.queue.put(request)
        drawn = await asyncio.wrap_future(request.result)
        passed = [one for one in drawn if one.verdict.status != "blocked"]
        if not passed:
            return _blocked([self._about(one) for one in drawn] if self.verdicts else None)
        return JSONResponse({"created": int(time.time()), "data": [self._datum(one) for one in passed]})

    def _request(self, wish: Wish, client: str) -> QueuedRequest:
        if wish.response_format == "url":
            raise BadRequestError("Images are sent as base64 alone: ask for response_format b64_json.")
        if wish.model not in (None, self.model):
            raise HTTPException(404, f"The model {wish.model!r} isn't served here; {self.model} is.")
        size = None if wish.size == "auto" else self._size(wish.size)
        steps, guidance = self.checkpoint.sampling(wish.steps, wish.guidance)
        first = secrets.randbits(62) if wish.seed is None else wish.seed
        seeds = [(first + place) % 2**63 for place in range(wish.n)]
        return QueuedRequest(client, wish.prompt, seeds, DrawingSettings(steps, guidance, size, wish.negative_prompt))

    def _size(self, wanted: str) -> tuple[int, int]:
        """Width and height of "WxH". Raises BadRequestError for what the pipeline can't draw."""
        width, height = map(int, wanted.split("x"))
        patch = 1 if self.safe.family.denoiser == "unet" else 2
        multiple = getattr(self.safe.pipe, "vae_scale_factor", 8) * patch
        if max(width, height) > MOST_SIDE or width % multiple or height % multiple:
            raise BadRequestError(f"A side has at most {MOST_SIDE} pixels, a multiple of {multiple}; not {wanted}.")
        return width, height

    def _datum(self, one: ShieldedImage) -> dict[str, Any]:
        verdict = one.verdict
        about = {"b64_json": encoded(one.image), "revised_prompt": verdict.rewritten_prompt or verdict.prompt}
        return {**about, "shield": self._about(one)} if self.verdicts else about

    def _about(self, one: ShieldedImage) -> dict[str, Any]:
        return {"seed": one.seed, **one.verdict.to_dict()}

    def _told(self, request: QueuedRequest, one: ShieldedImage) -> None:
        self.metrics.images.labels(one.verdict.status).inc()
        self.metrics.unjudged.inc(not one.verdict.scored)
        if self.log is not None:
            self.log(one.verdict, time=time.time(), client=request.client, seed=one.seed)

    def close(self) -> None:
        """End the queue."""
        self.queue.close()


def routes(service: Service, bound: str = "127.0.0.1", hosts: Sequence[str] = ()) -> FastAPI:
    """The service as an ASGI application that answers to the address it is `bound` to and to `hosts`."""
    app = FastAPI(title="diffusion-shield", openapi_url=None)
    app.state.service = service
    app.add_middleware(Guard, bound=bound, hosts=hosts, most=MOST_BODY)

    @app.middleware("http")
    async def measured(request: HttpRequest, call: Any) -> Response:
        started = time.perf_counter()
        response: Response = await call(request)
        if request.url.path.startswith("/v1/images"):
            service.metrics.seconds.observe(time.perf_counter() - started)
            service.metrics.answers.labels(str(response.status_code)).inc()
        return response

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ready",
            "model": service.model,
            "model_sha256": service.safe.model_sha256,
            "waiting": len(service.queue),
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        one = {"id": service.model, "object": "model", "created": service.started, "owned_by": "diffusion-shield"}
        return {"object": "list", "data": [one]}

    @app.post("/v1/images/generations")
    async def generations(
        wish: Wish, request: HttpRequest, authorization: Annotated[str | None, Header()] = None
    ) -> JSONResponse:
        expected = None if service.api_key is None else f"Bearer {service.api_key}"
        if expected is not None and not secrets.compare_digest(expected.encode(), (authorization or "").encode()):
            raise HTTPException(401, "This service needs its API key as a bearer token.")
        return await service.generate(wish, address(request))

    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error as OpenAI's clients read it, in one sentence; what was sent isn't sent back."""

    @app.exception_handler(QueueError)
    def full(request: HttpRequest, error: QueueError) -> JSONResponse:
        return _error(429 if error.of_one else 503, str(error), "rate_limit_exceeded", headers=RETRY)

    @app.exception_handler(RequestValidationError)
    def unusable(request: HttpRequest, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return _error(400, f"{where}: {first['msg']}.", "invalid_request_error", where)

    @app.exception_handler(HTTPException)
    def refused(request: HttpRequest, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), "invalid_request_error")

    @app.exception_handler(ShieldError)
    def failed(request: HttpRequest, error: ShieldError) -> JSONResponse:
        if isinstance(error, MissingSignalError | NotCalibratedError):
            return _error(503, f"The image couldn't be judged, so it wasn't drawn: {error}", "judge_unavailable")
        return _error(400, str(error), "invalid_request_error")

    @app.exception_handler(Exception)
    def broken(request: HttpRequest, error: Exception) -> JSONResponse:
        log.exception("A request failed.", exc_info=error)
        return _error(500, "Something broke that shouldn't; the service's log says what.", "server_error")


def _error(
    status: int,
    message: str,
    code: str,
    param: str | None = None,
    headers: dict[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    about = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": about, **(more or {})}, status, headers)


def _blocked(verdicts: list[dict[str, Any]] | None) -> JSONResponse:
    message = "The shield blocked every image of this request: what it asks for is memorized or protected."
    more = {} if verdicts is None else {"shield": verdicts}
    return _error(400, message, "content_policy_violation", "prompt", more=more)


def encoded(image: Image.Image) -> str:
    """PNG, base64."""
    held = io.BytesIO()
    image.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode("ascii")
