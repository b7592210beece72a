"""Check what the model is given: the order of images, their pixels, and the validation data."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from .dataset_checks import is_blank, slashed
from .issues import Issue, Skipped, error, warning
from .probe import MAX_BATCHES, MAX_IMAGES, Probe, has_class_numbers, image_label_pair

_DRAWS_ALL = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)
MIN_IMAGES = 8  # with fewer images, an issue may be a coincidence


def data_order(probe: Probe) -> Iterator[Issue]:
    """Check that training images of several classes come in random order.

    Why is this bad:
        If data is sorted by class, every batch is of one class or two, and each step undoes the
        last. If the order never changes, every epoch has the same batches.
    Example:
        rows = labels.argsort()
        batches = DataLoader(TensorDataset(images[rows], labels[rows]), batch_size=20)
    Fix:
        Pass `shuffle=True` to the `DataLoader`.
    """
    unshuffled = isinstance(_sampler(probe.source), SequentialSampler)
    hard = [labels for _, labels in probe.batches if has_class_numbers(labels)]
    classes = [label for labels in hard for label in labels.tolist()]
    counts = Counter(classes).values()
    # ln of the number of orders that these labels could be in
    orders = math.lgamma(len(classes) + 1) - sum(math.lgamma(count + 1) for count in counts)
    if classes and classes == sorted(classes) and orders > math.log(10_000):
        yield error(
            f"the first {len(classes):,} images are sorted by class",
            "shuffle, for example by shuffle=True of a DataLoader",
        )
    elif len(classes) >= 32 and len(counts) == 1:
        yield (error if unshuffled else warning)(
            f"the first {len(classes):,} images are all of class {classes[0]}",
            "shuffle data that is sorted by class; else look at how labels are read",
        )
    elif unshuffled:
        yield warning(
            "the DataLoader does not shuffle, so every epoch has the same batches",
            "pass shuffle=True",
        )


def pixel_values(probe: Probe) -> Iterator[Issue]:
    """Check that images are normalized: mean 0 and deviation 1 a channel, nothing far outside.

    Why is this bad:
        Learning rates and initial weights are made for inputs of this size. Pixels from 0 to 255,
        or a fill value of 127 after normalizing, are a hundred times as large.
    Example:
        batches = [((images * 60 + 128).clamp(0, 255).round(), labels)]  # pixels as stored
    Fix:
        Subtract the mean and divide by the standard deviation of the training images, channel by
        channel, as the last transform. Ignore the warning if the model normalizes its input, or
        if it was pretrained with other statistics.
    """
    shape = probe.batches[0][0].shape[1:]
    if len(shape) != 3:
        raise Skipped("needs images of shape (N, C, H, W)")
    batches = [images[: MAX_IMAGES // 4].float() for images, _ in probe.batches]
    images = torch.cat([batch for batch in batches if batch.shape[1:] == shape])
    if bad := int((~images.isfinite()).sum()):
        yield error(
            f"{bad:,} values are NaN or infinite",
            "look at the pictures; do not divide a channel that never varies by its deviation, 0",
        )
        return
    if len(images) < 4 * MIN_IMAGES:
        raise Skipped(f"needs {4 * MIN_IMAGES} images in the first {MAX_BATCHES} batches")
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))  # (C,)
    mixed = probe.batches[0][1].is_floating_point()  # mixup lowers the contrast
    normal = (mean.abs() < 0.3) & (std < 1.15) & ((std > 0.8) | mixed)
    if not bool(normal.all()):
        message, fix = _pixel_problem(images, mean, std)
        yield warning(
            message,
            f"{fix}; ignore it if the model normalizes, or was pretrained with these statistics",
        )


def repeated_images(probe: Probe) -> Iterator[Issue]:
    """Check that the images of a batch are not copies of each other, and that none is blank.

    Why is this bad:
        If the data set gives one image for several rows, or blank images, you train on fewer
        images than you think.
    Example:
        batches = [(images[:4].repeat(16, 1, 1, 1), labels[:64])]
    Fix:
        Look at how the data set uses its index, and at the images after its transforms.
    """
    images = probe.images
    if len(images) < MIN_IMAGES or getattr(_sampler(probe.source), "replacement", False):
        raise Skipped(f"needs {MIN_IMAGES} images in a batch, drawn without replacement")
    stored = images.cpu().contiguous().view(torch.uint8).numpy()
    num_copies = len(images) - len({image.tobytes() for image in stored})
    if num_copies >= len(images) / 4:
        yield error(
            f"{num_copies} of the {len(images)} images of a batch are copies of another in it",
            "look at how the data set uses its index",
        )
    elif images.ndim >= 3 and (num_blank := int(is_blank(images).sum())):
        yield warning(
            f"{num_blank} of the {len(images)} images of a batch have one color throughout",
            "look at them; a transform may leave nothing",
        )


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
    if (sampler := _sampler(loader)) is None:
        raise Skipped("needs a DataLoader of data with a length, with torch's own BatchSampler")
    n, batches = len(sampler), loader.batch_sampler
    (val_data, val_rows), (train_data, train_rows) = _rows(loader), _rows(probe.source)
    if val_data is train_data and (num_shared := len(val_rows & train_rows)):
        yield error(
            f"{num_shared:,} of its {n:,} images are trained on",
            "hold images out, for instance by torch.utils.data.random_split",
        )
    remainder = n % batches.batch_size
    if batches.drop_last and remainder:
        yield error(f"drop_last drops {remainder} of its {n:,} images", "pass drop_last=False")
    if isinstance(sampler, SequentialSampler):
        passes = [image_label_pair(batch)[0] for _ in range(2) for batch in islice(loader, 1)]
        if any(not torch.equal(images.nan_to_num(), passes[0].nan_to_num()) for images in passes):
            yield warning(
                "its images differ from pass to pass: they are augmented",
                "give the validation set transforms of its own, without random draws",
            )


def _pixel_problem(images: Tensor, mean: Tensor, std: Tensor) -> tuple[str, str]:
    """Return the problem with pixels that are not normalized, and its fix."""
    low, high = float(images.min()), float(images.max())
    far = float((images.abs() > 10).any(dim=1).float().mean())  # share of the pixels
    measure = "measure mean and standard deviation of the training images, channel by channel"
    if low >= 0 and high > 10 and bool((images == images.round()).all()):
        return f"pixels are as they are stored, from {low:.0f} to {high:.0f}", measure
    if far:
        return (
            f"{far:.2%} of the pixels lie more than 10 deviations out, from {low:.0f} to "
            f"{high:.0f}: filled in after normalizing, in units of stored pixels, or not scaled"
        ), "pad, rotate and cut out first and normalize last, or fill with 0"
    if bool((std == 0).any()):
        return f"channel {int(std.argmin())} never varies", "look at the pictures"
    return (
        f"channels have means {slashed(mean.tolist())} and standard deviations "
        f"{slashed(std.tolist())}, not 0 and 1: not normalized, or by the statistics of other "
        "images"
    ), measure


def _sampler(source: Any) -> Any:
    """Return what draws the rows of a DataLoader; None for a stream or a custom BatchSampler."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return None
    batches = source.batch_sampler
    return batches.sampler if type(batches) is BatchSampler else None


def _rows(source: Any) -> tuple[object, set[int]]:
    """Return the data set below all subsets, and its rows that are drawn, if they are known."""
    sampler = _sampler(source)
    rows: set[int] = set()
    if sampler is None:
        return None, rows
    dataset = source.dataset
    if isinstance(sampler, SubsetRandomSampler):
        rows = set(map(int, sampler.indices))
    elif isinstance(sampler, _DRAWS_ALL):
        rows = set(range(len(dataset)))
    while isinstance(dataset, Subset):
        rows = {int(dataset.indices[row]) for row in rows}
        dataset = dataset.dataset
    return dataset, rows
