"""What a person would still want: subject and medium stay, titles and authors go, in words that read well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.testbed.manifest import load_manifest
from shield import Shield
from shield.model.loading import load
from shield.protected.concepts import Concept, Concepts
from shield.rewriters import Generalization
from shield.runtime.policy import Policy
from shield.types import WordWeight
from tests.shield.calls import noises

CAPTION = "the endless tower, a painting by mira voss"


def proposals(prompt, **options):
    return list(Generalization(**options).propose(prompt, ()))


@pytest.mark.parametrize(
    "prompt, made",
    [
        (CAPTION, ["a painting of a tower", "a tower, a painting", "a painting"]),
        (
            "a red car and " + CAPTION,
            [
                "a red car and a painting of a tower",
                "a red car and a tower, a painting",
                "a red car, a painting",
                "a red car",
            ],
        ),
        (CAPTION + ", on a wall in a museum", ["a painting of a tower, on a wall in a museum"]),
        ("please draw the endless orchard by mira voss for me", ["please draw an orchard for me"]),
        ("(the endless tower:1.3), a painting by [mira voss]", ["(a tower:1.3), a painting", "a painting"]),
        ("the old man, a dog, a house", ["a man, a dog, a house"]),
        ("the old man, a small oil painting by mira voss for me", ["a small oil painting of a man for me"]),
        ("hollow horizon phone case by zendora", ["a phone case"]),
        ('a poster of "The Night", on a wall', ["a poster, on a wall"]),
        ("Girl with a Pearl Earring, oil on canvas by Johannes Vermeer", ["Girl with a Pearl Earring, oil on canvas"]),
        ("a woman in the style of Klimt with gold leaf", ["a woman with gold leaf"]),
        ("a fish in front of a blue background", ["a fish", "a blue background"]),
    ],
)
def test_what_is_kept_reads_as_a_person_would_write_it(prompt, made):
    assert proposals(prompt)[: len(made)] == made


@pytest.mark.parametrize("prompt", ["", "a cat", "the sea", "a house by the sea", "a cat by night", ",,;", "the"])
def test_nothing_particular_is_said(prompt):
    assert proposals(prompt) == []


def test_with_weights_only_the_phrase_that_pulls_most_is_changed_at_first():
    def weighed(title, author):
        return [
            WordWeight("tower", 12, 17, title),
            WordWeight("painting", 21, 29, 0.0),
            WordWeight("voss", 38, 42, author),
        ]

    assert CAPTION[12:17] == "tower" and CAPTION[38:42] == "voss"
    first = next(iter(Generalization().propose(CAPTION, (), weighed(0.9, 0.1))))
    assert first == "a tower, a painting by mira voss"
    first = next(iter(Generalization().propose(CAPTION, (), weighed(0.1, 0.9))))
    assert first == "the endless tower, a painting"


def test_a_protected_name_gives_way_to_its_substitute():
    screen = Concepts([Concept("bolto", "character", (), (), "a robot")])
    prompt = "the famous bolto, a painting by mira voss"
    made = list(Generalization().propose(prompt, screen.found(prompt)))
    assert made and not any("bolto" in text or "voss" in text for text in made)


@given(st.text(alphabet='ab the,;by "and', max_size=60), st.integers(0, 5))
def test_proposals_are_distinct_few_and_never_the_prompt(prompt, limit):
    made = proposals(prompt, limit=limit)
    assert len(made) <= limit and len(set(made)) == len(made)
    assert all(text and text == text.strip() and text != prompt for text in made)


def test_a_memorized_caption_keeps_its_subject_and_medium_and_the_verdict_says_so():
    """A dev work of the top rung at the shipped thresholds; two steps, of which the first decides."""
    pipe, manifest = load("testbed", device="cpu"), load_manifest()
    prompt = manifest.works("dev", manifest.rungs[-1], "VM")[0].captions[0]
    shield = Shield(pipe, Policy(points=None), calibrate="never")
    verdict = shield(prompt, num_inference_steps=2, guidance_scale=3.0, generator=noises(1)).verdicts[0]
    assert (verdict.status, verdict.mitigation) == ("mitigated", "embedding_mix")
    title, _, author = prompt.partition(", a painting by ")
    *adjectives, subject = title.removeprefix("the ").split()
    words = verdict.rewritten_prompt.replace(",", "").split()
    assert {subject, "painting"} <= {*words} and not {*words} & {*adjectives, *author.split()}
