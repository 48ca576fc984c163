"""How much of everything a training takes: for two cores, for a GPU, and for a smoke test."""

from __future__ import annotations

from dataclasses import dataclass

from probes.testbed.training.pool import PoolPlan
from probes.testbed.training.trainer import Schedule


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
    def plan(self) -> PoolPlan:
        steps = self.outline.steps + self.base.steps
        return PoolPlan(steps, self.fork.steps, self.base.batch, self.share, self.base.seed)

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
        ladder=0.0005,
    ),
}
