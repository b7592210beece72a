"""The options of a reader of images, and its result."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...records import IntArray
from ..dataset import OnProgress, Split

PixelArray = NDArray[np.uint8]  # (N, C, H, W)

MIN_PX, MAX_PX, DEFAULT_PX = 8, 512, 32


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Do nothing: the default `on_progress`."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read pictures: their size (None keeps it), and whether to skip unreadable files."""

    image_size: int | None = None
    skip_unreadable: bool = False
    on_progress: OnProgress = no_progress


@dataclass(frozen=True)
class LoadedData:
    """The images that a reader loaded. `test` is None where the source has one split only."""

    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    notes: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class DataLayout:
    """A recognized layout: every file that decides its content, and how to read it.

    The keys of `files` are names within the source, which the ids of the images are made from.
    """

    files: Mapping[str, Path]
    read: Callable[[ReadOptions], LoadedData]
    max_bytes: int = sys.maxsize  # of each file; a larger one cannot be read


def make_split(images: PixelArray, labels: IntArray, ids: Sequence[str]) -> Split:
    """Return a `Split` of the arrays, without a copy where they are contiguous."""
    images = np.ascontiguousarray(images)
    return Split(torch.from_numpy(images), torch.from_numpy(labels), tuple(ids))
