"""The subspace score by hand and against a second, naive computation; and that locating changes nothing."""

import pytest
import torch

from probes.errors import UnsupportedError
from probes.localizers import LOCALIZERS, Curvature, FFNSubspace, RandomMask, ValueNeurons
from probes.localizers.ffn_subspace import select_neurons, select_weights
from probes.model.generate import generate
from probes.model.layers import matching_weights
from probes.types import Subject, natural_order
from tests.probes.exact import bits
from tests.tiny import tiny_sd

PROMPTS = ["the cat", "a red thing", "other"]
QUICK = FFNSubspace(k=0.1, tau=2, steps=4, guidance_scale=5.0)


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


def test_selection_by_hand():
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.5], [4.0, 1.0, -1.0, 0.0]])
    target = torch.tensor([1.0, 2.0, 1.0, 9.0]).double()  # scores 1 4 3 4.5 and 4 2 1 0
    base = torch.tensor([0.5, 3.0, 0.5, 1.0]).double()  # scores .5 6 1.5 .5 and 2 3 .5 0
    assert select_weights(weight, target, base, 0.5).tolist() == [
        [False, False, False, True],
        [True, False, False, False],
    ]
    assert select_weights(weight, target, torch.zeros(4).double(), 0.5).tolist() == [
        [False, True, False, True],
        [True, True, False, False],
    ]


def test_k_rounds_down_as_the_paper_does():
    assert select_weights(torch.ones(1, 192), torch.ones(192).double(), torch.zeros(192).double(), 0.01).sum() == 1
    assert select_weights(torch.ones(1, 90), torch.ones(90).double(), torch.zeros(90).double(), 0.01).sum() == 0


def test_neurons_by_hand():
    weight = torch.tensor([[3.0, 0.0, 1.0, 1.0], [4.0, 1.0, 0.0, 1.0]])  # column norms 5 1 1 sqrt(2)
    target = torch.tensor([1.0, 9.0, 2.0, 6.0]).double()  # 5 9 2 8.5
    base = torch.tensor([0.0, 10.0, 0.0, 0.0]).double()
    assert select_neurons(weight, target, base, 0.5).tolist() == [[False, False, False, True]] * 2


def naive_norms(pipe, prompts, path, tau, steps, normalize, conditional):
    """Second computation: keep every activation of one prompt after the other, then sum."""
    module, kept = dict(pipe.unet.named_modules())[path], []
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
    per_prompt = []
    for prompt in prompts:
        kept.clear()
        generate(pipe, [prompt], [7], steps=steps, guidance_scale=5.0)
        rows = []
        for hidden in kept[:tau]:
            tokens = (hidden[1:] if conditional else hidden).reshape(-1, hidden.shape[-1]).double()
            if normalize:
                tokens = torch.nn.functional.normalize(tokens, dim=1)
            rows.append((tokens**2).sum(0))
        per_prompt.append(torch.stack(rows))
    handle.remove()
    return torch.stack(per_prompt).mean(0).sqrt()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("conditional", [True, False])
def test_streamed_norms_equal_stored_activations(subject, normalize, conditional):
    localizer = FFNSubspace(
        tau=2, steps=4, guidance_scale=5.0, batch_size=2, normalize_tokens=normalize, conditional_only=conditional
    )
    norms = localizer.norms(subject, PROMPTS, seed=7)
    assert len(norms) == 16
    for path in (list(norms)[0], list(norms)[-1]):
        naive = naive_norms(subject.pipe, PROMPTS, path, 2, 4, normalize, conditional)
        assert torch.allclose(norms[path], naive, rtol=1e-4)


def test_the_mask_is_the_union_over_steps(subject):
    weights = matching_weights(subject.denoiser, QUICK.modules)
    norms, base = (QUICK.norms(subject, prompts, seed=7) for prompts in (PROMPTS, ("",)))
    mask = QUICK.mask(weights, norms, base)
    path, weight = next(iter(weights.items()))
    k = int(0.1 * weight.shape[1])
    expected = torch.zeros_like(weight, dtype=torch.bool)
    for step in range(2):
        for row in range(weight.shape[0]):
            scores = weight[row].abs().double() * norms[path][step]
            for j in scores.argsort(descending=True)[:k]:
                expected[row, j] |= bool(scores[j] > weight[row, j].abs().double() * base[path][step, j])
    assert torch.equal(mask.masks[path], expected)
    both = FFNSubspace(k=0.1, tau=2, steps=4, agreement=0.5).mask(weights, norms, base)
    assert both.count() < mask.count() and both.intersection(mask).count() == both.count()


def test_sixteen_layers_in_natural_order(subject):
    paths = list(matching_weights(subject.denoiser, QUICK.modules))
    assert len(paths) == 16 and paths == sorted(paths, key=natural_order)
    assert [paths[n].split(".")[0] for n in (0, 5, 6, 7, 15)] == ["down_blocks"] * 2 + ["mid_block"] + ["up_blocks"] * 2


@pytest.mark.parametrize("name", LOCALIZERS)
def test_locating_leaves_the_subject_as_it_was(subject, name):
    localizer = {
        "ffn_subspace": QUICK,
        "random_mask": RandomMask(),
        "curvature": Curvature(k=0.1, tau=1, steps=2),
        "value_neurons": ValueNeurons(negatives=("new", "old"), seeds=2, spread=-50, theta=2),
    }[name]
    picture = generate(subject.pipe, ["the cat"], [3], steps=2, guidance_scale=5.0)[0].tobytes()
    before, rng = bits(subject.denoiser), torch.random.get_rng_state()
    config = dict(subject.pipe._progress_bar_config)
    first, again = (localizer.locate(subject, PROMPTS, seed=5).mask for _ in range(2))
    assert first.count() > 0 and first.iou(again) == 1.0
    assert bits(subject.denoiser) == before and torch.equal(torch.random.get_rng_state(), rng)
    assert subject.pipe._progress_bar_config == config
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.denoiser.modules())
    assert generate(subject.pipe, ["the cat"], [3], steps=2, guidance_scale=5.0)[0].tobytes() == picture


def test_no_hook_is_left_after_an_exception(subject):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        QUICK.locate(subject, PROMPTS, progress=stop)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.denoiser.modules())


def test_batching_doesnt_change_the_mask(subject):
    one, three = (
        FFNSubspace(k=0.1, tau=2, steps=4, guidance_scale=5.0, batch_size=size).locate(subject, PROMPTS).mask
        for size in (1, 3)
    )
    # Sums in another order can swap two weights that tie; more than that would be a leak between rows.
    assert one.iou(three) > 0.99


def test_cost_is_counted_and_small(subject):
    located = QUICK.locate(subject, PROMPTS)
    assert located.evaluations == (3 + 1) * 2 * 2  # 3 prompts and one base, 2 steps, 2 halves of guidance
    reference = 51 * 2 * 2 * len(PROMPTS)
    assert FFNSubspace().tau * 2 * (10 + 1) <= 51 * 2 * 2 * 10 / 8
    assert located.evaluations < reference


def test_a_base_equal_to_the_target_selects_nothing(subject):
    same = FFNSubspace(k=0.1, tau=2, steps=4, base=tuple(PROMPTS))
    assert same.locate(subject, PROMPTS).mask.count() == 0


def test_options_that_make_no_sense_are_refused(subject):
    for options in ({"k": 0.0}, {"k": 1.5}, {"tau": 0}, {"tau": 51}, {"base": ()}):
        with pytest.raises(ValueError):
            FFNSubspace(**options)
    assert FFNSubspace().sampled(4, 1.0) == FFNSubspace(steps=4, guidance_scale=1.0, tau=4)
    assert FFNSubspace().sampled(25, 5.0).tau == 10
    with pytest.raises(UnsupportedError, match="no linear layer"):
        FFNSubspace(modules="nothing").locate(subject, PROMPTS)
    with pytest.raises(ValueError, match="at least one prompt"):
        QUICK.locate(subject, [])


def test_a_random_mask_has_the_same_size_in_every_layer(subject):
    located = QUICK.locate(subject, PROMPTS).mask
    control, other = (RandomMask(like=located).locate(subject, seed=seed).mask for seed in (0, 1))
    assert {p: int(m.sum()) for p, m in control.masks.items()} == {p: int(m.sum()) for p, m in located.masks.items()}
    assert control.iou(located) < 0.5 and control.iou(other) < 0.5


def test_a_random_mask_of_a_neuron_mask_selects_whole_neurons(subject):
    neurons = FFNSubspace(k=0.1, tau=2, steps=4, unit="neuron").locate(subject, PROMPTS).mask
    control = RandomMask(like=neurons).locate(subject).mask
    assert control.count() == neurons.count() > 0
    assert all(torch.equal(m.all(0), m.any(0)) for m in control.masks.values())


def test_random_density(subject):
    assert RandomMask(density=0.1).locate(subject).mask.density() == pytest.approx(0.1, abs=0.002)
