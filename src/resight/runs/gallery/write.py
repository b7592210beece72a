"""Pictures and heat maps of the test set, packed small enough for one page.

    gallery/gallery.json         what is where; names the other files and is written last
    gallery/pictures-*.webp      the test images as tiles of one picture
    gallery/maps-*.png           per layer, heat maps as tiles of 16 gray levels
    gallery/train-*.webp         the training images that are nearest to mistakes

Pictures are kept with at most 64 px a side, heat maps with at most 32 cells. Mistakes come in
better quality than correct images. What does not fit is made coarser first. Then images are left
out, correct ones before mistakes and those without heat maps before those with; `notes` says so.
Neighbors are packed for the most wanted mistakes first.
Photos that the network saw smaller than they are come first, with up to 224 px, see `photos`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ResightError, UsageError
from ...files import atomic_write, remove_leftovers, write_text
from ...metrics.classification import MAX_CLASSES
from ...records import ImageArray, IntArray, Predictions
from .atlas import MAP_SIDES, Atlas, area_resize, map_atlas, max_tiles, picture_atlases, shrunk
from .gallery import FORMAT, Gallery, Neighbors, Sheet, shared_start
from .neighbors import GalleryNeighbors, PackedNeighbors, pack_neighbors
from .photos import ReadPhotos, photo_atlases

PAGE_BYTES = 2_950_000  # of the page that all of this is put into, as base64
_TEXT_BYTES = 230_000  # of that page without pictures, images' numbers and classes
_ROW_BYTES = 18  # the numbers of an image
_CLASS_BYTES = 1_350  # a class in a figure and a table, which have MAX_CLASSES at most
_WRONG_BYTES = 24  # a mistake, in the lists of a cause, of a group and of label issues
_PAIR_BYTES = 13  # a cell of the confusion matrix that is not 0
_MAP_SHARE = 0.3  # of the room, at most
_NEIGHBOR_SHARE = 0.28  # of the room, at most
_GONE = (
    "{:,} pictures are shown as the network saw them, because their files are gone or have changed"
)


@dataclass(frozen=True)
class GalleryMaps:
    """Heat maps of M images at one layer, raw and signed."""

    layer: str
    pred: NDArray[np.float32]  # (M, h, w) evidence for the predicted class
    true: NDArray[np.float32]  # (M, h, w) evidence for the true class
    whole: tuple[int, int] | None = None  # h, w of the layer's own maps, where these are means

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a map."""
        return self.pred.shape[1], self.pred.shape[2]


def write_gallery(
    folder: Path,
    pictures: ImageArray,
    predictions: Predictions,
    *,
    rows: IntArray,
    maps: Sequence[GalleryMaps],
    method: str,
    photos: ReadPhotos | None = None,
    neighbors: GalleryNeighbors | None = None,
) -> None:
    """Pack pictures and heat maps into `folder/gallery/`, in place of what is there.

    `pictures` (N, H, W, 1 or 3) are the whole test set; `rows` (M,) those with heat maps, the most
    wanted first; `photos` gives larger pictures where there are some, and `neighbors` the training
    images beside mistakes. A killed process leaves the old gallery.

    Raises:
        UsageError: shapes that do not belong together, or a heat map that is not finite.
    """
    rows = np.asarray(rows if maps else [], dtype=np.int64)
    _check(pictures, predictions, rows, maps)
    room, correct = _room(predictions), predictions.correct
    mapped, layers = _pack_maps(rows, maps, correct, int(_MAP_SHARE * room))
    beside = pack_neighbors(neighbors, int(_NEIGHBOR_SHARE * room)) if neighbors else None
    room -= sum(len(atlas.content) for _, atlas in layers) + (beside.size if beside else 0)
    groups, wanted = _groups(correct, mapped), _most_wanted(predictions, rows)
    large, gone = photo_atlases(photos, wanted, groups, seen_px=pictures.shape[1], room=room)
    atlases = large or picture_atlases(shrunk(pictures), groups[0], groups[1:], room)
    path = _make_folder(folder / "gallery")
    gallery = Gallery(
        images=len(predictions),
        method=method,
        pictures=tuple(
            (_write_atlas(path, "pictures", x), tuple(on.tolist())) for on, x in atlases
        ),
        map_rows=tuple(mapped.tolist()),
        true_rows=tuple(mapped[~correct[mapped]].tolist()),
        maps=tuple((_write_atlas(path, "maps", x), m.layer, m.whole or m.size) for m, x in layers),
        notes=(
            *_note("heat maps", len(mapped), len(rows)),
            *_note("pictures", sum(len(kept) for kept, _ in atlases), len(predictions)),
            *([_GONE.format(gone)] if gone else []),
            *_beside_note(neighbors, beside),
        ),
        seen_px=pictures.shape[1] if large else None,
        neighbors=_write_neighbors(path, neighbors, beside),
    )
    write_text(path / "gallery.json", json.dumps({"format": FORMAT, **asdict(gallery)}) + "\n")
    _remove_old(path, set(gallery.files))


def _write_neighbors(
    path: Path, neighbors: GalleryNeighbors | None, packed: PackedNeighbors | None
) -> Neighbors | None:
    """Write the training pictures, and return which are beside which mistakes."""
    if neighbors is None or packed is None:
        return None
    order = packed.kept[np.argsort(neighbors.rows[packed.kept])]
    nearest = neighbors.nearest[order]
    percents = np.rint(100 * neighbors.cosines[order]).astype(int)  # (M, 2, k)
    places = np.where(nearest < 0, 0, 1 + np.searchsorted(packed.train_rows, nearest))  # (M, 2, k)
    pred, true = (tuple(map(tuple, places[:, side].tolist())) for side in (0, 1))
    return Neighbors(
        sheet=_write_atlas(path, "train", packed.atlas),
        train_rows=tuple(packed.train_rows.tolist()),
        ids=tuple(neighbors.ids[row] for row in packed.train_rows),
        rows=tuple(neighbors.rows[order].tolist()),
        pred=pred,
        true=true,
        percents=tuple((*of_pred, *of_true) for of_pred, of_true in percents.tolist()),
    )


def _beside_note(
    neighbors: GalleryNeighbors | None, packed: PackedNeighbors | None
) -> tuple[str, ...]:
    kept, total = (len(packed.kept) if packed else 0), (len(neighbors.rows) if neighbors else 0)
    line = f"the training images beside {kept:,} of {total:,} mistakes are kept, for size"
    return (line,) if kept < total else ()


def _groups(correct: NDArray[np.bool_], mapped: IntArray) -> tuple[IntArray, ...]:
    """Rows in the order in which pictures are kept: wrong, right with a map, right without."""
    wrong, right = np.flatnonzero(~correct), np.flatnonzero(correct)
    return wrong, np.intersect1d(right, mapped), np.setdiff1d(right, mapped)


def _most_wanted(predictions: Predictions, rows: IntArray) -> IntArray:
    """All rows: mistakes before right ones, those in `rows` before the rest, by falling loss."""
    rest = np.setdiff1d(np.arange(len(predictions)), rows)
    rest = rest[np.argsort(-predictions.losses[rest], kind="stable")]
    order = np.concatenate([rows, rest])
    return order[np.argsort(predictions.correct[order], kind="stable")]


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make {path}: {error.strerror}") from error
    remove_leftovers(path)
    return path


def _note(name: str, kept: int, total: int) -> tuple[str, ...]:
    """A line that says how many are kept, where some are left out."""
    line = f"{name} of {kept:,} of {total:,} images are kept, for size"
    return (line,) if kept < total else ()


def _write_atlas(folder: Path, stem: str, atlas: Atlas) -> Sheet:
    """Write a file that is named after its content."""
    name = f"{stem}-{sha256(atlas.content).hexdigest()[:12]}.{atlas.suffix}"
    with atomic_write(folder / name) as temporary:
        temporary.write_bytes(atlas.content)
    high, wide = atlas.size
    return Sheet(name, atlas.columns, (high, wide))


def _check(
    pictures: ImageArray, predictions: Predictions, rows: IntArray, maps: Sequence[GalleryMaps]
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


def _room(predictions: Predictions) -> int:
    """Bytes for pictures and maps: base64 makes 4 of 3. No fewer than 300,000, full or not."""
    ids, k = predictions.ids, len(predictions.classes)
    shared = len(shared_start(ids))
    pairs = min(k * k, k + int((~predictions.correct).sum()))  # at most
    text = _TEXT_BYTES + len(json.dumps([id[shared:] for id in ids])) + _ROW_BYTES * len(ids)
    text += _CLASS_BYTES * min(k, MAX_CLASSES) + len(json.dumps(predictions.classes))
    text += _PAIR_BYTES * pairs + _WRONG_BYTES * int((~predictions.correct).sum())
    return max(3 * (PAGE_BYTES - text) // 4, 300_000)


def _pack_maps(
    rows: IntArray, maps: Sequence[GalleryMaps], correct: NDArray[np.bool_], room: int
) -> tuple[IntArray, list[tuple[GalleryMaps, Atlas]]]:
    """Return as many of the first `rows` as fit into `room` bytes, and an atlas for each layer.

    The rows returned are in the order of the test set. Maps are made coarser before any is left
    out.
    """
    side, *coarser = MAP_SIDES
    small = [_kept(m, side) for m in maps]
    count = min(len(rows), *(max_tiles(m.size) // 2 for m in small)) if maps else 0
    while count:
        kept = np.argsort(rows[:count])
        right = correct[rows[kept]]
        atlases = [map_atlas(m.pred[kept], m.true[kept], right) for m in small]
        size = sum(len(atlas.content) for atlas in atlases)
        if size <= room:
            return rows[kept], list(zip(maps, atlases, strict=True))
        if coarser:
            small = [_kept(m, coarser[0]) for m in maps]
            coarser = coarser[1:]
        else:
            count = min(count - 1, int(count * room / size))
    return np.zeros(0, dtype=np.int64), []


def _kept(maps: GalleryMaps, side: int) -> GalleryMaps:
    """Positive evidence alone, as sheets have it too, and at most `side` cells a side."""
    pred, true = (area_resize(np.maximum(m, 0), side) for m in (maps.pred, maps.true))
    return GalleryMaps(maps.layer, pred, true)


def _remove_old(folder: Path, named: set[str]) -> None:
    """Remove the atlases that `gallery.json` no longer names."""
    for pattern in ("pictures-*.webp", "maps-*.png", "train-*.webp"):
        for file in folder.glob(pattern):
            if file.name not in named:
                file.unlink(missing_ok=True)
