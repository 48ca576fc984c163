"""What a Shield or a call of it can't use is one sentence before anything runs, and what a pipeline takes is taken."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from shield import Concepts, Gallery, Shield
from shield.errors import BadRequestError, ShieldError, UnsupportedPipelineError
from shield.runtime.policy import Policy
from tests.shield.calls import options
from tests.tiny import tiny_sd

PASS = Policy(on_unscored="pass")
WRAPS = {
    "no pipeline": (lambda pipe: Shield(None), "shield.load"),
    "a name": (lambda pipe: Shield("testbed"), "Shield.from_pretrained('testbed')"),
    "a path": (lambda pipe: Shield(Path("a/b")), "Shield.from_pretrained('a/b')"),
    "a class": (lambda pipe: Shield(type(pipe)), "the class StableDiffusionPipeline"),
    "a shield": (lambda pipe: Shield(Shield(pipe, PASS, thresholds=[], calibrate="never")), "a Shield already"),
    "a number as policy": (lambda pipe: Shield(pipe, 3), "or balanced, strict, names or monitor; 3"),
    "no policy": (lambda pipe: Shield(pipe, None), "policy is a Policy"),
    "an unknown policy": (lambda pipe: Shield(pipe, "lax"), "no policy 'lax'; use monitor, balanced, strict, names"),
    "the class Concepts": (lambda pipe: Shield(pipe, PASS, concepts=Concepts), "True for the shipped names"),
    "numbers as thresholds": (lambda pipe: Shield(pipe, PASS, thresholds=[0.5]), "thresholds is a folder"),
    "a number as thresholds": (lambda pipe: Shield(pipe, PASS, thresholds=5), "thresholds is a folder"),
    "a missing folder": (lambda pipe: Shield(pipe, PASS, thresholds="no/such"), "`diffshield calibrate"),
}


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd()


@pytest.mark.parametrize("name", WRAPS)
def test_what_cannot_be_wrapped(pipe, name):
    make, said = WRAPS[name]
    with pytest.raises(BadRequestError) as caught:
        make(pipe)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_another_kind_of_pipeline():
    with pytest.raises(UnsupportedPipelineError, match="it was given a int"):
        Shield(3)


CALLS = [
    {"prompt": 3},
    {"prompt": ["a", 3]},
    {"prompt": []},
    {"prompt": None},
    {"prompt": b"cat"},
    {"prompt": {"a": 1}},
    {"prompt": None, "prompt_embeds": [1.0]},
    {"negative_prompt": 3},
    {"negative_prompt": [None]},
    {"num_images_per_prompt": 0},
    {"num_images_per_prompt": -1},
    {"num_images_per_prompt": "2"},
    {"num_images_per_prompt": 1.5},
    {"num_images_per_prompt": None},
    {"num_images_per_prompt": True},
    {"num_inference_steps": 0},
    {"num_inference_steps": -3},
    {"num_inference_steps": "ten"},
    {"num_inference_steps": None},
    {"num_inference_steps": 2.5},
    {"guidance_scale": "high"},
    {"guidance_scale": [5.0]},
    {"generator": 3},
    {"generator": "seed"},
    {"generator": [3]},
    {"generator": []},
    {"generator": np.random.default_rng()},
    {"height": -8},
    {"height": "64"},
    {"width": 0},
    {"width": [64]},
]


def named(given):
    """The arguments as text, without places in memory: every process names its tests alike."""
    return re.sub(r" at 0x\w+", "", str(given))


@pytest.mark.parametrize("given", CALLS, ids=named)
def test_what_a_call_cannot_use(pipe, given):
    """Each one names the argument, and nothing ran."""
    rows = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: rows.append(1))
    with pytest.raises(BadRequestError) as caught:
        Shield(pipe, PASS, thresholds=[], calibrate="never")(**{"prompt": "the cat", **options(), **given})
    handle.remove()
    assert [*given][-1].removesuffix("_embeds") in str(caught.value) and "\n" not in str(caught.value) and not rows


@pytest.mark.parametrize(
    "given",
    [
        {"num_inference_steps": np.int64(3)},
        {"guidance_scale": np.float32(5.0)},
        {"guidance_scale": torch.tensor(5.0)},
        {"num_inference_steps": None, "timesteps": [999, 500, 1]},
        {"height": None, "width": 64},
        {"guidance_scale": 5},
        {"generator": [torch.Generator().manual_seed(1)]},
        {"num_images_per_prompt": np.int64(1)},
        {"negative_prompt": ""},
    ],
    ids=named,
)
def test_what_a_pipeline_takes_is_taken(given):
    pipe = tiny_sd("epsilon")
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    call = {"prompt": "the cat", **options(), "generator": torch.Generator().manual_seed(1), **given}
    bare = pipe(**call).images
    again = torch.Generator().manual_seed(1)
    shielded = Shield(pipe, PASS, thresholds=[], calibrate="never")(
        **{**call, "generator": [again] if isinstance(call["generator"], list) else again}
    )
    assert np.array_equal(bare, shielded.images)


def test_a_gallery_may_be_empty_and_a_screen_of_ones_own():
    class Screen:
        def found(self, prompt):
            return ()

    safe = Shield(tiny_sd(), PASS, Gallery(), Screen(), thresholds=())
    assert safe("the cat", **options(1)).verdicts[0].status == "passed"
    assert isinstance(BadRequestError("x"), ShieldError)
