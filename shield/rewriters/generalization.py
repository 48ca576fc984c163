"""Say in general what the prompt says in particular: one work's title becomes its subject, and its author goes.

A memorized caption names one picture ("the endless tower, a painting by mira voss"), and a person who asks for it may
still want a tower and a painting. Titles and authors are found by the forms in which people write them: quoted, "the
... tower", a clause without a verb or article, "by ...". They are generalized first ("a painting of a tower") and left
out only where that doesn't hold; then what stands on one side of "and", "with" or "on" is asked for alone. Everything
else stays word for word, so the proposals read as a person would write them. The detectors decide, as for every
rewriter. Wen et al. (ICLR 2024, arXiv 2407.21720) tell users which words to change; with their weights
(shield/rewriters/attribution.py) only the phrase that carries most of the pull is changed at first.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from shield.rewriters.clause_drop import tidy
from shield.rewriters.concept_substitution import ConceptSubstitution
from shield.rewriters.token_attribution import FILLING
from shield.types import Mention, WordWeight

_WORD = r"[\w'’-]+"
_BESIDE = r"in front of|next to|beside|behind|under|over|near|with|on|in|at|and|or"
_STOP = rf"(?:{_BESIDE}|of|off|by|from|for|to|as|is|are|hanging|printed|framed)\b"
_ARTICLE = r"(?:a|an|the|my|his|her|its|their|night|day|hand)\b"
_AUTHOR = re.compile(
    rf"\s*,?\s*\b(?:(?:painted|drawn|made|created)\s+)?(?:by|in the style of)\s+"
    rf"(?:the (?:great|famous|late)\s+)?[\[(]*(?!{_ARTICLE})(?!{_STOP}){_WORD}(?:\s+(?!{_STOP}){_WORD}){{0,3}}[\])]*",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\s*(?:\b(?:called|titled|entitled|named)\s+)?[\"“„«][^\"”“»]+[\"”“»]", re.IGNORECASE)
_DEFINITE = re.compile(
    rf"\bthe\s+(?:(?!{_STOP}){_WORD}\s+){{1,3}}(?!{_STOP})(?P<head>{_WORD})(?=\s*(?:[^\w\s]|$)|\s+{_STOP})",
    re.IGNORECASE,
)
_HEADING = re.compile(
    rf"(?:^|(?<=[,;:|]))\s*(?!{_ARTICLE})(?:(?!{_STOP}){_WORD}\s+)+?(?P<head>(?!{_STOP}){_WORD}\s+(?!{_STOP}){_WORD})\s*(?=[,;:|]|$)",
    re.IGNORECASE,
)
_MEDIUM = (
    r"(?:painting|watercolou?r|drawing|sketch|illustration|picture|image|photo|photograph|print|poster|engraving|etching|"
    r"portrait|mural|fresco|artwork|sculpture|rendering)"
)
_SIDES = re.compile(rf"\s+(?:{_BESIDE})\s+", re.IGNORECASE)
_LOOSE = re.compile(rf"(?:\s+(?:{_BESIDE}|of|by))+\s*$|^(?:and|or)\s+", re.IGNORECASE)
_BREAK = re.compile(r"[,;|]|:(?!\d)")  # a colon before a number is a weight's


class _Phrase(NamedTuple):
    """Characters start..end of a prompt, and what says the same in general; empty for a name."""

    start: int
    end: int
    general: str


@dataclass(frozen=True)
class Generalization:
    """Proposes at most `limit` prompts, those that keep most first. `needs_weights`: the phrase that carries most of
    the pull is changed alone at first, which costs a denoiser call and its gradient.

    Knows English forms alone. In a prompt without any of them it still proposes one side of a preposition.
    """

    limit: int = 4
    needs_weights: bool = False

    name: ClassVar[str] = "generalization"

    def propose(self, prompt: str, concepts: Sequence[Mention], weights: Sequence[WordWeight] = ()) -> Iterable[str]:
        """Never the original, nothing at all, or a prompt of filling words alone."""
        base = next(iter(ConceptSubstitution().propose(prompt, concepts)), prompt)
        phrases = _phrases(base)
        texts = []
        if weights and phrases and base == prompt:
            texts.append(_said(base, [max(phrases, key=lambda phrase: _pull(phrase, weights))]))
        general, without = _said(base, phrases), _said(base, [phrase._replace(general="") for phrase in phrases])
        sides = _SIDES.split(without if _content(without) else general)
        texts += [_joined(general, phrases), general, without, *([sides[0], sides[-1]] if len(sides) > 1 else ())]
        kept = (text for text in map(_tidied, texts) if _content(text) and text != tidy(prompt))
        return list(dict.fromkeys(kept))[: self.limit]


def _phrases(prompt: str) -> list[_Phrase]:
    """Titles and authors, in the prompt's order, none within another."""
    found: list[_Phrase] = []
    for pattern in (_QUOTED, _AUTHOR, _DEFINITE):
        for match in pattern.finditer(prompt):
            _add(found, _Phrase(*match.span(), _with_article(match.groupdict().get("head") or "")))
    masked = list(prompt)
    for phrase in found:
        masked[phrase.start : phrase.end] = " " * (phrase.end - phrase.start)
    for match in _HEADING.finditer("".join(masked)):
        text = match.group()
        start = match.start() + len(text) - len(text.lstrip())
        _add(found, _Phrase(start, match.start() + len(text.rstrip()), _with_article(match["head"])))
    return sorted(found)


def _add(found: list[_Phrase], phrase: _Phrase) -> None:
    if not any(phrase.start < other.end and other.start < phrase.end for other in found):
        found.append(phrase)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}" if noun else ""


def _pull(phrase: _Phrase, weights: Sequence[WordWeight]) -> float:
    return sum(word.weight for word in weights if phrase.start <= word.start < phrase.end)


def _said(prompt: str, phrases: Sequence[_Phrase]) -> str:
    """The prompt with what these phrases say in general."""
    for phrase in sorted(phrases, reverse=True):
        gap = " " if phrase.general and prompt[phrase.start : phrase.start + 1].isspace() else ""
        prompt = prompt[: phrase.start] + gap + phrase.general + prompt[phrase.end :]
    return prompt


def _joined(general: str, phrases: Sequence[_Phrase]) -> str:
    """ "a tower, a painting" as "a painting of a tower"."""
    for subject in {phrase.general for phrase in phrases if phrase.general}:
        title = rf"\b{re.escape(subject)}\s*,\s*(?P<medium>an? (?:(?!{_STOP}){_WORD}\s+)*?{_MEDIUM})\b"
        general = re.sub(title, rf"\g<medium> of {subject}", general, flags=re.IGNORECASE)
    return general


def _tidied(text: str) -> str:
    """Without clauses in which nothing is left, and without words that joined what is gone."""
    clauses = [_LOOSE.sub("", clause.strip()) for clause in _BREAK.split(re.sub(r"\s+", " ", text))]
    return tidy(", ".join(clause for clause in clauses if _content(clause)))


def _content(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text.lower())) - FILLING
