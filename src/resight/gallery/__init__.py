"""Pictures and heat maps of the test set, packed small enough for one page.

    gallery/gallery.json         what is where; names the other files and is written last
    gallery/pictures-*.webp      the test images as tiles of one picture
    gallery/maps-*.png           per layer, heat maps as tiles of 16 grey levels

Mistakes and images with heat maps are kept in better quality than the rest. What does not fit is
made coarser first; then correct images are left out, evenly, and `notes` says so.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ResightError, UsageError
from ..files import replacing, write_text
from ..records import Ints, Predictions
from .atlas import Pictures, map_atlas, picture_atlases, shrunk

FORMAT = 1
PAGE_BYTES = 2_950_000  # of the page that all of this is put into, as base64
_TEXT_BYTES = 230_000  # of that page without pictures, ids and numbers
_ROW_BYTES = 18  # of that text, the numbers of an image
_MAP_SHARE = 0.35  # of the room, at most


@dataclass(frozen=True)
class LayerMaps:
    """Heat maps of M images at one layer, raw and signed."""

    layer: str
    pred: NDArray[np.float32]  # (M, h, w) evidence for the predicted class
    true: NDArray[np.float32]  # (M, h, w) evidence for the true class

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a map."""
        return self.pred.shape[1], self.pred.shape[2]


@dataclass(frozen=True)
class Sheet:
    """Tiles of one size in one file, row by row."""

    file: str
    columns: int
    size: tuple[int, int]  # px of a tile: height, width


@dataclass(frozen=True)
class Gallery:
    """What `gallery.json` says. Rows are those of the test set, ascending.

    The tiles of a layer are the maps for the predicted class of every row in `map_rows`, then
    those for the true class of the rows that are wrong: for the others they are the same.
    """

    images: int  # in the test set
    ids: str  # digest of their ids
    method: str
    pictures: tuple[tuple[Sheet, tuple[int, ...]], ...]  # with the rows whose pictures they are
    map_rows: tuple[int, ...]
    maps: tuple[tuple[Sheet, str], ...]  # with the layer
    notes: tuple[str, ...]  # what was left out, one line each


def write_gallery(
    folder: Path,
    pictures: Pictures,
    predictions: Predictions,
    *,
    rows: Ints,
    maps: Sequence[LayerMaps],
    method: str,
) -> None:
    """Pack pictures and heat maps into `folder/gallery/`, in place of what is there.

    `pictures` (N, H, W, 1 or 3) are the whole test set as it was read; `rows` (M,) those with
    heat maps, the most wanted first. The same input gives the same bytes. A process killed in
    between leaves the old gallery.

    Raises:
        UsageError: shapes that do not belong together, or a heat map that is not finite.
    """
    rows = np.asarray(rows if maps else [], dtype=np.int64)
    _check(pictures, predictions, rows, maps)
    wrong = np.flatnonzero(~predictions.correct)
    room = _room(predictions.ids)
    mapped, layers = _pack_maps(rows, maps, predictions.correct, int(_MAP_SHARE * room))
    first = np.union1d(wrong, mapped)
    rest = np.setdiff1d(np.arange(len(predictions)), first)
    small = shrunk(pictures)
    room -= sum(len(content) for *_, content in layers)
    atlases = picture_atlases(small, first, rest, room)

    path = folder / "gallery"
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make {path}: {error.strerror}") from error
    side = (small.shape[1], small.shape[2])
    gallery = Gallery(
        images=len(predictions),
        ids=digest(predictions.ids),
        method=method,
        pictures=tuple(
            (Sheet(_put(path, "pictures", "webp", content), columns, side), tuple(kept.tolist()))
            for kept, columns, content in atlases
        ),
        map_rows=tuple(mapped.tolist()),
        maps=tuple(
            (Sheet(_put(path, "maps", "png", content), columns, size), layer)
            for layer, size, columns, content in layers
        ),
        notes=tuple(
            f"{what} of {kept:,} of {wanted:,} images are kept, for size"
            for what, kept, wanted in (
                ("heat maps", len(mapped), len(rows)),
                ("pictures", sum(len(kept) for kept, *_ in atlases), len(predictions)),
            )
            if kept < wanted
        ),
    )
    write_text(path / "gallery.json", json.dumps({"format": FORMAT, **asdict(gallery)}) + "\n")
    _remove_old(path, {sheet.file for sheet, _ in (*gallery.pictures, *gallery.maps)})


def read_gallery(folder: Path) -> Gallery | None:
    """The gallery of a run folder, or None if it has none.

    Raises:
        ResightError: it is damaged, or of another version of resight.
    """
    file = folder / "gallery" / "gallery.json"
    if not file.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ResightError(f"{file} is of another version of resight")
        gallery = Gallery(
            images=int(found["images"]),
            ids=str(found["ids"]),
            method=str(found["method"]),
            pictures=tuple((_sheet(sheet), tuple(rows)) for sheet, rows in found["pictures"]),
            map_rows=tuple(found["map_rows"]),
            maps=tuple((_sheet(sheet), str(layer)) for sheet, layer in found["maps"]),
            notes=tuple(found["notes"]),
        )
        rows = [row for _, kept in gallery.pictures for row in kept]
        if not {*rows, *gallery.map_rows} <= set(range(gallery.images)):
            raise ValueError(f"it names rows beyond its {gallery.images} images")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResightError(f"{file} is damaged: {error}") from error
    missing = [s.file for s, _ in (*gallery.pictures, *gallery.maps) if not _inside(file, s.file)]
    if missing:
        raise ResightError(f"{file.parent} has no {missing[0]}")
    return gallery


def digest(ids: Iterable[str]) -> str:
    """Tells whether a gallery belongs to these predictions."""
    text = "\n".join(ids).encode("utf-8", errors="surrogatepass")
    return sha256(text).hexdigest()[:16]


def shared_start(ids: Sequence[str]) -> str:
    """What all ids begin with; the page has it once."""
    first, last = min(ids, default=""), max(ids, default="")
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(a for a, _ in same)


def _sheet(found: dict[str, Any]) -> Sheet:
    high, wide = found["size"]
    return Sheet(str(found["file"]), int(found["columns"]), (int(high), int(wide)))


def _inside(file: Path, name: str) -> bool:
    """Whether `name` is a file beside `file`, and nowhere else."""
    return Path(name).name == name and (file.parent / name).is_file()


def _put(folder: Path, stem: str, kind: str, content: bytes) -> str:
    """Write a file that is named after its content; returns the name."""
    name = f"{stem}-{sha256(content).hexdigest()[:12]}.{kind}"
    with replacing(folder / name) as temporary:
        temporary.write_bytes(content)
    return name


def _check(
    pictures: Pictures, predictions: Predictions, rows: Ints, maps: Sequence[LayerMaps]
) -> None:
    n = len(predictions)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] not in (1, 3):
        raise UsageError(
            f"pictures are {pictures.dtype} {pictures.shape}; a gallery takes uint8 "
            "(N, H, W, 1 or 3)"
        )
    if len(pictures) != n or n == 0:
        raise UsageError(f"{len(pictures)} pictures but {n} predictions; give one for each")
    if rows.ndim != 1 or ((rows < 0) | (rows >= n)).any() or len(np.unique(rows)) < len(rows):
        raise UsageError(f"the rows with heat maps must be different ones of 0 to {n - 1}")
    for m in maps:
        if m.pred.shape != m.true.shape or m.pred.ndim != 3 or len(m.pred) != len(rows):
            raise UsageError(
                f"the heat maps at {m.layer} are {m.pred.shape} for the predicted and "
                f"{m.true.shape} for the true class; both must be ({len(rows)}, h, w)"
            )
        if not (np.isfinite(m.pred).all() and np.isfinite(m.true).all()):
            raise UsageError(f"a heat map at {m.layer} is not finite")


def _room(ids: Sequence[str]) -> int:
    """Bytes for pictures and maps: base64 makes 4 of 3."""
    shared = len(shared_start(ids))
    text = _TEXT_BYTES + len(json.dumps([id[shared:] for id in ids])) + _ROW_BYTES * len(ids)
    return max(3 * (PAGE_BYTES - text) // 4, 300_000)


def _pack_maps(
    rows: Ints, maps: Sequence[LayerMaps], correct: NDArray[np.bool_], room: int
) -> tuple[Ints, list[tuple[str, tuple[int, int], int, bytes]]]:
    """As many of `rows`, the first of them, as fit into `room` bytes, and what they need.

    That is, for each layer: its name, the size of a map, columns and PNG. The rows returned, and
    the maps, are in the order of the test set.
    """
    count = len(rows)
    while count:
        kept = np.argsort(rows[:count])
        right = correct[rows[kept]]
        packed = [(m.layer, m.size, *map_atlas(m.pred[kept], m.true[kept], right)) for m in maps]
        size = sum(len(content) for *_, content in packed)
        if size <= room:
            return rows[kept], packed
        count = min(count - 1, int(count * room / size))
    return np.zeros(0, dtype=np.int64), []


def _remove_old(folder: Path, named: set[str]) -> None:
    """Remove the atlases that `gallery.json` no longer names."""
    for file in [*folder.glob("pictures-*.webp"), *folder.glob("maps-*.png")]:
        if file.name not in named:
            file.unlink(missing_ok=True)
