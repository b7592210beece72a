"""Image data sets in Parquet, as the Hugging Face hub stores them.

A picture is a struct `{bytes, path}` (or plain bytes), a label a whole number or a word. The
schema's metadata, key `huggingface`, says which column is which and names the classes.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import UsageError
from .contents import DataLayout, LoadedData, ReadOptions
from .images import Pictures, load_pictures
from .labels import Label, name_classes, number_labels
from .limits import check_unpacked

# The first word of a file or its folder on the hub -> the split.
_SPLITS = {"train": "train", "test": "test"}
_SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
_DEPTH = 3  # folders below the given one that are searched
_ROWS = 16  # pictures read at a time; more are not faster
_MAX_WORD = 1000  # letters of a class name


@dataclass(frozen=True)
class _Columns:
    image: str
    label: str
    classes: tuple[str, ...] | None  # None: made from the labels


def find(path: Path) -> DataLayout | None:
    """Recognize one Parquet file, or a folder of them with a file or more for each split."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                return None
        files = {path.name: path}
        return DataLayout(files, partial(_read, {"train": files}))
    splits: dict[str, dict[str, Path]] = defaultdict(dict)
    for name in sorted(_parquet_files(path)):
        if split := _split_of(Path(name)):
            splits[split][name] = path / name
    if not splits:
        return None
    if "train" not in splits:
        raise UsageError(f"{path} has Parquet files for {', '.join(splits)} but none for train")
    for files in splits.values():
        _check_shards(path, list(files))
    notes: tuple[str, ...] = ()
    if "validation" in splits and "test" in splits:
        del splits["validation"]
        notes = ("the validation split was skipped: validation images are held out of train",)
    elif "validation" in splits:
        notes = ("there is no test split: validation stands in for it",)
    names = [split for split in ("train", "test", "validation") if split in splits]
    files = {name: file for split in names for name, file in splits[split].items()}
    return DataLayout(files, partial(_read, {s: splits[s] for s in names}, notes=notes))


def _parquet_files(root: Path) -> Iterator[str]:
    """Yield names relative to `root`; hidden folders (download caches) are not searched."""
    for folder, subfolders, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        depth = len(relative.parts)
        subfolders[:] = [f for f in subfolders if not f.startswith(".") and depth < _DEPTH]
        for file in files:
            if file.endswith(".parquet") and not file.startswith("."):
                yield (relative / file).as_posix()


def _split_of(name: Path) -> str | None:
    """Return "train" for `train-00000-of-00002.parquet`, `train.parquet`, `train/0000.parquet`."""
    for part in (name.stem, *reversed(name.parts[:-1])):
        if split := _SPLITS.get(re.split(r"[-_.]", part.lower())[0]):
            return split
    return None


def _check_shards(root: Path, names: list[str]) -> None:
    """Refuse several subsets, and shards of which one is missing by the count in their names."""
    folders = sorted({Path(name).parent.as_posix() for name in names})
    if len(folders) > 1:
        raise UsageError(f"{root} holds several subsets; choose one of: {', '.join(folders)}")
    counts = [re.search(r"-(\d+)-of-(\d+)", name) for name in names]
    shards = {int(count[1]) for count in counts if count}
    total = max((int(count[2]) for count in counts if count), default=0)
    missing = sorted(set(range(total)) - shards)
    if missing:
        raise UsageError(f"{root}: shard {missing[0]} of {total} beside {names[0]} is missing")


def _read(
    splits: Mapping[str, Mapping[str, Path]], options: ReadOptions, notes: tuple[str, ...] = ()
) -> LoadedData:
    import pyarrow as pa  # loaded late: most sources do not need it

    files = {name: file for split in splits.values() for name, file in split.items()}
    try:
        columns = _columns(next(iter(splits["train"].items())))
        rows = {split: _rows(shards, columns) for split, shards in splits.items()}
        classes = columns.classes or name_classes(chain(*(labels for _, labels in rows.values())))
        numbered = [
            (ids, number_labels(labels, classes, split)) for split, (ids, labels) in rows.items()
        ]
        all_ids = [name for ids, _ in numbered for name in ids]
        pictures = Pictures(all_ids, lambda: _contents(files.values(), columns.image))
        return load_pictures(classes, numbered, pictures, options=options, notes=notes)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        names = ", ".join(files)
        raise UsageError(f"{names}: not whole Parquet ({reason}); fetch it again") from error


def _open(file: Path, read_dictionary: list[str] | None = None) -> Any:
    import pyarrow.parquet as pq

    # Not mapped into memory: if a mapped file is cut meanwhile, the process dies of SIGBUS.
    shard = pq.ParquetFile(file, read_dictionary=read_dictionary)
    rows, size = shard.metadata.num_rows, file.stat().st_size
    if rows > size:
        raise UsageError(
            f"{file} lists {rows:,} rows in {size:,} bytes, so they hold no pictures; get it again"
        )
    return shard


def _columns(first: tuple[str, Path]) -> _Columns:
    """Return the columns of picture and label, recognized by the metadata or by their names."""
    name, file = first
    schema = _open(file).schema_arrow
    features = _features(name, schema.metadata or {})
    images = [key for key, f in features.items() if f.get("_type") == "Image"]
    images += [key for key in ("img", "image") if key in schema.names]
    labels = [key for key in ("label", "labels", "fine_label") if key in schema.names]
    labels += [key for key, f in features.items() if f.get("_type") == "ClassLabel"]
    if not images or not labels or {schema.names.count(k) for k in (images[0], labels[0])} != {1}:
        raise UsageError(
            f"{name} needs a picture column (img or image) and a label column (label or "
            f"fine_label); it has {', '.join(schema.names)}"
        )
    names = features.get(labels[0], {}).get("names")
    classes = tuple(map(str, names)) if isinstance(names, list) and names else None
    return _Columns(images[0], labels[0], classes)


def _check_types(name: str, schema: Any, columns: _Columns) -> None:
    """Refuse a shard that lacks a column, or has something else in it."""
    import pyarrow as pa

    if not {columns.image, columns.label} <= set(schema.names):
        raise UsageError(f"{name} lacks column {columns.image} or {columns.label}")
    kind = content = schema.field(columns.image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        content = kind.field("bytes").type
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise UsageError(f"{name}: column {columns.image} is {kind}, not pictures as bytes")
    kind = schema.field(columns.label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_null(kind) or _is_text(kind)):
        raise UsageError(f"{name}: column {columns.label} is {kind}, not whole numbers or words")


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _features(name: str, metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return what the hub's metadata says of each column; empty where there is none."""
    try:
        info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
        features = info.get("features", {})
        return {key: f for key, f in features.items() if isinstance(f, dict)}
    except (AttributeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{name}: its metadata under the key huggingface is damaged; fetch it again"
        ) from error


def _rows(files: Mapping[str, Path], columns: _Columns) -> tuple[list[str], list[Label]]:
    """Return the id and the label of every row of a split."""
    ids: list[str] = []
    labels: list[Label] = []
    for name, file in files.items():
        _check_types(name, _open(file).schema_arrow, columns)
        values = _labels(file, columns.label)
        ids += [f"{name}#{row}" for row in range(len(values))]
        labels += values
    return ids, labels


def _labels(file: Path, column: str) -> list[Label]:
    """Return the label of every row; a word that many rows share is in memory once."""
    import pyarrow as pa

    shard = _open(file)
    if _is_text(shard.schema_arrow.field(column).type):
        shard = _open(file, read_dictionary=[column])
    labels: list[Label] = []
    for chunk in shard.read([column]).column(0).chunks:
        if not isinstance(chunk, pa.DictionaryArray):
            labels += chunk.to_pylist()
            continue
        words = chunk.dictionary.to_pylist()
        longest = max((len(word) for word in words if isinstance(word, str)), default=0)
        if longest > _MAX_WORD:
            raise UsageError(
                f"{file}: a label has {longest:,} letters; at most {_MAX_WORD} are valid"
            )
        labels += [None if i is None else words[i] for i in chunk.indices.to_pylist()]
    return labels


def _contents(files: Iterable[Path], column: str) -> Iterator[bytes]:
    """Yield the picture of every row, empty where it is missing."""
    import pyarrow as pa

    for file in files:
        shard, size = _open(file), file.stat().st_size
        rows = unpacked = 0
        for batch in shard.iter_batches(batch_size=_ROWS, columns=[column]):
            pictures = batch.column(0)
            if isinstance(pictures, pa.StructArray):
                pictures = pictures.field("bytes")
            rows += len(pictures)
            unpacked += pictures.nbytes
            check_unpacked(str(file), packed=size, unpacked=unpacked)
            yield from (content or b"" for content in pictures.to_pylist())
        if rows != shard.metadata.num_rows:
            raise OSError(f"{rows:,} pictures for {shard.metadata.num_rows:,} rows")
