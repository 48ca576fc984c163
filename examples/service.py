"""A generation service behind the shield: a prompt goes in; a picture and the shield's verdict come out.

    python examples/service.py --model testbed
    curl -s localhost:8000/generate --json '{"prompt": "a cat on a blue background", "seed": 1}'

POST /generate answers 200 with the picture (PNG, base64) and the verdict; 451 with the verdict alone where the shield
kept the picture back; 422 with one sentence for a request that can't be drawn or judged; 429 when too many of one
address wait, and 503 when too many of all do; 413 for too long a request; 421 and 403 for the names and pages of others
(ui/guard.py), unless --allow-host names them. GET /health says what is being served, however many wait. One picture is
drawn at a time: a shield watches its pipeline's only denoiser. A verdict holds scores and the rewritten prompt; whoever
serves strangers may want to keep those to himself.
"""

from __future__ import annotations

import argparse
import base64
import io
import math
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Limit

from probes.sampling import usual_sampling
from shield import Concepts, Gallery, Shield, Verdict, load
from shield.errors import ShieldError
from ui.guard import Guard
from ui.visitors import address

LONGEST, MOST_STEPS, WAITING, OF_ONE, MOST_BODY = 1000, 100, 8, 2, 64 * 1024
BLOCKED, TOO_MANY, BUSY = 451, 429, 503


class Wish(BaseModel):
    """What is to be drawn. Without a seed one is chosen, and the answer names it."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST, strip_whitespace=True)]
    seed: Annotated[int, Limit(ge=0, lt=2**63)] | None = None
    steps: Annotated[int, Limit(ge=1, le=MOST_STEPS)] | None = None
    guidance: Annotated[float, Limit(ge=0, le=30, allow_inf_nan=False)] | None = None


class Busy(Exception):
    """Too many wait: of one address (429) or of all (503)."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Places:
    """At most `every` requests are drawn or wait, and at most `of_one` of one address."""

    def __init__(self, every: int, of_one: int) -> None:
        self.every, self.of_one = every, of_one
        self._taken: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def taken(self, who: str) -> Iterator[None]:
        """A place, for this block. Raises Busy."""
        with self._lock:
            if self._taken.total() >= self.every:
                raise Busy(BUSY, f"{self.every} requests are waiting already; try again.")
            if self._taken[who] >= self.of_one:
                raise Busy(TOO_MANY, f"{self.of_one} of your requests are waiting already; try again.")
            self._taken[who] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[who] -= 1
                self._taken += Counter()  # forgets who has none


def service(safe: Shield, model: str, waiting: int = WAITING, of_one: int = OF_ONE, bound: str = "127.0.0.1",
            hosts: Sequence[str] = ()) -> FastAPI:
    """The routes around one shielded pipeline. At most `waiting` requests are drawn or wait, `of_one` of one address;
    others are sent away. It answers to the address it is `bound` to and to `hosts`.
    """
    app = FastAPI(title="diffusion-shield")
    app.add_middleware(Guard, bound=bound, hosts=hosts, most=MOST_BODY)
    one_at_a_time, places = Lock(), Places(waiting, of_one)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ready", "model": model, "model_sha256": safe.model_sha256, "busy": one_at_a_time.locked()}

    @app.post("/generate")
    def generate(wish: Wish, request: Request) -> JSONResponse:
        with places.taken(address(request)), one_at_a_time:
            return _answered(safe, model, wish)

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.code, {"Retry-After": "10"})

    @app.exception_handler(RequestValidationError)
    def unusable(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return JSONResponse({"error": f"{where}: {first['msg']}."}, 422)

    @app.exception_handler(ShieldError)
    def refused(request: Request, error: ShieldError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    return app


def _answered(safe: Shield, model: str, wish: Wish) -> JSONResponse:
    steps, guidance = usual_sampling(model, safe.pipe, wish.steps, wish.guidance)
    seed = secrets.randbits(63) if wish.seed is None else wish.seed
    noise = torch.Generator("cpu").manual_seed(seed)
    output = safe(wish.prompt, num_inference_steps=steps, guidance_scale=guidance, generator=[noise])
    verdict = output.verdicts[0]
    answer = {"seed": seed, "verdict": told(verdict)}
    if verdict.status == "blocked":
        return JSONResponse(answer, BLOCKED)
    return JSONResponse({**answer, "picture": encoded(output.images[0])})


def told(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON: scores with `flagged`, and null for a number that is none."""
    about = asdict(verdict)
    about["scores"] = [{**asdict(score), "flagged": score.flagged} for score in verdict.scores]
    return _finite(about)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encoded(picture: Image.Image) -> str:
    """PNG, base64."""
    held = io.BytesIO()
    picture.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode("ascii")


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description="Serve a shielded pipeline.")
    parser.add_argument("--model", default="testbed", help="testbed, a diffusers folder, or a hub id")
    parser.add_argument("--policy", default="balanced", help="balanced, strict or monitor")
    parser.add_argument("--gallery", type=Path, help="a saved gallery, with its threshold, of protected pictures")
    parser.add_argument("--concepts", type=Path, help="a registry of protected concepts (TOML)")
    parser.add_argument("--thresholds", type=Path, help="folder that diffshield calibrate wrote to")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--allow-host", action="append", default=[], help="a further name the service is reached by")
    asked = parser.parse_args()
    try:
        safe = Shield(load(asked.model, asked.device), asked.policy, thresholds=asked.thresholds,
                      gallery=Gallery.load(asked.gallery) if asked.gallery else None,
                      concepts=Concepts.load(asked.concepts) if asked.concepts else None)
    except ShieldError as error:
        sys.exit(str(error))
    app = service(safe, asked.model, bound=asked.host, hosts=asked.allow_host)
    uvicorn.run(app, host=asked.host, port=asked.port)


if __name__ == "__main__":
    main()
