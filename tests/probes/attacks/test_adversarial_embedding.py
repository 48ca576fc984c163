"""The embedding search: what it optimizes, that only the embedding changes, that goals don't see each other."""

import pytest
import torch
from PIL import Image

from probes.attacks import AdversarialEmbedding
from probes.attacks.adversarial_embedding import initial_embeds
from probes.model.generate import encode_pictures, encode_prompts
from probes.model.training_loss import frozen, training_target
from probes.runs.cost import counted
from probes.types import Goal, Subject
from tests.probes.exact import bits
from tests.tiny import tiny_scheduler, tiny_sd

ATTACK = AdversarialEmbedding(steps=3, batch=2)


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


@pytest.fixture(scope="module")
def goals(subject):
    pictures = [Image.effect_noise((64, 64), 60).convert("RGB").point(lambda v, s=s: (v + s) % 256) for s in (0, 90)]
    latents, embeds = encode_pictures(subject, pictures), encode_prompts(subject, ["the cat", "a thing"])
    return [Goal(f"work-{n}", latents[n], embeds[n], seed=11 + n) for n in range(2)]


def test_a_step_is_adam_on_the_training_loss(subject, goals):
    """Second computation of one step: the loss written out for v-prediction, Adam's first step by hand."""
    goal = goals[0]
    draw = torch.Generator().manual_seed(goal.seed)
    times = torch.randint(0, 1000, (2,), generator=draw)
    noise = torch.randn(2, *goal.latents.shape, generator=draw)
    alpha = subject.pipe.scheduler.alphas_cumprod[times].view(2, 1, 1, 1)
    noisy = alpha.sqrt() * goal.latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * goal.latents
    y = goal.prompt_embeds.clone().requires_grad_(True)
    loss = ((subject.denoiser(noisy, times, torch.stack([y, y])).sample - velocity) ** 2).mean()
    loss.backward()
    expected = y.detach() - 0.1 * y.grad / (y.grad.abs() + 1e-8)  # Adam's bias-corrected first step
    subject.denoiser.zero_grad(set_to_none=True)
    found = AdversarialEmbedding(steps=1, batch=2).search(subject, [goal])[0]
    assert found.losses == pytest.approx([loss.item()], rel=1e-5)
    assert torch.allclose(found.prompt_embeds[1], expected, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_targets_by_prediction_type(prediction):
    scheduler = tiny_scheduler(prediction, zero_snr=False)
    clean, noise, times = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor([0, 700])
    alpha = scheduler.alphas_cumprod[times].view(2, 1, 1, 1)
    expected = {"epsilon": noise, "sample": clean, "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean}
    assert torch.allclose(training_target(scheduler, clean, noise, times), expected[prediction], atol=1e-6)


def test_the_loss_falls_where_it_can(subject, goals):
    found = AdversarialEmbedding(steps=30, batch=8).search(subject, goals)
    assert all(sum(one.losses[-8:]) < sum(one.losses[:8]) for one in found)


def test_equal_seeds_give_equal_embeddings(subject, goals):
    first, again = (ATTACK.search(subject, goals) for _ in range(2))
    assert all(torch.equal(a.prompt_embeds[3], b.prompt_embeds[3]) for a, b in zip(first, again, strict=True))


def test_a_goal_doesnt_depend_on_its_neighbors(subject, goals):
    together = ATTACK.search(subject, goals)
    alone = [ATTACK.search(subject, [goal])[0] for goal in goals]
    one_by_one = AdversarialEmbedding(steps=3, batch=2, rows=2).search(subject, goals)
    for a, b, c in zip(together, alone, one_by_one, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-4)
        assert torch.allclose(a.prompt_embeds[3], b.prompt_embeds[3], atol=1e-3)
        assert torch.equal(b.prompt_embeds[3], c.prompt_embeds[3])
    assert not torch.allclose(together[0].prompt_embeds[3], together[1].prompt_embeds[3], atol=1e-2)


def test_only_the_embedding_changes(subject, goals):
    sha, rng = bits(subject.denoiser), torch.random.get_rng_state()
    starts = [goal.prompt_embeds.clone() for goal in goals]
    subject.denoiser.train()
    ATTACK.search(subject, goals)
    assert subject.denoiser.training and all(parameter.requires_grad for parameter in subject.denoiser.parameters())
    subject.denoiser.eval()
    assert all(parameter.grad is None for parameter in subject.denoiser.parameters())
    assert bits(subject.denoiser) == sha and torch.equal(torch.random.get_rng_state(), rng)
    assert all(torch.equal(goal.prompt_embeds, start) for goal, start in zip(goals, starts, strict=True))


def test_the_budget_is_kept_and_equal(subject, goals):
    with counted(subject.denoiser) as cost:
        found = ATTACK.search(subject, goals)
    assert cost.evaluations == 2 * 3 * 2
    assert [one.evaluations for one in found] == [6, 6]
    assert all(len(one.losses) == 3 for one in found)


def test_snapshots_are_the_embeddings_of_shorter_searches(subject, goals):
    found = ATTACK.search(subject, goals, snapshots=[0, 1])[0]
    assert list(found.prompt_embeds) == [0, 1, 3]
    assert torch.equal(found.prompt_embeds[0], goals[0].prompt_embeds)
    short = AdversarialEmbedding(steps=1, batch=2).search(subject, goals)[0]
    assert torch.equal(found.prompt_embeds[1], short.prompt_embeds[1])
    with pytest.raises(ValueError, match="within the 3 steps"):
        ATTACK.search(subject, goals, snapshots=[4])


def test_where_searches_start(subject):
    caption = initial_embeds(subject, "caption", ["the cat", "a"], seed=0)
    assert torch.allclose(caption, encode_prompts(subject, ["the cat", "a"]))
    other = initial_embeds(subject, "other", ["the cat", "a"], seed=0, other="red")
    assert torch.equal(other[0], other[1]) and torch.allclose(other[:1], encode_prompts(subject, ["red"]))
    noise = initial_embeds(subject, "noise", ["the cat", "a"], seed=0)
    assert noise.shape == caption.shape and not torch.equal(noise[0], noise[1])
    assert torch.equal(noise, initial_embeds(subject, "noise", ["x", "y"], seed=0))
    with pytest.raises(ValueError, match="Unknown init"):
        initial_embeds(subject, "zeros", ["a"], seed=0)
    with pytest.raises(ValueError, match="other prompt"):
        initial_embeds(subject, "other", ["a"], seed=0)


def test_frozen_restores_after_an_exception():
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()
    layer[0].bias.requires_grad_(False)
    with pytest.raises(KeyError), frozen(layer):
        assert not layer.training and not layer[0].weight.requires_grad
        raise KeyError
    assert layer.training and layer[0].weight.requires_grad and not layer[0].bias.requires_grad


def test_latents_decode_to_the_picture_they_came_from_in_scale(subject):
    """encode_pictures follows the VAE's own posterior mean, scaled."""
    picture = Image.new("RGB", (64, 64), (200, 30, 90))
    pixels = torch.tensor([200, 30, 90]).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 127.5 - 1
    with torch.no_grad():
        mean = subject.pipe.vae.encode(pixels).latent_dist.mean
    expected = mean * subject.pipe.vae.config.scaling_factor
    assert torch.allclose(encode_pictures(subject, [picture]), expected, atol=1e-4)
