"""Folders as people have them: variants, pickles, broken and missing files. What can't be loaded is one sentence."""

import json
import logging
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import shield
from shield.errors import BadRequestError, ShieldError, UnsupportedPipelineError, WeightsError
from shield.model.assets import verify, write_manifest
from shield.model.fingerprint import model_sha256
from shield.model.folders import variant_of
from shield.model.loading import quiet
from tests.tiny import tiny_sd

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def index_with(folder, **change):
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def as_variant(folder, variant, *parts):
    for part in parts:
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))


def state_changed(folder, name, change):
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name, metadata={"format": "pt"})


def without_first(state):
    del state[min(state)]


@pytest.mark.parametrize("parts", [("unet",), ("unet", "vae", "text_encoder")])
@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
def test_a_variant_alone_is_loaded(folder, saved, variant, parts):
    as_variant(folder, variant, *parts)
    assert model_sha256(shield.load(folder, "cpu").unet) == model_sha256(shield.load(saved, "cpu").unet)


def test_which_variant_is_taken(folder):
    parts = ["unet", "vae", "text_encoder", "tokenizer"]
    assert variant_of(folder, parts) is None
    shutil.copy(folder / UNET, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert variant_of(folder, parts) is None, "the plain one where there is one"
    os.rename(folder / UNET, folder / "unet/diffusion_pytorch_model.ema-00001-of-00001.safetensors")
    assert variant_of(folder, parts) == "fp16"
    as_variant(folder, "ema", "vae")
    assert variant_of(folder, parts) == "ema", "the one that every part has"
    as_variant(folder, "int8", "text_encoder")
    with pytest.raises(WeightsError, match=r"text_encoder as int8"):
        shield.load(folder, "cpu")


@pytest.mark.parametrize("name", ["LongPromptPipeline", ["pipeline", "Mine"], "UNet2DConditionModel", 3])
def test_a_pipeline_class_that_diffusers_lacks_is_named(folder, name):
    index_with(folder, _class_name=name)
    (folder / "pipeline.py").write_text("raise SystemExit('run')")
    with pytest.raises(UnsupportedPipelineError, match=str(name).replace("[", r"\[")):
        shield.load(folder, "cpu")


def test_a_feature_extractor_for_the_safety_checker_alone_may_be_missing(folder):
    index_with(folder, feature_extractor=["transformers", "CLIPImageProcessor"])
    assert shield.load(folder, "cpu").feature_extractor is None


BROKEN = {  # what is done to a folder: what the sentence names
    "no index": (lambda f: (f / "model_index.json").write_text("[]"), "_class_name"),
    "half an index": (lambda f: (f / "model_index.json").write_text('{"_cl'), "model_index"),
    "no class of a part": (lambda f: index_with(f, unet=["diffusers", "NoSuchModel"]), "NoSuchModel"),
    "no library of a part": (lambda f: index_with(f, unet=["own", "Net"]), "own"),
    "a part without a pair": (lambda f: index_with(f, unet=[1, 2]), r"unet, and has \[1, 2\]"),
    "no folder": (lambda f: shutil.rmtree(f / "unet"), "no folder .*unet"),
    "no weights": (lambda f: (f / UNET).unlink(), "unet has a config.json and no weights"),
    "no config": (lambda f: (f / "text_encoder/config.json").unlink(), "text_encoder has weights and no config.json"),
    "cut": (lambda f: os.truncate(f / UNET, 5000), "diffusion_pytorch_model.safetensors is cut off"),
    "cut text encoder": (lambda f: os.truncate(f / TEXT, 5000), "model.safetensors is cut off"),
    "empty": (lambda f: os.truncate(f / TEXT, 0), "model.safetensors is empty"),
    "pointer": (lambda f: (f / TEXT).write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "other weights": (lambda f: save_file({"a": torch.zeros(2)}, f / UNET), "lack weights of unet"),
    "one less": (lambda f: state_changed(f, UNET, without_first), "lack weights of unet"),
    "one less to read with": (lambda f: state_changed(f, TEXT, without_first), "lack weights of a text encoder"),
    "config a list": (lambda f: (f / "text_encoder/config.json").write_text("[1]"), "config.json needs a JSON object"),
    "config cut": (lambda f: (f / "scheduler/scheduler_config.json").write_text('{"a'), "scheduler_config.json isn't"),
    "other shapes": (lambda f: (f / "text_encoder/config.json").write_text("{}"), "text encoder have other shapes"),
    "tokenizer": (lambda f: (f / "tokenizer/tokenizer_config.json").write_text("[1]"), "tokenizer_config.json needs"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_one_sentence_that_names_the_cause(folder, kind):
    change, named = BROKEN[kind]
    change(folder)
    with pytest.raises(ShieldError, match=named) as caught:
        shield.load(folder, "cpu")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_of_pickled_weights_only_tensors_are_read(folder, saved, name, is_zip):
    plain = folder / (UNET if name.startswith("unet") else TEXT)
    torch.save(load_file(plain), folder / name, _use_new_zipfile_serialization=is_zip)
    plain.unlink()
    assert model_sha256(shield.load(folder, "cpu").unet) == model_sha256(shield.load(saved, "cpu").unet)

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(folder / "ran"),)

    torch.save({"x": Code()}, folder / name, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match=r"\.bin is no pickle of tensors alone"):
        shield.load(folder, "cpu")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("way", ["linked", "hidden", "in a hidden folder", "dangling"])
def test_a_file_that_nobody_listed_is_seen_wherever_it_lies(tmp_path, way):
    """Linked folders and hidden names are read by loaders like any other."""
    weights, apart = tmp_path / "weights", tmp_path / "apart"
    (weights / "model/unet").mkdir(parents=True)
    (weights / "model/unet/a.txt").write_text("a")
    shutil.move(weights / "model/unet", apart)
    (weights / "model/unet").symlink_to(apart)
    (apart / "round").symlink_to(weights / "model")
    (apart / ".DS_Store").write_text("x")
    write_manifest(weights, "MIT", "made")
    assert verify(weights) == ["model/unet/a.txt"]
    name = {"hidden": ".bin", "in a hidden folder": ".x/a.bin"}.get(way, "b.bin")
    (apart / name).parent.mkdir(exist_ok=True)
    (apart / name).symlink_to("nothing") if way == "dangling" else (apart / name).write_text("b")
    with pytest.raises(WeightsError, match=rf"{name} isn't in manifest"):
        verify(weights, "model")


def test_a_loaders_own_options_reach_it(saved, tmp_path, folder):
    half = shield.load(saved, "cpu", torch_dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    half.save_pretrained(tmp_path / "both", variant="fp16")
    shield.load(saved, "cpu").save_pretrained(tmp_path / "both")
    plain, variant = (shield.load(tmp_path / "both", "cpu", **more) for more in ({}, {"variant": "fp16"}))
    first = [pipe.unet.conv_in.weight for pipe in (plain, variant)]
    assert not torch.equal(*first) and torch.equal(first[0].half().float(), first[1])
    unet = shield.load(saved, "cpu").unet
    assert shield.load(saved, "cpu", unet=unet, revision="main", token=None, local_files_only=True).unet is unet
    with pytest.raises(BadRequestError, match="There is no option 'varient': .* is loaded with revision, token"):
        shield.load(saved, "cpu", varient="fp16")


def test_a_shields_options_and_a_loaders_are_told_apart(saved):
    safe = shield.Shield.from_pretrained(
        saved, "cpu", torch_dtype="float16", policy="names", concepts=["Bolto"], fpr=0.1
    )
    assert (safe.unet.dtype, safe.policy.detectors, safe.fpr) == (torch.float16, (), 0.1)
    with pytest.raises(BadRequestError, match="no option 'polisy'"):
        shield.Shield.from_pretrained(saved, "cpu", polisy="names")


def test_loading_says_nothing_of_what_is_not_used():
    """transformers warns that torchvision is missing for image processors that the pipeline hasn't got."""
    told = logging.getLogger("transformers.utils.import_utils")
    before = told.level
    with quiet():
        assert not told.isEnabledFor(logging.WARNING)
    assert told.level == before
