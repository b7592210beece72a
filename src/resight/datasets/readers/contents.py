"""The options of a reader of images, what it recognizes, and what it loads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...recipe import Resize
from ...records import IntArray
from ..dataset import OnProgress, Originals, Split
from ..image_file import LARGE_BYTES
from ..tree import Source

PixelArray = NDArray[np.uint8]  # (N, C, H, W)
Value = TypeVar("Value")
SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")

MIN_PX, MAX_PX, DEFAULT_PX = 8, 512, 32


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Do nothing: the default `on_progress`."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read pictures.

    image_size: in px; None keeps their size where all are the same square, and else takes 64 or
    32 px, by their median.
    resize: what becomes of pictures that are not square; see `fit_square`.
    skip_unreadable: skip pictures that cannot be read, instead of refusing the data.
    classes: "same" refuses splits that differ in their classes; "train" takes the classes of the
    training split, and leaves out the pictures of other classes.
    layout: the name of the layout; None has it recognized.
    label_column: of a table, where more than one could be the label.
    """

    image_size: int | None = None
    skip_unreadable: bool = False
    classes: Literal["same", "train"] = "same"
    resize: Resize = "crop"
    layout: str | None = None
    label_column: str | None = None
    on_progress: OnProgress = no_progress


@dataclass(frozen=True)
class LoadedData:
    """The images that a reader loaded, divided as their owner divided them.

    A split is None where the source has none. The images of a source without splits are `train`.
    """

    classes: tuple[str, ...]
    train: Split | None
    val: Split | None = None
    test: Split | None = None
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def splits(self) -> dict[SplitName, Split]:
        """The splits that the source has."""
        splits = zip(SPLIT_NAMES, (self.train, self.val, self.test), strict=True)
        return {name: split for name, split in splits if split is not None}

    def with_splits(self, splits: Mapping[SplitName, Split]) -> "LoadedData":
        """Return the same data with other splits; those that are not given are None."""
        train, val, test = map(splits.get, SPLIT_NAMES)
        return replace(self, train=train, val=val, test=test)

    def with_originals(self, originals: Originals | None) -> "LoadedData":
        """Return the same data, with the picture files that its images were made from."""
        return self.with_splits(
            {name: replace(split, originals=originals) for name, split in self.splits.items()}
        )


@dataclass(frozen=True)
class DataLayout:
    """What a reader recognized in a source, before it decodes a picture.

    name: the word that `--layout` takes, as "folders" or "csv".
    summary: one line that says what was taken for what, as "a folder a class: train/, test/".
    files: the names of all files that decide the content, in the tree of the source.
    num_pictures: how many of them are pictures or records; the layout that explains most is taken.
    omissions: what was not taken and why, one line each.
    labels: the class of each file, where names and tables tell it; None where they do not.
    objection: why this may be a wrong reading; such a layout is taken only if it is asked for.
    max_bytes: of each file; a larger one cannot be read.
    pictures: gives the picture files of ids, see `Originals`; None where there are none.
    """

    name: str
    summary: str
    files: tuple[str, ...]
    read: Callable[[ReadOptions], LoadedData]
    num_pictures: int = 0
    omissions: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None
    objection: str = ""
    max_bytes: int = 2**63 - 1
    pictures: Callable[[Sequence[str]], Iterable[Source] | None] | None = None


def in_split_order(splits: Mapping[Any, Value]) -> dict[SplitName, Value]:
    """Return what there is of train, val and test, in this order."""
    return {split: splits[split] for split in SPLIT_NAMES if split in splits}


def make_split(images: PixelArray, labels: IntArray, ids: Sequence[str]) -> Split:
    """Return a `Split` of the arrays, without a copy where they are contiguous or large."""
    if images.nbytes <= LARGE_BYTES or min(images.strides) < 0:  # which torch does not have
        images = np.ascontiguousarray(images)
    return Split(torch.from_numpy(images), torch.from_numpy(labels), ids)
