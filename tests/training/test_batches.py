"""Batch k of epoch e depends on (seed, e, k) alone, and an epoch is every image exactly once."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.datasets import Split, Statistics
from resight.datasets.augment import denormalize, normalize
from resight.errors import UsageError
from resight.recipe import Augment, Crop, Cutout
from resight.training.batches import (
    balanced_order,
    epoch_order,
    eval_batches,
    mix_seed,
    step_generator,
    steps_per_epoch,
    train_batches,
)
from resight.training.distributed import Rank

STATS = Statistics(mean=(0.5,), std=(0.25,))
SPEC = Augment(crop=Crop(pad=3), flip="random", cutout=Cutout(min_px=2, max_px=4))


def split_of(n, *, equal=False):
    """Images of noise, or all the same one; the label is the row."""
    generator = torch.Generator().manual_seed(9)
    shape = (1 if equal else n, 1, 8, 8)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    ids = tuple(str(row) for row in range(n))
    return Split(images=images.expand(n, 1, 8, 8).contiguous(), labels=torch.arange(n), ids=ids)


def batches_of(split, spec=SPEC, *, batch_size=8, seed=0, epoch=0, first_step=0):
    options = {"batch_size": batch_size, "seed": seed, "epoch": epoch, "first_step": first_step}
    return list(train_batches(split, spec, STATS, **options))


def same(batches, others):
    pairs = zip(itertools.chain(*batches), itertools.chain(*others), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- seeds and order --------------------------------------------------------------------------


def test_mix_seed_is_splitmix64():
    # First outputs of SplitMix64 for the states 0 and 1234567, from its reference code.
    assert mix_seed(0) == 0xE220A8397B1DCDAF >> 1
    assert mix_seed(1234567) == 6457827717110365317 >> 1


def test_mix_seed_tells_neighbors_and_orders_apart():
    parts = [(s, e, k, p) for s in range(6) for e in range(6) for k in range(60) for p in (1, 2)]
    seeds = [mix_seed(*x) for x in parts]
    low = {seed & 0xFFFFFFFF for seed in seeds}  # the bits that a CPU generator reads
    assert len(low) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    ones = [sum(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    five_sigma = 2.5 * len(seeds) ** 0.5
    assert all(abs(count - len(seeds) / 2) < five_sigma for count in ones)


@given(st.lists(st.integers(-(2**70), 2**70), max_size=5))
def test_mix_seed_takes_any_integers(parts):
    assert 0 <= mix_seed(*parts) < 2**63


@given(st.integers(0, 200), st.integers(0, 2**32 - 1), st.integers(0, 10_000))
def test_epoch_order_is_a_permutation_of_seed_and_epoch(n, seed, epoch):
    order = epoch_order(n, seed, epoch)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(n))
    assert torch.equal(order, epoch_order(n, seed, epoch))


def test_orders_of_other_epochs_and_seeds_have_nothing_in_common():
    orders = [epoch_order(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    orders.append(torch.arange(1000))
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order == other).sum() < 8  # 1 is expected; 8 or more: once in 100,000


def test_step_generators_differ_in_seed_epoch_and_step():
    cpu = torch.device("cpu")
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = [torch.rand(4, generator=step_generator(*key, cpu)).tolist() for key in keys]
    assert len({tuple(draw) for draw in draws}) == len(keys)
    again = torch.rand(4, generator=step_generator(0, 0, 1, cpu)).tolist()
    assert again == draws[-1]


@given(st.integers(1, 500), st.integers(1, 100))
def test_steps_per_epoch_counts_the_slices_but_for_a_single_image_left_over(n, batch_size):
    sizes = [min(batch_size, n - first) for first in range(0, n, batch_size)]
    wanted = sizes if batch_size == 1 else [size for size in sizes if size > 1] or sizes[:1]
    assert steps_per_epoch(n, batch_size) == len(wanted)


@pytest.mark.parametrize("batch_size", [0, -4])
def test_a_batch_size_below_one_is_refused(batch_size):
    message = f"^batch_size = {batch_size} must be at least 1$"
    with pytest.raises(UsageError, match=message):
        batches_of(split_of(4), batch_size=batch_size)
    with pytest.raises(UsageError, match=message):
        list(eval_batches(split_of(4), STATS, batch_size=batch_size))


# --- a balanced order -------------------------------------------------------------------------

SIZES = (100, 0, 30, 2)  # images of each class
CLASS_OF = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))[
    torch.randperm(132, generator=torch.Generator().manual_seed(2))
]


def counts_of(order):
    return torch.bincount(CLASS_OF[order], minlength=4).tolist()


@pytest.mark.parametrize(
    ("balance", "counts"),
    [
        ("balanced", [44, 0, 44, 44]),
        (1.0, [44, 0, 44, 44]),
        # roots 10, 5.477 and 1.414, of 16.891 in all: 78.147, 42.801 and 11.051 of 132
        (0.5, [78, 0, 43, 11]),
        (1e-9, [100, 0, 30, 2]),
    ],
)
def test_a_balanced_order_draws_classes_by_a_power_of_their_size(balance, counts):
    for epoch in range(3):
        assert counts_of(balanced_order(CLASS_OF, balance, seed=1, epoch=epoch)) == counts


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
def test_every_class_with_images_is_in_every_epoch(sizes, balance, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = balanced_order(labels, balance, seed=seed, epoch=3)
    assert order.shape == labels.shape
    assert order.dtype == torch.int64
    assert set(labels[order].tolist()) == set(labels.tolist())


def test_no_image_comes_again_before_all_of_its_class_have_come_over_epochs():
    orders = [balanced_order(CLASS_OF, "balanced", seed=7, epoch=epoch) for epoch in range(40)]
    for label, size in enumerate(SIZES):
        seen = [sorted(order[CLASS_OF[order] == label].tolist()) for order in orders]
        uses = torch.zeros(132, dtype=torch.int64)
        for rows in seen:
            uses += torch.bincount(torch.tensor(rows, dtype=torch.int64), minlength=132)
            own = uses[label == CLASS_OF].tolist()
            assert max(own, default=0) - min(own, default=0) <= 1
        assert sum(map(len, seen)) == (1760 if size else 0)
    # The 44 of 100 are others in the next epoch.
    large = [set(order[CLASS_OF[order] == 0].tolist()) for order in orders]
    assert not large[0] & large[1]


def test_a_balanced_order_depends_on_seed_and_epoch_alone_and_mixes_the_classes():
    order = balanced_order(CLASS_OF, "balanced", seed=0, epoch=5)
    torch.rand(3)
    assert torch.equal(order, balanced_order(CLASS_OF, "balanced", seed=0, epoch=5))
    others = [
        balanced_order(CLASS_OF, "balanced", seed=seed, epoch=epoch)
        for seed, epoch in [(0, 4), (0, 6), (1, 5)]
    ]
    for other in others:
        assert (CLASS_OF[order] == CLASS_OF[other]).sum() < 70  # 44 are expected; 5 deviations
    halves = counts_of(order[:66])
    assert all(10 < halves[k] < 34 for k in (0, 2, 3))  # 22 are expected


def test_balanced_batches_are_shared_by_ranks_and_go_on_in_the_middle():
    split = replace(split_of(132), labels=CLASS_OF)
    options = {"batch_size": 10, "seed": 3, "epoch": 2, "balance": "balanced"}
    whole = list(train_batches(split, SPEC, STATS, **options))
    assert sum(len(labels) for _, labels in whole) == 132  # as without
    order = balanced_order(CLASS_OF, "balanced", seed=3, epoch=2)
    assert torch.equal(torch.cat([labels for _, labels in whole]), CLASS_OF[order])
    assert same(train_batches(split, SPEC, STATS, **options, first_step=4), whole[4:])
    ranks = [
        list(train_batches(split, SPEC, STATS, **options, rank=Rank(index, 3)))
        for index in range(3)
    ]
    for batch, *parts in zip(whole, *ranks, strict=True):
        joined = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
        if len(batch[1]) >= 6:  # a smaller one goes whole to each rank
            assert same([joined], [batch])


# --- batches ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_an_epoch_is_every_image_once_with_its_label(n, batch_size, seed, epoch):
    left_over = n % batch_size == 1 and n > 1  # a single image makes no batch
    split = split_of(n)
    batches = batches_of(split, Augment(), batch_size=batch_size, seed=seed, epoch=epoch)
    assert [len(labels) for _, labels in batches] == [
        min(batch_size, n - start) for start in range(0, n - left_over, batch_size)
    ]
    rows = [row for _, labels in batches for row in labels.tolist()]
    assert rows == epoch_order(n, seed, epoch).tolist()[: n - left_over]
    for images, labels in batches:
        assert images.dtype == torch.float32
        assert torch.equal(denormalize(images, STATS), split.images[labels])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_a_batch_is_the_same_whatever_came_before_it(first_step, seed, epoch):
    split, key = split_of(37), {"seed": seed, "epoch": epoch}
    whole = batches_of(split, **key)
    torch.rand(5)
    assert same(batches_of(split, first_step=first_step, **key), whole[first_step:])


def test_augmentation_differs_in_seed_epoch_and_step():
    split = split_of(16, equal=True)  # so that only the augmentation can differ
    first = batches_of(split)
    views = [first[0][0], first[1][0]]
    views += [batches_of(split, seed=1)[0][0], batches_of(split, epoch=1)[0][0]]
    for i, view in enumerate(views):
        assert all(not torch.equal(view, other) for other in views[:i])
    assert len({tuple(image.flatten().tolist()) for image in views[0]}) == len(views[0])


def test_alternating_flip_mirrors_every_image_in_one_of_two_epochs():
    split = split_of(50)
    spec = Augment(flip="alternating")
    mirrored = torch.zeros(2, 50, dtype=torch.bool)
    for epoch in (0, 1):
        for images, labels in batches_of(split, spec, seed=5, epoch=epoch):
            plain = normalize(split.images[labels], STATS)
            for image, other, row in zip(images, plain, labels, strict=True):
                mirrored[epoch, row] = torch.equal(image, other.flip(2))
                assert mirrored[epoch, row] or torch.equal(image, other)
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert mirrored[0].any()
    assert mirrored[1].any()


def test_the_seed_of_the_run_reaches_the_alternating_flip():
    split, spec = split_of(64, equal=True), Augment(flip="alternating")
    views = []
    for seed in (0, 1):
        ((images, labels),) = batches_of(split, spec, batch_size=64, seed=seed)
        views.append(images[labels.argsort()])
    assert not torch.equal(*views)


def test_eval_batches_keep_the_order_and_only_normalize():
    split = split_of(21)
    batches = list(eval_batches(split, STATS, batch_size=8))
    assert [len(labels) for _, labels in batches] == [8, 8, 5]
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    assert torch.equal(labels, split.labels)
    assert torch.equal(images, normalize(split.images, STATS))


def test_the_global_generator_and_the_split_are_left_as_they_were():
    split, state = split_of(20), torch.get_rng_state()
    images, labels = split.images.clone(), split.labels.clone()
    for batch, answers in [*batches_of(split), *eval_batches(split, STATS, batch_size=20)]:
        batch.zero_()
        if answers.data_ptr() != split.labels.data_ptr():  # evaluation hands out a view
            answers.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(split.images, images)
    assert torch.equal(split.labels, labels)
