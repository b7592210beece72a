"""Files: read only if regular and of a sensible size; written whole or not at all, safe to open."""

import csv
import json
import math
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .errors import ResightError, UsageError

WINDOWS = os.name == "nt"
RETRY_SECS = (0.05, 0.1, 0.2, 0.4, 0.8)
MAX_TEXT_BYTES = 2**28  # of JSON and CSV
DAY_SECS = 24 * 60 * 60

# A spreadsheet runs a cell that begins with one of these characters, so an apostrophe goes before
# it. A cell that begins with apostrophes and such a character gets one more: reading is exact.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_LEFTOVER = re.compile(r"\.(?P<host>[\w-]*)-(?P<pid>\d+)\.part")


# --- read -----------------------------------------------------------------------------------


def check_file(path: Path, max_bytes: int) -> int:
    """Return the size of a file in bytes; a link counts as the file that it leads to.

    Reading a device or a pipe may never end, and opening a pipe may wait for ever. So this is
    called before a file is opened.

    Raises:
        UsageError: it is no regular file, or has more than `max_bytes`.
        OSError: there is no such file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise UsageError(f"{path} is {kind}; give a regular file in its place")
    if status.st_size > max_bytes:
        raise UsageError(
            f"{path} has {status.st_size:,} bytes, but such a file has at most {max_bytes:,}; "
            "give a smaller one in its place"
        )
    return status.st_size


def read_bytes(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a file that `check_file` accepts."""
    size = check_file(path, max_bytes)
    with open(path, "rb") as file:
        return file.read(size)


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text in UTF-8 of a file that `check_file` accepts."""
    return read_bytes(path, max_bytes).decode("utf-8")


def read_csv(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file as they were given to `write_csv`, all cells as text."""
    return parse_csv(read_text(path))


def parse_csv(text: str, separator: str = ",") -> list[list[str]]:
    """Return the rows of CSV as they were given to `write_csv`, all cells as text.

    Raises csv.Error if a cell is longer than 131,072 characters.
    """
    lines = text.split("\n")
    rows = csv.reader(
        (f"{line}\n" for line in (lines[:-1] if lines[-1] == "" else lines)), delimiter=separator
    )
    return [[cell[1:] if _is_guarded(cell) else cell for cell in row] for row in rows]


def _is_guarded(cell: str) -> bool:
    return cell.startswith("'") and _FORMULA.match(cell) is not None


# --- write ----------------------------------------------------------------------------------


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
    temporary = temporary_path(path)
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
        temporary.write_text(as_written(text), encoding="utf-8", newline="")


def as_written(text: str) -> str:
    r"""Return a text as `write_text` writes it: bytes that are no UTF-8 become \udcXX."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the header first, to a CSV file; None becomes an empty cell.

    No text is run as a formula by a spreadsheet: see `_FORMULA`.
    """
    lines: list[str] = []
    # The line ends of csv.writer are \r\n, so it quotes either character; the file's are \n.
    writer = csv.writer(SimpleNamespace(write=lambda line: lines.append(line[:-2] + "\n")))
    writer.writerows(
        [guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    write_text(path, "".join(lines))


def guarded(cell: str) -> str:
    """Return a cell of a CSV file with an apostrophe before it if a spreadsheet would run it."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def json_text(content: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return plain Python as JSON, which has no NaN and no infinity: they become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def safe_name(text: str) -> str:
    """Return a text as the name of a file: letters, digits, dots, dashes and underscores alone."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".")


# --- leftovers ------------------------------------------------------------------------------


def temporary_path(path: Path) -> Path:
    """Return where this process writes what will be moved to `path`: hidden, beside it.

    The name has this machine and process in it, so that `remove_leftovers` knows a dead one's.
    """
    # The suffix stays last: writers such as matplotlib choose a format by it.
    return path.with_name(f".{path.stem[:60]}.{_host()}-{os.getpid()}.part{path.suffix}")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine left half written in a folder.

    The files of a process that is alive, or of another machine, are left alone.
    """
    for path in folder.glob(".*.part*"):
        name = _LEFTOVER.search(path.name)
        if name is None or name["host"] != _host() or _is_alive(int(name["pid"]), path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # another process was quicker, or it is someone else's
                path.unlink()


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", platform.node())[:40]


def _is_alive(process: int, path: Path) -> bool:
    """Whether the process that made `path` may still be at work on it."""
    if WINDOWS:  # where a process cannot be asked without harm, and none writes for a day
        with suppress(OSError):
            return time.time() - path.stat().st_mtime < DAY_SECS
        return False
    return is_process_alive(process)


def is_process_alive(process: int) -> bool:
    """Return whether a process of this machine is there; on Windows, where none can say, True."""
    if WINDOWS:
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is someone else's
        return True
    return True
