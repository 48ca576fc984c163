"""Ways around the shield: none is passed in silence under `strict`. What is caught: diffshield bench bypass."""

from dataclasses import asdict

import pytest
import torch

from probes.bench.bypass import (
    ATTEMPTS,
    DISGUISES,
    NAMES,
    OTHER_LANGUAGES,
    SHORTEST,
    Outcome,
    Target,
    attempted,
    disguised,
    layers_of,
    table,
)
from shield import Gallery, Shield
from shield.protected.concepts import Concept, Concepts
from shield.reasons import Reason
from shield.runtime.policy import preset
from shield.types import Nearest, Score, Verdict
from tests.shield.calls import STEPS, noises, options, thresholds
from tests.tiny import tiny_sd

SCREEN = Concepts([*Concepts.load().concepts, Concept("Luzo", substitute="a robot")])


@pytest.mark.parametrize("kind", DISGUISES)
@pytest.mark.parametrize("name", [*NAMES, "Pikachu", "Harry Potter", "Luzo"])
def test_the_screen_sees_through_a_disguise(kind, name):
    if len(name.replace(" ", "")) < SHORTEST.get(kind, 0):
        pytest.skip(f"{kind}: looked for in names of {SHORTEST[kind]} letters and more")
    prompt = DISGUISES[kind](name)
    assert name in [mention.concept for mention in SCREEN.found(prompt)], prompt


@pytest.mark.parametrize("name", OTHER_LANGUAGES)
def test_names_in_other_languages_stand_in_the_registry(name):
    assert SCREEN.found(f"a picture of {name}") and SCREEN.found(f"{name}の絵" if ord(name[0]) > 0x3000 else name)


BENIGN = [
    "a king and a lion on a hill",
    "a man with an iron gate",
    "the dominions of the old queen",
    "a mouse in a house",
    "a star at night over the sea",
    "three robots (blue:1.3) and a cat",
    "a spider and a man in 1917",
    "100% wool",
    "an apple on a plate",
    "a princess in a peach dress",
    "a black panther in the jungle",
    "夜の海",
    "一只猫在桌子上",
    "кошка на столе",
    "une nuit à la mer",
    "ein Haus am See",
    "un ratón y un gato",
]


@pytest.mark.parametrize("prompt", BENIGN)
def test_what_means_nobody_is_left_alone(prompt):
    assert SCREEN.found(prompt) == []


@pytest.mark.parametrize("policy", ["balanced", "strict"])
def test_a_disguised_name_never_reaches_the_denoiser(pipe, policy):
    """All disguises in one batch: each picture is another prompt's."""
    prompts = [disguise("Mickey Mouse") for disguise in DISGUISES.values()]
    shield = Shield(pipe, policy, concepts=SCREEN, thresholds=thresholds(pipe, 1e9))
    output = shield(prompts, **options(len(prompts), num_inference_steps=2))
    for verdict in output.verdicts:
        assert verdict.status in ("mitigated", "blocked") and layers_of(verdict) == ("screen",)
        assert "mickey" not in (verdict.rewritten_prompt or "").lower()


@pytest.fixture(scope="module")
def memorized():
    """A pipeline, a prompt that its detector flags at 0.06, and the protected picture that it draws from it."""
    pipe = tiny_sd()
    prompt = "the cat, a picture by anna"
    with torch.no_grad():
        picture = pipe(prompt, **options(1, output_type="pil")).images[0]
    gallery = Gallery()
    gallery.add([("work-1", picture)])
    return pipe, Target(prompt, picture, {"num_inference_steps": STEPS, "guidance_scale": 5.0}), gallery


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_no_attempt_slips_through(memorized, attempt):
    pipe, target, gallery = memorized
    outcomes = list(attempted(pipe, target, gallery, [attempt], concepts=SCREEN, thresholds=thresholds(pipe, 0.06)))
    assert [outcome.policy for outcome in outcomes] == ["balanced", "strict"]
    assert not any(outcome.slipped for outcome in outcomes)


CLOSED = [a for a in ATTEMPTS if a.name.startswith(("img2img", "callback", "prompt as", "another number", "latents"))]


@pytest.mark.parametrize("attempt", CLOSED, ids=lambda attempt: attempt.name)
def test_strict_closes_what_it_cannot_judge(memorized, attempt):
    """With a threshold that flags nothing and an empty gallery, so that no other layer has anything to say."""
    pipe, target, _ = memorized
    made = thresholds(pipe, 1e9)
    (_, strict) = attempted(pipe, target, Gallery(), [attempt], concepts=SCREEN, thresholds=made)
    if attempt.name == "another number of steps":  # the first timestep is the same, so the threshold holds
        assert (strict.status, strict.layers) == ("passed", ())
    else:
        assert (strict.status, strict.layers) == ("blocked", ("couldn't judge",))


def test_a_negative_prompt_is_no_way_around(memorized):
    pipe, target, gallery = memorized
    plain, hidden, other = (
        Shield(pipe, "strict", gallery, thresholds=thresholds(pipe, 0.05))(
            target.prompt, **options(1, output_type="pil"), **more
        ).verdicts[0]
        for more in ({}, {"negative_prompt": target.prompt}, {"negative_prompt": "a cat"})
    )
    assert "passed" not in {v.status for v in (plain, hidden, other)}
    assert all(v.scores[0].flagged for v in (plain, hidden, other))
    assert hidden.scores[0].value == pytest.approx(plain.scores[0].value, rel=1e-3)


def test_what_slips_through_is_found_out(memorized):
    """The suite must be able to fail: without a screen, a threshold or a gallery the copy leaves in silence."""
    pipe, target, gallery = memorized
    blind = preset("strict")
    shield = Shield(pipe, blind, thresholds=thresholds(pipe, 1e9))
    from probes.bench.bypass import _outcome

    def call():
        return {"prompt": target.prompt, "generator": noises(1), **target.sampling}

    outcome = _outcome("memorized prompt", "strict", shield, call, gallery, gallery.nearest(target.picture))
    assert outcome.slipped and outcome.bare_copies and outcome.status == "passed"
    assert all(o.slipped for o in disguised(Concepts([Concept("Nobody Here")]), ["Mickey Mouse"]))


def test_layers_and_table():
    nearest = Nearest("work-1", "pdq", 0.99, 0.88, True)
    verdict = Verdict(
        0,
        "p",
        "blocked",
        (Score("noise_gap", 2.0, 1.0, 0), Score("other", 0.5, 1.0, 0)),
        (Reason("copy", work="work-1"), Reason("given_copy", work="work-1", detail="1 (image)")),
        concepts=("Bolto",),
        nearest=nearest,
        scored=False,
    )
    assert layers_of(verdict) == ("screen", "noise_gap", "given picture", "finished picture", "couldn't judge")
    rows = [
        Outcome("a", policy, status, layers, slipped, True)
        for policy, status, layers, slipped in (
            ("balanced", "passed", (), True),
            ("strict", "blocked", ("screen",), False),
            ("balanced", "blocked", ("screen",), False),
            ("strict", "blocked", ("screen",), False),
        )
    ]
    assert table({"outcomes": [asdict(row) for row in rows]}).splitlines()[2] == (
        "| a | copies 2/2 | 1 **slipped through**, passed; 1 blocked by screen | 2 blocked by screen |"
    )
