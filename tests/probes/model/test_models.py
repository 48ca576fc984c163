"""Models that need a picture are refused by every verb, in one sentence and before a run folder is made."""

import diffusers
import pytest

from probes.audit.audit import audit
from probes.errors import UnsupportedError
from probes.localizers import RandomMask
from probes.model.loading import load
from probes.scan.scan import scan
from probes.verbs.generate import GenerationRequest, shown
from probes.verbs.localize import localize
from shield.errors import UnsupportedPipelineError
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_variant

PICTURED = {
    "inpaint": (diffusers.StableDiffusionInpaintPipeline, "inpaint"),
    "refiner": (diffusers.StableDiffusionXLImg2ImgPipeline, "text"),
    "control": (diffusers.StableDiffusionControlNetPipeline, "control"),
    "flux": (diffusers.FluxImg2ImgPipeline, "text"),
}


@pytest.mark.parametrize("name", PICTURED)
def test_models_that_draw_from_a_picture_are_refused(tmp_path, name):
    base, kind = PICTURED[name]
    tiny_variant(base, kind).save_pretrained(tmp_path / name)
    with pytest.raises(UnsupportedError, match=f"is a {base.__name__}, which draws from a picture"):
        load(tmp_path / name, "cpu")


def test_every_verb_refuses_them_before_it_writes(tmp_path):
    model, out, prompts = str(tmp_path / "model"), tmp_path / "out", tmp_path / "p.txt"
    tiny_variant(*PICTURED["inpaint"]).save_pretrained(model)
    prompts.write_text("the cat\na dog\n")
    for verb in (
        lambda: scan(prompts, out, model=model, device="cpu", show_progress=False),
        lambda: scan(prompts, out, model=model, device="cpu", show_progress=False, pictures=True),
        lambda: localize(prompts, out, localizer=RandomMask(density=0.1), model=model, device="cpu"),
        lambda: audit(model, out, prompts=prompts, device="cpu", show_progress=False),
        lambda: shown(GenerationRequest("the cat", model=model, device="cpu"), out),
    ):
        with pytest.raises(UnsupportedError, match="draws from a picture"):
            verb()
        assert not out.exists()


def test_unknown_kinds_are_refused_and_known_ones_loaded(tmp_path):
    pipe = tiny_sd()
    pipe.save_pretrained(tmp_path / "sd")
    assert type(load(tmp_path / "sd", "cpu")) is type(pipe)
    parts = {**pipe.components, "requires_safety_checker": False}
    diffusers.StableDiffusionSAGPipeline(**parts).save_pretrained(tmp_path / "other")
    with pytest.raises(UnsupportedPipelineError, match="StableDiffusionSAGPipeline"):
        load(tmp_path / "other", "cpu")
