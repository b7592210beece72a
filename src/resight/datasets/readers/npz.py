"""Images and labels as NumPy arrays in a `.npz` file."""

import math
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .contents import DataLayout, LoadedData, PixelArray, ReadOptions, make_split
from .images import fit_arrays
from .labels import Label, name_classes, number_labels
from .limits import check_memory, check_unpacked

Array = NDArray[Any]
Pairs = tuple[tuple[str, str], ...]  # (images, labels) of train and, if there is one, of test

# (images, labels) of train and test, as NumPy users, Keras and MedMNIST name them.
_KEYS: tuple[Pairs, ...] = (
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("images", "labels"),),
)
_VAL_KEYS = ("x_val", "val_images")
_CLASSES_KEY = "classes"  # optional: names, in the order of the labels
_HEADERS: dict[tuple[int, ...], Callable[[Any], tuple[Any, ...]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def find(path: Path) -> DataLayout | None:
    """Recognize a zip file that holds `.npy` arrays."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith(".npy") for name in archive.namelist()):
                return None
    except OSError:
        raise
    except Exception as error:  # zipfile raises many kinds for forged heads
        raise UsageError(f"{path} is a damaged archive: {error}; get it again") from error
    return DataLayout({"": path}, partial(_read, path))


def _read(path: Path, options: ReadOptions) -> LoadedData:
    present, pairs, arrays = _arrays(path)
    if not pairs:
        valid = " or ".join(f"({', '.join(chain(*pairs))})" for pairs in _KEYS)
        more = ", ..." if len(present) > 10 else ""
        raise UsageError(f"{path} holds {', '.join(present[:10])}{more}; expected {valid}")
    notes = [
        f"{key} was skipped: validation images are held out of train"
        for key in _VAL_KEYS
        if key in present
    ]
    labels = {key: _labels(arrays[key], key) for _, key in pairs}
    names = arrays.get(_CLASSES_KEY)
    classes = name_classes(chain(*labels.values())) if names is None else _class_names(names)
    splits = []
    for images_key, labels_key in pairs:
        images, image_notes = _images(arrays[images_key], images_key)
        numbers = number_labels(labels[labels_key], classes, labels_key)
        if len(images) != len(numbers):
            raise UsageError(
                f"{path}: {images_key} has {len(images)} images but {len(numbers)} labels"
            )
        images, fit_notes = fit_arrays(images, options.image_size)
        notes += [note for note in (*image_notes, *fit_notes) if note not in notes]
        ids = [f"{images_key}[{row}]" for row in range(len(images))]
        splits.append(make_split(images, numbers, ids))
    if len({split.images.shape[1:] for split in splits}) > 1:
        raise UsageError(f"{path}: train and test images differ in size or channels")
    return LoadedData(classes, *splits, notes=tuple(notes))


def _arrays(path: Path) -> tuple[list[str], Pairs, dict[str, Array]]:
    """Return the names of all members, the pairs that they make up, and the arrays in use.

    Raises:
        UsageError: a member is damaged or no array, or does not fit into memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = [name.removesuffix(".npy") for name in archive.namelist()]
            pairs = next((pairs for pairs in _KEYS if {*chain(*pairs)} <= {*present}), ())
            keys = [key for key in (*chain(*pairs), _CLASSES_KEY) if pairs and key in present]
            members = [archive.getinfo(f"{key}.npy") for key in keys]
            unpacked = sum(member.file_size for member in members)
            check_unpacked(str(path), packed=path.stat().st_size, unpacked=unpacked)
            check_memory(f"the arrays of {path}", unpacked)
            arrays = {
                key: _array(archive, member) for key, member in zip(keys, members, strict=True)
            }
            return present, pairs, arrays
    except UsageError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds for forged heads
        reason = str(error).splitlines() or [type(error).__name__]
        raise UsageError(
            f"{path} cannot be read as arrays ({reason[0]}); write arrays of numbers with np.savez"
        ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Return an array, whose shape is compared with the bytes in the archive before it is made."""
    with archive.open(member) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"{member.filename} is no array")
        version = (*file.read(2),)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} has a header of an unknown version")
        shape, _, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects, which could run code")
        num_bytes = member.file_size - file.tell()
        if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 1) != num_bytes:
            raise ValueError(
                f"{member.filename} has {num_bytes:,} bytes for {dtype} of shape {shape}"
            )
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _class_names(names: Array) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "iuUS":
        raise UsageError(
            f"{_CLASSES_KEY} is {names.dtype} of shape {names.shape}; expected (K,) words"
        )
    try:
        return tuple(names.astype(str).tolist())
    except UnicodeDecodeError as error:
        raise UsageError(f"{_CLASSES_KEY} holds bytes that are no ASCII; give words") from error


def _images(array: Array, key: str) -> tuple[PixelArray, tuple[str, ...]]:
    """Convert (N, H, W), (N, H, W, C) or (N, C, H, W) to uint8 (N, C, H, W), with notes."""
    if array.ndim == 3:
        array = array[:, None]  # (N, 1, H, W)
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)  # (N, C, H, W)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise UsageError(
            f"{key} has shape {array.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W) "
            "with C = 1 or 3"
        )
    if not array.size:
        raise UsageError(f"{key} holds no images")
    if array.dtype == np.uint8:
        return array, ()
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        return np.rint(array * 255).astype(np.uint8), (f"{key}: [0, 1] was scaled to 0..255",)
    span = f" from {array.min()} to {array.max()}" if array.dtype.kind in "iuf" else ""
    raise UsageError(f"{key} is {array.dtype}{span}; expected uint8, or floats in [0, 1]")


def _labels(array: Array, key: str) -> list[Label]:
    """Return N whole numbers or words; (N, 1) is accepted, as MedMNIST and Keras have it."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise UsageError(
            f"{key} is {array.dtype} of shape {array.shape}; expected (N,) whole numbers or words"
        )
    labels: list[Label] = array.tolist()
    return labels
