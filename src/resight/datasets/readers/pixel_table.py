"""Images written as numbers in CSV files, a row an image.

Either each pixel has a column, as in Kaggle's digits (`label,pixel0,...`), or one column holds all
of them between spaces, as in FER-2013 (`emotion,pixels,Usage`).
"""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ...errors import UsageError
from ...files import check_file
from ..splits import split_in, split_of
from ..tree import SourceTree
from .classes import names_beside
from .contents import SPLIT_NAMES, DataLayout, LoadedData, ReadOptions, SplitName, in_split_order
from .labels import Label
from .limits import check_memory
from .pixels import Array
from .split_arrays import ArraySplit, load_split_arrays

_MAX_BYTES = 2**32
_HEAD_BYTES = 2**21  # at the start of a file; they hold its header and a row
_MIN_PIXELS = 64
_LABELS = ("label", "class", "target", "emotion", "y", "category")
_USAGES = ("usage", "split")
_PIXEL = re.compile(r"[a-z_ ]{0,12}(\d+)(?:[x_](\d+))?", re.I)
# FER-2013's own words for its splits.
_USAGE_SPLITS: dict[str, SplitName] = {"publictest": "val", "privatetest": "test"}


@dataclass(frozen=True)
class _PixelFile:
    """A CSV file of pixels: its columns, and which of them are what.

    columns: all, by name; by number where the file has no header.
    pixels: the columns of pixels in order; a single one holds a text of all.
    label: None where there is none, so that the images cannot be used.
    usage: the column that names the split of a row; None without one.
    num_rows: about so many.
    """

    name: str
    columns: tuple[str, ...]
    has_header: bool
    pixels: tuple[str, ...]
    label: str | None
    usage: str | None
    num_rows: int


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize CSV files of pixels by their header and their first row.

    Raises:
        UsageError: several files could be of one split.
    """
    names = [name for name in tree.names if name.lower().endswith(".csv")]
    files = [file for name in names if (file := _pixel_file(tree, name))]
    splits: dict[SplitName, _PixelFile] = {}
    for file in files:
        split = split_in(PurePosixPath(file.name).stem)
        split = split if split in SPLIT_NAMES else "train"
        if file.label and split in splits:
            raise UsageError(
                f"{tree.source} holds {splits[split].name} and {file.name}, which could both be "
                f"the {split} images; give one file, or call them train.csv and test.csv"
            )
        if file.label:
            splits[split] = file
    if not splits:
        return None
    splits = in_split_order(splits)
    parts = ", ".join(
        f"{file.name} as {split} by its column {file.label}" for split, file in splits.items()
    )
    return DataLayout(
        "pixels",
        f"a row of pixels an image: {parts}",
        (*(file.name for file in splits.values()), *names_beside(tree).files),
        partial(_read, tree, splits),
        sum(file.num_rows for file in splits.values()),
        tuple(f"{file.name}: its images have no labels" for file in files if not file.label),
        max_bytes=_MAX_BYTES,
    )


def _pixel_file(tree: SourceTree, name: str) -> _PixelFile | None:
    """Return what the columns of a CSV file are; None if they are no pixels."""
    if tree.is_archive:
        content = tree.read(name, _MAX_BYTES)
        start, size = content[:_HEAD_BYTES], len(content)
    else:
        size = check_file(tree.path(name), _MAX_BYTES)
        with tree.path(name).open("rb") as file:
            start = file.read(_HEAD_BYTES)
    lines = start.decode("utf-8-sig", "replace").splitlines()[:2]
    if not lines or max(map(len, lines)) < 2 * _MIN_PIXELS:
        return None
    header = [cell.strip().strip('"') for cell in lines[0].split(",")]
    num_rows = max(1, size // (len(lines[-1]) + 1))
    if all(re.fullmatch(r"[\d.]+", cell) for cell in header):
        columns = tuple(map(str, range(len(header))))
        if _is_square(len(header) - 1):  # without a header, the label comes first
            return _PixelFile(name, columns, False, columns[1:], columns[0], None, num_rows)
        return None
    lower = {cell.lower(): cell for cell in header}
    usage = next((lower[word] for word in _USAGES if word in lower), None)
    label = next((lower[word] for word in _LABELS if word in lower), None)
    if "pixels" in lower and label:
        pixels = (lower["pixels"],)
        return _PixelFile(name, tuple(header), True, pixels, label, usage, num_rows)
    numbers = {cell: match.groups("0") for cell in header if (match := _PIXEL.fullmatch(cell))}
    if not _is_square(len(numbers)) or len(set(header)) < len(header):
        return None
    others = [cell for cell in header if cell not in numbers and cell != usage]
    label = label or (others[0] if len(others) == 1 and others[0].lower() != "id" else None)
    ordered = sorted(numbers, key=lambda cell: tuple(map(int, numbers[cell])))
    return _PixelFile(name, tuple(header), True, tuple(ordered), label, usage, num_rows)


def _is_square(count: int) -> bool:
    """Return whether so many numbers are a square image of gray or color."""
    sides = math.isqrt(count), math.isqrt(max(count, 0) // 3)
    return count >= _MIN_PIXELS and count in (sides[0] ** 2, 3 * sides[1] ** 2)


def _read(
    tree: SourceTree, files: Mapping[SplitName, _PixelFile], options: ReadOptions
) -> LoadedData:
    splits: dict[SplitName, ArraySplit] = {}
    notes: list[str] = []
    for split, file in files.items():
        if not file.has_header:
            notes.append(f"{file.name} has no header: its first column was taken as the labels")
        pixels, labels, usages = _numbers(tree, file)
        by_split: dict[SplitName | None, list[int]] = {split: [*range(len(labels))]}
        if usages is not None:
            by_split = {}
            for row, usage in enumerate(usages):
                by_split.setdefault(_usage_split(usage), []).append(row)
            if lost := by_split.pop(None, []):
                notes.append(f"{len(lost):,} rows of {file.name} are of no split: left out")
        for part, rows in by_split.items():
            if part in splits:
                raise UsageError(f"{file.name} has rows of {part}, as another file has; keep one")
            ids = [f"{file.name}#{row}" for row in rows]
            where = f"{file.name} ({part})" if len(by_split) > 1 else file.name
            part_labels = [labels[row] for row in rows]
            if part:
                splits[part] = ArraySplit(where, pixels[rows], where, part_labels, ids)
    names = names_beside(tree).names
    return load_split_arrays(in_split_order(splits), options, class_names=names, notes=notes)


def _usage_split(usage: str) -> SplitName | None:
    split = _USAGE_SPLITS.get(usage.lower()) or split_of(usage)
    return split if split in SPLIT_NAMES else None


def _numbers(tree: SourceTree, file: _PixelFile) -> tuple[Array, list[Label], list[str] | None]:
    """Return pixels (N, D), labels, and the words of the column that tells the split.

    Raises:
        UsageError: the file is no whole CSV, or a cell is no number.
    """
    import pyarrow as pa
    from pyarrow import csv

    where = tree.path(file.name)
    check_memory(f"the pixels of {where}", 4 * file.num_rows * len(file.pixels))
    is_text = len(file.pixels) == 1
    types = dict.fromkeys(file.pixels, pa.string() if is_text else pa.float32())
    others = [name for name in (file.label, file.usage) if name]
    try:
        table = csv.read_csv(
            BytesIO(tree.read(file.name, _MAX_BYTES)) if tree.is_archive else where,
            read_options=csv.ReadOptions(
                column_names=file.columns, skip_rows=int(file.has_header), block_size=2**24
            ),
            convert_options=csv.ConvertOptions(
                column_types=types | dict.fromkeys(others, pa.string()),
                include_columns=[*file.pixels, *others],
            ),
        )
        columns = [table.column(name) for name in file.pixels]
        pixels = _of_texts(columns[0].to_pylist()) if is_text else _of_columns(columns)
    except (pa.ArrowException, OSError, ValueError, DeprecationWarning) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"{where} is no whole table of pixels ({reason}); mend it") from error
    words = table.column(str(file.label)).to_pylist()
    usages = table.column(file.usage).to_pylist() if file.usage else None
    return pixels, _labels(words), usages


def _of_columns(columns: list[Any]) -> Array:
    """Return (N, D) numbers of D columns, as bytes if they are whole."""
    pixels = np.empty((len(columns[0]), len(columns)), dtype=np.float32)
    for place, column in enumerate(columns):
        pixels[:, place] = column.to_numpy()
    return _as_bytes(pixels)


def _of_texts(texts: list[str]) -> Array:
    """Return (N, D) numbers of N texts, each of D numbers between spaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # a text that is cut, or has letters
        rows = [np.fromstring(text or "", dtype=np.float32, sep=" ") for text in texts]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise ValueError(f"its rows have from {min(lengths)} to {max(lengths)} pixels")
    return _as_bytes(np.stack(rows))


def _as_bytes(pixels: Array) -> Array:
    is_bytes = all(
        bool(((part >= 0) & (part <= 255) & (part == np.rint(part))).all())
        for part in np.array_split(pixels, max(1, len(pixels) // 1024))
    )
    return pixels.astype(np.uint8) if is_bytes else pixels


def _labels(words: list[str | None]) -> list[Label]:
    """Return labels as whole numbers if all are, else as words."""
    if all(word is None or re.fullmatch(r"\s*-?\d+(\.0*)?\s*", word) for word in words):
        return [None if word is None else int(float(word)) for word in words]
    return [word.strip() if word else None for word in words]
