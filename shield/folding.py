"""One spelling for many disguises of a word, with the way back to the original text.

Folding undoes compatibility forms, accents, case, look-alike letters of other alphabets, invisible characters and (on
request) digits and signs that stand for letters. What is left are letters and digits without spaces, each with the
place that it came from, so that "B-o-l-t-o", "bоltо" (Cyrillic) and "B0LT0" all read "bolto".
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import product

# Letters of other alphabets and what they look like, after case folding and the removal of accents.
LOOKALIKES = str.maketrans(
    "авеіјкмнорѕстухԁӏɡαβγεηικνορτυχωøđłħıŋᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ",
    "abeijkmhopsctyxdlgabyenikvoptuxwodlhinabcdefghijklmnoprstuvwyz",
)
# Capitals look like other letters than their small forms do: Μ is an M, and μ a u.
CAPITALS = str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧАВЕІЈКМНОРЅСТУХ", "abezhikmnoptyxabeijkmhopsctyx")
LETTERS_FOR = dict(zip("01345789@$!€+|¡", "oieastbgasietli", strict=True))
# Chinese, Japanese and Korean: written without spaces, or with endings that no space parts from the word.
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_ONES = 4  # this many ones and bars are read as i and l in every combination, more of them all alike
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


def unleeted(text: str) -> list[str]:
    """`text` with its ones and bars as i and as l: every way to read them, each as long as `text`."""
    places = [place for place, character in enumerate(text) if character in "1|"]
    ways = product("il", repeat=len(places)) if len(places) <= _ONES else ("i" * len(places), "l" * len(places))
    read = []
    for way in ways:
        letters = list(text)
        for place, letter in zip(places, way, strict=True):
            letters[place] = letter
        read.append("".join(letters))
    return read


def without_markup(text: str) -> str:
    """`text`, as long as before, with spaces for the weights of "(name:1.3)" and for the escapes of addresses (%20)."""
    return _MARKUP.sub(lambda found: " " * len(found.group()), text)


def _letters(character: str, leet: str | None) -> str:
    if leet is not None and character in LETTERS_FOR:
        return leet if character == "1" else LETTERS_FOR[character]
    decomposed = unicodedata.normalize("NFKD", character).translate(CAPITALS).casefold().translate(LOOKALIKES)
    decomposed = unicodedata.normalize("NFKD", decomposed)
    return "".join(c for c in decomposed if c.isalnum())


def _gaps(text: str, places: list[int]) -> list[bool]:
    """For each kept character, whether something that separates words stands right before it, or it is a word."""
    gaps = []
    for i, place in enumerate(places):
        between = text[places[i - 1] + 1 : place] if i else " "
        repeated = i > 0 and places[i - 1] == place
        apart = any(_separates(c) for c in between) or UNSPACED.match(text[place])
        gaps.append(not repeated and bool(apart or (i > 0 and UNSPACED.match(text[places[i - 1]]))))
    return gaps


def _separates(character: str) -> bool:
    """Spaces and punctuation part words; accents and invisible characters don't."""
    return unicodedata.category(character) not in ("Mn", "Me", "Mc", "Cf")
