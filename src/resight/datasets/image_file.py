"""Images in a file, of which only those are read that are asked for.

A data set with more than `LARGE_BYTES` of pixels stays in its file in the cache, and on its way
there in a temporary file, so that no data set is too large for the memory.
"""

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ResightError, UsageError
from ..files import temporary_path
from .cache_entries import cache_folder

GIB = 2**30
LARGE_BYTES = 2**28  # of pixels; the images of CIFAR-10 have fewer, and stay in memory
_MAX_READ = 2**30  # bytes; Linux reads no more than 2 GiB at once
_lock = Lock()  # of the position of files, where there is no preadv


class ImageFile:
    """M images of one size, uint8 (M, C, H, W), one after the other in a file.

    They are read and not mapped: pages of a map count as memory of the process, and if a mapped
    file is cut, the process dies. The file may be removed meanwhile. Threads and forked processes
    may share it; a process that gets it by pickle opens the file again.

    offset: of the first image, in bytes; content: a digest of the images, if it is known.
    temporary: removes the file when nothing needs it.
    """

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: tuple[int, ...],
        content: str = "",
        *,
        temporary: bool = False,
    ) -> None:
        self.path, self.offset, self.shape = path, offset, torch.Size(shape)
        self.content, self.device = content, torch.device("cpu")
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, _close, self._file, path if temporary else None)

    def __reduce__(self) -> tuple[type["ImageFile"], tuple[Path, int, tuple[int, ...], str]]:
        return ImageFile, (self.path, self.offset, tuple(self.shape), self.content)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: Tensor | slice) -> Tensor:
        """Return the images at `rows`, (N,) int64 or a slice, (N, C, H, W) in memory of their own.

        Raises:
            ResightError: the file was cut, or cannot be read.
        """
        size, count = math.prod(self.shape[1:]), len(self)
        if isinstance(rows, slice):
            places: Sequence[int] = range(count)[rows]
        elif rows.numel() and not -count <= int(rows.min()) <= int(rows.max()) < count:
            raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of {count} images")
        else:
            places = rows.remainder(max(1, count)).tolist()
        images = torch.empty((len(places), *self.shape[1:]), dtype=torch.uint8)
        target = images.view(-1).numpy().data
        if places and _is_run(places):
            self._read(target, places[0] * size)
        else:
            for number, place in enumerate(places):
                self._read(target[number * size : (number + 1) * size], place * size)
        return images

    def _read(self, target: memoryview, start: int) -> None:
        done = 0
        while done < len(target):
            part = target[done : done + _MAX_READ]
            try:
                count = _read_at(self._file, part, self.offset + start + done)
            except OSError as error:
                raise ResightError(f"cannot read {self.path}: {error.strerror or error}") from error
            if not count:
                raise ResightError(
                    f"{self.path} was cut off while it was in use; start again, and its images "
                    "are decoded again"
                )
            done += count


class ImageStore:
    """Takes images (C, H, W) one after the other, into memory or, of a large data set, a file.

    Raises:
        UsageError: the disk has too little room for so many.
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        size = count * math.prod(shape)
        self.shape, self.count = shape, 0
        self._file: BinaryIO | None = None
        if size <= LARGE_BYTES:
            self._memory = np.empty((count, *shape), dtype=np.uint8)
            return
        folder = _scratch_folder()
        check_disk(folder, 2 * size, f"{count:,} images of {shape[-1]} px")
        path = temporary_path(folder / f"images-{id(self)}.raw")
        self._file = path.open("wb", buffering=2**20)
        self._images = ImageFile(path, 0, (count, *shape), temporary=True)

    def add(self, image: NDArray[np.uint8]) -> None:
        """Take the next image, or (1, H, W) for all channels."""
        if self._file is None:
            self._memory[self.count] = image
        else:
            with _full_disk_named(self._file):
                self._file.write(np.broadcast_to(image, self.shape).tobytes())
        self.count += 1

    def finish(self) -> Tensor | ImageFile:
        """Return the images."""
        if self._file is None:
            return torch.from_numpy(self._memory[: self.count])
        with _full_disk_named(self._file):
            self._file.close()
        self._images.shape = torch.Size((self.count, *self.shape))
        return self._images


@contextmanager
def _full_disk_named(file: BinaryIO) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResightError(
            f"cannot write {file.name}: {error.strerror or error}; make room there, or point "
            "RESIGHT_CACHE to another disk"
        ) from error


def _scratch_folder() -> Path:
    """Return the folder of the cache, or that of temporary files where it cannot be made."""
    try:
        folder = cache_folder() / "decoded"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except (OSError, UsageError):
        return Path(tempfile.gettempdir())


def check_disk(folder: Path, num_bytes: int, what: str) -> None:
    """Refuse what the disk of a folder has no room for, before work is done for it.

    Raises:
        UsageError: `what` needs more than there is.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UsageError(
            f"{what} need {num_bytes / GIB:,.1f} GiB in {folder}, and {free / GIB:,.1f} GiB are "
            "free there; make room, point RESIGHT_CACHE to another disk, or give a smaller "
            "data.image_size"
        )


def _is_run(places: Sequence[int]) -> bool:
    """Return whether places follow one another."""
    run = range(places[0], places[0] + len(places))
    return places == run if isinstance(places, range) else places == [*run]


def _read_at(file: int, target: memoryview, position: int) -> int:
    """Fill `target` from a position of a file; return how many bytes there were."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [target], position)
    with _lock:  # Windows has no reading at a position
        os.lseek(file, position, os.SEEK_SET)
        content = os.read(file, len(target))
    target[: len(content)] = content
    return len(content)


def _close(file: int, path: Path | None) -> None:
    with suppress(OSError):
        os.close(file)
    if path is not None:
        with suppress(OSError):
            path.unlink()
