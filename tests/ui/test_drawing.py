"""One prompt on both sides of the shield, on a tiny real pipeline."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from probes.model.generate import generate
from shield.errors import BadRequestError
from shield.hooks.intercept import denoiser_of
from shield.hooks.preview import preview_of
from shield.protected.concepts import Concept, Concepts
from shield.protected.gallery import Gallery
from shield.runtime.policy import preset
from shield.thresholds import Threshold, calibrated
from shield.wrapper import setting_of
from tests.tiny import tiny_scheduler
from ui.drawing import SHIELDED, UNSHIELDED, DrawingRequest, drawn
from ui.jobs import Stopped
from ui.preview import predicted_clean

ASKED = DrawingRequest("the cat", policy="monitor", steps=3, guidance_scale=3.0, seed=5)
CAT = Concepts([Concept("cat", substitute="a dog")])


def threshold(pipe, value: float) -> Threshold:
    """As if every negative had scored `value`."""
    detector = preset("balanced").detectors[0]
    return calibrated(detector, [value] * 99, 0.05, setting_of(pipe, ASKED.steps, ASKED.guidance_scale), "tiny")


def test_what_isnt_flagged_is_drawn_twice_to_the_same_bit(pipe) -> None:
    frames = []
    drawing = drawn(pipe, ASKED, None, None, preview_of(pipe), frames.append)
    assert [(frame.side, frame.step) for frame in frames] == [
        (side, n) for side in (SHIELDED, UNSHIELDED) for n in (1, 2, 3)
    ]
    assert drawing.same and not drawing.verdict.flagged and [word.text for word in drawing.words] == ["the", "cat"]
    bare = generate(pipe, ["the cat"], [5], steps=3, guidance_scale=3.0)[0]
    assert drawing.unshielded.tobytes() == bare.tobytes()
    assert len(drawing.curve) == 3 and all(score > 0 for score in drawing.curve)
    # The curve's first point is the score that the shield judged by, for which the first picture calibrates.
    assert drawing.verdict.scored and drawing.verdict.scores[0].threshold is not None
    assert drawing.curve[0] == pytest.approx(drawing.verdict.scores[0].value)
    assert all(isinstance(frame.preview, Image.Image) for frame in frames)
    assert frames[0].shielded is None and frames[-1].shielded is drawing.shielded
    assert not denoiser_of(pipe)._forward_hooks and not denoiser_of(pipe)._forward_pre_hooks


def test_a_protected_concept_changes_one_side_only(pipe) -> None:
    asked = replace(ASKED, policy="balanced")
    drawing = drawn(pipe, asked, None, CAT, None, lambda told: None, thresholds=[threshold(pipe, 1e3)])
    assert drawing.verdict.flagged and drawing.verdict.status == "mitigated" and not drawing.same
    assert drawing.verdict.rewritten_prompt == "a dog"
    bare = generate(pipe, ["the cat"], [5], steps=3, guidance_scale=3.0)[0]
    assert drawing.unshielded.tobytes() == bare.tobytes()
    assert json.dumps(drawing.about(), allow_nan=False)


def test_words_weights_are_shares(pipe) -> None:
    drawing = drawn(pipe, ASKED, None, None, None, lambda told: None, thresholds=[threshold(pipe, 0.0)])
    assert drawing.verdict.flagged and [word.text for word in drawing.words] == ["the", "cat"]
    assert sum(word.weight for word in drawing.words) == pytest.approx(1.0)


def test_a_copy_of_a_protected_picture_is_flagged(pipe) -> None:
    gallery = Gallery()
    gallery.add([("mine", generate(pipe, ["the cat"], [5], steps=3, guidance_scale=3.0)[0])])
    drawing = drawn(pipe, ASKED, gallery, None, None, lambda told: None)
    assert drawing.verdict.nearest.work == "mine" and drawing.verdict.nearest.copied and drawing.verdict.flagged
    assert drawing.recalled.work == "mine" and drawing.recalled.copied
    assert json.dumps(drawing.about(), allow_nan=False)


@pytest.mark.parametrize("step", [1, 4])
def test_canceling_leaves_the_pipeline_as_it_was(pipe, step: int) -> None:
    told = []

    def stop_at(frame) -> None:
        told.append(frame)
        if len(told) == step:
            raise Stopped

    before = {name: p.clone() for name, p in pipe.unet.named_parameters()}
    with pytest.raises(Stopped):
        drawn(pipe, ASKED, None, None, None, stop_at)
    assert not denoiser_of(pipe)._forward_hooks and all((p == before[n]).all() for n, p in pipe.unet.named_parameters())
    assert drawn(pipe, ASKED, None, None, None, lambda frame: None).same


@pytest.mark.parametrize(
    "change, says",
    [
        ({"prompt": " "}, "type what to draw"),
        ({"prompt": None}, "type what to draw"),
        ({"prompt": "x" * 1001}, "1001"),
        ({"policy": "lenient"}, "no policy"),
        ({"seed": -1}, "seed lies between"),
        ({"seed": "x"}, "seed is a number"),
        ({"steps": 0}, "number of steps"),
        ({"steps": 10**9}, "number of steps"),
        ({"steps": None}, "is a number"),
        ({"guidance_scale": float("nan")}, "guidance scale"),
        ({"guidance_scale": float("inf")}, "guidance scale"),
    ],
)
def test_wrong_requests_are_one_sentence(change: dict, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        replace(ASKED, **change).checked()


def test_without_guidance_it_is_judged_too(pipe) -> None:
    asked = replace(ASKED, policy="balanced", guidance_scale=1.0)
    made = drawn(pipe, asked, None, None, None, lambda told: None, thresholds=[threshold(pipe, 1e3)])
    assert made.verdict.scores[0].detector == made.detector and made.verdict.scored


def test_numbers_of_a_page_become_whole() -> None:
    checked = replace(ASKED, seed=3.0, steps=7.0, guidance_scale=4).checked()
    assert (checked.seed, checked.steps, checked.guidance_scale) == (3, 7, 4.0)
    assert isinstance(checked.steps, int)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "flow"])
def test_the_clean_latent_between_two_steps(scheduler: str) -> None:
    """Latents made from a known x0 and eps give that x0 back."""
    from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    made = tiny_scheduler("epsilon", False)
    if scheduler == "euler":
        made = EulerDiscreteScheduler.from_config(made.config, timestep_spacing="leading")
    elif scheduler == "flow":
        made = FlowMatchEulerDiscreteScheduler()
    made.set_timesteps(5)
    x0, eps = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    x = (
        made.sigmas[1] * eps + (1 - made.sigmas[1] if scheduler == "flow" else 1) * x0
        if scheduler != "ddim"
        else made.add_noise(x0, eps, made.timesteps[1])
    )
    after = {
        "ddim": lambda: made.add_noise(x0, eps, made.timesteps[2]),
        "euler": lambda: x0 + made.sigmas[2] * eps,
        "flow": lambda: (1 - made.sigmas[2]) * x0 + made.sigmas[2] * eps,
    }[scheduler]()
    assert torch.allclose(predicted_clean(made, 1, x, after), x0, atol=2e-2)
    assert torch.allclose(predicted_clean(made, 4, x, x0), x0, atol=1e-4), "after the last step it is there"
