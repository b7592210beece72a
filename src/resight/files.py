"""Writing files so that a crash, a full disk or a second process never leaves half of one."""

import csv
import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ResightError

WINDOWS = os.name == "nt"
RETRY_SECS = (0.05, 0.1, 0.2, 0.4, 0.8)


def move(source: Path, target: Path) -> None:
    """Move a file or folder as `os.replace` does: over a file, but not over a folder with contents.

    Windows refuses while a virus scanner or an indexer has either path open, so there the move is
    tried again.
    """
    for wait in RETRY_SECS if WINDOWS else ():
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(source, target)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of `path`, whole and on disk, when the block ends.

    Whatever goes wrong inside, `path` stays as it was and the temporary file is removed.

    Raises:
        ResightError: the folder cannot be written to, or the disk is full.
    """
    # The suffix stays last: writers such as matplotlib choose a format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        move(temporary, path)
    except OSError as error:
        raise ResightError(
            f"cannot write {path}: {error.strerror or error}; an older file there is unharmed"
        ) from error
    finally:
        with suppress(OSError):  # already moved, or never made
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    r"""Write `text` to `path` in UTF-8, over an older file.

    Bytes of a file name that are not UTF-8, which Unix allows, are written as \udcXX.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(as_written(text), encoding="utf-8", newline="\n")


def as_written(text: str) -> str:
    r"""Return a text as `write_text` writes it: bytes that are no UTF-8 become \udcXX."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the header first, to a CSV file; None becomes an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed writers; nothing may be writing into `folder` now."""
    for leftover in folder.glob(".*.part*"):
        leftover.unlink(missing_ok=True)
