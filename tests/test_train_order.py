"""The order of rows: like lengths together, a function of seed and epoch alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from omnivision_train.data import ByLength


@given(st.lists(st.integers(1, 900), max_size=300), st.integers(1, 9), st.integers(0, 3))
def test_every_row_comes_once_and_only_the_last_batch_is_short(lengths, batch, epoch):
    sampler = ByLength(lengths, batch, seed=4)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths))) and len(sampler) == len(lengths)
    assert order == list(sampler)
    bounds = sorted((min(cut), max(cut)) for cut in ([lengths[i] for i in order[k : k + batch]] for k in range(0, len(order) // batch * batch, batch)))
    if len(order) <= ByLength.WINDOW * batch:  # within one window batches do not interleave
        assert all(longest <= shortest for (_, longest), (shortest, _) in zip(bounds, bounds[1:], strict=False))


def test_epochs_and_seeds_differ_and_batches_are_not_sorted():
    lengths = random.Random(0).choices(range(100, 500), k=800)
    orders = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        sampler = ByLength(lengths, 8, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert len({tuple(order) for order in orders}) == 3
    firsts = [lengths[order] for order in orders[0][::8]]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)


def test_padding_is_a_tenth_of_that_of_a_random_order():
    lengths = random.Random(0).choices(range(100, 500), k=2000)

    def padding(order):
        batches = [[lengths[i] for i in order[k : k + 8]] for k in range(0, len(order), 8)]
        return sum(len(batch) * max(batch) - sum(batch) for batch in batches)

    assert padding(list(ByLength(lengths, 8, 0))) < 0.1 * padding(random.Random(1).sample(range(2000), 2000))
