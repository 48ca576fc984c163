"""The sequential test: hand arithmetic, its stated error on synthetic scores, and what it saves."""

import math
import random
from statistics import mean

import pytest

from probes.errors import EarlyExitError
from probes.scan.early_exit import Boundary, calibrated, drawn_at_random, largest_move, mean_of, prompts_needed

SEEDS = 8


def test_hand_arithmetic():
    # means 3, 5/2, 2: moves 1 / sqrt(1 - 1/3) and 0.5 / sqrt(1/2 - 1/3)
    assert largest_move([3.0, 2.0, 1.0]) == pytest.approx(max(1 / math.sqrt(2 / 3), 0.5 / math.sqrt(1 / 6)))
    assert prompts_needed(0.01) == 99 and prompts_needed(0.05) == 19
    moves = [[float(n), 0.0] for n in range(1, 100)]  # mean_1 - mean_2 = n / 2, in units of sqrt(1/2)
    assert calibrated(moves, 5.0, 0.01).width == pytest.approx(99 / 2 / math.sqrt(0.5))
    assert calibrated(moves, 5.0, 0.10).width == pytest.approx(90 / 2 / math.sqrt(0.5))


def test_decisions():
    boundary = Boundary(threshold=10.0, width=2.0, seeds=4, error=0.01, pilot=99)
    assert boundary.distance(1) == pytest.approx(2 * math.sqrt(0.75)) and boundary.distance(4) == 0.0
    assert boundary.decision([12.0]) is True and boundary.decision([8.0]) is False
    assert boundary.decision([11.0]) is None and boundary.decision([11.0, 11.5]) is True
    assert boundary.decision([10.1, 10.1, 10.1, 10.1]) is True and boundary.decision([10.0] * 4) is False
    assert boundary.decision([12.0, None]) is None and boundary.decision([]) is None
    assert mean_of([1.0, None, 3.0]) == 2.0


SHAPES = {
    "normal": lambda draw: draw.gauss(0, 1),
    "heavy tails": lambda draw: draw.gauss(0, 1) / draw.uniform(0.05, 1),
    "skewed": lambda draw: draw.expovariate(1),
}


def population(draw, shape, count):
    """Prompts with their own mean and their own spread, so that no common standard deviation holds."""
    found = []
    for _ in range(count):
        middle, spread = draw.gauss(0, 2), draw.uniform(0.2, 2)
        found.append([middle + spread * SHAPES[shape](draw) for _ in range(SEEDS)])
    return found


@pytest.mark.parametrize("error", [0.01, 0.05])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_at_most_what_is_stated(shape, error):
    """Over many pilots and new prompts, at a threshold in the middle of the population: the worst place."""
    draw, wrong, total, used = random.Random(1), 0, 0, 0
    for _ in range(60):
        boundary = calibrated(population(draw, shape, 199), 0.0, error)
        for scores in population(draw, shape, 100):
            count = next(n for n in range(1, SEEDS + 1) if boundary.decision(scores[:n]) is not None)
            wrong += boundary.decision(scores[:count]) != (mean(scores) > 0.0)
            total, used = total + 1, used + count
    assert wrong / total <= error and used < SEEDS * total


def test_prompts_far_from_the_threshold_stop_at_the_first_seed():
    draw = random.Random(2)
    boundary = calibrated([[draw.gauss(0, 1) for _ in range(SEEDS)] for _ in range(199)], 30.0, 0.01)
    assert all(boundary.decision([draw.gauss(0, 1)]) is False for _ in range(500))


def test_a_boundary_that_is_too_narrow_fails_the_error_test():
    """What the test above would miss if it could not fail: a tenth of the width decides far more prompts wrongly."""
    draw = random.Random(3)
    boundary = calibrated(population(draw, "normal", 199), 0.0, 0.01)
    narrow = Boundary(0.0, boundary.width / 10, SEEDS, 0.01, 199)
    wrong = [
        narrow.decision(scores[:1]) not in (None, mean(scores) > 0.0) for scores in population(draw, "normal", 2000)
    ]
    assert sum(wrong) / 2000 > 0.01


def test_pilots_that_say_too_little():
    with pytest.raises(EarlyExitError, match="at least 99 prompts; there are 98"):
        calibrated([[1.0, 2.0]] * 98, 0.0, 0.01)
    for pilot in ([[1.0]] * 200, [[1.0, 2.0], [1.0, 2.0, 3.0]], []):
        with pytest.raises(EarlyExitError, match="same number of seeds"):
            calibrated(pilot, 0.0, 0.01)


def test_every_prompt_is_as_likely_to_be_in_the_pilot():
    counts = [0] * 20
    for seed in range(4000):
        chosen = drawn_at_random(range(20), 5, seed)
        assert chosen == sorted(set(chosen)) and len(chosen) == 5
        for item in chosen:
            counts[item] += 1
    assert all(abs(count - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75) for count in counts)
    assert drawn_at_random(range(3), 5) == [0, 1, 2]
