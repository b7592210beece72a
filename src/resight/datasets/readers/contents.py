"""What is asked of a reader of images, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..dataset import OnProgress, Split

ImageArray = NDArray[np.uint8]  # (N, C, H, W)
LabelArray = NDArray[np.int64]  # (N,)

MIN_PX, MAX_PX, DEFAULT_PX = 8, 512, 32


def no_progress(what: str, done: int, total: int | None) -> None:
    """Nobody is watching."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read: the size wanted (None keeps their own), and what to do with broken files."""

    image_size: int | None = None
    skip_unreadable: bool = False
    on_progress: OnProgress = no_progress


@dataclass(frozen=True)
class LoadedData:
    """What a reader found. `test` is None where the source has one split only."""

    classes: tuple[str, ...]
    train: Split
    test: Split | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataLayout:
    """A recognized layout: every file that decides its content, and how to read it.

    The keys of `files` are names within the source, which the ids of the images are made from.
    """

    files: Mapping[str, Path]
    read: Callable[[ReadOptions], LoadedData]


def make_split(images: ImageArray, labels: LabelArray, ids: list[str]) -> Split:
    """A `Split` of arrays, which it takes over without a copy."""
    images = np.ascontiguousarray(images)
    return Split(torch.from_numpy(images), torch.from_numpy(labels), tuple(ids))


def own_px(width: int, height: int) -> int:
    """The size that pictures are kept at when none is asked for: their own, if it is usable."""
    return width if width == height and MIN_PX <= width <= MAX_PX else DEFAULT_PX
