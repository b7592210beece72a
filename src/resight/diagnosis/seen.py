"""What the model is given: labels, order, pixels, and what validation is made of."""

from collections.abc import Iterator, Sized
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from ..findings import Finding, LeftOut
from .patient import Patient, pair

FEW = 16  # images; of fewer, chance alone may look like a fault


def order(of: Patient) -> Iterator[Finding]:
    """Training images of several classes come in random order."""
    each = [b.tolist() for _, b in of.batches if len(b) >= FEW and b.ndim == 1]
    few = max(1, (of.outputs.shape[-1] - 1) // 2)  # classes that a sorted batch may reach into
    if each and all(found == sorted(found) and len(set(found)) <= few for found in each):
        yield Finding(
            "order",
            "fault",
            f"the first {len(each)} batches hold the classes "
            f"{'; '.join(', '.join(map(str, sorted(set(found)))) for found in each)}, in order",
            "data that is sorted by class needs shuffle=True; if all labels are the same, look at "
            "how they are read",
        )
    elif isinstance(of.source, DataLoader) and isinstance(of.source.sampler, SequentialSampler):
        yield Finding(
            "order",
            "doubt",
            "the DataLoader does not shuffle, so every epoch has the same batches",
            "pass shuffle=True",
        )


def pixels(of: Patient) -> Iterator[Finding]:
    """Images are normalised: mean 0 and deviation 1 in each channel, and nothing far outside."""
    images = torch.cat([images.float() for images, _ in of.batches])
    if images.ndim != 4:
        raise LeftOut("needs images of shape (N, C, H, W)")
    if not bool(images.isfinite().all()):
        yield Finding(
            "pixels",
            "fault",
            f"{int((~images.isfinite()).sum()):,} values are NaN or infinite",
            "a channel that never varies has deviation 0; divide it by 1",
        )
        return
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))  # (C,)
    low, high = float(images.min()), float(images.max())
    far = (images.abs() > 10).any(dim=1).float().mean()  # share of the pixels
    as_stored = low >= 0 and high > 10 and bool((images == images.round()).all())
    if as_stored:
        yield Finding(
            "pixels",
            "fault",
            f"pixels are as they are stored, from {low:.0f} to {high:.0f}",
            "divide by 255, take off the mean and divide by the deviation of the training images",
        )
    elif far > 0:
        yield Finding(
            "pixels",
            "fault",
            f"{float(far):.1%} of the pixels lie more than 10 deviations out, from {low:.0f} to "
            f"{high:.0f}: filled in after normalising, in units of stored pixels, or not scaled",
            "pad, rotate and cut out first and normalise last, or fill with 0",
        )
    elif bool((std == 0).any()):
        yield Finding(
            "pixels",
            "fault",
            f"channel {int(std.argmin())} never varies",
            "look at the pictures; grey ones need one channel",
        )
    elif bool((mean.abs() > 0.3).any()) or bool(((std < 0.8) | (std > 1.15)).any()):
        yield Finding(
            "pixels",
            "doubt",
            f"channels have means {_each(mean)} and deviations {_each(std)}, not 0 and 1: not "
            "normalised, or by the statistics of other images",
            "measure mean and deviation of the training images, channel by channel",
        )


def copies(of: Patient) -> Iterator[Finding]:
    """The images of a batch are not each other's copies, and none is blank."""
    images = of.batches[0][0][: len(of.outputs)].flatten(1)  # (B, pixels)
    if len(images) < 2:
        raise LeftOut("needs two images in a batch")
    copies = len(images) - len({image.cpu().numpy().tobytes() for image in images})
    if copies >= max(1, len(images) // 4):
        yield Finding(
            "copies",
            "fault",
            f"{copies} of the {len(images)} images of a batch are copies of others in it",
            "look at how the data set uses its index",
        )
    elif blank := int((images.amax(dim=1) == images.amin(dim=1)).sum()):
        yield Finding(
            "copies",
            "doubt",
            f"{blank} of the {len(images)} images of a batch are of one value throughout",
            "look at them; a transform may leave nothing",
        )


def validation(of: Patient) -> Iterator[Finding]:
    """All of it, unchanged, and other images than in training."""
    if of.val_batches is None:
        raise LeftOut("needs val_batches=")
    loader = of.val_batches
    if isinstance(loader, DataLoader):
        if isinstance(of.source, DataLoader) and loader.dataset is of.source.dataset:
            yield Finding(
                "validation",
                "fault",
                "it is the data set that is trained on",
                "hold images out, for instance by torch.utils.data.random_split",
            )
        size, n = loader.batch_size or 1, _count(loader.dataset)
        if loader.drop_last and n % size:
            yield Finding(
                "validation",
                "fault",
                f"drop_last leaves out {n % size} of its {n:,} images",
                "pass drop_last=False",
            )
    one, two = _first(of), _first(of)
    same = one[0].shape == two[0].shape and torch.equal(one[1], two[1])
    if same and not torch.equal(one[0], two[0]):
        yield Finding(
            "validation",
            "doubt",
            "its images differ from pass to pass: they are augmented",
            "give the validation set transforms of its own, without chance",
        )


def _count(dataset: object) -> int:
    return len(dataset) if isinstance(dataset, Sized) else 0  # a stream has no length


def _first(of: Patient) -> tuple[Tensor, Tensor]:
    batch = next(islice(of.val_batches, 1), None)
    if batch is None:
        raise LeftOut("val_batches is empty")
    return pair(batch, of.outputs.device)


def _each(values: Tensor) -> str:
    return "/".join(f"{value:.2f}" for value in values.tolist())
