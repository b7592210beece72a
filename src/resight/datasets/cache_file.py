"""The file of an entry of the cache: named tensors with a checksum, as a safetensors file.

The images of a large data set stay in the file, and are read when they are asked for. It is written
part by part, too, so neither needs memory for all of it. All bytes of a small entry are compared
with the checksum whenever it is read; those of a large one, whenever its file has changed.
"""

import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import atomic_write
from .cache_entries import keep_to_limit, memo_path, read_header, remember
from .dataset import OnProgress, Split
from .ids import Ids
from .image_file import LARGE_BYTES, ImageFile, check_disk
from .readers.contents import no_progress

MIN_AGE_NS = 2 * 10**9  # a younger file may still change within one tick of its clock
_TOUCH_SECS = 3600.0  # the time of the last use is this exact
_CHUNK = 2**24  # bytes that are read or written at a time
# Of tensors, as safetensors names them.
_DTYPES = {"U8": torch.uint8, "I64": torch.int64, "F32": torch.float32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """An entry whose bytes are what was written: where its tensors lie, and what it is about."""

    path: Path
    first: int  # where the tensors begin
    places: Mapping[str, Any]
    about: Mapping[str, Any]
    checksum: str

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in memory of its own: if a file is mapped and cut, the process dies."""
        place = self.places[name]
        start, end = place["data_offsets"]
        content = ImageFile(self.path, self.first + start, (end - start, 1)).read(slice(None))
        return content.view(-1).view(_DTYPES[place["dtype"]]).view(place["shape"])

    def split(self, part: str) -> Split:
        """Return a split of images; those of a large one stay in the file."""
        place = self.places[f"{part}.images"]
        start, end = place["data_offsets"]
        content = f"{self.path.stem} {self.checksum} {part}"
        pixels: Tensor | ImageFile = (
            ImageFile(self.path, self.first + start, tuple(place["shape"]), content)
            if end - start > LARGE_BYTES
            else self.tensor(f"{part}.images")
        )
        ids, ends = (self.tensor(f"{part}.{name}").numpy() for name in ("ids", "ends"))
        return Split(pixels, self.tensor(f"{part}.labels"), Ids(ids, ends, None))


def open_entry(path: Path) -> Entry:
    """Open an entry, and compare its bytes with its checksum.

    Raises:
        FileNotFoundError: there is none.
        OSError, KeyError, TypeError, ValueError, RecursionError: it is damaged.
    """
    places = read_header(path)
    metadata = places.pop("__metadata__")
    with path.open("rb") as file:
        first = 8 + int.from_bytes(file.read(8), "little")
    size = path.stat().st_size - first
    if size != max(place["data_offsets"][1] for place in places.values()):
        raise ValueError("it is cut off")
    if size <= LARGE_BYTES or not _checked(path).exists():
        checksum = zlib.crc32(_head(places, metadata["resight"]))
        for chunk in _bytes_from(path, first):
            checksum = zlib.crc32(chunk, checksum)
        if metadata["checksum"] != f"{checksum:08x}":
            raise ValueError("its content is not what was written")
        _note_checked(path)
    return Entry(path, first, places, json.loads(metadata["resight"]), metadata["checksum"])


def _bytes_from(path: Path, first: int) -> Iterator[memoryview]:
    """Yield the bytes of a file from a position on, part by part."""
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        file.seek(first)
        while count := file.readinto(buffer):
            yield memoryview(buffer)[:count]


def _checked(path: Path) -> Path:
    """Return the file that says that the bytes of an entry are as they were written."""
    return memo_path(f"checked {path} {file_state(path)}")


def _note_checked(path: Path) -> None:
    stat = path.stat()
    if stat.st_size > LARGE_BYTES and stat.st_mtime_ns < time.time_ns() - MIN_AGE_NS:
        remember(_checked(path), "")


def mark_used(path: Path) -> None:
    """Note in the file that it was used now, since the limit of the cache goes by it."""
    with suppress(OSError):  # the cache may be read-only
        if path.stat().st_mtime < time.time() - _TOUCH_SECS:
            was_checked = _checked(path).exists()
            os.utime(path)
            if was_checked:
                remember(_checked(path), "")


def write_entry(
    path: Path,
    about: Mapping[str, Any],
    small: Mapping[str, Tensor],
    splits: Mapping[Any, Split],
    on_progress: OnProgress = no_progress,
) -> None:
    """Write an entry part by part, which takes no memory for all images of its splits.

    about: fit for JSON, with the `name` of the data set. small: the other tensors.
    """
    text = json.dumps(about)
    places: dict[str, Any] = {}
    for key, tensor in small.items():
        end = _place(places, key, _NAMES[tensor.dtype], tensor.shape)
    for part, split in splits.items():
        end = _place(places, f"{part}.images", "U8", split.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    check_disk(path.parent, end, f"the images of {about['name']}")
    tell = on_progress if end > LARGE_BYTES else no_progress
    checksum = zlib.crc32(_head(places, text))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_header(places, text, 0))
        for chunk in _contents(small, splits, tell):
            file.write(chunk)
            checksum = zlib.crc32(chunk, checksum)
        file.seek(0)
        file.write(_header(places, text, checksum))
    if end > LARGE_BYTES:
        remember(_checked(path), "")
    keep_to_limit(path)


def _place(places: dict[str, Any], key: str, dtype: str, shape: torch.Size) -> int:
    """Give a tensor its place behind those before it; return where it ends."""
    start = max((place["data_offsets"][1] for place in places.values()), default=0)
    end = start + math.prod(shape) * _DTYPES[dtype].itemsize
    places[key] = {"dtype": dtype, "shape": [*shape], "data_offsets": [start, end]}
    return end


def _head(places: Mapping[str, Any], text: str) -> bytes:
    return json.dumps([places, text]).encode()


def _header(places: Mapping[str, Any], text: str, checksum: int) -> bytes:
    """Return what stands before the tensors of a safetensors file, of 8 * n bytes."""
    metadata = {"resight": text, "checksum": f"{checksum:08x}"}
    header = json.dumps({"__metadata__": metadata, **places}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _contents(
    small: Mapping[str, Tensor], splits: Mapping[Any, Split], on_progress: OnProgress
) -> Iterator[memoryview]:
    """Yield the bytes of all tensors in order."""
    for tensor in small.values():
        yield tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    done, total = 0, sum(map(len, splits.values()))
    for split in splits.values():
        for images in split.parts():
            yield images.view(-1).numpy().data
            done += len(images)
            on_progress("write to the cache", done, total)


def file_state(path: Path) -> tuple[int, int, int, int]:
    """Return inode, size, and the times of the last change of content and of state, in ns."""
    try:
        stat = path.stat()
    except OSError:  # a dangling link, which its reader will name as unreadable
        return 0, 0, 0, 0
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
