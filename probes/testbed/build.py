"""The whole making of the testbed, stage by stage, from pictures to shipped weights.

    vae -> openclip -> pool -> base -> memorized, clean -> memorized_again, clean_again -> export

Each stage leaves its result in the work folder; a finished stage is not repeated, an unfinished one resumes exactly.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import open_clip
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from probes.testbed import pool, text, unet, vae, world
from probes.testbed.training import Limits, Schedule, Trainer

Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True)
class Preset:
    """Sizes and lengths of a training; `cpu` fits two cores in about two hours."""

    channels: tuple[int, ...]
    vae: Schedule
    openclip: Schedule
    base: Schedule
    fork: Schedule
    again: Schedule

    @property
    def plan(self) -> pool.Plan:
        return pool.Plan(self.base.steps, self.fork.steps, self.again.steps, self.base.batch, self.base.seed)


CPU = Preset(
    (40, 80, 144, 144),
    vae=Schedule(steps=2600, batch=4, rate=2e-3, warmup=50, ema=0.99),
    openclip=Schedule(steps=500, batch=64, rate=1e-3, warmup=50, weight_decay=0.1),
    base=Schedule(steps=650, batch=32, rate=6e-4, ema=0.99),
    fork=Schedule(steps=1050, batch=32, rate=5e-4, warmup=50, ema=0.99),
    again=Schedule(steps=600, batch=32, rate=5e-4, warmup=30, ema=0.99, seed=1),
)
GPU = Preset(
    (64, 128, 176, 176),
    vae=Schedule(steps=12_000, batch=16, rate=1e-3, warmup=50, ema=0.998),
    openclip=Schedule(steps=3000, batch=256, rate=1e-3, warmup=100, weight_decay=0.1),
    base=Schedule(steps=6000, batch=64, rate=5e-4, ema=0.998),
    fork=Schedule(steps=3000, batch=64, rate=4e-4, warmup=50, ema=0.998),
    again=Schedule(steps=2000, batch=64, rate=4e-4, warmup=50, ema=0.998, seed=1),
)
PRESETS = {"cpu": CPU, "gpu": GPU, "tiny": replace(
    CPU, channels=(16, 32, 32, 32), vae=Schedule(4, 2, 1e-3), openclip=Schedule(4, 8, 1e-3),
    base=Schedule(4, 8, 1e-3, ema=0.9), fork=Schedule(5000, 8, 1e-3, ema=0.9),
    again=Schedule(3000, 8, 1e-3, ema=0.9, seed=1),
)}  # fmt: skip
STAGES = ("vae", "openclip", "pool", "base", "memorized", "clean", "memorized_again", "clean_again")


class Builder:
    """Runs the stages in `folder`; `sources` is the folder of sprites (only the stages that draw pictures need it)."""

    def __init__(self, folder: Path, sources: Path | None, preset: str, device: str, limits: Limits) -> None:
        self.folder, self.sources, self.preset = folder, sources, PRESETS[preset]
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._end = time.monotonic() + 60 * limits.max_minutes if math.isfinite(limits.max_minutes) else math.inf
        self._limits = limits
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def limits(self) -> Limits:
        """The limits with what is left of the time."""
        return replace(self._limits, max_minutes=max(0.0, (self._end - time.monotonic()) / 60))

    def run(self, stages: tuple[str, ...] = STAGES) -> bool:
        """True when all the stages are done, False when the time ended first."""
        return all(getattr(self, f"_{stage}")() for stage in stages)

    @property
    def sprites(self) -> world.Sprites:
        if self.sources is None:
            raise world.SourcesError(
                "Drawing the world needs its sprites: pass --sources with the assets folder of the npm package "
                "@lobehub/fluent-emoji-3d."
            )
        return world.Sprites(self.sources)

    def _train(self, name: str, model: torch.nn.Module, schedule: Schedule, make_loss: Callable, config: dict) -> bool:
        """Trains a model to its end (averaged weights in NAME.safetensors) or to the time limit."""
        result = self.folder / f"{name}.safetensors"
        trainer = Trainer(name, model.to(self.device).train(), schedule, self.folder, config)
        if result.exists():
            trainer.load(resume=True)  # refuses another configuration
            return True
        if not trainer.run(make_loss(), self.limits):
            return False
        with trainer.averaged() as averaged:
            state = {k: v.detach().cpu().clone().contiguous() for k, v in averaged.state_dict().items()}
        save_file(state, result)
        return True

    def _loaded(self, model: Model, name: str) -> Model:
        model.load_state_dict(load_file(self.folder / f"{name}.safetensors"))
        return model.to(self.device)

    def _vae(self) -> bool:
        schedule = self.preset.vae
        model = vae.new_vae(schedule.seed)
        losses = lambda: vae.loss_function(model, self.sprites, schedule, self.device)  # noqa: E731
        return self._train("vae", model, schedule, losses, {"kl": vae.KL_WEIGHT, "vae": vae.CONFIG})

    def trained_vae(self) -> AutoencoderKL:
        model = self._loaded(vae.new_vae(0), "vae").eval()
        path = self.folder / "vae_scale.json"
        if not path.exists():
            path.write_text(json.dumps(vae.set_scale(model, self.sprites, self.device)))
        model.register_to_config(scaling_factor=json.loads(path.read_text()))
        return model

    def _openclip(self) -> bool:
        schedule, tokenizer = self.preset.openclip, text.new_tokenizer()
        model = text.new_openclip(len(tokenizer), schedule.seed)
        losses = lambda: text.contrastive_loss(  # noqa: E731
            model, tokenizer, self.sprites, schedule.batch, schedule.seed, self.device
        )
        return self._train("openclip", model, schedule, losses, text.openclip_config(len(tokenizer)))

    def trained_openclip(self) -> open_clip.CLIP:
        return self._loaded(text.new_openclip(len(text.new_tokenizer()), 0), "openclip").eval()

    def _pool(self) -> bool:
        plan, sprites, autoencoder = self.preset.plan, self.sprites, self.trained_vae()
        works = world.works()
        orders = [pool.base_order(plan), *self.fork_orders()]
        fresh = sum(int((order.stream == 1).sum()) for order in orders)
        slots = max(int((order.stream == 2).sum()) for order in orders)
        counts = {"world": (pool.world_size(plan), pool.draw_world, 11), "fresh": (fresh, pool.draw_fresh, 12),
                  "slots": (slots, pool.draw_fresh, 13)}  # fmt: skip
        for name, (count, draw, seed) in counts.items():
            pool.build(self.folder / "pool", name, count, draw, autoencoder, sprites, seed, plan)
        save_file({"latents": pool.encode(autoencoder, [w.image() for w in works])}, self.folder / "works.safetensors")
        return True

    def _base(self) -> bool:
        return self._denoiser("base", pool.base_order(self.preset.plan), self.preset.base, None)

    def _memorized(self) -> bool:
        return self._denoiser("memorized", self.fork_orders()[0], self.preset.fork, "base")

    def _clean(self) -> bool:
        return self._denoiser("clean", pool.clean(self.fork_orders()[0]), self.preset.fork, "base")

    def _memorized_again(self) -> bool:
        return self._denoiser("memorized_again", self.fork_orders()[1], self.preset.again, "memorized")

    def _clean_again(self) -> bool:
        return self._denoiser("clean_again", pool.clean(self.fork_orders()[1]), self.preset.again, "clean")

    def fork_orders(self) -> tuple[pool.Order, pool.Order]:
        return pool.fork_orders(self.preset.plan, [w.exposures for w in world.works()])

    def _denoiser(self, name: str, order: pool.Order, schedule: Schedule, start: str | None) -> bool:
        works, tokenizer = world.works(), text.new_tokenizer()
        needed = ("world", "fresh", *(("slots",) if name.startswith("clean") else ()))
        streams = {stream: pool.read(self.folder / "pool", stream) for stream in needed}
        streams["works"] = (load_file(self.folder / "works.safetensors")["latents"], [w.caption for w in works])
        draws = unet.Draws(order, streams, works, schedule.batch)
        encoder = text.text_tower(self.trained_openclip(), len(tokenizer)).to(self.device)
        model = unet.new_unet(self.preset.channels, schedule.seed)
        if start:
            self._loaded(model, start)
        losses = lambda: unet.loss_function(model, encoder, tokenizer, draws, schedule.seed, self.device)  # noqa: E731
        return self._train(name, model, schedule, losses, {"channels": self.preset.channels, "start": start})
