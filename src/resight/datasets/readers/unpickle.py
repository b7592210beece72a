"""Pickles from outside, read without running their code.

A pickle is a program: it names functions and calls them. The unpickler here knows only the names
that a pickled NumPy array needs, and gives a harmless stand-in for each. A pickle never gets
NumPy's own functions: with a forged state, they can be made to read foreign memory. The arrays
are built from bytes whose length is checked.
"""

import io
import pickle
import pickletools
from typing import Any, Literal

import numpy as np

from ...errors import UsageError


class _Array:
    """A pickled array, which the pickle's BUILD instruction fills as it fills an ndarray."""

    values: np.ndarray[Any, np.dtype[np.uint8]] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _DtypeState) or dtype.code not in ("u1", b"u1"):
            raise pickle.UnpicklingError("an array that is not uint8")
        content = content.encode("latin1") if isinstance(content, str) else content
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        values = np.frombuffer(content, dtype=np.uint8).reshape(shape, order=order)
        if values.shape != shape:  # reshape takes -1 for "as many as there are"
            raise pickle.UnpicklingError("an array of a negative length")
        self.values = values


class _DtypeState:
    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment, which uint8 does not have."""


# A stand-in is an instance without attributes, not a class or a function: a pickle can call it,
# but cannot change it.


class _NewArray:
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        return _Array()


class _NewDtype:
    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = False) -> _DtypeState:
        return _DtypeState(code)


class _Encode:
    """Python 3 writes bytes into old pickles as `_codecs.encode(text, "latin1")`."""

    __slots__ = ()

    def __call__(self, text: str, encoding: Any) -> bytes:
        return text.encode("latin1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy._core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _NewDtype(),
    ("_codecs", "encode"): _Encode(),
}


# A real batch has 9 tuples. A few dozen, each of them twice in the next, take for ever to hash.
_MAX_TUPLES = 24
_MEMO_CODES = ("PUT", "BINPUT", "LONG_BINPUT")
_TUPLE_CODES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


def _check_codes(content: bytes) -> None:
    """Refuse a pickle that is made to fill the memory or to never end, before it is run.

    The unpickler makes room for a place in its memo, whatever number the pickle gives it.
    """
    num_tuples = 0
    for code, argument, _ in pickletools.genops(content):
        if code.name in _MEMO_CODES and isinstance(argument, int) and argument > len(content):
            raise pickle.UnpicklingError(f"place {argument:,} in a memo")
        num_tuples += code.name in _TUPLE_CODES
        if num_tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError(f"more than {_MAX_TUPLES} tuples")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise UsageError(f"its pickle asks for {module}.{name}, which could run code")
        return _ADMITTED[module, name]


def load_arrays(content: bytes, name: str) -> dict[str, Any]:
    """Return the dictionary pickled in `content`, with uint8 arrays and plain values.

    Python 2 or 3 may have written it. Keys become str; a value of Python 2's str becomes bytes.

    Raises:
        UsageError: it needs more than NumPy arrays, or is damaged; the message begins with `name`.
    """
    try:
        _check_codes(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except UsageError as error:
        raise UsageError(f"{name} is refused: {error}; get the official file") from None
    except Exception as error:  # the unpickler raises many kinds for bytes that are no pickle
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{name} is not a whole pickle of arrays ({reason}); get the official file"
        ) from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{name} holds a {type(loaded).__name__}, not a dictionary of arrays")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): (
            value.values if isinstance(value, _Array) else value
        )
        for key, value in loaded.items()
    }
