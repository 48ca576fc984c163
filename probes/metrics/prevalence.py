"""How many are memorized, from how many an imperfect detector flags.

Of the flagged some are false alarms, and some memorized prompts aren't flagged. With p the flagged share, f the
false-alarm rate and t the share of memorized prompts that are flagged,

    prevalence = (p - f) / (t - f)

(Rogan and Gladen, "Estimating prevalence from the results of a screening test", American Journal of Epidemiology
1978). All three are estimates. The interval draws each from its own distribution: shares that were counted from
Jeffreys' posterior, the rate of a threshold that is the k-th smallest of n benign scores from Beta(n + 1 - k, k),
which is exact (Vovk, ACML 2012, arXiv 1209.2673).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 20_000


@dataclass(frozen=True)
class Rate:
    """A share that is known up to a Beta distribution with parameters ``a`` and ``b``, and where it comes from."""

    value: float
    a: float
    b: float
    source: str = ""

    @classmethod
    def counted(cls, share: float, n: int, source: str = "") -> Rate:
        """A share among n independent prompts."""
        return cls(share, share * n + 0.5, (1.0 - share) * n + 0.5, source)

    @classmethod
    def of_threshold(cls, fpr: float, scores: int, prompts: int | None = None, source: str = "") -> Rate:
        """A calibrated threshold's false-alarm rate. Several ``scores`` of one prompt count as one observation."""
        rank = min(ceil(round((1.0 - fpr) * (scores + 1), 9)), scores)
        share, n = (scores + 1 - rank) / (scores + 1), min(scores, prompts or scores)
        return cls(share, share * (n + 1), (1.0 - share) * (n + 1), source)

    def drawn(self, rng: np.random.Generator, draws: int = DRAWS) -> NDArray[np.float64]:
        return rng.beta(self.a, self.b, draws)

    def figures(self) -> dict[str, Any]:
        """Value, 95 % interval and source, for a summary."""
        low, high = np.percentile(self.drawn(np.random.default_rng(0)), [2.5, 97.5])
        return {"value": self.value, "low": float(low), "high": float(high), "source": self.source}


def prevalence(flagged: Rate, false_alarms: Rate, found: Rate | None = None, *, seed: int = 0) -> dict[str, Any]:
    """The share of memorized prompts, with its 95 % interval.

    Args:
        flagged: Share of the scanned prompts.
        false_alarms: Share of benign prompts that are flagged.
        found: Share of memorized prompts that are flagged; None where nobody measured it.
        seed: Of the draws.

    Returns:
        ``value``, ``low`` and ``high``. ``value`` is None, and the interval 0 to 1, where ``found`` can't be told from
        ``false_alarms``; without ``found`` it is None too, ``high`` is 1 and ``low`` is what 95 % of draws exceed if
        every memorized prompt were flagged.
    """
    rng = np.random.default_rng(seed)
    p, f = flagged.drawn(rng), false_alarms.drawn(rng)
    if found is None:
        low = float(np.percentile(np.clip((p - f) / (1.0 - f), 0.0, 1.0), 5.0))
        return {"value": None, "low": low, "high": 1.0}
    t = found.drawn(rng)
    if np.percentile(t - f, 2.5) <= 0.0 or found.value <= false_alarms.value:
        return {"value": None, "low": 0.0, "high": 1.0}
    value = (flagged.value - false_alarms.value) / (found.value - false_alarms.value)
    low, high = np.percentile(np.clip((p - f) / np.maximum(t - f, 1e-9), 0.0, 1.0), [2.5, 97.5])
    return {"value": float(np.clip(value, 0.0, 1.0)), "low": float(low), "high": float(high)}
