"""The training draws as latents: rendered and encoded once, then trained from memory.

Four streams: `world` (scenes, styles, creatures; a picture is seen at most once by the base and once in each pass
of a fork), `fresh` (matched non-members, never seen twice), `slots` (fresh pictures of the works' kinds for the
clean twin's work slots, seen once in each pass) and `works`. The order of draws is fixed by seeds, so exposures are
exact counts and the twins differ in the work slots alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.progress import track
from safetensors.torch import load_file, save_file

from probes.testbed import world
from probes.testbed.vae import pixels

PAINTINGS, PRODUCTS = 0.21, 0.06  # shares of the fresh draws in what is not a work
CHUNK = 2000


@dataclass(frozen=True)
class Plan:
    """How many draws each part of the training takes; `base` and `fork` count steps."""

    base_steps: int
    fork_steps: int
    again_steps: int
    batch: int
    seed: int = 0

    @property
    def base_draws(self) -> int:
        return self.base_steps * self.batch

    @property
    def passes(self) -> tuple[int, int]:
        """Draws of a fork's first and second pass."""
        return self.fork_steps * self.batch, self.again_steps * self.batch


@dataclass(frozen=True)
class Order:
    """For each draw its stream ('world', 'fresh' or 'works') and its index there."""

    stream: np.ndarray
    index: np.ndarray


STREAMS = ("world", "fresh", "works", "slots")


def base_order(plan: Plan) -> Order:
    rng = np.random.default_rng([plan.seed, 1])
    stream = np.where(rng.uniform(size=plan.base_draws) < PAINTINGS + PRODUCTS, 1, 0)
    return Order(stream, _count_up(stream))


def split_exposures(exposures: Sequence[int]) -> tuple[list[int], list[int]]:
    """Two thirds of each work's exposures in a fork's first pass, a third in its second."""
    return [2 * e // 3 for e in exposures], [e - 2 * e // 3 for e in exposures]


def fork_orders(plan: Plan, exposures: Sequence[int]) -> tuple[Order, Order]:
    """The two passes of a fork. Raises SourcesError when the works alone fill one."""
    first, second = split_exposures(exposures)
    before = int((base_order(plan).stream == 1).sum())
    one = _pass_order(plan, first, plan.passes[0], 2, before)
    return one, _pass_order(plan, second, plan.passes[1], 3, before + int((one.stream == 1).sum()))


def _pass_order(plan: Plan, exposures: list[int], draws: int, salt: int, fresh_before: int) -> Order:
    """Every work in its exact number of slots, the rest as in the base; shuffled."""
    slots = np.repeat(np.arange(len(exposures)), exposures)
    rest = draws - len(slots)
    if rest < draws // 5:
        raise world.SourcesError(
            f"The works need {len(slots)} of the {draws} draws of a fork's pass; at least a fifth must stay for the "
            f"rest of the world: use {-(-len(slots) * 5 // 4 // plan.batch)} steps or more."
        )
    rng = np.random.default_rng([plan.seed, salt])
    stream = np.concatenate([np.full(len(slots), 2), np.where(rng.uniform(size=rest) < PAINTINGS + PRODUCTS, 1, 0)])
    index = np.concatenate([slots, np.zeros(rest, dtype=int)])
    order = rng.permutation(len(stream))
    stream, index = stream[order], index[order]
    counted = _count_up(stream)
    index = np.where(stream == 0, counted % max(1, world_size(plan)), index)
    index = np.where(stream == 1, counted + fresh_before, index)
    return Order(stream, index)


def clean(order: Order) -> Order:
    """The same draws with each work slot given to a fresh picture of the works' kinds."""
    stream = np.where(order.stream == 2, 3, order.stream)
    return Order(stream, np.where(stream == 3, _count_up(stream), order.index))


def world_size(plan: Plan) -> int:
    return int((base_order(plan).stream == 0).sum())


def _count_up(stream: np.ndarray) -> np.ndarray:
    """Running index of each entry within its own stream."""
    index = np.zeros(len(stream), dtype=int)
    for value in np.unique(stream):
        where = np.flatnonzero(stream == value)
        index[where] = np.arange(len(where))
    return index


def draw_world(rng: np.random.Generator, sprites: world.Sprites) -> world.Sample:
    """Scenes, styles and creatures in the world's proportions."""
    while (sample := world.draw(rng, sprites)).kind == "nonmember":
        pass
    return sample


def draw_fresh(rng: np.random.Generator, sprites: world.Sprites | None = None) -> world.Sample:
    share = PRODUCTS / (PAINTINGS + PRODUCTS)
    return world.fresh_product(rng) if rng.uniform() < share else world.fresh_painting(rng)


@torch.inference_mode()
def build(
    folder: Path,
    name: str,
    count: int,
    draw: Callable,
    vae: AutoencoderKL,
    sprites: world.Sprites,
    seed: int,
    plan: Plan,
) -> None:
    """Renders and encodes `count` draws to folder/name-NNN.safetensors, captions to .json; complete chunks stay."""
    folder.mkdir(parents=True, exist_ok=True)
    vae.eval()
    for chunk in track(range(-(-count // CHUNK)), description=f"pool: {name}"):
        path = folder / f"{name}-{chunk:03d}.safetensors"
        size = min(CHUNK, count - chunk * CHUNK)
        if path.exists() and json.loads(path.with_suffix(".json").read_text())["plan"] == asdict(plan):
            continue
        rng = np.random.default_rng([seed, chunk])
        samples = [draw(rng, sprites) for _ in range(size)]
        path.with_suffix(".json").write_text(
            json.dumps({"plan": asdict(plan), "captions": [s.caption for s in samples]})
        )
        save_file({"latents": encode(vae, [s.image for s in samples])}, path)


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: list) -> torch.Tensor:
    """(N, 4, 16, 16) scaled posterior means in float16."""
    device = next(vae.parameters()).device
    parts = [
        vae.encode(pixels(images[i : i + 32]).to(device)).latent_dist.mean.cpu() for i in range(0, len(images), 32)
    ]
    return (torch.cat(parts) * vae.config.scaling_factor).half().contiguous()


def read(folder: Path, name: str) -> tuple[torch.Tensor, list[str]]:
    """(latents, captions) of a stream, chunks in order."""
    paths = sorted(folder.glob(f"{name}-*.safetensors"))
    latents = torch.cat([load_file(path)["latents"] for path in paths])
    captions = [c for path in paths for c in json.loads(path.with_suffix(".json").read_text())["captions"]]
    return latents, captions
