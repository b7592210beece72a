"""Image data sets in Parquet, as the Hugging Face hub stores them, or in Arrow files.

A picture is a struct `{bytes, path}`, bytes, bytes as base64, the path of a file that lies beside,
or a list of numbers; a label is a whole number or a word.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath

from ...errors import UsageError
from ..splits import split_in, split_of
from ..tree import Source, SourceTree
from .contents import SPLIT_NAMES, DataLayout, LoadedData, ReadOptions, SplitName, in_split_order
from .record_files import MAX_BYTES, RecordFile, is_record_file, open_records
from .record_images import damage_named, load_records, pictures_of


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize one file of Parquet or Arrow, or a folder of them.

    Raises:
        UsageError: a shard is missing or damaged, or there are several subsets.
    """
    names = [name for name in tree.names if is_record_file(name)]
    if not names and not tree.is_archive and tree.source.is_file():
        with tree.source.open("rb") as file:
            names = [tree.source.name] if file.read(4) == b"PAR1" else []
    if not names:
        return None
    splits: dict[SplitName, list[str]] = defaultdict(list)
    others: list[str] = []
    for name in names:
        split = _split_of_file(name)
        if split in SPLIT_NAMES:
            splits[split].append(name)
        else:
            others.append(name)
    if not splits:  # one source without splits, in one file or in numbered shards
        _check_one_set(tree, others)
        splits["train"], others = others, []
    for split, files in splits.items():
        _check_words(tree, files, split)
        _check_shards(tree, files)
    ordered = in_split_order(splits)
    shards = [name for files in ordered.values() for name in files]
    with damage_named(", ".join(shards)):
        rows = sum(_open(tree, name).num_rows or 1 for name in shards)
    return DataLayout(
        "parquet",
        f"Parquet or Arrow: {', '.join(ordered)}",
        (*shards, *tree.pictures),
        partial(_read, tree, ordered),
        rows,
        (f"files of no split: {', '.join(others[:5])}",) if others else (),
        max_bytes=MAX_BYTES,
        pictures=partial(_pictures, tree),
    )


def _split_of_file(name: str) -> str | None:
    """Return the split that a file or a folder around it is of, as `train/0000.parquet`."""
    path = PurePosixPath(name)
    parts = (path.stem, *reversed(path.parts[:-1]))
    return next((split for part in parts if (split := split_in(part))), None)


def _check_one_set(tree: SourceTree, names: Sequence[str]) -> None:
    """Refuse files without splits whose names differ in more than their numbers."""
    stems = {re.sub(r"[\d_.-]+(of)?[\d_.-]*", "", PurePosixPath(name).stem) for name in names}
    if len(stems) > 1:
        raise UsageError(
            f"{tree.source} holds {', '.join(names[:5])}, which may be different sets; give the "
            "path of one, or call the files train.parquet, validation.parquet and test.parquet"
        )


def _check_words(tree: SourceTree, names: Sequence[str], split: SplitName) -> None:
    """Refuse files that are called by different words for one split, as dev and eval."""
    by_word: dict[str, str] = {}
    for name in names:
        words = re.split(r"[-_. ]", PurePosixPath(name).stem.lower())
        by_word |= {word: name for word in words if split_of(word) == split}
    if len(by_word) > 1:
        listed = " and ".join(by_word.values())
        raise UsageError(
            f"{tree.source} holds {listed}, which both mean the {split} split; rename or move one"
        )


def _check_shards(tree: SourceTree, names: Sequence[str]) -> None:
    """Refuse several subsets, and shards of which one is missing by the count in their names."""
    folders = sorted({PurePosixPath(name).parent.as_posix() for name in names})
    if len(folders) > 1:
        raise UsageError(f"{tree.root} holds several subsets; choose one of: {', '.join(folders)}")
    counts = [re.search(r"-(\d+)-of-(\d+)", name) for name in names]
    shards = {int(count[1]) for count in counts if count}
    total = max((int(count[2]) for count in counts if count), default=0)
    missing = sorted(set(range(min(total, len(names) + 1))) - shards)
    if missing and shards:
        raise UsageError(f"{tree.root}: shard {missing[0]} of {total} beside {names[0]} is missing")


def _open(tree: SourceTree, name: str) -> RecordFile:
    [source] = tree.sources([name], MAX_BYTES)
    return open_records(source, name, str(tree.path(name)))


def _pictures(tree: SourceTree, ids: Sequence[str]) -> Iterator[Source] | None:
    names = dict.fromkeys(id.rpartition("#")[0] for id in ids)
    return pictures_of({name: _open(tree, name) for name in names}, ids, tree)


def _read(
    tree: SourceTree, splits: Mapping[SplitName, Sequence[str]], options: ReadOptions
) -> LoadedData:
    with damage_named(", ".join(name for files in splits.values() for name in files)):
        files = {split: [_open(tree, name) for name in names] for split, names in splits.items()}
        return load_records(files, options, tree)
