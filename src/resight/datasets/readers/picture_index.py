"""Which picture a table means: by its path, its name, or its name without the suffix."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable

from .arrangement import is_annotation, named_split
from .contents import SplitName


class PictureIndex:
    """Finds a picture by what a table calls it: its path, its name, or its name without suffix."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, list[str]] = defaultdict(list)
        self._alike: dict[str, list[str]] = defaultdict(list)  # by names that spreadsheets change
        for name in names:
            base = name.rpartition("/")[2]
            for key in {base, os.path.splitext(base)[0]}:
                self._names[key].append(name)
            for key in {_plain(base), _plain(os.path.splitext(base)[0])}:
                self._alike[key].append(name)

    def has(self, cell: str) -> bool:
        """Return whether a cell names a picture."""
        return bool(self.find(cell))

    def find(self, cell: str) -> list[str]:
        """Return the pictures that a cell may name."""
        path = os.path.normpath(cell.replace("\\", "/")) if cell else ""
        base = path.rpartition("/")[2]
        candidates = self._names.get(base) or self._alike.get(_plain(base), [])
        if "/" not in path or not candidates:
            return candidates
        whole = [name for name in candidates if f"/{name}".endswith(f"/{path}")]
        bare = [name for name in candidates if f"/{os.path.splitext(name)[0]}".endswith(f"/{path}")]
        if whole or bare:
            return whole or bare
        # A path of another machine, such as /kaggle/input/x/train/1.png.
        hits = [name for name in candidates if path.endswith(f"/{name}")]
        return hits or (candidates if path.startswith("/") else [])

    def find_one(self, cell: str, split: SplitName | None, folder: str) -> str | None:
        """Return the picture of a row, nearest to the table; None if there is none or several."""
        hits = self.find(cell)
        if len(hits) > 1:
            hits = [n for n in hits if not any(map(is_annotation, n.split("/")[:-1]))] or hits
        if len(hits) > 1 and split:
            hits = [n for n in hits if split in map(named_split, n.split("/")[:-1])] or hits
        if len(hits) > 1 and folder:
            hits = [name for name in hits if name.startswith(f"{folder}/")] or hits
        return hits[0] if len(hits) == 1 else None


def _plain(name: str) -> str:
    """Return a name without case, and "7" for "0007" and "7.0", as spreadsheets write numbers."""
    name = name.casefold()
    number = re.fullmatch(r"0*([0-9]+)(\.0)?", name)
    return number[1] if number else name
