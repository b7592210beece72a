"""Faults in a data set: images in both splits, contradictory labels, classes without images."""

from collections.abc import Iterator
from functools import cached_property
from hashlib import blake2b

import torch

from ..datasets import Dataset, Split, statistics
from .issues import Issue, error, warning


class DatasetProbe:
    """A data set, and a digest of the pixels of each of its images, made once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @cached_property
    def train(self) -> dict[bytes, list[int]]:
        """Digest -> rows of the training split."""
        return _rows(self.dataset.train)

    @cached_property
    def test(self) -> dict[bytes, list[int]]:
        """Digest -> rows of the test split."""
        return _rows(self.dataset.test)


def test_images(of: DatasetProbe) -> Iterator[Issue]:
    """No test image is a training image."""
    train, test = of.dataset.train, of.dataset.test
    both = [digest for digest in of.test if digest in of.train]
    if both:
        n = sum(len(of.test[digest]) for digest in both)
        one, other = test.ids[of.test[both[0]][0]], train.ids[of.train[both[0]][0]]
        yield error(
            f"{n:,} of {len(test):,} test images are training images, pixel for pixel: {one} is "
            f"{other}",
            f"take them out of one of both; up to {n / len(test):.1%} of the accuracy is theirs",
        )


def duplicates(of: DatasetProbe) -> Iterator[Issue]:
    """Images that are there twice have the same label, and there are few of them."""
    train = of.dataset.train
    labels = train.labels.tolist()
    several = [rows for rows in of.train.values() if len(rows) > 1]
    against = [rows for rows in several if len({labels[row] for row in rows}) > 1]
    if against:
        one = against[0][0]
        other = next(row for row in against[0] if labels[row] != labels[one])
        told = (f"{train.ids[row]} is {of.dataset.classes[labels[row]]}" for row in (one, other))
        yield error(
            f"{sum(map(len, against)):,} training images are there again with another label: "
            f"{' and '.join(told)}",
            "correct the labels, or leave the images out",
        )
    spare = sum(len(rows) - 1 for rows in several)
    if spare >= max(1, 0.01 * len(train)):
        yield warning(
            f"{spare:,} of {len(train):,} training images are copies of others, so images that are "
            "held out may be trained on",
            "leave the copies out",
        )


def classes(of: DatasetProbe) -> Iterator[Issue]:
    """Every class has images in both splits, and none has ten times as many as another."""
    names = of.dataset.classes
    counts = {
        what: torch.bincount(split.labels.cpu(), minlength=len(names)).tolist()
        for what, split in (("training", of.dataset.train), ("test", of.dataset.test))
    }
    for what, each in counts.items():
        if empty := [name for name, count in zip(names, each, strict=True) if count == 0]:
            yield (error if what == "training" else warning)(
                f"{len(empty)} of {len(names)} classes have no {what} image: "
                f"{', '.join(empty[:5])}",
                "add images, or take the class out",
            )
    least, most = min(counts["training"]), max(counts["training"])
    if least and most > 10 * least:
        small = names[counts["training"].index(least)]
        large = names[counts["training"].index(most)]
        yield warning(
            f"{large} has {most:,} training images and {small} {least:,}: accuracy is mostly that "
            "of the large classes",
            "look at the accuracy of each class, in the report",
        )


def blank(of: DatasetProbe) -> Iterator[Issue]:
    """No image is of one color throughout."""
    for what, split in (("training", of.dataset.train), ("test", of.dataset.test)):
        flat = split.images.flatten(2)  # (N, C, pixels)
        plain = (flat.amax(dim=2) == flat.amin(dim=2)).all(dim=1)
        rows = plain.nonzero().flatten().tolist()
        if rows:
            yield warning(
                f"{len(rows):,} {what} images are of one color throughout, such as "
                f"{split.ids[rows[0]]}",
                "look at the files",
            )


def splits_alike(of: DatasetProbe) -> Iterator[Issue]:
    """Test images are as bright and as rich in contrast as training images."""
    train, test = statistics(of.dataset.train), statistics(of.dataset.test)
    pairs = zip(train.mean, test.mean, train.std, test.std, strict=True)
    if any(abs(a - b) > 0.25 * s or not 0.75 < t / s < 1.33 for a, b, s, t in pairs):
        yield warning(
            f"training images have mean {_each(train.mean)} and deviation {_each(train.std)}, test "
            f"images {_each(test.mean)} and {_each(test.std)}: they are of different kinds",
            "see that both were read and resized in the same way",
        )


def _rows(split: Split) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for row, image in enumerate(split.images.cpu().numpy()):
        found.setdefault(blake2b(image.tobytes(), digest_size=16).digest(), []).append(row)
    return found


def _each(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.2f}" for value in values)


DATASET_CHECKS = {
    "test images": test_images,
    "duplicates": duplicates,
    "classes": classes,
    "blank": blank,
    "splits alike": splits_alike,
}
