"""Self-calibration at real size: denoisers with SD 1.5's and SDXL's configurations and random weights, small pictures.

Random weights memorize nothing, so this says nothing about detection. It checks that a calibration on one half of the
benign prompts keeps its false-alarm rate on the other half, what the calibration costs, and which differences between
settings move a score: the change of each prompt's score on the same noise, in standard deviations of the scores.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real_size import SD15, SDXL
from benchmarks.timing import Figure, figure
from shield.benign.prompts import benign_prompts
from shield.calibration.score_log import ScoreLog
from shield.calibration.self_calibrate import self_calibrate
from shield.detectors import StructureGap
from shield.model.loading import load

STEPS, FPR, BATCH = 25, 0.01, 16
COMPARED = 32  # prompts whose scores are compared between settings
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def measure() -> list[Figure]:
    """Costs, false alarms, and what moves a score."""
    found = []
    for name, make, side in (("SD 1.5's size, 128 px", sd15, 128), ("SDXL's size, 64 px", sdxl, 64)):
        pipe, call = make(), {"height": side, "width": side, "num_inference_steps": STEPS, "guidance_scale": 7.5}
        found += _calibrated(name, pipe, call)
        found += _moved(name, pipe, call)
        del pipe
    return found


def _calibrated(name: str, pipe: Any, call: dict[str, Any]) -> list[Figure]:
    made = self_calibrate(pipe, [StructureGap()], call, fpr=FPR, batch_size=BATCH)[0]
    about = made.provenance
    scores = _scores(pipe, benign_prompts("test"), call)
    return [
        figure(f"{name}: denoiser rows of a self-calibration", [about["evaluations"]], "rows"),
        figure(f"{name}: seconds of a self-calibration", [about["seconds"]], "s"),
        figure(f"{name}: false alarms among {len(scores)} held-out prompts", [float((scores > made.value).sum())], ""),
    ]


def _moved(name: str, pipe: Any, call: dict[str, Any]) -> list[Figure]:
    from diffusers import EulerDiscreteScheduler, UniPCMultistepScheduler

    prompts, scheduler = benign_prompts("test", COMPARED), pipe.scheduler
    base = _scores(pipe, prompts, call)
    side = call["height"]
    other = {
        "10 steps": {"num_inference_steps": 10},
        "guidance 3": {"guidance_scale": 3.0},
        "half as large again": {"height": 3 * side // 2, "width": 3 * side // 2},
        "half as wide again": {"width": 3 * side // 2},
    }
    changed = {what: _scores(pipe, prompts, {**call, **more}) for what, more in other.items()}
    for kind in (EulerDiscreteScheduler, UniPCMultistepScheduler):
        for spacing in ("trailing", "leading"):
            pipe.scheduler = kind.from_config({**scheduler.config, "timestep_spacing": spacing})
            changed[f"{kind.__name__}, {spacing} timesteps"] = _scores(pipe, prompts, call)
    pipe.scheduler = scheduler  # last, because the weights are rounded by it
    changed["bfloat16"] = _scores(pipe.to(dtype=torch.bfloat16), prompts, call)
    return [
        figure(f"{name}, {what}: change of scores", list(np.abs(scores - base) / base.std()), "deviations")
        for what, scores in changed.items()
    ]


def _scores(pipe: Any, prompts: Sequence[str], call: dict[str, Any]) -> np.ndarray:
    """(N,) first-step scores of these prompts, each on one of eight noises."""
    with tempfile.TemporaryDirectory() as folder:
        log = ScoreLog(Path(folder) / "scores.jsonl", resume=False)
        self_calibrate(pipe, [StructureGap()], call, fpr=0.5, prompts=prompts, batch_size=BATCH, log=log)
        rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    by_prompt = {prompt: next(iter(row.values())) for prompt, _, row in rows}
    return np.array([by_prompt[prompt] for prompt in prompts])


def sd15() -> Any:
    """A pipeline of SD 1.5's UNet, which reads the testbed's text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    parts = load("testbed").components
    unet = _random(SD15, parts["text_encoder"].config.hidden_size)
    own = {"unet": unet, "scheduler": DDIMScheduler(**SCHEDULE), "safety_checker": None}
    return _quiet(StableDiffusionPipeline(**{**parts, **own}, requires_safety_checker=False))


def sdxl() -> Any:
    """A pipeline of SDXL's UNet, which reads the testbed's text encoder and one like it with random weights."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    parts = load("testbed").components
    first = parts["text_encoder"].config.to_dict()
    torch.manual_seed(1)
    second = CLIPTextModelWithProjection(CLIPTextConfig(**{**first, "projection_dim": 1280})).eval()
    shared = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer")}
    return _quiet(
        StableDiffusionXLPipeline(
            **shared,
            text_encoder_2=second,
            tokenizer_2=parts["tokenizer"],
            unet=_random(SDXL, 2 * first["hidden_size"]),
            scheduler=EulerDiscreteScheduler(**SCHEDULE),
            add_watermarker=False,
        )
    )


def _random(config: dict[str, Any], width: int) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(in_channels=4, out_channels=4, **{**config, "cross_attention_dim": width}).eval()


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe
