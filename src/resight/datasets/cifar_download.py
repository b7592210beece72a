"""CIFAR-10 and CIFAR-100 by name: the same images, order and ids from whichever form is fetched.

The hub has them as Parquet and sends fast; their authors' archive is often slow. The Parquet of
CIFAR-10 has the batches in the order in which they lie in the archive, not by their numbers, and
that of CIFAR-100 misspells a class. Here both become what the archive gives.
"""

from dataclasses import replace
from functools import partial

import torch

from ..recipe.sources import ARCHIVES, PARQUET_FILES
from .cache_entries import cache_folder
from .dataset import Split
from .download import fetch
from .ids import Ids
from .readers.contents import LoadedData, ReadOptions
from .recognize import open_source, recognize
from .tree import SourceTree

_CLASS_NAMES = {"cra": "crab"}  # as the hub writes it -> as the authors do
# The first labels of every file of the archive, by which a batch is recognized.
_FIRST_LABELS: dict[str, dict[str, tuple[int, ...]]] = {
    "cifar10": {
        "data_batch_1": (6, 9, 9, 4, 1, 1, 2, 7, 8, 3, 4, 7, 7, 2, 9, 9, 9, 3, 2, 6),
        "data_batch_2": (1, 6, 6, 8, 8, 3, 4, 6, 0, 6, 0, 3, 6, 6, 5, 4, 8, 3, 2, 6),
        "data_batch_3": (8, 5, 0, 6, 9, 2, 8, 3, 6, 2, 7, 4, 6, 9, 0, 0, 7, 3, 7, 2),
        "data_batch_4": (0, 6, 0, 2, 7, 2, 1, 2, 4, 1, 5, 6, 6, 3, 1, 3, 5, 5, 8, 1),
        "data_batch_5": (1, 8, 5, 1, 5, 7, 4, 3, 8, 2, 7, 2, 0, 1, 5, 9, 6, 2, 0, 8),
        "test_batch": (3, 8, 8, 0, 6, 6, 1, 6, 3, 1),
    },
    "cifar100": {
        "train": (19, 29, 0, 11, 1, 86, 90, 28, 23, 31),
        "test": (49, 33, 72, 51, 71, 92, 15, 14, 23, 0),
    },
}


def read_cifar(name: str, options: ReadOptions, *, offline: bool) -> LoadedData:
    """Return `cifar10` or `cifar100`; it is downloaded where neither form is there whole.

    Raises:
        UsageError: it is not there and downloads are off.
        ResightError: no mirror has it.
    """
    downloads = cache_folder() / "downloads"
    archive, parquet = (ARCHIVES[name],), PARQUET_FILES[name]
    get = partial(fetch, folder=downloads, offline=offline, on_progress=options.on_progress)
    if get([parquet, archive]) is parquet:
        files = tuple(file.file for file in parquet)
        loaded = recognize(SourceTree(downloads, downloads, files), options).read(options)
        if ordered := _as_in_archive(name, loaded):
            return ordered
        get([archive])  # the hub's order is none that is known
    return recognize(open_source(downloads / archive[0].file), options).read(options)


def _as_in_archive(name: str, loaded: LoadedData) -> LoadedData | None:
    """Return the data with the order, ids and classes of the archive; None if it does not fit."""
    first = _FIRST_LABELS[name]
    tests = {file: labels for file, labels in first.items() if file.startswith("test")}
    trains = {file: labels for file, labels in first.items() if file not in tests}
    if loaded.train is None or loaded.test is None:
        return None
    train, test = _ordered(loaded.train, trains), _ordered(loaded.test, tests)
    if train is None or test is None:
        return None
    classes = tuple(_CLASS_NAMES.get(word, word) for word in loaded.classes)
    return LoadedData(classes, train, test=test, notes=loaded.notes)


def _ordered(split: Split, first: dict[str, tuple[int, ...]]) -> Split | None:
    """Return the split with its equal batches in the order of `first`, which recognizes them."""
    size, remainder = divmod(len(split), len(first))
    batches = torch.split(split.labels, size) if size and not remainder else ()
    places = {
        file: [
            i for i, labels in enumerate(batches) if tuple(labels[: len(start)].tolist()) == start
        ]
        for file, start in first.items()
    }
    if any(len(place) != 1 for place in places.values()):
        return None
    rows = torch.cat([place[0] * size + torch.arange(size) for place in places.values()])
    ids = tuple(f"{file}#{row}" for file in first for row in range(size))
    return replace(split.select(rows), ids=Ids.of(ids))
