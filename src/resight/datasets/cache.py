"""Decoded data sets on disk, so that pictures are decoded once.

An entry is one safetensors file with a checksum. Its name is a hash of the content of the source,
the options of reading and the version of the decoder. If an entry is damaged, it is made again. If
the cache cannot be written, the data set gets a note. A new entry may remove old ones, so that the
cache keeps to its limit.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import PIL
import torch
from torch import Tensor

from ..errors import ResightError, UsageError
from ..files import check_file, read_text, remove_leftovers
from .cache_entries import cache_folder, cache_limit, memo_path, remember
from .cache_file import MIN_AGE_NS, file_state, mark_used, open_entry, write_entry
from .dataset import OnProgress, Split
from .ids import Ids
from .image_file import LARGE_BYTES
from .readers.contents import LoadedData, ReadOptions, no_progress

_VERSION = f"5, Pillow {PIL.__version__}"  # raise the number when decoding changes


def entry_key(digest: str, options: ReadOptions) -> str:
    """Return the name of the entry for content with this digest, read with these options."""
    settings = [getattr(options, f.name) for f in fields(options) if f.name != "on_progress"]
    text = f"{_VERSION}|{digest}|{settings}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_of(digests: Mapping[str, str]) -> str:
    """Return one digest for the files of a source, each a name and the SHA-256 of its bytes."""
    lines = "\n".join(f"{name}\0{digest}" for name, digest in digests.items())
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def digest_files(files: Mapping[str, Path], max_bytes: int) -> str:
    """Return `digest_of` the bytes of `files`, remembered until one of them changes.

    It takes seconds to read 60,000 pictures only to learn that they are the same. As in git's
    index, a file counts as unchanged while its size, times and inode are. A file that cannot be
    read, or has more than `max_bytes`, is not read for the digest either.
    """
    state = [(name, os.path.abspath(path), file_state(path)) for name, path in files.items()]
    memo = None
    with suppress(OSError, ValueError, UsageError):  # there is none, or it is damaged
        memo = memo_path(repr(state))
        remembered = read_text(memo, 64)
        if len(remembered) == 64:
            return remembered
    digest = digest_of({name: _digest(path, max_bytes) for name, path in files.items()})
    newest_ns = max(time_ns for _, _, (_, _, *times) in state for time_ns in times)
    if memo and newest_ns < time.time_ns() - MIN_AGE_NS:
        remember(memo, digest)
    return digest


def cached(
    name: str,
    key: str,
    make: Callable[[], LoadedData],
    on_progress: OnProgress = no_progress,
) -> LoadedData:
    """Return the data stored under `key`; if it is missing or damaged, make and store it.

    name: of the data set, for the list of entries. The data gets a note if its entry was damaged,
    and if it cannot be stored.

    Raises:
        UsageError: `RESIGHT_CACHE_GIB` is no size.
    """
    cache_limit()  # a wrong limit is refused before minutes of decoding
    notes = []
    try:
        path = cache_folder() / "decoded" / f"{key}.safetensors"
    except UsageError as error:
        loaded = make()
        return replace(loaded, notes=(*loaded.notes, f"not cached: {error}"))
    try:
        remove_leftovers(path.parent)
        loaded = _read_data(path)
        mark_used(path)
        return loaded
    except FileNotFoundError:
        pass
    except (OSError, ResightError, KeyError, TypeError, ValueError, RecursionError):
        notes.append("the copy in the cache was damaged, so it was made again")
    loaded = make()
    try:
        _write_data(path, name, loaded, on_progress)
        if any(math.prod(split.shape) > LARGE_BYTES for split in loaded.splits.values()):
            loaded = _read_data(path)  # so that what was made can go
    except (OSError, ResightError) as error:
        notes.append(f"not cached ({error}); point RESIGHT_CACHE to a folder that can be written")
    return replace(loaded, notes=(*loaded.notes, *notes)) if notes else loaded


def _read_data(path: Path) -> LoadedData:
    entry = open_entry(path)
    splits = {part: entry.split(part) for part in entry.about["splits"]}
    classes, notes = tuple(entry.about["classes"]), tuple(entry.about["notes"])
    return LoadedData(classes, None, notes=notes).with_splits(splits)


def _write_data(path: Path, name: str, loaded: LoadedData, on_progress: OnProgress) -> None:
    splits = loaded.splits
    about = {"name": name, "classes": loaded.classes, "notes": loaded.notes, "splits": [*splits]}
    small = {key: tensor for part, split in splits.items() for key, tensor in _pack(split, part)}
    write_entry(path, about, small, splits, on_progress)


def _pack(split: Split, part: str) -> Iterator[tuple[str, Tensor]]:
    text, ends = Ids.of(split.ids).packed()
    yield f"{part}.labels", split.labels
    yield f"{part}.ends", torch.from_numpy(ends)
    yield f"{part}.ids", torch.from_numpy(text.copy())


def _digest(path: Path, max_bytes: int) -> str:
    try:
        check_file(path, max_bytes)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UsageError):
        return "unreadable"
