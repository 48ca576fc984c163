"""weight_revival: what zeros give away, against arithmetic, and on a whole model."""

import pytest
import torch

from probes.attacks.weight_revival import WeightRevival, revived
from probes.localizers import RandomMask
from probes.pruners import ResampleWeights, pruned
from probes.types import Subject
from tests.probes.exact import bits
from tests.tiny import tiny_sd


def low_rank(rank=2, shape=(24, 60)):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(shape[0], rank, generator=draw) @ torch.randn(rank, shape[1], generator=draw)


def test_a_low_rank_matrix_gets_its_signs_back():
    whole = low_rank()
    hidden = torch.rand(whole.shape, generator=torch.Generator().manual_seed(6)) < 0.2
    filled = WeightRevival(keep=0.6).revive(whole.masked_fill(hidden, 0))
    given = hidden & (filled != 0)
    assert torch.equal(filled[~hidden], whole[~hidden])
    assert abs(int(given.sum()) / int(hidden.sum()) - 0.6) < 0.02
    right = (filled[given].sign() == whole[given].sign()).float().mean()
    assert right > 0.95, "a column's mean alone gives fewer than nine in ten"


def test_by_hand():
    """Rank one, so the completion is exact: rows (1, 2, 4) times 1, -1, 2; the last row lacks its 8."""
    weight = torch.tensor([[1.0, 2.0, 4.0], [-1.0, -2.0, -4.0], [2.0, 4.0, 0.0]])
    filled = WeightRevival(keep=1.0).revive(weight)
    assert filled[2, 2].item() == pytest.approx(4.0, rel=1e-5) and filled[2, 2] > 4.0
    assert torch.equal(filled[weight != 0], weight[weight != 0])


def test_completion_keeps_what_is_seen_and_changes_nothing_without_zeros():
    whole = low_rank()
    assert torch.equal(WeightRevival().revive(whole), whole)
    hidden = torch.zeros_like(whole, dtype=torch.bool)
    hidden[3, 4] = True
    completed = WeightRevival().complete(whole.masked_fill(hidden, 0), hidden)
    assert completed[3, 4].item() == pytest.approx(whole[3, 4].item(), abs=0.05 * whole.abs().max().item())


def test_a_model_is_restored_and_resampled_weights_show_no_mask():
    subject = Subject(tiny_sd(), "tiny")
    mask = RandomMask(density=0.1).locate(subject).mask
    sha = bits(subject.denoiser)
    with pruned(subject, mask):
        path = next(iter(mask.masks))
        zeroed = subject.denoiser.get_submodule(path).weight.clone()
        with pytest.raises(RuntimeError, match="inside"), revived(subject) as zeros:
            assert zeros == {name: int(one.sum()) for name, one in mask.masks.items() if one.any()}
            assert not torch.equal(subject.denoiser.get_submodule(path).weight, zeroed)
            raise RuntimeError("inside")
        assert torch.equal(subject.denoiser.get_submodule(path).weight, zeroed)
    with pruned(subject, mask, ResampleWeights()):
        inside = bits(subject.denoiser)
        with revived(subject) as zeros:
            assert zeros == {} and bits(subject.denoiser) == inside
    assert bits(subject.denoiser) == sha
