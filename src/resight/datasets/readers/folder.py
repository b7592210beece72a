"""Pictures in a folder for each class, with or without a split into train and test."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import UsageError
from .contents import DataLayout, LoadedData, ReadOptions, make_split
from .images import Pictures, decode

_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"),
}
_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VAL = ("val", "valid", "validation")


@dataclass(frozen=True)
class _Tree:
    """The pictures below one folder, by class; every name is relative to the source."""

    pictures: dict[str, list[str]]  # class -> names, sorted
    others: int  # files that are not pictures or in no class


def find(path: Path) -> DataLayout | None:
    """Recognize `train/cat/1.png` and `test/cat/2.png`, or `cat/1.png` alone.

    Raises:
        UsageError: the folder is empty, has no class folders, one class only, or an empty class.
    """
    if not path.is_dir():
        return None
    root = _unwrap(path)
    folders = {p.name.lower(): p.name for p in _visible(root) if _is_split(p)}
    train = next((folders[name] for name in _TRAIN if name in folders), None)
    test = next((folders[name] for name in (*_TEST, *_VAL) if name in folders), None)
    if train is None and test is not None:
        raise UsageError(f"{root} has {test} but no train folder; add it, or give {root / test}")
    notes = []
    if train is not None and test is not None:
        parts = {"train": _tree(root, root / train), "test": _tree(root, root / test)}
        val = next((folders[name] for name in _VAL if name in folders), test)
        if test not in {folders.get(name) for name in _TEST}:
            notes.append(f"there is no test folder: {test} stands in for it")
        if val != test:
            notes.append(f"{val} was skipped: validation images are held out of {train}")
    else:
        parts = {"train": _tree(root, root / train if train else root)}
    for tree in parts.values():
        _check(tree, root)
    if "test" in parts:
        _check_same(parts["train"], parts["test"], f"{train} and {test}")
    others = sum(tree.others for tree in parts.values())
    if others:
        notes.append(f"{others:,} files that are not pictures of a class were skipped")
    files = {
        name: root / name
        for tree in parts.values()
        for names in tree.pictures.values()
        for name in names
    }
    return DataLayout(files, partial(_read, root, parts, tuple(notes)))


def _visible(folder: Path) -> list[Path]:
    """What is in the folder, without hidden files and what archives from macOS leave behind."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))


def _is_split(folder: Path) -> bool:
    """Whether it is named like one and holds class folders: a class may be called `train`."""
    if folder.name.lower() not in (*_TRAIN, *_TEST, *_VAL) or not folder.is_dir():
        return False
    inside = _visible(folder)
    return any(p.is_dir() for p in inside) and not any(_is_picture(p.name) for p in inside)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _unwrap(path: Path) -> Path:
    """The folder itself, or the only one in it: `photos/photos/cat` is common."""
    inside = _visible(path)
    splits = (*_TRAIN, *_TEST, *_VAL)
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() not in splits:
        deeper = _visible(inside[0])
        if sum(p.is_dir() for p in deeper) > 1:
            return inside[0]
    return path


def _tree(root: Path, folder: Path) -> _Tree:
    pictures: dict[str, list[str]] = {}
    others = 0
    for entry in _visible(folder):
        if not entry.is_dir():
            others += 1
            continue
        names = pictures.setdefault(entry.name, [])
        for name in _walk(root, entry):
            if _is_picture(name):
                names.append(name)
            else:
                others += 1
        names.sort()
    return _Tree(pictures, others)


def _walk(root: Path, folder: Path) -> Iterator[str]:
    """Names of files at any depth of `folder`, relative to `root`. Paths as text, for speed."""
    for inside, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        above = Path(inside).relative_to(root).as_posix()
        yield from (f"{above}/{name}" for name in files if not name.startswith("."))


def _check(tree: _Tree, root: Path) -> None:
    if not tree.pictures:
        what = "has files but no class folders" if tree.others else "is empty"
        raise UsageError(f"{root} {what}; put the pictures into a folder a class, as cat/1.png")
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


def _check_same(train: _Tree, test: _Tree, which: str) -> None:
    differing = sorted(train.pictures.keys() ^ test.pictures.keys())
    if differing:
        raise UsageError(
            f"{which} differ in their class folders: {', '.join(differing[:5])} is in one only"
        )


def _read(
    root: Path, parts: dict[str, _Tree], notes: tuple[str, ...], options: ReadOptions
) -> LoadedData:
    classes = tuple(parts["train"].pictures)
    names = [name for t in parts.values() for c in classes for name in t.pictures[c]]
    labels = np.array(
        [k for t in parts.values() for k, c in enumerate(classes) for _ in t.pictures[c]],
        dtype=np.int64,
    )
    pictures = Pictures(len(names), lambda: ((str(root / name), root / name) for name in names))
    decoded = decode(pictures, options)
    in_train = decoded.kept < sum(map(len, parts["train"].pictures.values()))
    splits = [
        make_split(
            decoded.images[part],
            labels[decoded.kept[part]],
            [names[row] for row in decoded.kept[part]],
        )
        for part in ([in_train, ~in_train] if "test" in parts else [in_train])
    ]
    test = splits[1] if "test" in parts else None
    return LoadedData(classes, splits[0], test, notes + decoded.notes)
