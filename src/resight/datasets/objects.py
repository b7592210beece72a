"""Data that is in memory already: arrays, pictures, data sets of PyTorch and of Hugging Face."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UsageError
from .map_style import (
    as_array,
    classes_of,
    is_map_style,
    item_ids,
    picture_bytes,
    read_items,
)
from .readers.array_roles import Head, find_roles
from .readers.arrays import load_roles
from .readers.contents import SPLIT_NAMES, LoadedData, ReadOptions, SplitName, in_split_order
from .readers.labels import Label, encode_labels, known_items, labels_of
from .readers.pixels import Array
from .readers.record_files import RecordFile
from .readers.record_images import load_records
from .readers.split_arrays import ArraySplit, load_split_arrays, load_split_pictures
from .readers.stored_array import StoredArray
from .splits import split_of
from .tree import Source

_RECORDS = 256  # rows of a Hugging Face data set read at a time
_VALID = (
    "give images and labels, a data set of (image, label) pairs, a Hugging Face data set, or "
    "{'train': ..., 'test': ...} of these"
)


@dataclass(frozen=True)
class _PictureSplit:
    """Pictures of any sizes, as files or their content, their labels and their ids."""

    sources: Sequence[Source]
    labels: Sequence[Label]
    ids: Sequence[str]


_Part = ArraySplit | RecordFile | _PictureSplit


def load_objects(
    source: Any, labels: Any, options: ReadOptions, names: Sequence[str] | None = None
) -> LoadedData:
    """Convert what `resight.data` takes besides names and paths; names: of the classes.

    Raises:
        UsageError: it is none of these, or its images or labels are none.
    """
    if labels is not None:
        source = (source, labels)
    elif isinstance(source, Mapping) and not _has_splits(source):
        return _load_named_arrays(source, options, names)
    by_split = source if isinstance(source, Mapping) and labels is None else {"train": source}
    parts: dict[SplitName, _Part] = {}
    notes: list[str] = []
    for key, value in by_split.items():
        split = split_of(str(key))
        if split not in SPLIT_NAMES:
            notes.append(f"{key!r} was left out, since it means no split")
        elif split in parts:
            raise UsageError(f"{key!r} is a second {split} split; give one")
        else:
            parts[split], part_notes = _part(value, split, options)
            notes += part_notes
            names = names or classes_of(value)
    if not parts:
        raise UsageError(f"there is no split among {', '.join(map(str, by_split))}; {_VALID}")
    return _load(parts, options, names, tuple(notes))


def data_name(source: Any, labels: Any) -> str:
    """Return the name of data in memory that was given none: its type, if that says something."""
    is_plain = labels is not None or isinstance(source, dict | list | tuple)
    return "memory" if is_plain else type(source).__name__


def _has_splits(source: Mapping[Any, Any]) -> bool:
    """Return whether a mapping is {"train": data set or pair, ...}, not one of named arrays."""
    return any(split_of(str(key)) and not _is_array_or_list(v) for key, v in source.items())


def _is_array_or_list(value: Any) -> bool:
    """Return whether an object is one array; a list of pairs is a data set."""
    is_list = isinstance(value, list) and not (value and isinstance(value[0], tuple | dict))
    return is_list or _is_array(value)


def _is_records(value: Any) -> bool:
    """Return whether an object is a data set of the library `datasets`."""
    return hasattr(value, "features") and hasattr(value, "column_names")


def _is_pair(value: Any) -> bool:
    """Return whether an object is (images, labels); a list may be one of such items."""
    return isinstance(value, tuple) and len(value) == 2


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor) or hasattr(value, "to_numpy")


def _part(value: Any, split: SplitName, options: ReadOptions) -> tuple[_Part, list[str]]:
    """Return one split, and notes on it."""
    if hasattr(value, "batch_size") and hasattr(value, "dataset"):
        raise UsageError(f"{split} is a loader of batches; give its data set, as loader.dataset")
    if _is_records(value):
        return _of_records(value, split)
    if _is_pair(value):
        return _of_pair(value[0], value[1], split)
    if isinstance(value, str | bytes | Image.Image) or not is_map_style(value) or _is_array(value):
        hint = " without labels" if _is_array(value) else ""
        raise UsageError(f"{split} is of type {type(value).__name__}{hint}; {_VALID}")
    images, labels = read_items(value, split, options)
    if not images:
        raise UsageError(f"{split} is empty; give at least two images of each class")
    part, notes = _of_pair(images, labels, split)
    return replace(part, ids=item_ids(value, split)), notes


# --- images and labels ----------------------------------------------------------------------


def _of_pair(
    images: Any, labels: Any, split: SplitName
) -> tuple[ArraySplit | _PictureSplit, list[str]]:
    """Return a split of images and labels: an array or a list of each."""
    values, notes = labels_of(_label_array(labels), f"{split} labels")
    name = f"{split} images"
    if not _is_array(images) and not isinstance(images, list | tuple):
        raise UsageError(f"{name} are a {type(images).__name__}; give an array or a list")
    if len(images) != len(values) and not _is_array(images):
        raise UsageError(f"{len(images):,} {name} have {len(values):,} labels; give each image one")
    ids = [f"{split}[{row}]" for row in range(len(values))]
    if _is_array(images):
        return ArraySplit(name, as_array(images), f"{split} labels", values, ids), notes
    if any(isinstance(image, str | Path | bytes | Image.Image) for image in images):
        paths = [image for image in images if isinstance(image, str | Path)]
        sources = [_source(image, f"{split}[{row}]") for row, image in enumerate(images)]
        ids = [str(path) for path in paths] if len(paths) == len(images) else ids
        return _PictureSplit(sources, values, ids), notes
    arrays = [as_array(image) for image in images]
    if shapes := {array.shape for array in arrays[1:]} - {arrays[0].shape}:
        raise UsageError(
            f"{name} have the shapes {arrays[0].shape} and {min(shapes)}; resize them, or give "
            "pictures (PIL images or paths), which resight resizes"
        )
    return ArraySplit(name, np.stack(arrays), f"{split} labels", values, ids), notes


def _source(image: Any, where: str) -> Source:
    if isinstance(image, Image.Image):
        return picture_bytes(image)
    if isinstance(image, str | Path):
        return Path(image).expanduser()
    if isinstance(image, bytes):
        return image
    raise UsageError(f"{where} is a {type(image).__name__}, and others are pictures; give one kind")


def _label_array(labels: Any) -> Array:
    if isinstance(labels, list | tuple):
        labels = [x.tolist() if isinstance(x, torch.Tensor | np.ndarray) else x for x in labels]
        if any(isinstance(label, str) or label is None for label in labels):
            return np.array(labels, dtype=object)
    try:
        return np.asarray(as_array(labels))
    except ValueError as error:  # lists of several lengths
        raise UsageError(f"labels are no array ({error}); give one label an image") from error


def _load_named_arrays(
    source: Mapping[Any, Any], options: ReadOptions, names: Sequence[str] | None
) -> LoadedData:
    """Convert arrays by their names, as `{"x_train": ...}` or a Bunch of scikit-learn."""
    arrays = {
        str(key): as_array(value)
        for key, value in source.items()
        if _is_array(value) or (isinstance(value, list) and value)
    }
    heads = {key: Head(array.shape, array.dtype) for key, array in arrays.items()}
    roles = find_roles(heads, f"the {type(source).__name__}")
    stored = {
        key: StoredArray(heads[key], array.nbytes, partial(arrays.__getitem__, key))
        for key, array in arrays.items()
    }
    loaded = load_roles(stored, roles, options, class_names=names)
    return replace(loaded, notes=(*roles.unused, *loaded.notes))


# --- data sets of Hugging Face --------------------------------------------------------------


def _of_records(value: Any, split: SplitName) -> tuple[RecordFile, list[str]]:
    """Return a split of a `datasets.Dataset`, whose pictures are not decoded yet."""
    if not hasattr(value, "__len__"):
        raise UsageError(f"{split} is streamed; load it without streaming=True")
    schema = value.features.arrow_schema

    def batches(column: str) -> Iterator[Any]:
        rows = value.select_columns([column]).with_format("arrow")
        for start in range(0, len(value), _RECORDS):
            yield from rows[start : start + _RECORDS].column(column).chunks

    notes = []
    if value.format["type"] == "custom":
        notes = [f"{split}: its transform was left out, the pictures are as they are stored"]
    return RecordFile(split, split, schema, batches, len(value)), notes


# --- all splits -----------------------------------------------------------------------------


def _load(
    parts: Mapping[SplitName, _Part],
    options: ReadOptions,
    names: Sequence[str] | None,
    notes: tuple[str, ...],
) -> LoadedData:
    """Convert splits, which all have to be of one kind."""
    ordered = in_split_order(parts)
    arrays = {s: part for s, part in ordered.items() if isinstance(part, ArraySplit)}
    records = {s: [part] for s, part in ordered.items() if isinstance(part, RecordFile)}
    pictures = {s: part for s, part in ordered.items() if isinstance(part, _PictureSplit)}
    if len(arrays) == len(ordered):
        return load_split_arrays(arrays, options, class_names=names, notes=notes)
    if len(records) == len(ordered):
        loaded = load_records(records, options, class_names=names)
        return replace(loaded, notes=(*notes, *loaded.notes))
    if len(pictures) == len(ordered):
        labels = {str(split): part.labels for split, part in pictures.items()}
        encoded = encode_labels(labels, names)
        sources = {split: part.sources for split, part in pictures.items()}
        ids = {split: part.ids for split, part in pictures.items()}
        return load_split_pictures(
            ids, encoded, lambda: known_items(sources, encoded), options, notes=notes
        )
    raise UsageError(f"{' and '.join(ordered)} are of different kinds; give all in one form")
