"""The contract of every mitigation in the table, and hand arithmetic for each."""

import importlib

import numpy as np
import pytest
import torch

from shield import Shield
from shield.detectors import StructureGap
from shield.errors import MissingSignalError
from shield.hooks.intercept import intercepted
from shield.mitigations import MITIGATIONS, EmbeddingDescent, EmbeddingMix, NoiseMix, NullPrompt, OppositeGuidance
from shield.model.conditioning import Conditioning
from shield.runtime.policy import Policy
from shield.types import ConditioningMitigation, MitigationContext, PredictionMitigation
from tests.shield.calls import PROMPTS, options, state, thresholds

every = pytest.mark.parametrize("name", MITIGATIONS)


def case(step=0, cond=3.0, uncond=1.0, memory=None, safe=True, steps=5):
    def embeds(value):
        return Conditioning(torch.full((1, 2, 2), value), torch.full((1, 2), 2 * value))

    return MitigationContext(
        step,
        steps,
        4.0,
        torch.full((1, 1, 2, 2), cond),
        None if uncond is None else torch.full((1, 1, 2, 2), uncond),
        embeds(8.0),
        embeds(4.0) if safe else None,
        embeds(0.0),
        lambda conditioning: conditioning.embeds.mean().view(1, 1, 1, 1).expand(1, 1, 2, 2),
        {} if memory is None else memory,
    )


@every
def test_is_named_after_its_file_and_class_and_has_one_role(name):
    cls = MITIGATIONS[name]
    assert cls.name == name and cls.__module__ == importlib.import_module(f"shield.mitigations.{name}").__name__
    assert cls.__name__.lower() == name.replace("_", "")
    assert isinstance(cls(), ConditioningMitigation) != isinstance(cls(), PredictionMitigation)


@every
def test_changes_the_flagged_image_and_not_a_bit_of_the_others(name, pipe):
    prompts = ["the cat, a picture by anna", *PROMPTS[1:]]
    bare = pipe(prompts, **options(4)).images
    detectors = (StructureGap(cycles=1.0),)
    first = thresholds(pipe, 0.06, detectors)
    policy = Policy(detectors, mitigations=(MITIGATIONS[name](), NullPrompt()))
    shielded = Shield(pipe, policy, thresholds=first)(prompts, **options(4))
    assert [v.status for v in shielded.verdicts] == ["mitigated", "passed", "passed", "passed"]
    assert [np.array_equal(a, b) for a, b in zip(bare, shielded.images, strict=True)] == [False, True, True, True]
    assert np.isfinite(shielded.images).all()


@every
def test_leaves_everything_as_it_was(name, pipe):
    shield = Shield(pipe, Policy(mitigations=(MITIGATIONS[name](),)), thresholds=thresholds(pipe, 0.0))
    shield(PROMPTS, **options(4))
    before = state(pipe)
    shield(PROMPTS, **options(4))
    assert state(pipe) == before


@every
def test_without_what_it_needs_it_says_so(name):
    mitigation = MITIGATIONS[name]()
    act = mitigation.predicted if isinstance(mitigation, PredictionMitigation) else mitigation.conditioned
    if mitigation.needs_prompt:
        with pytest.raises(MissingSignalError, match="rewritten prompt"):
            act(case(safe=False))
    elif name in ("opposite_guidance", "embedding_descent", "initial_noise", "attract_repel"):
        with pytest.raises(MissingSignalError, match="guidance"):
            act(case(uncond=None))


def test_embedding_mix_mixes_tokens_and_pooled_alike():
    mixed = EmbeddingMix(0.75).conditioned(case())
    assert mixed.embeds.unique().tolist() == [5.0] and mixed.pooled.unique().tolist() == [10.0]
    assert EmbeddingMix().conditioned(case()).embeds.unique().tolist() == [4.0]


def test_noise_mix_constant_and_falling():
    assert NoiseMix(0.5).predicted(case()).unique().tolist() == [3.5]  # half of 3, half of 4
    falling = [NoiseMix(1.0, 0.0).predicted(case(step)).mean().item() for step in range(5)]
    assert falling == pytest.approx([4.0, 3.75, 3.5, 3.25, 3.0])


def test_null_prompt_is_the_empty_prompts_conditioning():
    assert NullPrompt().conditioned(case()).embeds.unique().tolist() == [0.0]


def guided(mitigation, one):
    return (one.noise_uncond + one.guidance_scale * (mitigation.predicted(one) - one.noise_uncond)).mean().item()


def test_opposite_guidance_makes_the_pipelines_formula_push_away():
    """u + g (c' - u) = u + scale (c - u): 1 - 1 * (3 - 1) = -1, and with scale 0 just u."""
    assert guided(OppositeGuidance(-1.0), case()) == pytest.approx(-1.0)
    assert guided(OppositeGuidance(0.0), case()) == pytest.approx(1.0)


def test_opposite_guidance_turns_after_the_first_local_minimum():
    memory, guideds = {}, []
    for step, gap in enumerate([5.0, 3.0, 2.0, 4.0, 1.0]):  # the minimum at step 2 is known at step 3
        one = case(step, cond=1.0 + gap, memory=memory)
        guideds.append(guided(OppositeGuidance(0.0), one))
    assert guideds == pytest.approx([1.0, 1.0, 1.0, 17.0, 5.0])


def test_opposite_guidance_without_a_minimum():
    memory = {}
    gaps = [9.0, 7.0, 5.0, 3.0, 2.0]
    never = [guided(OppositeGuidance(0.0), case(i, 1.0 + g, memory=memory)) for i, g in enumerate(gaps)]
    assert never == pytest.approx([1.0] * 5)
    memory = {}
    late = [guided(OppositeGuidance(0.0, 0.6), case(i, 1.0 + g, memory=memory)) for i, g in enumerate(gaps)]
    assert late == pytest.approx([1.0, 1.0, 1.0, 13.0, 9.0])


def test_embedding_descent_lowers_the_gap_and_keeps_the_begin_token(pipe):
    seen = {}

    def descend(forward):
        if forward.index == 0:

            def rerun(conditioning):
                seen["calls"] = seen.get("calls", 0) + 1
                return forward.rerun([1], conditioning)

            one = MitigationContext(
                0,
                3,
                5.0,
                forward.noise_cond[[1]],
                forward.noise_uncond[[1]],
                forward.conditioning.rows([1]),
                None,
                forward.conditioning.rows([1]),
                rerun,
            )
            changed = EmbeddingDescent(share=0.5, iterations=10).conditioned(one)
            gaps = [c - forward.noise_uncond[[1]] for c in (one.noise_cond, forward.rerun([1], changed))]
            seen["gaps"] = [float(g.pow(2).mean().sqrt()) for g in gaps]
            seen["begin"] = torch.equal(changed.embeds[:, 0], one.original.embeds[:, 0])
            seen["moved"] = not torch.equal(changed.embeds[:, 1:], one.original.embeds[:, 1:])
            seen["grad"] = changed.embeds.requires_grad

    with intercepted(pipe, descend):
        pipe(PROMPTS[:2], **options(2))
    assert seen["gaps"][1] < 0.9 * seen["gaps"][0] and seen["calls"] <= 10
    assert (seen["begin"], seen["moved"], seen["grad"]) == (True, True, False)
    assert all(p.grad is None for p in pipe.unet.parameters())


def test_a_mitigation_that_cannot_work_here_gives_way_to_the_next(pipe):
    policy = Policy(mitigations=(OppositeGuidance(), NullPrompt()), extra_uncond=True)
    shield = Shield(pipe, policy, thresholds=thresholds(pipe, 0.0))
    assert shield("the cat", **options(1, guidance_scale=1.0)).verdicts[0].mitigation == "null_prompt"
