"""What lies in the cache: its entries by size and last use, its limit, and how it is cleared.

Only files whose names resight makes are listed and removed, so a folder that holds other things
as well is safe.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..errors import ResightError, UsageError, suggest
from ..files import read_text, write_text
from ..recipe.sources import ARCHIVES, PARQUET_FILES, source_name

GIB = 2**30
# Some fifteen data sets of 100,000 pictures of 64 px, and a small part of a disk of today.
DEFAULT_GIB = 20.0
MAX_HEADER = 2**26  # bytes, of an entry; that of an entry of 10,000 classes has less than one MiB
_BUSY_SECS = 3600.0  # a download that was used later may be about to be read
_ENTRY = re.compile(r"[0-9a-f]{32}\.safetensors")


Kind = Literal["images", "features", "download", "part"]
_PLACES: dict[str, Kind] = {"decoded": "images", "features": "features"}  # folders of entries


@dataclass(frozen=True)
class CacheEntry:
    """One file of the cache.

    name: of the data set. kind: "images" are decoded, "features" are of a network that is held, a
    "part" is a download that is not whole.
    used: when it was last read or written, in seconds since 1970.
    """

    name: str
    kind: Kind
    path: Path
    size: int  # bytes
    used: float


def cache_folder() -> Path:
    """Return `$RESIGHT_CACHE`, else `$XDG_CACHE_HOME/resight`, else `~/.cache/resight`."""
    if folder := os.environ.get("RESIGHT_CACHE"):
        return _expanded(folder)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "resight"


def _expanded(folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:  # no HOME, and the system knows no home of this user
        raise UsageError(
            f"the cache {folder} is in no known home folder; set RESIGHT_CACHE to a folder that "
            "can be written"
        ) from error


def cache_limit() -> float:
    """Return how many bytes the cache may have: `$RESIGHT_CACHE_GIB`, by default 20, in GiB.

    Raises:
        UsageError: the variable is no number from 0 on.
    """
    text = os.environ.get("RESIGHT_CACHE_GIB", "").strip() or str(DEFAULT_GIB)
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not gib >= 0:  # neither is NaN
        raise UsageError(
            f"RESIGHT_CACHE_GIB = {text!r} is no size; give the GiB that the cache may have, as "
            "20, or inf for no limit"
        )
    return gib * GIB


def remembered(key: str, compute: Callable[[], Any]) -> Any:
    """Return what `compute` gives, fit for JSON, or gave earlier under this key."""
    memo = memo_path(key)
    with suppress(OSError, ValueError, ResightError):  # there is none, or no home is known
        return json.loads(read_text(memo))
    result = compute()
    remember(memo, json.dumps(result))
    return result


def memo_path(key: str) -> Path:
    """Return where the cache keeps a text under this key.

    Raises:
        UsageError: the cache is in no known home folder.
    """
    return cache_folder() / "digests" / hashlib.sha256(key.encode()).hexdigest()[:32]


def remember(memo: Path, text: str) -> None:
    """Write a text that saves time later; nothing happens if the cache cannot be written."""
    with suppress(OSError, ResightError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_text(memo, text)


def list_entries() -> list[CacheEntry]:
    """Return every data set in the cache, the last used first."""
    folder = cache_folder()
    entries: list[CacheEntry] = []
    for place, kind in _PLACES.items():
        for path in _files_in(folder / place):
            if _ENTRY.fullmatch(path.name):
                entries += _entry(path, kind, None)
    names = {archive.file: name for name, archive in ARCHIVES.items()}
    names |= {file.file: name for name, files in PARQUET_FILES.items() for file in files}
    for file, name in names.items():
        entries += _entry(folder / "downloads" / file, "download", name)
        entries += _entry(folder / "downloads" / f"{file}.part", "part", name)
    return sorted(entries, key=lambda entry: entry.used, reverse=True)


def _files_in(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # there is none, or it cannot be read
        return ()


def _entry(path: Path, kind: Kind, name: str | None) -> list[CacheEntry]:
    """Return the entry of a file; none where there is no such file."""
    with suppress(OSError):  # another process has just removed it
        stat = path.lstat()
        if path.is_file():
            name = name or _name_of(path)
            return [CacheEntry(name, kind, path, stat.st_size, stat.st_mtime)]
    return []


def _name_of(path: Path) -> str:
    """Return the name that an entry was written under."""
    try:
        return str(json.loads(read_header(path)["__metadata__"]["resight"])["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unknown"  # it is damaged, or from an earlier version


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: the place of each tensor, and the metadata."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    return header


def keep_to_limit(newest: Path) -> None:
    """Remove the entries that were used longest ago until the cache is within its limit.

    Never removed are `newest`, parts of downloads, and downloads that were used within the hour:
    another process may be about to read them. An entry that another process reads at the moment
    stays readable for it, or is made again. Any number of processes may do this at once.
    """
    limit, now = cache_limit(), time.time()
    entries = list_entries()
    total = sum(entry.size for entry in entries)
    for entry in reversed(entries):
        if total <= limit:
            return
        is_busy = entry.kind == "part" or (
            entry.kind == "download" and now - entry.used < _BUSY_SECS
        )
        if entry.path != newest and not is_busy:
            with suppress(OSError):  # another process was quicker, or reads it (on Windows)
                entry.path.unlink()
            total -= entry.size


def clear_cache(name: str | None = None) -> tuple[list[CacheEntry], bool]:
    """Remove one data set from the cache, or everything that resight keeps there.

    Returns the entries that were removed, and whether downloads were left alone because one is in
    progress.

    Raises:
        UsageError: no entry has this name.
    """
    entries = list_entries()
    if name is not None:
        names = {entry.name for entry in entries}
        name = name if name in names else source_name(name)
        if name not in names:
            known = ", ".join(sorted(names)) or "nothing"
            hint = suggest(name, names)
            raise UsageError(f"the cache holds no data set {name!r}{hint} (it holds {known})")
        entries = [entry for entry in entries if entry.name == name]
    folder = cache_folder()
    made = [entry for entry in entries if entry.kind in _PLACES.values()]
    removed = [entry for entry in made if _remove(entry.path)]
    if name is None:
        for memo in (*_files_in(folder / "digests"), *_files_in(folder / "hub")):
            if re.fullmatch(r"[0-9a-f]{32}", memo.name):
                _remove(memo)
    downloads = [entry for entry in entries if entry not in made]
    if not downloads:
        return removed, False
    try:
        with FileLock(folder / "downloads" / ".lock", timeout=0):
            return removed + [entry for entry in downloads if _remove(entry.path)], False
    except Timeout:
        return removed, True


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:  # another process was quicker
        return False
    except OSError as error:
        raise ResightError(f"cannot remove {path}: {error.strerror or error}") from error
    return True
