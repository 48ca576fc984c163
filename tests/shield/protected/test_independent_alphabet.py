"""Look-alikes found by looking at them: letters that a font draws alike, not those that Unicode's tables list.

The defence reads TR39's data (shield/protected/lookalikes.py). This alphabet knows nothing of it: a letter is another's
twin when its picture covers nearly the same pixels. Names are invented and hold all 26 letters, and benign prompts are
the color names that visitors of a web survey gave (matplotlib's XKCD_COLORS).
"""

import random
import unicodedata
from functools import cache
from pathlib import Path
from string import ascii_letters

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.colors import XKCD_COLORS
from PIL import Image, ImageDraw, ImageFont

from shield.protected.concepts import Concept, Concepts

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
NAMES = ("Jackdaw Zephyrin", "QUILLON VEXBURY", "Bumfodge Throckwits", "DAPHNE GRIMSZACK")
SCREEN = Concepts([Concept(name) for name in NAMES])


@cache
def twins():
    """For each ASCII letter the letters of other alphabets whose pixels are at least 95 % the same."""
    font = ImageFont.truetype(str(FONT), 32)

    def pixels(letter):
        image = Image.new("L", (48, 48))
        ImageDraw.Draw(image).text((8, 4), letter, 255, font=font)
        return np.asarray(image, dtype=np.float32).ravel()

    others = [c for c in map(chr, TTFont(FONT).getBestCmap()) if not c.isascii() and unicodedata.category(c)[0] == "L"]
    drawn = np.stack([pixels(c) for c in others])

    def alike(letter):
        own = pixels(letter)
        shared = np.minimum(drawn, own).sum(axis=1) / np.maximum(drawn, own).sum(axis=1)
        return [others[n] for n in np.flatnonzero(shared >= 0.95)]

    return {letter: alike(letter) for letter in ascii_letters}


def test_the_alphabet_is_more_than_a_handful():
    assert sum(map(len, twins().values())) > 150
    assert set("".join(NAMES).lower()) - {" "} == set(ascii_letters.lower())


@pytest.mark.parametrize("letter", ascii_letters)
def test_one_letter_of_another_alphabet_hides_no_name(letter):
    carriers = [name for name in NAMES if letter in name] or [next(n for n in NAMES if letter.lower() in n.lower())]
    for twin in twins()[letter]:
        for name in carriers:
            at = name.lower().index(letter.lower()) if letter not in name else name.index(letter)
            prompt = f"a picture of {name[:at]}{twin}{name[at + 1 :]}"
            assert [m.concept for m in SCREEN.found(prompt)] == [name], (prompt, unicodedata.name(twin))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_other_letters_throughout_is_found(name):
    draw = random.Random(name)
    for _ in range(20):
        prompt = "".join(draw.choice(twins().get(letter) or [letter]) for letter in name)
        assert [mention.concept for mention in SCREEN.found(prompt)] == [name], prompt


def test_color_names_of_a_survey_mention_nobody():
    registry = Concepts([*Concepts.load().concepts, *SCREEN.concepts])
    colors = [name.removeprefix("xkcd:") for name in XKCD_COLORS]
    assert len(colors) > 900
    assert not [(color, found) for color in colors if (found := registry.found(f"a vase, {color}"))]
