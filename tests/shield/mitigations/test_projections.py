"""A concept's subspace out of the tokens, its direction out of the prediction: by hand, and on the testbed."""

import numpy as np
import pytest
import torch

import shield
from shield import Shield
from shield.errors import MissingSignalError
from shield.mitigations import ConceptProjection, NullPrompt, TokenProjection
from shield.mitigations.concept_projection import without
from shield.mitigations.token_projection import projection
from shield.model.conditioning import Conditioning
from shield.protected.concepts import Concept, Concepts
from shield.runtime.policy import Policy
from shield.types import Mention, MitigationContext

MENTION = Mention("anna", "anna", 0, 4, "name", "a painter")


def case(embeds, mentions=(MENTION,), rerun=None, noise_cond=None):
    """Texts of the concept lie along the first axis, and the empty prompt at the origin."""
    zero, texts = torch.zeros(1, 3, 2), torch.tensor([[[9.0, 9.0], [2.0, 0.0], [4.0, 0.0]]])
    cond = torch.zeros(1, 1, 1, 2) if noise_cond is None else noise_cond
    encode = lambda given: Conditioning(texts.repeat(len(given), 1, 1), torch.tensor([[0.0, 2.0]] * len(given)))  # noqa: E731
    original = Conditioning(embeds, torch.tensor([[3.0, 4.0]]))
    null = Conditioning(zero, torch.zeros(1, 2))
    return MitigationContext(0, 5, 1.0, cond, None, original, None, null, rerun, mentions=mentions, encode=encode)


def test_the_projection_is_that_of_the_normal_equations():
    rows = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    wanted = rows.T @ torch.linalg.inv(rows @ rows.T) @ rows
    assert torch.allclose(projection(rows), wanted, atol=1e-6)
    assert torch.allclose(projection(torch.cat([rows, rows[:1] + rows[1:]])), wanted, atol=1e-5)


def test_tokens_that_reach_into_the_concept_lose_that_part():
    """Reaches 5, 3 and 1: only the second token is above the mean of the others; the first begins the prompt."""
    embeds = torch.tensor([[[5.0, 1.0], [3.5, 4.0], [1.0, 2.0]]])
    changed = TokenProjection().conditioned(case(embeds))
    assert torch.allclose(changed.embeds, torch.tensor([[[5.0, 1.0], [0.0, 4.0], [1.0, 2.0]]]), atol=1e-5)
    assert torch.allclose(changed.pooled, torch.tensor([[3.0, 0.0]]), atol=1e-5)
    assert torch.equal(TokenProjection(alpha=9.0).conditioned(case(embeds)).embeds, embeds)


def test_the_prediction_is_at_right_angles_to_the_concept():
    """(3, 4) less its part along (2, 0) is (0, 4)."""
    prediction, direction = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]])
    assert without(prediction, direction).tolist() == [[0.0, 4.0]]
    assert without(prediction, direction, 0.5).tolist() == [[1.5, 4.0]]
    said = iter([torch.tensor([[[[3.0, 7.0]]]]), torch.tensor([[[[1.0, 7.0]]]])])  # the concept, then its anchor
    given = case(torch.zeros(1, 3, 2), rerun=lambda c: next(said), noise_cond=torch.tensor([[[[3.0, 4.0]]]]))
    assert ConceptProjection().predicted(given).flatten().tolist() == [0.0, 4.0]


def test_without_a_concept_there_is_nothing_to_project():
    with pytest.raises(MissingSignalError, match="protected concept"):
        TokenProjection().conditioned(case(torch.zeros(1, 3, 2), mentions=()))
    with pytest.raises(MissingSignalError, match="protected concept"):
        ConceptProjection().predicted(case(torch.zeros(1, 3, 2), mentions=()))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_on_the_testbed_only_the_prompt_with_the_concept_changes_also_without_guidance(guidance):
    pipe = shield.load("testbed", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    screen = Concepts([Concept("lantern", substitute="bowl")])

    def call():
        noises = [torch.Generator().manual_seed(n) for n in range(2)]
        prompts = ["a lantern beside a tree", "a boat on a lake"]
        return {"prompt": prompts, "generator": noises, "num_inference_steps": 4, "output_type": "np"}

    bare, pictures = pipe(**call(), guidance_scale=guidance).images, []
    for one, calls in ((TokenProjection(), 1), (ConceptProjection(), 8)):
        policy = Policy(detectors=(), mitigations=(one, NullPrompt()))
        result = Shield(pipe, policy, concepts=screen, thresholds=[])(**call(), guidance_scale=guidance)
        assert [v.mitigation for v in result.verdicts] == [one.name, None]
        assert [v.extra_calls for v in result.verdicts] == [calls, 0]
        assert np.array_equal(bare[1], result.images[1]) and np.isfinite(result.images).all()
        assert abs(bare[0] - result.images[0]).max() > 0.01
        pictures.append(result.images[0])
    assert not np.array_equal(*pictures)
