import json
from dataclasses import replace

import numpy as np
import pytest

from probes.testbed.drawing.characters import CHARACTERS, neighbor
from shield.errors import BadRequestError, NotCalibratedError, WeightsError
from shield.model.openclip import OpenClip
from shield.protected.concepts import Concept, Concepts
from shield.protected.meaning import Meaning, Space, calibrated_limit, found_limit, readings, save_limit

BOLTO, DRAZZIK = CHARACTERS[0], CHARACTERS[2]
SHORT = f"the {BOLTO.creature.color} {BOLTO.creature.kind} with {BOLTO.creature.legs}"
REGISTRY = Concepts(
    [
        Concept("bolto", aliases=BOLTO.aliases, descriptions=(BOLTO.creature.description, SHORT), substitute="a robot"),
        Concept("drazzik", descriptions=(DRAZZIK.creature.description,), substitute="a robot"),
    ]
)
BENIGN = [f"a {k} on a {c} background" for k in ("robot", "monster", "cat", "tree") for c in ("red", "blue", "pink")]


@pytest.fixture(scope="module")
def clip():
    return OpenClip("testbed")


@pytest.fixture(scope="module")
def space(clip):
    return Space(REGISTRY, clip)


@pytest.fixture(scope="module")
def neighbors():
    made = (neighbor(np.random.default_rng(i)) for i in range(150))
    return list(dict.fromkeys(f"a {c.description[4:]} on a blue background" for c in made))


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a robot", ["a robot"]),
        ("a robot, red", ["a robot", "red", "a robot, red"]),
        ("a robot on a hill", ["a robot", "a hill", "a robot on a hill"]),
        ("one; two\nthree (four)", ["one", "two", "three", "four", "one; two\nthree (four"]),
        ("", []),
        (" ,; ", []),
        ("onion in  front of ink", ["onion", "ink", "onion in  front of ink"]),
    ],
)
def test_a_prompt_is_read_clause_by_clause_and_whole(prompt, read):
    assert [prompt[s:e] for s, e in readings(prompt)] == read


def test_similarity_is_the_cosine_of_the_nearest_reading(clip, space):
    """Computed once more by hand, for a prompt of one reading."""
    texts = ["bolto", *BOLTO.aliases, BOLTO.creature.description, SHORT, "drazzik", DRAZZIK.creature.description]
    points = clip.texts(["a " + t.removeprefix("the ") for t in texts])
    own = clip.texts(["a cat"])
    assert space.similarity("the cat") == pytest.approx(float((own @ points.T).max()), abs=1e-5)
    assert space.similarity(SHORT) == pytest.approx(1.0, abs=1e-5)
    assert space.similarity("") == -1.0


def test_descriptions_are_found_and_generic_neighbors_are_not(space, neighbors):
    limit = calibrated_limit(space, neighbors[::2], 0.05)
    screen = Meaning(REGISTRY, space.encoder, limit)
    for prompt in (SHORT, f"a picture of {SHORT} on a gray striped background", f"a cat, {SHORT[4:]}, a dog"):
        by_meaning = list(space.meant(prompt, limit.value))
        assert "bolto" in {m.concept for m in by_meaning} and {m.how for m in by_meaning} == {"meaning"}
        assert "bolto" in {m.concept for m in screen.found(prompt)}
    flagged = [p for p in neighbors[1::2] if screen.found(p)]
    assert len(flagged) <= 0.2 * len(neighbors[1::2])
    assert not any(screen.found(p) for p in BENIGN)


def test_spelling_comes_first_and_both_feed_one_list(space):
    screen = Meaning(
        Concepts([Concept("bolto", substitute="a robot"), Concept("little friend", substitute="a dog")]),
        space.encoder,
        _any(space),
    )
    found = screen.found("b0lto, a little friend")
    assert [(m.concept, m.how) for m in found] == [("bolto", "disguised"), ("little friend", "name")]
    assert all(a.end <= b.start for a, b in zip(found, found[1:], strict=False))


def _any(space):
    """A limit for the registry of the test above, at which everything is a mention."""
    small = Space(
        Concepts([Concept("bolto", substitute="a robot"), Concept("little friend", substitute="a dog")]), space.encoder
    )
    return replace(calibrated_limit(small, BENIGN, 0.1), value=-1.0)


def test_a_mention_says_where_and_how_near(space):
    prompt = f"a cat beside {SHORT}"
    (mention,) = space.meant(prompt, 0.9999)
    assert prompt[mention.start : mention.end] == mention.text == SHORT
    assert mention.similarity > 0.9999 and (mention.concept, mention.substitute) == ("bolto", "a robot")


def test_a_limit_states_where_it_comes_from_and_survives_a_file(space, tmp_path):
    limit = calibrated_limit(space, [*BENIGN, "bolto"], 0.1, {"negatives": "by hand"})
    assert limit.negatives == len(BENIGN) and limit.provenance["spelled_out"] == 1
    assert limit.provenance["negatives"] == "by hand" and limit.interval[0] <= limit.value <= limit.interval[1]
    assert sum(space.similarity(p) > limit.value for p in BENIGN) <= 1
    path = save_limit(limit, tmp_path)
    assert found_limit(space, tmp_path) == limit
    Meaning(REGISTRY, space.encoder, tmp_path)
    path.write_text(json.dumps({"format": 9}))
    with pytest.raises(WeightsError, match="run `diffshield calibrate-concepts` again"):
        found_limit(space, tmp_path)


def test_without_a_limit_for_these_very_concepts_the_command_is_named(space, tmp_path):
    with pytest.raises(NotCalibratedError, match="diffshield calibrate-concepts"):
        Meaning(REGISTRY, space.encoder, tmp_path)
    save_limit(calibrated_limit(space, BENIGN, 0.1), tmp_path)
    with pytest.raises(NotCalibratedError, match="diffshield calibrate-concepts"):
        Meaning(Concepts([Concept("bolto")]), space.encoder, tmp_path)
    with pytest.raises(NotCalibratedError, match="other concepts"):
        Meaning(Concepts([Concept("bolto")]), space.encoder, found_limit(space, tmp_path))


def test_bad_requests_are_one_sentence(space, clip, tmp_path):
    with pytest.raises(BadRequestError, match="at least 99 negatives"):
        calibrated_limit(space, BENIGN, 0.01)
    with pytest.raises(BadRequestError, match="registry is empty"):
        Space(Concepts([]), clip)
    for source in (tmp_path, "no-such-model", "ViT-B-32:no-such-weights"):
        with pytest.raises(WeightsError):
            OpenClip(source)


def test_pictures_and_texts_share_the_space(clip, space):
    from PIL import Image

    pictures = clip.pictures([Image.new("RGB", (80, 64), "red"), Image.new("L", (9, 9))])
    assert pictures.shape == (2, clip.texts(["a cat"]).shape[1])
    assert np.linalg.norm(pictures, axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert {name for _, name in space.shown([Image.new("RGB", (64, 64), "red")])} <= {"bolto", "drazzik"}
    assert clip.texts([]).shape[0] == 0
