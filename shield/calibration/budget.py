"""How many benign prompts a false-alarm rate needs, and which rate a number of prompts stands for.

A threshold is the k-th smallest of n benign scores, k = ceil((1 - fpr)(n + 1)) (shield/thresholds.py). It wrongly flags
a new benign prompt with probability (n + 1 - k) / (n + 1), averaged over all draws of n prompts. One draw's own rate
varies: it has the distribution Beta(n + 1 - k, k), whatever the scores' distribution, as long as it is continuous
(Vovk, ACML 2012, arXiv 1209.2673). Few prompts keep the average and widen the spread.
"""

import math
from dataclasses import dataclass

from shield.errors import BadRequestError


@dataclass(frozen=True)
class Budget:
    """What a calibration takes: `prompts`, the `fpr` that its thresholds stand for, and the `seconds` expected.

    `wanted` is the rate that was asked for; `fpr` is larger where the time allows too few prompts for it.
    """

    prompts: int
    fpr: float
    wanted: float
    seconds: float

    @property
    def is_short(self) -> bool:
        """Whether the thresholds stand for a larger rate than the one that was asked for."""
        return self.fpr > self.wanted


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


def expected_rate(prompts: int, fpr: float) -> float:
    """The rate that the threshold for `fpr` has on average over draws of the prompts; at most `fpr`.

    Raises:
        BadRequestError: As `rank_kept`.
    """
    return (prompts + 1 - rank_kept(prompts, fpr)) / (prompts + 1)


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


def prompts_for(fpr: float, at_most: float, confidence: float = 0.95) -> int:
    """The smallest n for which one calibration's own rate is at most `at_most` with this confidence.

    A larger n may do worse, where the next smaller score becomes the threshold.

    Args:
        fpr: The rate that the threshold is made for.
        at_most: The largest rate that is put up with, above `fpr`.
        confidence: Probability, over draws of the prompts, that the rate isn't larger.

    Raises:
        BadRequestError: `at_most` isn't above `fpr`, or a value isn't between 0 and 1.
    """
    from scipy.stats import beta

    _check_rate(fpr)
    _check_rate(confidence)
    if not fpr < at_most < 1.0:
        raise BadRequestError(f"The largest rate lies above the wanted one and below 1; {at_most:g} was given.")
    count = prompts_needed(fpr)
    while beta.cdf(at_most, count + 1 - rank_kept(count, fpr), rank_kept(count, fpr)) < confidence:
        count += 1
    return count


def afforded(fpr: float, seconds_each: float, seconds: float, prompts: int | None = None, most: int = 500) -> Budget:
    """What can be calibrated in the given time.

    Args:
        fpr: The wanted false-alarm rate.
        seconds_each: What one prompt takes, measured on this machine.
        seconds: What the whole calibration may take.
        prompts: How many prompts are wanted; by default twice as many as the rate needs, and one more, so that the
            second-largest score is the threshold and no single odd prompt sets it.
        most: How many prompts there are.

    Returns:
        As many prompts as wanted where the time allows, else fewer, down to one; the rate follows.

    Raises:
        BadRequestError: The rate isn't between 0 and 1, or a number isn't positive.
    """
    _check_rate(fpr)
    if seconds_each <= 0.0 or seconds <= 0.0:
        raise BadRequestError(f"Times are positive; {seconds_each:g} s for each of {seconds:g} s were given.")
    wanted = 2 * prompts_needed(fpr) + 1 if prompts is None else prompts
    _check_count(wanted)
    count = max(1, min(wanted, most, int(seconds / seconds_each)))
    return Budget(count, max(fpr, smallest_rate(count)), fpr, count * seconds_each)


def _check_rate(rate: float) -> None:
    if not 0.0 < rate < 1.0:
        raise BadRequestError(f"A rate lies between 0 and 1; {rate:g} was given.")


def _check_count(prompts: int) -> None:
    if prompts < 1:
        raise BadRequestError(f"At least one benign prompt is needed; {prompts} were given.")
