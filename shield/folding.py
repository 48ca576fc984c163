"""One spelling for many disguises of a word, with the way back to the original text.

Folding undoes compatibility forms, accents, case, look-alike letters of other alphabets, invisible characters and (on
request) digits and signs that stand for letters. What is left are letters and digits without spaces, each with the
place that it came from, so that "B-o-l-t-o", "bоltо" (Cyrillic) and "B0LT0" all read "bolto".
"""

import unicodedata
from dataclasses import dataclass

# Letters of other alphabets and what they look like, after case folding and the removal of accents.
LOOKALIKES = str.maketrans("авеіјкмнорѕстухԁӏɡαβγεηικνορτυχωøđłħıŋ", "abeijkmhopsctyxdlgabyenikvoptuxwodlhin")
LETTERS_FOR = dict(zip("01345789@$!€+|¡", "oieastbgasietli", strict=True))


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

    def is_one_word(self, start: int, end: int) -> bool:
        """Whether they are exactly one word."""
        return self.is_whole(start, end) and not any(self.starts[start + 1 : end])


def folded(text: str, leet: str | None = None) -> Folded:
    """`text` folded. `leet`: the letter that the digit 1 stands for ("i" or "l") when digits and signs are read as
    letters; None leaves digits as they are and drops signs.
    """
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in _letters(character, leet):
            letters.append(letter)
            places.append(place)
    gaps = _gaps(text, places)
    starts = tuple(gaps)
    ends = tuple([*gaps[1:], True]) if letters else ()
    return Folded("".join(letters), tuple(places), starts, ends)


def _letters(character: str, leet: str | None) -> str:
    if leet is not None and character in LETTERS_FOR:
        return leet if character == "1" else LETTERS_FOR[character]
    decomposed = unicodedata.normalize("NFKD", character).casefold().translate(LOOKALIKES)
    decomposed = unicodedata.normalize("NFKD", decomposed)
    return "".join(c for c in decomposed if c.isalnum())


def _gaps(text: str, places: list[int]) -> list[bool]:
    """For each kept character, whether something that separates words stands right before it."""
    gaps = []
    for i, place in enumerate(places):
        between = text[places[i - 1] + 1 : place] if i else " "
        repeated = i > 0 and places[i - 1] == place
        gaps.append(not repeated and any(_separates(c) for c in between))
    return gaps


def _separates(character: str) -> bool:
    """Spaces and punctuation part words; accents and invisible characters don't."""
    return unicodedata.category(character) not in ("Mn", "Me", "Mc", "Cf")
