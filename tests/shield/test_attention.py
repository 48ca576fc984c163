import numpy as np
import pytest
import torch

from shield.attention import attention_watched, token_shares
from shield.detectors import AttentionEntropy
from shield.errors import MissingSignalError
from shield.intercept import recorded
from shield.types import Step, Trace
from tests.shield.calls import PROMPTS, options

LAYER = AttentionEntropy().layer
NEEDS = AttentionEntropy().needs


def test_entropy_by_hand():
    """All on one token: 0. Even over four: log 4. Half and half: log 2."""
    shares = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]])
    trace = Trace([Step(0, 999.0, 0.0, 1.0, "epsilon", attention={LAYER: shares})])
    assert AttentionEntropy().score(trace).tolist() == pytest.approx([0.0, np.log(4), np.log(2)], abs=1e-6)
    assert trace.batch == 3 and AttentionEntropy().score(trace.rows([2])).item() == pytest.approx(np.log(2))


def test_shares_are_those_of_the_layer_itself(pipe):
    """With values that name their token, the layer's own attention output is the share of each token."""
    layer = pipe.unet.get_submodule(LAYER)
    hidden, text = torch.randn(2, 9, 16), torch.randn(2, 5, 16)
    shares = token_shares(layer, hidden, text)
    assert shares.shape == (2, 5) and torch.allclose(shares.sum(1), torch.ones(2), atol=1e-5)
    query, key = (layer.head_to_batch_dim(t) for t in (layer.to_q(hidden), layer.to_k(text)))
    want = layer.get_attention_scores(query, key).view(2, layer.heads, 9, 5).mean(dim=(1, 2))
    assert torch.allclose(shares, want, atol=1e-5)


def test_watching_changes_no_bit_and_takes_the_conditional_rows(pipe):
    bare = pipe(PROMPTS[:2], **options(2)).images
    with recorded(pipe, NEEDS) as trace:
        watched = pipe(PROMPTS[:2], **options(2)).images
    assert np.array_equal(bare, watched)
    with recorded(pipe, NEEDS) as swapped:
        pipe(PROMPTS[:2], negative_prompt=["zzz", "zzz"], **options(2))
    assert torch.equal(trace.steps[0].attended(LAYER), swapped.steps[0].attended(LAYER))
    assert not torch.equal(trace.steps[0].attended(LAYER)[0], trace.steps[0].attended(LAYER)[1])


def test_hooks_are_removed_after_an_exception(pipe):
    layer = pipe.unet.get_submodule(LAYER)
    with pytest.raises(KeyError), attention_watched(pipe.unet, [LAYER]):
        assert len(layer._forward_hooks) == 1
        raise KeyError
    assert not layer._forward_hooks


@pytest.mark.parametrize("path", ["nowhere", "conv_in", "down_blocks.0.attentions.0"])
def test_what_is_no_cross_attention_layer_is_refused(pipe, path):
    with pytest.raises(MissingSignalError, match=path), attention_watched(pipe.unet, [path]):
        pass


def test_self_attention_is_refused(pipe):
    with pytest.raises(MissingSignalError, match="not to the text"), recorded(pipe, {f"attention:{LAYER[:-1]}1"}):
        pipe("the cat", **options(1))
