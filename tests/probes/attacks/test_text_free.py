"""Probes without text: completion, inpainting and noise, on tiny pipelines of every family, against arithmetic."""

import json

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from probes.attacks import ATTACKS, Completion, Inpainting, Noise, TextFree
from probes.attacks.text_free import in_form, latents_and_noise, sides_of
from probes.audit.plan import FULL
from probes.audit.request import AuditRequest
from probes.cli.main import app
from probes.errors import UnsupportedError
from probes.model.generate import encode_pictures, generate
from probes.model.steering import begun_at, held, levels, noised, stirred
from probes.types import Subject
from probes.verbs.attack import ATTACK, attack, attack_plan, usual_steps
from shield.errors import BadRequestError
from shield.hooks.intercept import denoiser_of
from shield.hooks.steps import observed
from shield.model.autoencoders import forms, latents_of, unpacked
from shield.model.families import FAMILIES, family_of
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_picture, tiny_sd3, tiny_sdxl
from tests.tiny_kolors import tiny_kolors
from tests.tiny_transformers import (
    tiny_auraflow,
    tiny_chroma,
    tiny_flux2dev,
    tiny_klein,
    tiny_lcm,
    tiny_pixart,
    tiny_qwenimage,
    tiny_sana,
    tiny_zimage,
)

MAKERS = {
    "sd": tiny_sd,
    "sdxl": tiny_sdxl,
    "sd3": tiny_sd3,
    "flux": tiny_flux,
    "auraflow": tiny_auraflow,
    "pixart": tiny_pixart,
    "chroma": tiny_chroma,
    "flux2": tiny_klein,
    "zimage": tiny_zimage,
    "qwenimage": tiny_qwenimage,
    "lcm": tiny_lcm,
    "kolors": tiny_kolors,
    "sana": tiny_sana,
    "flux2dev": tiny_flux2dev,
}
STEPS = 5
every = pytest.mark.parametrize("name", MAKERS)


def silent(module, args, output):
    """Predictions of nothing, so that what is drawn is what was given and noised."""
    rows = [torch.zeros_like(row) for row in output[0]]
    return (rows if isinstance(output[0], list) else torch.stack(rows), *output[1:])


def subject_of(name):
    pipe = MAKERS[name]()
    pipe.default_sample_size = 32 if name == "sana" else 8  # some are 128 whatever the transformer
    return Subject(pipe, name)


def draw(probe, subject, level, seeds=(1, 2)):
    works = [tiny_picture(seed) for seed in seeds]
    return probe.draw(subject, works, seeds, level, steps=STEPS, guidance_scale=5.0)


def apart(ones, others):
    return [
        float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()) for a, b in zip(ones, others, strict=True)
    ]


def test_every_family_is_tried():
    assert set(MAKERS) == {family.name for family in FAMILIES}


def decoded(probe, subject, level):
    """Latents (B, C, H, W) that the autoencoder gets."""
    found = []
    with observed(subject.pipe.vae, "decode", lambda args, kwargs, output: found.append(args[0].float())):
        draw(probe, subject, level)
    return found[0][:, :, 0] if found[0].ndim == 5 else found[0]


@every
def test_every_family_draws_without_text(name):
    """Each with its own denoiser, and with one that predicts nothing: then less of a work is left the more the model
    draws itself, and the part that is given comes back as it was.
    """
    subject = subject_of(name)
    pictures = draw(Completion(), subject, 60)
    assert {picture.size for picture in pictures} == {(64, 64)} and apart(pictures[:1], pictures[1:]) > [0]
    assert min(apart(pictures, draw(Inpainting(), subject, 50))) > 0
    plain = draw(Noise(), subject, 0)
    assert apart(plain, draw(Completion(), subject, 100)) == [0, 0]  # nothing of the work is given at either
    if name != "lcm":
        assert min(apart(plain, draw(Noise(), subject, 185))) > 0
    denoiser_of(subject.pipe).register_forward_hook(silent)
    latents, given = encode_pictures(subject, [tiny_picture(1), tiny_picture(2)]), decoded(Completion(), subject, 20)
    ways = [form(latents) for form in forms(subject.pipe.vae)]  # some pipelines leave the tiny autoencoder's shift out
    clean = min(ways, key=lambda way: float((given - way).norm()))
    near, far, free = (float((decoded(Completion(), subject, level) - clean).norm()) for level in (20, 60, 100))
    assert near < far < free
    if name != "lcm":  # which decodes its last prediction instead of its latents
        half, filled = clean.shape[-1] // 2, decoded(Inpainting(), subject, 50)
        assert torch.allclose(filled[..., :half], clean[..., :half], atol=1e-3)
        assert not torch.allclose(filled[..., half:], clean[..., half:], atol=1e-1)
    assert not {"step", "set_timesteps"} & set(vars(subject.pipe.scheduler))


@every
def test_latents_of_a_picture_are_what_the_pipeline_decodes(name):
    """The inverse of each autoencoder's scale, shift and statistics, and of each family's packing."""
    subject = subject_of(name)
    pipe, latents = subject.pipe, torch.randn(2, *sides_of(subject), generator=torch.Generator().manual_seed(0))
    decoded = []
    with torch.no_grad(), observed(pipe.vae, "encode", lambda args, kwargs, output: decoded.append(output)):
        found = latents_of(pipe, torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]))
    own = decoded[0].latent if name == "sana" else decoded[0].latent_dist.mode()
    own = own[:, :, 0] if own.ndim == 5 else own
    assert torch.allclose(forms(pipe.vae)[0](found), own, atol=1e-5)
    if family_of(pipe).packed:
        assert torch.equal(unpacked(pipe, in_form(subject, latents), (64, 64)), latents)


SCHEDULERS = ("DDIM", "PNDM", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LCM")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_call_begins_with_the_noised_work_and_takes_the_last_steps(name):
    """Timesteps and sigmas of the last two of five steps, and latents that are signal * work + noise."""
    pipe = tiny_sd("epsilon")
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(STEPS)
    order, times = pipe.scheduler.order, pipe.scheduler.timesteps.tolist()
    steps = -(-len(times) // order)
    skipped = order * (steps - round(0.4 * steps))
    clean, noise, seen, given = torch.full((1, 4, 8, 8), 0.5), torch.ones(1, 4, 8, 8), [], []
    call = {"generator": torch.Generator().manual_seed(0), "guidance_scale": 1.0, "num_inference_steps": STEPS}
    step = pipe.scheduler.step

    def recorded(model_output, timestep, sample, *args, **kwargs):
        seen.append(float(timestep))
        given.append(sample.clone())
        return step(model_output, timestep, sample, *args, **kwargs)

    pipe.scheduler.step = recorded
    with torch.no_grad(), begun_at(pipe.scheduler, clean, noise, 0.4):
        pipe("a cat", output_type="latent", **call)
    assert seen == times[skipped:]
    fresh = type(pipe.scheduler).from_config(pipe.scheduler.config)
    fresh.set_timesteps(STEPS)
    wanted = fresh.add_noise(clean, noise, fresh.timesteps[skipped : skipped + 1])
    assert torch.allclose(given[0], wanted, atol=1e-4)
    seen.clear()
    with torch.no_grad():
        pipe("a cat", output_type="latent", **call)
    assert seen == times  # nothing of it is left


def test_what_is_around_the_mask_is_the_work_at_every_step():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(4)
    clean, noise, mask = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), -1.0), torch.zeros(1, 1, 2, 2).bool()
    mask[..., 1] = True
    sample = torch.zeros(1, 1, 2, 2)
    with held(scheduler, clean, noise, mask):
        for place, time in enumerate(scheduler.timesteps):
            sample = scheduler.step(torch.zeros_like(sample), time, sample, return_dict=False)[0]
            kept = scheduler.alphas_cumprod[scheduler.timesteps[place + 1]] if place < 3 else torch.tensor(1.0)
            assert torch.allclose(sample[..., 0], 3 * kept**0.5 - (1 - kept) ** 0.5)
            assert torch.equal(sample[..., 1], torch.zeros(1, 1, 2))


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete"])
def test_noise_at_100_percent_is_ddim_at_eta_1(name):
    """Against diffusers' own DDIM with eta, in whose scale Euler's latents are x / signal."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(4)
    time, following = scheduler.timesteps[0], scheduler.timesteps[1]
    draw = torch.Generator().manual_seed(3)
    sample, predicted = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 4, 8, 8, generator=draw)
    fresh = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(7))
    wanted = scheduler.step(predicted, time, sample, eta=1.0, variance_noise=fresh, return_dict=False)[0]
    other = getattr(diffusers, f"{name}Scheduler").from_config(scheduler.config, timestep_spacing="leading")
    other.set_timesteps(4)
    assert other.timesteps.tolist() == scheduler.timesteps.tolist()
    alphas = scheduler.alphas_cumprod
    scales = [1.0 if name == "DDIM" else float(alphas[t] ** -0.5) for t in (time, following)]
    with stirred(other, [torch.Generator().manual_seed(7)], 1.0):
        other.scale_model_input(sample, other.timesteps[0])
        found = other.step(predicted, other.timesteps[0], sample * scales[0], return_dict=False)[0]
    assert torch.allclose(found, wanted * scales[1], atol=2e-3)


def test_levels_of_flow_are_sigma():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    time = scheduler.timesteps[2]
    sigma = float(time) / 1000
    assert levels(scheduler, time, torch.device("cpu")) == pytest.approx((1 - sigma, sigma))
    assert torch.allclose(noised(scheduler, torch.ones(2, 1), torch.zeros(2, 1), time), torch.full((2, 1), 1 - sigma))


@pytest.mark.parametrize("name", ["LCM", "HeunDiscrete", "EulerAncestralDiscrete"])
def test_a_solver_that_stirs_itself_is_refused(name):
    scheduler = getattr(diffusers, f"{name}Scheduler")()
    with pytest.raises(UnsupportedError, match="level 0"), stirred(scheduler, [], 1.0):
        pass


def test_the_masked_part_alone_is_compared():
    picture = Image.new("RGB", (100, 40), "red")
    picture.paste("blue", (75, 0, 100, 40))
    part = Inpainting().judged(picture, 25)
    assert part.size == (25, 40) and part.getcolors() == [(1000, (0, 0, 255))]
    assert Completion().judged(picture, 25) is picture


def test_unguided_pictures_are_the_empty_prompts():
    subject = subject_of("sd")
    plain = draw(Noise(), subject, 0)
    empty = generate(subject.pipe, ["", ""], [1, 2], steps=STEPS, guidance_scale=1.0)
    assert apart(plain, empty) == [0, 0]


def test_the_table_has_them():
    assert [name for name, kind in ATTACKS.shipped.items() if issubclass(kind, TextFree)] == [
        "completion",
        "inpainting",
        "noise",
    ]


def test_noise_is_of_the_seed_alone():
    subject = subject_of("flux")
    _, one = latents_and_noise(subject, [tiny_picture(1)], [5])
    _, two = latents_and_noise(subject, [tiny_picture(2), tiny_picture(1)], [4, 5])
    assert torch.equal(one[0], two[1]) and one.shape == (1, 16, 16)


@pytest.mark.parametrize("name, at, drawn", [("completion", "", 4), ("inpainting", "50", 1), ("noise", "0,185", 2)])
def test_the_verb(monkeypatch, weights, tmp_path, name, at, drawn):
    """Members, non-members and twin at each level, no caption; the gap is the verdict."""
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(weights))
    out = tmp_path / "run"
    options = ["--attack", name, "--at", at, "--seeds", "2", "--steps", "3", "--device", "cpu"]
    done = CliRunner().invoke(app, ["attack", "--out", str(out), *options])
    assert done.exit_code == 0, (done.output, done.exception)
    stages = json.loads((out / "stages.json").read_text())
    assert [entry["stage"] for entry in stages] == ["work", "attacked", "nonmember_attacked", "twin_attacked"]
    records = [json.loads(line) for line in (out / "records.jsonl").open(encoding="utf-8")]
    of_stage = [record for record in records if record["stage"] == "attacked"]
    works = {record["item"] for record in of_stage}
    assert len(of_stage) == len(works) * 2 * drawn and all(record["copied"] is not None for record in of_stage)
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["gaps"]) == 2 * drawn and len(summary["verdicts"]) == 2
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "empty prompt" in page and "same number of levels" in page
    if name == "noise":  # one noise, one picture, whatever it is compared with
        seed, level = of_stage[0]["seed"], of_stage[0]["attack_steps"]
        same = {(out / r["picture"]).read_bytes() for r in of_stage if (r["seed"], r["attack_steps"]) == (seed, level)}
        assert len(same) == 1


def test_a_family_whose_embeddings_can_not_be_searched_is_probed(tmp_path):
    rows = ["prompt,picture"]
    for number in range(3):
        picture = Image.effect_mandelbrot((64, 64), (-2 + number / 4, -1, 1, 1), 20 + number)
        picture.convert("RGB").save(tmp_path / f"{number}.png")
        rows.append(f"a cat {number},{number}.png")
    file = tmp_path / "works.csv"
    file.write_text("\n".join(rows), encoding="utf-8")
    pipe = subject_of("auraflow").pipe
    request = AuditRequest("tiny", file, file, pipe=pipe)
    plan = attack_plan(ATTACK, (50,), "caption", None, 1, "completion")
    plan = type(plan)(**{**vars(plan), "sampling": type(plan.sampling)(2, 5.0), "picture_seeds": (9000,)})
    done = attack(tmp_path / "run", request, steps=(50,), plan=plan, method="completion", show_progress=False)
    assert [row["n"] for row in done.summary["curve"]] == [3, 3]


def test_levels_by_name():
    assert usual_steps("completion") == (20, 40, 60, 80) and usual_steps("paraphrase") == (0, 1, 2, 3, 4)
    plan = attack_plan(FULL, (0, 100), "caption", None, 1, "noise")
    assert (plan.attack.name, plan.snapshots) == ("noise", (0, 100))
    for levels_asked, init, method in (((0, 50), "caption", "completion"), ((101,), "caption", "inpainting")):
        with pytest.raises(BadRequestError, match="percentage from 1 to 100"):
            attack_plan(FULL, levels_asked, init, None, 1, method)
    with pytest.raises(BadRequestError, match="empty prompt"):
        attack_plan(FULL, (50,), "noise", None, 1, "completion")
