"""Which Latin letter or digit a character of another alphabet looks like, by Unicode's own data.

TR39 ("Unicode Security Mechanisms", data file confusables.txt, shipped by the package confusable_homoglyphs) groups
characters that look alike. It says nothing about letters whose name says which letter they are (small capitals, letters
in circles, strokes), so the names are read too, and a letter that neither knows looks like its capital: Cyrillic м is
read as М.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

_NAMED = re.compile(
    r"(?:.*\bLATIN|REGIONAL INDICATOR SYMBOL)\b.*\bLETTER "
    r"(?:(?:SMALL CAPITAL|DOTLESS|SCRIPT|OPEN|INSULAR|BLACKLETTER) )?([A-Z])(?: WITH .*)?"
)
# Neither in TR39's classes nor named after the letter.
_UNLISTED = {"ŋ": "n", "Ŋ": "n", "ω": "w", "ɯ": "w"}


@cache
def look(character: str) -> str:
    """The lower-case letters and digits that `character` looks like, several for a ligature; its own small form
    without accents where it resembles none; "" for signs and what is invisible.
    """
    if character.isascii():
        return plain(character)
    made, category = plain(character), unicodedata.category(character)
    if category[0] in "MCZ" or category == "Sk":
        return ""
    if made and made.isascii():
        return made
    if listed := _listed(character):
        return listed
    parts = [c for c in unicodedata.normalize("NFKD", character) if c.isalnum()]
    return "".join(_letter(part) or plain(part) for part in parts)


def plain(text: str) -> str:
    """`text` in small letters, without accents, signs and compatibility forms."""
    small = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in small if c.isalnum())


def _letter(character: str) -> str:
    """What a letter without accents looks like; "" where nothing is known."""
    ways: tuple[Callable[[str], str], ...] = (_named, _listed, _unlisted, _capital, _kin, _small)
    return next((found for way in ways if (found := way(character))), "")


def _named(character: str) -> str:
    """The letter that stands in the character's name, or that it is made of."""
    made = plain(character)
    if made and made.isascii():
        return made
    found = _NAMED.fullmatch(unicodedata.name(character, ""))
    return found[1].lower() if found else ""


def _listed(character: str) -> str:
    """What TR39 lists as alike, in ASCII. A capital listed with l, 1 and | reads as i where its small form does."""
    found = next((text for text in map(_ascii, _neighbors(character)) if text), "")
    small = character.lower()
    if found == "l" and small != character and _listed(small) == "i":
        return "i"
    return found


def _unlisted(character: str) -> str:
    return _UNLISTED.get(character, "")


def _capital(character: str) -> str:
    other = character.upper()
    return _listed(other) if len(other) == 1 and other != character else ""


def _small(character: str) -> str:
    other = plain(character)
    return look(other) if len(other) == 1 and other != character else ""


def _kin(character: str) -> str:
    """The letter that a character alike is named after, or one alike to that: к and ᴋ are both listed with ĸ."""
    near = _neighbors(character)
    kin = [one for text in near for one in (text, *_neighbors(text)) if len(one) == 1]
    return next((found for one in kin if (found := _named(one))), "")


def _ascii(text: str) -> str:
    """`text` in letters and digits where they are ASCII but for accents; "" otherwise.

    TR39 writes every m as "rn": a target of these two letters is an m.
    """
    letters = "".join(c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Mc")).lower()
    if not (letters.isascii() and letters.isalnum()):
        return ""
    return "m" if letters == "rn" else letters


def _neighbors(text: str) -> list[str]:
    from confusable_homoglyphs.confusables import confusables_data

    return [entry["c"] for entry in confusables_data.get(text, ())]
