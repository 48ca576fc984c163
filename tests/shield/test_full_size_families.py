"""Z-Image and Qwen-Image as they are configured for real: whole without memory, and one block deep on the CPU."""

import pytest
import torch
from diffusers import QwenImageTransformer2DModel, ZImageTransformer2DModel

from shield.hooks.recording import recorded
from tests.tiny_families import tiny_flow_vae
from tests.tiny_transformers import loud, tiny_qwenimage, tiny_qwenimage_vae, tiny_zimage

SIGNALS = {"latents", "noise_cond", "noise_uncond"}
SMALL = {"height": 64, "width": 64, "num_inference_steps": 2}


def shallow(cls: type, **one_block: int) -> torch.nn.Module:
    """The default configuration with one block, random weights in bfloat16."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = cls(**one_block).eval()
    finally:
        torch.set_default_dtype(default)
    for name, weights in model.named_parameters():
        if name.endswith("pad_token"):
            torch.nn.init.zeros_(weights)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "billions"), [(ZImageTransformer2DModel, (6.0, 6.3)), (QwenImageTransformer2DModel, (20.0, 20.8))]
)
def test_the_whole_model_has_its_published_size(cls, billions):
    with torch.device("meta"):
        model = cls()
    low, high = billions
    assert low < sum(p.numel() for p in model.parameters()) / 1e9 < high


@pytest.mark.slow
def test_zimage_one_block_deep_is_read_with_its_sign_and_order():
    pipe = tiny_zimage()
    model = shallow(ZImageTransformer2DModel, n_layers=1, n_refiner_layers=1)
    pipe.register_modules(transformer=model, vae=tiny_flow_vae(16))
    texts = [torch.randn(length, 2560, dtype=torch.bfloat16) for length in (7, 5)]
    call = {"prompt_embeds": texts[:1], "negative_prompt_embeds": texts[1:], "guidance_scale": 4.0, **SMALL}
    with torch.no_grad(), recorded(pipe, SIGNALS, 1, stop=True) as trace:
        pipe(**call, generator=torch.Generator().manual_seed(0))
    step = trace.steps[0]
    latents = list(step.latents.to(torch.bfloat16).repeat(2, 1, 1, 1).unsqueeze(2).unbind(0))
    with torch.no_grad():
        cond, uncond = model(latents, torch.zeros(2), texts, return_dict=False)[0]
    assert step.timestep == 1000.0 and step.noise == 1.0
    for found, wanted in ((step.noise_cond, cond), (step.noise_uncond, uncond)):
        assert torch.allclose(found[0], -wanted.float().squeeze(1), atol=1e-2)
    assert not torch.allclose(step.noise_cond, step.noise_uncond, atol=1e-2)


@pytest.mark.slow
def test_qwen_image_one_block_deep_is_read():
    pipe = tiny_qwenimage()
    model = shallow(QwenImageTransformer2DModel, num_layers=1)
    loud(model, 2.0)
    pipe.register_modules(transformer=model, vae=tiny_qwenimage_vae(16))
    texts = [torch.randn(1, length, 3584, dtype=torch.bfloat16) for length in (7, 5)]
    call = {"prompt_embeds": texts[0], "negative_prompt_embeds": texts[1], "true_cfg_scale": 4.0, **SMALL}
    with torch.no_grad(), recorded(pipe, SIGNALS, 1, stop=True) as trace:
        pipe(**call, generator=torch.Generator().manual_seed(0))
    step = trace.steps[0]
    latents = step.latents.movedim(1, -1).to(torch.bfloat16)
    shapes = [[(1, 4, 4)]]
    with torch.no_grad():
        cond, uncond = (
            model(latents, timestep=torch.ones(1), encoder_hidden_states=text, img_shapes=shapes, return_dict=False)[0]
            for text in texts
        )
    difference = (cond.float() - uncond.float()).norm()
    for found, wanted in ((step.noise_cond, cond), (step.noise_uncond, uncond)):
        assert (found.movedim(1, -1) - wanted.float()).norm() < 0.25 * difference
