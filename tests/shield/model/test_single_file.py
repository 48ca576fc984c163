"""Checkpoints in one file and LoRA files: the same model comes back, and a broken file gets one sentence."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import shield
from probes.model.layers import FFN_OUTPUTS, matching_weights
from shield import Shield
from shield.errors import BadRequestError, WeightsError
from shield.model.fingerprint import model_sha256
from shield.model.loading import split_name
from shield.model.single_file import with_lora
from tests.compvis import compvis_state, save_compvis
from tests.shield.calls import options, thresholds
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_sdxl


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd("epsilon", seed=3)


@pytest.fixture(scope="module")
def file(pipe, tmp_path_factory):
    return save_compvis(pipe, tmp_path_factory.mktemp("single") / "tiny.safetensors")


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "tiny"
    pipe.save_pretrained(folder)
    return folder


VALUES = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"


def values(pipe):
    return pipe.unet.get_submodule(VALUES).weight


def save_lora(pipe, folder, seed=0, targets=("to_q", "to_v", "ff.net.2")):
    """A LoRA of rank 2 with weights from `seed`, made by peft and saved by the pipeline; and W + 2 B A of VALUES."""
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=list(targets)))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=draw))
    state = get_peft_model_state_dict(pipe.unet)
    type(pipe).save_lora_weights(
        folder,
        unet_lora_layers=convert_state_dict_to_diffusers(state),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
    )
    added = [2.0 * state[f"{VALUES}.lora_B.weight"] @ state[f"{VALUES}.lora_A.weight"]] if "to_v" in targets else []
    pipe.unet.delete_adapters("default")
    return folder / "pytorch_lora_weights.safetensors", sum(added, values(pipe)).detach().clone()


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return save_lora(tiny_sd("epsilon", seed=3), tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_is_the_same_pipeline(suffix, pipe, file, tmp_path):
    if suffix == ".ckpt":
        shutil.copytree(file.with_suffix(""), tmp_path / "old")
        torch.save({"state_dict": compvis_state(pipe), "global_step": 7}, tmp_path / "old.ckpt")
    loaded = shield.load(file if suffix == ".safetensors" else tmp_path / "old.ckpt", "cpu")
    assert model_sha256(loaded.unet) == model_sha256(pipe.unet)
    assert loaded.safety_checker is None and loaded.scheduler.config.prediction_type == "epsilon"
    for part in ("unet", "vae", "text_encoder"):
        mine, theirs = getattr(loaded, part).state_dict(), getattr(pipe, part).state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    made = Shield(loaded, thresholds=thresholds(pipe, 1e9))("the cat", **options(1))
    # Equal weights at other places in memory may round otherwise.
    assert np.abs(made.images - pipe("the cat", **options(1)).images).max() < 1e-5


def test_its_dtype_can_be_chosen(file):
    assert shield.load(str(file), "cpu", "bfloat16").unet.dtype == torch.bfloat16


def test_a_lora_is_in_the_weights_and_the_model_is_like_any_other(pipe, folder, lora):
    path, expected = lora
    loaded = shield.load(f"{folder}+{path}", "cpu")
    assert torch.allclose(values(loaded), expected, atol=1e-6) and not torch.allclose(expected, values(pipe))
    assert {n for n, _ in loaded.unet.named_parameters()} == {n for n, _ in pipe.unet.named_parameters()}
    assert model_sha256(loaded.unet) != model_sha256(pipe.unet)
    assert len(matching_weights(loaded.unet, FFN_OUTPUTS)) == len(matching_weights(pipe.unet, FFN_OUTPUTS)) == 16
    attached = shield.load(folder, "cpu")
    attached.load_lora_weights(str(path))
    fused, beside = (p("the cat", **options(1)).images for p in (loaded, attached))
    assert abs(fused - beside).max() < 1e-4, "as the adapter itself draws"


def test_a_single_file_takes_loras_too(file, lora, tmp_path):
    second, _ = save_lora(tiny_sd("epsilon", seed=3), tmp_path, seed=1, targets=("to_k",))
    one = shield.load(f"{file}+{lora[0]}", "cpu")
    two = shield.load(f"{file}+{lora[0]}+{second}", "cpu")
    assert len({model_sha256(p.unet) for p in (shield.load(file, "cpu"), one, two)}) == 3


def test_a_plus_in_a_folders_name_is_its_own(folder, lora, tmp_path):
    plus = tmp_path / "c++" / "a+b"
    shutil.copytree(folder, plus)
    assert split_name(plus) == (str(plus), [])
    assert split_name(f"{plus}+{lora[0]}") == (str(plus), [lora[0]])
    assert split_name("owner/name+a.safetensors+b.safetensors")[0] == "owner/name"
    assert type(shield.load(f"{plus}+{lora[0]}", "cpu")).__name__ == "StableDiffusionPipeline"


KINDS = ["cut", "empty", "text", "header", "another shape", "another model", *(f"lacking {n}" for n in range(3))]
LACKING = (
    "model.diffusion_model.middle_block.1.proj_in.weight",
    "first_stage_model.decoder.conv_in.bias",
    "cond_stage_model.transformer.text_model.final_layer_norm.weight",
)


def broken(kind, file, tmp_path):
    """A file of this kind, with the right configuration beside it."""
    shutil.copytree(file.with_suffix(""), tmp_path / "bad")
    path, whole = tmp_path / "bad.safetensors", file.read_bytes()
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1")
    elif kind == "header":
        path.write_bytes(b"\xff" * 8 + whole[8:])
    else:
        held = load_file(file)
        if kind.startswith("lacking"):
            del held[LACKING[int(kind[-1])]]
        elif kind == "another shape":
            held[LACKING[0]] = torch.zeros(3, 3, 1, 1)
        elif kind == "another model":
            held = {"fc.weight": torch.zeros(2, 2)}
        save_file(held, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_gets_one_sentence(kind, file, tmp_path):
    path = broken(kind, file, tmp_path)
    with pytest.raises(WeightsError) as caught:
        shield.load(path, "cpu")
    said = str(caught.value)
    assert said.startswith(str(path)) and "\n" not in said and len(said) < 400, said
    assert not kind.startswith("lacking") or said == f"{path} lacks weights of a StableDiffusionPipeline."


def test_no_code_of_a_checkpoint_runs(file, tmp_path):
    class Code:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    shutil.copytree(file.with_suffix(""), tmp_path / "bad")
    torch.save({"state_dict": Code()}, tmp_path / "bad.ckpt")
    with pytest.raises(WeightsError, match="bad.ckpt can't be"):
        shield.load(tmp_path / "bad.ckpt", "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_file_of_another_kind_and_a_missing_one_are_named(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"is \.safetensors or \.ckpt"):
        shield.load(tmp_path / "model.bin", "cpu")
    with pytest.raises(WeightsError, match="There is no model 'models/none.safetensors'"):
        shield.load("models/none.safetensors", "cpu")


def test_without_a_configuration_it_is_said_where_it_was_looked_for(pipe, tmp_path):
    path = save_compvis(pipe, tmp_path / "alone.safetensors", configured=False)
    with pytest.raises(WeightsError, match="isn't in .*alone and can't be had from stable-diffusion-v1-5"):
        shield.load(path, "cpu")


def test_a_pipeline_that_has_no_single_file_form_is_named(file, tmp_path):
    shutil.copy(file, tmp_path / "odd.safetensors")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    with pytest.raises(WeightsError, match="DDPMPipeline isn't read from a single file"):
        shield.load(tmp_path / "odd.safetensors", "cpu")


def test_a_single_file_holds_no_safety_checker(file):
    with pytest.raises(BadRequestError, match="holds no safety checker"):
        shield.load(file, "cpu", safety_checker=True)


@pytest.mark.parametrize("kind", ["cut", "empty", "not a lora", "another place", "another size", "missing", "nan"])
def test_a_broken_lora_gets_one_sentence(kind, folder, lora, tmp_path):
    path = tmp_path / "bad.safetensors"
    held = load_file(lora[0])
    if kind == "cut":
        path.write_bytes(lora[0].read_bytes()[:900])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind != "missing":
        made = {
            "not a lora": {"fc.weight": torch.zeros(2, 2)},
            "another place": {name.replace("unet.", "transformer."): w for name, w in held.items()},
            "another size": {name: torch.zeros(w.shape[0] + 1, w.shape[1] + 1) for name, w in held.items()},
            "nan": {name: torch.full_like(w, float("nan")) for name, w in held.items()},
        }
        save_file(made[kind], path)
    with pytest.raises(WeightsError) as caught:
        shield.load(f"{folder}+{path}", "cpu")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_a_lora_of_another_family_is_refused(lora):
    with pytest.raises(WeightsError, match="StableDiffusionXLPipeline"):
        with_lora(tiny_sdxl(), lora[0])
