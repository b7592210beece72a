"""CIFAR-10 and CIFAR-100 as their authors publish them: Python batches, binary, or the archive.

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from ...errors import UsageError
from ...files import check_file, read_bytes
from ..dataset import Split
from .contents import DataLayout, LoadedData, PixelArray, ReadOptions, make_split
from .images import fit_arrays
from .labels import Label, number_labels
from .unpickle import load_arrays

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MAX_UNPACKED = 2**30  # bytes; the real archives unpack to 186 MB
_MAX_MEMBERS = 1000  # the real archives have 9
_MAX_NAME = 2**16  # bytes of a member's long name, which the archive holds as a member of its own
_NAME_TYPES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


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
_FILES = frozenset(name for layout in _LAYOUTS for name in layout.files)


class _TarInfo(tarfile.TarInfo):
    """The header of a member; a header that would make tarfile read without an end is refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _NAME_TYPES and header.size > _MAX_NAME):
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


def find(path: Path) -> DataLayout | None:
    """Recognize a folder with one of the forms, its parent, or an archive of one."""
    if path.is_file():
        if not _is_tar(path):
            return None
        return DataLayout({"": path}, partial(read_archive, path), _MAX_UNPACKED)
    layouts: dict[Path, _Layout] = {}
    for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
        present = [name for name in _FILES if (folder / name).is_file()]
        if layout := _layout_of(present, folder):
            layouts[folder] = layout
    if len(layouts) > 1:
        folders = " and ".join(map(str, layouts))
        raise UsageError(f"{path} holds more than one data set; choose between {folders}")
    if not layouts:
        return None
    [(folder, layout)] = layouts.items()
    paths = {name: folder / name for name in layout.files}

    def read(options: ReadOptions) -> LoadedData:
        contents = {name: read_bytes(path, _MAX_UNPACKED) for name, path in paths.items()}
        return _read(contents, layout, options)

    return DataLayout(paths, read, _MAX_UNPACKED)


def read_archive(path: Path, options: ReadOptions) -> LoadedData:
    """Read the batches straight from a `.tar.gz`; nothing is unpacked to disk.

    Raises:
        UsageError: it is damaged, unsafe (links, devices, paths that lead out) or not CIFAR.
    """
    contents: dict[str, bytes] = {}
    unpacked = 0
    try:
        check_file(path, _MAX_UNPACKED)
        with tarfile.open(path, "r|*", tarinfo=_TarInfo) as archive:  # one pass, without seeking
            for count, member in enumerate(archive, 1):
                if count > _MAX_MEMBERS:
                    raise UsageError(f"{path} is refused: it has more than {_MAX_MEMBERS} members")
                _check_member(member, path)
                unpacked += member.size
                if unpacked > _MAX_UNPACKED:
                    raise UsageError(f"{path} is refused: it unpacks to more than 1 GiB")
                name = PurePosixPath(member.name).name
                if name in _FILES and (file := archive.extractfile(member)):
                    contents[name] = file.read()
    except UsageError:
        raise
    except Exception as error:  # tarfile raises many kinds for forged headers
        raise UsageError(
            f"{path} is not a whole archive ({error}); remove it and download it again"
        ) from error
    layout = _layout_of(contents, path)
    if layout is None:
        raise UsageError(
            f"{path} holds no CIFAR batches; unpack other archives and give the folder"
        )
    return _read(contents, layout, options)


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    """Refuse an archive made to write outside its folder, even though nothing is written."""
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[:1]:
        raise UsageError(f"{path} is refused: its member {member.name!r} leads out of its folder")
    if member.size < 0:  # an extended header can say so
        raise UsageError(f"{path} is refused: its member {member.name!r} has a negative size")
    if not (member.isfile() or member.isdir()):
        raise UsageError(f"{path} is refused: its member {member.name!r} is a link or a device")


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(512)
    return start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar"


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
        images, notes = fit_arrays(images, options.image_size)
        return make_split(images, np.concatenate(labels), ids), notes

    train, notes = read_split(layout.train)
    test, _ = read_split(layout.test)
    return LoadedData(classes, train, test, notes=notes)


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
