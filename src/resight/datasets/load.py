"""Load a data set by name or path."""

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from ..recipe.sources import ARCHIVES, find_source
from . import cache
from .dataset import Dataset, OnProgress, hold_out
from .download import fetch
from .readers import cifar, digits, folder, parquet
from .readers import npz as arrays
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
    """Load a built-in data set by name, or any of the layouts below by path.

    Parquet as on the Hugging Face hub; CIFAR batches, binary files or their archive; a folder a
    class; `.npz`. What it is, the content decides. Pictures keep their size if all are the same
    square, and become 32 px otherwise, unless `image_size` (8..512 px) says more. They are
    decoded once and cached; see `Dataset.notes` for everything that was changed or skipped.

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

        def read() -> LoadedData:
            downloads = cache.cache_folder() / "downloads"
            path = fetch(archive, downloads, offline=offline, on_progress=options.on_progress)
            return cifar.read_archive(path, options)
    else:
        layout = _recognize(location)
        name = location.resolve().name if location.is_dir() else location.name.partition(".")[0]
        digest = cache.digest_files(layout.files)

        def read() -> LoadedData:
            return layout.read(options)

    key = cache.entry_key(digest, options)
    return cache.read_entry(key, name) or cache.write_entry(key, _finish(name, read()))


def _recognize(path: Path) -> DataLayout:
    finders: tuple[Callable[[Path], DataLayout | None], ...] = (
        arrays.find,
        cifar.find,
        parquet.find,
        folder.find,
    )
    try:
        for find in finders:
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
