"""Say something generic in the place of each protected concept.

The registry states what may stand for each concept ("a friendly robot" for a named one). What Guardians of Generation
(Roy et al., ICCV 2025 workshops, arXiv 2503.16171) asks a paid language model for, from data: repeatable, local, and
the rest of the prompt stays word for word.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from shield.types import Mention, WordWeight


@dataclass(frozen=True)
class ConceptSubstitution:
    """Proposes the prompt with substitutes in, then the prompt with the mentions left out. Nothing without mentions."""

    name: ClassVar[str] = "concept_substitution"
    needs_weights: ClassVar[bool] = False

    def propose(self, prompt: str, concepts: Sequence[Mention], weights: Sequence[WordWeight] = ()) -> Iterable[str]:
        """At most two prompts."""
        if not concepts:
            return
        for said in (lambda m: m.substitute, lambda m: ""):
            text = prompt
            for mention in sorted(concepts, key=lambda m: -m.start):
                text = _replaced(text, mention, said(mention))
            text = " ".join(text.split())
            if text and text != prompt:
                yield text


def _replaced(text: str, mention: Mention, said: str) -> str:
    """`said` in the mention's place; an article before it is dropped where `said` brings its own."""
    before, after = text[: mention.start], text[mention.end :]
    words = before.rstrip().rsplit(" ", 1)
    if said.lower().startswith(("a ", "an ", "the ")) and words[-1].lower() in ("a", "an", "the"):
        before = before.rstrip()[: -len(words[-1])]
    return before + said + after
