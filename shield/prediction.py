"""The one place where epsilon, v, flow and clean-latent predictions are converted into each other.

A noisy latent is x_t = signal * x0 + noise * eps. For a variance-preserving schedule signal = sqrt(alpha_bar_t) and
noise = sqrt(1 - alpha_bar_t); for rectified flow signal = 1 - sigma and noise = sigma. With a, s for the two numbers:

    prediction    x0                   eps
    epsilon       (x - s eps) / a      eps
    v_prediction  a x - s v            s x + a v         Salimans and Ho, ICLR 2022, arXiv 2202.00512
    flow          x - s u              x + a u           u = eps - x0
    sample        x0                   (x - a x0) / s

Every row is linear in (x, prediction), so the difference of two predictions for the same x converts with x = 0. At
zero terminal signal (a = 0) epsilon is x itself whatever the prompt, so its gap is exactly zero; v and x0 stay
informative there.
"""

import math
from typing import Any

import torch
from torch import Tensor

from shield.errors import TraceError

PREDICTIONS = ("epsilon", "v_prediction", "flow", "sample")
QUANTITIES = ("x0", "epsilon", "v")


def prediction_type(scheduler: Any) -> str:
    """What the denoiser under this scheduler predicts: one of PREDICTIONS. Raises TraceError for anything else."""
    found = scheduler.config.get("prediction_type")
    if found is None or found in ("flow_prediction", "flow"):
        return "flow"
    if found not in PREDICTIONS:
        raise TraceError(f"The scheduler predicts {found!r}; the shield reads {', '.join(PREDICTIONS)}.")
    return found


def noise_levels(scheduler: Any, timestep: float) -> tuple[float, float]:
    """(signal, noise): how much clean latent and how much noise the denoiser's input holds at `timestep`.

    Sigma-space schedulers (Euler, LMS) scale the denoiser's input to the same variance-preserving form, so that
    `alphas_cumprod` serves them too; their fractional timesteps are interpolated in log signal-to-noise.
    """
    if prediction_type(scheduler) == "flow":
        sigma = timestep / float(scheduler.config.num_train_timesteps)
        return 1.0 - sigma, sigma
    alphas = scheduler.alphas_cumprod
    lower = min(max(math.floor(timestep), 0), len(alphas) - 1)
    share = timestep - lower
    alpha = float(alphas[lower])
    if share > 0 and lower + 1 < len(alphas):
        alpha = _between(alpha, float(alphas[lower + 1]), share)
    return math.sqrt(alpha), math.sqrt(1.0 - alpha)


def _between(alpha: float, following: float, share: float) -> float:
    """alpha_bar between two timesteps, linear in the log signal-to-noise ratio."""
    tiny = 1e-12
    first, second = (math.log((a + tiny) / (1.0 - a + tiny)) for a in (alpha, following))
    return 1.0 / (1.0 + math.exp(-((1.0 - share) * first + share * second)))


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
    raise TraceError(f"Unknown prediction {kind!r}; known: {', '.join(PREDICTIONS)}.")


def _nonzero(value: float, what: str, kind: str) -> float:
    if value == 0.0:
        raise TraceError(f"At zero {what} a model that predicts {kind!r} doesn't determine the quantity asked for.")
    return value
