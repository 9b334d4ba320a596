"""The order of rows: a function of seed and epoch alone, in whole batches, like lengths together."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
import train_world
from hypothesis import given
from hypothesis import strategies as st
from omnivision_train import run_data
from omnivision_train.config import SftConfig
from omnivision_train.data import Order
from test_train_resume import Killed, die, interrupt

from omnivision.data.rows import Row


def batches(order, size):
    return [order[k : k + size] for k in range(0, len(order), size)]


@given(st.lists(st.integers(1, 900), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 3), st.booleans())
def test_every_row_comes_once_and_the_last_batch_is_filled_up(lengths, batch, epoch, grouped):
    sampler = Order(len(lengths), batch, seed=4, lengths=lengths if grouped else None)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order[: len(lengths)]) == list(range(len(lengths)))
    assert len(order) == len(sampler) and len(order) % batch == 0 and len(order) - len(lengths) < batch
    assert order[len(lengths) :] == (order * batch)[: len(order) - len(lengths)]  # with the epoch's first rows, again and again
    assert order == list(sampler)
    if grouped and len(lengths) <= Order.WINDOW * batch:  # within one window whole batches do not interleave
        whole = batches(order[: len(lengths) // batch * batch], batch)
        bounds = sorted((min(cut), max(cut)) for cut in ([lengths[i] for i in one] for one in whole))
        assert all(longest <= shortest for (_, longest), (shortest, _) in zip(bounds, bounds[1:], strict=False))


@given(st.integers(1, 60), st.sampled_from([(1, 8), (2, 4), (4, 2), (8, 1)]), st.integers(0, 2))
def test_any_number_of_processes_sees_the_same_global_batches(rows, split, epoch):
    from torch.utils.data import BatchSampler

    ranks, each = split
    sampler = Order(rows, ranks * each, seed=1)
    sampler.set_epoch(epoch)
    whole = batches(list(sampler), 8)
    shared = list(BatchSampler(sampler, each, drop_last=False))  # accelerate gives batch k to process k modulo their number
    assert [sum((shared[k + rank] for rank in range(ranks)), []) for k in range(0, len(shared), ranks)] == whole


def test_epochs_and_seeds_differ_and_batches_are_not_sorted():
    lengths = random.Random(0).choices(range(100, 500), k=800)
    orders = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        sampler = Order(len(lengths), 8, seed, lengths)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert len({tuple(order) for order in orders}) == 3
    firsts = [lengths[order] for order in orders[0][::8]]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)


def test_padding_is_a_tenth_of_that_of_a_random_order():
    lengths = random.Random(0).choices(range(100, 500), k=2000)

    def padding(order):
        cut = [[lengths[i] for i in batch] for batch in batches(order, 8)]
        return sum(len(batch) * max(batch) - sum(batch) for batch in cut)

    assert padding(list(Order(2000, 8, 0, lengths))) < 0.1 * padding(list(Order(2000, 8, 0)))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.data())
def test_a_mixture_takes_whole_passes_over_its_files_one_after_another(sizes, data):
    passes = data.draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0]), min_size=len(sizes), max_size=len(sizes)))
    parts = [part for part, size in enumerate(sizes) for _ in range(size)]
    sampler, seen = Order(len(parts), 1, 7, None, parts, passes), Counter()
    for epoch in range(4):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler) == sum(max(1, round(size * share)) for size, share in zip(sizes, passes, strict=True))
        seen.update(order)
        for part in range(len(sizes)):  # no row is seen twice more often than another of its file
            counts = [seen[row] for row, its in enumerate(parts) if its == part]
            assert max(counts) - min(counts) <= 1


def test_the_place_in_a_mixture_is_seed_epoch_and_step():
    parts = [0] * 50 + [1] * 7
    orders = {}
    for epoch in (2, 0, 1, 2):  # in any order, from nothing but the numbers
        sampler = Order(57, 4, 3, list(range(57)), parts, [0.5, 2.0])
        sampler.set_epoch(epoch)
        orders.setdefault(epoch, []).append(list(sampler))
    assert orders[2][0] == orders[2][1] and orders[0][0] != orders[1][0]
    first_half = {row for epoch in (0, 1) for row in orders[epoch][0] if row < 50}
    assert len(first_half) == 50  # two half passes are a whole one


def test_weights_are_shares_of_an_epoch():
    rows = [Row(id=str(n), images=(), source=f"x:{n}", part=int(n >= 90)) for n in range(100)]
    found = run_data.passes(SftConfig(data=["a", "b"], weights=[1.0, 3.0]), rows)
    order = Order(100, 1, 0, None, [row.part for row in rows], found)
    assert Counter(rows[one].part for one in order) == {0: 25, 1: 75}
    assert run_data.passes(SftConfig(data=["a", "b"]), rows) is None


def test_loaders_that_live_on_give_the_rows_of_one_process(tmp_path_factory, tmp_path, monkeypatch):
    """Over three epochs, and after a resume in the second."""
    world = train_world.world(tmp_path_factory)
    steps = {"max_steps": 9, "batch_size": 4, "save_steps": 4}
    plain = train_world.losses(train_world.train(train_world.settings(world, tmp_path / "plain", "sft", **steps), "sft"))
    config = train_world.settings(world, tmp_path / "workers", "sft", workers=1, **steps)
    with monkeypatch.context() as patch:
        interrupt(patch, 5, die)
        with pytest.raises(Killed):
            train_world.train(config, "sft")
    assert train_world.losses(train_world.train(config, "sft")) == plain


def test_training_keeps_no_keys_and_values(tmp_path_factory):
    model, processor = train_world.build(train_world.world(tmp_path_factory))
    ids = torch.ones(1, 8, dtype=torch.long)
    assert model.train()(input_ids=ids, labels=ids).past_key_values is None
    assert model.eval()(input_ids=ids).past_key_values is not None
