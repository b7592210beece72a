"""The ids of many images: bytes with offsets, since a million Python strings take 100 MB."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_NUM_SHOWN = 3


class Ids(Sequence[str]):
    """A sequence of strings that equals the tuple of them, and takes a few bytes a string.

    text: the strings in UTF-8, one after the other; ends: int64 (M,), where each of them ends;
    rows: int64 (N,), which of them these are, in order; None for all. Part of a sequence shares
    the text of the whole.
    """

    def __init__(
        self, text: NDArray[np.uint8], ends: NDArray[np.int64], rows: NDArray[np.int64] | None
    ) -> None:
        self.text, self.ends, self.rows = text, ends, rows

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Ids":
        """Return the ids of these strings."""
        if isinstance(strings, Ids):
            return strings
        # File names that are no UTF-8 hold lone surrogates.
        parts = [string.encode("utf-8", "surrogatepass") for string in strings]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), ends, None)

    def __len__(self) -> int:
        return len(self.ends if self.rows is None else self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Ids": ...
    def __getitem__(self, index: int | slice) -> "str | Ids":
        if isinstance(index, slice):
            return self._at(np.arange(len(self))[index])
        rows = range(len(self)) if self.rows is None else self.rows
        return self._string(int(rows[index]))

    def __iter__(self) -> Iterator[str]:
        return map(self._string, range(len(self)) if self.rows is None else self.rows.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ids | tuple):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __add__(self, other: Sequence[str]) -> tuple[str, ...]:
        return (*self, *other)

    def __radd__(self, other: Sequence[str]) -> tuple[str, ...]:
        return (*other, *self)

    def __hash__(self) -> int:
        return hash(tuple(self))  # that of the tuple it equals

    def __repr__(self) -> str:
        more = f", ... {len(self):,} in all" if len(self) > _NUM_SHOWN else ""
        return f"Ids({', '.join(map(repr, self[:_NUM_SHOWN]))}{more})"

    def select(self, rows: Tensor) -> "Ids":
        """Return the ids at `rows`, (M,) int64, in that order."""
        return self._at(rows.cpu().numpy())

    def packed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return text and ends of these strings alone."""
        whole = self if self.rows is None else Ids.of([*self])
        return whole.text, whole.ends

    def _at(self, rows: NDArray[np.int64]) -> "Ids":
        return Ids(self.text, self.ends, rows if self.rows is None else self.rows[rows])

    def _string(self, row: int) -> str:
        start = self.ends[row - 1] if row else 0
        return self.text[start : self.ends[row]].tobytes().decode("utf-8", "surrogatepass")
