"""Batches: order, sizes, and what happens when one doesn't fit."""

import pytest
import torch

from probes.errors import MemoryFullError
from probes.model.batches import in_batches
from probes.runs.cost import counted


def test_results_keep_the_order_and_batches_their_size():
    seen, told = [], []
    results = in_batches(
        lambda batch: [seen.append(len(batch)) or item * 2 for item in batch],
        range(5),
        2,
        lambda done, total: told.append((done, total)),
    )
    assert results == [0, 2, 4, 6, 8] and max(seen) == 2
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert in_batches(list, [], 4) == []


def test_a_batch_that_doesnt_fit_is_halved():
    sizes = []

    def work(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    with pytest.warns(UserWarning, match="A batch of 10 doesn't fit in memory; going on with 5"):
        assert in_batches(work, list(range(10)), 10) == list(range(10))
    assert sizes == [10, 5, 2, 2, 2, 2, 2]


def test_one_item_that_doesnt_fit_is_an_error():
    def work(batch):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.warns(UserWarning), pytest.raises(MemoryFullError, match="one item at a time"):
        in_batches(work, [1, 2], 2)


def test_other_errors_pass_through():
    def work(batch):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        in_batches(work, [1, 2], 2)
    with pytest.raises(ValueError, match="gave 1 results"):
        in_batches(lambda batch: [0], [1, 2], 2)
    with pytest.raises(ValueError, match="batch_size"):
        in_batches(list, [1], 0)


def test_cost_counts_rows_and_leaves_no_hook():
    layer = torch.nn.Linear(2, 2)
    with counted(layer) as cost:
        layer(torch.zeros(3, 2))
        layer(input=torch.zeros(4, 2))
    assert cost.evaluations == 3 + 1  # an unknown argument name counts as one call
    assert not layer._forward_pre_hooks
