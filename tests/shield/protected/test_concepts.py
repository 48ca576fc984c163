import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shield.errors import RegistryError
from shield.protected.concepts import Concept, Concepts
from shield.protected.folding import READINGS, folded
from shield.rewriters import ConceptSubstitution

BOLTO = Concept("Bolto", "character", ("Bolto the robot",), ("the red robot with one wheel",), "a robot", ("boltor",))
DRAZZIK = Concept("Drazzik", substitute="a monster")
R2 = Concept("Zed7")
SCREEN = Concepts([BOLTO, DRAZZIK, R2])


def names(prompt):
    return [(m.concept, m.text, m.how) for m in SCREEN.found(prompt)]


@pytest.mark.parametrize(
    ("prompt", "text", "how"),
    [
        ("bolto on a hill", "bolto", "name"),
        ("a photo of BOLTO!", "BOLTO", "name"),
        ("Bolto's house", "Bolto", "name"),
        ("Bolto the robot sleeps", "Bolto the robot", "alias"),
        ("bоltо", "bоltо", "disguised"),  # Cyrillic o
        ("ＢＯＬＴＯ", "ＢＯＬＴＯ", "disguised"),  # full width
        ("bölto", "bölto", "disguised"),
        ("bol\u200bto", "bol\u200bto", "disguised"),  # zero width space
        ("b0lto", "b0lto", "disguised"),
        ("80|t0", "80|t0", "disguised"),
        ("b o l t o", "b o l t o", "disguised"),
        ("b-o-l-t-o", "b-o-l-t-o", "disguised"),
        ("bol.to", "bol.to", "disguised"),
        ("a drazik", "drazik", "misspelled"),
        ("a drazzick", "drazzick", "misspelled"),
        ("a robot on one wheel, red", "robot on one wheel, red", "described"),
        ("zed7", "zed7", "name"),
    ],
)
def test_found(prompt, text, how):
    concept = "Zed7" if "7" in prompt else "Drazzik" if prompt[2:3] == "d" else "Bolto"
    assert names(prompt) == [(concept, text, how)]


OTHERS = ["", "   ", "a bolt on a door", "boltons", "kabolto", "boltor", "the red robot with two wheels", "dazzling"]


@pytest.mark.parametrize("prompt", OTHERS)
def test_not_found(prompt):
    assert names(prompt) == []


def test_several_mentions_are_found_where_they_stand():
    prompt = "Drazzik meets b0lto"
    assert [(m.start, m.end) for m in SCREEN.found(prompt)] == [(0, 7), (14, 19)]


@given(st.text(max_size=80))
def test_any_text_is_searched_and_mentions_are_slices_of_it(prompt):
    for mention in SCREEN.found(prompt):
        assert prompt[mention.start : mention.end] == mention.text


@given(st.text(max_size=60), st.sampled_from(READINGS))
def test_folding_keeps_track_of_places(text, reading):
    fold = folded(text, reading)
    assert len(fold.text) == len(fold.places) == len(fold.starts) == len(fold.ends)
    assert list(fold.places) == sorted(fold.places) and all(0 <= p < len(text) for p in fold.places)
    assert not fold.text or (fold.starts[0] and fold.ends[-1])
    assert folded(fold.text, reading).text == fold.text


def test_substitution_and_leaving_out():
    prompt = "a Bolto and Drazzik on a hill"
    made = list(ConceptSubstitution().propose(prompt, SCREEN.found(prompt)))
    assert made == ["a robot and a monster on a hill", "a and on a hill"]
    assert list(ConceptSubstitution().propose("a hill", ())) == []
    assert list(ConceptSubstitution().propose("Bolto", SCREEN.found("Bolto"))) == ["a robot"]
    assert not any(SCREEN.found(text) for text in made)


def registry(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no concepts"),
        ("concept = 3", "registry|no concepts|name"),
        ("[[concept]\n", "isn't a registry"),
        ("[[concept]]\nkind='x'", "without a name"),
        ("[[concept]]\nname='a'\ncolour='x'", "unknown field 'colour'"),
        ("[[concept]]\nname='a'\naliases='x'", "list of texts"),
        ("[[concept]]\nname='!!'", "without letters"),
        ("[[concept]]\nname='abc'\n[[concept]]\nname='x'\naliases=['A-B-C']", "both 'abc' and 'x'"),
    ],
)
def test_bad_registries_are_one_sentence(tmp_path, text, why):
    with pytest.raises(RegistryError, match=why) as error:
        Concepts.load(registry(tmp_path, text))
    assert "\n" not in str(error.value).replace(str(tmp_path), "")


def test_missing_registry_is_one_sentence(tmp_path):
    with pytest.raises(RegistryError, match="There is no registry of concepts .* at .*none.toml"):
        Concepts.load(tmp_path / "none.toml")


BENIGN = """a cat sitting on a red chair|a painting of a harbor at sunset|two dogs playing in the snow
a bowl of apples on a wooden table|portrait of an old fisherman|a castle on a hill in the fog
a woman reading a book in a cafe|an astronaut riding a horse|a robot watering flowers|a yellow taxi in the rain
a tiger in the jungle|a boy flying a kite on a beach|a bridge over a river in autumn|isometric room with a desk
a bat flying over a tower at night|a spider in its web|an iron gate|a captain on a ship|a wizard with a staff
a mouse eating cheese|a blue hedgehog-like cactus|a princess in a garden|the amazon river from above
a barber shop in Paris|a nice pair of running shoes|a windows display|a stranger on a train|a frozen lake
chocolate cake with candles|an ice cream van|a plumber fixing a sink|a snowman with a carrot nose""".replace("\n", "|")


def test_the_shipped_registry_finds_its_names_and_leaves_benign_prompts_alone():
    screen = Concepts.load()
    assert len(screen.concepts) > 250
    for concept in screen.concepts:
        for spelling in (concept.name, *concept.aliases):
            found = [m.concept for m in screen.found(f"a drawing of {spelling} in a park")]
            assert found == [concept.name], spelling
        assert concept.substitute and not screen.found(f"a drawing of {concept.substitute} in a park"), concept.name
    flagged = {p: screen.found(p) for p in BENIGN.split("|") if screen.found(p)}
    assert flagged == {}


def test_a_long_prompt_takes_milliseconds():
    screen = Concepts.load()
    screen.found("warm up")
    started = time.perf_counter()
    screen.found("a quiet street with tall old trees and small shops " * 200)
    assert time.perf_counter() - started < 3.0


@pytest.mark.parametrize("capitals", ["Μickey Μouse", "ΜΙCΚΕΥ ΜΟUЅЕ", "МІСКЕУ MOUSE"])
def test_capitals_of_other_alphabets_are_read_by_their_looks(capitals):
    """A Greek capital M looks like ours; the small one it would be folded to looks like a u."""
    assert folded(capitals).text == "mickeymouse"


@pytest.mark.parametrize("prompt", ["ΓΟΥΙΝΙ", "ГАРФИЛД", "Гарфилд"])
def test_names_of_other_alphabets_are_found_in_any_case(prompt):
    """Γ and γ look like different Latin letters, so looks alone would part a name from its capitals."""
    screen = Concepts([Concept("γουινι"), Concept("гарфилд")])
    assert [m.text for m in screen.found(f"a picture of {prompt}")] == [prompt]


DESCRIBED = Concepts([Concept("Zorro", descriptions=("the orange monster with two legs and a hat",))])


@pytest.mark.parametrize(
    "prompt",
    [
        "orange-monster, two-legs, hat",
        "an_orange_monster_with_two_legs_and_a_hat",
        "orange/monster/2/legs/hat",
        "orange monsters with 2 legs in hats",
        "an OrangeMonster with a hat and two legs",
        "the monster's hat, orange, two legs",
        "the orange monster with two legs and a ha",
        "the orange monster with two lgs and a hat",
        "an oraneg monster with two legs and a hat",
        "An orange monster. It has two legs! And a hat.",
        "the orange\nmonster\nwith two legs and a hat",
        "THE ORANGE MONSTER WITH TWO LEGS AND A HAT",
    ],
)
def test_a_description_is_found_whatever_parts_its_words_and_with_one_slip(prompt):
    assert [m.how for m in DESCRIBED.found(prompt)] == ["described"]


@pytest.mark.parametrize(
    "prompt",
    [
        "the orange monster with three legs and a hat",
        "the orange monster with two legs and a cat",
        "the orange monster that has two legs",
        "an oraneg monser with two legs and a hat",
        "two legs and a hat",
        "the orange minister with two legs and a hat",
    ],
)
def test_another_description_is_not_found(prompt):
    assert DESCRIBED.found(prompt) == []


EVERYDAY = """more than OS maps|a cat, woman and child|a barman|a role, x-rays|Mr. Bateman teaching|a big bird
a big bird. A tree|in the park south of the river|a bull, red and angry|an ironman triathlon|one go, Ku-band antennas
The terminator line of the moon|a princess, peach roses|river banks, y-shaped branches""".replace("\n", "|")


@pytest.mark.parametrize("prompt", EVERYDAY.split("|"))
def test_ordinary_words_are_taken_as_they_stand(shipped, prompt):
    assert shipped.found(prompt) == []


NAMED = """bol.to|a bat-man|bat man at night|a Big Bird on a wall|Big Bird|a big bird from sesame street|pika chu
Than, osx the Thanos|Dali, Salvador|Mick, ey Mouse
M.i.c.k.e.y. .M.o.u.s.e|legos|two pikachus
SaIvador DaIi|rnickey rnouse|RED_BULL_CAN|the Terminator, portrait""".replace("\n", "|")


@pytest.mark.parametrize("prompt", NAMED.split("|"))
def test_a_name_in_pieces_is_still_a_name(shipped, prompt):
    assert shipped.found(prompt)


@pytest.fixture(scope="module")
def shipped():
    return Concepts([*Concepts.load().concepts, BOLTO])


def test_thousands_of_concepts_take_milliseconds():
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    names = [f"{a}{b}{c}" for a in syllables[:20] for b in syllables for c in syllables[::7]][:10_000]
    screen = Concepts([Concept(name, descriptions=(f"red {name} with a hat",)) for name in names])
    screen.found("warm up the barman")
    taken = []
    for _ in range(10):
        started = time.process_time()
        screen.found("a barman pouring a beer in a crowded pub, photograph, 35mm, soft light, tall windows")
        taken.append(time.process_time() - started)
    assert len(screen.concepts) > 9_000 and min(taken) < 0.1, "one pass over all names; a pass for each takes seconds"
