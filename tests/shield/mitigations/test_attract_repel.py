"""Attract and repel: the formula, the spikes, and that a bias scales attention by its exponential."""

import math

import pytest
import torch

from shield.errors import MissingSignalError
from shield.hooks.attention import attention_biased, attention_watched
from shield.hooks.intercept import intercepted
from shield.mitigations import AttractRepel
from shield.mitigations.attract_repel import early_layers, spikes
from shield.types import MitigationContext
from tests.shield.calls import PROMPTS, options


def test_spikes_by_hand():
    """Behind the begin token 1, 1, 1, 5: mean 2, deviation sqrt(3); 5 stands 1.7 above. Of even ones the first."""
    assert spikes(torch.tensor([9.0, 1, 1, 1, 5]), 1.0).tolist() == [False, False, False, False, True]
    assert spikes(torch.tensor([9.0, 1, 1, 1, 5]), 9.0).tolist() == [False, False, False, False, True]
    assert spikes(torch.tensor([9.0, 1, 4, 1, 5]), 0.5).tolist() == [False, False, True, False, True]


def test_a_bias_scales_attention_before_it_is_normalized(pipe):
    path = early_layers(pipe.unet)[0]
    layer = pipe.unet.get_submodule(path)
    hidden, text = torch.randn(2, 9, layer.to_q.in_features), torch.randn(2, 5, 16)
    bias = torch.tensor([0.0, math.log(0.3), 0.0, 0.0, 0.0])
    with torch.no_grad():
        query, key, value = (
            layer.head_to_batch_dim(t) for t in (layer.to_q(hidden), layer.to_k(text), layer.to_v(text))
        )
        share = (query @ key.transpose(1, 2) * layer.scale).softmax(-1)
        share[..., 1] *= 0.3
        share = share / share.sum(-1, keepdim=True)
        want = layer.to_out[0](layer.batch_to_head_dim(share @ value))
        with attention_biased(pipe.unet, [path], bias):
            found = layer(hidden, encoder_hidden_states=text)
        plain = layer(hidden, encoder_hidden_states=text)
    assert torch.allclose(found, want, atol=1e-5) and not torch.allclose(plain, want, atol=1e-4)
    assert not layer._forward_pre_hooks


def test_the_formula_on_a_real_step(pipe):
    """u + g (c' - u) = u + g (plus - u) - r (c - u), with plus predicted under the damped spikes."""
    found = {}

    def look(forward):
        calls = []

        def rerun(conditioning, latents=None):
            calls.append(1)
            return forward.rerun([1], conditioning)

        one = MitigationContext(
            forward.index,
            3,
            5.0,
            forward.noise_cond[[1]],
            forward.noise_uncond[[1]],
            forward.conditioning.rows([1]),
            None,
            forward.conditioning.rows([1]),
            rerun,
            found.setdefault("memory", {}),
            denoiser=pipe.unet,
        )
        mitigation = AttractRepel(repulsion=1.5, damping=0.2)
        changed = mitigation.predicted(one)
        found.setdefault("calls", []).append(len(calls))
        with attention_watched(pipe.unet, early_layers(pipe.unet)) as shares:
            forward.rerun([1], one.original)
        if forward.index == 0:
            share = torch.stack([s[0] for s in shares.values()]).mean(0)
            assert torch.equal(one.memory["bias"] != 0, spikes(share, mitigation.spike))
        with attention_biased(pipe.unet, early_layers(pipe.unet), one.memory["bias"]):
            plus = forward.rerun([1], one.original)
        u, c = one.noise_uncond, one.noise_cond
        assert torch.allclose(u + 5 * (changed - u), u + 5 * (plus - u) - 1.5 * (c - u), atol=1e-5)
        assert not torch.allclose(plus, c, atol=1e-6)

    with intercepted(pipe, look):
        pipe(PROMPTS[:2], **options(2))
    assert found["calls"] == [2, 1, 1]  # the spikes are looked for once


def test_without_cross_attention_it_says_so():
    with pytest.raises(MissingSignalError, match="cross-attention"):
        early_layers(torch.nn.Linear(2, 2))
