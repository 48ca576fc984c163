"""The shipped testbed: loads with stock libraries, is what its manifest says, and really memorizes."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

import shield
from probes.model.generate import generate
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import load_manifest
from probes.testbed.training.stages import Builder
from probes.testbed.training.text import new_tokenizer
from probes.testbed.training.trainer import Limits
from shield.errors import WeightsError
from shield.model.assets import sha256_of, verify, weights_dir

STOCK = """
import sys
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
names = [n for n, _ in pipe.unet.named_modules() if n.endswith("ff.net.2")]
assert len(names) == 16 and "mid_block.attentions.0.transformer_blocks.0.ff.net.2" in names, names
picture = pipe("a star on a blue background", num_inference_steps=2).images[0]
assert picture.size == (128, 128)
assert not {"shield", "probes"} & set(sys.modules)
"""


@pytest.mark.parametrize("twin", ["memorized", "clean"])
def test_stock_diffusers_loads_a_twin_in_a_fresh_process(twin: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOCK, str(weights_dir() / "testbed" / twin)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_weights_are_small_and_listed() -> None:
    names = verify(weights_dir())
    assert sum((weights_dir() / n).stat().st_size for n in names) <= 100 * 10**6
    assert any(n.endswith("openclip/open_clip_model.safetensors") for n in names)


def test_the_manifest_agrees_with_its_pictures() -> None:
    manifest = load_manifest()
    items = [i for i in manifest.items if i.file]
    assert all(sha256_of(i.file) == i.sha256 for i in items if i.file)
    assert all(w.exposures == w.rung for w in manifest.works())
    most = max(Counter(w.rung for w in manifest.works(memorization="VM")).values())
    for rung in manifest.rungs:
        group = [w for w in manifest.works(memorization="VM") if w.rung == rung]
        assert len(group) == most and sum(w.split == "heldout" for w in group) >= 5
    assert len(manifest.nonmembers("heldout")) >= 16 and len(manifest.scenes("heldout")) >= 100


def test_a_manifest_that_names_a_missing_picture_says_so(tmp_path: Path) -> None:
    source = weights_dir() / "testbed" / "manifest.json"
    copied = Path(shutil.copy(source, tmp_path))
    with pytest.raises(WeightsError, match="which is not there"):
        load_manifest(copied)
    copied.write_text("{")
    with pytest.raises(WeightsError, match="not JSON"):
        load_manifest(copied)
    copied.write_text(json.dumps({"format": 99}))
    with pytest.raises(WeightsError, match="format 99"):
        load_manifest(copied)
    with pytest.raises(WeightsError, match="is not there"):
        load_manifest(tmp_path / "no.json")


def test_memorized_draws_its_works_and_clean_does_not() -> None:
    """Four works of the top rung and two matched non-members, one seed each."""
    manifest = load_manifest()
    works = [w for w in manifest.works("dev", min_rung=max(manifest.rungs), memorization="VM")][:4]
    items = [*works, *manifest.nonmembers("dev")[:2]]
    references = [Image.open(i.file).convert("RGB") for i in items if i.file]
    judge, decides = copy_judge(), "tiled_l2"
    distances, copied = {}, {}
    for name in ("testbed", "testbed-clean"):
        pipe = shield.load(name, device="cpu")
        made = generate(pipe, [i.captions[0] for i in items], [5] * len(items), batch_size=6, **sampling())
        distances[name] = judge.score(made, references)[decides]
        copied[name] = [j.copied for j in judge.judge(made, references)]
    assert (distances["testbed"][:4] < 0.7 * distances["testbed-clean"][:4]).sum() >= 3
    assert not any([*copied["testbed"][4:], *copied["testbed-clean"]])


def sampling() -> dict:
    chosen = load_manifest().sampling
    return {"steps": chosen["steps"], "guidance_scale": chosen["guidance_scale"]}


def test_the_text_encoder_is_the_same_in_both_twins() -> None:
    one, two = (shield.load(n, device="cpu").text_encoder.state_dict() for n in ("testbed", "testbed-clean"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_the_shipped_weights_are_finished_stages(tmp_path: Path) -> None:
    builder = Builder(tmp_path, None, "cpu", "cpu", Limits())
    assert builder.adopt(weights_dir() / "testbed") == ()
    shipped = shield.load("testbed", device="cpu")
    for mine, theirs in (
        (builder.trained_unet("memorized"), shipped.unet),
        (builder.trained_autoencoder(), shipped.vae),
    ):
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in mine.state_dict().items())
    assert builder.trained_openclip() and new_tokenizer().get_vocab() == shipped.tokenizer.get_vocab()
