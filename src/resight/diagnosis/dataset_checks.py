"""Check a data set: images in both splits, contradictory labels, classes without images."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from ..datasets import Dataset, Split, statistics
from .issues import Issue, by_name, error, first_names, warning


class DatasetProbe:
    """A data set, and the rows of each split by a digest of their pixels."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.splits = {"training": dataset.train, "test": dataset.test}
        self.train_rows = _rows_by_digest(dataset.train)
        self.test_rows = _rows_by_digest(dataset.test)


def train_test_overlap(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that no test image is a training image, pixel for pixel.

    Why is this bad:
        The network has learned these images by heart, so the test accuracy is too high. The check
        does not see copies that were cropped, mirrored or compressed again.
    Example:
        images = digits.test.images.clone()
        images[0] = digits.train.images[0]
        dataset = replace(digits, test=replace(digits.test, images=images))
    Fix:
        Remove the copies from one of the two splits.
    """
    train, test = probe.dataset.train, probe.dataset.test
    if shared := [digest for digest in probe.test_rows if digest in probe.train_rows]:
        n = sum(len(probe.test_rows[digest]) for digest in shared)
        test_id = test.ids[probe.test_rows[shared[0]][0]]
        train_id = train.ids[probe.train_rows[shared[0]][0]]
        yield error(
            f"{n:,} of {len(test):,} test images are training images, pixel for pixel: {test_id} "
            f"is {train_id}",
            f"remove them from one of the splits; up to {n / len(test):.1%} of the accuracy comes "
            "from them",
        )


def duplicates(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that equal training images have equal labels, and that there are few of them.

    Why is this bad:
        If one image has two labels, one of them is wrong. Copies with the same label count
        double, and a copy of a validation image may be trained on.
    Example:
        images = digits.train.images.clone()
        images[0] = images[1]
        dataset = replace(digits, train=replace(digits.train, images=images))
    Fix:
        Correct the labels, or remove the copies.
    """
    train = probe.dataset.train
    classes = [probe.dataset.classes[label] for label in train.labels.tolist()]
    groups = [rows for rows in probe.train_rows.values() if len(rows) > 1]
    contradictory = [rows for rows in groups if len({classes[row] for row in rows}) > 1]
    if contradictory:
        one = contradictory[0][0]
        other = next(row for row in contradictory[0] if classes[row] != classes[one])
        yield error(
            f"{sum(map(len, contradictory)):,} training images have a copy with another label: "
            f"{train.ids[one]} is {classes[one]} and {train.ids[other]} is {classes[other]}",
            "correct the labels, or remove the images",
        )
    num_copies = sum(len(rows) - 1 for rows in groups)
    if num_copies >= max(1, 0.01 * len(train)):
        yield warning(
            f"{num_copies:,} of {len(train):,} training images are copies of another, so images "
            "that are held out may be trained on",
            "remove the copies",
        )


def class_counts(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that every class has images in both splits, and none has ten times those of another.

    Why is this bad:
        The network cannot learn a class without training images. If one class has most of the
        images, the accuracy is mostly the accuracy of that class.
    Example:
        rows = (digits.train.labels != 3).nonzero().flatten()
        dataset = replace(digits, train=digits.train.select(rows))
    Fix:
        Add images, or remove the class. If classes differ in size, look at the accuracy of each
        class in the report.
    """
    names = probe.dataset.classes
    counts = {
        split_name: torch.bincount(split.labels.cpu(), minlength=len(names)).tolist()
        for split_name, split in probe.splits.items()
    }
    for split_name, sizes in counts.items():
        if empty := [name for name, size in zip(names, sizes, strict=True) if size == 0]:
            yield (error if split_name == "training" else warning)(
                f"{len(empty)} of {len(names)} classes have no {split_name} image: "
                f"{first_names(empty, 5)}",
                "add images, or remove the class",
            )
    sizes = counts["training"]
    least, most = min(sizes), max(sizes)
    if least and most > 10 * least:
        small, large = names[sizes.index(least)], names[sizes.index(most)]
        yield warning(
            f"{large} has {most:,} training images and {small} {least:,}: accuracy is mostly that "
            "of the large classes",
            "look at the accuracy of each class, in the report",
        )


def blank_images(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that no image of the data set has one color throughout.

    Why is this bad:
        A blank image shows nothing of its class. Often its file was not read correctly.
    Example:
        images = digits.train.images.clone()
        images[5] = 0
        dataset = replace(digits, train=replace(digits.train, images=images))
    Fix:
        Look at the files that the message names.
    """
    for split_name, split in probe.splits.items():
        if rows := is_blank(split.images).nonzero().flatten().tolist():
            yield warning(
                f"{len(rows):,} {split_name} images have one color throughout, such as "
                f"{split.ids[rows[0]]}",
                "look at the files",
            )


def split_statistics(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that test images have the brightness and the contrast of training images.

    Why is this bad:
        If one split was read or resized in another way, the network is tested on images of
        another kind than it was trained on, and the test accuracy is too low.
    Example:
        test = replace(digits.test, images=digits.test.images // 2)
        dataset = replace(digits, test=test)
    Fix:
        Read and resize both splits in the same way.
    """
    train, test = map(statistics, probe.splits.values())
    pairs = zip(train.mean, test.mean, train.std, test.std, strict=True)
    if any(abs(a - b) > 0.25 * s or not 0.75 < t / s < 1.33 for a, b, s, t in pairs):
        yield warning(
            f"training images have mean {slashed(train.mean)} and standard deviation "
            f"{slashed(train.std)}, test images {slashed(test.mean)} and {slashed(test.std)}",
            "see that both were read and resized in the same way",
        )


def is_blank(images: Tensor) -> Tensor:
    """Return for each of the images (N, C, ...) whether every channel has one value only."""
    flat = images.flatten(2)  # (N, C, pixels)
    return (flat.amax(dim=2) == flat.amin(dim=2)).all(dim=1)


def slashed(values: Sequence[float]) -> str:
    """Return the values of the channels as text, such as 0.49/0.48/0.45."""
    return "/".join(f"{value:.2f}" for value in values)


def _rows_by_digest(split: Split) -> dict[bytes, list[int]]:
    rows: dict[bytes, list[int]] = {}
    for row, image in enumerate(split.images.cpu().numpy()):
        rows.setdefault(blake2b(image.tobytes(), digest_size=16).digest(), []).append(row)
    return rows


DATASET_CHECKS = by_name(
    train_test_overlap, duplicates, class_counts, blank_images, split_statistics
)
