"""Load a data set by name or path."""

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import UsageError
from ..files import check_file
from ..recipe.sources import ARCHIVES, Archive, find_source
from . import cache
from .dataset import Dataset, OnProgress, hold_out
from .download import fetch
from .readers import cifar, digits, folder, npz, parquet
from .readers.contents import MAX_PX, MIN_PX, DataLayout, LoadedData, ReadOptions, no_progress

_TEST_FRACTION = 0.2  # held out of sources that come in one piece
_TEST_SEED = 0


def data(
    source: str,
    *,
    image_size: int | None = None,
    offline: bool = False,
    skip_unreadable: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Load a data set, either a built-in one by its name or any other by its path.

    The path leads to Parquet as on the Hugging Face hub; to CIFAR batches, binary files or their
    archive; to a folder a class; or to a `.npz` file. The layout is recognized by its content.
    Without an `image_size` (8..512 px), pictures keep their size if all are the same square, and
    become 32 px otherwise. They are decoded once and cached. `Dataset.notes` lists everything that
    was changed or skipped.

    Raises:
        UsageError: the source does not exist, has none of these layouts, or is damaged.
        ResightError: a download failed.
    """
    if image_size is not None and not MIN_PX <= image_size <= MAX_PX:
        raise UsageError(f"image_size = {image_size} must be {MIN_PX} to {MAX_PX} px")
    options = ReadOptions(image_size, skip_unreadable, on_progress or no_progress)
    location = find_source(source)
    if location == "digits":
        return _finish(location, digits.read(options))
    if isinstance(location, str):
        name, archive = location, ARCHIVES[location]
        digest = cache.digest_of({"": archive.sha256})
        read: Callable[[ReadOptions], LoadedData] = partial(_download, archive, offline)
    else:
        layout = _recognize(location)
        name = location.resolve().name if location.is_dir() else location.name.partition(".")[0]
        digest, read = cache.digest_files(layout.files, layout.max_bytes), layout.read
    key = cache.entry_key(digest, options)
    return cache.cached(key, name, lambda: _finish(name, read(options)))


def _download(archive: Archive, offline: bool, options: ReadOptions) -> LoadedData:
    downloads = cache.cache_folder() / "downloads"
    path = fetch(archive, downloads, offline=offline, on_progress=options.on_progress)
    return cifar.read_archive(path, options)


def _recognize(path: Path) -> DataLayout:
    try:
        if not path.is_dir():
            check_file(path, sys.maxsize)
        for find in (npz.find, cifar.find, parquet.find, folder.find):
            if layout := find(path):
                return layout
    except OSError as error:
        raise UsageError(f"data {str(path)!r} cannot be read: {error.strerror or error}") from error
    raise UsageError(
        f"data {str(path)!r} is no data set; expected a folder a class, Parquet, .npz, CIFAR "
        "batches or their archive"
    )


def _finish(name: str, contents: LoadedData) -> Dataset:
    """Hold out a test split where there is none, and check what every data set must have."""
    classes, train, test, notes = contents.classes, contents.train, contents.test, contents.notes
    twice = [word for word, count in Counter(classes).items() if count > 1]
    if twice:
        raise UsageError(f"data {name!r} has two classes of the name {twice[0]!r}; rename one")
    if len(classes) < 2:
        raise UsageError(f"data {name!r} has {len(classes)} class; at least 2 are needed")
    if not len(train):
        raise UsageError(f"data {name!r} has no training images")
    if test is None:
        train, test = hold_out(train, _TEST_FRACTION, _TEST_SEED)
        notes = (*notes, f"no test split: {len(test):,} images, 20 % of each class, were held out")
    if not len(test):
        raise UsageError(f"data {name!r} has no test images")
    absent = sorted(set(range(len(classes))) - set(train.labels.tolist()))
    if absent:
        raise UsageError(
            f"data {name!r} has no training image of class {classes[absent[0]]!r}; add some, or "
            "remove the class"
        )
    return Dataset(name, classes, train, test, notes)
