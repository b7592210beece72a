"""Tables of images, as their owner divided them, to a data set."""

from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...errors import UsageError
from ...records import IntArray
from ...text import one_line
from ..splits import split_of
from ..tree import Source, SourceTree
from .columns import (
    Columns,
    find_columns,
    image_column,
    is_bytes,
    is_list,
    is_text,
    labels_of_column,
    numbers_of_column,
)
from .contents import SPLIT_NAMES, LoadedData, ReadOptions, SplitName
from .labels import UNLABELED, Label, NumberedLabels, encode_labels
from .picture import MAX_BYTES, open_picture
from .record_files import RecordFile
from .split_arrays import ArraySplit, load_split_arrays, load_split_pictures
from .table_columns import names_splits

Files = Mapping[SplitName, Sequence[RecordFile]]
_AT_ONCE = 256  # pictures of a table that are in memory together, to be shown
_FindFile = Callable[[str, str], Source]  # (path, name of the table) -> the picture


@contextmanager
def damage_named(names: str) -> Iterator[None]:
    """Turn the errors of Arrow for damaged files into one line."""
    import pyarrow as pa  # loaded late: most sources do not need it

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(
            f"{one_line(names, 300)}: not whole Parquet ({reason}); fetch it again"
        ) from error


def load_records(
    files: Files,
    options: ReadOptions,
    tree: SourceTree | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> LoadedData:
    """Decode the pictures and number the labels of all splits.

    Rows whose label is not known are left out. tree: the files among which those lie that a table
    names by their paths; None for a table in memory, whose paths are taken as they are.
    class_names: instead of those that the table has.

    Raises:
        UsageError: a column is missing, or its values are no pictures or no labels.
    """
    first = next(file for part in files.values() for file in part)
    columns = find_columns(
        first.schema,
        first.where,
        told=options.label_column,
        read=lambda name: labels_of_column(first.column(name), first.where, name),
    )
    labels, ids = _labels(files, columns)
    names = class_names or columns.class_names
    notes = (columns.note,) if columns.note else ()
    if is_list(first.schema.field(columns.image).type):
        arrays = {
            split: ArraySplit(
                split, numbers_of_column(part, columns.image), split, labels[split], ids[split]
            )
            for split, part in files.items()
        }
        return load_split_arrays(arrays, options, class_names=names, notes=notes)
    if not any(labels.values()):
        raise UsageError(f"{first.where} has no rows; get it again, or give other data")
    _check_paths(first, columns.image, tree)
    encoded = encode_labels({str(split): values for split, values in labels.items()}, names)
    if [*files] == ["train"]:
        encoded = _divided(files["train"], encoded)
        known = [split for split in SPLIT_NAMES if split in encoded.numbers]
        files, ids = dict.fromkeys(known, files["train"]), dict.fromkeys(known, ids["train"])
    find_file = _finder(tree)
    return load_split_pictures(
        ids,
        encoded,
        lambda: _contents(files, encoded.numbers, columns.image, find_file),
        options,
        notes=notes,
    )


def _divided(files: Sequence[RecordFile], encoded: NumberedLabels) -> NumberedLabels:
    """Return the labels of files without splits, divided by the column that names them if any does.

    Each split has all rows; those of other splits count as not labeled.
    """
    for name in filter(names_splits, files[0].schema.names):
        if not all(name in f.schema.names and is_text(f.schema.field(name).type) for f in files):
            continue
        words = [word for f in files for word in labels_of_column(f.column(name), f.where, name)]
        splits = np.array([split_of(str(word)) or "" for word in words])
        if any(not split and word for split, word in zip(splits, words, strict=True)):
            continue
        known = [split for split in SPLIT_NAMES if split in splits]
        lost = len(splits) - int(np.isin(splits, known).sum())
        rest = f"; {lost:,} rows are of none of these splits: left out" if lost else ""
        numbers: dict[str, IntArray] = {
            split: np.where(splits == split, encoded.numbers["train"], UNLABELED) for split in known
        }
        note = f"the split is column {name}{rest}"
        return replace(encoded, numbers=numbers, notes=(*encoded.notes, note))
    return encoded


def pictures_of(
    files: Mapping[str, RecordFile], ids: Sequence[str], tree: SourceTree | None
) -> Iterator[Source] | None:
    """Return the pictures of ids such as `train.parquet#12`, in their order; None for numbers."""
    columns = {name: image_column(file.schema, file.where) for name, file in files.items()}
    if any(is_list(file.schema.field(columns[name]).type) for name, file in files.items()):
        return None
    find_file = _finder(tree)

    def pictures() -> Iterator[Source]:
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            cells = _cells(files, columns, some, find_file)
            yield from (cells[id] for id in some)

    return pictures()


def _cells(
    files: Mapping[str, RecordFile],
    columns: Mapping[str, str],
    ids: Sequence[str],
    find_file: _FindFile,
) -> dict[str, Source]:
    """Return the picture of each id; each file is read once."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for id in ids:
        name, _, row = id.rpartition("#")
        wanted[name].append(int(row))
    cells: dict[str, Source] = {}
    for name, numbers in wanted.items():
        start, rows = 0, np.unique(numbers)
        for array in files[name].batches(columns[name]):
            here = rows[(rows >= start) & (rows < start + len(array))]
            for row, value in zip(here, array.take(here - start).to_pylist(), strict=True):
                cells[f"{name}#{row}"] = _picture(value, name, find_file)
            start += len(array)
    return cells


def _labels(
    files: Files, columns: Columns
) -> tuple[dict[SplitName, list[Label]], dict[SplitName, list[str]]]:
    """Return the label and the id of every row of each split."""
    labels: dict[SplitName, list[Label]] = {}
    ids: dict[SplitName, list[str]] = {}
    for split, part in files.items():
        labels[split], ids[split] = [], []
        for file in part:
            _check_columns(file, columns)
            values = labels_of_column(file.column(columns.label), file.where, columns.label)
            labels[split] += values
            ids[split] += [f"{file.name}#{row}" for row in range(len(values))]
    return labels, ids


def _check_columns(file: RecordFile, columns: Columns) -> None:
    """Refuse a file that lacks a column, or whose pictures have a type that pictures never have."""
    if not {columns.image, columns.label} <= {*file.schema.names}:
        raise UsageError(f"{file.where} lacks column {columns.image} or {columns.label}")
    kind = content = file.schema.field(columns.image).type
    if (place := getattr(kind, "get_field_index", lambda name: -1)("bytes")) >= 0:
        content = kind.field(place).type
    if not (is_bytes(content) or is_text(content) or is_list(content)):
        raise UsageError(
            f"{file.where}: column {columns.image} is {kind}, not pictures as bytes, base64, paths "
            "or lists of numbers"
        )


def _check_paths(file: RecordFile, column: str, tree: SourceTree | None) -> None:
    """Refuse a table that names picture files where no picture lies."""
    if tree is None or tree.pictures:
        return
    value = next((cell for array in file.batches(column) for cell in array.to_pylist() if cell), "")
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else value
    if isinstance(path, str) and path and not _of_base64(path):
        raise UsageError(
            f"{file.where}: column {column} names files, as {path[:80]!r}, and no pictures lie "
            "beside it; give the folder that holds the table and the pictures"
        )


def _contents(
    files: Files, numbers: Mapping[str, IntArray], column: str, find_file: _FindFile
) -> Iterator[Source]:
    """Yield the picture of every row with a label; empty where it is missing."""
    for split in files:
        start = 0
        for file in files[split]:
            for array in file.checked(column):
                is_known = numbers[split][start : start + len(array)] != UNLABELED
                start += len(array)
                values = array.filter(np.asarray(is_known)).to_pylist()
                yield from (_picture(value, file.name, find_file) for value in values)


def _picture(value: Any, table: str, find_file: _FindFile) -> Source:
    """Return the picture in a cell: bytes, the same as base64, or the path of a file."""
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and (content := _of_base64(value)):
        return content
    path = value or path
    return find_file(path, table) if isinstance(path, str) and path else b""


def _of_base64(text: str) -> bytes | None:
    """Return the bytes of a picture that a text encodes; None if it encodes none."""
    try:
        content = b64decode(text.partition("base64,")[2] or text, validate=True)
        with open_picture(content):
            return content
    except Exception:  # binascii and Pillow raise many kinds for what is neither
        return None


def _finder(tree: SourceTree | None) -> _FindFile:
    """Return a function that gives the file which a path in a table means.

    It lies beside the table, or below the source, or is the only one of its name there. A path
    that leads elsewhere is never followed: the table may be anyone's.
    """
    if tree is None:
        return lambda path, _: Path(path)
    bases = Counter(PurePosixPath(name).name for name in tree.names)
    alone = {PurePosixPath(name).name: name for name in tree.names}

    def find(path: str, table: str) -> Source:
        base = PurePosixPath(path.replace("\\", "/")).name
        name = (PurePosixPath(table).parent / path).as_posix()
        if name not in tree.names:
            name = path if path in tree.names else alone.get(base, "")
            name = name if bases[base] == 1 or path == name else ""
        if not name:
            return b"" if tree.is_archive else tree.path(base)  # whose absence is then named
        return tree.read(name, MAX_BYTES) if tree.is_archive else tree.path(name)

    return find
