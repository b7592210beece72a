"""The errors that resight raises, each with one line that a person can act on."""

import difflib
import errno
from collections.abc import Iterable


class ResightError(Exception):
    """The work cannot be done; the message is one line that says why and what to do."""

    exit_code = 1


class UsageError(ResightError, ValueError):
    """A name, a value or a file is wrong; the message names it, what is valid and the fix."""

    exit_code = 2


class Diverged(ResightError):
    """Training broke down: the loss became NaN, infinite or far larger than at the start."""


_MEMORY_FULL = (
    "out of memory",
    "allocate memory",
    "bad_alloc",
    "could not create a primitive",  # oneDNN, which computes torch's convolutions on a CPU
)


def is_memory_full(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy, torch or the system says that memory is full."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(
        phrase in message for phrase in _MEMORY_FULL
    )


def suggest(word: str, valid: Iterable[str]) -> str:
    """Return `; did you mean "x"?` where one of `valid` is close to `word`, else nothing."""
    matches = difflib.get_close_matches(word, list(valid), n=1)
    return f'; did you mean "{matches[0]}"?' if matches else ""
