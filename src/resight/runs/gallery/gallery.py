"""The gallery of a run folder as a value: which file has which picture and heat map."""

import itertools
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import ResightError, UsageError
from ...files import check_file, read_text
from ...records import ImageArray

FORMAT = 3
MAX_ATLAS_BYTES = 2**26


@dataclass(frozen=True)
class Sheet:
    """Tiles of one size in one file, row by row."""

    file: str
    columns: int
    size: tuple[int, int]  # px of a tile: height, width


@dataclass(frozen=True)
class Neighbors:
    """Training images of the page, and which of them are nearest to which mistakes.

    The tiles are those of `train_rows`, ascending. A mistake has k places for either class; 0
    means none, and n the n-th of the tiles.
    """

    sheet: Sheet
    train_rows: tuple[int, ...]  # in the training split
    ids: tuple[str, ...]  # of these
    rows: tuple[int, ...]  # the mistakes, ascending
    pred: tuple[tuple[int, ...], ...]  # of each, nearest of the predicted class
    true: tuple[tuple[int, ...], ...]  # nearest of the true class
    percents: tuple[tuple[int, ...], ...]  # of each, 100 x cosine, of `pred` and then of `true`


@dataclass(frozen=True)
class Gallery:
    """What `gallery.json` says. Rows are those of the test set, ascending.

    The tiles of a layer are the maps for the predicted class of every row in `map_rows`, then
    those for the true class of `true_rows`, the wrong ones: for the right ones they are the same.
    """

    images: int  # in the test set
    method: str
    pictures: tuple[tuple[Sheet, tuple[int, ...]], ...]  # with the rows whose pictures they are
    map_rows: tuple[int, ...]
    true_rows: tuple[int, ...]  # of `map_rows`
    maps: tuple[tuple[Sheet, str, tuple[int, int]], ...]  # with the layer and its maps' own size
    notes: tuple[str, ...]  # what was left out, one line each
    seen_px: int | None = None  # a side, as the network saw the pictures, where some are larger
    neighbors: Neighbors | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all atlases."""
        sheets = [*(sheet for sheet, _ in self.pictures), *(sheet for sheet, *_ in self.maps)]
        sheets += [self.neighbors.sheet] if self.neighbors else []
        return tuple(sheet.file for sheet in sheets)


def read_gallery(folder: Path) -> Gallery | None:
    """Return the gallery of a run folder, or None if it has none.

    Raises:
        ResightError: it is damaged, or of another version of resight.
    """
    file = folder / "gallery" / "gallery.json"
    if not file.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(read_text(file))
        if content["format"] != FORMAT:
            raise ResightError(f"{file} is of another version of resight")
        gallery = Gallery(
            images=int(content["images"]),
            method=str(content["method"]),
            pictures=tuple((_sheet(sheet), tuple(rows)) for sheet, rows in content["pictures"]),
            map_rows=tuple(content["map_rows"]),
            true_rows=tuple(content["true_rows"]),
            maps=tuple(
                (_sheet(sheet), str(layer), (int(high), int(wide)))
                for sheet, layer, (high, wide) in content["maps"]
            ),
            notes=tuple(content["notes"]),
            seen_px=None if content.get("seen_px") is None else int(content["seen_px"]),
            neighbors=_neighbors(content.get("neighbors")),
        )
        _check_rows(gallery)
    except UsageError:  # its size or kind, which the line has
        raise
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ResightError(f"{file} is damaged: {error}") from error
    missing = [name for name in gallery.files if not _inside(file, name)]
    if missing:
        raise ResightError(f"{file.parent} has no {missing[0]}")
    return gallery


def read_tiles(folder: Path, gallery: Gallery, rows: Iterable[int]) -> dict[int, ImageArray]:
    """Return row -> picture (h, w, 3), as the gallery keeps it; rows without one are left out.

    Raises:
        ResightError: a file of the gallery cannot be read.
    """
    wanted = set(rows)
    tiles: dict[int, ImageArray] = {}
    for sheet, kept in gallery.pictures:
        places = {row: i for i, row in enumerate(kept) if row in wanted}
        if not places:
            continue
        file = folder / "gallery" / sheet.file
        try:
            check_file(file, MAX_ATLAS_BYTES)
            with warnings.catch_warnings():  # it is our own, and may be large
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file, formats=("WEBP",)) as image:
                    atlas = np.asarray(image.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise ResightError(f"{file} cannot be read: {error}") from error
        high, wide = sheet.size
        if len(kept) > (atlas.shape[0] // high) * sheet.columns or atlas.shape[1] < wide:
            raise ResightError(f"{file} is damaged: it is too small for {len(kept)} pictures")
        for row, i in places.items():
            y, x = divmod(i, sheet.columns)
            tiles[row] = atlas[y * high : (y + 1) * high, x * wide : (x + 1) * wide]
    return tiles


def shared_start(ids: Sequence[str]) -> str:
    """Return what all ids begin with; the page has it once."""
    first, last = min(ids, default=""), max(ids, default="")
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(a for a, _ in same)


def _check_rows(gallery: Gallery) -> None:
    """Tiles are found by counting rows, so these must be ascending and belong together."""
    pictured = [row for _, rows in gallery.pictures for row in rows]
    lists = (*(rows for _, rows in gallery.pictures), gallery.map_rows, gallery.true_rows)
    beside = gallery.neighbors.rows if gallery.neighbors else ()
    if not all(0 <= row < gallery.images for row in (*pictured, *gallery.map_rows, *beside)):
        raise ValueError(f"it names rows beyond its {gallery.images} images")
    if len(set(pictured)) < len(pictured) or any(list(x) != sorted(set(x)) for x in lists):
        raise ValueError("its rows are not in the order of the images")
    if not set(gallery.true_rows) <= set(gallery.map_rows):
        raise ValueError("it has maps for the true class alone")


def _neighbors(content: dict[str, Any] | None) -> Neighbors | None:
    if content is None:
        return None
    pred, true, percents = (
        tuple(tuple(map(int, line)) for line in content[name])
        for name in ("pred", "true", "percents")
    )
    neighbors = Neighbors(
        sheet=_sheet(content["sheet"]),
        train_rows=tuple(map(int, content["train_rows"])),
        ids=tuple(map(str, content["ids"])),
        rows=tuple(map(int, content["rows"])),
        pred=pred,
        true=true,
        percents=percents,
    )
    tiles, mistakes = len(neighbors.train_rows), len(neighbors.rows)
    if len(neighbors.ids) != tiles or {len(pred), len(true), len(percents)} != {mistakes}:
        raise ValueError("its neighbors are not of one number")
    widths = {len(line) for line in (*pred, *true)} | {len(line) / 2 for line in percents}
    if len(widths) > 1 or not all(0 <= n <= tiles for line in (*pred, *true) for n in line):
        raise ValueError("it names neighbors that it does not have")
    for rows in (neighbors.train_rows, neighbors.rows):
        if list(rows) != sorted(set(rows)):
            raise ValueError("its neighbors are not in the order of the images")
    return neighbors


def _sheet(content: dict[str, Any]) -> Sheet:
    high, wide = content["size"]
    if min(int(high), int(wide), int(content["columns"])) < 1:
        raise ValueError("it has a sheet without rows or columns")
    return Sheet(str(content["file"]), int(content["columns"]), (int(high), int(wide)))


def _inside(file: Path, name: str) -> bool:
    """Whether `name` is a file beside `file`, and nowhere else."""
    return Path(name).name == name and (file.parent / name).is_file()
