"""How much clean latent and how much noise the denoiser is given, scheduler by scheduler: a table of kinds.

A scheduler that isn't in the table keeps its noise in a way that nobody checked, so it is refused by its name instead
of being read as one of the others. Kinds, with x_t = signal * x0 + noise * eps for what the *denoiser* is given:

    alphas   signal = sqrt(alpha_bar_t)                     DDIM, DDPM, PNDM, LCM, TCD
    sigmas   signal = 1 / sqrt(1 + sigma^2)                 Euler, Heun, LMS, KDPM2, DPM++, UniPC, DEIS, SA; with
                                                            use_flow_sigmas as "flow"
    flow     signal = 1 - sigma                             rectified flow
    edm      signal = 1 / sqrt(sigma_data^2 + sigma^2)      Karras et al., NeurIPS 2022, arXiv 2206.00364

In the last three, noise = signal * sigma (flow: sigma). Where the scheduler holds the step's own sigma, that is read:
Karras, exponential and beta sigmas lie between whole timesteps, which are rounded.
"""

import math
from typing import Any

import torch

from shield.errors import UnsupportedPipelineError

KINDS = {
    "alphas": ("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LCM", "TCD", "CogVideoXDDIM"),
    "sigmas": (
        "EulerDiscrete",
        "EulerAncestralDiscrete",
        "HeunDiscrete",
        "LMSDiscrete",
        "KDPM2Discrete",
        "KDPM2AncestralDiscrete",
        "DPMSolverSDE",
        "DPMSolverMultistep",
        "DPMSolverSinglestep",
        "DEISMultistep",
        "UniPCMultistep",
        "SASolver",
    ),
    "flow": ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "LTXEulerAncestralRF"),
    "edm": ("EDMEuler", "EDMDPMSolverMultistep", "CosineDPMSolverMultistep"),
}
_KIND_OF = {f"{name}Scheduler": kind for kind, names in KINDS.items() for name in names}


def kind_of(scheduler: Any) -> str:
    """The row of KINDS for this scheduler's class or the nearest one it descends from.

    Raises UnsupportedPipelineError with the scheduler's name for one that is in no row.
    """
    name = type(scheduler).__name__
    if "Inverse" in name:
        raise UnsupportedPipelineError(
            f"{name} runs from a picture towards noise, so it draws nothing that could be judged; "
            f"take the scheduler that draws ({name.replace('Inverse', '')})."
        )
    found = next((_KIND_OF[c.__name__] for c in type(scheduler).__mro__ if c.__name__ in _KIND_OF), None)
    if found is None or scheduler.config.get("invert_sigmas"):
        with_option = " with invert_sigmas" if found else ""
        raise UnsupportedPipelineError(
            f"How much noise {name}{with_option} leaves at a step isn't known to the shield, so no step can be judged; "
            f"take one of {', '.join(sorted(_KIND_OF))}."
        )
    return found


def refuse_inverse(scheduler: Any) -> None:
    """Raises UnsupportedPipelineError for a scheduler that runs from a picture towards noise."""
    if "Inverse" in type(scheduler).__name__:
        kind_of(scheduler)


def levels_at(scheduler: Any, timestep: float, is_running: bool = False) -> tuple[float, float]:
    """(signal, noise) of the denoiser's input. `is_running`: at the scheduler's current step, whose timestep may have
    been rounded on its way to the denoiser. Raises UnsupportedPipelineError.
    """
    kind = kind_of(scheduler)
    if kind == "edm":
        return _preconditioned(scheduler, timestep)
    sigma = None if kind == "alphas" else _sigma(scheduler, timestep, is_running)
    if kind == "flow" or (kind == "sigmas" and scheduler.config.get("use_flow_sigmas")):
        sigma = timestep / float(scheduler.config.num_train_timesteps) if sigma is None else sigma
        return 1.0 - sigma, sigma
    if sigma is not None:
        signal = 1.0 / math.sqrt(1.0 + sigma * sigma)
        return signal, sigma * signal
    alpha = _alpha_bar(scheduler.alphas_cumprod, timestep)
    return math.sqrt(alpha), math.sqrt(1.0 - alpha)


def _preconditioned(scheduler: Any, timestep: float) -> tuple[float, float]:
    """From the timestep alone, which these schedulers compute from sigma: log(sigma) / 4, or 2 atan(sigma) / pi."""
    is_cosine = type(scheduler).__name__.startswith("Cosine")
    sigma = math.tan(timestep * math.pi / 2.0) if is_cosine else math.exp(4.0 * timestep)
    signal = 1.0 / math.hypot(sigma, float(scheduler.config.sigma_data))
    return signal, sigma * signal


def _sigma(scheduler: Any, timestep: float, is_running: bool) -> float | None:
    """The scheduler's own sigma of that step; None when it has no such step."""
    place = _place(scheduler, timestep, is_running)
    if place is None or place >= len(scheduler.sigmas):
        return None
    between = getattr(scheduler, "sigmas_interpol", None)
    if between is not None and place % 2:  # KDPM2's second evaluation of a step lies between two sigmas
        return float(between[place - 1 if "Ancestral" in type(scheduler).__name__ else place])
    return float(scheduler.sigmas[place])


def _place(scheduler: Any, timestep: float, is_running: bool) -> int | None:
    """Which of the scheduler's steps has this timestep. Among equal ones the current step; None when there is none."""
    times = torch.as_tensor(scheduler.timesteps).cpu().double()
    current = next((i for i in (scheduler.step_index, scheduler.begin_index) if i is not None), None)
    if current is not None and current < len(times):
        slack = abs(timestep) / 64.0 if is_running else 0.0  # bfloat16 keeps eight bits, and is rounded twice
        if abs(float(times[current]) - timestep) <= slack:
            return current
    equal = (times == timestep).nonzero().flatten().tolist()
    starts = is_running and current is None  # where diffusers takes the second of equal ones
    return equal[1 if starts and len(equal) > 1 else 0] if equal else None


def _alpha_bar(alphas: torch.Tensor, timestep: float) -> float:
    """Fractional timesteps are interpolated in log signal-to-noise."""
    lower = min(max(math.floor(timestep), 0), len(alphas) - 1)
    share = timestep - lower
    alpha = float(alphas[lower])
    if share > 0 and lower + 1 < len(alphas):
        return _between(alpha, float(alphas[lower + 1]), share)
    return alpha


def _between(alpha: float, following: float, share: float) -> float:
    """alpha_bar between two timesteps, linear in the log signal-to-noise ratio."""
    tiny = 1e-12
    first, second = (math.log((a + tiny) / (1.0 - a + tiny)) for a in (alpha, following))
    return 1.0 / (1.0 + math.exp(-((1.0 - share) * first + share * second)))
