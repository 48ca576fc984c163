"""Descriptions of protected concepts: found in a text that holds all of their content words, in any order.

A plural, a possessive or a digit for a number word is the same word, and hyphens, slashes, underscores and sentence
ends part words like spaces do. One word of a description may have a slip of the pen in it. A slip that is a word of its
own ("cat" for "hat") makes another description, unless a letter was left out and all other words of a long description
are there.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from rapidfuzz.distance import OSA

from shield.protected.folding import letters
from shield.protected.vocabulary import FUNCTION, is_ordinary, parts, stem, zipf

STOP = frozenset("a an the of on with by in at to and or for from is are as its his her their".split())
SLIP = 3  # content words of a description in which one may have a slip
LETTER_LEFT_OUT = 4  # content words of one in which the slip may be a word, if a letter is missing
Owner = TypeVar("Owner")
Span = tuple[int, int]


class Descriptions(Generic[Owner]):
    """An index from words to descriptions, so that thousands cost as much as the words they share with a text."""

    def __init__(self, descriptions: Iterable[tuple[str, Owner]]) -> None:
        self._entries: list[tuple[dict[str, str], Owner]] = []
        self._with: dict[str, list[int]] = defaultdict(list)
        for text, owner in descriptions:
            words = {word: letters(text[start:end]) for word, (start, end) in content(text).items()}
            for word in words:
                self._with[word].append(len(self._entries))
            if words:
                self._entries.append((words, owner))

    def found(self, text: str, places: Mapping[str, Span]) -> Iterator[tuple[Span, Owner]]:
        """((start, end), owner) of each description in `text`, whose content words stand at `places`."""
        forms: dict[str, tuple[str, str]] = {}
        shared = Counter(entry for word in places for entry in self._with.get(word, ()))
        for entry, count in shared.items():
            words, owner = self._entries[entry]
            spans = [places[word] for word in words if word in places]
            if count == len(words) - 1 and len(words) >= SLIP:
                forms = forms or {word: (word, letters(text[start:end])) for word, (start, end) in places.items()}
                spans += [places[word] for word in _slipped(forms, words)][:1]
            if len(spans) == len(words):
                yield (min(start for start, _ in spans), max(end for _, end in spans)), owner


def content(text: str) -> dict[str, Span]:
    """Where in `text` the stem of each of its content words stands first."""
    places: dict[str, Span] = {}
    for start, end in parts(text):
        word = letters(text[start:end])
        if word and word not in STOP:
            places.setdefault(stem(word), (start, end))
    return places


def _slipped(forms: Mapping[str, tuple[str, str]], words: Mapping[str, str]) -> list[str]:
    """Which words of a text, as stems, may be the one of a description's `words` that it lacks, misspelled. `forms`:
    each stem and the word as it is written.
    """
    (missing,) = words.keys() - forms.keys()
    meant = (missing, words[missing])
    return [word for word, own in forms.items() if word not in words and _is_slip(own, meant, len(words))]


def _is_slip(forms: tuple[str, str], meant: tuple[str, str], count: int) -> bool:
    """Whether a word is another with a slip, as stems or as they are written; in a description of `count` words."""
    pairs = [(a, b) for a, b in zip(forms, meant, strict=True) if abs(len(a) - len(b)) <= 1]
    near = [(a, b) for a, b in pairs if OSA.distance(a, b, score_cutoff=1) == 1]
    if any(len(b) >= 5 for _, b in near) and not is_ordinary(forms[1]):
        return True
    shorter = any(len(a) == len(b) - 1 >= 2 for a, b in near)
    return count >= LETTER_LEFT_OUT and shorter and zipf(forms[1]) < FUNCTION
