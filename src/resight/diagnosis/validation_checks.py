"""Check that validation is read as training is, and that it has other images."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from ..lr_finder.batches import Pair
from .dataset_checks import slashed
from .issues import Issue, Skipped, error, first_names, warning
from .pictures import (
    MIN_SIGMAS,
    Agreement,
    color_shift,
    embedded,
    is_viewed_as_channels_first,
    neighbor_agreement,
    placements,
    roughness,
    views,
)
from .probe import MAX_IMAGES, Probe, are_class_numbers, has_class_rows, ignored_label
from .samples import (
    class_names,
    dataset_and_rows,
    dataset_labels,
    digests,
    distinct_rows,
    first_tensor,
    image_batches,
    image_keys,
    labeled_pair,
    sampler_of,
)

MIN_IMAGES = 16  # in each of the two, to compare them
FEW_IMAGES = 50  # with which an accuracy is uncertain by 10 points or more
MAX_NEIGHBORS = 1000  # images of each among which the nearest is searched
MAX_READ = 500  # training images that are read to compare them with validation
SAME_TRANSFORMS = "give validation the same transforms, without the random ones"


def validation_data(probe: Probe) -> Iterator[Issue]:
    """Check that validation reads all of its images, unchanged, and none that is trained on.

    Why is this bad:
        Validation on images that are trained on makes the model look better than it is. If images
        are dropped or augmented, the accuracy is that of other images than you think.
    Example:
        data = TensorDataset(images, labels)
        batches = DataLoader(data, batch_size=64, shuffle=True)
        val_batches = DataLoader(data, batch_size=64)
    Fix:
        Hold images out, for example by `torch.utils.data.random_split`, with `drop_last=False` and
        without augmentation.
    """
    loader = probe.val_batches
    if loader is None:
        raise Skipped("needs val_batches=")
    if num_shared := _num_shared(probe):
        yield error(
            f"{num_shared:,} of its images are trained on",
            "hold images out, for instance by torch.utils.data.random_split",
        )
    if (sampler := sampler_of(loader)) is None:
        return
    n, batches = len(sampler), loader.batch_sampler
    if n < FEW_IMAGES:
        yield warning(
            f"it has {n} images: an accuracy of them is mostly chance", "hold out more images"
        )
    remainder = n % batches.batch_size
    if batches.drop_last and remainder:
        yield error(f"drop_last drops {remainder} of its {n:,} images", "pass drop_last=False")
    if isinstance(sampler, SequentialSampler):
        passes = [_images(batch) for _ in range(2) for batch in islice(loader, 1)]
        if any(not torch.equal(images.nan_to_num(), passes[0].nan_to_num()) for images in passes):
            yield warning(
                "its images differ from pass to pass: they are augmented",
                "give the validation set transforms of its own, without random draws",
            )


def validation_pixels(probe: Probe) -> Iterator[Issue]:
    """Check that images of validation are scaled, normalized and laid out as in training.

    Why is this bad:
        The network gets other inputs than it was trained on, so that the accuracy is too low, and
        the wrong epoch is kept.
    Example:
        val_images = (images[:100] * 60 + 128).clamp(0, 255)  # not normalized
        val_batches = DataLoader(TensorDataset(val_images, labels[:100]), batch_size=50)
    Fix:
        Normalize by the statistics of the training images in both, as the last transform.
    """
    train = image_batches(probe.batches, MAX_IMAGES)
    val = image_batches(probe.validation, MAX_IMAGES)
    if train is None or val is None or min(len(train), len(val)) < MIN_IMAGES:
        raise Skipped(f"needs {MIN_IMAGES} images (N, C, H, W) of training and of validation")
    train, val = (part.nan_to_num()[distinct_rows(part)] for part in (train, val))
    if train.shape[1] != val.shape[1]:
        yield error(
            f"its images have {val.shape[1]} channels, and training images {train.shape[1]}",
            SAME_TRANSFORMS,
        )
    elif all(_differ(*pair) for pair in zip(views(train), views(val), strict=True)):
        (mean, std), (val_mean, val_std) = views(train)[0], views(val)[0]
        yield error(
            f"its pixels have mean {float(val_mean.mean()):.3g} and standard deviation "
            f"{float(val_std.mean()):.3g}, and those of training {float(mean.mean()):.3g} and "
            f"{float(std.mean()):.3g}: scaled or normalized in another way",
            SAME_TRANSFORMS,
        )
    elif is_viewed_as_channels_first(val) and not is_viewed_as_channels_first(train):
        yield error(
            "its pixels three apart are nearer in color than neighbors: (H, W, C) was reshaped to "
            "(C, H, W)",
            "use permute in place of view or reshape",
        )
    elif (shift := color_shift(train, val)) is not None:
        yield warning(
            f"its colors are others than in training: channels are brighter by "
            f"{slashed(shift.tolist())}, as if they had another order",
            "read both in the same way: OpenCV gives BGR, Pillow RGB",
        )
    elif train.shape == val.shape and not 0.5 < roughness(val) / roughness(train) < 2:
        yield warning(
            f"neighboring pixels differ by {roughness(val):.2g} standard deviations, and by "
            f"{roughness(train):.2g} in training",
            "see that both were resized and reshaped in the same way",
        )


def validation_labels(probe: Probe) -> Iterator[Issue]:
    """Check that validation numbers its classes as training does, and that labels fit images.

    Two images that are nearly the same mostly have the same label. So the label of the nearest
    training image shows whether both parts number their classes alike.

    Why is this bad:
        With another order of classes nearly every correct prediction counts as a mistake.
    Example:
        class Named(TensorDataset):
            classes = ("cat", "dog", "ship")


        class Other(TensorDataset):
            classes = ("ship", "cat", "dog")


        batches = DataLoader(Named(images, labels), batch_size=64, shuffle=True)
        val_batches = DataLoader(Other(torch.randn(99, 3, 16, 16), labels[:99]), batch_size=33)
    Fix:
        Read both parts by one list of classes, or with the same folders.
    """
    names, val_names = class_names(probe.source), class_names(probe.val_batches)
    if names and val_names and names != val_names:
        pairs = list(zip(names, val_names, strict=False))
        different = [f"{i} is {a} and {b}" for i, (a, b) in enumerate(pairs) if a != b]
        yield error(
            f"training has {len(names)} classes and validation {len(val_names)}"
            + (f"; in training and in validation {first_names(different)}" if different else ""),
            "read both by one list of classes",
        )
        return
    val = [labels for _, labels in probe.validation if are_class_numbers(labels)]
    if not val or not are_class_numbers(probe.targets):
        raise Skipped("needs a class number an image in training and in validation")
    if problem := _outside(probe, torch.cat(val)):
        yield problem
        return
    train_all, val_all = dataset_labels(probe.source), dataset_labels(probe.val_batches)
    if train_all is not None and val_all is not None:
        counts = torch.bincount(train_all[train_all >= 0])
        missing = sorted(set(counts.nonzero().flatten().tolist()) - set(val_all.tolist()))
        if len(missing) > 0.2 * int((counts > 0).sum()) and len(val_all) > 5 * len(counts):
            yield warning(
                f"it has no image of {len(missing)} of the {int((counts > 0).sum())} classes: "
                f"{first_names(map(str, missing))}",
                "hold out the same share of each class, and number classes alike",
            )
    yield from _misfits(probe)


def _num_shared(probe: Probe) -> int:
    """Return how many images of validation are trained on, as far as it can be seen."""
    (data, rows), (val_data, val_rows) = map(dataset_and_rows, (probe.source, probe.val_batches))
    if data is not None and data is val_data:
        return len(set(rows) & set(val_rows))
    (kind, keys), (val_kind, val_keys) = map(image_keys, (probe.source, probe.val_batches))
    if keys and val_keys and kind == val_kind:
        return len(keys & val_keys)
    images = [first_tensor(inputs) for inputs, _ in probe.validation]
    shown = {digest for batch in images for digest in digests(batch)}
    trained = {d for inputs, _ in probe.batches for d in digests(first_tensor(inputs))}
    if data is not None:
        dataset = probe.source.dataset
        for row in range(0, len(dataset), max(1, len(dataset) // MAX_READ)):
            item = _first_part(dataset[row])
            trained |= set(digests(item[None])) if isinstance(item, Tensor) else set()
    return len(shown & trained) if len(shown) > 1 else 0


def _first_part(item: Any) -> Any:
    return item[0] if isinstance(item, tuple | list) and item else item


def _images(batch: Any) -> Tensor:
    return first_tensor(labeled_pair(batch)[0])


def _differ(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> bool:
    """Whether mean or deviation of a channel differ by more than other images explain."""
    (mean, std), (val_mean, val_std) = train, val
    ratio = val_std / std.clamp_min(1e-12)
    shifted = (val_mean - mean).abs() > 0.5 * torch.maximum(std, val_std)
    return bool((shifted | (ratio < 0.6) | (ratio > 1.67)).any())


def _outside(probe: Probe, labels: Tensor) -> Issue | None:
    """Return the issue of a label that is no class of the network."""
    if not has_class_rows(probe.outputs):
        return None
    classes = probe.outputs.shape[1]
    bad = labels[((labels < 0) | (labels >= classes)) & (labels != ignored_label(probe.loss_fn))]
    if not len(bad):
        return None
    return error(
        f"label {int(bad[0])} is none of the network's {classes} classes, 0 to {classes - 1}",
        "number classes from 0, in the same way as in training",
    )


def _num_batches(pairs: tuple[Pair, ...]) -> int:
    """Return how many batches have enough images to search the nearest one among."""
    return max(len(pairs), MAX_NEIGHBORS // max(1, len(pairs[0][1])))


def _misfits(probe: Probe) -> Iterator[Issue]:
    """Compare labels with those of the nearest images, within and between both parts."""
    parts = []
    for source, pairs in (
        (probe.source, probe.batches),
        (probe.val_batches, probe.validation),
    ):
        if isinstance(source, DataLoader):  # it can be read again
            pairs = tuple(map(labeled_pair, islice(source, _num_batches(pairs))))
        images = image_batches(pairs, MAX_NEIGHBORS)
        labels = torch.cat([labels[:MAX_NEIGHBORS] for _, labels in pairs])
        if images is None or len(images) != len(labels):
            return
        rows = distinct_rows(images)
        if len(rows) < 4 * MIN_IMAGES:
            return
        parts.append((images[rows].nan_to_num(), labels[rows]))
    if any(validation_pixels(probe)):
        return  # the nearest image says nothing
    train, val = ((embedded(images), labels) for images, labels in parts)
    train_fits = neighbor_agreement(train, train, same=True)
    val_fits = neighbor_agreement(val, val, same=True)
    if max(train_fits.chance, val_fits.chance) > 0.8:
        return  # nearly all images are of one class
    both_fit = max(
        (neighbor_agreement((embedded(moved), val[1]), train) for moved in placements(parts[1][0])),
        key=lambda agreement: agreement.share,
    )
    if _is_less(both_fit, train_fits):
        yield warning(
            f"{train_fits.share:.0%} of the training images have the label of the nearest training "
            f"image, but only {both_fit.share:.0%} of validation",
            "number the classes of both in the same way; ignore it if training images are nearly "
            "copies of each other, such as frames of a film",
        )
    elif _is_less(both_fit, val_fits) and _is_less(train_fits, val_fits):
        yield warning(
            f"{val_fits.share:.0%} of validation have the label of the nearest image, but only "
            f"{train_fits.share:.0%} of the training images: training labels do not belong to "
            "their images",
            "look at some images and their labels; shuffle both together",
        )


def _is_less(one: Agreement, other: Agreement) -> bool:
    """Whether the nearest image tells the label in `other`, and in `one` it does not."""
    if other.sigmas < MIN_SIGMAS:
        return False
    by_chance = one.sigmas < 3 and other.sigmas > 2 * MIN_SIGMAS  # the best of many placements
    return one.excess < 0.25 * other.excess or by_chance
