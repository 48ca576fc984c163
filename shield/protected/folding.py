"""One spelling for many disguises of a word, with the way back to the original text.

A text is read in three ways. As it is written: without compatibility forms, accents and case, with "and" for "&". By
its looks: letters of other alphabets as the ones they look like (shield/protected/lookalikes.py), so that "bоltо"
(Cyrillic) reads "bolto". And with digits and signs for letters, so that "B0|TO" reads like "bolto"; what can't be told
apart there (i, l, 1 and |, or rn and m, as in TR39) is written alike on both sides. What is left are letters, their
vowel signs and digits without spaces, each with the place that it came from.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal
from urllib.parse import unquote

from shield.protected.lookalikes import BLANKS, JOINER, is_invisible, is_sign, look, plain, script

Reading = Literal["written", "looks", "signs"]
READINGS: tuple[Reading, ...] = ("written", "looks", "signs")
LETTERS_FOR = dict(zip("01345789@$!€+|¡", "oleastbgasletll", strict=True))
ALIKE = {"i": "l", "m": "rn"}
AND = frozenset("&＆﹠+＋")
# Thai, Lao, Burmese, Khmer: syllables of letters and signs, written without spaces.
SYLLABIC = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f]")
# Chinese, Japanese and Korean: written without spaces, or with endings that no space parts from the word.
UNSPACED = re.compile(
    "[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff]"
)
# Vowels and final consonants of Korean, and vowels that Thai and Lao write behind a consonant: within a syllable.
_BEHIND = re.compile("[\u1160-\u11ff\ud7b0-\ud7ff\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3]")
_NUMBER = re.compile(r"[\d²³¹⁰-⁹₀-₉Ⅰ-ⅿ①-⒛⓪-⓿❶-➓]+")
_WEIGHT = re.compile(r":(?:\d+(?:\.\d+)?|\.\d+)(?=\s*\))")
_BYTE = "%(?:25)*"  # of an address; 25 is a percent sign that was escaped itself
_ESCAPES = re.compile(
    rf"{_BYTE}[c-fC-F][0-9a-fA-F](?:{_BYTE}[89abAB][0-9a-fA-F]){{1,3}}|{_BYTE}[0-9a-fA-F]{{2}}|"
    r"&(?:amp;)*(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
)
NO_CHARACTER = "\ufffd"  # for bytes that are none


@dataclass(frozen=True)
class Folded:
    """`text` has letters, digits and vowel signs only. Character i came from place `places[i]` of the original.
    `starts[i]` and `ends[i]` say whether a word of the original may begin or end there, and `parted[i]` whether one
    must begin: a number behind a word, a blank that no one sees and a syllable of Thai may be either.
    """

    text: str
    places: tuple[int, ...]
    starts: tuple[bool, ...]
    ends: tuple[bool, ...]
    parted: tuple[bool, ...]

    def is_whole(self, start: int, end: int) -> bool:
        """Whether characters start..end begin and end with words of the original."""
        return self.starts[start] and self.ends[end - 1]

    def is_parted(self, start: int, end: int) -> bool:
        """Whether words of the original have to begin at start and end at end."""
        return self.parted[start] and (end == len(self.text) or self.parted[end])

    def is_spelled(self, start: int, end: int) -> bool:
        """Whether each of them is a word of its own: "l u z o"."""
        return all(self.starts[start:end]) and self.ends[end - 1]

    def is_within_word(self, start: int, end: int) -> bool:
        """Whether no word of the original has to begin between them."""
        return not any(self.parted[start + 1 : end])

    def is_one_word(self, start: int, end: int) -> bool:
        """Whether they are exactly one word."""
        return self.is_whole(start, end) and self.is_within_word(start, end)


def folded(text: str, reading: Reading = "looks") -> Folded:
    """`text` folded, in one of the three readings."""
    kept, places = _read(text, reading)
    if not kept:
        return Folded("", (), (), (), ())
    starts, parted = _gaps(text, kept, places)
    return Folded("".join(kept), tuple(places), tuple(starts), (*starts[1:], True), tuple(parted))


def letters(text: str) -> str:
    """The letters and digits that `text` looks like, without the way back."""
    return "".join(_read(text, "looks")[0])


def without_markup(text: str) -> str:
    """`text`, as long as before, with spaces for the weights of "(name:1.3)", and with what the escapes of addresses
    (%20) and pages (&amp;) stand for, also escaped twice: OpenCLIP's and PixArt's own cleaning reads them.
    """
    return _ESCAPES.sub(_unescaped, _WEIGHT.sub(lambda found: " " * len(found.group()), text))


def _unescaped(found: re.Match[str]) -> str:
    """The characters that an escape stands for, filled up to its length by what no one sees."""
    escape = meant = found.group()
    while (read := html.unescape(unquote(meant))) != meant:
        meant = read
    if meant == escape:
        return escape
    return "".join(c if c.isprintable() and c != NO_CHARACTER else " " for c in meant).ljust(len(escape), JOINER)


def _read(text: str, reading: Reading) -> tuple[list[str], list[int]]:
    """The letters of a reading and the place of each. A vowel sign counts behind a letter of its own script, which is
    then read as it is written; elsewhere it is a decoration.
    """
    kept: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in _letters(character, reading):
            if not letter.isascii() and is_sign(letter):
                if not kept or script(text[places[-1]]) != script(letter):
                    continue
                if places[-1] != place and kept[-1].isascii():
                    _as_written(text, kept, places)
            kept.append(letter)
            places.append(place)
    return kept, places


def _as_written(text: str, kept: list[str], places: list[int]) -> None:
    """Reads the last character that was kept as it is written."""
    place = places[-1]
    while places and places[-1] == place:
        kept.pop()
        places.pop()
    written = plain(text[place])
    kept.extend(written)
    places.extend([place] * len(written))


def _letters(character: str, reading: Reading) -> str:
    if reading == "written":
        if character in AND:
            return "and"
        return str(unicodedata.decimal(character)) if character.isdecimal() else plain(character)
    if reading == "looks":
        return look(character)
    seen = LETTERS_FOR.get(character) or look(character)
    return "".join(ALIKE.get(c, c) for c in (LETTERS_FOR.get(c, c) for c in seen))


def _gaps(text: str, kept: list[str], places: list[int]) -> tuple[list[bool], list[bool]]:
    """For each kept character, whether a word may begin with it, and whether one has to."""
    edges = _number_edges(text)
    starts, parted = [True], [True]
    for (before, place), letter in zip(pairwise(places), kept[1:], strict=True):
        between = text[before + 1 : place]
        if place == before or is_sign(letter) or _BEHIND.match(letter):
            apart = any(map(_separates, between))
            starts.append(apart)
            parted.append(apart)
            continue
        sides = text[before], text[place]
        apart = any(map(_is_apart, sides)) or any(map(_separates, between))
        parted.append(apart)
        starts.append(apart or place in edges or any(c in BLANKS for c in between) or _may_part(*sides))
    return starts, parted


def _number_edges(text: str) -> set[int]:
    """Where a number begins right behind a word, and a word right behind a number: in "bolto2", not in "b0lto"."""
    edges: set[int] = set()
    for found in _NUMBER.finditer(text):
        start, end = found.span()
        if not text[end : end + 1].isalnum():
            edges.add(start)
        if not text[start - 1 : start].isalnum():
            edges.add(end)
    return edges


@cache
def _is_apart(character: str) -> bool:
    """Whether it is no part of the words beside it: a character of an unspaced script, an ampersand."""
    return character in AND or (not character.isascii() and bool(UNSPACED.match(character)))


def _may_part(before: str, after: str) -> bool:
    """Whether a word may begin between these neighbors: beside a syllable, and between letters and a symbol like ™."""
    if before.isascii() and after.isascii():
        return False
    if SYLLABIC.match(before) or SYLLABIC.match(after):
        return True
    return (unicodedata.category(before) == "So") != (unicodedata.category(after) == "So")


@cache
def _separates(character: str) -> bool:
    """Spaces and punctuation part words; accents and invisible characters don't."""
    return not is_invisible(character) and unicodedata.category(character) not in ("Mn", "Me", "Mc", "Cf")
