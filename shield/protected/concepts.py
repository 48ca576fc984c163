"""Protected concepts: who and what they are called, how they are described, what may stand for them.

A registry is a TOML file with one `[[concept]]` table each, or one `concepts = [...]` array:

    [[concept]]
    name = "Bolto"                                    # required
    kind = "character"                                # character, person, brand, artist, artwork, landmark, style
    aliases = ["Bolto the robot"]
    descriptions = ["the red robot with one wheel"]   # found when all of its content words are in a prompt
    substitute = "a friendly robot"                   # what a rewritten prompt says instead
    allow = ["boltor"]                                # words and phrases near the name that mean something else
    cues = ["robot", "cartoon"]                       # for a name of ordinary words: see below
    indirect = ["the crimson machine on a wheel"]     # found by meaning alone (shield/protected/meaning.py)

Prompts are searched after folding (shield/protected/folding.py) with one Aho-Corasick pass for each reading, so that
thousands of names cost a fraction of a millisecond, then word by word for small misspellings of longer names, and for
descriptions (shield/protected/descriptions.py).

Ordinary words (shield/protected/vocabulary.py) are taken as they stand: one that lies a letter away from a name is no
misspelling of it ("barman"), and several that read like a name together are no mention across a comma or the end of a
sentence ("a cat, woman and child"). A concept with `cues` has a name that is an ordinary phrase too ("a big bird"):
written without capitals it counts only in a prompt with one of these words.
"""

import re
import tomllib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from rapidfuzz.distance import OSA

from shield.errors import RegistryError, reason_of
from shield.protected.descriptions import STOP, Descriptions, content
from shield.protected.folding import AND, READINGS, SYLLABIC, UNSPACED, Folded, Reading, folded, letters, without_markup
from shield.protected.lookalikes import JOINER, is_sign, plain
from shield.protected.text import Text
from shield.protected.vocabulary import FUNCTION, ORDINARY, is_ordinary, parts, tokens, zipf
from shield.types import Mention

SHIPPED = Path(__file__).with_name("registry.toml")
SHORT = 4
LONG = 6
WIDEST = 4  # words of an allowed phrase around a name
GLUED = 8  # a name this long is found within a longer word too
BESIDE = 3.5  # Zipf frequency from which a word beside others of a name isn't a slip of the pen
LISTS = ("aliases", "descriptions", "allow", "indirect", "cues")
_CLAUSE = re.compile(r"[,;:.!?…]\s|\s[,;:.!?…]|[\n、。，；：！？]|\s[–—-]\s")
# "and" within a name, as it is written: Tom & Jerry, Guns N' Roses.
_AND = re.compile(rf"\s*[{''.join(sorted(AND))}]\s*|\s+(?:and|['’]?n['’]?)\s+", re.IGNORECASE)


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
    cues: tuple[str, ...] = ()


@dataclass
class _Key:
    """A folded name. `length`: its letters; `spellings`: how each spelling is told; `breaks`: where its words begin."""

    concept: Concept
    length: int
    spellings: dict[str, str] = field(default_factory=dict)
    breaks: set[int] = field(default_factory=set)


class Concepts:
    """A screen over a registry. Raises RegistryError for names or aliases that two concepts share."""

    def __init__(self, concepts: Iterable[Concept]) -> None:
        import ahocorasick

        self.concepts = tuple(concepts)
        self._keys: dict[Reading, dict[str, _Key]] = {reading: {} for reading in READINGS}
        self._long: dict[tuple[int, str, int], list[tuple[tuple[str, ...], Concept]]] = defaultdict(list)
        self._orders: dict[tuple[str, ...], Concept] = {}
        self._allowed: set[str] = set()
        self._cues = {c.name: {word for cue in c.cues for word in content(cue)} for c in self.concepts if c.cues}
        named = [(spelling, c) for c in self.concepts for spelling in (c.name, *c.aliases)]
        for spelling, concept in named:
            self._enter(spelling, concept)
        for spelling, concept in named:
            for form in {_AND.sub(" and ", spelling), _AND.sub(" n ", spelling)} - {spelling}:
                if not self._is_anothers(form, concept):
                    self._enter(form, concept)
        self._allowed |= {letters(text) for concept in self.concepts for text in concept.allow}
        self._automata = {reading: ahocorasick.Automaton() for reading in READINGS}
        for reading, keys in self._keys.items():
            for text, key in keys.items():
                self._automata[reading].add_word(text, (len(text), key))
            self._automata[reading].make_automaton()
        self._described = Descriptions((text, c) for c in self.concepts for text in c.descriptions)

    def _is_anothers(self, form: str, concept: Concept) -> bool:
        """Whether a form of this concept's name is what another one's is called."""
        held = (self._keys[reading].get(folded(form, reading).text) for reading in READINGS)
        return any(key is not None and key.concept is not concept for key in held)

    def _enter(self, spelling: str, concept: Concept) -> None:
        length, how = len(plain(spelling)), "name" if spelling == concept.name else "alias"
        for reading in READINGS:
            fold = folded(spelling, reading)
            if not fold.text:
                raise RegistryError(f"{concept.name!r} has a name or alias without letters: {spelling!r}.")
            key = self._keys[reading].setdefault(fold.text, _Key(concept, length))
            if key.concept is not concept:
                raise RegistryError(f"{spelling!r} stands for both {key.concept.name!r} and {concept.name!r}.")
            key.spellings.setdefault(spelling.casefold(), how)
            key.breaks.update(place for place, starts in enumerate(fold.parted) if starts)
        words = _words(spelling, tokens(spelling))
        if len("".join(words)) >= LONG:
            for form in {words, ("".join(words),), _words(spelling, parts(spelling.lower()))}:
                self._long[len(form), form[0][:1], len(form[0])].append((form, concept))
            self._orders[tuple(sorted(words))] = concept

    @classmethod
    def load(cls, *paths: Path | str) -> "Concepts":
        """The concepts of these registry files together; the shipped one when none is named. Raises RegistryError."""
        return cls([concept for path in paths or (SHIPPED,) for concept in _read(Path(path))])

    def found(self, prompt: str) -> list[Mention]:
        """Every protected concept in `prompt`, the longest mention of each place, in order of place."""
        bare = without_markup(prompt)
        texts = [prompt, bare] if bare != prompt else [prompt]
        mentions: list[Mention] = []
        for text in map(Text, texts):
            mentions += [mention for mention in dict.fromkeys(self._mentioned(text)) if self._is_meant(text, mention)]
        return [_in_full(mention, prompt, bare) for mention in _longest(mentions)]

    def _mentioned(self, text: Text) -> Iterator[Mention]:
        if not self.concepts:
            return
        prompt = text.text
        # As it is written differs from its looks in other alphabets and where a sign stands for "and".
        for reading in READINGS[prompt.isascii() and AND.isdisjoint(prompt) :]:
            yield from self._named(text, text.fold(reading), self._automata[reading])
        spans = [list(tokens(prompt)), list(parts(prompt))]
        for words in spans if spans[0] != spans[1] else spans[:1]:
            yield from self._misspelled(prompt, words)
            yield from self._reordered(text, words)
        for (start, end), concept in self._described.found(prompt, text.content):
            yield _mention(prompt, concept, start, end, "described")

    def _named(self, text: Text, fold: Folded, automaton: Any) -> Iterator[Mention]:
        prompt = text.text
        for last, (size, key) in automaton.iter(fold.text):
            start, end = last + 1 - size, last + 1
            glued = key.length >= GLUED and fold.is_within_word(start, end)
            if not glued and not fold.is_whole(start, end) and not _is_plural(fold, start, end):
                continue
            first, after = fold.places[start], fold.places[end - 1] + 1
            if key.length <= SHORT and _is_amid_syllables(prompt, first, after):
                continue
            if key.length < SHORT and not fold.is_parted(start, end):
                continue
            how = key.spellings.get(prompt[first:after].casefold())
            spelled = fold.is_spelled(start, end)
            if not how and not spelled and _is_chance(text, fold, start, end, key):
                continue
            if how or key.length > SHORT or fold.is_one_word(start, end) or spelled:
                yield _mention(prompt, key.concept, first, after, how or "disguised")

    def _misspelled(self, prompt: str, spans: list[tuple[int, int]]) -> Iterator[Mention]:
        """Names of six letters and more with a slip of the pen: see _near. First letters and short words are exact."""
        words = _words(prompt, spans)
        for first, word in enumerate(words):
            for count in range(1, min(4, len(words) - first + 1)):
                run, places = words[first : first + count], spans[first : first + count]
                for size in range(len(word) - 2, len(word) + 3):
                    for name, concept in self._long.get((count, word[:1], size), ()):
                        near = all(_near(a, b) for a, b in zip(run, name, strict=True))
                        if near and _is_slip(prompt, run, name, places):
                            yield _mention(prompt, concept, places[0][0], places[-1][1], "misspelled")

    def _reordered(self, text: Text, spans: list[tuple[int, int]]) -> Iterator[Mention]:
        """Names of two to four words in another order, and nothing between them but, with capitals, a comma."""
        prompt = text.text
        words = _words(prompt, spans)
        for count in range(2, 5):
            for first in range(len(words) - count + 1):
                concept = self._orders.get(tuple(sorted(words[first : first + count])))
                start, end = spans[first][0], spans[first + count - 1][1] if concept else 0
                if concept and (not _CLAUSE.search(prompt[start:end]) or _is_capitalized(text, start, end)):
                    yield _mention(prompt, concept, start, end, "reordered")

    def _is_meant(self, text: Text, mention: Mention) -> bool:
        """Whether nothing about the prompt says that this means something else: allowed phrases, and cues."""
        if self._allowed and self._allowed & text.phrases(mention.start, mention.end, WIDEST):
            return False
        cues = self._cues.get(mention.concept)
        said = text.text[mention.start : mention.end]
        if not cues or mention.how == "described" or not (said.isascii() and _is_prose(said)):
            return True
        return bool(cues & text.content.keys()) or _is_capitalized(text, mention.start, mention.end)


@cache
def shipped_concepts() -> Concepts:
    """The screen for the registry that ships, made once."""
    return Concepts.load()


def _near(word: str, name: str) -> bool:
    """At most one edit (insertion, deletion, substitution, swap of neighbors) in five letters, two in nine."""
    if not name.isascii() and word != name and _without_signs(word) == _without_signs(name):
        return False  # another vowel is another word
    size = len(_without_signs(name))
    limit = 2 if size >= 9 else 1 if size >= 5 else 0
    return abs(len(word) - len(name)) <= limit and OSA.distance(word, name, score_cutoff=limit) <= limit


@cache
def _without_signs(word: str) -> str:
    return word if word.isascii() else "".join(c for c in word if not is_sign(c))


def _mention(prompt: str, concept: Concept, start: int, end: int, how: str) -> Mention:
    return Mention(concept.name, prompt[start:end], start, end, how, concept.substitute)


def _words(text: str, spans: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    words = [text[start:end] for start, end in spans]
    return tuple("and" if word in AND else letters(word) for word in words)


def _is_plural(fold: Folded, start: int, end: int) -> bool:
    """Whether a whole word goes on with nothing but the s of a plural."""
    return fold.starts[start] and fold.text[end : end + 1] == "s" and fold.ends[end] and not fold.starts[end]


def _is_amid_syllables(prompt: str, start: int, end: int) -> bool:
    """Whether letters of an unspaced script of syllables stand right beside start..end, as in a longer word."""
    return any(SYLLABIC.match(prompt[place : place + 1]) for place in (start - 1, end) if place >= 0)


def _is_chance(text: Text, fold: Folded, start: int, end: int, key: _Key) -> bool:
    """Whether ordinary words read like a name only because they stand together: across the end of a clause, or parted
    where the name isn't and with a word among them that stands beside everything ("more than OS maps").
    """
    breaks = [i for i in range(1, end - start) if fold.parted[start + i]]
    prompt, places = text.text, fold.places
    first, after = places[start], places[end - 1] + 1
    if not breaks or UNSPACED.search(prompt[first:after]):
        return False
    pieces = _words(prompt[first:after], parts(prompt[first:after]))
    cut = [i for i in breaks if _CLAUSE.search(prompt[places[start + i - 1] + 1 : places[start + i]])]
    if cut:
        if re.match(r"[-/_]\w", prompt[after : after + 2]) or re.match(r"\w[-/_]$", prompt[max(0, first - 2) : first]):
            return True
        named = set(cut) <= key.breaks and _is_capitalized(text, first, after)
        return not named and all(is_ordinary(piece) for piece in pieces)
    between = [prompt[places[start + i - 1] : places[start + i]] for i in set(breaks) - key.breaks]
    apart = any(c.isspace() for text in between for c in text)
    return apart and all(map(is_ordinary, pieces)) and any(zipf(piece) > FUNCTION for piece in pieces)


def _is_slip(prompt: str, run: Sequence[str], name: Sequence[str], places: Sequence[tuple[int, int]]) -> bool:
    """Whether the words of a run that differ from the name's aren't ordinary, and no clause ends between them."""
    if _CLAUSE.search(prompt[places[0][0] : places[-1][1]]):
        return False
    limit = ORDINARY if len(run) == 1 else BESIDE
    slips = [prompt[start:end] for (start, end), a, b in zip(places, run, name, strict=True) if a != b]
    return bool(slips) and not any(_is_prose(slip, limit) for slip in slips)


def _is_prose(text: str, above: float = ORDINARY) -> bool:
    """Whether each word in `text` is an ordinary one."""
    return all(is_ordinary(word, above) for word in _words(text, parts(text)))


def _is_capitalized(text: Text, start: int, end: int) -> bool:
    """Whether the words at start..end are written like a name: with capitals that other words of the prompt don't have
    and that aren't the beginning of a sentence alone.
    """
    prompt = text.text
    spans = [(start + s, start + e) for s, e in parts(prompt[start:end])]
    told = [(s, prompt[s:e]) for s, e in spans if prompt[s:e].lower() not in STOP]
    if not told or not all(word[0].isupper() for _, word in told):
        return False
    others = text.has_others_in_small_letters(start, end)
    return others is not False and (len(told) > 1 or others is None or not text.begins_sentence(told[0][0]))


def _in_full(mention: Mention, prompt: str, bare: str) -> Mention:
    """The mention with the rest of an escape that it ends with, as it stands in the prompt."""
    end = mention.end
    while bare[end : end + 1] == JOINER:
        end += 1
    return replace(mention, end=end, text=prompt[mention.start : end])


def _longest(mentions: list[Mention]) -> list[Mention]:
    """One mention per place: the longest, and of equally long ones the least disguised."""
    order = ("name", "alias", "disguised", "misspelled", "reordered", "described")
    kept: list[Mention] = []
    for mention in sorted(mentions, key=lambda m: (m.start - m.end, order.index(m.how))):
        place = bisect_left(kept, mention.start, key=lambda m: m.start)
        if all(mention.end <= k.start or k.end <= mention.start for k in kept[max(0, place - 1) : place + 1]):
            kept.insert(place, mention)
    return kept


def _read(path: Path) -> list[Concept]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError(f"There is no registry of concepts (.toml) at {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RegistryError(f"{path} isn't a registry of concepts ({reason_of(error)}).") from None
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
        if key in LISTS and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise RegistryError(f"{path}: {key} of {entry['name']!r} is a list of texts.")
        if isinstance(value, list) != (key in LISTS) or not isinstance(value, (str, list)):
            raise RegistryError(f"{path}: {key} of {entry['name']!r} is a text.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Concept(**values)
