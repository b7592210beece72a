"""Arrays of numbers in MATLAB files of level 5, as `save` writes them without `-v7.3`.

The format is that of "MAT-File Format" by The MathWorks. Full arrays of real numbers are read, and
everything else is passed over. SciPy's loadmat is the reference in the tests.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...errors import UsageError
from .array_roles import Head
from .limits import check_unpacked
from .pixels import Array
from .stored_array import StoredArray

_TEXT_BYTES = 128  # the header of the file
_HEAD_BYTES = 1024  # enough for the flags, the shape and the name of an array
_MATRIX, _PACKED = 14, 15
_NOT_PLAIN = 0x0800  # the flag of complex numbers
# The number of a type -> NumPy's name: of the elements in a file, and of the array that they make.
_ELEMENTS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_ELEMENTS |= {12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_CLASSES |= {14: "i8", 15: "u8"}


@dataclass(frozen=True)
class _Matrix:
    """One array in a file: its name and its head, and where its numbers lie."""

    name: str
    head: Head
    elements: np.dtype[np.generic]
    start: int
    num_bytes: int


def stored_arrays(content: bytes, where: str) -> dict[str, StoredArray]:
    """Return the arrays of real numbers in a file, each by its name and not unpacked yet.

    Raises:
        UsageError: the file is damaged or of another version; the message begins with `where`.
    """
    if content.startswith(b"MATLAB 7.3") or b"\x89HDF\r\n\x1a\n" in content[:1024]:
        raise UsageError(f"{where} is a file of MATLAB 7.3; save it with '-v7', or as .npz")
    with _damage_named(where):
        order = {b"IM": "<", b"MI": ">"}.get(content[126:_TEXT_BYTES])
        if order is None:
            raise ValueError("it has no byte order")
        arrays = {}
        for kind, element in _elements(content[_TEXT_BYTES:], order):
            start = element[:_HEAD_BYTES]
            if packed := kind == _PACKED:
                start = zlib.decompressobj().decompress(element, _HEAD_BYTES)
                kind, start = struct.unpack(f"{order}I", start[:4])[0], start[8:]
            if kind == _MATRIX and (matrix := _matrix(start, order)):
                load = partial(_load, matrix, element, is_packed=packed, where=where)
                size = math.prod(matrix.head.shape) * np.dtype(matrix.head.dtype).itemsize
                arrays[matrix.name] = StoredArray(matrix.head, size, load)
        return arrays


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, struct.error, zlib.error) as error:
        raise UsageError(f"{where} is no whole MATLAB file ({error}); get it again") from error


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each element; one that is cut is an error."""
    start = 0
    while start < len(content):
        kind, first, size = _tag(content, start, order)
        if first + size > len(content):
            raise ValueError("it is cut off")
        yield kind, content[first : first + size]
        start = first + size
        if kind != _PACKED:
            start += -start % 8  # packed ones alone are not padded


def _tag(content: bytes, start: int, order: str) -> tuple[int, int, int]:
    """Return the type of the element at `start`, where its content begins, and its bytes."""
    kind, size = struct.unpack_from(f"{order}II", content, start)
    if kind >> 16:  # up to 4 bytes of content share the tag
        return kind & 0xFFFF, start + 4, kind >> 16
    return kind, start + 8, size


def _matrix(start: bytes, order: str) -> _Matrix | None:
    """Return the array whose element begins so; None if it is none of real numbers."""
    _, first, size = _tag(start, 0, order)
    [flags] = struct.unpack_from(f"{order}I", start, first)
    _, at, size = _tag(start, _padded(first + size), order)
    shape = struct.unpack_from(f"{order}{size // 4}i", start, at)
    _, name_at, name_size = _tag(start, _padded(at + size), order)
    if flags & 0xFF not in _CLASSES or flags & _NOT_PLAIN:
        return None
    name = start[name_at : name_at + name_size].decode("ascii", "replace")
    if not re.fullmatch(r"[A-Za-z]\w{0,62}", name, re.ASCII):
        raise ValueError("an array without a valid name")
    kind, first, size = _tag(start, _padded(name_at + name_size), order)
    if kind not in _ELEMENTS:
        raise ValueError(f"{name} has elements of type {kind}")
    elements = np.dtype(f"{order}{_ELEMENTS[kind]}")
    if min(shape) < 0 or math.prod(shape) * elements.itemsize != size:
        raise ValueError(f"{name} has {size:,} bytes for shape {shape}")
    return _Matrix(name, Head(shape, np.dtype(_CLASSES[flags & 0xFF])), elements, first, size)


def _padded(place: int) -> int:
    return place + -place % 8


def _load(matrix: _Matrix, element: bytes, *, is_packed: bool, where: str) -> Array:
    """Return the numbers of an array, unpacked no further than its head says."""
    with _damage_named(where):
        start, end = matrix.start, matrix.start + matrix.num_bytes
        if is_packed:
            check_unpacked(where, packed=len(element), unpacked=matrix.num_bytes)
            start, end = start + 8, end + 8  # the tag is packed as well
            element = zlib.decompressobj().decompress(element, end)
        if len(element) < end:
            raise ValueError(f"{matrix.name} is cut off")
        numbers = np.frombuffer(element[start:end], dtype=matrix.elements)
        return numbers.reshape(matrix.head.shape, order="F").astype(matrix.head.dtype)
