"""Check a data set: copies, classes with few images, blank images, splits of other kinds."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..datasets import Split, statistics
from ..records import evenly_spaced
from .dataset_probe import DatasetProbe
from .duplicate_checks import duplicates, near_duplicates, train_test_overlap
from .issues import Issue, by_name, error, first_names, warning
from .pictures import MIN_SIGMAS

MIN_CLASS_IMAGES = 10  # to train on
_NUM_COMPARED = 10_000  # images of a split whose colors are compared


def class_counts(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that every class has images in both splits, and none has ten times those of another.

    Classes may differ in size if the recipe has `loss.class_weights` or `data.balance`.

    Why is this bad:
        The network cannot learn a class without training images. If one class has most of the
        images, the accuracy is mostly the accuracy of that class.
    Example:
        rows = (digits.train.labels != 3).nonzero().flatten()
        dataset = replace(digits, train=digits.train.select(rows))
    Fix:
        Add images, or remove the class. If classes differ in size, first add images of the small
        ones. `--set loss.class_weights=balanced` or `--set data.balance=balanced` finds more of the
        small classes and fewer of the large ones. With few images a class this can cost more than
        it gains, so compare the balanced accuracy with and without it.
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
    if least and most > 10 * least and not probe.balanced:
        small, large = names[sizes.index(least)], names[sizes.index(most)]
        yield warning(
            f"{large} has {most:,} training images and {small} {least:,}: accuracy is mostly that "
            "of the large classes",
            "add images of the small classes, or try --set loss.class_weights=balanced, which "
            "helps them at the cost of the large ones: compare the balanced accuracy with and "
            "without it",
        )


def small_classes(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that every class has at least ten training images.

    Why is this bad:
        A network cannot learn from a few images what all images of a class have in common, and a
        tenth of so few leaves nothing to validate by.
    Example:
        rows = torch.cat([(digits.train.labels == k).nonzero().flatten()[:7] for k in range(10)])
        dataset = replace(digits, train=digits.train.select(rows))
    Fix:
        Add images. Otherwise merge the class with a similar one, or start from pretrained weights.
    """
    names = probe.dataset.classes
    counts = torch.bincount(probe.dataset.train.labels.cpu(), minlength=len(names)).tolist()
    few = [
        f"{name} ({count})"
        for name, count in zip(names, counts, strict=True)
        if 0 < count < MIN_CLASS_IMAGES
    ]
    if few:
        yield warning(
            f"{len(few)} of {len(names)} classes have fewer than {MIN_CLASS_IMAGES} training "
            f"images: {first_names(few, 5)}",
            "add images, or merge the class with a similar one",
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
        probe.check_time()
        if rows := torch.cat([*map(is_blank, split.parts())]).nonzero().flatten().tolist():
            yield warning(
                f"{len(rows):,} {split_name} images have one color throughout, such as "
                f"{split.ids[rows[0]]}",
                "look at the files",
            )


def split_statistics(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that test and validation images are as bright and as rich in contrast as training.

    What few images can differ by, by chance, is no issue.

    Why is this bad:
        If one split was read or resized in another way, the network is tested on images of
        another kind than it was trained on, and the test accuracy is too low.
    Example:
        test = replace(digits.test, images=digits.test.images // 2)
        dataset = replace(digits, test=test)
    Fix:
        Read and resize both splits in the same way.
    """
    train_split = _some(probe.dataset.train)
    train = statistics(train_split)
    for name, whole in probe.held_out.items():
        split = _some(whole)
        other = statistics(split)
        pairs = zip(train.mean, other.mean, train.std, other.std, strict=True)
        if not any(abs(a - b) > 0.25 * s or not 0.75 < t / s < 1.33 for a, b, s, t in pairs):
            continue
        if _is_no_chance(train_split.images, split.images):
            yield warning(
                f"training images have mean {slashed(train.mean)} and standard deviation "
                f"{slashed(train.std)}, {name} images {slashed(other.mean)} and "
                f"{slashed(other.std)}",
                "see that both were read and resized in the same way",
            )


def _some(split: Split) -> Split:
    """Return evenly spaced images of a split, which are enough to compare colors by."""
    return split.select(torch.from_numpy(evenly_spaced(len(split), _NUM_COMPARED)))


def _is_no_chance(train: Tensor, other: Tensor) -> bool:
    """Return whether images of one kind hardly ever differ so much in brightness or contrast.

    The mean over n images, of their means or of their deviations, has the standard error s sqrt(1 /
    n), with the deviation s of single images.
    """
    moments = []
    for images in (train, other):
        parts = [part.float().flatten(2) for part in torch.split(images.cpu(), 4096)]
        moments.append(
            torch.cat([torch.cat([p.mean(2), p.std(2)], dim=1) for p in parts])
        )  # (N, 2C)
    one, two = moments
    error = one.std(dim=0) * (1 / len(one) + 1 / len(two)) ** 0.5
    return bool(((one.mean(dim=0) - two.mean(dim=0)).abs() > MIN_SIGMAS * error).any())


def is_blank(images: Tensor) -> Tensor:
    """Return for each of the images (N, C, ...) whether every channel has one value only."""
    flat = images.flatten(2)  # (N, C, pixels)
    return (flat.amax(dim=2) == flat.amin(dim=2)).all(dim=1)


def slashed(values: Sequence[float]) -> str:
    """Return the values of the channels as text, such as 0.49/0.48/0.45."""
    return "/".join(f"{value:.2f}" for value in values)


DATASET_CHECKS = by_name(
    *(train_test_overlap, near_duplicates, duplicates),
    *(class_counts, small_classes, blank_images, split_statistics),
)
