"""Which layout a source has: every reader looks at the whole tree, and the best fit is taken."""

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError, suggest
from .archive import is_archive, list_archive
from .readers import arrays, cifar, folder, idx, names, parquet, pixel_table, shards, stl10, table
from .readers.contents import DataLayout, ReadOptions
from .splits import split_of
from .tree import SourceTree, is_paper, is_picture, list_file, list_folder

# Each reader by the name of its layout. Where none fits, the first error of a reader is shown.
_FINDERS: dict[str, Callable[[SourceTree], DataLayout | None]] = {
    "arrays": arrays.find,
    "idx": idx.find,
    "stl10": stl10.find,
    "pixels": pixel_table.find,
    "cifar": cifar.find,
    "parquet": parquet.find,
    "shards": shards.find,
    "table": table.find,
    "names": names.find,
    "folders": folder.find,
}
_WITH_COLUMNS = ("table", "parquet")  # the layouts that `label_column` is for
_FORMATS = {b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR", b"(\xb5/\xfd": "Zstandard"}  # by magic bytes


def open_source(path: Path) -> SourceTree:
    """List the files of a source once: of a folder, of an archive, or one file alone.

    Raises:
        UsageError: it cannot be read, or is an archive that is damaged or made to do harm.
    """
    try:
        if path.is_dir():
            tree = list_folder(path)
        elif is_archive(path):
            tree = list_archive(path)
        else:
            return list_file(path)
        return _unwrapped(tree)
    except OSError as error:
        raise UsageError(f"data {str(path)!r} cannot be read: {error.strerror or error}") from error


def _unwrapped(tree: SourceTree) -> SourceTree:
    """Return the tree without the folders around it: `photos/photos/cat` is common.

    A folder is around the data if it is the only one, is no split, and holds more than pictures
    alone. Beside it may lie a README or a license.
    """
    while True:
        folders = tree.children()
        beside = [name for name in tree.empty_folders if "/" not in name]
        if len(folders) != 1 or beside or not all(map(is_paper, tree.files())):
            return tree
        [folder] = folders
        inner = tree.below(folder)
        if split_of(folder) or all("/" not in name and is_picture(name) for name in inner.names):
            return tree
        tree = inner


def recognize(tree: SourceTree, options: ReadOptions) -> DataLayout:
    """Return the layout of a source: the one that is asked for, or that explains most of it.

    Raises:
        UsageError: no reader knows it, or two read it differently.
    """
    path = tree.source
    name = options.layout
    try:
        if name is not None:
            return _recognize_as(tree, name)
        layouts: list[DataLayout] = []
        errors: dict[str, UsageError] = {}
        for word, find in _FINDERS.items():
            if options.label_column and word not in _WITH_COLUMNS:
                continue
            try:
                if layout := find(tree):
                    layouts.append(layout)
            except UsageError as error:
                errors[word] = error
    except OSError as error:
        raise UsageError(f"data {str(path)!r} cannot be read: {error.strerror or error}") from error
    sure = [layout for layout in layouts if not layout.objection or options.label_column]
    if sure and 2 * _most(sure).num_pictures >= _most(layouts).num_pictures:
        best = _best(tree, sure)
        if best.name == "names" and "table" in errors:  # a table says more than names of files
            raise UsageError(f"{errors['table']}, or leave the table out by --layout names")
        return best
    if layouts:
        raise UsageError(f"{tree.root}: {_most(layouts).objection}")
    if errors:
        raise errors.get("table") or next(iter(errors.values()))
    raise UsageError(_unknown(tree))


def _recognize_as(tree: SourceTree, name: str) -> DataLayout:
    if name not in _FINDERS:
        raise UsageError(
            f"there is no layout {name!r}{suggest(name, _FINDERS)} (valid: {', '.join(_FINDERS)})"
        )
    if layout := _FINDERS[name](tree):
        return layout
    raise UsageError(
        f"{tree.source} has not the layout {name!r}: it holds {tree.overview()}; leave --layout "
        "out to have it recognized"
    )


def _most(layouts: list[DataLayout]) -> DataLayout:
    return max(layouts, key=lambda layout: layout.num_pictures)


def _best(tree: SourceTree, layouts: list[DataLayout]) -> DataLayout:
    """Return the layout that explains most, if no other explains half as much in another way.

    Of a table and of names of files that say the same, the table is taken.
    """
    best = _most(layouts)
    others = [
        layout
        for layout in layouts
        if layout is not best and 2 * layout.num_pictures >= best.num_pictures
    ]
    rivals = [layout for layout in others if not _agree(layout, best)]
    if not rivals:
        tables = [layout for layout in others if layout.name == "table"]
        return tables[0] if tables and best.name == "names" else best
    readings = " or ".join(
        f"{layout.summary} ({layout.num_pictures:,} images, --layout {layout.name})"
        for layout in (best, *rivals)
    )
    raise UsageError(f"{tree.source} can be read in {len(rivals) + 1} ways: {readings}; choose one")


def _agree(first: DataLayout, second: DataLayout) -> bool:
    """Return whether two layouts give the same classes, whatever they call them."""
    if first.labels is None or second.labels is None:
        return False
    pairs = {
        (word, second.labels[name]) for name, word in first.labels.items() if name in second.labels
    }
    return bool(pairs) and len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _unknown(tree: SourceTree) -> str:
    path = tree.source
    if not path.is_dir() and not tree.is_archive:
        with path.open("rb") as file:
            start = file.read(4)
        if start in _FORMATS:
            return f"{path} is a {_FORMATS[start]} archive; unpack it and give the folder"
    inside = [name for name in tree.names if name.lower().endswith((".zip", ".tar", ".gz", ".tgz"))]
    if len(inside) == 1 and not tree.is_archive:
        return f"{path} holds no pictures but an archive; give {tree.path(inside[0])}"
    if inside:
        listed = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
        return (
            f"{path} holds no pictures but archives ({listed}); unpack each into a folder of its "
            "name, and give the folder around them"
        )
    return (
        f"data {str(path)!r} is no data set that resight knows (it holds {tree.overview()}); "
        "give a folder a class as cat/1.png, or labels.csv with the columns file and label "
        "beside the pictures"
    )
