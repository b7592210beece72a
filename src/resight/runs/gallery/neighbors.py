"""Training images beside mistakes: as many mistakes as fit, with the pictures of their neighbors.

A training image that is near to several mistakes is packed once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...records import Float32Array, ImageArray, IntArray
from .atlas import BYTES_PER_PX, Atlas, max_tiles, shrunk, side_by_side, webp

STRIP_IMAGES = 8  # of a cause or a group, shown in its strip
MAX_TILES = 2**16 - 1  # the page numbers them in 16 bits
_QUALITIES = (100, 82, 60, 40, 30)  # WebP: the first in which all should fit, or the last
# Of the page, in bytes of a picture, of which base64 makes 4 of 3.
_MISTAKE_BYTES = 22  # a mistake: its number, those of six neighbors, and their cosines
_ID_BYTES = 10  # the id of a training image, at least


@dataclass(frozen=True)
class GalleryNeighbors:
    """The training images nearest to mistakes, and others that the page shows."""

    rows: IntArray  # (M,) of the mistakes, the most wanted first
    nearest: IntArray  # (M, 2, k) training rows of the predicted and the true class; -1 is none
    cosines: Float32Array  # (M, 2, k)
    others: IntArray  # training rows that are shown besides, before any mistake's
    ids: Sequence[str]  # of all training images
    read: Callable[[IntArray], ImageArray]  # rows (R,) -> their pictures (R, H, W, 1 or 3)


@dataclass(frozen=True)
class PackedNeighbors:
    """What fits: the training rows with pictures, and the mistakes all of whose neighbors have."""

    atlas: Atlas
    train_rows: IntArray  # ascending
    kept: IntArray  # places of the mistakes in `GalleryNeighbors.rows`
    size: int  # bytes, as those of a picture, of pictures and numbers


def pack_neighbors(neighbors: GalleryNeighbors, room: int) -> PackedNeighbors | None:
    """Return an atlas of at most `room` bytes, of the neighbors of as many mistakes as fit."""
    wanted = _by_first_place(np.concatenate([neighbors.others, neighbors.nearest.ravel()]))
    if not len(wanted):
        return None
    size = shrunk(neighbors.read(wanted[:1])).shape[1:3]
    ids = len(json.dumps([neighbors.ids[row] for row in wanted])) // len(wanted)
    numbers = min(ids, _ID_BYTES) * len(wanted) + _MISTAKE_BYTES * len(neighbors.rows)
    left = room - min(numbers, room // 4)
    each = {quality: size[0] * size[1] * BYTES_PER_PX[quality] for quality in _QUALITIES}
    fits = [quality for quality in _QUALITIES if len(wanted) * each[quality] <= left]
    quality = fits[0] if fits else _QUALITIES[-1]
    count = min(len(wanted), max_tiles(size), MAX_TILES, int(2 * left / each[quality]))
    pictures = shrunk(neighbors.read(wanted[:count]))
    while count:
        order = np.argsort(wanted[:count])
        columns, picture = side_by_side(pictures[order])
        content = webp(picture, quality)
        if len(content) <= left:
            rows = wanted[order]
            shown = np.isin(neighbors.nearest, rows) | (neighbors.nearest < 0)  # (M, 2, k)
            return PackedNeighbors(
                Atlas("webp", content, columns, size),
                train_rows=rows,
                kept=np.flatnonzero(shown.all(axis=(1, 2))),
                size=len(content) + room - left,
            )
        count = min(count - 1, count * left // len(content))
    return None


def _by_first_place(rows: IntArray) -> IntArray:
    """Each row once, in the order of first places; without -1, which stands for none."""
    values, first = np.unique(rows, return_index=True)
    ordered = values[np.argsort(first, kind="stable")]
    return np.asarray(ordered[ordered >= 0], dtype=np.int64)
