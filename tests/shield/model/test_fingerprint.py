import copy

import pytest
import torch
from peft import LoraConfig

from shield import Shield, model_names
from shield.errors import NotCalibratedError
from shield.hooks.intercept import denoiser_of
from shield.model.fingerprint import Recognized, full_sha256, model_sha256
from shield.runtime.policy import Policy
from shield.runtime.settings import models_of
from shield.thresholds import load_thresholds, save_threshold
from tests.shield.calls import noises, options, thresholds
from tests.tiny import tiny_scheduler, tiny_sd
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl


def adapted(module):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    return module


def judged(pipe, made, prompt="the cat", **more):
    return Shield(pipe, thresholds=made, calibrate="never")(prompt, **options(1, **more)).verdicts[0]


def test_one_checkpoint_has_one_name_in_every_precision():
    """Also one of float32, whose values fall to either side of a rounding's boundaries, and with values of 1e-7."""
    unet = tiny_sd().unet
    with torch.no_grad():
        for number, parameter in enumerate(unet.parameters()):
            parameter.mul_(10.0 ** -(number % 8))
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    assert len({model_sha256(copy.deepcopy(unet).to(kind)) for kind in kinds}) == 1
    assert len({full_sha256(copy.deepcopy(unet).to(kind)) for kind in kinds}) > 1  # as names were made before


def test_other_weights_and_other_names_have_another(pipe):
    first = model_sha256(pipe.unet)
    assert first == model_sha256(tiny_sd().unet) != model_sha256(tiny_sd(seed=1).unet)
    with torch.no_grad():
        pipe.unet.conv_in.bias[0] += 1.0
    assert model_sha256(pipe.unet) != first
    one = torch.nn.Linear(2, 2)
    assert model_sha256(torch.nn.Sequential(one)) != model_sha256(one)
    assert model_sha256(torch.nn.ReLU()) != model_sha256(torch.nn.ReLU())  # nothing to be known by


@pytest.mark.parametrize("size", [0.01, 0.003])
def test_a_small_change_of_all_weights_is_another_model(pipe, size):
    first = model_sha256(pipe.unet)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(1.0 + size * torch.randn_like(parameter))
    assert model_sha256(pipe.unet) != first


def test_adapters_count_as_far_as_they_act(pipe):
    base = model_sha256(pipe.unet)
    adapted(pipe.unet)
    whole = model_sha256(pipe.unet)
    pipe.unet.set_adapters(["style"], [3.0])
    assert len({base, whole, model_sha256(pipe.unet)}) == 3
    pipe.unet.disable_adapters()
    assert model_sha256(pipe.unet) == base


@pytest.mark.parametrize("make", [tiny_sd, tiny_flux, tiny_sd3], ids=["sd", "flux", "sd3"])
def test_fused_projections_are_the_same_model_and_count_while_they_act(make):
    model = denoiser_of(make())
    base = model_sha256(model)
    model.fuse_qkv_projections()
    assert model_sha256(model) == base
    fused = next(m for name, m in model.named_modules() if name.endswith(("to_qkv", "to_kv")))
    with torch.no_grad():
        fused.weight.mul_(2)
    assert model_sha256(model) != base
    model.unfuse_qkv_projections()
    assert model_sha256(model) == base


def test_int8_layers_and_a_group_on_disk(pipe, tmp_path):
    def quantized(unet):
        return model_sha256(torch.ao.quantization.quantize_dynamic(unet, {torch.nn.Linear}, torch.qint8))

    base, other = model_sha256(pipe.unet), tiny_sd().unet
    with torch.no_grad():
        other.time_embedding.linear_1.weight.add_(0.5)
    assert base != quantized(tiny_sd().unet) == quantized(tiny_sd().unet) != quantized(other)
    cpu = torch.device("cpu")
    pipe.unet.enable_group_offload(cpu, cpu, "leaf_level", offload_to_disk_path=str(tmp_path))
    recognized = Recognized()
    assert recognized.name({"": pipe.unet}) == base
    pipe("the cat", **options(1))
    assert recognized.name({"": pipe.unet}) == model_sha256(pipe.unet) == base


def exchanged(pipe):
    pipe.unet = tiny_sd(seed=7).unet


def written(pipe):
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.data.mul_(2)


def fused(pipe):
    adapted(pipe.unet)
    pipe.fuse_lora()
    pipe.unload_lora_weights()


def encoded_otherwise(pipe):
    pipe.text_encoder.load_state_dict(tiny_sd(seed=9).text_encoder.state_dict())


def freed(pipe):
    pipe.enable_freeu(0.9, 0.2, 1.2, 1.4)


def scheduled(pipe):
    pipe.scheduler = type(pipe.scheduler).from_config(tiny_scheduler("v_prediction", False).config)


@pytest.mark.parametrize("change", [exchanged, written, fused, encoded_otherwise, freed, scheduled])
def test_what_moves_a_score_is_noticed_at_the_next_call(change):
    safe = Shield(tiny_sd(), thresholds=thresholds(tiny_sd(), 1e9), calibrate="never")
    assert safe("the cat", **options(1)).verdicts[0].scored
    change(safe.pipe)
    with pytest.raises(NotCalibratedError):
        safe("the cat", **options(1))


def test_a_copy_of_a_shield_looks_for_itself():
    safe = Shield(tiny_sd(), Policy(on_unscored="pass"), thresholds=[], calibrate="never")
    first = safe.model_sha256
    other = copy.deepcopy(safe)
    other.pipe.unet.load_state_dict(tiny_sd(seed=3).unet.state_dict())
    assert (other.model_sha256, safe.model_sha256) == (model_sha256(other.pipe.unet), first)


def test_sizes_and_a_clip_skip_are_part_of_what_a_threshold_is_for():
    made = thresholds(tiny_sdxl(), 1e9)
    plain = judged(tiny_sdxl(), made)
    other = {"negative_original_size": (512, 512), "negative_target_size": (8, 8)}
    own = judged(tiny_sdxl(), made, **other)  # the gap is still that to the empty prompt under the same sizes
    assert own.scores[0].value == pytest.approx(plain.scores[0].value, abs=1e-5) and own.extra_calls == 1
    for more in ({"original_size": (32, 32)}, {"crops_coords_top_left": (8, 0)}, {"clip_skip": 1}):
        with pytest.raises(NotCalibratedError, match="calibrated for"):
            judged(tiny_sdxl(), made, **more)


def test_files_of_an_older_version_hold_for_the_model_that_they_name(tmp_path):
    """And what a new one keeps of its model is enough to know it in another precision."""
    pipe = tiny_sd(seed=11)
    path = save_threshold(thresholds(pipe, 1e9)[0], tmp_path)
    model_names._met.clear()
    model_names._exact.clear()
    verdict = judged(tiny_sd(seed=11).to(torch.bfloat16), load_thresholds(tmp_path))
    assert verdict.scored and verdict.scores[0].file == str(path)
    path.write_text(older(path, full_sha256(pipe.unet)))
    assert judged(tiny_sd(seed=11), load_thresholds(tmp_path)).scored
    with pytest.raises(NotCalibratedError):
        judged(tiny_sd(seed=12), load_thresholds(tmp_path))


def older(path, sha256):
    import json

    data = json.loads(path.read_text())
    del data["models"]
    names = ("latent_shape", "timesteps", "steps", "guidance_scale", "scheduler", "prediction", "dtype")
    setting = {name: data["setting"][name] for name in names}
    return json.dumps({**data, "format": 1, "setting": {"model_sha256": sha256, "distilled_guidance": None, **setting}})


def test_a_look_at_an_unchanged_model_reads_nothing_anew(pipe, monkeypatch):
    recognized = Recognized()
    first = recognized.name({"": pipe.unet})
    monkeypatch.setattr("shield.model.fingerprint.models_sha256", lambda *_: "read anew")
    pipe("the cat", num_inference_steps=1, generator=noises(1), output_type="np")
    assert recognized.name({"": pipe.unet}) == first
    pipe.unet.conv_out.bias.data.add_(1.0)
    assert recognized.name({"": pipe.unet}) == "read anew"


def test_models_of_a_pipeline_do_not_count_learned_words(pipe):
    before = models_of(pipe)
    pipe.tokenizer.add_tokens(["<learned>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    assert models_of(pipe) == before
