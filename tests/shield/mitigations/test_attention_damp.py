"""Padding out of the attention: the identity that it rests on, and which tokens are replaced."""

from dataclasses import dataclass, replace

import pytest
import torch

from shield import Shield
from shield.detectors import AttentionEntropy
from shield.errors import MissingSignalError
from shield.hooks.attention import token_shares
from shield.mitigations import AttentionDamp, EmbeddingMix
from shield.model.conditioning import Conditioning, prompt_length
from shield.runtime.policy import Policy
from shield.types import MitigationContext
from tests.shield.calls import PROMPTS, options, thresholds


def case(length, tokens=5):
    embeds = torch.arange(float(tokens)).view(1, tokens, 1) + 10
    null = Conditioning(-embeds, torch.zeros(1, 2))
    one = torch.zeros(1, 1, 2, 2)
    return MitigationContext(
        0, 5, 4.0, one, one, Conditioning(embeds, torch.ones(1, 2)), None, null, lambda c: one, length=length
    )


def test_what_is_replaced():
    """Begin 10, a word 11, end 12, padding 13 and 14: the prompt fills three."""

    def tokens(mitigation, length=3):
        return mitigation.conditioned(case(length)).embeds.flatten().tolist()

    assert tokens(AttentionDamp()) == [10, 11, 10, 10, 10]
    assert tokens(AttentionDamp(end=False)) == [10, 11, 12, 10, 10]
    assert tokens(AttentionDamp("null")) == [10, 11, -12, -13, -14]
    assert AttentionDamp().conditioned(case(3)).pooled.tolist() == [[1.0, 1.0]]
    for length, end, match in ((None, True, "isn't known"), (5, False, "fills all 5")):
        with pytest.raises(MissingSignalError, match=match):
            AttentionDamp(end=end).conditioned(case(length))


def test_a_rewritten_prompt_is_damped_instead_of_the_request():
    asked = case(3)
    safe = Conditioning(-asked.original.embeds, -torch.ones(1, 2))
    made = AttentionDamp(rewritten=True).conditioned(replace(asked, safe=safe))
    assert AttentionDamp(rewritten=True).needs_prompt and not AttentionDamp().needs_prompt
    assert made.embeds.flatten().tolist() == [-10, -11, -10, -10, -10] and made.pooled.tolist() == [[-1.0, -1.0]]


def test_a_rewritten_prompt_that_is_still_flagged_is_damped_within_the_budget(pipe):
    """No score passes a threshold of zero: one call is kept for damping, none goes to the third proposal."""
    policy = Policy(rewriters=(Three(),), mitigations=(EmbeddingMix(), AttentionDamp(rewritten=True)), extra_calls=3)
    lengths = []
    damped = AttentionDamp.conditioned

    def seen(self, context):
        lengths.append((context.length, context.safe is not None))
        return damped(self, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttentionDamp, "conditioned", seen)
        result = Shield(pipe, policy, thresholds=thresholds(pipe, 0.0))("the cat", **options(1))
    verdict = result.verdicts[0]
    assert (verdict.status, verdict.extra_calls) == ("blocked", 3)
    assert lengths == [(len(pipe.tokenizer("a").input_ids), True)]


@dataclass(frozen=True)
class Three:
    name = "three"
    needs_weights = False

    def propose(self, prompt, concepts, weights=()):
        return ["a", "ab", "a dog"]


def test_copies_of_the_begin_token_are_a_mask_and_a_logarithm(pipe):
    """Attention by hand: padding masked, log(1 + n) added to the begin token's logit."""
    layer = pipe.unet.get_submodule(AttentionEntropy().layer)
    hidden, embeds = torch.randn(1, 9, 16), torch.randn(1, 6, 16)
    with torch.no_grad():
        one = MitigationContext(
            0, 5, 4.0, hidden, hidden, Conditioning(embeds), None, Conditioning(embeds), None, length=3
        )
        damped = AttentionDamp(end=False).conditioned(one).embeds
        shares = token_shares(layer, hidden, damped)[0]
        query, key = (layer.head_to_batch_dim(t) for t in (layer.to_q(hidden), layer.to_k(embeds)))
        logits = query @ key.transpose(1, 2) * layer.scale
        logits[..., 3:] = -torch.inf
        logits[..., 0] += torch.log(torch.tensor(4.0))
        want = logits.softmax(-1).mean(dim=(0, 1))
        theirs, ours = (layer(hidden, encoder_hidden_states=e) for e in (embeds, damped))
    assert torch.allclose(shares[1:3], want[1:3], atol=1e-5)
    assert shares[[0, 3, 4, 5]].sum().item() == pytest.approx(want[0].item(), abs=1e-5)
    assert not torch.allclose(theirs, ours)


def test_how_many_tokens_a_prompt_fills(pipe):
    for prompt in (*PROMPTS, "the cat " * 30):
        ids = pipe.tokenizer(prompt, padding="max_length", truncation=True).input_ids
        end = ids.index(pipe.tokenizer.eos_token_id)
        assert prompt_length(pipe, prompt, 16) == end + 1
    assert prompt_length(pipe, "the cat", 32) is None
