"""docs/first-call.md: its scripts run as they stand there, on small checkpoints of the same kinds, under their names.

Only the rate is larger, so that nine prompts are enough; on Flux pictures are smaller than its checkpoints' own.
"""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

from shield import Shield
from tests.shield.calibration.test_on_call import ran
from tests.shield.calls import noises
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-call.md"
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S))
SCRIPTS = {
    title: script[1]
    for title, text in SECTIONS.items()
    if (script := re.search(r"```python\n(.*?)```", text, re.S)) and "from_pretrained" in text
}
FLUX = {"height": 64, "width": 64, "max_sequence_length": 16}


def tiny_lcm(seed: int = 0) -> LatentConsistencyModelPipeline:
    """Guidance goes into the denoiser beside the timestep, as in the checkpoints of this kind."""
    pipe = tiny_sd("epsilon", seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        named = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
        pipe.unet = UNet2DConditionModel(**{**named, "time_cond_proj_dim": 8}).eval()
    parts = {**pipe.components, "scheduler": LCMScheduler.from_config(pipe.scheduler.config)}
    return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def tiny_schnell():
    return tiny_flux(guidance_embeds=False)


# Title -> (the small checkpoint, its calls' arguments, extra denoiser calls).
KINDS = {
    "Stable Diffusion 1 and 2": (tiny_sd, {}, 0),
    "SDXL": (tiny_sdxl, {}, 0),
    "SDXL-Turbo and Lightning": (tiny_sdxl, {"guidance_scale": 0.0, "num_inference_steps": 4}, 1),
    "Latent consistency models": (tiny_lcm, {"guidance_scale": 8.0}, 1),
    "SD3": (tiny_sd3, {}, 0),
    "FLUX.1 dev": (tiny_flux, {**FLUX, "guidance_scale": 3.5}, 1),
    "FLUX.1 schnell": (tiny_schnell, {**FLUX, "guidance_scale": 0.0}, 1),
    "FLUX.1 dev with true guidance": (tiny_flux, {**FLUX, "negative_prompt": "", "true_cfg_scale": 3.0}, 0),
}


def test_the_page_has_a_short_script_for_each_kind():
    assert list(SCRIPTS) == list(KINDS)
    assert all(len([line for line in script.splitlines() if line]) <= 6 for script in SCRIPTS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_checkpoint_to_a_verdict(kind, tmp_path, monkeypatch, capsys, caplog):
    make, more, extra = KINDS[kind]
    script = SCRIPTS[kind].replace('")\n', '", fpr=0.2)\n', 1)
    if make in (tiny_flux, tiny_schnell):
        script = script.replace('sea",', 'sea", height=64, width=64, max_sequence_length=16,')
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    make().save_pretrained(re.search(r'from_pretrained\("([^"]+)"', script)[1])
    with caplog.at_level(logging.INFO, "shield"):
        torch.manual_seed(0)  # the scripts draw whatever comes
        exec(script, first := {})
        assert "Calibrating structure_gap" in caplog.text
        caplog.clear()
        exec(script, {})  # a second process reads what is kept
        assert "Calibrating" not in caplog.text
    printed = capsys.readouterr().out.splitlines()
    assert all("threshold=None" not in line for line in printed) and len(printed) >= 2
    assert all("scored=True" in line or "null_prompt" in line for line in printed)  # one prompt in five may be flagged
    safe, call = first["safe"], {"num_inference_steps": 3, "output_type": "np", **more}
    bare, usual = ran(safe.pipe, lambda: safe.pipe("a cat", generator=noises(1), **call).images)
    output, spent = ran(safe.pipe, lambda: safe("a cat", generator=noises(1), **call))
    assert spent == usual + extra == usual + output.verdicts[0].extra_calls
    if not output.verdicts[0].flagged:
        assert np.array_equal(output.images, bare)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_latent_consistency_by_a_scheduler_alone(scale, tmp_path, monkeypatch):
    """A LoRA makes a Stable Diffusion one of these: its usual pipeline, with LCMScheduler and hardly any guidance."""
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    pipe = tiny_sd("epsilon")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    call = {"num_inference_steps": 4, "guidance_scale": scale, "output_type": "np"}
    bare = pipe("a cat", generator=noises(1), **call).images
    output = Shield(pipe, "monitor", fpr=0.2)("a cat", generator=noises(1), **call)
    assert output.verdicts[0].scored and output.verdicts[0].extra_calls == (scale == 1.0)
    assert np.array_equal(output.images, bare)
