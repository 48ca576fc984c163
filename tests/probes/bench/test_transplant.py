"""Parts of one denoiser in another: what is exchanged, and that everything is as it was afterwards."""

import copy

import pytest
import torch

from probes.bench.transplant import GROUPS, transplanted
from probes.errors import MaskError
from tests.tiny import tiny_sd


@pytest.fixture
def twins() -> tuple[torch.nn.Module, torch.nn.Module]:
    unet = tiny_sd().unet
    other = copy.deepcopy(unet)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    return unet, other


def differences(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_the_matching_parameters_are_the_donors_inside_and_ones_own_afterwards(twins) -> None:
    unet, other = twins
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with transplanted(unet, other, r"\.attn2\.") as share:
        changed = differences(unet, before)
        assert changed == {name for name in before if ".attn2." in name} and 0 < share < 1
        assert all(torch.equal(unet.state_dict()[name], other.state_dict()[name]) for name in changed)
    assert not differences(unet, before)


def test_an_exception_inside_leaves_nothing_behind(twins) -> None:
    unet, other = twins
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with pytest.raises(KeyError), transplanted(unet, other, ""):
        raise KeyError
    assert not differences(unet, before)


def test_a_whole_transplant_is_the_donor(twins) -> None:
    unet, other = twins
    with transplanted(unet, other, "") as share:
        assert share == 1 and not differences(unet, other.state_dict())


def test_every_group_is_a_part_of_stable_diffusion(twins) -> None:
    unet, other = twins
    for pattern in GROUPS.values():
        with transplanted(unet, other, pattern) as share:
            assert 0 < share < 1


def test_what_does_not_fit_is_said(twins) -> None:
    unet, other = twins
    with pytest.raises(MaskError, match="no parameter"), transplanted(unet, other, "nowhere"):
        pass
    with pytest.raises(MaskError, match="one architecture"), transplanted(unet, torch.nn.Linear(2, 2), "conv"):
        pass
