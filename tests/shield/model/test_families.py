import re

import diffusers
import pytest

from shield.errors import UnsupportedPipelineError
from shield.model.conditioning import ENCODERS
from shield.model.families import FAMILIES, family_of
from tests.tiny_transformers import tiny_sana

every = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


@every
def test_pipelines_exist_and_have_the_denoiser(family):
    import inspect

    for name in family.pipelines:
        cls = getattr(diffusers, name)
        assert family.denoiser in inspect.signature(cls.__init__).parameters


@every
def test_argument_names_are_the_denoisers(family):
    import inspect

    transformers = {
        "sd3": "SD3Transformer2DModel",
        "flux": "FluxTransformer2DModel",
        "auraflow": "AuraFlowTransformer2DModel",
        "pixart": "PixArtTransformer2DModel",
        "chroma": "ChromaTransformer2DModel",
        "flux2": "Flux2Transformer2DModel",
        "flux2dev": "Flux2Transformer2DModel",
        "sana": "SanaTransformer2DModel",
        "zimage": "ZImageTransformer2DModel",
        "qwenimage": "QwenImageTransformer2DModel",
    }
    denoiser = transformers.get(family.name, "UNet2DConditionModel")
    names = inspect.signature(getattr(diffusers, denoiser).forward).parameters
    assert {family.sample, family.embeds, family.time} <= set(names)
    if family.pooled:
        assert family.pooled.split(".")[0] in names


def test_every_family_has_an_encoder_and_no_class_two_rows():
    assert set(ENCODERS) == {family.name for family in FAMILIES}
    names = [name for family in FAMILIES for name in family.pipelines]
    assert len(names) == len(set(names))


PAG = [name for name in dir(diffusers) if re.fullmatch(r"(StableDiffusion|Kolors|PixArt|Sana)\w*PAG\w*Pipeline", name)]


@pytest.mark.parametrize("name", [*PAG, "SanaSprintPipeline", "ChromaInpaintPipeline"])
def test_what_is_refused_says_why_and_what_to_take(name):
    """By the class alone: nothing of the pipeline is looked at."""
    assert len(PAG) > 10
    with pytest.raises(UnsupportedPipelineError) as raised:
        family_of(object.__new__(getattr(diffusers, name)))
    said = str(raised.value)
    assert said.startswith(name) and "; take " in said
    taken = said.rpartition("; take ")[2].split()[0].strip(",.")
    assert hasattr(diffusers, taken)


def test_a_checkpoint_that_a_row_does_not_hold_for_is_refused():
    pipe = tiny_sana()
    assert family_of(pipe).name == "sana"
    pipe.transformer.register_to_config(timestep_scale=0.001)
    with pytest.raises(UnsupportedPipelineError, match=r"timestep_scale 1.0; this checkpoint has 0.001"):
        family_of(pipe)
