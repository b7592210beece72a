"""Arrays in files: their shapes are known before anything is read, and bound what is read."""

import math
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import UsageError
from ..tree import Source
from .array_roles import Head
from .pixels import Array

MAX_BYTES = 2**40  # of one file of arrays; what does not fit into memory is refused later
_HEADERS: dict[tuple[int, ...], Callable[[Any], tuple[Any, ...]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_REMEDY = (
    "write arrays of numbers or words, as np.savez('data.npz', images=images, "
    "labels=labels.astype(str))"
)


@dataclass(frozen=True)
class StoredArray:
    """An array that is not read yet.

    num_bytes: once read. load: reads it, and raises UsageError if it is damaged.
    """

    head: Head
    num_bytes: int
    load: Callable[[], Array]


def in_zip(source: Source, where: str) -> dict[str, StoredArray]:
    """Return the arrays in a `.npz` file or another zip, by their names without the suffix.

    Raises:
        UsageError: it is no whole zip; the message begins with `where`.
    """
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        archive = zipfile.ZipFile(file)  # it closes itself
        return {
            member.filename.removesuffix(".npy"): _stored(
                partial(archive.open, member), member.file_size, member.filename, where
            )
            for member in archive.infolist()
            if member.filename.endswith(".npy")
        }
    except OSError:
        raise
    except Exception as error:  # zipfile raises many kinds for forged heads
        raise UsageError(f"{where} is a damaged archive: {error}; get it again") from error


def in_file(source: Source, where: str) -> StoredArray:
    """Return the array in a `.npy` file."""
    if isinstance(source, bytes):
        return _stored(lambda: BytesIO(source), len(source), Path(where).name, where)
    return _stored(lambda: source.open("rb"), source.stat().st_size, source.name, where)


def _stored(
    open_file: Callable[[], AbstractContextManager[IO[bytes]]], size: int, name: str, where: str
) -> StoredArray:
    """Return an array whose header is read; what is wrong with it is said when it is loaded."""

    def load() -> Array:
        try:
            with open_file() as file:
                _read_head(file, size, name)
            with open_file() as file:
                array: Array = np.lib.format.read_array(file, allow_pickle=False)
                return array
        except Exception as error:  # zipfile and NumPy raise many kinds for forged heads
            reason = str(error).splitlines() or [type(error).__name__]
            raise UsageError(
                f"{where} cannot be read as arrays ({reason[0]}); {_REMEDY}"
            ) from error

    try:
        with open_file() as file:
            head = _read_head(file, size, name)
    except Exception:  # `load` names it, if the array is needed
        return StoredArray(Head((0, 0, 0, 0), np.dtype("V0")), 0, load)
    return StoredArray(head, math.prod(head.shape) * np.dtype(head.dtype).itemsize, load)


def _read_head(file: IO[bytes], size: int, name: str) -> Head:
    """Return shape and type, which are compared with the bytes of the file.

    Raises:
        ValueError: they do not fit, or the array holds Python objects.
    """
    if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
        raise ValueError(f"{name} is no array")
    version = (*file.read(2),)
    if version not in _HEADERS:
        raise ValueError(f"{name} has a header of an unknown version")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which could run code")
    num_bytes = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 1) != num_bytes:
        raise ValueError(f"{name} has {num_bytes:,} bytes for {dtype} of shape {shape}")
    return Head(shape, dtype)
