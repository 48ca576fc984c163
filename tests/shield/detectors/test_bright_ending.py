"""Bright ending: the mask and the score by hand, and that the mask is the layers' own attention to the last token."""

import numpy as np
import pytest
import torch

from shield.detectors import BrightEnding, NoiseGap
from shield.detectors.bright_ending import LAYERS, region
from shield.errors import MissingSignalError
from shield.hooks.attention import token_maps, token_shares
from shield.hooks.recording import recorded
from shield.signals import ENDING
from shield.types import Step, Trace
from tests.shield.calls import PROMPTS, options

ONE = ("a",)


def trace(gaps, *places):
    """A step for each gap (C, H, W); the last one has the layers' places (P,)."""
    steps = [
        Step(k, 999.0 - k, 0.6, 0.8, "sample", None, gap[None], torch.zeros_like(gap)[None])
        for k, gap in enumerate(gaps)
    ]
    seen = {f"{ENDING}{name}": torch.tensor(values)[None] for name, values in zip("ab", places, strict=False)}
    steps[-1] = Step(len(gaps) - 1, 0.0, 1.0, 0.0, "sample", None, gaps[-1][None], steps[-1].noise_uncond, seen)
    return Trace(steps)


def test_hand_arithmetic():
    """Gaps 2 and 4 everywhere. A mask of 1 at one of four places: sqrt(1/4) of each, over a mean of 1/4: 3 * 2."""
    gaps = [torch.full((1, 2, 2), 2.0), torch.full((1, 2, 2), 4.0)]
    detector = BrightEnding(first_k=2, layers=ONE)
    assert detector.score(trace(gaps, [1.0, 0.0, 0.0, 0.0])).item() == pytest.approx(6.0)
    even = trace(gaps, [0.3, 0.3, 0.3, 0.3])
    assert detector.score(even).item() == pytest.approx(NoiseGap(first_k=2).score(even).item()) == pytest.approx(3.0)


def test_what_lies_outside_the_mask_counts_nothing():
    gap = torch.tensor([[[5.0, 100.0], [5.0, 100.0]]])
    score = BrightEnding(first_k=1, layers=ONE).score(trace([gap], [0.5, 0.0, 0.5, 0.0]))
    assert score.item() == pytest.approx((2 * 2.5**2 / 4) ** 0.5 / 0.25)


def test_a_region_is_the_mean_of_the_layers_at_the_wanted_size():
    gap = torch.zeros(1, 2, 4)
    found = region(trace([gap], [0.0, 1.0] * 4, [1.0, 1.0] * 4), (2, 4), 1, ("a", "b"))
    assert found[0].tolist() == [[0.5, 1.0, 0.5, 1.0]] * 2
    small = region(trace([gap], [0.0, 1.0]), (4, 8), 1, ONE)
    assert small.shape == (1, 4, 8) and small[0, 0, 0] == 0.0 and small[0, 0, -1] == 1.0
    for places, size in (([0.0] * 7, (4, 4)), ([0.0] * 4, (16,))):
        with pytest.raises(MissingSignalError, match="map"):
            region(trace([gap], places), size, 1, ONE)
    with pytest.raises(MissingSignalError, match="holds no attention"):
        region(trace([gap]), (2, 4), 1, ONE)


def test_the_ending_is_the_layers_own_attention_of_the_conditional_rows(pipe):
    needs, layer = BrightEnding().needs, pipe.unet.get_submodule(LAYERS[1])
    seen = []
    handle = layer.register_forward_pre_hook(
        lambda m, a, k: seen.append((a[0], k["encoder_hidden_states"])), with_kwargs=True
    )
    bare = pipe(PROMPTS[:2], **options(2)).images
    with torch.no_grad(), recorded(pipe, {*needs, f"attention:{LAYERS[1]}"}) as trace_:
        watched = pipe(PROMPTS[:2], **options(2)).images
    handle.remove()
    assert np.array_equal(bare, watched)
    hidden, text = seen[-1]
    query, key = (layer.head_to_batch_dim(t) for t in (layer.to_q(hidden), layer.to_k(text)))
    want = layer.get_attention_scores(query, key).view(4, layer.heads, 64, -1).mean(1)[2:, :, -1]
    step = trace_.steps[-1]
    assert torch.allclose(step.attended(f"{ENDING}{LAYERS[1]}"), want, atol=1e-5)
    assert torch.allclose(step.attended(LAYERS[1])[:, -1], want.mean(1), atol=1e-5)
    assert torch.allclose(token_maps(layer, hidden, text).mean(1), token_shares(layer, hidden, text))
    assert region(trace_, (8, 8), 3).shape == (2, 8, 8)
