"""Images and labels in memory: their splits and their statistics."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UsageError
from ..recipe import Resize
from .tree import Source

OnProgress = Callable[[str, int, int | None], None]  # (stage, done, total or None if unknown)

_CHUNK = 4096  # images counted at a time, to need little memory


@dataclass(frozen=True)
class Originals:
    """The picture files that images were made from, found by the ids of the images.

    sources: gives the file or the content of each id, in order, and opens nothing before; None
    where it turns out that there are no picture files.
    resize: how a picture that is not square became a square, see `ReadOptions`.
    """

    sources: Callable[[Sequence[str]], Iterable[Source] | None]
    resize: Resize = "crop"


@dataclass(frozen=True, eq=False)
class Split:
    """N images of one size with their labels.

    images: uint8 (N, C, H, W); labels: int64 (N,), -1 where unknown; ids: the file name or row
    that each image came from; originals: None where the images come from no picture files.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    originals: Originals | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise UsageError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; "
                "give torch.uint8 (N, C, H, W)"
            )
        if labels.dtype != torch.int64 or not len(images) == len(labels) == len(self.ids):
            raise UsageError(
                f"{len(images)} images have {len(labels)} labels of {labels.dtype} and "
                f"{len(self.ids)} ids; give each image one of both, the labels in torch.int64"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {'x'.join(map(str, self.images.shape[1:]))})"

    def select(self, rows: Tensor) -> "Split":
        """Return the images at `rows`, (M,) int64, in that order."""
        rows = rows.to(self.images.device)
        ids = tuple(self.ids[row] for row in rows.tolist())
        return replace(self, images=self.images[rows], labels=self.labels[rows], ids=ids)

    def with_channels(self, channels: int) -> "Split":
        """Return the images in gray (1) or color (3): gray is repeated, color becomes luma.

        The luma is that of Pillow's mode "L", to the bit.
        """
        images = self.images
        if images.shape[1] == channels:
            return self
        if channels == 3:
            return replace(self, images=images.expand(-1, 3, -1, -1))
        luma = torch.zeros_like(images[:, 0], dtype=torch.int32)
        for plane, weight in zip(images.unbind(1), (19595, 38470, 7471), strict=True):
            luma += plane.to(torch.int32) * weight
        return replace(self, images=(luma + 0x8000 >> 16).to(torch.uint8)[:, None])

    def to(self, device: torch.device) -> "Split":
        """Return the same split with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labeled training and test split, and where they came from.

    val: the validation split that its owner gave; None where there is none, and a part of `train`
    is held out.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    notes: tuple[str, ...] = ()  # what was converted, skipped or split, one line each
    val: Split | None = None

    def __post_init__(self) -> None:
        for split in self.splits.values():
            outside = split.labels[(split.labels < 0) | (split.labels >= len(self.classes))]
            if len(outside):
                raise UsageError(
                    f"label {int(outside[0])} of {self.name} is none of its "
                    f"{len(self.classes)} classes; give 0 to {len(self.classes) - 1}"
                )

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}={split}" for name, split in self.splits.items())
        return f"Dataset({self.name!r}, {len(self.classes)} classes, {splits})"

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, under the names `train`, `val` and `test`."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of classes, images and labels in memory, in hex digits."""
        digest = hashlib.sha256(repr(self.classes).encode())
        # In this order, the fingerprint of data without `val` is that of earlier versions.
        for split in (self.train, self.test, *([self.val] if self.val else [])):
            digest.update(repr(tuple(split.images.shape)).encode())
            digest.update(split.images.cpu().numpy().tobytes())
            digest.update(split.labels.cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def batch_size_for(images: Tensor, num_32_px: int) -> int:
    """Return how many of `images` (N, C, H, W) have as many pixels as `num_32_px` images of 32 px.

    It is at least 1.
    """
    height, width = images.shape[-2:]
    return max(1, num_32_px * 32 * 32 // (height * width))


def statistics(split: Split) -> Statistics:
    """Return mean and standard deviation over every pixel of `split`, channel by channel.

    Sums are kept as integers, so the result is the same on every device. A channel that never
    varies gets std 1, which leaves it at 0 after normalizing.
    """
    counts = torch.zeros(split.images.shape[1], 256, dtype=torch.int64)  # (C, levels)
    for images in torch.split(split.images, _CHUNK):
        for channel, values in enumerate(images.unbind(1)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256).cpu()
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(dim=1, keepdim=True)  # (C, 256)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(dim=1)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()))


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
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero().flatten()
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        in_val[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    if not in_val.any():
        raise UsageError("no class has two images, so none can be held out; add images")
    train, val = (split.select(part.nonzero().flatten()) for part in (~in_val, in_val))
    return train, val
