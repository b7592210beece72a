"""CIFAR-10 and CIFAR-100 as their authors publish them: Python batches, binary, or the archive.

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

import os
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ...errors import UsageError
from ...records import IntArray
from ..dataset import Split
from .contents import DataLayout, LoadedData, PixelArray, ReadOptions, make_split
from .images import fit_arrays
from .unpickle import load_arrays

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MAX_UNPACKED = 2**30  # bytes; the real archives unpack to 186 MB


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


_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
_LAYOUTS = (
    _Layout(_TEN, ("test_batch",), "batches.meta", "label_names", "labels", 0),
    _Layout(("train",), ("test",), "meta", "fine_label_names", "fine_labels", 0),
    _Layout(tuple(f"{b}.bin" for b in _TEN), ("test_batch.bin",), "batches.meta.txt", "", "", 1),
    _Layout(("train.bin",), ("test.bin",), "fine_label_names.txt", "", "", 2),
)


def find(path: Path) -> DataLayout | None:
    """Recognize a folder with one of the forms, its parent, or an archive of one."""
    if path.is_file():
        if not _is_tar(path):
            return None
        return DataLayout({"": path}, partial(read_archive, path))
    folders = [path, *sorted(p for p in path.iterdir() if p.is_dir())]
    hits = [(folder, layout) for folder in folders if (layout := _layout_of(_files(folder)))]
    if not hits:
        return None
    if len(hits) > 1:
        names = " and ".join(str(folder) for folder, _ in hits)
        raise UsageError(f"{path} holds more than one data set; choose between {names}")
    folder, layout = hits[0]
    missing = [name for name in layout.files if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{folder} is not complete: {', '.join(missing)} is missing")
    paths = {name: folder / name for name in layout.files}
    return DataLayout(paths, partial(_read_folder, paths, layout))


def read_archive(path: Path, options: ReadOptions) -> LoadedData:
    """Read the batches straight from a `.tar.gz`; nothing is unpacked to disk.

    Raises:
        UsageError: it is damaged, unsafe (links, devices, paths that lead out) or not CIFAR.
    """
    contents: dict[str, bytes] = {}
    wanted = {name for layout in _LAYOUTS for name in layout.files}
    unpacked = 0
    try:
        with tarfile.open(path, "r|*") as archive:  # one pass, without seeking
            for member in archive:
                _check_member(member, path)
                unpacked += member.size
                if unpacked > _MAX_UNPACKED:
                    raise UsageError(f"{path} is refused: it unpacks to more than 1 GiB")
                name = PurePosixPath(member.name).name
                if member.isfile() and name in wanted:
                    file = archive.extractfile(member)
                    contents[name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UsageError(
            f"{path} is not a whole archive ({error}); remove it and download it again"
        ) from error
    layout = _layout_of(contents.keys())
    missing = [name for name in layout.files if name not in contents] if layout else []
    if layout is None or missing:
        what = f"{', '.join(missing)} is missing" if missing else "it holds no CIFAR batches"
        raise UsageError(f"{path} cannot be used: {what}; unpack other archives, give the folder")
    return _read(contents, layout, options)


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    """Refuse an archive made to write outside its folder, even though nothing is written."""
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[:1]:
        raise UsageError(f"{path} is refused: its member {member.name!r} leads out of its folder")
    if not (member.isfile() or member.isdir()):
        raise UsageError(f"{path} is refused: its member {member.name!r} is a link or a device")


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(512)
    return start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar"


def _files(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}


def _layout_of(names: Iterable[str]) -> _Layout | None:
    present = set(names)
    for layout in _LAYOUTS:
        if len(present.intersection(layout.files)) >= 2:  # the rest is then missed by name
            return layout
    return None


def _read_folder(paths: Mapping[str, Path], layout: _Layout, options: ReadOptions) -> LoadedData:
    return _read({name: path.read_bytes() for name, path in paths.items()}, layout, options)


def _read(contents: Mapping[str, bytes], layout: _Layout, options: ReadOptions) -> LoadedData:
    classes = _class_names(contents[layout.names], layout)
    train, train_notes = _read_split(contents, layout.train, layout, options)
    test, _ = _read_split(contents, layout.test, layout, options)
    for split in (train, test):
        low, high = split.labels.aminmax()
        if low < 0 or high >= len(classes):
            raise UsageError(
                f"{split.ids[0]} and on: a label of {int(high if low >= 0 else low)} is outside "
                f"the {len(classes)} classes in {layout.names}"
            )
    return LoadedData(classes, train, test, train_notes)


def _read_split(
    contents: Mapping[str, bytes], files: tuple[str, ...], layout: _Layout, options: ReadOptions
) -> tuple[Split, tuple[str, ...]]:
    read = _read_binary if layout.label_bytes else _read_batch
    batches = []
    for done, name in enumerate(files, start=1):
        batches.append(read(contents[name], name, layout))
        options.on_progress("read batches", done, len(files))
    images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, *_SHAPE)  # (N, C, H, W)
    labels = np.concatenate([labels for _, labels in batches])
    if not len(labels):
        raise UsageError(f"{', '.join(files)} holds no images")
    images, notes = fit_arrays(images, options.image_size)
    ids = [
        f"{name}#{row}"
        for name, (_, batch) in zip(files, batches, strict=True)
        for row in range(len(batch))
    ]
    return make_split(images, labels, ids), notes


def _read_batch(content: bytes, name: str, layout: _Layout) -> tuple[PixelArray, IntArray]:
    """Pixels (N, 3072) and labels (N,) of a Python batch."""
    batch = load_arrays(content, name)
    pixels, labels = batch.get("data"), batch.get(layout.label_key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.ndim != 2
        or pixels.shape[1] != _PIXELS
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(label) is int for label in labels)
    ):
        raise UsageError(
            f"{name} is not a CIFAR batch: it needs data of shape (N, {_PIXELS}) and a whole "
            f"number in {layout.label_key} for each row"
        )
    return pixels, np.array(labels, dtype=np.int64)


def _read_binary(content: bytes, name: str, layout: _Layout) -> tuple[PixelArray, IntArray]:
    """Pixels (N, 3072) and labels (N,) of a binary file: one record an image, labels first."""
    record = layout.label_bytes + _PIXELS
    if len(content) % record:
        raise UsageError(
            f"{name} is cut off: {len(content):,} bytes is not a multiple of {record:,}"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return records[:, -_PIXELS:], records[:, layout.label_bytes - 1].astype(np.int64)


def _class_names(content: bytes, layout: _Layout) -> tuple[str, ...]:
    if layout.label_bytes:
        return tuple(content.decode("latin1").split())
    names = load_arrays(content, layout.names).get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise UsageError(f"{layout.names} has no list of class names in {layout.names_key}")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)
