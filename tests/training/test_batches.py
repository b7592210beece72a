"""Batch k of epoch e depends on (seed, e, k) alone, and an epoch is every image exactly once."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.datasets import Split, Statistics
from resight.datasets.augment import denormalize, normalize
from resight.errors import UsageError
from resight.recipe import Augment, Crop, Cutout
from resight.training.batches import (
    epoch_order,
    eval_batches,
    mix_seed,
    step_generator,
    steps_per_epoch,
    train_batches,
)

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
