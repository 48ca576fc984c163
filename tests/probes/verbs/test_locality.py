"""Locality: distances, activations and masks against second computations, and the verb on a model that copies all."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from probes.attacks import AdversarialEmbedding
from probes.audit.layers import activation_rows, activations, mask_rows, subspace_masks
from probes.audit.request import AuditRequest
from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.inputs.cohorts import Sizes
from probes.localizers import FFNSubspace
from probes.model.generate import encode_prompts
from probes.model.layers import FFN_OUTPUTS, VALUES, matching_weights
from probes.runs.folder import Run
from probes.types import Subject
from probes.verbs.locality import LOCALITY, TOO_FEW, format_locality, locality
from shield.errors import BadRequestError
from shield.model.loading import load
from tests.probes.exact import bits
from tests.probes.tiny_testbed import tiny_testbed
from tests.tiny import tiny_sd

PLAN = replace(
    LOCALITY,
    sizes=Sizes(members=2, nonmembers=2, scenes=0),
    sampling=Sampling(2, 5.0, 8),
    attack=AdversarialEmbedding(steps=2, batch=1),
    localizer=FFNSubspace(k=0.2, tau=1, steps=2, guidance_scale=5.0),
)
PROMPTS = ["the cat", "red"]


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    """A model, works that are its own pictures, and non-members unlike anything that it draws."""
    folder = tmp_path_factory.mktemp("copying")
    tiny_sd(seed=4).save_pretrained(folder / "model")
    pipe = load(str(folder / "model"), device="cpu")
    for n, prompt in enumerate(PROMPTS):
        pipe(prompt, generator=torch.Generator().manual_seed(9000), num_inference_steps=2, guidance_scale=5.0).images[
            0
        ].save(folder / f"w{n}.png")
    for n in range(3):
        Image.effect_noise((64, 64), 200).convert("RGB").rotate(90 * n).save(folder / f"n{n}.png")
    (folder / "works.csv").write_text("caption,picture\n" + "".join(f"{p},w{n}.png\n" for n, p in enumerate(PROMPTS)))
    (folder / "others.csv").write_text("caption,picture\n" + "".join(f"new {n},n{n}.png\n" for n in range(3)))
    return folder


@pytest.fixture(scope="module")
def done(copying):
    return run(copying / "run", copying)


def run(out, folder, **options):
    request = AuditRequest(str(folder / "model"), folder / "works.csv", folder / "others.csv", device="cpu")
    return locality(
        out,
        request,
        **{
            "works": 2,
            "starts": 3,
            "plan": PLAN,
            "show_progress": False,
            "masks": ("ffn_subspace", "value_neurons"),
            **options,
        },
    )


def test_activations_are_those_of_a_hook_by_hand(subject):
    embeds = encode_prompts(subject, ["the cat", "red", "a thing"])
    ffn, value = (
        list(matching_weights(subject.denoiser, FFN_OUTPUTS))[3],
        list(matching_weights(subject.denoiser, VALUES))[1],
    )
    found = activations(subject, embeds, [5, 5, 6], [ffn, value])
    kept = []
    handle = subject.denoiser.get_submodule(ffn).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        subject.denoiser(noise, 999, embeds[2:])
    handle.remove()
    assert torch.allclose(found[ffn][2], kept[0][0], atol=1e-4)
    assert torch.allclose(found[value], subject.denoiser.get_submodule(value)(embeds), atol=1e-5)
    assert not any(module._forward_hooks for module in subject.denoiser.modules())


def test_activation_distances_by_hand_in_any_grouping(subject, monkeypatch):
    embeds = encode_prompts(subject, ["the cat", "red", "a thing"])
    groups = {"results": [list(embeds[:2]), []], "captions": [list(embeds)]}
    rows = activation_rows(subject, groups, 5)
    assert len(rows) == 16 + 7 and {row["kind"] for row in rows} == {"feed-forward", "value"}
    values = activations(subject, embeds, [5] * 3, [rows[0]["layer"]])[rows[0]["layer"]]
    assert rows[0]["groups"]["results"]["value"] == pytest.approx(float((values[0] - values[1]).norm()), rel=1e-4)
    far = [float((values[a] - values[b]).norm()) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert rows[0]["groups"]["captions"]["value"] == pytest.approx(np.mean(far), rel=1e-4)
    assert rows[0]["groups"]["noises"]["value"] > 0
    assert all(row["groups"]["noises"]["value"] == 0 for row in rows if row["kind"] == "value")
    monkeypatch.setattr("probes.audit.layers.BYTES", 1)  # every layer alone
    again = activation_rows(subject, groups, 5)
    assert [row["layer"] for row in again] == [row["layer"] for row in rows]
    assert again[4]["groups"]["captions"]["value"] == pytest.approx(rows[4]["groups"]["captions"]["value"], rel=1e-5)


def test_masks_of_one_embedding_are_the_localizers(subject):
    """Without guidance and for one step, FFNSubspace sees the same call: its mask of the prompt is ours."""
    localizer = FFNSubspace(k=0.2, tau=1, steps=1, guidance_scale=1.0)
    (mask,) = subspace_masks(subject, localizer, 7)(["x"], encode_prompts(subject, ["the cat"]))
    expected = localizer.locate(subject, ["the cat"], seed=7).mask
    assert mask.count() > 0 and mask.iou(expected) > 0.97


def test_overlaps_and_their_controls(subject):
    cat, red = encode_prompts(subject, PROMPTS)
    make = subspace_masks(subject, FFNSubspace(k=0.2, tau=1, steps=2), 7)
    rows = mask_rows(subject, {"results": [[cat, cat]], "captions": [[cat, red]]}, "ffn_subspace", make)
    assert [rows[0]["layer"], len(rows)] == ["all layers", 17]
    one, two = make(["a", "b"], torch.stack([cat, red]))
    cells = rows[0]["groups"]
    assert cells["results"]["value"] == 1.0 and cells["captions"]["value"] == pytest.approx(one.iou(two))
    assert cells["random, results"]["value"] < 0.5 and cells["random, captions"]["value"] < 0.5
    assert rows[0]["sizes"] == {"results": one.count(), "captions": (one.count() + two.count()) / 2}


def test_every_analysis_of_a_model_that_copies_everything(done, copying):
    found = done.summary["locality"]
    assert found["searches"]["copied"] == found["searches"]["n"] == 6 and found["searches"]["works"] == 2
    rows = {row["group"]: row for row in found["embeddings"]}
    assert rows["results"]["n"] == rows["starts"]["n"] == 6 and rows["results"]["pairs"] == 6
    assert rows["captions"]["n"] == 2 and rows["captions of non-members"]["n"] == 3
    # Two steps of 0.1 barely leave noise of norm 1 behind.
    assert found["stay"]["n"] == found["stay"]["nearest_to_own_start"] == 6
    assert 0.05 < found["stay"]["moved"] / rows["starts"]["value"] < 0.5
    assert {row["kind"] for row in found["masks"]} == {"ffn_subspace", "value_neurons"}
    assert len(found["map"]["points"]) == 6 + 6 + 2 and 0 < found["map"]["explained"] <= 1
    assert all((done.folder / f"{name}.svg").is_file() for name in ("map", "activations", "masks_ffn_subspace"))
    assert done.report.is_file() and any("activations, " in line for line in format_locality(done.summary))
    subject = Subject(load(str(copying / "model"), device="cpu"), "copying")
    assert bits(subject.denoiser) == bits(tiny_sd(seed=4).unet)


def test_a_second_start_does_nothing_again(done, copying):
    before = (done.folder / "records.jsonl").read_bytes()
    again = run(done.folder, copying, resume=True)
    assert json.loads(json.dumps(again.summary)) == json.loads(json.dumps(done.summary))
    assert (done.folder / "records.jsonl").read_bytes() == before
    records = list(Run.open(done.folder).records())
    assert sum(record["stage"] == "localize" for record in records) == 8  # six results, two captions


def test_nothing_that_came_back_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tiny_testbed(tmp_path / "weights")))
    done = locality(tmp_path / "run", AuditRequest(device="cpu"), works=1, starts=2, plan=PLAN, show_progress=False)
    assert TOO_FEW in done.summary["limits"] and "embeddings" not in done.summary["locality"]
    wrong = CliRunner().invoke(app, ["locality", "--out", str(tmp_path / "other"), "--masks", "nothing"])
    assert wrong.exit_code == 2 and "not of nothing" in wrong.stderr and not (tmp_path / "other").exists()


def test_requests_that_cant_be(tmp_path):
    for options, says in (({"starts": 1}, "two or more searches"), ({"masks": ("value_neurons",)}, "--nonmembers")):
        with pytest.raises(BadRequestError, match=says):
            locality(tmp_path / "run", AuditRequest("owner/name"), **options)
    assert not (tmp_path / "run").exists()
