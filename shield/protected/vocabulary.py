"""Words: where a text has them, which are ordinary, and which are forms of one another.

How ordinary a word is says the package wordfreq: the base-10 logarithm of its uses in a billion words of English
(Zipf's scale; "the" has 7.7, "harbor" 4.3, "barman" 2.8). It knows people and places too.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import log10
from unicodedata import category

from shield.protected.lookalikes import BLANKS, is_invisible

ORDINARY = 2.7  # Zipf frequency of a word that people mean as it stands
PAIR = 4.0
FUNCTION = 6.0  # of words that stand beside all others: than, one, like
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_AROUND = ".,;:!?\"'()[]{}«»“”‘’`*"
WORDS = re.compile(r"\S+")
# A run of letters, or a capital and small letters within one: camelCase. Digits are words of their own.
_PART = re.compile(r"[^\W\d_]+?(?=(?<=[^\W\d_A-Z])[A-Z])|[^\W\d_]+(?:['’][^\W\d_]+)?|\d+")


def tokens(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of characters without spaces, without punctuation around it."""
    for found in WORDS.finditer(text):
        core = found.group().strip(_AROUND)
        if core:
            start = text.index(core, found.start())
            yield start, start + len(core)


def parts(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each word in `text`, which hyphens, slashes, underscores, dots, digits and capitals part too."""
    return (found.span() for found in _PART.finditer(text if text.isascii() else _joined(text)))


def zipf(word: str) -> float:
    """How frequent a folded word is in English; 0 for one that isn't used."""
    share = _shares().get(word)
    return 0.0 if not share else log10(share) + 9.0


def is_ordinary(word: str, above: float = ORDINARY) -> bool:
    """Whether a folded word is one that people use. Of single letters only a and i are words, and pairs of letters
    have to be frequent ones, because nearly all stand for something.
    """
    if len(word) < 2:
        return word in ("a", "i")
    return zipf(word) >= (max(above, PAIR) if len(word) == 2 else above)


def stem(word: str) -> str:
    """A folded English noun without its plural or possessive ending; digits in words."""
    if word.isdecimal() and len(word.lstrip("0")) < 3 and int(word[-3:]) < len(NUMBERS):
        return NUMBERS[int(word[-3:])]
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] not in "sui" else word


def _joined(text: str) -> str:
    """`text`, as long as before, with a letter for each mark and invisible character behind one: they part no word. The
    blank ones do.
    """
    made: list[str] = []
    for character in text:
        if character in BLANKS:
            made.append(" ")
        elif made and made[-1].isalpha() and (is_invisible(character) or category(character)[0] == "M"):
            made.append("x")
        else:
            made.append(character)
    return "".join(made)


@cache
def _shares() -> Mapping[str, float]:
    from wordfreq import get_frequency_dict

    return get_frequency_dict("en", wordlist="best")
