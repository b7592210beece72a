"""What the checks of a data set look at."""

import math
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b

import torch

from ..datasets import Dataset, Split
from .issues import Skipped
from .near_copies import NearCopies, near_copies

MAX_BYTES = 2**30  # of images that are compared before a training
MAX_PRODUCTS = 2**32  # pairs of images that are compared: those of CIFAR-10 eight times over


class DatasetProbe:
    """A data set, and what several checks look at.

    balanced: whether the recipe makes up for classes of other sizes; max_products: how many pairs
    of images are compared at most, to look for near copies.
    """

    def __init__(
        self, dataset: Dataset, *, balanced: bool = False, max_products: int = MAX_PRODUCTS
    ) -> None:
        self.dataset, self.balanced, self.max_products = dataset, balanced, max_products
        names = {"train": "training", "val": "validation", "test": "test"}
        self.splits = {names[name]: split for name, split in dataset.splits.items()}

    @cached_property
    def rows(self) -> dict[str, dict[bytes, list[int]]]:
        """The rows of each split by a digest of their pixels."""
        self.check_time()
        return {name: _rows_by_digest(split) for name, split in self.splits.items()}

    def check_time(self) -> None:
        """Skip a check that looks at every pixel, before a training on many images.

        Raises:
            Skipped: it would take more than seconds.
        """
        num_bytes = sum(math.prod(split.shape) for split in self.splits.values())
        if num_bytes > MAX_BYTES and self.max_products < MAX_PRODUCTS:
            raise Skipped("it takes minutes with so many images: resight doctor looks at them")

    @property
    def held_out(self) -> dict[str, Split]:
        """The splits that must have no copies in training, by name."""
        return {name: split for name, split in self.splits.items() if name != "training"}

    @cached_property
    def near_copies(self) -> dict[str, NearCopies]:
        """The near copies of training images in each other split, without the exact ones."""
        self.check_time()
        result = {}
        for name, split in self.held_out.items():
            pairs = near_copies(split, self.dataset.train, max_products=self.max_products)
            exact = {
                row
                for digest in self.rows[name].keys() & self.rows["training"].keys()
                for row in self.rows[name][digest]
            }
            near = torch.tensor([row not in exact for row in pairs.rows.tolist()]).bool()
            result[name] = replace(
                pairs,
                rows=pairs.rows[near],
                matches=pairs.matches[near],
                details=pairs.details[near],
            )
        return result


def _rows_by_digest(split: Split) -> dict[bytes, list[int]]:
    rows: dict[bytes, list[int]] = {}
    images = (image for part in split.parts() for image in part.cpu().numpy())
    for row, image in enumerate(images):
        rows.setdefault(blake2b(image.tobytes(), digest_size=16).digest(), []).append(row)
    return rows
