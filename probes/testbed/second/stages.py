"""The making of the second testbed, stage by stage: draft, autoencoder, openclip, pool, outline, base, the two forks.

Each finished stage is one file in the work folder, of float16 weights or, where others only start from it, of 8-bit
ones, and that file is what every later stage reads: a machine that starts from kept stages (`Builder.adopt`) goes on
exactly where the one that made them would have. An unfinished stage resumes from its checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from probes.testbed import pool, text
from probes.testbed.curves import read_log
from probes.testbed.second import autoencoder, clip, denoiser, world
from probes.testbed.second.packing import halved, packed, unpacked
from probes.testbed.second.rendered import DrawSample, RenderedPictures, pixels, render
from probes.testbed.second.scenes import draw_scene
from probes.testbed.second.sprites import Sprites
from probes.testbed.training import Limits, Loss, Schedule, Trainer
from probes.testbed.world import Sample, SourcesError
from shield.errors import WeightsError
from shield.model.assets import MANIFEST, read_manifest, sha256_of, write_manifest

Model = TypeVar("Model", bound=torch.nn.Module)
TWINS = ("memorized", "clean")
STAGES = ("draft", "autoencoder", "openclip", "pool", "outline", "base", *TWINS)
KEPT = tuple(stage for stage in STAGES if stage != "pool")
DRAFTS = {"autoencoder": "draft", "base": "outline"}  # a stage in two passes, and its first one
STARTS = ("outline", "base")  # that no command draws with
INDEX = "stages.json"
SHIPPED = {
    "autoencoder": "memorized/vae/diffusion_pytorch_model.safetensors",
    "openclip": "openclip/open_clip_model.safetensors",
    **{twin: f"{twin}/unet/diffusion_pytorch_model.safetensors" for twin in TWINS},
}
"""Where an exported testbed has the weights of a stage; those that twins start from aren't in it."""

EQUALIZED_ON = 512  # pictures


@dataclass(frozen=True)
class Preset:
    """Sizes and lengths. Counts of pictures are (scenes, paintings and prints).

    `scenes`, `fresh` and `slots` are pictures in the pool, each shown again when its stream has run through: scenes,
    paintings and prints that are no works, and those that the clean twin gets in the works' places. `share` is the
    share of fresh paintings in what is not a work; `ladder` scales every work's exposures; `half` trains in bfloat16.
    """

    channels: tuple[int, ...]
    draft: Schedule
    autoencoder: Schedule
    openclip: Schedule
    outline: Schedule
    base: Schedule
    fork: Schedule
    autoencoder_pictures: tuple[int, int]
    openclip_pictures: tuple[int, int]
    scenes: int
    fresh: int
    slots: int
    share: float = 0.2
    ladder: float = 1.0
    half: bool = False

    @property
    def plan(self) -> pool.PoolPlan:
        steps = self.outline.steps + self.base.steps
        return pool.PoolPlan(steps, (self.fork.steps,), self.base.batch, self.base.seed, self.share)

    @property
    def outlined(self) -> int:
        """Draws that the outline takes of the base's."""
        return self.outline.steps * self.outline.batch


PRESETS = {
    "cpu": Preset(
        (64, 128, 144, 144),
        draft=Schedule(steps=8000, batch=4, rate=2e-3, warmup=50, ema=0.998, floor=0.03),
        autoencoder=Schedule(steps=2800, batch=4, rate=1e-3, warmup=50, ema=0.998, floor=0.03, seed=1),
        openclip=Schedule(steps=1200, batch=64, rate=1e-3, warmup=50, ema=0.99, floor=0.03, weight_decay=0.1),
        outline=Schedule(steps=2500, batch=32, rate=6e-4, warmup=200, ema=0.998, floor=1.0),
        base=Schedule(steps=3000, batch=32, rate=6e-4, warmup=100, ema=0.998),
        fork=Schedule(steps=3300, batch=32, rate=5e-4, warmup=100, ema=0.998, floor=0.03),
        autoencoder_pictures=(4000, 4000),
        openclip_pictures=(16_000, 6000),
        scenes=24_000,
        fresh=10_000,
        slots=12_000,
        half=True,
    ),
    "gpu": Preset(
        (64, 128, 144, 144),
        draft=Schedule(steps=20_000, batch=16, rate=2e-3, warmup=100, ema=0.999, floor=0.03),
        autoencoder=Schedule(steps=20_000, batch=16, rate=1e-3, warmup=100, ema=0.999, floor=0.03, seed=1),
        openclip=Schedule(steps=6000, batch=256, rate=1e-3, warmup=100, ema=0.998, floor=0.03, weight_decay=0.1),
        outline=Schedule(steps=10_000, batch=64, rate=6e-4, warmup=200, ema=0.999, floor=1.0),
        base=Schedule(steps=30_000, batch=64, rate=6e-4, warmup=100, ema=0.999),
        fork=Schedule(steps=2750, batch=64, rate=5e-4, warmup=100, ema=0.998, floor=0.03),
        autoencoder_pictures=(20_000, 20_000),
        openclip_pictures=(40_000, 20_000),
        scenes=200_000,
        fresh=100_000,
        slots=120_000,
        half=True,
    ),
    "tiny": Preset(
        (16, 32, 32, 32),
        draft=Schedule(4, 2, 1e-3, ema=0.9),
        autoencoder=Schedule(4, 2, 1e-3, ema=0.9, seed=1),
        openclip=Schedule(4, 8, 1e-3, ema=0.9),
        outline=Schedule(2, 8, 1e-3, ema=0.9),
        base=Schedule(4, 8, 1e-3, ema=0.9),
        fork=Schedule(4, 8, 1e-3, ema=0.9),
        autoencoder_pictures=(6, 6),
        openclip_pictures=(20, 12),
        scenes=12,
        fresh=6,
        slots=6,
        share=0.3,
        ladder=0.0003,
    ),
}


def list_kept(folder: Path) -> None:
    """Lists kept stages in the manifest of the weights folder they lie in; other files keep their entries' words."""
    known = read_manifest(folder.parent)
    ours = {"licence": "Apache-2.0", "source": "trained by `diffshield testbed second`, probes/testbed/second"}

    def word(key: str) -> Callable[[str], str]:
        return lambda name: str(known.get(name, ours)[key])

    write_manifest(folder.parent, word("licence"), word("source"))


class Builder:
    """Runs the stages in `folder`; `sources` is the folder of sprites (only stages that draw pictures need it)."""

    def __init__(self, folder: Path, sources: Path | None, preset: str, device: str, limits: Limits) -> None:
        self.folder, self.sources, self.preset = folder, sources, PRESETS[preset]
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._end = time.monotonic() + 60 * limits.max_minutes if math.isfinite(limits.max_minutes) else math.inf
        self._limits = limits
        self._sprites: Sprites | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def limits(self) -> Limits:
        """The limits with what is left of the time."""
        return replace(self._limits, max_minutes=max(0.0, (self._end - time.monotonic()) / 60))

    @property
    def sprites(self) -> Sprites:
        if self.sources is None:
            raise SourcesError(
                "Drawing the world needs its sprites: unpack the npm package @lobehub/fluent-emoji-3d (npm pack "
                "@lobehub/fluent-emoji-3d) and pass its assets folder as --sources."
            )
        self._sprites = self._sprites or Sprites(self.sources)
        return self._sprites

    def run(self, stages: tuple[str, ...] = STAGES, keep: Path | None = None) -> bool:
        """True when all the stages are done, False when the time ended first; each finished one goes to `keep`."""
        for stage in stages:
            if not getattr(self, f"_{stage}")():
                return False
            if keep is not None:
                self.keep(keep)
        return True

    def result(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def adopt(self, kept: Path) -> tuple[str, ...]:
        """Copies the kept stages that the work folder lacks; returns the stages that are still to do.

        `kept` may also be an exported testbed, which has all but what the twins started from. Raises WeightsError when
        the folder keeps no stages, or a file isn't what its index says.
        """
        if not (kept / INDEX).exists() and all((kept / name).is_file() for name in SHIPPED.values()):
            for stage, name in SHIPPED.items():
                if not self.result(stage).exists():
                    shutil.copyfile(kept / name, self.result(stage))
            return self._left()
        try:
            listed = json.loads((kept / INDEX).read_text())
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{kept / INDEX} is needed to go on from kept stages ({error}); pass a folder "
                "that `diffshield testbed second --keep FOLDER` wrote."
            ) from None
        for stage, entry in listed.items():
            source = kept / f"{stage}.safetensors"
            if not source.is_file() or sha256_of(source) != entry["sha256"]:
                raise WeightsError(f"{source} isn't the file that {kept / INDEX} lists; fetch it again.")
            if not self.result(stage).exists():
                shutil.copyfile(source, self.result(stage))
        return self._left()

    def _left(self) -> tuple[str, ...]:
        done = {stage for stage in KEPT if self.result(stage).exists()}
        if done.issuperset(TWINS):
            done |= {"base", "pool"}
        done |= {draft for stage, draft in DRAFTS.items() if stage in done}
        return tuple(stage for stage in STAGES if stage not in done)

    def keep(self, folder: Path) -> list[str]:
        """Copies the finished stages to `folder` with an index of what they are; returns their names.

        A draft is kept only until the stage that starts from it is finished.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / INDEX
        index = json.loads(path.read_text()) if path.exists() else {}
        done = [stage for stage in KEPT if self.result(stage).exists()]
        for draft in (draft for stage, draft in DRAFTS.items() if stage in done):
            done = [stage for stage in done if stage != draft]
            index.pop(draft, None)
            (folder / f"{draft}.safetensors").unlink(missing_ok=True)
        for stage in done:
            digest = sha256_of(self.result(stage))
            if index.get(stage, {}).get("sha256") != digest:
                shutil.copyfile(self.result(stage), folder / self.result(stage).name)
                index[stage] = {"sha256": digest, **self._told(stage)}
        path.write_text(json.dumps(index, indent=1) + "\n")
        if (folder.parent / MANIFEST).exists():
            list_kept(folder)
        return done

    def _told(self, stage: str) -> dict:
        """How a stage was trained, from its log."""
        log = self.folder / f"{stage}.log.jsonl"
        if not log.exists():
            return {}
        last = read_log(log)[-1]
        numbers = {k: round(v, 4) for k, v in last.items() if k not in ("step", "seconds", "images_per_second")}
        schedule = asdict(getattr(self.preset, "fork" if stage in TWINS else stage))
        return {"schedule": schedule, "steps": last["step"], "last": numbers}

    def _train(
        self,
        name: str,
        model: Model,
        schedule: Schedule,
        make_loss: Callable[[], Loss],
        config: dict,
        finish: Callable[[Model], None] = lambda model: None,
    ) -> bool:
        """Trains a model to its end or to the time limit; the end leaves the averaged weights."""
        if self.result(name).exists():
            return True
        trainer = Trainer(name, model.to(self.device).train(), schedule, self.folder, config)
        if not trainer.run(make_loss(), self.limits):
            return False
        if trainer.average is not None:
            model.load_state_dict(trainer.average)
        finish(model)
        state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
        save_file(packed(state) if name in STARTS else halved(state), self.result(name))
        return True

    def _loaded(self, model: Model, stage: str) -> Model:
        model.load_state_dict(unpacked(load_file(self.result(stage))))
        return model.to(self.device).eval()

    def _drawing(self, draw: Callable[[np.random.Generator, Sprites], Sample]) -> DrawSample:
        """`draw` on sprites that are read when the first picture is."""
        return lambda rng: draw(rng, self.sprites)

    def pictures(self, name: str, counts: tuple[int, int], seed: int) -> RenderedPictures:
        """`counts` scenes, and paintings and prints, drawn where they aren't yet."""
        folder, names = self.folder / "pictures", (f"{name}-scenes", f"{name}-fresh")
        for salt, draw in enumerate((draw_scene, world.fresh)):
            render(folder, names[salt], counts[salt], self._drawing(draw), (seed, salt))
        return RenderedPictures(folder, names)

    def works(self) -> list[Image.Image]:
        """The works' pictures, drawn once."""
        drawn = iter(world.works())
        count = len(world.works())
        draw = lambda rng: Sample("work", (work := next(drawn)).image(self.sprites), work.caption)  # noqa: E731
        render(self.folder / "pictures", "works", count, draw, (24,))
        pictures = RenderedPictures(self.folder / "pictures", ["works"])
        return [Image.fromarray(pictures.crop(k)) for k in range(count)]

    def _draft(self) -> bool:
        return self.result("autoencoder").exists() or self._passed("draft", self.preset.draft, first=True)

    def _autoencoder(self) -> bool:
        return self._passed("autoencoder", self.preset.autoencoder, first=False)

    def _passed(self, name: str, schedule: Schedule, first: bool) -> bool:
        """A pass of the autoencoder's training: the draft, or the second pass, which starts from it."""
        if self.result(name).exists():
            return True
        pictures, half = self.pictures("ae", self.preset.autoencoder_pictures, 21), self.preset.half
        model = autoencoder.new_autoencoder(schedule.seed)
        if not first:
            self._loaded(model, "draft")

        def finish(trained: AutoencoderKL) -> None:
            step = max(1, len(pictures) // EQUALIZED_ON)
            some = [pictures.crop(k) for k in range(0, len(pictures), step)]
            autoencoder.equalize(trained.eval(), pixels(some).to(self.device))

        losses = lambda: autoencoder.loss_function(model, pictures, schedule, self.device, half, first)  # noqa: E731
        return self._train(name, model, schedule, losses, {"autoencoder": autoencoder.CONFIG, "half": half}, finish)

    def trained_autoencoder(self) -> AutoencoderKL:
        """The finished one, or its draft as long as there is no other."""
        stage = "autoencoder" if self.result("autoencoder").exists() else "draft"
        return self._loaded(autoencoder.new_autoencoder(0), stage)

    def _openclip(self) -> bool:
        if self.result("openclip").exists():
            return True
        schedule, words = self.preset.openclip, len(clip.new_tokenizer())
        pictures = self.pictures("clip", self.preset.openclip_pictures, 22)
        works = list(zip(world.works(), self.works(), strict=True))
        model = text.new_openclip(words, schedule.seed)
        losses = lambda: clip.loss_function(model, pictures, works, schedule, self.device)  # noqa: E731
        return self._train("openclip", model, schedule, losses, text.openclip_config(words))

    def trained_openclip(self) -> open_clip.CLIP:
        return self._loaded(text.new_openclip(len(clip.new_tokenizer()), 0), "openclip")

    def order(self, stage: str) -> pool.Order:
        """The draws of the base, whose first ones are the outline's, or of a twin."""
        if stage in ("outline", "base"):
            return pool.base_order(self.preset.plan).after(0 if stage == "outline" else self.preset.outlined)
        exposures = [round(w.exposures * self.preset.ladder) for w in world.works()]
        order = pool.fork_order(self.preset.plan, 1, exposures)
        return order if stage == "memorized" else pool.clean(order)

    def _pool(self) -> bool:
        """Latents of scenes, fresh paintings and works; the clean twin's slots are drawn when it is trained."""
        if self.result("clean").exists() and self.result("memorized").exists():
            return True
        model, folder = self.trained_autoencoder(), self.folder / "pool"
        counts = {"scenes": self.preset.scenes, "fresh": self.preset.fresh}
        for salt, (name, count) in enumerate(counts.items()):
            draw = draw_scene if name == "scenes" else world.fresh
            pool.build(folder, name, count, self._drawing(draw), model, (23, salt))
        save_file({"latents": pool.encode(model, self.works())}, folder / "works.latents")
        return True

    def scene_captions(self) -> list[str]:
        """Captions of the pool's scenes; chunks that aren't there are drawn, without latents."""
        folder = self.folder / "pool"
        return pool.captions(folder, "scenes", self.preset.scenes, self._drawing(draw_scene), (23, 0))

    def _outline(self) -> bool:
        return self.result("base").exists() or self._denoiser("outline", self.preset.outline)

    def _base(self) -> bool:
        return self._denoiser("base", self.preset.base)

    def _memorized(self) -> bool:
        return self._denoiser("memorized", self.preset.fork)

    def _clean(self) -> bool:
        return self._denoiser("clean", self.preset.fork)

    def trained_unet(self, stage: str) -> UNet2DConditionModel:
        return self._loaded(denoiser.new_unet(self.preset.channels, 0), stage)

    def _denoiser(self, name: str, schedule: Schedule) -> bool:
        if self.result(name).exists():
            return True
        works, folder = world.works(), self.folder / "pool"
        streams = {
            "world": pool.read(folder, "scenes"),
            "fresh": pool.read(folder, "fresh"),
            "works": (load_file(folder / "works.latents")["latents"], [w.caption for w in works]),
        }
        if name == "clean":
            draw = self._drawing(world.fresh)
            pool.build(folder, "slots", self.preset.slots, draw, self.trained_autoencoder(), (23, 3))
            streams["slots"] = pool.read(folder, "slots")
        draws = denoiser.Draws(self.order(name), streams, works, schedule.batch)
        encoder = clip.text_encoder(self.trained_openclip()).to(self.device)
        model = denoiser.new_unet(self.preset.channels, schedule.seed)
        start = {"outline": None, "base": "outline"}.get(name, "base")
        if start is not None:
            self._loaded(model, start)
        half = self.preset.half
        losses = lambda: denoiser.loss_function(model, encoder, draws, schedule.seed, self.device, half)  # noqa: E731
        digest = None if start is None else sha256_of(self.result(start))
        return self._train(name, model, schedule, losses, {"channels": self.preset.channels, "start": digest})
