"""The contract of every rewriter in the table."""

import importlib

import pytest
import torch

from shield import Shield
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.protected.concepts import Concept, Concepts
from shield.rewriters import REWRITERS
from shield.runtime.policy import Policy
from shield.types import WordWeight
from tests.shield.calls import noises, options, state
from tests.tiny_language_model import tiny_language_model

every = pytest.mark.parametrize("name", REWRITERS)
SCREEN = Concepts([Concept("Bolto", substitute="a robot")])
PROMPT = "bolto in a garden, a painting by mira voss"
WEIGHTS = [
    WordWeight(text, PROMPT.index(text), PROMPT.index(text) + len(text), weight)
    for text, weight in (("bolto", 0.4), ("garden", 0.1), ("painting", 0.05), ("mira", 0.25), ("voss", 0.2))
]


def made(name):
    more = {"language_model": {"path": tiny_language_model()}}
    return REWRITERS[name](**more.get(name, {}))


@every
def test_is_named_after_its_file_and_class(name):
    module = importlib.import_module(f"shield.rewriters.{name}")
    cls = REWRITERS[name]
    assert cls.name == name and cls.__module__ == module.__name__ and module.__doc__ and cls.__doc__
    assert cls.__name__.lower() == name.replace("_", "") and isinstance(cls.needs_weights, bool)


@every
@pytest.mark.parametrize("prompt", [PROMPT, "", "   ", ",;|", "cat", "\u202e\x00", "cat " * 2500])
def test_proposals_are_other_texts_and_the_same_every_time(name, prompt):
    before = torch.get_rng_state()
    weights = WEIGHTS if prompt == PROMPT else ()
    first, again = (list(made(name).propose(prompt, SCREEN.found(prompt), weights)) for _ in range(2))
    assert first == again and len(set(first)) == len(first) <= 8
    assert all(isinstance(text, str) and text.strip() and text != prompt for text in first)
    assert torch.equal(torch.get_rng_state(), before)


@every
def test_what_the_screen_refuses_never_counts(name, pipe):
    """Every picture is the empty prompt's or that of a prompt without the name."""
    policy = Policy(detectors=(), rewriters=(made(name),), mitigations=(EmbeddingMix(), NullPrompt()))
    shield = Shield(pipe, policy, concepts=SCREEN, thresholds=[], calibrate="never")
    shield("bolto", **options(1))
    before = state(pipe)
    verdict = shield("bolto in a garden", generator=noises(1), **options()).verdicts[0]
    assert state(pipe) == before
    assert verdict.status == "mitigated" and verdict.extra_calls <= policy.extra_calls
    if verdict.rewritten_prompt is None:
        assert verdict.mitigation == "null_prompt"
    else:
        assert not SCREEN.found(verdict.rewritten_prompt)
    assert bool(verdict.token_weights) == made(name).needs_weights
