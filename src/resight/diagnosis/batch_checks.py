"""What the model is given: its order, its pixels, and what validation is made of."""

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

from .issues import Issue, Skipped, error, warning
from .probe import BATCHES, IMAGES, Probe, pair

_OF_ALL = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)
MIN_IMAGES = 8  # images; of fewer, a coincidence may look like a fault


def order(of: Probe) -> Iterator[Issue]:
    """Training images of several classes come in random order."""
    unshuffled = isinstance(_sampler(of.source), SequentialSampler)
    classes = [label for _, labels in of.batches if _hard(labels) for label in labels.tolist()]
    counts = Counter(classes).values()
    # ln of the number of orders that these labels could be in
    orders = math.lgamma(len(classes) + 1) - sum(math.lgamma(count + 1) for count in counts)
    if classes and classes == sorted(classes) and orders > math.log(10_000):
        yield error(
            f"the first {len(classes):,} images come sorted by class",
            "shuffle, as by shuffle=True of a DataLoader: else every batch is of one class or two",
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


def pixels(of: Probe) -> Iterator[Issue]:
    """Images are normalized: mean 0 and deviation 1 in each channel, and nothing far outside."""
    shape = of.batches[0][0].shape[1:]
    parts = [b[: IMAGES // 4].float() for b, _ in of.batches if b.shape[1:] == shape]
    images = torch.cat(parts)
    if images.ndim != 4:
        raise Skipped("needs images of shape (N, C, H, W)")
    if bad := int((~images.isfinite()).sum()):
        yield error(
            f"{bad:,} values are NaN or infinite",
            "look at the pictures; a channel that never varies is not to be divided by its "
            "deviation, 0",
        )
        return
    if len(images) < 4 * MIN_IMAGES:
        raise Skipped(f"needs {4 * MIN_IMAGES} images in the first {BATCHES} batches")
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))  # (C,)
    mixed = of.batches[0][1].is_floating_point()  # pictures laid over each other have less contrast
    fits = (mean.abs() < 0.3) & (std < 1.15) & ((std > 0.8) | mixed)
    if bool(fits.all()):
        return
    low, high = float(images.min()), float(images.max())
    far = float((images.abs() > 10).any(dim=1).float().mean())  # share of the pixels
    fix = "measure mean and deviation of the training images, channel by channel"
    if low >= 0 and high > 10 and bool((images == images.round()).all()):
        what = f"pixels are as they are stored, from {low:.0f} to {high:.0f}"
    elif far:
        what = (
            f"{far:.2%} of the pixels lie more than 10 deviations out, from {low:.0f} to "
            f"{high:.0f}: filled in after normalizing, in units of stored pixels, or not scaled"
        )
        fix = "pad, rotate and cut out first and normalize last, or fill with 0"
    elif bool((std == 0).any()):
        what, fix = f"channel {int(std.argmin())} never varies", "look at the pictures"
    else:
        what = (
            f"channels have means {_each(mean)} and deviations {_each(std)}, not 0 and 1: not "
            "normalized, or by the statistics of other images"
        )
    yield warning(
        what,
        f"{fix}; well where the model normalizes, or was pretrained with these statistics",
    )


def copies(of: Probe) -> Iterator[Issue]:
    """The images of a batch are not each other's copies, and none is blank."""
    images = of.images
    if len(images) < MIN_IMAGES or getattr(_sampler(of.source), "replacement", False):
        raise Skipped(f"needs {MIN_IMAGES} images in a batch, drawn without replacement")
    stored = images.cpu().contiguous().view(torch.uint8).numpy()
    spare = len(images) - len({image.tobytes() for image in stored})
    if spare >= len(images) / 4:
        yield error(
            f"{spare} of the {len(images)} images of a batch are copies of others in it",
            "look at how the data set uses its index",
        )
        return
    if images.ndim < 3:
        return
    flat = images.flatten(2)  # (B, C, pixels)
    if blank := int((flat.amax(dim=2) == flat.amin(dim=2)).all(dim=1).sum()):
        yield warning(
            f"{blank} of the {len(images)} images of a batch are of one color throughout",
            "look at them; a transform may leave nothing",
        )


def validation(of: Probe) -> Iterator[Issue]:
    """All of it, unchanged, and other images than in training."""
    loader, source = of.val_batches, of.source
    if loader is None:
        raise Skipped("needs val_batches=")
    batches = _batches(loader)
    if batches is None:
        raise Skipped("needs a DataLoader of data with a length, with torch's own BatchSampler")
    sampler = _sampler(loader)
    n = len(sampler)
    (of_one, held_out), (of_other, trained_on) = _rows(loader), _rows(source)
    if of_one is of_other and (both := len(held_out & trained_on)):
        yield error(
            f"{both:,} of its {n:,} images are trained on",
            "hold images out, for instance by torch.utils.data.random_split",
        )
    left_over = n % batches.batch_size
    if batches.drop_last and left_over:
        yield error(
            f"drop_last leaves out {left_over} of its {n:,} images",
            "pass drop_last=False",
        )
    if isinstance(sampler, SequentialSampler):
        one, two = (next(iter(islice(loader, 1)), None) for _ in range(2))
        if one is not None and not torch.equal(*(pair(b)[0].nan_to_num() for b in (one, two))):
            yield warning(
                "its images differ from pass to pass: they are augmented",
                "give the validation set transforms of its own, without chance",
            )


def _batches(source: Any) -> BatchSampler | None:
    """How a DataLoader puts rows together, if it is torch's way; of a stream, None."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return None
    return source.batch_sampler if type(source.batch_sampler) is BatchSampler else None


def _sampler(source: Any) -> Any:
    """What rows are drawn by; None where that is not known."""
    batches = _batches(source)
    return None if batches is None else batches.sampler


def _rows(source: Any) -> tuple[object, set[int]]:
    """The data set below all subsets, and the rows of it that are drawn, as far as is known."""
    sampler = _sampler(source)
    rows: set[int] = set()
    if sampler is None:
        return None, rows
    dataset = source.dataset
    if isinstance(sampler, SubsetRandomSampler):
        rows = set(map(int, sampler.indices))
    elif isinstance(sampler, _OF_ALL):
        rows = set(range(len(dataset)))
    while isinstance(dataset, Subset):
        rows = {int(dataset.indices[row]) for row in rows}
        dataset = dataset.dataset
    return dataset, rows


def _hard(labels: Tensor) -> bool:
    return labels.ndim == 1 and not labels.is_floating_point()


def _each(values: Tensor) -> str:
    return "/".join(f"{value:.2f}" for value in values.tolist())
