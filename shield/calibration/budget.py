"""How many benign prompts a false-alarm rate needs, and which rate a number of prompts stands for.

A threshold is the k-th smallest of n benign scores, k = ceil((1 - fpr)(n + 1)) (shield/thresholds.py). It wrongly flags
a new benign prompt with probability (n + 1 - k) / (n + 1), averaged over all draws of n prompts. One draw's own rate
varies: it has the distribution Beta(n + 1 - k, k), whatever the scores' distribution, as long as it is continuous
(Vovk, ACML 2012, arXiv 1209.2673). Few prompts keep the average and widen the spread.
"""

import math

from shield.errors import BadRequestError


def prompts_needed(fpr: float) -> int:
    """The smallest n whose threshold flags at most `fpr` of new benign prompts: n >= 1/fpr - 1.

    Raises:
        BadRequestError: The rate isn't between 0 and 1.
    """
    _check_rate(fpr)
    return max(1, math.ceil(round(1.0 / fpr, 9)) - 1)


def smallest_rate(prompts: int) -> float:
    """The smallest false-alarm rate that this many prompts can stand for: 1 / (n + 1).

    Raises:
        BadRequestError: No prompts.
    """
    _check_count(prompts)
    return 1.0 / (prompts + 1)


def rank_kept(prompts: int, fpr: float) -> int:
    """Which score becomes the threshold, counted from the smallest, which is 1.

    Raises:
        BadRequestError: The rate isn't between 0 and 1, or the prompts are too few for it.
    """
    _check_count(prompts)
    _check_rate(fpr)
    rank = math.ceil(round((1.0 - fpr) * (prompts + 1), 9))
    if rank > prompts:
        raise BadRequestError(
            f"A false-alarm rate of {fpr:g} needs at least {prompts_needed(fpr)} benign prompts; {prompts} were given."
        )
    return max(1, rank)


def rate_interval(prompts: int, fpr: float, level: float = 0.95) -> tuple[float, float]:
    """Where the rate of one calibration's threshold lies with probability `level`: (low, high), both in 0..1.

    Raises:
        BadRequestError: As `rank_kept`.
    """
    from scipy.stats import beta

    rank = rank_kept(prompts, fpr)
    tail = (1.0 - level) / 2.0
    low, high = beta.ppf([tail, 1.0 - tail], prompts + 1 - rank, rank)
    return float(low), float(high)


def _check_rate(rate: float) -> None:
    if not 0.0 < rate < 1.0:
        raise BadRequestError(f"A rate lies between 0 and 1; {rate:g} was given.")


def _check_count(prompts: int) -> None:
    if prompts < 1:
        raise BadRequestError(f"At least one benign prompt is needed; {prompts} were given.")
