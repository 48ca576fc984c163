"""What the words alone give away: a classifier that never sees the model.

A detector is worth something only where it beats this. Trigrams of characters, multinomial naive Bayes with Laplace
smoothing; the score is the log-odds that a caption is a work's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


def trigrams(caption: str) -> list[str]:
    padded = f"  {caption} "
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


@dataclass(frozen=True)
class TrigramBayes:
    """Log-odds of each trigram; an unknown one says nothing."""

    log_odds: dict[str, float]

    @classmethod
    def trained(cls, members: Sequence[str], others: Sequence[str]) -> TrigramBayes:
        """On captions of both kinds, each kind weighing the same however many there are."""
        ones, twos = (Counter(t for caption in captions for t in trigrams(caption)) for captions in (members, others))
        known = ones.keys() | twos.keys()
        total_ones, total_twos = sum(ones.values()) + len(known), sum(twos.values()) + len(known)
        return cls({t: math.log((ones[t] + 1) / total_ones) - math.log((twos[t] + 1) / total_twos) for t in known})

    def score(self, caption: str) -> float:
        return sum(self.log_odds.get(t, 0.0) for t in trigrams(caption))
