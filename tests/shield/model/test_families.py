import diffusers
import pytest

from shield.model.conditioning import ENCODERS
from shield.model.families import FAMILIES

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
