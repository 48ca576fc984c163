"""The benign prompts that ship are many, varied, all different, and mention nothing that is protected."""

import re
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from shield.benign.grammar import GENERATED, as_toml, content_words, generated, likeness
from shield.benign.prompts import HALVES, benign_prompts, digest_of, half_of, prompts_by_kind
from shield.errors import BadRequestError
from shield.protected.concepts import Concepts

EVERYDAY = Path(__file__).resolve().parents[2] / "everyday_prompts.txt"
PLACES = {
    "Berber",
    "Korean",
    "Mediterranean",
    "Mumbai",
    "Maine",
    "Nebraska",
    "Norway",
    "Oaxaca",
    "Portuguese",
    "Senegal",
    "Taipei",
    "Tuscany",
    "Vietnam",
    "Yorkshire",
    "June",
    "Sunday",
}
BRANDS = "canon nikon leica kodak fuji hasselblad polaroid photoshop artstation octane imax gopro iphone"


@pytest.fixture(scope="module")
def screen():
    return Concepts.load()


@pytest.fixture(scope="module")
def everyday():
    return [line for line in EVERYDAY.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def shipped():
    return list(chain.from_iterable(prompts_by_kind().values()))


def test_there_are_enough_of_each_kind(shipped):
    counts = {stratum: len(prompts) for stratum, prompts in prompts_by_kind().items()}
    assert len(shipped) >= 1000 and sum(n for (file, _), n in counts.items() if file == "written") >= 300
    assert len({kind for _, kind in counts}) == 6 and min(counts.values()) >= 50
    assert len(counts) == 12


def test_lengths_are_those_of_prompts(shipped):
    lengths = [len(prompt.split()) for prompt in shipped]
    assert min(lengths) == 3 and max(lengths) == 70
    assert sum(n <= 8 for n in lengths) > 150 and sum(n >= 30 for n in lengths) > 50
    assert all(prompt == " ".join(prompt.split()) for prompt in shipped)


def test_some_name_a_camera_or_a_quality_and_some_do_not(shipped):
    said = [bool(re.search(r"\d\s?mm|film|lens|detailed|\b[48]k\b|realistic|resolution", p, re.I)) for p in shipped]
    assert 0.2 < sum(said) / len(said) < 0.6


def test_no_two_are_alike(shipped, everyday):
    prompts = [*shipped, *everyday]
    assert len({prompt.casefold() for prompt in prompts}) == len(prompts)
    words = [content_words(prompt) for prompt in prompts]
    places = {word: place for place, word in enumerate(sorted(frozenset().union(*words)))}
    held = np.zeros((len(words), len(places)), np.float32)
    for row, own in enumerate(words):
        held[row, [places[word] for word in own]] = 1
    common, sizes = held @ held.T, held.sum(1)
    alike = common / (sizes[:, None] + sizes[None] - common) - np.eye(len(words))
    one, other = np.unravel_index(alike.argmax(), alike.shape)
    assert alike.max() <= 0.5, (prompts[one], prompts[other])
    assert alike[one, other] == pytest.approx(likeness(words[one], words[other]))


def test_none_mentions_a_protected_concept(shipped, screen):
    assert {prompt: screen.found(prompt) for prompt in shipped if screen.found(prompt)} == {}


def test_none_names_a_person_or_a_brand(shipped):
    """Capitals within a sentence are places', days' and months'; cameras and programs have no names."""
    capitals = chain.from_iterable(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", prompt) for prompt in shipped)
    assert set(capitals) <= PLACES
    assert [prompt for prompt in shipped if set(BRANDS.split()) & content_words(prompt)] == []


def test_the_screen_lets_everyday_prompts_pass(everyday, screen):
    """At most 1 % of prompts that no list of the shield was made with; 1 of 326 when this was written."""
    flagged = [prompt for prompt in everyday if screen.found(prompt)]
    assert len(everyday) >= 300 and len(flagged) <= 3, flagged


def test_the_generator_writes_the_file_that_ships():
    assert GENERATED.read_text(encoding="utf-8") == as_toml(generated())


def test_halves_are_disjoint_and_whole(shipped):
    calibration, test = benign_prompts("calibration"), benign_prompts("test")
    assert set(calibration).isdisjoint(test) and {*calibration, *test} == set(shipped)
    assert len(calibration) + len(test) == len(shipped) and min(len(calibration), len(test)) > 500
    assert all(half_of(prompt) == half for half in HALVES for prompt in benign_prompts(half))


def test_which_half_a_prompt_is_in_stays():
    """Thresholds say which half they were made with, so moving a prompt would make that untrue."""
    assert half_of("hot air balloons") == "test" and half_of("sleeping street dog") == "calibration"
    assert digest_of(["a", "b"]) == digest_of(["a", "b"]) != digest_of(["b", "a"])


@pytest.mark.parametrize("n", [12, 49, 99, 199])
def test_every_beginning_holds_every_kind_in_its_share(n):
    of = {prompt: stratum for stratum, prompts in prompts_by_kind().items() for prompt in prompts}
    whole = benign_prompts("calibration")
    shares, some = Counter(of[p] for p in whole), benign_prompts("calibration", n)
    counts = Counter(of[p] for p in some)
    assert some == whole[:n] == benign_prompts(n=n)
    assert all(abs(counts[stratum] - n * shares[stratum] / len(whole)) <= 1 for stratum in shares)


def test_what_is_not_there_is_refused():
    with pytest.raises(BadRequestError, match="halves calibration and test; 'train'"):
        benign_prompts("train")
    for wrong in (0, -1, 10_000):
        with pytest.raises(BadRequestError, match=f"{wrong} were asked for"):
            benign_prompts(n=wrong)
