"""CIFAR-10 and CIFAR-100 as their authors publish them: Python batches, binary, or the archive.

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UsageError
from ..dataset import Split
from ..tree import SourceTree
from .contents import DataLayout, LoadedData, PixelArray, ReadOptions, make_split
from .images import fit_arrays
from .labels import Label, number_labels
from .unpickle import load_arrays

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MAX_BYTES = 2**30  # of a file; the largest real one has 154 MB
_NUM_IMAGES = 60_000


@dataclass(frozen=True)
class _Layout:
    """The files of one published form, and where the label is in them."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str  # file with the names of the classes
    names_key: str
    label_key: str
    label_bytes: int  # before the pixels of each binary record; the last one is the label

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, self.names)

    @property
    def form(self) -> str:
        return "binary files" if self.label_bytes else "Python batches"


_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
_LAYOUTS = (
    _Layout(_TEN, ("test_batch",), "batches.meta", "label_names", "labels", 0),
    _Layout(("train",), ("test",), "meta", "fine_label_names", "fine_labels", 0),
    _Layout(tuple(f"{b}.bin" for b in _TEN), ("test_batch.bin",), "batches.meta.txt", "", "", 1),
    _Layout(("train.bin",), ("test.bin",), "fine_label_names.txt", "", "", 2),
)
_FILES = frozenset(name for layout in _LAYOUTS for name in layout.files)


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize the files of one form, in the source or in a folder of it.

    Raises:
        UsageError: one of them is missing, or there are two data sets.
    """
    folders: dict[str, list[str]] = {}
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        if file in _FILES and "/" not in folder:
            folders.setdefault(folder, []).append(file)
    layouts: dict[str, _Layout] = {}
    for folder, present in folders.items():
        if layout := _layout_of(present, tree.path(folder)):
            layouts[folder] = layout
    if len(layouts) > 1:
        paths = " and ".join(str(tree.path(folder)) for folder in layouts)
        raise UsageError(f"{tree.root} holds more than one data set; choose between {paths}")
    if not layouts:
        return None
    [(folder, layout)] = layouts.items()
    names = {name: f"{folder}/{name}" if folder else name for name in layout.files}

    def read(options: ReadOptions) -> LoadedData:
        contents = {name: tree.read(file, _MAX_BYTES) for name, file in names.items()}
        return _read(contents, layout, options)

    return DataLayout(
        "cifar",
        f"CIFAR-{100 if len(layout.train) == 1 else 10}, {layout.form}",
        tuple(names.values()),
        read,
        _NUM_IMAGES,
        max_bytes=_MAX_BYTES,
    )


def _layout_of(present: Collection[str], path: Path) -> _Layout | None:
    """Return the form with two files or more in `path`, which must then have all of them."""
    for layout in _LAYOUTS:
        missing = [name for name in layout.files if name not in present]
        if len(missing) > len(layout.files) - 2:
            continue
        if missing:
            raise UsageError(f"{path} is not complete: {', '.join(missing)} is missing")
        return layout
    return None


def _read(contents: Mapping[str, bytes], layout: _Layout, options: ReadOptions) -> LoadedData:
    classes = _class_names(contents[layout.names], layout)

    def read_split(files: tuple[str, ...]) -> tuple[Split, tuple[str, ...]]:
        read = _read_binary if layout.label_bytes else _read_batch
        batches, labels, ids = [], [], []
        for done, name in enumerate(files, start=1):
            pixels, batch_labels = read(contents[name], name, layout)
            batches.append(pixels)
            labels.append(number_labels(batch_labels, classes, name))
            ids += [f"{name}#{row}" for row in range(len(pixels))]
            options.on_progress("read batches", done, len(files))
        if not ids:
            raise UsageError(f"{', '.join(files)} holds no images")
        images = np.concatenate(batches).reshape(-1, *_SHAPE)  # (N, C, H, W)
        images, notes = fit_arrays(images, options.image_size, options.resize)
        return make_split(images, np.concatenate(labels), ids), notes

    train, notes = read_split(layout.train)
    test, _ = read_split(layout.test)
    return LoadedData(classes, train, test=test, notes=notes)


def _read_batch(content: bytes, name: str, layout: _Layout) -> tuple[PixelArray, list[Label]]:
    """Return pixels (N, 3072) and labels (N,) of a Python batch."""
    batch = load_arrays(content, name)
    pixels, labels = batch.get("data"), batch.get(layout.label_key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.shape[1:] != (_PIXELS,)
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(label) is int and 0 <= label <= 255 for label in labels)
    ):
        raise UsageError(
            f"{name} is not a CIFAR batch: it needs data of shape (N, {_PIXELS}) and a number "
            f"from 0 to 255 in {layout.label_key} for each row"
        )
    return pixels, labels


def _read_binary(content: bytes, name: str, layout: _Layout) -> tuple[PixelArray, list[Label]]:
    """Return pixels (N, 3072) and labels (N,) of a binary file; a record has the labels first."""
    record = layout.label_bytes + _PIXELS
    if len(content) % record:
        raise UsageError(
            f"{name} is cut off: {len(content):,} bytes is not a multiple of {record:,}"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return records[:, -_PIXELS:], records[:, layout.label_bytes - 1].tolist()


def _class_names(content: bytes, layout: _Layout) -> tuple[str, ...]:
    if layout.label_bytes:
        return tuple(content.decode("latin1").split())
    names = load_arrays(content, layout.names).get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise UsageError(f"{layout.names} has no list of class names in {layout.names_key}")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)
