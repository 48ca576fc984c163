"""Scores, a mask and pruned pictures on tiny pipelines of every family; attacks are tried in test_families.py and
attacks/test_text_free.py.
"""

import inspect
from functools import partialmethod

import numpy as np
import pytest
import torch

from probes.drawing.draw import Job, Sampling, drawn_by_pipeline
from probes.inputs.prompts import PromptRecord
from probes.localizers import Curvature, FFNSubspace, RandomMask
from probes.model.layers import FUSED, columns, layer_at, matching_layers
from probes.pruners import pruned
from probes.types import Subject
from shield.detectors import StructureGap
from tests.probes.attacks.test_text_free import MAKERS
from tests.probes.exact import bits

LARGE = ("auraflow", "zimage", "sana", "pixart")  # 1024 pixels or so, whatever the parts are
LOCATED = tuple(MAKERS)
SCORED = ("sd", "sdxl", "sd3", "flux", "chroma", "kolors", "flux2", "flux2dev", "qwenimage", *LARGE)
STEPS = 2
PROMPTS = ("the cat", "zzz by anna")


SIZED = {"height": 64, "width": 64, "use_resolution_binning": False, "max_sequence_length": 48}


def small(pipe):
    """The pipeline with smaller defaults: its class under its name, since a family's row is found by that."""
    taken = inspect.signature(pipe.__call__).parameters
    defaults = {name: value for name, value in SIZED.items() if name in taken}
    call = partialmethod(type(pipe).__call__, **defaults)
    pipe.__class__ = type(type(pipe).__name__, (type(pipe),), {"__call__": call})
    return pipe


def made(name):
    pipe = MAKERS[name]()
    pipe.default_sample_size = 8
    if name in LARGE:
        small(pipe)
    return Subject(pipe, name), Sampling(STEPS, 5.0)


def jobs():
    return [Job(PromptRecord(f"p{n}", prompt, "prompt"), n) for n, prompt in enumerate(PROMPTS)]


def scores(name):
    subject, sampling = made(name)
    scored = drawn_by_pipeline(subject, sampling, [StructureGap()], pictures=False)(jobs())
    return [one.scores["structure_gap"] for one in scored]


@pytest.mark.parametrize("name", SCORED)
def test_a_prompt_gets_a_score(name):
    """Also where an unconditional prediction has to be asked for."""
    assert min(scores(name)) > 0


def test_a_latent_consistency_model_has_none():
    assert scores("lcm") == [None, None]


def located(name, **options):
    subject, _ = made(name)
    localizer = FFNSubspace(k=0.3, tau=1, steps=STEPS, guidance_scale=5.0, **options)
    return subject, localizer.locate(subject, PROMPTS, seed=1).mask


@pytest.mark.parametrize("name", LOCATED)
def test_a_mask_is_found_and_pruning_it_makes_other_pictures(name):
    subject, sampling = made(name)
    draw = drawn_by_pipeline(subject, sampling)
    before, weights = [np.asarray(one.picture) for one in draw(jobs())], bits(subject.denoiser)
    localizer = FFNSubspace(k=0.3, tau=1, steps=STEPS, guidance_scale=5.0)
    found = localizer.locate(subject, PROMPTS, seed=1)
    assert 0 < found.mask.count() < found.mask.size() and all(mask.any() for mask in found.mask.masks.values())
    with pruned(subject, found.mask):
        after = [np.asarray(one.picture) for one in draw(jobs())]
    assert not any(np.array_equal(*pair) for pair in zip(before, after, strict=True))
    assert bits(subject.denoiser) == weights
    assert all(np.array_equal(*pair) for pair in zip(before, (one.picture for one in draw(jobs())), strict=True))


BLOCKS = {
    "sd": 16, "sdxl": 8, "kolors": 8, "lcm": 16, "pixart": 2, "sd3": 2, "qwenimage": 2, "sana": 2,
    "flux": 2, "chroma": 2, "flux2": 2, "flux2dev": 2, "auraflow": 2, "zimage": 2,
}  # fmt: skip
"""Blocks that picture tokens pass with a view of the text: those of two streams and of one."""


@pytest.mark.parametrize("name", LOCATED)
def test_every_block_of_picture_tokens_has_its_feed_forward_found(name):
    subject, _ = made(name)
    layers = matching_layers(subject.denoiser, FFNSubspace().modules)
    assert len(layers) == BLOCKS[name]
    assert not any(word in path for path in layers for word in ("context", "txt", "attn1", "attn2"))


@pytest.mark.parametrize("name", ["flux", "chroma", "flux2", "flux2dev"])
def test_a_fused_projection_gives_its_attention_to_no_mask(name):
    """The neurons are the last inputs: the activation of the block's own feed-forward, seen where it is made."""
    subject, mask = located(name)
    (path,) = [path for path in mask.masks if FUSED.split("\\")[0] in path]
    layer, owner = layer_at(subject.denoiser, path), subject.denoiser.get_submodule(path.rpartition(".")[0])
    made_by, given = [], []
    activation = owner.mlp_act_fn if hasattr(owner, "mlp_act_fn") else owner.act_mlp
    activation.register_forward_hook(lambda module, args, output: made_by.append(output))
    layer.module.register_forward_pre_hook(lambda module, args: given.append(layer.inputs(args[0])))
    FFNSubspace(tau=1, steps=STEPS, guidance_scale=5.0).norms(subject, PROMPTS[:1], 1)
    assert torch.equal(made_by[0], given[0]) and 0 < layer.width < layer.weight.shape[1]
    control = RandomMask(like=mask).locate(subject).mask
    whole, random = mask.masks[path], control.masks[path]
    assert whole.sum() == columns(whole, layer.width).sum() == columns(random, layer.width).sum() == random.sum() > 0
    assert not torch.equal(whole, random)
    density = RandomMask(density=0.5).locate(subject).mask.masks[path]
    assert density.sum() == columns(density, layer.width).sum() == layer.weight.shape[0] * layer.width // 2


@pytest.mark.parametrize("name", ["sana", "flux2", "zimage"])
def test_a_pruned_neuron_is_as_one_that_is_silent(name):
    """Convolved, fused or gated: zeros in a neuron's column do what zeros in its activation do."""
    subject, mask = located(name, unit="neuron")
    draw = drawn_by_pipeline(subject, Sampling(STEPS, 5.0))
    with pruned(subject, mask):
        without = [np.asarray(one.picture, float) for one in draw(jobs())]
    handles = []
    for path, chosen in mask.masks.items():
        silent = chosen.flatten(1).all(dim=0)
        assert silent.any() and not silent.all()

        def mute(module, args, silent=silent):
            shape = [1, -1, 1, 1] if isinstance(module, torch.nn.Conv2d) else [-1]
            return (args[0] * (~silent).view(shape), *args[1:])

        handles.append(subject.denoiser.get_submodule(path).register_forward_pre_hook(mute))
    muted = [np.asarray(one.picture, float) for one in draw(jobs())]
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(without, muted, strict=True))


@pytest.mark.parametrize("name", ["sana", "flux2", "zimage", "pixart"])
def test_flat_directions_are_found_there_too(name):
    subject, _ = made(name)
    mask = Curvature(k=0.3, tau=1, steps=STEPS, batch_size=2).locate(subject, PROMPTS, seed=1).mask
    assert set(mask.masks) == set(matching_layers(subject.denoiser, FFNSubspace().modules))
    mask.check(subject.denoiser)
    assert all(chosen.any() for chosen in mask.masks.values())


def test_the_conditional_half_is_the_familys():
    """Z-Image stacks [conditional, unconditional], the others the other way round."""
    subject, _ = made("zimage")
    both, half = (FFNSubspace(tau=1, steps=STEPS, guidance_scale=5.0, conditional_only=only) for only in (False, True))
    path = list(matching_layers(subject.denoiser, half.modules))[-1]
    layer, kept = layer_at(subject.denoiser, path), []
    handle = layer.module.register_forward_pre_hook(lambda module, args: kept.append(layer.inputs(args[0])))
    found = half.norms(subject, PROMPTS[:1], 1)[path][0]
    handle.remove()
    conditional = torch.nn.functional.normalize(kept[0][0].double(), dim=-1).square().sum(0).sqrt()
    assert torch.allclose(found, conditional, rtol=1e-4)
    assert not torch.allclose(found, both.norms(subject, PROMPTS[:1], 1)[path][0], rtol=1e-2)


@pytest.mark.parametrize("name", ["zimage", "qwenimage"])
def test_a_longer_prompt_beside_it_changes_no_prompts_norms(name):
    """Both families' texts are as long as their prompts, and Z-Image's go through the blocks with the picture."""
    subject, _ = made(name)
    prompts = ("the cat", "zzz by anna, a long prompt of many words and things")
    alone, together = (
        FFNSubspace(tau=1, steps=STEPS, guidance_scale=5.0, batch_size=size).norms(subject, prompts, 1)
        for size in (1, 2)
    )
    assert all(torch.allclose(alone[path], together[path], rtol=1e-4) for path in alone)
