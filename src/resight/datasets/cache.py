"""Decoded data sets on disk, so that pictures are decoded once.

An entry is one safetensors file with a checksum. Its name is a hash of the content of the source,
the options of reading and the version of the decoder. If an entry is damaged, it is made again. If
the cache cannot be written, the data set gets a note. A new entry may remove old ones, so that the
cache keeps to its limit.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import PIL
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ResightError, UsageError
from ..files import atomic_write, check_file, read_text, remove_leftovers, write_text
from .cache_entries import cache_folder, cache_limit, keep_to_limit, read_header
from .dataset import Split
from .readers.contents import SPLIT_NAMES, LoadedData, ReadOptions

_VERSION = f"4, Pillow {PIL.__version__}"  # raise the number when decoding changes
_MIN_AGE_NS = 2 * 10**9  # a younger file may still change within one tick of its clock
_DTYPES = {
    "U8": torch.uint8,
    "I64": torch.int64,
}  # of an entry's tensors, as safetensors names them


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
    state = [(name, os.path.abspath(path), _stat(path)) for name, path in files.items()]
    memo = hashlib.sha256(repr(state).encode()).hexdigest()[:32]
    with suppress(OSError, ValueError):  # there is none, it is damaged, or no home is known
        remembered = read_text(_memo(memo), 64)
        if len(remembered) == 64:
            return remembered
    digest = digest_of({name: _digest(path, max_bytes) for name, path in files.items()})
    newest_ns = max(time_ns for _, _, (_, _, *times) in state for time_ns in times)
    if newest_ns < time.time_ns() - _MIN_AGE_NS:
        # If it cannot be written, the entry cannot either, and that is noted.
        with suppress(OSError, ResightError):
            _memo(memo).parent.mkdir(parents=True, exist_ok=True)
            write_text(_memo(memo), digest)
    return digest


def cached(name: str, key: str, make: Callable[[], LoadedData]) -> LoadedData:
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
        loaded = _read_entry(path)
        with suppress(OSError):  # the cache may be read-only
            os.utime(path)  # used now: the limit of the cache goes by it
        return loaded
    except FileNotFoundError:
        pass
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        notes.append("the copy in the cache was damaged, so it was made again")
    loaded = make()
    try:
        _write_entry(path, name, loaded)
        keep_to_limit(path)
    except (OSError, ResightError, SafetensorError) as error:
        notes.append(f"not cached ({error}); point RESIGHT_CACHE to a folder that can be written")
    return replace(loaded, notes=(*loaded.notes, *notes)) if notes else loaded


def _read_entry(path: Path) -> LoadedData:
    header = read_header(path)
    metadata = header.pop("__metadata__")
    tensors = _read_tensors(path, header)
    if metadata["checksum"] != _checksum(metadata["resight"], tensors):
        raise ValueError("its content is not what was written")
    about = json.loads(metadata["resight"])
    splits = {part: _unpack(tensors, part) for part in SPLIT_NAMES if part in about["splits"]}
    return LoadedData(
        tuple(about["classes"]),
        train=splits.get("train"),
        val=splits.get("val"),
        test=splits.get("test"),
        notes=tuple(about["notes"]),
    )


def _read_tensors(path: Path, header: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, in memory of their own.

    The library maps the file instead, and if a mapped file is cut meanwhile, the process dies.
    """
    tensors: dict[str, Tensor] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        first = 8 + int.from_bytes(file.read(8), "little")
        for name, place in header.items():
            start, end = place["data_offsets"]
            if not 0 <= start <= end <= size - first:
                raise ValueError(f"{name} is cut off")
            content = torch.empty(end - start, dtype=torch.uint8)
            file.seek(first + start)
            if file.readinto(content.numpy().data) != end - start:
                raise ValueError(f"{name} is cut off")
            try:
                tensors[name] = content.view(_DTYPES[place["dtype"]]).view(place["shape"])
            except RuntimeError as error:
                raise ValueError(f"{name} does not have its shape") from error
    return tensors


def _write_entry(path: Path, name: str, loaded: LoadedData) -> None:
    splits = loaded.splits
    about = {"name": name, "classes": loaded.classes, "notes": loaded.notes, "splits": [*splits]}
    tensors: dict[str, Tensor] = {}
    for part, split in splits.items():
        tensors |= _pack(split, part)
    text = json.dumps(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        metadata = {"resight": text, "checksum": _checksum(text, tensors)}
        save_file(tensors, temporary, metadata=metadata)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of an entry's content, which takes 0.1 s for 50,000 images of 32 px."""
    checksum = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name}{tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.flatten().numpy().data, checksum)
    return f"{checksum:08x}"


def _stat(path: Path) -> tuple[int, int, int, int]:
    """Return inode, size, and the times of the last change of content and of state, in ns."""
    try:
        stat = path.stat()
    except OSError:  # a dangling link, which its reader will name as unreadable
        return 0, 0, 0, 0
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(path: Path, max_bytes: int) -> str:
    try:
        check_file(path, max_bytes)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UsageError):
        return "unreadable"


def _memo(name: str) -> Path:
    return cache_folder() / "digests" / name


def _pack(split: Split, part: str) -> dict[str, Tensor]:
    # NUL parts the ids, since no file name contains it.
    ids = bytearray("\0".join(split.ids).encode("utf-8", "surrogateescape"))
    return {
        f"{part}.images": split.images.contiguous(),
        f"{part}.labels": split.labels,
        f"{part}.ids": torch.frombuffer(ids, dtype=torch.uint8),
    }


def _unpack(tensors: Mapping[str, Tensor], part: str) -> Split:
    ids = tensors[f"{part}.ids"].numpy().tobytes().decode("utf-8", "surrogateescape").split("\0")
    return Split(tensors[f"{part}.images"], tensors[f"{part}.labels"], tuple(ids))
