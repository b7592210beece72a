"""Standard output and error: printable text alone, and a line where it cannot be written."""

import io
import os
import sys
from contextlib import suppress

from ..errors import ResightError
from ..text import one_line, printable


def is_follower() -> bool:
    """Whether torchrun started this process as another one than the first, which alone prints."""
    return "MASTER_ADDR" in os.environ and os.environ.get("RANK", "0") != "0"


def write_result(text: str) -> None:
    """Print a result on standard output.

    Raises:
        ResightError: it cannot be written, such as to a full disk.
        BrokenPipeError: the reader has gone.
    """
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _not_shown(error.strerror) from error


def show_problem(line: str) -> None:
    """Print one line on standard error, where it can be written."""
    with suppress(OSError):
        print(f"resight: {one_line(line)}", file=sys.stderr, flush=True)


def open_closed_streams() -> bool:
    """Open what the shell closed (`>&-`); return whether standard output was closed.

    Otherwise the next file that is opened would take its number, and receive what is printed.
    """
    closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, io.StringIO())
    return closed


def flush_output(*, is_closed: bool) -> None:
    """Write what was printed.

    Raises:
        ResightError: it cannot be written; a command that printed nothing does not fail.
    """
    if is_closed and isinstance(sys.stdout, io.StringIO) and sys.stdout.getvalue():
        raise _not_shown("it is closed")
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _not_shown(error.strerror) from error


def discard_output() -> None:
    """Drop what could not be written, so that Python does not try again when it ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _not_shown(why: str | None) -> ResightError:
    return ResightError(f"the result cannot be written to standard output: {why}")
