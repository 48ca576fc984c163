"""At which settings a call runs: the part of a Setting that comes from the pipeline."""

import copy
from collections.abc import Sequence
from typing import Any

from shield.errors import NotCalibratedError
from shield.families import family_of
from shield.fingerprint import model_sha256
from shield.intercept import denoiser_of
from shield.prediction import prediction_type
from shield.thresholds import Setting


def running_setting(
    pipe: Any, sha256: str, latent_shape: Sequence[int], timesteps: Sequence[float], guidance_scale: float
) -> Setting:
    """The setting of a call that is running: its scheduler knows its steps, the denoiser was given latents and
    timesteps.
    """
    denoiser: Any = denoiser_of(pipe)
    distilled = denoiser.config.get("guidance_embeds", False)
    return Setting(
        model_sha256=sha256,
        latent_shape=tuple(latent_shape),
        timesteps=tuple(timesteps),
        steps=len(pipe.scheduler.timesteps),
        guidance_scale=guidance_scale,
        scheduler=type(pipe.scheduler).__name__,
        prediction=prediction_type(pipe.scheduler),
        dtype=str(denoiser.dtype).removeprefix("torch."),
        distilled_guidance=float(pipe.guidance_scale) if distilled else None,
    )


def setting_of(
    pipe: Any, steps: int, guidance_scale: float, height: int | None = None, width: int | None = None
) -> Setting:
    """The setting that a call would have, without running it. Pixels default to the checkpoint's own size.

    For UNet pipelines only: transformers' timesteps depend on the request. Raises NotCalibratedError for those.
    """
    if family_of(pipe).denoiser != "unet":
        raise NotCalibratedError(f"The setting of a {type(pipe).__name__} is known only while it runs.")
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    config = pipe.unet.config
    size = config.sample_size if isinstance(config.sample_size, list | tuple) else (config.sample_size,) * 2
    rows, columns = (size[i] if p is None else p // pipe.vae_scale_factor for i, p in enumerate((height, width)))
    return Setting(
        model_sha256=model_sha256(pipe.unet),
        latent_shape=(config.out_channels, rows, columns),
        timesteps=tuple(float(t) for t in scheduler.timesteps),
        steps=len(scheduler.timesteps),
        guidance_scale=guidance_scale,
        scheduler=type(scheduler).__name__,
        prediction=prediction_type(scheduler),
        dtype=str(pipe.unet.dtype).removeprefix("torch."),
    )
