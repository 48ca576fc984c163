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
# Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt: fillers, joiners, selectors, tags.
_IGNORED = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
JOINER = "\u2060"
BLANKS = frozenset("\u115f\u1160\u200b\u3164\uffa0")  # ignorable ones that stand for a space, too: they may part words
_STRETCHES = frozenset("\u0640\u07fa\u0883\u0884\u0885\u180a")  # tatweel and its like draw a word wider
# Letters of one sound that Arabic, Persian and Urdu keyboards write differently, as Lucene's normalizers for Arabic and
# Persian fold them.
_ARABIC = str.maketrans("\u06cc\u0649\u06d2\u06a9\u06aa\u06c1\u06be\u06d5\u0629\u0671", "يييككهههها")
_SCRIPT = re.compile(r"(?:(?:COMBINING|HALFWIDTH|FULLWIDTH) )?(\w+)")
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
    if made and all(map(is_sign, made)):
        return made
    if category[0] in "MCZ" or category == "Sk" or is_invisible(character):
        return ""
    if made and made.isascii():
        return made
    if "\u02b0" <= character <= "\u02ff":  # modifier letters: apostrophes, stresses, tones
        return ""
    if listed := _listed(character):
        return listed
    if category == "So" and not made:
        return _named(character)
    parts = [c for c in unicodedata.normalize("NFKD", character) if c.isalnum() or is_sign(c)]
    return "".join(part if is_sign(part) else _letter(part) or plain(part) for part in parts)


def plain(text: str) -> str:
    """`text` in small letters, without accents, punctuation and compatibility forms. Vowel signs stay: they are letters
    to those who read them.
    """
    small = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in small if (c.isalnum() and not is_invisible(c)) or is_sign(c)).translate(_ARABIC)


@cache
def is_sign(character: str) -> bool:
    """Whether it is a mark that makes another word, by its combining class: a vowel sign, virama or tone of the Indic
    scripts (0, 9 and 84 to 132) or a voicing mark of kana (8). Accents, points and nuktas aren't.
    """
    if unicodedata.category(character) not in ("Mn", "Mc") or is_invisible(character):
        return False
    order = unicodedata.combining(character)
    return order in (0, 8, 9) or 84 <= order <= 132


@cache
def is_invisible(character: str) -> bool:
    """Whether it shows nothing of its own within a word: Unicode's ignorable characters, and what stretches a word."""
    return character in _STRETCHES or bool(_IGNORED.match(character))


@cache
def script(character: str) -> str:
    """The script that its Unicode name begins with; both kana are one."""
    found = _SCRIPT.match(unicodedata.name(character, ""))
    return found[1].replace("HIRAGANA", "KATAKANA") if found else ""


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
