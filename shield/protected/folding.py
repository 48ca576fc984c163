"""One spelling for many disguises of a word, with the way back to the original text.

A text is read in three ways. As it is written: without compatibility forms, accents and case. By its looks: letters of
other alphabets as the ones they look like (shield/protected/lookalikes.py), so that "bоltо" (Cyrillic) reads "bolto".
And with digits and signs for letters, so that "B0|TO" reads like "bolto"; what can't be told apart there (i, l, 1 and
|, or rn and m, as in TR39) is written alike on both sides. What is left are letters and digits without spaces, each
with the place that it came from.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from shield.protected.lookalikes import look, plain

Reading = Literal["written", "looks", "signs"]
READINGS: tuple[Reading, ...] = ("written", "looks", "signs")
LETTERS_FOR = dict(zip("01345789@$!€+|¡", "oleastbgasletll", strict=True))
ALIKE = {"i": "l", "m": "rn"}
# Chinese, Japanese and Korean: written without spaces, or with endings that no space parts from the word.
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_MARKUP = re.compile(r":\d*\.?\d+(?=\s*\))|%[0-9a-fA-F]{2}")


@dataclass(frozen=True)
class Folded:
    """`text` has letters and digits only. Character i came from place `places[i]` of the original; `starts[i]` and
    `ends[i]` say whether a word of the original began or ended there.
    """

    text: str
    places: tuple[int, ...]
    starts: tuple[bool, ...]
    ends: tuple[bool, ...]

    def is_whole(self, start: int, end: int) -> bool:
        """Whether characters start..end begin and end with words of the original."""
        return self.starts[start] and self.ends[end - 1]

    def is_spelled(self, start: int, end: int) -> bool:
        """Whether each of them is a word of its own: "l u z o"."""
        return all(self.starts[start:end]) and self.ends[end - 1]

    def is_within_word(self, start: int, end: int) -> bool:
        """Whether no word of the original begins between them."""
        return not any(self.starts[start + 1 : end])

    def is_one_word(self, start: int, end: int) -> bool:
        """Whether they are exactly one word."""
        return self.is_whole(start, end) and self.is_within_word(start, end)


def folded(text: str, reading: Reading = "looks") -> Folded:
    """`text` folded, in one of the three readings."""
    kept: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in _letters(character, reading):
            kept.append(letter)
            places.append(place)
    gaps = _gaps(text, places)
    starts = tuple(gaps)
    ends = tuple([*gaps[1:], True]) if kept else ()
    return Folded("".join(kept), tuple(places), starts, ends)


def letters(text: str) -> str:
    """The letters and digits that `text` looks like, without the way back."""
    return "".join(map(look, text))


def without_markup(text: str) -> str:
    """`text`, as long as before, with spaces for the weights of "(name:1.3)" and for the escapes of addresses (%20)."""
    return _MARKUP.sub(lambda found: " " * len(found.group()), text)


def _letters(character: str, reading: Reading) -> str:
    if reading == "written":
        return plain(character)
    if reading == "looks":
        return look(character)
    seen = LETTERS_FOR.get(character) or look(character)
    return "".join(ALIKE.get(c, c) for c in (LETTERS_FOR.get(c, c) for c in seen))


def _gaps(text: str, places: list[int]) -> list[bool]:
    """For each kept character, whether something that separates words stands right before it, or it is a word."""
    unspaced = [not character.isascii() and bool(UNSPACED.match(character)) for character in text]
    gaps = [True] if places else []
    for before, place in pairwise(places):
        apart = unspaced[place] or unspaced[before] or any(map(_separates, text[before + 1 : place]))
        gaps.append(place != before and apart)
    return gaps


def _separates(character: str) -> bool:
    """Spaces and punctuation part words; accents and invisible characters don't."""
    return unicodedata.category(character) not in ("Mn", "Me", "Mc", "Cf")
