"""The embedding search on SDXL, SD3 and Flux: what is searched, what it is trained against, what comes out."""

from functools import cache

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from probes.attacks import AdversarialEmbedding
from probes.attacks.adversarial_embedding import initial_embeds
from probes.errors import UnsupportedError
from probes.model.denoising import CALLS, embedding_arguments, first_noise, packed, predict, unpacked
from probes.model.generate import encode_pictures, encode_prompts, generate
from probes.model.training_loss import training_loss
from probes.runs.cost import counted, peak_tensors
from probes.types import Goal, Subject
from shield.hooks.calls import hooked
from shield.model.conditioning import encoded
from shield.model.families import family_of
from tests.probes.exact import bits
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_picture, tiny_sd3, tiny_sdxl
from tests.tiny_transformers import tiny_chroma

MAKERS = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
NEW = ("sdxl", "sd3", "flux")
PROMPTS = ["the cat", "a red thing"]
ATTACK = AdversarialEmbedding(steps=12, batch=4, lr=0.3)


@cache
def subject_of(name: str) -> Subject:
    pipe = MAKERS[name]()
    pipe.default_sample_size = 8  # Flux's own is always 128
    return Subject(pipe, name)


def goals_of(subject: Subject) -> list[Goal]:
    latents = encode_pictures(subject, [tiny_picture(1), tiny_picture(2)])
    embeds = encode_prompts(subject, PROMPTS)
    return [Goal(f"w{n}", latents[n], embeds[n], n) for n in range(2)]


def loss_of(subject: Subject, goal: Goal, embeds: torch.Tensor) -> float:
    with torch.no_grad():
        draw = torch.Generator().manual_seed(99)
        return float(training_loss(subject, goal.latents[None], embeds[None], [draw], 32))


@pytest.mark.parametrize("name", MAKERS)
def test_a_call_beside_the_pipeline_is_the_pipelines_own(name: str) -> None:
    """Everything the denoiser is told, but Flux's strength of distilled guidance, is what the pipeline tells it."""
    subject, seen = subject_of(name), []

    def keep(module, args, kwargs, output) -> None:  # type: ignore[no-untyped-def]
        seen.append((args, kwargs, output[0]))

    embeds = encode_prompts(subject, PROMPTS)
    with hooked(subject.denoiser, after=keep), torch.no_grad():
        subject.pipe(
            **embedding_arguments(subject, embeds),
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        )
        args, kwargs, output = seen[0]
        family = family_of(subject.pipe)
        latents = args[0] if args else kwargs[family.sample]
        time = float(torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"]).flatten()[0])
        if family.packed:
            latents = subject.pipe._unpack_latents(latents, 64, 64, 8)
            output = subject.pipe._unpack_latents(output, 64, 64, 8)
        ours = predict(subject, latents, family.scheduler_time(time), embeds)
    assert torch.equal(ours, output)


@pytest.mark.parametrize("name", NEW)
def test_an_embedding_holds_all_that_the_text_encoders_say(name: str) -> None:
    subject = subject_of(name)
    said = encoded(subject.pipe, PROMPTS)
    back = unpacked(subject.pipe, packed(said))
    assert torch.equal(back.embeds, said.embeds) and back.pooled is not None and torch.equal(back.pooled, said.pooled)
    noise = initial_embeds(subject, "noise", PROMPTS, seed=0)
    assert noise.shape == packed(said).shape


@pytest.mark.parametrize("name", NEW)
def test_the_search_lowers_the_loss_and_its_embeddings_draw(name: str) -> None:
    subject = subject_of(name)
    goals, before = goals_of(subject), bits(subject.denoiser)
    with counted(subject.denoiser) as cost:
        found = ATTACK.search(subject, goals, snapshots=[0])
    assert cost.evaluations == 2 * ATTACK.evaluations and bits(subject.denoiser) == before
    for goal, one in zip(goals, found, strict=True):
        start, end = (
            unpacked(subject.pipe, goal.prompt_embeds[None]),
            unpacked(subject.pipe, one.prompt_embeds[12][None]),
        )
        assert not torch.equal(start.embeds, end.embeds) and start.pooled is not None and end.pooled is not None
        assert bool((start.pooled != end.pooled).any(dim=0).all())
        assert loss_of(subject, goal, one.prompt_embeds[12]) < loss_of(subject, goal, one.prompt_embeds[0])
    embeds = torch.stack([one.prompt_embeds[12] for one in found])
    assert len(generate(subject.pipe, embeds, [1, 2], steps=2, guidance_scale=3.0)) == 2


@pytest.mark.parametrize("name", NEW)
def test_alone_a_goal_ends_where_it_ends_in_a_batch(name: str) -> None:
    subject = subject_of(name)
    goals, short = goals_of(subject), AdversarialEmbedding(steps=2, batch=2)
    both, alone = short.search(subject, goals), short.search(subject, goals[1:])
    assert torch.allclose(both[1].prompt_embeds[2], alone[0].prompt_embeds[2], atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_checkpointing_holds_less_and_finds_the_same(name: str) -> None:
    subject = subject_of(name)
    goals, results = goals_of(subject), []

    def search(checkpointing: bool) -> None:
        attack = AdversarialEmbedding(steps=1, batch=4, checkpointing=checkpointing)
        results.append(attack.search(subject, goals)[0].prompt_embeds[1])

    plain, less = (peak_tensors(lambda on=on: search(on)) for on in (False, True))  # type: ignore[misc]
    assert torch.allclose(*results, atol=1e-4) and not subject.denoiser.is_gradient_checkpointing
    assert less < 0.9 * plain, (less, plain)


def test_a_denoiser_in_bfloat16_is_searched_in_float32() -> None:
    subject = Subject(tiny_sd3().to(torch.bfloat16), "half")
    (found,) = AdversarialEmbedding(steps=2, batch=2).search(subject, goals_of(subject)[:1])
    assert found.prompt_embeds[2].dtype == torch.float32 and subject.dtype == torch.bfloat16
    moved = found.prompt_embeds[2] - goals_of(subject)[0].prompt_embeds
    assert float(moved.abs().max()) < 0.21  # two steps of Adam: in bfloat16 larger values would have been rounded
    assert len(generate(subject.pipe, found.prompt_embeds[2][None], [1], steps=1, guidance_scale=1.0)) == 1


def test_flow_matching_is_trained_on_velocities() -> None:
    """A denoiser that answers noise - latents has no loss; one that answers the noise has."""
    subject = subject_of("sd3")
    goal, drawn = goals_of(subject)[0], {}

    def note(module, args, kwargs) -> None:  # type: ignore[no-untyped-def]
        drawn.update(kwargs, hidden_states=args[0])

    def answer(module, args, kwargs, output):  # type: ignore[no-untyped-def]
        sigma = drawn["timestep"][:, None, None, None] / 1000
        return ((drawn["hidden_states"] - goal.latents) / sigma, *output[1:])

    with hooked(subject.denoiser, note), hooked(subject.denoiser, after=answer):
        assert loss_of(subject, goal, goal.prompt_embeds) < 1e-6
    assert float(drawn["timestep"].min()) >= 1 and float(drawn["timestep"].max()) <= 1000


def test_the_loss_is_of_the_training_not_of_the_solver() -> None:
    """SDXL ships with a scheduler whose own noise isn't that of the training."""
    subject = subject_of("sdxl")
    goal, kept = goals_of(subject)[0], subject.pipe.scheduler
    expected = loss_of(subject, goal, goal.prompt_embeds)
    try:
        subject.pipe.scheduler = EulerDiscreteScheduler.from_config(kept.config)
        subject.pipe.scheduler.set_timesteps(3)
        assert loss_of(subject, goal, goal.prompt_embeds) == pytest.approx(expected, rel=1e-5)
    finally:
        subject.pipe.scheduler = kept


def test_noise_has_the_shape_of_the_pipelines_own_pictures() -> None:
    assert first_noise(subject_of("flux"), [1, 2]).shape == (2, 4, 8, 8)


def test_another_family_is_refused() -> None:
    assert "chroma" not in CALLS
    with pytest.raises(UnsupportedError, match="SDXL, SD3 and Flux; ChromaPipeline has another layout"):
        ATTACK.search(Subject(tiny_chroma(), "chroma"), [])
