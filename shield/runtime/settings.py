"""At which settings a call runs: the part of a Setting that comes from the pipeline."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from shield.errors import NotCalibratedError
from shield.hooks.feature_caches import FeatureCaches
from shield.hooks.intercept import denoiser_of
from shield.model.families import family_of
from shield.model.fingerprint import Recognized, model_sha256, models_sha256
from shield.model.prediction import noise_levels, prediction_type
from shield.model.walk import modules_in
from shield.thresholds import Setting

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")


@dataclass(frozen=True)
class Models:
    """What moves a score: the names of the denoiser, of what its inputs come from, and of what previews are decoded by;
    the denoiser's number format, and what it keeps between steps (None: not looked up yet).
    """

    denoiser: str
    conditioning: str | None = None
    autoencoder: str | None = None
    dtype: str | None = None
    caches: str | None = None


def models_of(pipe: Any, watched: bool = False) -> Models:
    """`watched`: with the autoencoder. Raises WeightsError for weights whose values are nowhere."""
    autoencoder, denoiser = model_sha256(pipe.vae) if watched else None, denoiser_of(pipe)
    modules, rows = conditioning_of(pipe)
    named = model_sha256(denoiser), models_sha256(modules, rows) if modules else None, autoencoder
    return Models(*named, dtype_of(denoiser), caches_of(pipe, denoiser))


class RecognizedModels:
    """models_of(pipe), with a look of a few milliseconds where nothing has changed since the last time."""

    def __init__(self) -> None:
        self._denoiser, self._conditioning, self._autoencoder = Recognized(), Recognized(), Recognized()

    def of(self, pipe: Any, watched: bool = False) -> Models:
        denoiser = denoiser_of(pipe)
        return Models(*self.names(pipe, watched), dtype_of(denoiser), caches_of(pipe, denoiser))

    def names(self, pipe: Any, watched: bool) -> tuple[str, str | None, str | None]:
        """Those of the denoiser, of what its inputs come from, and of the autoencoder where it is watched."""
        modules, rows = conditioning_of(pipe)
        return (
            self._denoiser.name({"": denoiser_of(pipe)}),
            self._conditioning.name(modules, rows) if modules else None,
            self._autoencoder.name({"": pipe.vae}) if watched else None,
        )


def conditioning_of(pipe: Any) -> tuple[dict[str, nn.Module], dict[int, int]]:
    """(what the denoiser's inputs come from, by role; how many rows of their embedding tables count).

    A learned word adds a row for its own and leaves every other prompt as it was, so that rows behind the tokenizer's
    own words don't count. What learned words do is told in the verdict (shield/hooks/ways_in.py).
    """
    found = {role: getattr(pipe, role, None) for role in (*ENCODERS, family_of(pipe).companion or "controlnet")}
    modules = {role: module for role, module in found.items() if isinstance(module, nn.Module)}
    rows = {}
    for role, encoder in modules.items():
        module: Any = encoder
        own = getattr(getattr(pipe, role.replace("text_encoder", "tokenizer"), None), "vocab_size", None)
        if role.startswith("text_encoder") and own is not None and hasattr(module, "get_input_embeddings"):
            rows[id(module.get_input_embeddings().weight)] = int(own)
    return modules, rows


def running_setting(
    pipe: Any,
    models: Models,
    latent_shape: Sequence[int],
    levels: Sequence[tuple[float, float]],
    guidance_scale: float,
    micro_conditioning: Sequence[float] = (),
) -> Setting:
    """The setting of a call that is running: its scheduler knows its steps, the denoiser was given latents, timesteps
    and sizes. `levels` are (timestep, signal) of the first steps.
    """
    denoiser: Any = denoiser_of(pipe)
    return Setting(
        model_sha256=models.denoiser,
        latent_shape=tuple(latent_shape),
        timesteps=tuple(timestep for timestep, _ in levels),
        steps=len(pipe.scheduler.timesteps),
        guidance_scale=guidance_scale,
        scheduler=type(pipe.scheduler).__name__,
        prediction=prediction_type(pipe.scheduler),
        dtype=models.dtype or dtype_of(denoiser),
        distilled_guidance=float(pipe.guidance_scale) if _is_distilled(denoiser) else None,
        conditioning_sha256=models.conditioning,
        signals=tuple(signal for _, signal in levels),
        micro_conditioning=tuple(micro_conditioning),
        lora_scale=_lora_scale(pipe, denoiser),
        clip_skip=int(getattr(pipe, "_clip_skip", None) or 0),
        caches=caches_of(pipe, denoiser) if models.caches is None else models.caches,
    )


def _is_distilled(denoiser: Any) -> bool:
    """Whether the guidance scale is an input of the denoiser (Flux; latent consistency models' `timestep_cond`)."""
    return bool(denoiser.config.get("guidance_embeds") or denoiser.config.get("time_cond_proj_dim"))


def _lora_scale(pipe: Any, denoiser: Any) -> float:
    """The call's own scale of LoRAs; 1 where there are none to be scaled."""
    modules = (denoiser, *conditioning_of(pipe)[0].values())
    if not any(getattr(module, "peft_config", None) for module in modules):
        return 1.0
    given = getattr(pipe, "_cross_attention_kwargs", None) or getattr(pipe, "_joint_attention_kwargs", None) or {}
    return float(given.get("scale", 1.0)) if isinstance(given, Mapping) else 1.0


def dtype_of(denoiser: Any) -> str:
    """The number format that a denoiser computes in, as its own `dtype` says, which takes ten times as long to look."""
    registries = (vars(module).get("_diffusers_hook") for module in modules_in(denoiser))
    casting = (registry.get_hook("layerwise_casting") for registry in registries if registry)
    hook = next((hook for hook in casting if hook is not None), None)
    if hook is not None:
        return str(hook.compute_dtype).removeprefix("torch.")
    kept = getattr(denoiser, "_keep_in_fp32_modules", None) or ()
    named = ((name, p) for name, p in denoiser.named_parameters() if p.is_floating_point())
    first = next((p for name, p in named if not any(part in name for part in kept)), denoiser)
    return str(first.dtype).removeprefix("torch.")


def caches_of(pipe: Any, denoiser: Any) -> str:
    kept = FeatureCaches(denoiser, getattr(pipe, family_of(pipe).companion or "", None))
    config = getattr(denoiser, "_cache_config", None)
    numbers = {name: value for name, value in vars(config).items() if isinstance(value, int | float)} if config else {}
    return ", ".join([*kept.kinds, *(f"{name} {value}" for name, value in numbers.items())]) if kept else ""


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
    config, models = pipe.unet.config, models_of(pipe)
    size = config.sample_size if isinstance(config.sample_size, list | tuple) else (config.sample_size,) * 2
    rows, columns = (size[i] if p is None else p // pipe.vae_scale_factor for i, p in enumerate((height, width)))
    timesteps = tuple(float(t) for t in scheduler.timesteps)
    return Setting(
        model_sha256=models.denoiser,
        latent_shape=(config.out_channels, rows, columns),
        timesteps=timesteps,
        steps=len(scheduler.timesteps),
        guidance_scale=guidance_scale,
        scheduler=type(scheduler).__name__,
        prediction=prediction_type(scheduler),
        dtype=dtype_of(pipe.unet),
        distilled_guidance=guidance_scale if _is_distilled(pipe.unet) else None,
        conditioning_sha256=models.conditioning,
        signals=tuple(noise_levels(scheduler, timestep)[0] for timestep in timesteps),
    )
