"""What a refusal says to do can be done: its commands are understood, its calls are calls of the Shield."""

import re
import shlex

import pytest
import typer
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionImg2ImgPipeline
from peft import LoraConfig

from probes.cli.main import app
from shield import Shield
from shield.errors import NotCalibratedError
from shield.runtime.command import calibrate_command, calibrate_watch_command
from shield.runtime.policy import Policy
from tests.shield.calls import noises, thresholds
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture, tiny_variant

CALL = {"num_inference_steps": 3, "guidance_scale": 5.0}


def understood(line):
    """The options of a verb, or typer's refusal."""
    verb, *words = shlex.split(line)
    commands = typer.main.get_command(app).commands
    return commands[verb].make_context(verb, words).params


def test_commands_of_refusals_are_understood():
    pipe = tiny_sd()
    given = understood(calibrate_command(pipe, ["structure_gap", "noise_gap"], CALL))
    assert (given["detectors"], given["steps"], given["guidance"]) == ("structure_gap,noise_gap", 3, 5.0)
    pictured = tiny_variant(StableDiffusionImg2ImgPipeline, "text")
    of_pictures = {**CALL, "image": [tiny_picture()], "strength": 0.5}
    given = understood(calibrate_command(pictured, ["structure_gap"], of_pictures))
    assert (given["sizes"], str(given["strength"]), str(given["image"])) == ("64x64", "0.5", "PICTURE")
    assert not understood(calibrate_command(pictured, ["structure_gap"]))["sizes"]
    given = understood(calibrate_watch_command(pipe, (0.0, 0.5), CALL))
    assert (given["points"], given["steps"], str(given["gallery"])) == ("0,0.5", 3, "GALLERY")


@pytest.mark.parametrize("kind", ["lora", "controlnet"])
def test_parts_that_no_name_brings_along_are_calibrated_by_the_shield_itself(kind, tmp_path, monkeypatch):
    """The call that the refusal names is made as it stands there; the call that was refused is judged after it."""
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    if kind == "lora":
        pipe, known, other = tiny_sd(), {}, {"height": 128, "width": 64}
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    else:
        pipe = tiny_variant(StableDiffusionControlNetPipeline, "control")
        known, other = {"image": [tiny_picture()]}, {"image": tiny_picture().resize((64, 128))}
    safe = Shield(pipe, Policy(registry=False), thresholds=thresholds(pipe, more=known), fpr=0.2)
    call = {**CALL, **other, "generator": noises(1), "output_type": "np"}
    with pytest.raises(NotCalibratedError) as refused:
        safe("a cat", **call)
    named = re.search(r"call `(.*?)`", str(refused.value)).group(1)
    safe.thresholds = eval(named, {"safe": safe})
    assert safe("a cat", **call).verdicts[0].scores[0].threshold is not None
