"""The one place where epsilon, v, flow and clean-latent predictions are converted into each other.

A noisy latent is x_t = signal * x0 + noise * eps. For a variance-preserving schedule signal = sqrt(alpha_bar_t) and
noise = sqrt(1 - alpha_bar_t); for rectified flow signal = 1 - sigma and noise = sigma. With a, s for the two numbers:

    prediction    x0                   eps
    epsilon       (x - s eps) / a      eps
    v_prediction  a x - s v            s x + a v         Salimans and Ho, ICLR 2022, arXiv 2202.00512
    flow          x - s u              x + a u           u = eps - x0
    sample        x0                   (x - a x0) / s
    edm           (b^2 x + s b F) / a  s x - b F            b = sqrt(1 - s^2); Karras et al., arXiv 2206.00364
    edm_v         the same with -F

Every row is linear in (x, prediction), so the difference of two predictions for the same x converts with x = 0. At
zero terminal signal (a = 0) epsilon is x itself whatever the prompt, so its gap is exactly zero; v and x0 stay
informative there.
"""

import math
from typing import Any

import torch
from torch import Tensor

from shield.errors import TraceError, UnsupportedPipelineError
from shield.model.schedules import kind_of, levels_at

PREDICTIONS = ("epsilon", "v_prediction", "flow", "sample", "edm", "edm_v")
TRAINED = {name: name for name in PREDICTIONS[:4]} | {"flow_prediction": "flow", "original_sample": "sample"}
EDM = {"epsilon": "edm", "v_prediction": "edm_v"}  # what an EDM scheduler calls its two preconditionings
QUANTITIES = ("x0", "epsilon", "v")


def prediction_type(scheduler: Any) -> str:
    """What the denoiser under this scheduler predicts: one of PREDICTIONS. Raises TraceError for anything else, and
    UnsupportedPipelineError for a scheduler that the shield doesn't know.
    """
    kind, found = kind_of(scheduler), scheduler.config.get("prediction_type")
    if kind == "flow":
        return "flow"  # these read no prediction_type; a config made from another scheduler's may hold one
    known = EDM if kind == "edm" else TRAINED
    if found not in known:
        raise TraceError(f"The scheduler predicts {found!r}; the shield reads {', '.join(known)}.")
    return known[found]


def refuse_unreadable(scheduler: Any) -> None:
    """Raises UnsupportedPipelineError or TraceError where no step under this scheduler can be judged."""
    prediction_type(scheduler)


def unreadable(scheduler: Any) -> str | None:
    """Why no step under this scheduler can be judged; None when it can be."""
    try:
        refuse_unreadable(scheduler)
    except (UnsupportedPipelineError, TraceError) as error:
        return str(error)
    return None


def noise_levels(scheduler: Any, timestep: float, is_running: bool = False) -> tuple[float, float]:
    """(signal, noise): how much clean latent and how much noise the denoiser's input holds at `timestep`.

    `is_running`: that is the step the scheduler is at. Raises UnsupportedPipelineError for a scheduler that the shield
    doesn't know (shield/model/schedules.py).
    """
    return levels_at(scheduler, timestep, is_running)


def converted(
    prediction: Tensor, kind: str, quantity: str, signal: float, noise: float, latents: Tensor | None = None
) -> Tensor:
    """`prediction` of `kind`, as `quantity` ("x0", "epsilon" or "v"), same shape.

    `latents` is the denoiser's input x_t; leave it out to convert the difference of two predictions for one x_t.
    v is a*eps - s*x0 for every kind, so one number compares models. Raises TraceError where the
    conversion doesn't exist (clean latent from epsilon at zero signal).
    """
    if quantity not in QUANTITIES:
        raise TraceError(f"Unknown quantity {quantity!r}; known: {', '.join(QUANTITIES)}.")
    x = torch.zeros_like(prediction) if latents is None else latents
    if kind == "v_prediction" and quantity == "v":
        return prediction
    clean, eps = _clean_and_eps(prediction, kind, signal, noise, x)
    if quantity == "epsilon":
        return eps()
    if quantity == "x0":
        return clean()
    return signal * eps() - noise * clean()


def _clean_and_eps(prediction: Tensor, kind: str, a: float, s: float, x: Tensor) -> tuple[Any, Any]:
    """Two functions without arguments, so that a quantity nobody asked for is never divided by zero."""
    if kind == "v_prediction":
        return (lambda: a * x - s * prediction), (lambda: s * x + a * prediction)
    if kind == "flow":
        return (lambda: x - s * prediction), (lambda: x + a * prediction)
    if kind == "epsilon":
        return (lambda: (x - s * prediction) / _nonzero(a, "signal", kind)), (lambda: prediction)
    if kind == "sample":
        return (lambda: prediction), (lambda: (x - a * prediction) / _nonzero(s, "noise", kind))
    if kind in EDM.values():
        b, output = math.sqrt(1.0 - s * s), prediction if kind == "edm" else -prediction
        return (lambda: (b * b * x + s * b * output) / a), (lambda: s * x - b * output)
    raise TraceError(f"Unknown prediction {kind!r}; known: {', '.join(PREDICTIONS)}.")


def _nonzero(value: float, what: str, kind: str) -> float:
    if value == 0.0:
        raise TraceError(f"At zero {what} a model that predicts {kind!r} doesn't determine the quantity asked for.")
    return value
