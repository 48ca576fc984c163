"""What differs between the pipeline families: a table of facts, one row each. Add a family by adding a row.

Guidance layouts: "stacked" runs the denoiser once on [uncond x B, cond x B]; "separate" runs it once for cond, then
once for uncond (Flux with `true_cfg_scale`). A pipeline with guidance off runs cond alone in both layouts. Everything
above the hooks sees one form, whatever the family: tensors (B, ...), the scheduler's timesteps and sign, u + g (c - u).

Inpainting checkpoints append a mask and a masked picture to the latents' channels; ControlNets read the same text as
the denoiser and add to its features. Both are facts of the call that the rows below and shield/hooks/intercept.py
cover.
"""

from dataclasses import dataclass
from typing import Any

from shield.errors import UnsupportedPipelineError

TEXT_MASK = "text_mask"


@dataclass(frozen=True)
class Family:
    """How one family calls its denoiser.

    `sample`, `time` and `embeds` are the argument names of the noisy latents, of the timestep and of the text
    embeddings, in the order in which they come without names. The scheduler's timestep is `timestep_shift` plus
    `timestep_scale` times the denoiser's, and its prediction `sign` times the denoiser's. `cond_first`: a stacked call
    runs [cond x B, uncond x B]. `packed`: latents are (B, tokens, C). `listed`: latents, texts and predictions are
    lists with one tensor for each row, latents (C, 1, H, W). `pooled`: where a pooled text embedding travels. `mask`:
    where it is said which tokens are text, (B, T) or (B, T and more); TEXT_MASK where lists say so by their length.
    `ragged`: a call's texts are as long as its longest, so that another text may not fit among them.

    `guidance` is the argument of the guidance scale g; `guidance_offset + g` is its place in u + g (c - u). `guided`
    tells what guidance needs beside a scale above 1: "negative", a negative prompt, or "undistilled", a checkpoint that
    isn't marked as distilled; "never": the scale is an input of the denoiser. `renormalized`: the guided prediction
    then gets the conditional one's norm, token by token.

    `draws_without_pictures`: they take pictures, and draw from text alone without them.

    `config`: what the denoiser's configuration has to say for the row to hold.

    `companion`: a module that some of these pipelines call before each step with the same text, and whose outputs the
    denoiser is given as the arguments `residuals`.
    """

    name: str
    pipelines: tuple[str, ...]
    denoiser: str
    layout: str = "stacked"
    sample: str = "sample"
    embeds: str = "encoder_hidden_states"
    pooled: str | None = None
    mask: str | None = None
    time: str = "timestep"
    timestep_scale: float = 1.0
    timestep_shift: float = 0.0
    sign: float = 1.0
    cond_first: bool = False
    packed: bool = False
    listed: bool = False
    ragged: bool = False
    guidance: str = "guidance_scale"
    guidance_offset: float = 0.0
    guided: str | None = None
    renormalized: bool = False
    draws_without_pictures: bool = False
    config: tuple[tuple[str, Any], ...] = ()
    companion: str | None = None
    residuals: tuple[str, ...] = ()

    def scheduler_time(self, given: float) -> float:
        """The scheduler's timestep for the one that the denoiser is given."""
        return self.timestep_shift + self.timestep_scale * given

    def denoiser_time(self, timestep: float) -> float:
        """The timestep to give the denoiser for the scheduler's."""
        return (timestep - self.timestep_shift) / self.timestep_scale

    def scale(self, given: float | None) -> float:
        """g of u + g (c - u) for a call's guidance argument; 1 for none."""
        return 1.0 if self.guided == "never" else self.guidance_offset + float(given or 0.0) or 1.0

    def halves(self, total: int, batch: int) -> tuple[slice, slice]:
        """The rows of (cond, uncond) in a call of `total` rows for `batch` images; nothing for a half that isn't in."""
        if total == batch:
            return slice(0, batch), slice(0, 0)
        first, last = slice(0, total - batch), slice(total - batch, total)
        return (first, last) if self.cond_first else (last, first)


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
        guidance="true_cfg_scale",
        guided="negative",
    ),
    Family("auraflow", ("AuraFlowPipeline",), "transformer", sample="hidden_states", timestep_scale=1000.0),
    Family("kolors", ("KolorsPipeline", "KolorsImg2ImgPipeline"), "unet", pooled="added_cond_kwargs.text_embeds"),
    Family(
        "sana",
        ("SanaPipeline",),
        "transformer",
        sample="hidden_states",
        mask="encoder_attention_mask",
        config=(("timestep_scale", 1.0),),
    ),
    Family("pixart", ("PixArtSigmaPipeline",), "transformer", sample="hidden_states", mask="encoder_attention_mask"),
    Family(
        "chroma",
        ("ChromaPipeline", "ChromaImg2ImgPipeline"),
        "transformer",
        layout="separate",
        sample="hidden_states",
        mask="attention_mask",
        timestep_scale=1000.0,
        packed=True,
    ),
    Family(
        "flux2",
        ("Flux2KleinPipeline",),
        "transformer",
        layout="separate",
        sample="hidden_states",
        timestep_scale=1000.0,
        packed=True,
        guided="undistilled",
        draws_without_pictures=True,
    ),
    Family(
        "flux2dev",
        ("Flux2Pipeline",),
        "transformer",
        layout="separate",
        sample="hidden_states",
        timestep_scale=1000.0,
        packed=True,
        guided="never",
        draws_without_pictures=True,
    ),
    Family(
        "zimage",
        ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
        "transformer",
        sample="x",
        embeds="cap_feats",
        mask=TEXT_MASK,
        time="t",
        timestep_scale=-1000.0,
        timestep_shift=1000.0,
        sign=-1.0,
        cond_first=True,
        listed=True,
        ragged=True,
        guidance_offset=1.0,
    ),
    Family(
        "qwenimage",
        ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
        "transformer",
        layout="separate",
        sample="hidden_states",
        mask="encoder_hidden_states_mask",
        timestep_scale=1000.0,
        packed=True,
        ragged=True,
        guidance="true_cfg_scale",
        guided="negative",
        renormalized=True,
    ),
    Family("lcm", ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"), "unet", guided="never"),
)


REFUSED = (
    (
        "PAG",
        "adds a prediction under perturbed attention to the two of guidance, which the shield undoes as u + g (c - u); "
        "take {plain}, which draws without it",
    ),
    (
        "SanaSprint",
        "predicts the angles of TrigFlow, which is none of the predictions that the shield reads; take SanaPipeline "
        "with a checkpoint of Sana",
    ),
    (
        "ChromaInpaint",
        "asks its transformer for an option that no Chroma has (in diffusers 0.42.1), so it draws nothing that could "
        "be judged; take ChromaImg2ImgPipeline",
    ),
)
"""Part of a pipeline's name -> why it is in no row, and what to take instead."""


def family_of(pipe: Any) -> Family:
    """The row for this pipeline's class. Raises UnsupportedPipelineError for an unknown one, one of REFUSED, and a
    checkpoint that the row doesn't hold for.
    """
    name = type(pipe).__name__
    family = next((family for family in FAMILIES if name in family.pipelines), None)
    if family is None:
        raise UnsupportedPipelineError(_why_not(name))
    for key, value in family.config:
        found = getattr(pipe, family.denoiser).config.get(key, value)
        if found != value:
            raise UnsupportedPipelineError(f"The shield reads {name} with {key} {value}; this checkpoint has {found}.")
    return family


def _why_not(name: str) -> str:
    for part, why in REFUSED:
        if part in name:
            return f"{name} {why.format(plain=name.replace('PAG', ''))}."
    known = ", ".join(p for family in FAMILIES for p in family.pipelines)
    return f"The shield knows {known}; it was given a {name}."
