"""Pruning: what the weights become, and that they come back."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from probes.errors import MaskError
from probes.localizers import RandomMask
from probes.pruners import PRUNERS, ResampleWeights, ScaleWeights, ZeroWeights, pruned, save_pruned
from probes.types import Subject, UnitMask
from tests.probes.exact import bits
from tests.tiny import tiny_sd


@pytest.fixture
def subject():
    return Subject(tiny_sd(), "tiny")


def test_by_hand():
    weight, mask = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, True]])
    assert ZeroWeights().edited(weight, mask).tolist() == [[0.0, -2.0], [3.0, 0.0]]
    assert ScaleWeights(-0.5).edited(weight, mask).tolist() == [[-0.5, -2.0], [3.0, -2.0]]
    assert weight.tolist() == [[1.0, -2.0], [3.0, 4.0]]


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("fails", [False, True])
def test_weights_come_back_bit_equal(subject, name, fails):
    mask = RandomMask(density=0.2).locate(subject).mask
    path = next(iter(mask.masks))
    before = {key: value.clone() for key, value in subject.denoiser.state_dict().items()}
    try:
        with pruned(subject, mask, PRUNERS[name]()) as denoiser:
            inside = denoiser.get_submodule(path).weight
            assert torch.equal(inside == before[path + ".weight"], ~mask.masks[path])
            if fails:
                raise RuntimeError("inside")
    except RuntimeError as error:
        assert str(error) == "inside"
    after = subject.denoiser.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_blocks_nest(subject):
    sha = bits(subject.denoiser)
    one, two = (RandomMask(density=0.1).locate(subject, seed=seed).mask for seed in (0, 1))
    path = next(iter(one.masks))
    with pruned(subject, one), pruned(subject, two):
        zeros = subject.denoiser.get_submodule(path).weight == 0
        assert torch.equal(zeros, one.masks[path] | two.masks[path])
    assert bits(subject.denoiser) == sha


def test_a_mask_for_another_model_changes_nothing(subject):
    sha = bits(subject.denoiser)
    good = RandomMask(density=0.1).locate(subject).mask
    bad = UnitMask({**good.masks, "up_blocks.9.conv": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(MaskError, match="another model"), pruned(subject, bad):
        pass
    assert bits(subject.denoiser) == sha


def test_a_saved_checkpoint_is_a_normal_one(subject, tmp_path):
    sha, mask = bits(subject.denoiser), RandomMask(density=0.1).locate(subject).mask
    folder = save_pruned(subject, mask, tmp_path / "pruned")
    assert bits(subject.denoiser) == sha
    loaded = StableDiffusionPipeline.from_pretrained(folder)
    with pruned(subject, mask):
        expected = bits(subject.denoiser)
    assert bits(loaded.unet) == expected != sha
    assert not list(folder.rglob("*mask*")), "who gets the checkpoint doesn't get the mask"
    with pytest.raises(MaskError, match="isn't empty"):
        save_pruned(subject, mask, folder)


def test_resampled_weights_come_from_their_row():
    weight = torch.arange(1.0, 41.0).view(4, 10)
    mask = torch.zeros(4, 10, dtype=torch.bool)
    mask[0, :5], mask[1, 3], mask[2] = True, True, True
    edited = ResampleWeights(seed=1).edited(weight, mask)
    assert torch.equal(edited[~mask], weight[~mask])
    assert set(edited[0, :5].tolist()) <= set(range(6, 11)) and edited[1, 3] in weight[1, ~mask[1]]
    assert set(edited[2].tolist()) <= set(weight[~mask].tolist()), "a row without survivors draws from the layer"
    assert not torch.equal(edited, ResampleWeights(seed=2).edited(weight, mask))
    assert ResampleWeights().edited(weight, torch.ones_like(mask)).eq(0).all()
