"""Agreement over seeds: near-duplicates of one prompt beside those of benign prompts."""

import numpy as np
import pytest
from PIL import Image

from probes.metrics.agreement import agreement
from probes.metrics.statistics import wilson
from shield.errors import NotCalibratedError


def noise(seed, blurred=8):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (blurred, blurred, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC)


def nearly(picture, seed):
    """The picture with a little noise."""
    values = np.asarray(picture, dtype=float) + np.random.default_rng(seed).normal(0, 3, (64, 64, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


BENIGN = {f"benign {n}": [noise(100 * n + seed) for seed in range(3)] for n in range(1, 11)}


def test_a_memory_agrees_and_is_told_from_benign_prompts():
    own = {
        "other": [noise(seed) for seed in (1, 2, 3)],
        "memory": [nearly(noise(4), seed) for seed in range(3)],
        "half": [noise(5), nearly(noise(5), 9), noise(6)],
    }
    found = agreement(own, BENIGN)
    assert [(row["item"], row["share"]) for row in found["prompts"]] == [
        ("memory", 1.0),
        ("half", 1 / 3),
        ("other", 0.0),
    ]
    assert [row["p"] for row in found["prompts"]] == pytest.approx([1 / 11, 1 / 11, 1.0])
    assert found["prompts"][0]["nearest"] < found["threshold"] < found["prompts"][2]["nearest"]
    assert (found["own"]["agreeing"], found["own"]["n"]) == (2, 3) and found["benign"]["agreeing"] == 0
    (_, high), rate = wilson(0, 10), 2 / 3
    assert found["gap"] == pytest.approx(rate)
    assert found["low"] == pytest.approx(rate - np.hypot(rate - wilson(2, 3)[0], high))


def test_benign_prompts_that_agree_raise_p():
    own = {"memory": [nearly(noise(4), seed) for seed in range(3)]}
    plain = {**BENIGN, "plain": [nearly(noise(7), seed) for seed in range(3)]}
    found = agreement(own, plain)
    assert found["prompts"][0]["p"] == pytest.approx(2 / 12) and found["benign"]["agreeing"] == 1


def test_one_seed_says_nothing_and_two_benign_prompts_are_too_few():
    found = agreement({"own": [noise(1)]}, BENIGN)
    assert found["gap"] is None and found["prompts"] == []
    with pytest.raises(NotCalibratedError):
        agreement({}, {"a": BENIGN["benign 1"], "b": BENIGN["benign 2"]})
