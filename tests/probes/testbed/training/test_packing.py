"""Kept weights: half the size where a training only starts from them, and off by no more than is said."""

import torch
from safetensors.torch import save_file

from probes.testbed.training.packing import LARGEST, halved, packed, unpacked


def weights():
    torch.manual_seed(3)
    table = torch.randn(6, 4, 3, 3) * torch.logspace(-6, 2, 6)[:, None, None, None]
    empty = torch.zeros(2, 5)
    return {
        "conv": table.to(memory_format=torch.channels_last),
        "none": empty,
        "bias": torch.randn(6),
        "n": torch.arange(3),
    }


def test_packed_weights_are_off_by_half_a_127th_of_a_rows_largest():
    state = weights()
    found = unpacked(packed(state))
    assert found.keys() == state.keys() and all(found[name].shape == state[name].shape for name in state)
    off = (found["conv"] - state["conv"]).abs().flatten(1).amax(1)
    largest = state["conv"].abs().flatten(1).amax(1)
    assert (off <= 0.501 * largest / LARGEST).all() and (off > 0).all()
    assert torch.equal(found["none"], state["none"]) and torch.equal(found["n"], state["n"])
    assert torch.equal(found["bias"], state["bias"].half().float())


def test_halved_weights_come_back_as_they_were_kept(tmp_path):
    state = weights()
    found = unpacked(halved(state))
    assert all(torch.equal(found[name], state[name].half().float()) for name in ("conv", "none", "bias"))
    big = {"linear": torch.randn(512, 512)}
    sizes = []
    for kept in (packed(big), halved(big)):
        save_file(kept, tmp_path / "kept")
        sizes.append((tmp_path / "kept").stat().st_size)
    assert sizes[0] < 0.52 * sizes[1]
