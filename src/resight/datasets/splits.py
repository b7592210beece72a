"""Which images train, validate and test: the split that a name means, and what stands in for what.

A reader gives the splits that the owner of the data made. A verb needs others: training always
needs a test split and mostly a validation split, evaluation needs one labeled split. Only the
functions here decide which images take the place of a missing split, and they say so.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..recipe import Fold, Recipe
from .dataset import Dataset, Split
from .readers.contents import LoadedData, SplitName

_TEST_FRACTION = 0.2  # held out of sources without a test split
_TEST_SEED = 0

_WORDS: dict[str, SplitName | Literal["unlabeled"]] = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "t10k"), "test"),
    **dict.fromkeys(("pred", "predict", "prediction", "unlabeled"), "unlabeled"),
}
# Words that often stand beside the name of a split and say nothing of it.
_FILLERS = (
    *("set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "pictures"),
    *("photos", "labels", "label", "seg", "folder", "files", "x", "y", "jpg", "jpeg", "png"),
)


@lru_cache(maxsize=10_000)  # the same few folders are asked of every file
def split_of(name: str) -> SplitName | Literal["unlabeled"] | None:
    """Return the split that the name of a folder, file or array means; None if it means none.

    `train`, `Training`, `training_set`, `train_images`, `seg_train`, `trainset`, `x_train` and
    `train2017` all mean train. A file is given without its suffix.
    """
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    if "".join(words) == "t10k" or words[:3] == ["t", "10", "k"]:
        return "test"
    rest = [word for word in words if word not in _FILLERS and not word.isdigit()]
    if len(rest) != 1:
        return None
    [word] = rest
    for filler in ("", *_FILLERS):
        stem = word.removesuffix(filler) if len(filler) > 1 else word
        if split := _WORDS.get(stem.replace("ll", "l")):  # British spelling
            return split
    return None


def split_in(name: str) -> SplitName | Literal["unlabeled"] | None:
    """Return the split that a word in the name of a file means: `fashion-mnist_train-00-of-02`.

    It is None if no word means one, or words mean several.
    """
    name = re.sub(r"-\d+-of-\d+.*", "", name)
    splits = {split for word in re.split(r"[-_. ]", name) if (split := split_of(word))}
    return splits.pop() if len(splits) == 1 else split_of(name)


def for_training(name: str, loaded: LoadedData) -> Dataset:
    """Return the data set to train with; a missing test split is held out of train.

    A validation split that the owner gave stays one, and never stands in for the test split: what
    chooses the best epoch cannot also say how good it is.

    Raises:
        UsageError: there is nothing to train on, or a class has no training image.
    """
    classes, train, test, notes = loaded.classes, loaded.train, loaded.test, loaded.notes
    twice = [word for word, count in Counter(classes).items() if count > 1]
    if twice:
        raise UsageError(f"data {name!r} has two classes of the name {twice[0]!r}; rename one")
    if len(classes) < 2:
        raise UsageError(f"data {name!r} has {len(classes)} class; at least 2 are needed")
    if train is None or not len(train):
        there = " and ".join(loaded.splits) or "nothing"
        raise UsageError(f"data {name!r} has no training images (it has {there}); add some")
    absent = sorted(set(range(len(classes))) - set(train.labels.tolist()))
    if absent:
        raise UsageError(
            f"data {name!r} has no training image of class {classes[absent[0]]!r}; add some, or "
            "remove the class"
        )
    if test is None:
        train, test = hold_out(train, _TEST_FRACTION, _TEST_SEED)
        notes = (*notes, f"no test split: {len(test):,} images, 20 % of each class, were held out")
    if not len(test):
        raise UsageError(f"data {name!r} has no test images")
    return Dataset(name, classes, train, test, notes, loaded.val)


def train_and_val(dataset: Dataset, recipe: Recipe) -> tuple[Split, Split | None]:
    """Return the images to train on and to validate by, as the recipe's `[data]` says.

    A fold comes first. The owner's validation split is used if there is one; otherwise
    `val_fraction` of the training images is held out. A fraction of None means to train without
    validation.
    """
    if recipe.data.fold is not None:
        inside = in_fold(dataset.train, recipe.data.fold, recipe.seed)
        train, val = (dataset.train.select(part.nonzero().flatten()) for part in (~inside, inside))
        return train, val
    if recipe.data.val_fraction is None:
        return dataset.train, None
    if dataset.val is not None:
        return dataset.train, dataset.val
    return hold_out(dataset.train, recipe.data.val_fraction, recipe.seed)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split into (train, val), with `fraction` of every class in val.

    Only the labels, the fraction and the seed decide. Every class keeps at least one image in
    train, and has one in val if it has two. Rows stay in order within each part.

    Raises:
        UsageError: the fraction is not between 0 and 1, or no class has two images.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"fraction to hold out = {fraction} must lie between 0 and 1")
    labels = split.labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    in_val = torch.zeros(len(labels), dtype=torch.bool)
    counts = np.unique(labels.numpy(), return_counts=True)[1].tolist()
    for rows in torch.split(labels.argsort(stable=True), counts):  # class by class
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        in_val[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    if not in_val.any():
        raise UsageError("no class has two images, so none can be held out; add images")
    train, val = (split.select(part.nonzero().flatten()) for part in (~in_val, in_val))
    return train, val


def in_fold(split: Split, fold: Fold, seed: int) -> Tensor:
    """Return which of N images a fold of a stratified cross-validation has: (N,) bool.

    Each image lies in one fold. Of every class, and in all, two folds have equally many images up
    to one. Only the labels, the number of folds and the seed decide.

    Raises:
        UsageError: a class has one image, which could not be trained on when its fold validates,
            or there are fewer images than folds.
    """
    labels = split.labels.cpu()
    counts = labels.bincount()
    if len(labels) < fold.count:
        raise UsageError(
            f"{len(labels)} training images cannot be {fold.count} folds; take fewer folds"
        )
    if (counts == 1).any():
        alone = split.ids[int((counts[labels] == 1).nonzero()[0])]
        raise UsageError(
            f"{alone} is the only training image of its class, so nothing would be left to train "
            "on when its fold validates; add images, or leave it out by data.exclude"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]  # class by class, each shuffled
    inside = torch.zeros(len(labels), dtype=torch.bool)
    inside[by_class[fold.index :: fold.count]] = True
    return inside


def for_evaluation(
    name: str, loaded: LoadedData, split: SplitName | Literal["all"] | None = None
) -> tuple[Split, str]:
    """Return the images to evaluate on, and a line that says which they are.

    Without `split` this is the test split, else the validation split, else everything.

    Raises:
        UsageError: the source has no such split.
    """
    splits = loaded.splits
    if split is None:
        split = next((word for word in ("test", "val") if word in splits), "all")
    if split != "all":
        if split not in splits:
            raise UsageError(
                f"data {name!r} has no {split} split; it has {', '.join(splits)} (or take all)"
            )
        return splits[split], f"{len(splits[split]):,} images of the {split} split"
    images = joined([*splits.values()])
    which = f" ({', '.join(splits)})" if len(splits) > 1 else ""
    return images, f"all {len(images):,} images{which}"


def joined(parts: Sequence[Split]) -> Split:
    """Return the images of several splits of one data set as one."""
    if len(parts) == 1:
        return parts[0]
    return Split(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        (id for part in parts for id in part.ids),
        parts[0].originals,
    )
