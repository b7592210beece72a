"""Image data sets in Parquet, as the Hugging Face hub stores them.

A picture is a struct `{bytes, path}` (or plain bytes), a label a whole number or a word. The
schema's metadata, key `huggingface`, says which column is which and names the classes.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import UsageError
from .contents import DataLayout, LoadedData, ReadOptions, make_split
from .images import Pictures, Source, decode
from .labels import Label, name_classes, number_labels

_SPLITS = {  # how the hub names them, by the first word of a file or its folder
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_DEPTH = 3  # folders below the given one that are searched
_ROWS = 1024  # rows read at a time


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
        return DataLayout({path.name: path}, partial(_read, {"train": {path.name: path}}))
    splits: dict[str, dict[str, Path]] = defaultdict(dict)
    for name in sorted(_parquet_files(path)):
        split = _split_of(Path(name))
        if split:
            splits[split][name] = path / name
    if not splits:
        return None
    if "train" not in splits:
        raise UsageError(f"{path} has Parquet files for {', '.join(splits)} but none for train")
    for files in splits.values():
        _check_shards(path, list(files))
    # The test split is the one that is read once, at the end; else validation stands in for it.
    test = "test" if "test" in splits else "validation"
    used = {split: splits[split] for split in ("train", test) if split in splits}
    unused = tuple(
        f"the {split} split was skipped: validation images are held out of train"
        for split in splits
        if split not in used
    )
    if test == "validation" and test in splits:
        unused += ("there is no test split: validation stands in for it",)
    files = {name: file for split in used.values() for name, file in split.items()}
    return DataLayout(files, partial(_read, used, notes=unused))


def _parquet_files(root: Path) -> Iterator[str]:
    """Names relative to `root`; hidden folders (download caches) are not entered."""
    for folder, subfolders, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        depth = len(relative.parts)
        subfolders[:] = [f for f in subfolders if not f.startswith(".") and depth < _DEPTH]
        for file in files:
            if file.endswith(".parquet") and not file.startswith("."):
                yield (relative / file).as_posix()


def _split_of(name: Path) -> str | None:
    """`train-00000-of-00002.parquet`, `train.parquet` and `train/0000.parquet` are all train."""
    for part in (name.stem, *reversed(name.parts[:-1])):
        split = _SPLITS.get(re.split(r"[-_.]", part.lower())[0])
        if split:
            return split
    return None


def _check_shards(root: Path, names: list[str]) -> None:
    """One subset only, and no shard missing of those that say how many there are."""
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

    try:
        return _read_splits(splits, options, notes)
    except (pa.ArrowException, OSError) as error:
        names = ", ".join(name for files in splits.values() for name in files)
        reason = str(error).splitlines()[0]
        raise UsageError(f"{names}: not whole Parquet ({reason}); fetch it again") from error


def _read_splits(
    splits: Mapping[str, Mapping[str, Path]], options: ReadOptions, notes: tuple[str, ...]
) -> LoadedData:
    columns = _columns(next(iter(splits["train"].items())))
    labels = {split: _labels(files, columns) for split, files in splits.items()}
    classes = columns.classes or name_classes(chain.from_iterable(labels.values()))
    numbers = {split: number_labels(values, classes, split) for split, values in labels.items()}
    ids = [
        f"{name}#{row}"
        for files in splits.values()
        for name, file in files.items()
        for row in range(_open(file).metadata.num_rows)
    ]
    pictures = Pictures(len(ids), lambda: _pictures(splits, columns))
    decoded = decode(pictures, options)
    counts = {split: len(values) for split, values in numbers.items()}
    made, start = [], 0
    for split, count in counts.items():
        own = (decoded.kept >= start) & (decoded.kept < start + count)
        rows = decoded.kept[own]
        images = decoded.images[own] if len(counts) > 1 else decoded.images
        made.append(make_split(images, numbers[split][rows - start], [ids[r] for r in rows]))
        start += count
    return LoadedData(classes, made[0], made[1] if len(made) > 1 else None, notes + decoded.notes)


def _open(file: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, memory_map=True)


def _columns(first: tuple[str, Path]) -> _Columns:
    """Which column is the picture and which the label, by the metadata or by their names."""
    import pyarrow as pa

    name, file = first
    schema = _open(file).schema_arrow
    features = _features(schema.metadata or {})
    images = [key for key, f in features.items() if f.get("_type") == "Image"]
    images += [key for key in ("img", "image") if key in schema.names]
    labels = [key for key in ("label", "labels", "fine_label") if key in schema.names]
    labels += [key for key, f in features.items() if f.get("_type") == "ClassLabel"]
    if not images or not labels or images[0] not in schema.names or labels[0] not in schema.names:
        raise UsageError(
            f"{name} needs a picture column (img or image) and a label column (label or "
            f"fine_label); it has {', '.join(schema.names)}"
        )
    kind = schema.field(images[0]).type
    has_bytes = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (has_bytes or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UsageError(f"{name}: column {images[0]} is {kind}, not pictures as bytes")
    names = features.get(labels[0], {}).get("names")
    return _Columns(images[0], labels[0], tuple(map(str, names)) if names else None)


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {k: f for k, f in features.items() if isinstance(f, dict)}


def _labels(files: Mapping[str, Path], columns: _Columns) -> list[Label]:
    values: list[Label] = []
    for name, file in files.items():
        if {columns.image, columns.label} - set(_open(file).schema_arrow.names):
            raise UsageError(f"{name} lacks column {columns.image} or {columns.label}")
        values += _open(file).read([columns.label]).column(0).to_pylist()
    return values


def _pictures(
    splits: Mapping[str, Mapping[str, Path]], columns: _Columns
) -> Iterator[tuple[str, Source]]:
    import pyarrow as pa

    for files in splits.values():
        for name, file in files.items():
            row = 0
            for batch in _open(file).iter_batches(batch_size=_ROWS, columns=[columns.image]):
                column = batch.column(0)
                if pa.types.is_struct(column.type):
                    column = column.field("bytes")
                for content in column.to_pylist():
                    yield f"{name}#{row}", content or b""
                    row += 1
