"""Images and labels in the IDX files of MNIST and of the sets that take its form.

A file begins with two zeros, the type of its numbers, and how many axes there are; then come the
sizes of the axes (http://yann.lecun.com/exdb/mnist). It may be packed by gzip.
"""

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np

from ...errors import UsageError
from ..splits import split_of
from ..tree import SourceTree
from .classes import names_beside
from .contents import SPLIT_NAMES, DataLayout, LoadedData, ReadOptions, SplitName, in_split_order
from .labels import Label, labels_of
from .limits import check_memory, check_unpacked
from .pixels import Array
from .split_arrays import ArraySplit, load_split_arrays
from .stored_array import MAX_BYTES

# `train-images-idx3-ubyte`, `t10k-labels.idx1-ubyte.gz`, `emnist-letters-train-images-idx3-ubyte`.
_NAME = re.compile(
    r"(?P<set>.*?)(?P<kind>images|labels)[-.]idx(?P<axes>\d)-(ubyte|int)(\.gz)?", re.I
)
_NUMBERS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_PACKED = 2**31
_Files = dict[str, str]  # "images" and "labels" -> the name of the file


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize files of images beside files of labels, by their names.

    Raises:
        UsageError: one of a pair is missing, or there are several sets.
    """
    names, only = _names(tree)
    sets: dict[str, dict[str, _Files]] = {}
    for name in sorted(names, reverse=True):  # so that an unpacked file goes before its .gz
        if match := _NAME.fullmatch(PurePosixPath(name).name):
            folder = str(PurePosixPath(name).parent)
            title, split = _set_and_split(match["set"])
            place = title if folder == "." else f"{folder}/{title}"
            sets.setdefault(place, {}).setdefault(split, {})[match["kind"].lower()] = name
    if only:
        sets = {
            place: splits
            for place, splits in sets.items()
            if any(only in files.values() for files in splits.values())
        }
    if not sets:
        return None
    if len(sets) > 1:
        raise UsageError(
            f"{tree.source} holds several sets of IDX files: {', '.join(sorted(sets))}; give a "
            "file of the one to read, as its train images"
        )
    [(title, by_split)] = sets.items()
    for files in by_split.values():
        if missing := {"images", "labels"} - files.keys():
            there = next(iter(files.values()))
            raise UsageError(f"{tree.path(there)} has no file of {min(missing)} beside it; add it")
    splits = in_split_order(by_split)
    used = [file for files in splits.values() for file in files.values()]
    mappings = [name for name in names if name.endswith("mapping.txt")]
    return DataLayout(
        "idx",
        f"IDX files as MNIST's: {', '.join(splits)}",
        (*used, *(mappings or names_beside(tree).files)),
        partial(_read, tree, splits, title),
        len(splits),
        max_bytes=MAX_BYTES,
    )


def _names(tree: SourceTree) -> tuple[list[str], str | None]:
    """Return the files to look at, and the one that was given; those beside it belong to it."""
    if tree.is_archive or tree.source.is_dir():
        return list(tree.names), None
    if not _NAME.fullmatch(tree.source.name):
        return [], None
    return os.listdir(tree.root), tree.source.name


def _set_and_split(words: str) -> tuple[str, SplitName]:
    """Return ("emnist-letters", "train") for "emnist-letters-train-"; no split word means train."""
    parts = re.split(r"[-_.]", words.strip("-_."))
    split = split_of(parts[-1])
    if split in SPLIT_NAMES:
        return "-".join(parts[:-1]), split
    return "-".join(parts), "train"


def _read(
    tree: SourceTree, files: Mapping[SplitName, _Files], title: str, options: ReadOptions
) -> LoadedData:
    splits: dict[SplitName, ArraySplit] = {}
    notes = []
    for split, pair in files.items():
        images = _numbers(tree, pair["images"])
        labels, label_notes = labels_of(_numbers(tree, pair["labels"]), pair["labels"])
        if "emnist" in title.lower():
            images = images.swapaxes(1, 2)
            notes.append("EMNIST stores images on their side, so they were turned upright")
        splits[split] = ArraySplit(pair["images"], images, pair["labels"], labels)
        notes += label_notes
    classes, splits = _named(tree, title, splits)
    return load_split_arrays(splits, options, class_names=classes, notes=notes)


def _named(
    tree: SourceTree, title: str, splits: dict[SplitName, ArraySplit]
) -> tuple[tuple[str, ...] | None, dict[SplitName, ArraySplit]]:
    """Return the class names that lie beside, or the labels as letters by EMNIST's mapping."""
    name = f"{PurePosixPath(title).name}-mapping.txt"
    files = [file for file in _names(tree)[0] if PurePosixPath(file).name == name]
    if not files:
        return names_beside(tree).names, splits
    letters: dict[Label, Label] = {}
    for line in tree.read(files[0], 2**20).decode("ascii", "replace").splitlines():
        if not re.fullmatch(r"[\d\s]+", line):
            raise UsageError(f"{tree.path(files[0])} has a line without numbers: {line[:40]!r}")
        label, code, *_ = (*map(int, line.split()), 0x3F)
        letters[label] = chr(min(code, 0x7F))
    mapped = {
        split: ArraySplit(
            part.name, part.images, part.labels_name, [letters.get(x, x) for x in part.labels]
        )
        for split, part in splits.items()
    }
    return None, mapped


def _numbers(tree: SourceTree, name: str) -> Array:
    """Return the array in a file, which has to have as many numbers as its header says.

    Raises:
        UsageError: it has not, or is no IDX file.
    """
    where = tree.path(name)
    is_packed = name.lower().endswith(".gz")
    content = tree.read(name, _MAX_PACKED if is_packed else MAX_BYTES)
    try:
        with gzip.open(BytesIO(content)) if is_packed else BytesIO(content) as file:
            zeros, kind, num_axes = struct.unpack(">HBB", file.read(4))
            if zeros or kind not in _NUMBERS or not 1 <= num_axes <= 4:
                raise ValueError("it does not begin as one")
            shape = struct.unpack(f">{num_axes}I", file.read(4 * num_axes))
            dtype = np.dtype(_NUMBERS[kind])
            num_bytes = math.prod(shape) * dtype.itemsize
            check_unpacked(str(where), packed=len(content), unpacked=num_bytes)
            check_memory(f"the numbers of {where}", num_bytes)
            numbers = file.read(num_bytes + 1)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UsageError(f"{where} is no whole IDX file ({error}); get it again") from error
    if len(numbers) != num_bytes:
        there = f"{len(numbers):,}" if len(numbers) < num_bytes else "more"
        raise UsageError(
            f"{where} has {there} bytes for {dtype.name} of shape {shape}; get it again"
        )
    return np.frombuffer(numbers, dtype).reshape(shape)
