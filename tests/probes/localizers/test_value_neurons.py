"""NeMo: similarity by hand, who is a candidate, and that refinement keeps what is needed and no more."""

import numpy as np
import pytest
import torch

from probes.localizers import RandomMask, ValueNeurons
from probes.localizers.value_neurons import Neurons, Usual, candidates, highest_similarity, ssim
from probes.model.generate import encode_prompts
from probes.model.layers import matching_weights
from probes.runs.cost import counted
from probes.types import Subject
from tests.probes.exact import bits
from tests.tiny import tiny_sd

NEMO = ValueNeurons(negatives=("new", "old"), seeds=3, theta=3.0, theta_step=0.5)


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


@pytest.fixture(scope="module")
def embeds(subject):
    return encode_prompts(subject, ["the cat"])[0]


def test_similarity_against_a_second_computation():
    """Pixel by pixel in numpy, windows cut out one after the other."""
    draw = np.random.default_rng(0)
    one, two = draw.random((2, 9, 9))
    bell = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    values = []
    for y in range(3):
        for x in range(3):
            a, b = one[y : y + 7, x : x + 7], two[y : y + 7, x : x + 7]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    found = ssim(torch.tensor(one)[None, None], torch.tensor(two)[None, None])
    assert found.item() == pytest.approx(np.mean(values))


def test_equal_maps_are_fully_similar_whatever_their_range():
    draw = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    draw[2] = 5 * draw[0] + 3
    assert highest_similarity(draw) == pytest.approx(1.0)
    assert abs(highest_similarity(draw[:2])) < 0.2 and not np.isnan(highest_similarity(torch.zeros(2, 1, 8, 8)))


def test_candidates_by_hand():
    surprise = {"a": torch.tensor([0.5, 6.0, 2.0, 5.5]), "b": torch.tensor([0.1, 0.3])}
    assert candidates(surprise, 5.0, 0) == {"a": (3, 1), "b": ()}
    assert candidates(surprise, 5.0, 1) == {"a": (3, 1), "b": (1,)}
    assert candidates(surprise, 1.0, 3) == {"a": (2, 3, 1), "b": (0, 1)}


def test_seven_layers_and_their_statistics(subject, embeds):
    usual = NEMO.usual(subject, 5)
    assert (
        list(usual.activations) == list(matching_weights(subject.denoiser, NEMO.modules))
        and len(usual.activations) == 7
    )
    scores = [NEMO.score(subject, one, {}, 5) for one in encode_prompts(subject, ["new", "old"])]
    assert usual.threshold == pytest.approx(np.mean(scores) + np.std(scores, ddof=1))
    path = next(iter(usual.activations))
    weight = subject.denoiser.get_submodule(path).weight
    by_hand = torch.stack([(one @ weight.T).abs().mean(0) for one in encode_prompts(subject, ["new", "old"])])
    assert torch.allclose(usual.activations[path][0], by_hand.mean(0), atol=1e-5)
    assert torch.allclose(usual.activations[path][1], by_hand.std(0), atol=1e-5)


def test_the_score_is_of_clean_latents_from_fixed_noise(subject, embeds):
    """At zero terminal signal v is minus the clean latent: the score by hand, and that blocking all changes it."""
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5 + n)) for n in range(3)])
    with torch.no_grad():
        clean = -subject.denoiser(noise, 999, embeds.expand(3, -1, -1)).sample
    assert NEMO.score(subject, embeds, {}, 5) == pytest.approx(highest_similarity(clean), abs=1e-5)
    every = {
        path: tuple(range(len(weight))) for path, weight in matching_weights(subject.denoiser, NEMO.modules).items()
    }
    before = bits(subject.denoiser)
    assert NEMO.score(subject, embeds, every, 5) != NEMO.score(subject, embeds, {}, 5)
    assert bits(subject.denoiser) == before


def test_a_prompt_that_scores_as_usual_has_no_neurons(subject, embeds):
    usual = Usual(1.0, NEMO.usual(subject, 5).activations)
    with counted(subject.denoiser) as cost:
        found = NEMO.neurons(subject, embeds, usual, 5)
    assert found.count() == found.candidates == 0 and found.before == found.after and cost.evaluations == 3


class Planted(ValueNeurons):
    """Its score falls below 0.5 exactly when neurons 1 and 3 of the second layer are at zero."""

    def score(self, subject, embeds, blocked, seed):
        second = list(matching_weights(subject.denoiser, self.modules))[1]
        return 0.9 - 0.3 * len({1, 3} & set(blocked.get(second, ())))


def test_refinement_keeps_what_is_needed_and_no_more(subject, embeds):
    planted = Planted(negatives=("new", "old"), seeds=2, theta=5, theta_least=0.01)
    paths = list(matching_weights(subject.denoiser, planted.modules))
    activations = planted.usual(subject, 0).activations
    found = planted.neurons(subject, embeds, Usual(0.4, activations), 0)
    assert set(found.neurons) == {paths[1]} and sorted(found.neurons[paths[1]]) == [1, 3]
    assert (found.before, found.after) == (0.9, pytest.approx(0.3)) and found.candidates > 2
    mask = planted.mask(subject, [found, Neurons({paths[0]: (2,)}, 1, 0, 1)])
    assert list(mask.masks) == paths and mask.masks[paths[1]].all(dim=1).nonzero().flatten().tolist() == [1, 3]
    assert mask.count() == 3 * 16
    control = RandomMask(like=mask).locate(subject, seed=3).mask
    assert all(torch.equal(one.all(dim=1), one.any(dim=1)) for one in control.masks.values())
    assert control.count() == mask.count() and control.iou(mask) < 1


def test_where_nothing_helps_enough_it_keeps_what_was_reached(subject, embeds):
    planted = Planted(negatives=("new", "old"), seeds=2, theta=5, theta_least=0.01)
    found = planted.neurons(subject, embeds, Usual(0.1, planted.usual(subject, 0).activations), 0)
    assert found.after == pytest.approx(0.3) and found.count() == 2


def test_options_that_make_no_sense_are_refused(subject):
    for options in (
        {},
        {"negatives": ("a",)},
        {"negatives": ("a", "b"), "seeds": 1},
        {"negatives": ("a", "b"), "theta": 0.5},
    ):
        with pytest.raises(ValueError, match="value_neurons needs"):
            ValueNeurons(**options)
