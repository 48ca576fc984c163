"""The search for words: the encoding it rests on, one step by hand, its budget, and that the best words are kept."""

import pytest
import torch
from PIL import Image

from probes.attacks import PromptSearch
from probes.attacks.prompt_search import Words
from probes.model.generate import encode_pictures, encode_prompts
from probes.model.training_loss import training_loss
from probes.runs.cost import counted
from probes.types import Goal, Subject
from tests.probes.exact import bits
from tests.tiny import tiny_sd

SEARCH = PromptSearch(steps=3, batch=2, tokens=4)


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


@pytest.fixture(scope="module")
def goals(subject):
    pictures = [Image.effect_noise((64, 64), 60).convert("RGB").point(lambda v, s=s: (v + s) % 256) for s in (0, 90)]
    latents, embeds = encode_pictures(subject, pictures), encode_prompts(subject, ["the cat", "a thing"])
    return [Goal("work-0", latents[0], embeds[0], 11, "the cat"), Goal("work-1", latents[1], embeds[1], 12)]


def loss_of(subject, goal, embeds, batch):
    draw = torch.Generator().manual_seed(goal.seed)
    with torch.no_grad():
        return float(training_loss(subject, goal.latents[None], embeds[None], [draw], batch)[0])


def test_words_are_encoded_as_the_pipeline_does(subject, goals):
    words = Words(subject)
    ids = words.start(goals[0], 4)[None]
    with torch.no_grad():
        found = words.encoded(ids, words.table[ids])
    assert torch.allclose(found, encode_prompts(subject, ["the cat"]), atol=1e-5) and words.text(ids[0]) == "the cat"
    assert words.free(ids).nonzero()[:, 1].tolist() == [1, 2]  # begin, the, cat, end
    drawn = words.start(goals[1], 4)
    assert words.free(drawn[None]).sum() == 4 and drawn[5] == subject.pipe.tokenizer.eos_token_id
    assert torch.equal(drawn, words.start(goals[1], 4)) and len(drawn) == 16


def test_the_nearest_word_is_that_of_the_largest_cosine(subject):
    words = Words(subject)
    soft = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    found = words.nearest(soft, words.ordinary)[0]
    cosines = torch.cosine_similarity(soft[0][:, None], words.table[words.ordinary][None], dim=2)
    assert torch.equal(found, words.ordinary[cosines.argmax(1)])
    assert torch.equal(words.nearest(3 * words.table[words.ordinary][None, :5], words.ordinary)[0], words.ordinary[:5])


def test_the_first_losses_are_the_starts_and_the_best_is_kept(subject, goals):
    """The first projection of a prompt's own embeddings is the prompt; what is kept never has a higher loss."""
    for goal, found in zip(
        goals, PromptSearch(steps=12, batch=2, tokens=4).search(subject, goals, snapshots=(1, 6)), strict=True
    ):
        words = Words(subject)
        ids = words.start(goal, 4)[None]
        with torch.no_grad():
            start = words.encoded(ids, words.table[ids])[0]
        assert found.losses[0] == pytest.approx(loss_of(subject, goal, start, 2), rel=1e-4)
        for step, embeds in found.prompt_embeds.items():
            assert loss_of(subject, goal, embeds, 2) == pytest.approx(min(found.losses[:step]), rel=1e-4)
            again = encode_prompts(subject, [found.prompts[step]])[0]
            assert embeds.shape == again.shape
        assert list(found.prompts) == [1, 6, 12] and all(found.prompts.values())


def test_one_step_is_adamw_at_the_projection(subject, goals):
    """Second computation of what the second step's words are."""
    goal, words = goals[0], Words(subject)
    ids = words.start(goal, 4)[None]
    hard = words.table[ids].clone().requires_grad_(True)
    draw = torch.Generator().manual_seed(goal.seed)
    loss = training_loss(subject, goal.latents[None], words.encoded(ids, hard), [draw], 2)
    (slope,) = torch.autograd.grad(loss.sum(), [hard])
    soft = words.table[ids] * (1 - 0.1 * 0.1) - 0.1 * slope / (slope.abs() + 1e-8)
    nearest = words.nearest(soft, words.ordinary)
    want = torch.where(words.free(ids), nearest, ids)
    found = PromptSearch(steps=2, batch=2).search(subject, [goal])[0]
    with torch.no_grad():
        second = loss_of(subject, goal, words.encoded(want, words.table[want])[0], 2)
    assert found.losses[1] == pytest.approx(second, rel=1e-4)


def test_equal_seeds_equal_words_and_goals_dont_see_each_other(subject, goals):
    together, again = (SEARCH.search(subject, goals) for _ in range(2))
    alone = [SEARCH.search(subject, [goal])[0] for goal in goals]
    one_by_one = PromptSearch(steps=3, batch=2, tokens=4, rows=2).search(subject, goals)
    for a, b, c, d in zip(together, again, alone, one_by_one, strict=True):
        assert a.prompts == b.prompts == c.prompts == d.prompts
        assert torch.equal(a.prompt_embeds[3], b.prompt_embeds[3]) and a.losses == pytest.approx(c.losses, rel=1e-4)


def test_nothing_changes_and_the_budget_is_kept(subject, goals):
    encoder = subject.pipe.text_encoder
    before, rng = (bits(subject.denoiser), bits(encoder)), torch.random.get_rng_state()
    with counted(subject.denoiser) as cost:
        found = SEARCH.search(subject, goals, snapshots=[0])
    assert cost.evaluations == 2 * 3 * 2 and [one.evaluations for one in found] == [6, 6] == [SEARCH.evaluations] * 2
    assert (bits(subject.denoiser), bits(encoder)) == before and torch.equal(torch.random.get_rng_state(), rng)
    assert not any(module._forward_hooks for module in encoder.modules())
    assert all(p.grad is None and p.requires_grad for part in (subject.denoiser, encoder) for p in part.parameters())
    assert torch.equal(found[0].prompt_embeds[0], goals[0].prompt_embeds)


def test_what_cannot_be_searched(subject, goals):
    for options in ({"steps": -1}, {"batch": 0}, {"tokens": 0}):
        with pytest.raises(ValueError, match="0 or more steps"):
            PromptSearch(**options)
    with pytest.raises(ValueError, match="within the 3 steps"):
        SEARCH.search(subject, goals, snapshots=[4])
