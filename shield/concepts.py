"""Protected concepts: who and what they are called, how they are described, what may stand for them.

A registry is a TOML file with one `[[concept]]` table each, or one `concepts = [...]` array:

    [[concept]]
    name = "Bolto"                                    # required
    kind = "character"                                # character, person, brand, artist, artwork, landmark, style
    aliases = ["Bolto the robot"]
    descriptions = ["the red robot with one wheel"]   # found when all of its content words are in a prompt
    substitute = "a friendly robot"                   # what a rewritten prompt says instead
    allow = ["boltor"]                                # spellings near the name that mean something else
    indirect = ["the crimson machine on a wheel"]     # found by meaning alone (shield/meaning.py)

Prompts are searched after folding (shield/folding.py) with one Aho-Corasick pass per reading, so that thousands of
names cost a fraction of a millisecond, then word by word for small misspellings of longer names.
"""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shield.errors import RegistryError
from shield.folding import Folded, folded, unleeted, without_markup
from shield.types import Mention

SHIPPED = Path(__file__).with_name("registry.toml")
SHORT = 4
LONG = 6
GLUED = 8  # a name this long is found within a longer word too
LISTS = ("aliases", "descriptions", "allow", "indirect")
STOP = frozenset("a an the of on with by in at to and or for from is are as its his her their".split())


@dataclass(frozen=True)
class Concept:
    """One protected concept; see the module's text for its fields."""

    name: str
    kind: str = "character"
    aliases: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    substitute: str = ""
    allow: tuple[str, ...] = ()
    indirect: tuple[str, ...] = ()


class Concepts:
    """A screen over a registry. Raises RegistryError for names or aliases that two concepts share."""

    def __init__(self, concepts: Iterable[Concept]) -> None:
        import ahocorasick

        self.concepts = tuple(concepts)
        self._automaton = ahocorasick.Automaton()
        self._long: dict[tuple[int, str], list[tuple[tuple[str, ...], Concept]]] = {}
        self._orders: dict[tuple[str, ...], Concept] = {}
        self._allowed: set[str] = set()
        owners: dict[str, tuple[Concept, dict[str, str]]] = {}
        for concept in self.concepts:
            for place, spelling in enumerate((concept.name, *concept.aliases)):
                self._enter(spelling, concept, "name" if place == 0 else "alias", owners)
            self._allowed |= {folded(word).text for word in concept.allow}
        if owners:
            self._automaton.make_automaton()
        self._described = [(_content(d), c) for c in self.concepts for d in c.descriptions if _content(d)]

    def _enter(
        self, spelling: str, concept: Concept, how: str, owners: dict[str, tuple[Concept, dict[str, str]]]
    ) -> None:
        for leet in (None, "i"):
            key = folded(spelling, leet).text
            if not key:
                raise RegistryError(f"{concept.name!r} has a name or alias without letters: {spelling!r}.")
            other, spellings = owners.setdefault(key, (concept, {}))
            if other is not concept:
                raise RegistryError(f"{spelling!r} stands for both {other.name!r} and {concept.name!r}.")
            spellings.setdefault(spelling.casefold(), how)
            self._automaton.add_word(key, (len(key), concept, spellings))
        words = tuple(folded(spelling[s:e]).text for s, e in _words(spelling))
        if len("".join(words)) >= LONG:
            self._long.setdefault((len(words), words[0][:1]), []).append((words, concept))
            self._orders[tuple(sorted(words))] = concept

    @classmethod
    def load(cls, *paths: Path | str) -> "Concepts":
        """The concepts of these registry files together; the shipped one when none is named. Raises RegistryError."""
        return cls([concept for path in paths or (SHIPPED,) for concept in _read(Path(path))])

    def found(self, prompt: str) -> list[Mention]:
        """Every protected concept in `prompt`, the longest mention of each place, in order of place."""
        plain = without_markup(prompt)
        texts = [prompt, plain] if plain != prompt else [prompt]
        mentions = [mention for text in texts for mention in self._mentioned(text)]
        return [replace(mention, text=prompt[mention.start : mention.end]) for mention in _longest(mentions)]

    def _mentioned(self, prompt: str) -> Iterator[Mention]:
        for reading in (folded(prompt), *(folded(text, "i") for text in unleeted(prompt))):
            yield from self._named(prompt, reading)
        yield from self._misspelled(prompt)
        yield from self._reordered(prompt)
        yield from self._descriptions(prompt)

    def _named(self, prompt: str, reading: Folded) -> Iterator[Mention]:
        if not self.concepts:
            return
        for last, (length, concept, spellings) in self._automaton.iter(reading.text):
            start, end = last + 1 - length, last + 1
            glued = length >= GLUED and reading.is_within_word(start, end)
            if not glued and not reading.is_whole(start, end):
                continue
            first, after = reading.places[start], reading.places[end - 1] + 1
            how = spellings.get(prompt[first:after].casefold())
            if how or length > SHORT or reading.is_one_word(start, end) or reading.is_spelled(start, end):
                yield _mention(prompt, concept, first, after, how or "disguised")

    def _misspelled(self, prompt: str) -> Iterator[Mention]:
        """Names of six letters and more with a slip of the pen: see _near. First letters and short words are exact."""
        spans = list(_words(prompt))
        words = [folded(prompt[start:end]).text for start, end in spans]
        for first, word in enumerate(words):
            for count in range(1, min(4, len(words) - first + 1)):
                run = words[first : first + count]
                if "".join(run) in self._allowed:
                    continue
                for name, concept in self._long.get((count, word[:1]), ()):
                    if all(_near(a, b) for a, b in zip(run, name, strict=True)):
                        yield _mention(prompt, concept, spans[first][0], spans[first + count - 1][1], "misspelled")

    def _reordered(self, prompt: str) -> Iterator[Mention]:
        """Names of two to four words in another order, and nothing between them."""
        spans = list(_words(prompt))
        words = [folded(prompt[start:end]).text for start, end in spans]
        for count in range(2, 5):
            for first in range(len(words) - count + 1):
                concept = self._orders.get(tuple(sorted(words[first : first + count])))
                if concept is not None:
                    yield _mention(prompt, concept, spans[first][0], spans[first + count - 1][1], "reordered")

    def _descriptions(self, prompt: str) -> Iterator[Mention]:
        """Descriptions all of whose content words stand in the prompt, in any order."""
        places = {folded(prompt[s:e]).text: (s, e) for s, e in _words(prompt)}
        for words, concept in self._described:
            if words <= places.keys():
                spans = [places[w] for w in words]
                yield _mention(prompt, concept, min(s for s, _ in spans), max(e for _, e in spans), "described")


def _near(word: str, name: str) -> bool:
    """At most one edit (insertion, deletion, substitution, swap of neighbors) in five letters, two in nine."""
    from rapidfuzz.distance import OSA

    limit = 2 if len(name) >= 9 else 1 if len(name) >= 5 else 0
    return abs(len(word) - len(name)) <= limit and OSA.distance(word, name, score_cutoff=limit) <= limit


def _mention(prompt: str, concept: Concept, start: int, end: int, how: str) -> Mention:
    return Mention(concept.name, prompt[start:end], start, end, how, concept.substitute)


def _words(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of characters without spaces, without punctuation around it."""
    start = None
    for place, character in enumerate(text + " "):
        if not character.isspace():
            start = place if start is None else start
        elif start is not None:
            core = text[start:place].strip(".,;:!?\"'()[]{}«»“”")
            if core:
                offset = text.index(core, start)
                yield offset, offset + len(core)
            start = None


def _content(description: str) -> frozenset[str]:
    words = (folded(description[s:e]).text for s, e in _words(description))
    return frozenset(w for w in words if w and w not in STOP)


def _longest(mentions: list[Mention]) -> list[Mention]:
    """One mention per place: the longest, and of equally long ones the least disguised."""
    order = ("name", "alias", "disguised", "misspelled", "reordered", "described")
    kept: list[Mention] = []
    for mention in sorted(mentions, key=lambda m: (m.start - m.end, order.index(m.how))):
        if all(mention.end <= k.start or k.end <= mention.start for k in kept):
            kept.append(mention)
    return sorted(kept, key=lambda m: m.start)


def _read(path: Path) -> list[Concept]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RegistryError(f"{path} isn't a registry of concepts ({error}).") from None
    lists = [data.get("concepts", []), data.get("concept", [])]
    entries = [entry for found in lists if isinstance(found, list) for entry in found]
    if not entries:
        raise RegistryError(f"{path} holds no concepts; write [[concept]] tables with a name each.")
    return [_concept(path, entry) for entry in entries]


def _concept(path: Path, entry: Any) -> Concept:
    known = Concept.__dataclass_fields__
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RegistryError(f"{path} holds a concept without a name: {entry!r}.")
    for key, value in entry.items():
        if key not in known:
            raise RegistryError(f"{path}: {entry['name']!r} has an unknown field {key!r}; known: {', '.join(known)}.")
        if key in LISTS and not (
            isinstance(value, list) and all(isinstance(v, str) for v in value)
        ):
            raise RegistryError(f"{path}: {key} of {entry['name']!r} is a list of texts.")
        if isinstance(value, list) != (key in LISTS) or not isinstance(value, (str, list)):
            raise RegistryError(f"{path}: {key} of {entry['name']!r} is a text.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Concept(**values)
