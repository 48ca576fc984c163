import numpy as np
import pytest
import torch

from shield import Shield
from shield.errors import MissingSignalError
from shield.hooks.intercept import intercepted
from shield.mitigations import EmbeddingMix
from shield.model.conditioning import encoded, null_conditioning
from shield.protected.concepts import Concept, Concepts
from shield.rewriters import ClauseDrop, TokenAttribution
from shield.rewriters.attribution import word_weights
from shield.runtime.policy import Policy
from shield.types import MitigationContext, WordWeight
from tests.shield.calls import noises, options, thresholds
from tests.shield.test_every_family import made, of_each_kind

PROMPT = "the silent orchard, a painting by mira voss"


def weights(**pulls):
    return [WordWeight(w, PROMPT.index(w), PROMPT.index(w) + len(w), p) for w, p in pulls.items()]


def test_one_then_two_then_four_words_are_left_out():
    heavy = weights(voss=0.4, orchard=0.3, silent=0.1, mira=0.1, painting=0.05, the=0.9)
    assert TokenAttribution().propose(PROMPT, (), heavy) == [
        "the silent orchard, a painting by mira",
        "the silent, a painting by mira",
        "a painting",
    ]
    assert TokenAttribution(limit=1).propose(PROMPT, (), heavy) == ["the silent orchard, a painting by mira"]


def test_nothing_without_weights_and_nothing_empty():
    assert TokenAttribution().propose(PROMPT, ()) == []
    assert TokenAttribution().propose("the cat", (), [WordWeight("cat", 4, 7, 1.0)]) == []


def test_a_word_of_a_protected_name_takes_the_whole_name_along():
    screen = Concepts([Concept("Mira Voss", substitute="a painter")])
    heavy = weights(voss=0.4, orchard=0.3, mira=0.2)
    first, second = TokenAttribution().propose(PROMPT, screen.found(PROMPT), heavy)
    assert first == "the silent orchard, a painting by a painter"
    assert second == "the silent, a painting by a painter"


def at_first_step(pipe, call, look):
    seen = []

    def show(forward):
        if not seen and forward.noise_uncond is not None:
            seen.append(look(forward))

    with intercepted(pipe, show):
        pipe(**call)
    return seen[0]


def case_of(pipe, forward, row):
    null = null_conditioning(pipe, forward.conditioning.embeds.shape[1])
    return MitigationContext(
        0,
        3,
        5.0,
        forward.noise_cond[[row]],
        forward.noise_uncond[[row]],
        forward.conditioning.rows([row]),
        None,
        null,
        lambda conditioning: forward.rerun([row], conditioning),
    )


@of_each_kind
def test_weights_of_every_family_are_shares_of_the_prompts_words(way):
    pipe, call = made(way)
    more = {"true_cfg_scale": 3.0, "negative_prompt": [""] * 3} if way == "flux" else {}

    def look(forward):
        return word_weights(pipe, "zzz, a picture by anna", case_of(pipe, forward, 2), forward.noise_uncond[[2]])

    found = at_first_step(pipe, call(**more), look)
    assert [w.text for w in found] == ["zzz", "a", "picture", "by", "anna"]
    assert sum(w.weight for w in found) == pytest.approx(1.0) and all(w.weight >= 0 for w in found)
    assert all("zzz, a picture by anna"[w.start : w.end] == w.text for w in found)
    assert not any(
        p.grad is not None
        for part in pipe.components.values()
        if hasattr(part, "parameters")
        for p in part.parameters()
    )


@pytest.mark.parametrize("structure", [True, False])
def test_the_gradient_is_the_finite_difference(pipe, structure):
    """A small push of one word's embedding against the gap's own change."""
    prompt, layer = "the cat", pipe.text_encoder.get_input_embeddings()

    def size(forward):
        with torch.no_grad():
            gap = (forward.rerun([0], encoded(pipe, [prompt])) - forward.noise_uncond).flatten(2).double()
        return float((gap - structure * gap.mean(2, keepdim=True)).norm())

    def look(forward):
        found = word_weights(pipe, prompt, case_of(pipe, forward, 0), forward.noise_uncond, structure)
        tokens = pipe.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        slopes = []
        for place in range(len(tokens)):
            slope = []
            for axis in range(layer.embedding_dim):
                sizes = []
                for step in (1e-2, -1e-2):
                    push = torch.zeros(1, pipe.tokenizer.model_max_length, layer.embedding_dim)
                    push[0, place, axis] = step
                    handle = layer.register_forward_hook(lambda m, a, out, push=push: out + push)
                    sizes.append(size(forward))
                    handle.remove()
                slope.append((sizes[0] - sizes[1]) / 2e-2)
            slopes.append(np.linalg.norm(slope))
        return found, tokens, slopes

    found, tokens, slopes = at_first_step(pipe, {"prompt": prompt, **options(1)}, look)
    by_hand = [
        sum(s for s, (a, b) in zip(slopes, tokens, strict=True) if a >= w.start and b <= w.end and b > a) for w in found
    ]
    assert [w.weight for w in found] == pytest.approx([v / sum(by_hand) for v in by_hand], rel=0.03)


def test_a_gap_that_is_no_number_names_no_word(pipe):
    def look(forward):
        with pytest.raises(MissingSignalError, match="no number"):
            word_weights(pipe, "the cat", case_of(pipe, forward, 0), forward.noise_uncond * float("nan"))
        return True

    assert at_first_step(pipe, {"prompt": "the cat", **options(1)}, look)


@pytest.mark.usefixtures("no_memory_stays")
def test_behind_the_shield_weights_show_in_the_verdict_and_cost_is_counted(pipe):
    flagged = "the cat, a picture by anna"
    policy = Policy(rewriters=(TokenAttribution(), ClauseDrop()), mitigations=(EmbeddingMix(),), extra_calls=8)
    verdict = Shield(pipe, policy, thresholds=thresholds(pipe, 0.05))(flagged, **options(1)).verdicts[0]
    assert [w.text for w in verdict.token_weights] == flagged.replace(",", "").split()
    assert verdict.status == "mitigated" and verdict.extra_calls >= 2
    assert len(verdict.rewritten_prompt) < len(flagged)


def test_without_a_call_to_spare_there_are_no_weights(pipe):
    policy = Policy(rewriters=(TokenAttribution(),), extra_calls=0)
    verdict = Shield(pipe, policy, thresholds=thresholds(pipe, 0.05))(
        "the cat, a picture by anna", generator=noises(1), **options()
    ).verdicts[0]
    assert verdict.token_weights == () and verdict.mitigation == "null_prompt" and verdict.extra_calls == 0
