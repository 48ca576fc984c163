"""A Shield takes its pipeline's place: attributes reach it both ways, and what nobody knows is refused."""

import copy
import pickle

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig

from shield import Shield
from shield.errors import BadRequestError, ShieldError, UnknownAttributeError
from shield.runtime.policy import Policy, preset
from tests.shield.calls import noises, options
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl

PASS = Policy(on_unscored="pass")


def wrapped(pipe):
    return Shield(pipe, PASS, thresholds=[], calibrate="never")


def picture(pipe):
    return pipe("the cat", **options(1)).images


def read(thing, name):
    try:
        return getattr(thing, name)
    except Exception as error:  # noqa: BLE001 (a property that has no value yet)
        return str(error)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_sd3, tiny_flux])
def test_everything_that_a_pipeline_has_can_be_read(make):
    pipe = make()
    safe, own = wrapped(pipe), set(dir(Shield))
    names = [name for name in dir(pipe) if name not in own and not name.startswith("__")]
    assert {"vae", "to", "components", "device", "dtype", "load_lora_weights", "enable_model_cpu_offload"} <= {*names}
    for name in names:
        theirs, ours = read(pipe, name), read(safe, name)
        assert ours is theirs or ours == theirs or ours.__wrapped__ == theirs, name
    assert {*names, *own} <= {*dir(safe)}


def test_what_is_set_on_a_shield_is_the_pipelines():
    pipe, other = tiny_sd(), tiny_sd(seed=1)
    safe = wrapped(pipe)
    safe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    safe.unet = other.unet
    safe.safety_checker = None
    assert pipe.scheduler is safe.scheduler and type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert pipe.unet is other.unet and "unet" not in vars(Shield)
    expected = tiny_sd(seed=1)
    expected.scheduler = diffusers.EulerDiscreteScheduler.from_config(expected.scheduler.config)
    expected.text_encoder, expected.vae = pipe.text_encoder, pipe.vae
    assert np.array_equal(picture(safe), picture(expected))
    del safe.image_processor
    assert not hasattr(pipe, "image_processor")


def test_a_running_call_is_stopped_from_outside():
    """`_interrupt` isn't there before the first step, and is how diffusers ends a call."""
    safe, steps = wrapped(tiny_sd()), []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        safe._interrupt = True
        return {}

    safe.unet.register_forward_hook(lambda *_: steps.append("denoiser"))
    safe("the cat", callback_on_step_end=stop, **options(1))
    assert steps == ["denoiser", 0]


def test_methods_that_return_the_pipeline_return_the_shield():
    safe = wrapped(tiny_sd())
    assert safe.to("cpu") is safe and safe.to(torch.bfloat16).to(torch.float64) is safe
    assert safe.unet.dtype == torch.float64 == safe.dtype and safe.device.type == "cpu"
    assert safe.enable_attention_slicing() is None and safe.to.__name__ == "to"


def test_a_lora_is_loaded_through_the_shield(tmp_path):
    donor = tiny_sd(seed=3)
    donor.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    donor.save_lora_weights(tmp_path, unet_lora_layers=lora_state(donor.unet))
    safe, bare = wrapped(tiny_sd()), tiny_sd()
    plain = picture(bare)
    for pipe in (safe, bare):
        pipe.load_lora_weights(str(tmp_path), adapter_name="style")
        pipe.set_adapters(["style"], [0.5])
    assert safe.get_active_adapters() == ["style"]
    assert np.array_equal(picture(safe), picture(bare)) and not np.array_equal(picture(bare), plain)


def lora_state(unet):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    return convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))


@pytest.mark.parametrize("act", [getattr, delattr, setattr], ids=["read", "delete", "set"])
def test_an_unknown_name_is_refused_and_both_are_named(act):
    safe = wrapped(tiny_sd())
    before = dict(vars(safe.pipe))
    with pytest.raises(UnknownAttributeError, match=r"Neither Shield nor the StableDiffusionPipeline.*'schedular'"):
        act(safe, "schedular", *([1] if act is setattr else []))
    assert issubclass(UnknownAttributeError, ShieldError) and not hasattr(safe, "schedular")
    assert vars(safe.pipe) == before


def test_a_property_without_a_value_says_so_itself():
    safe = wrapped(tiny_sd())
    with pytest.raises(AttributeError, match="guidance_scale") as caught:
        safe.guidance_scale  # noqa: B018
    assert not isinstance(caught.value, UnknownAttributeError)

    class Broken(Shield):
        @property
        def broken(self):
            return self.pipe.unet.nothing

    with pytest.raises(AttributeError, match="UNet2DConditionModel"):
        Broken(tiny_sd(), PASS, thresholds=[], calibrate="never").broken  # noqa: B018


def test_own_attributes_are_checked_whenever_they_are_set():
    safe = wrapped(tiny_sd())
    safe.policy, safe.pipe = "monitor", tiny_sdxl()
    assert safe.policy == preset("monitor") and safe.family.name == "sdxl"
    assert safe(["the cat"], **options(1)).verdicts[0].status == "passed"
    for name, wrong in (("policy", "lax"), ("gallery", 3), ("concepts", [3]), ("thresholds", 3), ("pipe", safe)):
        before = getattr(safe, name)
        with pytest.raises(BadRequestError):
            setattr(safe, name, wrong)
        assert getattr(safe, name) is before


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda safe: pickle.loads(pickle.dumps(safe))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_are_shields_of_their_own(again):
    safe = wrapped(tiny_sd())
    first = safe("the cat", **options(1))
    twin = again(safe)
    assert type(twin) is Shield and twin is not safe and twin.policy == PASS
    second = twin("the cat", output_type="np", num_inference_steps=3, guidance_scale=5.0, generator=noises(1))
    assert np.array_equal(first.images, second.images)
    assert second.verdicts[0].scores == first.verdicts[0].scores
    twin.policy = "strict"
    assert safe.policy == PASS


def test_pythons_own_protocols_are_not_the_pipelines():
    safe = wrapped(tiny_sd())
    safe.pipe.__deepcopy__ = lambda memo: safe.pipe  # what copy.deepcopy looks for on the object itself
    assert not hasattr(safe, "__deepcopy__") and type(copy.deepcopy(safe)) is Shield


def test_a_shield_that_was_never_made_recurs_nowhere():
    with pytest.raises(AttributeError):
        Shield.__new__(Shield).unet  # noqa: B018


def test_a_subclass_declares_its_own():
    class Counting(Shield):
        count = 0

    safe = Counting(tiny_sd(), PASS, thresholds=[], calibrate="never")
    safe.count += 1
    assert safe.count == 1 and not hasattr(safe.pipe, "count") and Counting.count == 0
