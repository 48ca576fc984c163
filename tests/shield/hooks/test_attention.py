import numpy as np
import pytest
import torch

from shield.detectors import AttentionEntropy
from shield.errors import MissingSignalError
from shield.hooks.attention import attention_biased, attention_watched, token_shares
from shield.hooks.recording import recorded
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


def compiled_whole(unet):
    unet.compile(backend="eager")


def compiled_by_blocks(unet):
    unet.compile_repeated_blocks(backend="eager")


def compiled_and_put_back(unet):
    blocks = unet.get_submodule(LAYER.rpartition(".transformer_blocks")[0]).transformer_blocks
    blocks[0] = torch.compile(blocks[0], backend="eager")


@pytest.mark.parametrize("compile_it", [compiled_whole, compiled_by_blocks, compiled_and_put_back])
def test_what_is_compiled_is_refused_before_the_first_step(pipe, compile_it):
    compile_it(pipe.unet)
    calls = []
    pipe.unet.conv_in.register_forward_hook(lambda *_: calls.append(1))
    for name in (LAYER, f"ending:{LAYER}"):
        with pytest.raises(MissingSignalError, match="compiled denoiser"), attention_watched(pipe.unet, [name]):
            pipe("the cat", **options(1))
    with pytest.raises(MissingSignalError, match="compiled denoiser"), recorded(pipe, {f"attention:{LAYER}"}):
        pipe("the cat", **options(1))
    with pytest.raises(MissingSignalError), attention_biased(pipe.unet, [LAYER], torch.zeros(16)):
        pass
    assert not calls


def test_other_blocks_may_be_compiled(pipe):
    pipe.unet.mid_block.compile(backend="eager")
    with recorded(pipe, {f"attention:{LAYER}"}, 1) as trace:
        pipe("the cat", **options(1))
    assert trace.steps[0].attended(LAYER).shape == (1, 16)
