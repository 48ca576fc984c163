import numpy as np
import pytest

from shield.calibration.trajectories import budget_shares, draws_needed, joint_thresholds, smallest_joint_rate
from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError
from shield.runtime.trajectory import detectors_at
from shield.thresholds import Setting

SETTING = Setting("a" * 64, (4, 8, 8), (999.0,), 25, 5.0, "DDIMScheduler", "epsilon", "float32")


ONE = (StructureGap(),)


def thresholds(table, detectors=ONE, points=(0.0, 0.5), fpr=0.1):
    asked = detectors_at(detectors, points)
    scores = dict(zip(asked, np.asarray(table, dtype=float), strict=True))
    return joint_thresholds(asked, scores, dict.fromkeys(asked, SETTING), fpr, "m")


def test_by_hand():
    """Draws 0, 4, 8 .. give scales; of the 9 others the largest of both looks decides."""
    early = [0, 1, 2, 3, 10, 4, 5, 6, 20, 7, 8, 9]
    late = [0.0] * 12
    late[4] = late[8] = (
        1.0  # fitted middle 1, ninth decile 1: spread is next to nothing, so that it never is the largest
    )
    late = [0, -1, -1, -1, 2, -1, -1, -1, 4, -1, -1, -1]
    one, two = thresholds([early, late])
    middle, spread = 10.0, 18.0 - 10.0  # of 0, 10, 20
    limit = max((value - middle) / spread for value in (1, 2, 3, 4, 5, 6, 7, 8, 9))
    assert one.value == pytest.approx(middle + limit * spread) == pytest.approx(9.0)
    assert two.value == pytest.approx(2.0 + limit * (3.6 - 2.0))
    assert one.negatives == 9 and one.fpr == 0.1 and one.provenance["draws_for_scale"] == 3


@pytest.mark.parametrize("detectors", [(StructureGap(),), (StructureGap(), NoiseGap())], ids=["one", "hedged"])
def test_all_looks_together_flag_no_more_than_the_budget(detectors):
    """400 calibrations on 160 draws, dependent looks of different scales; 5 % budget."""
    random, flagged = np.random.default_rng(0), []
    looks = 2 * len(detectors)
    scale = np.array([1.0, 30.0, 0.1, 5.0])[:looks, None]
    for _ in range(400):
        shared = random.lognormal(size=(1, 260))
        table = scale * (shared + random.lognormal(sigma=1.2, size=(looks, 260)))
        limits = [t.value for t in thresholds(table[:, :160], detectors, fpr=0.05)]
        flagged.append((table[:, 160:] > np.array(limits)[:, None]).any(axis=0).mean())
    rate, error = np.mean(flagged), np.std(flagged) / 20
    assert rate < 0.05 + 2 * error
    assert rate > 0.025  # and no budget is thrown away


def test_thresholds_made_one_by_one_would_flag_more():
    random = np.random.default_rng(1)
    table = random.normal(size=(3, 4000))
    made = thresholds(table, points=(0.0, 0.3, 0.6), fpr=0.05)
    assert all((row > t.value).mean() < 0.03 for row, t in zip(table, made, strict=True))


def test_the_first_detector_keeps_half_of_the_budget():
    assert budget_shares(1) == [1.0] and budget_shares(2) == [0.5, 0.5] and budget_shares(3) == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(("fpr", "detectors"), [(0.1, 1), (0.01, 1), (0.01, 2), (0.2, 3)])
def test_how_many_draws_a_rate_needs(fpr, detectors):
    needed = draws_needed(fpr, detectors)
    assert smallest_joint_rate(needed, detectors) <= fpr + 1e-12 < smallest_joint_rate(needed - 2, detectors)
    some = (StructureGap(), NoiseGap(), StructureGap(cycles=3.0))[:detectors]
    table = np.random.default_rng(2).normal(size=(2 * detectors, needed))
    assert len(thresholds(table, some, fpr=fpr)) == 2 * detectors
    with pytest.raises(BadRequestError, match="needs at least"):
        thresholds(table[:, : needed - 2], some, fpr=fpr)
