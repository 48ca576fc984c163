"""The training draws as latents: rendered and encoded once, then trained from memory.

There are four streams: `world` (scenes, styles, creatures), `fresh` (matched non-members), `slots` (fresh pictures of
the works' kinds for the clean twin's work slots) and `works`. The order of draws is fixed by seeds, so exposures are
exact counts and the twins differ in the work slots alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.progress import track
from safetensors.torch import load_file, save_file

from probes.testbed.drawing.scenes import Sample
from probes.testbed.training.rendered import DrawSample, pixels
from shield.errors import BadRequestError

CHUNK = 2000


@dataclass(frozen=True)
class PoolPlan:
    """How many steps the base and each fork take; `fresh` is the share of fresh pictures in what is not a work."""

    base: int
    fork: int
    batch: int
    fresh: float
    seed: int = 0


@dataclass(frozen=True)
class Order:
    """For each draw the number of its stream in STREAMS and its index there."""

    stream: np.ndarray
    index: np.ndarray

    def count(self, stream: str) -> int:
        return int((self.stream == STREAMS.index(stream)).sum())

    def after(self, draws: int) -> Order:
        """The order without its first `draws`."""
        return Order(self.stream[draws:], self.index[draws:])


STREAMS = ("world", "fresh", "works", "slots")


def base_order(plan: PoolPlan) -> Order:
    rng = np.random.default_rng([plan.seed, 1])
    stream = np.where(rng.uniform(size=plan.base * plan.batch) < plan.fresh, 1, 0)
    return Order(stream, _count_up(stream))


def fork_order(plan: PoolPlan, exposures: Sequence[int]) -> Order:
    """A fork's draws: every work in its exact number of slots, the rest as in the base; shuffled.

    Raises BadRequestError when the works leave less than a fifth of the draws to the rest of the world.
    """
    draws = plan.fork * plan.batch
    slots = np.repeat(np.arange(len(exposures)), exposures)
    rest = draws - len(slots)
    if rest < draws // 5:
        raise BadRequestError(
            f"The works need {len(slots)} of the {draws} draws of a fork; at least a fifth must stay for the rest "
            f"of the world: use {-(-len(slots) * 5 // 4 // plan.batch)} steps or more."
        )
    rng = np.random.default_rng([plan.seed, 2])
    stream = np.concatenate([np.full(len(slots), 2), np.where(rng.uniform(size=rest) < plan.fresh, 1, 0)])
    index = np.concatenate([slots, np.zeros(rest, dtype=int)])
    shuffled = rng.permutation(len(stream))
    stream, index = stream[shuffled], index[shuffled]
    return Order(stream, np.where(stream == 2, index, _count_up(stream)))


def clean(order: Order) -> Order:
    """The same draws with each work slot given to a fresh picture of the works' kinds."""
    stream = np.where(order.stream == 2, 3, order.stream)
    return Order(stream, np.where(stream == 3, _count_up(stream), order.index))


def _count_up(stream: np.ndarray) -> np.ndarray:
    """Running index of each entry within its own stream."""
    index = np.zeros(len(stream), dtype=int)
    for value in np.unique(stream):
        where = np.flatnonzero(stream == value)
        index[where] = np.arange(len(where))
    return index


def build(folder: Path, name: str, count: int, draw: DrawSample, vae: AutoencoderKL, seed: Sequence[int]) -> None:
    """Renders and encodes `count` pictures of `draw(rng)` to folder/name-NNN.safetensors with captions beside them.

    Chunks that are there already stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vae.eval()
    for chunk in track(range(-(-count // CHUNK)), description=f"pool: {name}"):
        path = folder / f"{name}-{chunk:03d}.safetensors"
        size = min(CHUNK, count - chunk * CHUNK)
        if path.exists() and len(json.loads(path.with_suffix(".json").read_text())) == size:
            continue
        samples = _chunk(chunk, size, draw, seed)
        path.with_suffix(".json").write_text(json.dumps([s.caption for s in samples]))
        save_file({"latents": encode(vae, [s.image for s in samples])}, path)


def captions(folder: Path, name: str, count: int, draw: DrawSample, seed: Sequence[int]) -> list[str]:
    """The captions that `build` writes beside its latents; chunks without them are drawn again."""
    told: list[str] = []
    for chunk in range(-(-count // CHUNK)):
        path, size = folder / f"{name}-{chunk:03d}.json", min(CHUNK, count - chunk * CHUNK)
        there = json.loads(path.read_text()) if path.exists() else []
        told += there if len(there) == size else [sample.caption for sample in _chunk(chunk, size, draw, seed)]
    return told


def _chunk(chunk: int, size: int, draw: DrawSample, seed: Sequence[int]) -> list[Sample]:
    rng = np.random.default_rng([*seed, chunk])
    return [draw(rng) for _ in range(size)]


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: list) -> torch.Tensor:
    """(N, C, 16, 16) scaled posterior means in float16."""
    device = next(vae.parameters()).device
    parts = [
        vae.encode(pixels(images[i : i + 32]).to(device)).latent_dist.mean.cpu() for i in range(0, len(images), 32)
    ]
    return (torch.cat(parts) * vae.config.scaling_factor).half().contiguous()


def read(folder: Path, name: str) -> tuple[torch.Tensor, list[str]]:
    """(latents, captions) of a stream, chunks in order."""
    paths = sorted(folder.glob(f"{name}-*.safetensors"))
    latents = torch.cat([load_file(path)["latents"] for path in paths])
    captions = [c for path in paths for c in json.loads(path.with_suffix(".json").read_text())]
    return latents, captions
