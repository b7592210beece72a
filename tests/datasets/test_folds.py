"""The folds of a cross-validation: every image in one, every class in equal parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import resight
from resight.datasets import Dataset, Split
from resight.datasets.splits import in_fold, train_and_val
from resight.errors import UsageError
from resight.recipe import Fold
from tiny_runs import tiny_recipe


def split_of(labels: list[int]) -> Split:
    images = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    return Split(images, torch.tensor(labels), tuple(map(str, range(len(labels)))))


def folds_of(split: Split, count: int, seed: int) -> Tensor:
    """(count, N) bool."""
    return torch.stack([in_fold(split, Fold(index=k, count=count), seed) for k in range(count)])


@given(
    counts=st.lists(st.integers(2, 23), min_size=2, max_size=6),
    count=st.integers(2, 4),
    seed=st.integers(0, 9),
)
def test_folds_divide_the_images_and_every_class_evenly(
    counts: list[int], count: int, seed: int
) -> None:
    labels = [label for label, n in enumerate(counts) for _ in range(n)]
    folds = folds_of(split_of(labels), count, seed)
    assert (folds.sum(dim=0) == 1).all()
    sizes = folds.sum(dim=1)
    assert sizes.max() - sizes.min() <= 1
    for label in range(len(counts)):
        of_class = folds[:, torch.tensor(labels) == label].sum(dim=1)
        assert of_class.max() - of_class.min() <= 1
        assert (of_class < counts[label]).all()  # some are left to train on


def test_the_seed_decides_the_folds() -> None:
    split = split_of([0, 1] * 20)
    assert torch.equal(folds_of(split, 4, seed=1), folds_of(split, 4, seed=1))
    assert not torch.equal(folds_of(split, 4, seed=1), folds_of(split, 4, seed=2))


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UsageError, match="3 training images cannot be 5 folds"):
        in_fold(split_of([0, 0, 1]), Fold(index=0, count=5), 0)
    with pytest.raises(UsageError, match="4 is the only training image of its class"):
        in_fold(split_of([0, 0, 1, 1, 2]), Fold(index=0, count=2), 0)


def test_a_fold_validates_and_the_other_images_train(tiny: Dataset) -> None:
    recipe = tiny_recipe("data.fold.index=1", "data.fold.count=4")
    train, val = train_and_val(tiny, recipe)
    assert val is not None
    inside = in_fold(tiny.train, Fold(index=1, count=4), recipe.seed)
    assert val.ids == tuple(id for id, here in zip(tiny.train.ids, inside, strict=True) if here)
    assert set(train.ids) | set(val.ids) == set(tiny.train.ids)
    assert not set(train.ids) & set(val.ids)


def test_a_recipe_with_a_fold_has_validation() -> None:
    recipe = tiny_recipe("data.val_fraction=none", "data.fold.index=0")  # selects by val_accuracy
    assert resight.from_toml(resight.to_toml(recipe)) == recipe
    with pytest.raises(UsageError, match="index = 5 is none of 5 folds"):
        tiny_recipe("data.fold.index=5")
