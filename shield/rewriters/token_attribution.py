"""Leave out the words that carry the memory, as few as it takes.

Which words pull is read from the model itself: the gradient of the gap with respect to the words' embeddings, one
backward pass (shield/rewriters/attribution.py; Wen et al., ICLR 2024, arXiv 2407.21720, who show users which tokens to
change). Ours makes prompts of it: the heaviest word gives way first, then the two, the four heaviest, so that the
proposal that holds lacks at most twice as many words as it must, at one check each. A word within a protected name
takes the whole name along, whose substitute is said instead.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from shield.rewriters.clause_drop import tidy
from shield.types import Mention, WordWeight

FILLING = frozenset("a an the of on in at by with and or for from to as is are his her its their".split())
_CLAUSE = re.compile(r"[^,;:|]+")


@dataclass(frozen=True)
class TokenAttribution:
    """Proposes at most `limit` prompts; none without weights, so a policy that uses it allows an extra call more."""

    limit: int = 3

    name: ClassVar[str] = "token_attribution"
    needs_weights: ClassVar[bool] = True

    def propose(self, prompt: str, concepts: Sequence[Mention], weights: Sequence[WordWeight] = ()) -> Iterable[str]:
        """The prompt without its 1, 2, 4 ... heaviest words, fewest first; never the original or nothing at all."""
        heavy = sorted((w for w in weights if w.text.lower() not in FILLING), key=lambda w: -w.weight)
        made: list[str] = []
        for turn in range(self.limit):
            text = _without(prompt, heavy[: 2**turn], concepts)
            if text and text != tidy(prompt) and text not in made:
                made.append(text)
        return made


def _without(prompt: str, words: Sequence[WordWeight], concepts: Sequence[Mention]) -> str:
    """`prompt` without these words, and without clauses in which only filling words would be left."""
    gone = {(word.start, word.end): "" for word in words}
    for mention in concepts:
        inside = [span for span in gone if span[0] < mention.end and mention.start < span[1]]
        for span in inside:
            del gone[span]
        if inside:
            gone[mention.start, mention.end] = mention.substitute
    for start, end in sorted(gone, reverse=True):
        prompt = prompt[:start] + gone[start, end] + prompt[end:]
    clauses = [c.strip() for c in _CLAUSE.findall(prompt) if set(re.findall(r"\w+", c.lower())) - FILLING]
    return tidy(", ".join(clauses))
