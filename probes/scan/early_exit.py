"""Fewer seeds for prompts that are far from the threshold: a sequential test whose error is calibrated, not assumed.

The full test takes a prompt's mean score over N seeds and asks whether it is above the threshold. After n seeds the
mean can still move, by an amount that shrinks like sqrt(1/n - 1/N) (the standard deviation of mean_N - mean_n in units
of one score's). So the test stops after n seeds once the mean so far is further from the threshold than

    c * sqrt(1/n - 1/N)

and decides by the side it is on. c comes from a pilot: prompts scored with all N seeds. For each the largest move

    m = max over n < N of |mean_n - mean_N| / sqrt(1/n - 1/N)

is taken, and c is the ceil((1 - error)(K + 1))-th smallest of the K pilot prompts' moves. A prompt whose own m is at
most c gets from every early stop the answer that all N seeds would have given, so the share of prompts that are
decided otherwise than by all N seeds is at most ``error`` for prompts exchangeable with the pilot's: whatever the
scores' distribution, for all looks together, and wherever the threshold is (split conformal prediction: Vovk,
Gammerman, Shafer, 2005, section 2.2; the boundary has the shape of a stochastically curtailed test: Lan, Simon,
Halperin, 1982).

It says nothing about how well the full test tells memorized prompts: that is the threshold's own false-positive rate.
A pilot drawn at random from the prompt file that is scanned is exchangeable with it; other prompts may not be.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from probes.errors import EarlyExitError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Boundary:
    """When a prompt's mean is far enough from the threshold: beyond ``width`` * sqrt(1/n - 1/seeds) after n seeds.

    ``error``: the largest share of prompts decided otherwise than by all seeds. ``pilot``: prompts it was made from.
    """

    threshold: float
    width: float
    seeds: int
    error: float
    pilot: int

    def distance(self, count: int) -> float:
        """How far from the threshold the mean of ``count`` seeds has to be to stop; 0 once all seeds are there."""
        return self.width * math.sqrt(1.0 / count - 1.0 / self.seeds)

    def decision(self, scores: Sequence[float | None]) -> bool | None:
        """Whether the prompt is above the threshold; None while undecided, and for scores that are missing."""
        if not scores or None in scores:
            return None
        away = mean_of(scores) - self.threshold
        if abs(away) > self.distance(len(scores)) or len(scores) == self.seeds:
            return away > 0
        return None


def mean_of(scores: Sequence[float | None]) -> float:
    """Mean of the scores that there are; ZeroDivisionError without any."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known)


def calibrated(pilot: Sequence[Sequence[float]], threshold: float, error: float) -> Boundary:
    """The boundary from (K prompts, N seeds) scores. EarlyExitError for too few prompts or seeds, or uneven ones."""
    seeds = {len(scores) for scores in pilot}
    if len(seeds) != 1 or max(seeds) < 2:
        raise EarlyExitError(
            f"Early exit needs a pilot with the same number of seeds for each prompt, two or more; it "
            f"has {', '.join(map(str, sorted(seeds))) or 'no prompts'}."
        )
    rank = math.ceil(round((1.0 - error) * (len(pilot) + 1), 9))
    if rank > len(pilot):
        raise EarlyExitError(
            f"An error of {error:g} needs a pilot of at least {prompts_needed(error)} prompts; there "
            f"are {len(pilot)}. Scan without --early-exit, or allow a larger --error."
        )
    moves = sorted(largest_move(scores) for scores in pilot)
    return Boundary(threshold, moves[rank - 1], max(seeds), error, len(pilot))


def prompts_needed(error: float) -> int:
    """The smallest pilot that this error can be calibrated on."""
    return math.ceil(round(1.0 / error, 9)) - 1


def largest_move(scores: Sequence[float]) -> float:
    """How far the running mean ever was from the final one, in units of its own spread."""
    total, last = len(scores), sum(scores) / len(scores)
    means = [sofar / count for count, sofar in enumerate(itertools.accumulate(scores[:-1]), start=1)]
    return max(abs(mean - last) / math.sqrt(1.0 / count - 1.0 / total) for count, mean in enumerate(means, start=1))


def drawn_at_random(items: Iterable[Item], count: int, seed: int = 0) -> list[Item]:
    """``count`` items, each as likely as any other, in their order, without holding the rest (reservoir sampling)."""
    choice = random.Random(seed)
    kept: list[tuple[int, Item]] = []
    for place, item in enumerate(items):
        if len(kept) < count:
            kept.append((place, item))
        elif (other := choice.randrange(place + 1)) < count:
            kept[other] = (place, item)
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]
