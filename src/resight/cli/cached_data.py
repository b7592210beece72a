"""What `resight data --cache` and `--clear-cache` print."""

import math
import time

from ..datasets.cache_entries import (
    GIB,
    CacheEntry,
    cache_folder,
    cache_limit,
    clear_cache,
    list_entries,
)
from ..text import table
from .options import CommandResult

_KINDS = {
    "images": "decoded images",
    "features": "features of images",
    "download": "download",
    "part": "part of a download",
}


def list_cache() -> CommandResult:
    """Return the entries of the cache with their sizes and last use, their sum and the limit."""
    entries, limit = list_entries(), cache_limit()
    rows = table(
        [(e.name, _KINDS[e.kind], _megabytes(e.size), _when(e.used)) for e in entries],
        *("data", "what", "size", "last used"),
        right=("size",),
    )
    total = sum(entry.size for entry in entries)
    at_most = f"of at most {limit / GIB:g} GiB" if limit < math.inf else "without a limit"
    last = f"{_megabytes(total)} {at_most} in {cache_folder()}"
    content = {
        "folder": str(cache_folder()),
        "bytes": total,
        "limit_bytes": limit,  # null where there is none
        "entries": [_plain(entry) for entry in entries],
    }
    return CommandResult(content, f"{rows}\n{last}" if entries else f"the cache is empty\n{last}")


def clear(name: str | None) -> CommandResult:
    """Remove a data set, or everything, from the cache; return what was removed."""
    removed, is_busy = clear_cache(name)
    lines = [f"removed {_megabytes(e.size)}  {e.name}, {_KINDS[e.kind]}" for e in removed]
    lines = lines or [f"there was nothing to remove in {cache_folder()}"]
    if is_busy:
        lines.append("a download is in progress, so downloads were left; try again later")
    content = {"removed": [_plain(entry) for entry in removed], "download_in_progress": is_busy}
    return CommandResult(content, "\n".join(lines))


def _plain(entry: CacheEntry) -> dict[str, str | int | float]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "path": str(entry.path),
        "bytes": entry.size,
        "used": entry.used,
    }


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _when(secs: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(secs))
