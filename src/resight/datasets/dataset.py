"""Images and labels: their splits and their statistics."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..recipe import Resize
from .cache_entries import remembered
from .ids import Ids
from .image_file import ImageFile
from .tree import Source

OnProgress = Callable[[str, int, int | None], None]  # (stage, done, total or None if unknown)

_CHUNK_BYTES = 2**24  # of images that are looked at together


@dataclass(frozen=True)
class Originals:
    """The picture files that images were made from, found by the ids of the images.

    sources: gives the file or the content of each id, in order, and opens nothing before; None
    where it turns out that there are no picture files.
    resize: how a picture that is not square became a square, see `ReadOptions`.
    """

    sources: Callable[[Sequence[str]], Iterable[Source] | None]
    resize: Resize = "crop"


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Split:
    """N images of one size with their labels.

    images: uint8 (N, C, H, W); labels: int64 (N,), -1 where unknown; ids: the file name or row
    that each image came from; originals: None where the images come from no picture files.

    A split is a view of rows: parts of it share its pixels, and what is in a file stays there. So
    look at some images by `images_at`; `images` has all of them in memory.
    """

    pixels: Tensor | ImageFile  # uint8 (M, C', H, W)
    labels: Tensor
    ids: Sequence[str]
    originals: Originals | None
    rows: Tensor | None  # (N,) int64 on the CPU, those of `pixels`; None for all of them
    channels: int  # that the images have, whatever the pixels have
    device: torch.device  # where images are when they are asked for
    if TYPE_CHECKING:  # `replace` takes them as if they were a field
        images: Tensor
    else:

        @cached_property
        def images(self) -> Tensor:
            """All images, uint8 (N, C, H, W); a part of a tensor, or a file, is copied once."""
            return self.images_at(slice(None))

    def __init__(
        self,
        images: Tensor | ImageFile | None = None,
        labels: Tensor | None = None,
        ids: Iterable[str] = (),
        originals: Originals | None = None,
        *,
        pixels: Tensor | ImageFile | None = None,
        rows: Tensor | None = None,
        channels: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        if images is not None:  # also in place of those before, by dataclasses.replace
            pixels, rows, channels, device = images, None, None, None
        if pixels is None or labels is None:
            raise TypeError("a Split needs images and labels")
        if isinstance(pixels, Tensor) and (pixels.dtype != torch.uint8 or pixels.ndim != 4):
            raise UsageError(
                f"images are {pixels.dtype} of shape {tuple(pixels.shape)}; "
                "give torch.uint8 (N, C, H, W)"
            )
        ids, count = Ids.of(ids), len(pixels if rows is None else rows)
        if labels.dtype != torch.int64 or not count == len(labels) == len(ids):
            raise UsageError(
                f"{count} images have {len(labels)} labels of {labels.dtype} and "
                f"{len(ids)} ids; give each image one of both, the labels in torch.int64"
            )
        # The dataclass is frozen, so its fields are set as its own __init__ would.
        vars(self).update(pixels=pixels, labels=labels, ids=ids, originals=originals, rows=rows)
        vars(self).update(channels=channels or pixels.shape[1])
        vars(self).update(device=device or pixels.device)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {'x'.join(map(str, self.shape[1:]))})"

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W) of the images."""
        return torch.Size((len(self), self.channels, *self.pixels.shape[2:]))

    def images_at(self, rows: Tensor | slice) -> Tensor:
        """Return the images at `rows`, (M,) int64 or a slice: uint8 (M, C, H, W) on the device."""
        if isinstance(rows, Tensor) and (self.rows is not None or not self.is_on_device):
            rows = rows.cpu()
        if self.rows is not None:
            rows = self.rows[rows]
        pixels = self.pixels
        images = pixels[rows] if isinstance(pixels, Tensor) else pixels.read(rows)
        images = _with_channels(images, self.channels).contiguous()
        if images.device.type == "cpu" and self.device.type == "cuda":
            images = images.pin_memory()  # so that the copy does not wait
        return images.to(self.device, non_blocking=True)

    def parts(self) -> Iterator[Tensor]:
        """Yield the images in order, (n, C, H, W), few enough to need little memory."""
        yield from map(self.images_at, self._slices())

    def _slices(self) -> list[slice]:
        step = max(1, _CHUNK_BYTES // max(1, math.prod(self.shape[1:])))
        return [slice(first, first + step) for first in range(0, len(self), step)]

    @property
    def is_on_device(self) -> bool:
        """Whether the pixels lie in memory where the images are needed."""
        return isinstance(self.pixels, Tensor) and self.pixels.device == self.device

    def select(self, rows: Tensor) -> "Split":
        """Return the images at `rows`, (M,) int64, in that order; no pixel is copied."""
        at = rows.cpu()
        return replace(
            self,
            labels=self.labels[rows.to(self.labels.device)],
            ids=Ids.of(self.ids).select(at),
            rows=at if self.rows is None else self.rows[at],
        )

    def with_channels(self, channels: int) -> "Split":
        """Return the images in gray (1) or color (3): gray is repeated, color becomes luma.

        The luma is that of Pillow's mode "L", to the bit.
        """
        if channels == self.channels:
            return self
        if self.channels != self.pixels.shape[1]:  # color, gray, and color again stays gray
            return replace(self, images=self.images).with_channels(channels)
        return replace(self, channels=channels)

    def to(self, device: torch.device) -> "Split":
        """Return the same split with its images on `device`.

        Images that would fill more than half of what a GPU has free stay where they are, and are
        copied when they are asked for.
        """
        labels = self.labels.to(device)
        device = labels.device  # with its index
        if device == self.device:
            return self
        moved = replace(self, labels=labels, device=device)
        room = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else math.inf
        if self.pixels.device == device or math.prod(self.shape) > room:
            return moved
        images = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for rows in self._slices():
            images[rows] = self.images_at(rows).to(device)
        return replace(moved, images=images)

    @property
    def content(self) -> str | None:
        """A digest by which the same images are known again; None if they were in no cache."""
        if isinstance(self.pixels, Tensor) or not self.pixels.content:
            return None
        digest = hashlib.sha256(f"{self.pixels.content} {self.channels}".encode())
        if self.rows is not None:
            digest.update(self.rows.numpy().data)
        return digest.hexdigest()


def _with_channels(images: Tensor, channels: int) -> Tensor:
    """(N, 1 or 3, H, W) -> (N, channels, H, W)."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    luma = torch.zeros_like(images[:, 0], dtype=torch.int32)
    for plane, weight in zip(images.unbind(1), (19595, 38470, 7471), strict=True):
        luma += plane.to(torch.int32) * weight
    return (luma + 0x8000 >> 16).to(torch.uint8)[:, None]


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
        """The SHA-256 of classes, images and labels, in hex digits."""
        # In this order, the fingerprint of data without `val` is that of earlier versions.
        splits = (self.train, self.test, *([self.val] if self.val else []))

        def compute() -> str:
            digest = hashlib.sha256(repr(self.classes).encode())
            for split in splits:
                digest.update(repr(tuple(split.shape)).encode())
                for images in split.parts():
                    digest.update(images.cpu().contiguous().numpy().data)
                digest.update(split.labels.cpu().numpy().data)
            return digest.hexdigest()

        labels = [hashlib.sha256(split.labels.cpu().numpy().data).hexdigest() for split in splits]
        return str(_remembered(splits, compute, "fingerprint", self.classes, labels))


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def batch_size_for(images: Tensor | Split, num_32_px: int) -> int:
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

    def counts_in(rows: slice) -> Tensor:
        planes = split.images_at(rows).unbind(1)
        return torch.stack([torch.bincount(x.flatten(), minlength=256).cpu() for x in planes])

    def compute() -> list[list[int]]:
        counts = torch.zeros(split.channels, 256, dtype=torch.int64)  # (C, levels)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for part in pool.map(counts_in, split._slices()):
                counts += part
        rows: list[list[int]] = counts.tolist()
        return rows

    counts = torch.tensor(_remembered((split,), compute, "levels"), dtype=torch.int64)
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(dim=1, keepdim=True)  # (C, 256)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(dim=1)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()))


def _remembered(splits: Sequence[Split], compute: Callable[[], Any], *key: object) -> Any:
    """Return what `compute` makes of the images, which takes long only once for many images."""
    contents = [split.content for split in splits]
    return compute() if None in contents else remembered(repr((key, contents)), compute)
