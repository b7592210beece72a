"""Load a data set by name or path."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache as cached_call
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ..errors import UsageError
from ..recipe import Resize
from ..recipe.sources import ARCHIVES, HubName, find_source
from . import cache, hub
from .archive import is_archive
from .cifar_download import read_cifar
from .dataset import Dataset, OnProgress, Originals
from .objects import data_name, load_objects
from .readers import digits
from .readers.contents import MAX_PX, MIN_PX, DataLayout, LoadedData, ReadOptions, no_progress
from .recognize import open_source, recognize
from .splits import for_training
from .tree import Source, SourceTree


def data(
    source: object,
    labels: object = None,
    *,
    name: str | None = None,
    image_size: int | None = None,
    offline: bool = False,
    skip_unreadable: bool = False,
    classes: Sequence[str] | Literal["same", "train"] = "same",
    resize: Resize = "crop",
    layout: str | None = None,
    label_column: str | None = None,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Load a data set by its name or its path, or make one of images and labels in memory.

    A path leads to a folder, an archive or a file: docs/data.md lists the layouts. In memory are
    arrays, tensors, PIL pictures or paths with their `labels`; a PyTorch data set of (image, label)
    pairs; one of Hugging Face; named arrays; or `{"train": ..., "test": ...}` of these. `classes`
    names the classes of data in memory. `classes="train"` leaves out classes that train lacks.
    Without an `image_size` (8..512 px), pictures keep their size if all are the same square.
    Otherwise they become 64 px if the median of their shorter sides is at least that, and else 32
    px. `Dataset.notes` says how the data was read, and what was changed or skipped.

    Raises:
        UsageError: the source does not exist, is of no known layout or kind, or is damaged.
        ResightError: a download failed.
    """
    options = ReadOptions(
        image_size=image_size,
        skip_unreadable=skip_unreadable,
        classes="train" if classes == "train" else "same",
        resize=resize,
        layout=layout,
        label_column=label_column,
        on_progress=on_progress or no_progress,
    )
    names = _class_names(classes)
    if isinstance(source, str | Path) and labels is None:
        title, loaded = load_source(str(source), options, offline=offline)
        if names is None and name is None:
            return for_training(title, loaded)
        raise UsageError(f"data {title!r} has its own name and classes; leave both out")
    _check_options(options)
    loaded = load_objects(source, labels, options, names)
    return for_training(name or data_name(source, labels), loaded)


def load_source(
    source: str, options: ReadOptions, *, offline: bool = False
) -> tuple[str, LoadedData]:
    """Return the name of a source and its images, divided as their owner divided them.

    Raises:
        UsageError: the source does not exist, has no known layout, or is damaged.
        ResightError: a download failed.
    """
    _check_options(options)
    location = find_source(source)
    if location == "digits":
        return location, digits.read(options)
    read: Callable[[ReadOptions], LoadedData]
    if isinstance(location, str):
        name, digest = location, cache.digest_of({"": ARCHIVES[location].sha256})
        read = partial(read_cifar, location, offline=offline)
    elif isinstance(location, HubName):
        files = hub.find_files(location, offline=offline)
        name, digest = location.name, cache.digest_of({str(files.source): ""})
        read = partial(_read_hub, files, offline=offline)
    else:
        name = location.resolve().name if location.is_dir() else location.name.partition(".")[0]
        return name, _load_path(name, location, options)
    loaded = cache.cached(
        name, cache.entry_key(digest, options), lambda: read(options), options.on_progress
    )
    if isinstance(location, HubName):
        loaded = _with_originals(loaded, lambda: _open_hub(files, options, offline=True), options)
    return name, loaded


def _class_names(classes: Sequence[str]) -> list[str] | None:
    """Return the names of the classes; None if `classes` is the word for an option."""
    if not isinstance(classes, str):
        return list(map(str, classes))
    if classes not in ("same", "train"):
        raise UsageError(f"classes = {classes!r} must be same, train or a list of names")
    return None


def _check_options(options: ReadOptions) -> None:
    size = options.image_size
    if size is not None and not MIN_PX <= size <= MAX_PX:
        raise UsageError(f"image_size = {size} must be {MIN_PX} to {MAX_PX} px")
    if options.resize not in get_args(Resize):
        raise UsageError(
            f"resize = {options.resize!r} must be one of {', '.join(get_args(Resize))}"
        )


def _load_path(name: str, path: Path, options: ReadOptions) -> LoadedData:
    """Return what lies at a path, with notes that say first how it was read."""
    if path.is_file() and is_archive(path):
        # The archive is its own key: where the entry is there, it is not even listed.
        key = cache.entry_key(cache.digest_files({"": path}, 2**63 - 1), options)
        loaded = cache.cached(
            name, key, lambda: _read_tree(open_source(path), options), options.on_progress
        )
        return _with_originals(loaded, lambda: open_source(path), options)
    tree = open_source(path)
    layout = recognize(tree, options)
    files = {file: tree.path(file) for file in layout.files}
    digest = cache.digest_files(files, layout.max_bytes)
    key = cache.entry_key(f"{layout.name} {digest}", options)
    loaded = cache.cached(name, key, lambda: layout.read(options), options.on_progress)
    pictures = layout.pictures
    loaded = loaded.with_originals(pictures and Originals(pictures, options.resize))
    return _described(loaded, layout, tree)


def _with_originals(
    loaded: LoadedData, open_tree: Callable[[], SourceTree], options: ReadOptions
) -> LoadedData:
    """Return the data with its pictures; the source is opened when one is asked for, once."""
    layout = cached_call(lambda: recognize(open_tree(), options))

    def pictures(ids: Sequence[str]) -> Iterable[Source] | None:
        give = layout().pictures
        return give and give(ids)

    return loaded.with_originals(Originals(pictures, options.resize))


def _open_hub(files: hub.HubFiles, options: ReadOptions, *, offline: bool) -> SourceTree:
    return hub.open_files(files, offline=offline, on_progress=options.on_progress)


def _read_hub(files: hub.HubFiles, options: ReadOptions, *, offline: bool) -> LoadedData:
    loaded = _read_tree(_open_hub(files, options, offline=offline), options)
    return replace(loaded, notes=(f"read from {files.source}", *files.notes, *loaded.notes))


def _read_tree(tree: SourceTree, options: ReadOptions) -> LoadedData:
    layout = recognize(tree, options)
    return _described(layout.read(options), layout, tree)


def _described(loaded: LoadedData, layout: DataLayout, tree: SourceTree) -> LoadedData:
    """Return the data with notes on its layout and on what was left out, before its other notes."""
    ignored = ", ".join(f"{what} ({count:,})" for what, count in tree.ignored.items())
    notes = [f"layout {layout.name}: {layout.summary}", *layout.omissions]
    notes += [f"not looked at: {ignored}"] if ignored else []
    return replace(loaded, notes=(*notes, *loaded.notes))
