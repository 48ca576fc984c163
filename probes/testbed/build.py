"""The whole making of the testbed, stage by stage, from pictures to shipped weights.

    vae -> vae_2, openclip -> openclip_2, pool -> base -> memorized_1, clean_1 -> ... -> memorized_N, clean_N -> export

Each stage leaves its result in the work folder; a finished stage is not repeated, an unfinished one resumes exactly.
The twins take several passes over the works, each with a warm restart of the learning rate: a pass can be added to
weights that already shipped (`Builder.adopt`).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import open_clip
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from probes.testbed import pool, text, unet, vae, world
from probes.testbed.training import Limits, Schedule, Trainer
from shield.errors import WeightsError

Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True)
class Preset:
    """Sizes and lengths of a training; `vae` and `openclip` have two passes, `forks` world.PASSES."""

    channels: tuple[int, ...]
    vae: tuple[Schedule, Schedule]
    openclip: tuple[Schedule, Schedule]
    base: Schedule
    forks: tuple[Schedule, ...]

    @property
    def plan(self) -> pool.PoolPlan:
        return pool.PoolPlan(self.base.steps, tuple(f.steps for f in self.forks), self.base.batch, self.base.seed)


CPU = Preset(
    (40, 80, 144, 144),
    vae=(
        Schedule(steps=2600, batch=4, rate=2e-3, warmup=50, ema=0.99),
        Schedule(steps=3600, batch=4, rate=1e-3, warmup=50, ema=0.995, seed=1),
    ),
    openclip=(
        Schedule(steps=500, batch=64, rate=1e-3, warmup=50, weight_decay=0.1),
        Schedule(steps=450, batch=64, rate=8e-4, warmup=50, ema=0.99, seed=1, weight_decay=0.1),
    ),
    base=Schedule(steps=650, batch=32, rate=6e-4, ema=0.99),
    forks=(
        Schedule(steps=1050, batch=32, rate=5e-4, warmup=50, ema=0.99),
        Schedule(steps=600, batch=32, rate=5e-4, warmup=30, ema=0.99, seed=1),
        Schedule(steps=2500, batch=32, rate=5e-4, warmup=50, ema=0.995, seed=2),
        Schedule(steps=500, batch=32, rate=4e-4, warmup=20, ema=0.99, seed=3),
    ),
)
GPU = Preset(
    (64, 128, 176, 176),
    vae=(
        Schedule(steps=12_000, batch=16, rate=1e-3, warmup=50, ema=0.998),
        Schedule(steps=6000, batch=16, rate=1e-3, warmup=50, ema=0.998, seed=1),
    ),
    openclip=(
        Schedule(steps=3000, batch=256, rate=1e-3, warmup=100, weight_decay=0.1),
        Schedule(steps=2000, batch=256, rate=1e-3, warmup=100, ema=0.998, seed=1, weight_decay=0.1),
    ),
    base=Schedule(steps=6000, batch=64, rate=5e-4, ema=0.998),
    forks=(
        Schedule(steps=3000, batch=64, rate=4e-4, warmup=50, ema=0.998),
        Schedule(steps=2000, batch=64, rate=4e-4, warmup=50, ema=0.998, seed=1),
        Schedule(steps=4000, batch=64, rate=4e-4, warmup=50, ema=0.998, seed=2),
        Schedule(steps=1000, batch=64, rate=3e-4, warmup=50, ema=0.998, seed=3),
    ),
)
PRESETS = {
    "cpu": CPU,
    "gpu": GPU,
    "tiny": Preset(
        (16, 32, 32, 32),
        vae=(Schedule(4, 2, 1e-3), Schedule(2, 2, 1e-3, seed=1)),
        openclip=(Schedule(4, 8, 1e-3), Schedule(2, 8, 1e-3, seed=1)),
        base=Schedule(4, 8, 1e-3, ema=0.9),
        forks=tuple(Schedule(5000, 8, 1e-3, ema=0.9, seed=k) for k in range(world.PASSES)),
    ),
}
TWINS = ("memorized", "clean")
FORKS = tuple(f"{twin}_{n}" for n in range(1, world.PASSES + 1) for twin in TWINS)
STAGES = ("vae", "vae_2", "openclip", "openclip_2", "pool", "base", *FORKS)


WEIGHTS = "diffusion_pytorch_model.safetensors"


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
        return all(self._stage(stage, stages) for stage in stages)

    def _stage(self, stage: str, stages: tuple[str, ...]) -> bool:
        if stage == "pool":
            return self._pool(stages)
        return self._fork(stage) if stage in FORKS else getattr(self, f"_{stage}")()

    def adopt(self, weights: Path) -> tuple[str, ...]:
        """Takes over shipped `weights` (a testbed folder); returns the stages that its manifest doesn't list as done.

        What the work folder already has stays. Raises WeightsError when a file isn't there.
        """
        done = json.loads((weights / "manifest.json").read_text()).get("trained", [])
        files = {}
        for stage in done:  # of a part's passes only the last is there, and only the last is needed
            part = stage.partition("_")[0]
            folders = {"vae": "memorized/vae", "openclip": "openclip", **{twin: f"{twin}/unet" for twin in TWINS}}
            name = "open_clip_model.safetensors" if part == "openclip" else WEIGHTS
            if part in folders:
                files[stage] = weights / folders[part] / name
        for name, file in files.items():
            if not file.exists():
                raise WeightsError(f"{file} is needed to go on from shipped weights and isn't there.")
            if not (target := self.folder / f"{name}.safetensors").exists():
                save_file({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}, target)
        if "openclip" in done:
            shutil.copytree(weights / "memorized" / "tokenizer", self.folder / "tokenizer", dirs_exist_ok=True)
        if "vae_2" in done:
            config = json.loads((weights / "memorized" / "vae" / "config.json").read_text())
            (self.folder / "vae_scale.json").write_text(json.dumps(config["scaling_factor"]))
        (self.folder / "adopted.json").write_text((weights / "manifest.json").read_text())
        return tuple(stage for stage in STAGES if stage not in done)

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The adopted weights' own, whose ids their text tower knows; else a new one."""
        adopted = self.folder / "tokenizer"
        return CLIPTokenizer.from_pretrained(adopted) if adopted.exists() else text.new_tokenizer()

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
        return self._autoencoder("vae", self.preset.vae[0], None)

    def _vae_2(self) -> bool:
        return self._autoencoder("vae_2", self.preset.vae[1], "vae")

    def _autoencoder(self, name: str, schedule: Schedule, start: str | None) -> bool:
        model = vae.new_vae(schedule.seed)
        if start:
            self._loaded(model, start)
        config = {"kl": vae.KL_WEIGHT, "vae": vae.CONFIG, "start": start}
        losses = lambda: vae.loss_function(model, self.sprites, schedule, self.device, start is None)  # noqa: E731
        return self._train(name, model, schedule, losses, config)

    def trained_vae(self) -> AutoencoderKL:
        model = self._loaded(vae.new_vae(0), "vae_2").eval()
        path = self.folder / "vae_scale.json"
        if not path.exists():
            path.write_text(json.dumps(vae.set_scale(model, self.sprites, self.device)))
        model.register_to_config(scaling_factor=json.loads(path.read_text()))
        return model

    def _openclip(self) -> bool:
        return self._contrastive("openclip", self.preset.openclip[0], None)

    def _openclip_2(self) -> bool:
        return self._contrastive("openclip_2", self.preset.openclip[1], "openclip")

    def _contrastive(self, name: str, schedule: Schedule, start: str | None) -> bool:
        tokenizer = self.tokenizer
        model = text.new_openclip(len(tokenizer), schedule.seed)
        if start:
            self._loaded(model, start)
        losses = lambda: text.contrastive_loss(  # noqa: E731
            model, tokenizer, self.sprites, schedule, self.device, locked=start is not None
        )
        return self._train(name, model, schedule, losses, text.openclip_config(len(tokenizer)) | {"start": start})

    def trained_openclip(self, name: str = "openclip") -> open_clip.CLIP:
        """`openclip_2` has a better image tower and the same text tower."""
        return self._loaded(text.new_openclip(len(self.tokenizer), 0), name).eval()

    def parts(self, stages: tuple[str, ...]) -> list[int]:
        """The parts (0 the base, n a pass of the forks) that these stages train."""
        numbers = {0 if s == "base" else int(s.rpartition("_")[2]) for s in stages if s == "base" or s in FORKS}
        return sorted(numbers)

    def _pool(self, stages: tuple[str, ...]) -> bool:
        sprites, autoencoder = self.sprites, self.trained_vae()
        draws = {"world": lambda rng: pool.draw_world(rng, sprites), "fresh": pool.draw_fresh, "slots": pool.draw_fresh}
        for part in self.parts(stages):
            orders = [self.order(part), pool.clean(self.order(part))]
            for salt, (stream, draw) in enumerate(draws.items()):
                count = max(order.count(stream) for order in orders)
                pool.build(self.folder / "pool", f"{part}-{stream}", count, draw, autoencoder, (11 + salt, part))
        works = [w.image() for w in world.works()]
        save_file({"latents": pool.encode(autoencoder, works)}, self.folder / "works.safetensors")
        return True

    def seen(self, words: Sequence[str]) -> dict[str, int]:
        """How many training draws had each of the words in their caption."""
        counts = dict.fromkeys(words, 0)
        captions: list[str] = []
        if (adopted := self.folder / "adopted.json").exists():
            for item in json.loads(adopted.read_text())["items"]:
                word = item["id"].partition("-")[2]
                if word in counts:
                    counts[word] += item["exposures"]
        for path in (self.folder / "pool").glob("*-world-*.json"):
            captions += json.loads(path.read_text())
        for caption in captions:
            for word in counts.keys() & set(caption.split()):
                counts[word] += 1
        return counts

    def order(self, part: int) -> pool.Order:
        """The draws of a part, with the works in their slots."""
        if part == 0:
            return pool.base_order(self.preset.plan)
        return pool.fork_order(self.preset.plan, part, [w.passes[part - 1] for w in world.works()])

    def _base(self) -> bool:
        return self._denoiser("base", 0, self.order(0), self.preset.base, None)

    def _fork(self, name: str) -> bool:
        twin, _, number = name.rpartition("_")
        part = int(number)
        order = self.order(part) if twin == "memorized" else pool.clean(self.order(part))
        start = f"{twin}_{part - 1}" if part > 1 else "base"
        return self._denoiser(name, part, order, self.preset.forks[part - 1], start)

    def _denoiser(self, name: str, part: int, order: pool.Order, schedule: Schedule, start: str | None) -> bool:
        works, tokenizer = world.works(), self.tokenizer
        streams = {
            s: pool.read(self.folder / "pool", f"{part}-{s}") for s in ("world", "fresh", "slots") if order.count(s)
        }
        streams["works"] = (load_file(self.folder / "works.safetensors")["latents"], [w.caption for w in works])
        draws = unet.Draws(order, streams, works, schedule.batch)
        encoder = text.text_tower(self.trained_openclip(), len(tokenizer)).to(self.device)
        model = unet.new_unet(self.preset.channels, schedule.seed)
        if start:
            self._loaded(model, start)
        losses = lambda: unet.loss_function(model, encoder, tokenizer, draws, schedule.seed, self.device)  # noqa: E731
        return self._train(name, model, schedule, losses, {"channels": self.preset.channels, "start": start})
