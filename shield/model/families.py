"""What differs between the pipeline families: a table of facts, one row each. Add a family by adding a row.

Guidance layouts: "stacked" runs the denoiser once on [uncond x B, cond x B]; "separate" runs it once for cond, then
once for uncond (Flux with `true_cfg_scale`). A pipeline with guidance off runs cond alone in both layouts.

Inpainting checkpoints append a mask and a masked picture to the latents' channels; ControlNets read the same text as
the denoiser and add to its features. Both are facts of the call that the rows below and shield/hooks/intercept.py
cover.
"""

from dataclasses import dataclass
from typing import Any

from shield.errors import UnsupportedPipelineError


@dataclass(frozen=True)
class Family:
    """How one family calls its denoiser.

    `sample` and `embeds` are the argument names of the noisy latents and of the text embeddings; `position` is the
    place of the latents when they come without a name. `timestep_scale` times the denoiser's timestep is the
    scheduler's. `packed`: latents are (B, tokens, C). `pooled`: where a pooled text embedding travels. `companion`: a
    module that some of these pipelines call before each step with the same text, and whose outputs the denoiser is
    given as the arguments `residuals`.
    """

    name: str
    pipelines: tuple[str, ...]
    denoiser: str
    layout: str = "stacked"
    sample: str = "sample"
    embeds: str = "encoder_hidden_states"
    pooled: str | None = None
    timestep_scale: float = 1.0
    packed: bool = False
    companion: str | None = None
    residuals: tuple[str, ...] = ()


CONTROLNET_RESIDUALS = ("down_block_additional_residuals", "mid_block_additional_residual")
FAMILIES = (
    Family(
        "sd",
        (
            "StableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionControlNetPipeline",
            "StableDiffusionControlNetImg2ImgPipeline",
            "StableDiffusionControlNetInpaintPipeline",
            "LatentConsistencyModelPipeline",
            "LatentConsistencyModelImg2ImgPipeline",
        ),
        "unet",
        companion="controlnet",
        residuals=CONTROLNET_RESIDUALS,
    ),
    Family(
        "sdxl",
        (
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusionXLControlNetPipeline",
            "StableDiffusionXLControlNetImg2ImgPipeline",
            "StableDiffusionXLControlNetInpaintPipeline",
        ),
        "unet",
        pooled="added_cond_kwargs.text_embeds",
        companion="controlnet",
        residuals=CONTROLNET_RESIDUALS,
    ),
    Family(
        "sd3",
        ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
        "transformer",
        sample="hidden_states",
        pooled="pooled_projections",
    ),
    Family(
        "flux",
        ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
        "transformer",
        layout="separate",
        sample="hidden_states",
        pooled="pooled_projections",
        timestep_scale=1000.0,
        packed=True,
    ),
)


def family_of(pipe: Any) -> Family:
    """The row for this pipeline's class. Raises UnsupportedPipelineError for an unknown one."""
    name = type(pipe).__name__
    for family in FAMILIES:
        if name in family.pipelines:
            return family
    known = ", ".join(p for family in FAMILIES for p in family.pipelines)
    raise UnsupportedPipelineError(f"The shield knows {known}; it was given a {name}.")
