"""Calls that tests share: prompts, seeds, and a snapshot of everything a call must leave alone."""

from dataclasses import replace

import torch

from shield.calibrate import Sampling, calibrate
from shield.detectors import NoiseGap
from shield.families import family_of
from shield.fingerprint import model_sha256
from shield.intercept import denoiser_of
from shield.prediction import prediction_type

PROMPTS = ["the cat", "a dog", "zzz qq", "ab"]
NEGATIVES = [f"{i} cat {i * i}" for i in range(25)]
STEPS = 3


def noises(n, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


def options(n=None, **more):
    """Keyword arguments of a small call; `n` pictures get one generator each."""
    call = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "np", **more}
    return call if n is None else {**call, "generator": noises(n)}


DETECTORS = (NoiseGap(),)
_calibrated = {}


def thresholds(pipe, value=None, detectors=DETECTORS):
    """Calibrated on 100 scores, once per checkpoint and detectors; `value` replaces every threshold's."""
    if family_of(pipe).name == "flux":
        sampling = Sampling(STEPS, 3.5, 50, (("height", 64), ("width", 64), ("max_sequence_length", 16)))
    else:
        sampling = Sampling(STEPS, 5.0, 50, (("height", 64), ("width", 64)))
    key = (model_sha256(denoiser_of(pipe)), prediction_type(pipe.scheduler), tuple(detectors))
    if key not in _calibrated:
        _calibrated[key] = calibrate(pipe, detectors, NEGATIVES, range(4), 0.01, "tiny", sampling)
    made = _calibrated[key]
    return made if value is None else [replace(t, value=value) for t in made]


def state(pipe):
    """Hooks, processors, scheduler, weights and RNG of a pipeline, comparable with ==."""
    unet = pipe.unet
    return {
        "hooks": [list(h) for m in unet.modules() for h in (m._forward_hooks, m._forward_pre_hooks)],
        "processors": {n: id(p) for n, p in unet.attn_processors.items()},
        "scheduler": {k: str(v) for k, v in vars(pipe.scheduler).items()},
        "weights": [float(p.detach().double().sum()) for p in unet.parameters()],
        "rng": torch.get_rng_state().tolist(),
        "training": unet.training,
    }
