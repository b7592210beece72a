"""Pictures in a folder for each class, with or without a split into train and test."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import UsageError
from .contents import DataLayout, LoadedData, ReadOptions
from .images import Pictures, load_pictures
from .picture import MAX_BYTES

_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"),
}
_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VAL = ("val", "valid", "validation")
_SPLITS = (*_TRAIN, *_TEST, *_VAL)


@dataclass(frozen=True)
class _Tree:
    """The pictures below one folder, by class; every name is relative to the source."""

    pictures: dict[str, list[str]]  # class -> names, sorted
    num_skipped: int  # files that are not pictures or in no class


def find(path: Path) -> DataLayout | None:
    """Recognize `train/cat/1.png` and `test/cat/2.png`, or `cat/1.png` alone.

    Raises:
        UsageError: the folder is empty or has no class folders, or one of them has no pictures.
    """
    if not path.is_dir():
        return None
    root = _unwrap(path)
    folders = {p.name.lower(): p.name for p in _visible(root) if _is_split(p)}
    train, test, val = (
        next((folders[name] for name in names if name in folders), None)
        for names in (_TRAIN, _TEST, _VAL)
    )
    notes = []
    if test and val:
        notes.append(f"{val} was skipped: validation images are held out of {train}")
    elif val:
        test = val
        notes.append(f"there is no test folder: {test} stands in for it")
    if test and not train:
        raise UsageError(f"{root} has {test} but no train folder; add it, or give {root / test}")
    trees = [_tree(root, root / name) for name in (train or ".", test) if name]
    for tree in trees:
        _check(tree, root)
    differing = sorted(trees[0].pictures.keys() ^ trees[-1].pictures.keys())
    if differing:
        raise UsageError(
            f"{train} and {test} differ in their class folders: {', '.join(differing[:5])} is in "
            "one only"
        )
    if num_skipped := sum(tree.num_skipped for tree in trees):
        notes.append(f"{num_skipped:,} files that are not pictures of a class were skipped")
    files = {
        name: root / name for tree in trees for names in tree.pictures.values() for name in names
    }
    return DataLayout(files, partial(_read, root, trees, tuple(notes)), MAX_BYTES)


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, without hidden files and leftovers of archives from macOS."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))


def _is_split(folder: Path) -> bool:
    """Return whether a folder is a split and not a class called `train`: it holds class folders."""
    if folder.name.lower() not in _SPLITS or not folder.is_dir():
        return False
    inside = _visible(folder)
    return any(p.is_dir() for p in inside) and not any(_is_picture(p.name) for p in inside)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _unwrap(path: Path) -> Path:
    """Return the folder, or the only folder in it: `photos/photos/cat` is common."""
    inside = _visible(path)
    if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.lower() in _SPLITS:
        return path
    has_classes = sum(p.is_dir() for p in _visible(inside[0])) > 1
    return inside[0] if has_classes else path


def _tree(root: Path, folder: Path) -> _Tree:
    pictures: dict[str, list[str]] = {}
    num_skipped = 0
    for entry in _visible(folder):
        if not entry.is_dir():
            num_skipped += 1
            continue
        names = list(_walk(root, entry))
        pictures[entry.name] = sorted(filter(_is_picture, names))
        num_skipped += len(names) - len(pictures[entry.name])
    return _Tree(pictures, num_skipped)


def _walk(root: Path, folder: Path) -> Iterator[str]:
    """Yield file names at any depth of `folder`, relative to `root`; as text, for speed."""
    for inside, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        above = Path(inside).relative_to(root).as_posix()
        yield from (f"{above}/{name}" for name in files if not name.startswith("."))


def _check(tree: _Tree, root: Path) -> None:
    if not tree.pictures:
        problem = "has files but no class folders" if tree.num_skipped else "is empty"
        raise UsageError(f"{root} {problem}; put the pictures into a folder a class, as cat/1.png")
    empty = [name for name, pictures in tree.pictures.items() if not pictures]
    if len(empty) == len(tree.pictures):
        raise UsageError(
            f"{root} holds no pictures, Parquet files or CIFAR batches; expected a folder a "
            "class, as cat/1.png"
        )
    if empty:
        raise UsageError(
            f"class folder {empty[0]!r} of {root} holds no pictures; fill or remove it"
        )


def _read(
    root: Path, trees: list[_Tree], notes: tuple[str, ...], options: ReadOptions
) -> LoadedData:
    classes = tuple(trees[0].pictures)
    splits = [
        (
            [name for label in classes for name in tree.pictures[label]],
            np.repeat(
                np.arange(len(classes), dtype=np.int64),
                [len(tree.pictures[label]) for label in classes],
            ),
        )
        for tree in trees
    ]
    paths = [root / name for names, _ in splits for name in names]
    pictures = Pictures([str(path) for path in paths], lambda: paths)
    return load_pictures(classes, splits, pictures, options=options, notes=notes)
