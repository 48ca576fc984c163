"""Calls that tests share: prompts, seeds, and a snapshot of everything a call must leave alone."""

from dataclasses import replace

import torch

from shield.calibration.detectors import NegativeSampling, calibrate
from shield.detectors import StructureGap
from shield.hooks.intercept import denoiser_of
from shield.model.families import family_of
from shield.model.prediction import prediction_type
from shield.runtime.settings import models_of

PROMPTS = ["the cat", "a dog", "zzz qq", "ab"]
NEGATIVES = [f"{i} cat {i * i}" for i in range(25)]
STEPS = 3


def noises(n, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


def options(n=None, **more):
    """Keyword arguments of a small call; `n` pictures get one generator each."""
    call = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "np", **more}
    return call if n is None else {**call, "generator": noises(n)}


DETECTORS = (StructureGap(),)
BATCH = 50
_calibrated = {}


def thresholds(pipe, value=None, detectors=DETECTORS, more=()):
    """Calibrated on 100 scores, once per checkpoint, pipeline and detectors; `value` replaces every threshold's. `more`
    are the call's other arguments, a list of pictures one for each prompt.
    """
    flux = family_of(pipe).name == "flux"
    small = {"height": 64, "width": 64, "max_sequence_length": 16} if flux else {}
    whole = {k: v[:1] * BATCH if isinstance(v, list) else v for k, v in {**small, **dict(more)}.items()}
    sampling = NegativeSampling(STEPS, 3.5 if flux else 5.0, BATCH, tuple(whole.items()))
    key = (type(pipe), models_of(pipe), prediction_type(pipe.scheduler), tuple(detectors))
    if key not in _calibrated:
        _calibrated[key] = calibrate(pipe, detectors, NEGATIVES, range(4), 0.01, "tiny", sampling)
    made = _calibrated[key]
    return made if value is None else [replace(t, value=value) for t in made]


def counted(pipe, call):
    """(what the call returns, how many rows the denoiser was given each time it ran)."""
    rows = []
    handle = pipe.unet.conv_in.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    try:
        return call(), rows
    finally:
        handle.remove()


def state(pipe):
    """Hooks, processors, scheduler, weights and RNG of a pipeline, comparable with ==."""
    denoiser = denoiser_of(pipe)
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modules = [module for part in parts for module in part.modules()]
    return {
        "hooks": [list(h) for m in modules for h in (m._forward_hooks, m._forward_pre_hooks)],
        "calls": [id(m._compiled_call_impl) for m in modules],
        "processors": {n: id(p) for n, p in getattr(denoiser, "attn_processors", {}).items()},
        "scheduler": {k: str(v) for k, v in vars(pipe.scheduler).items()},
        "weights": [float(p.detach().double().sum()) for part in parts for p in part.parameters()],
        "gradients": [p.grad is not None or not p.requires_grad for part in parts for p in part.parameters()],
        "rng": torch.get_rng_state().tolist(),
        "training": [m.training for m in modules],
    }
