"""The order of draws: exact exposures, twins that differ in the works alone."""

import numpy as np
import pytest

from probes.testbed.training import pool
from shield.errors import ShieldError

PLAN = pool.PoolPlan(base=30, fork=40, batch=10, fresh=0.27)


def test_a_fork_shows_each_work_exactly_as_often_as_planned() -> None:
    exposures = [0, 2, 100]
    order = pool.fork_order(PLAN, exposures)
    assert np.bincount(order.index[order.stream == 2], minlength=3).tolist() == exposures
    assert len(order.stream) == PLAN.batch * PLAN.fork


def test_the_clean_fork_differs_in_the_work_slots_alone_and_no_other_picture_comes_twice() -> None:
    order = pool.fork_order(PLAN, [2, 100])
    twin = pool.clean(order)
    slots = order.stream == 2
    assert np.array_equal(order.stream[~slots], twin.stream[~slots])
    assert np.array_equal(order.index[~slots], twin.index[~slots])
    assert set(twin.stream[slots]) == {3}
    for number, stream in enumerate(pool.STREAMS):
        if stream != "works":
            assert sorted(twin.index[twin.stream == number]) == list(range(twin.count(stream)))


def test_works_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ShieldError, match="at least a fifth"):
        pool.fork_order(PLAN, [600])
