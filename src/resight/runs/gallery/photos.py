"""Photos in the gallery: as many as fit with up to 224 px, and what is left with up to 64 px."""

from collections.abc import Callable, Sequence

import numpy as np

from ...records import ImageArray, IntArray, evenly_spaced
from .atlas import SIDE, Atlas, max_tiles, picture_atlases, shrunk, side_by_side, webp

# Gives the pictures (R, P, P, 1 or 3) of rows (R,) with at most so many px a side, and how many of
# them have no more pixels than the network saw, because their files are gone or have changed.
ReadPhotos = Callable[[IntArray, int], tuple[ImageArray, int]]

LARGE_SIDE = 224  # px
# WebP quality -> bytes a pixel, as measured on photos of 224 px. The first with which all photos
# should fit is taken. If none is, only the most wanted photos are large, in the lowest.
_BYTES_PER_PX = {82: 0.18, 75: 0.14, 60: 0.115}
_LARGE_SHARE = 0.3  # of the room, at least, for large photos
_SMALL_BYTES = 600  # of a small photo, where there is room for all of them
_LEAST_BYTES = 300  # of a small photo, in the lowest quality


def photo_atlases(
    photos: ReadPhotos | None,
    wanted: IntArray,
    groups: Sequence[IntArray],
    *,
    seen_px: int,
    room: int,
) -> tuple[list[tuple[IntArray, Atlas]], int]:
    """Return the rows and the WebP of the large photos, then of each group of rows those left.

    wanted: all rows, the most wanted first; groups: the same rows, ascending, as `picture_atlases`
    takes them. The list is empty if no photo has more than the `seen_px` that the network saw. The
    number says how many photos are gone.
    """
    if photos is None:
        return [], 0
    px, large, missing = LARGE_SIDE, np.zeros((0, LARGE_SIDE, LARGE_SIDE, 3), np.uint8), 0
    for _ in range(2):  # again if no photo has 224 px, since more of them fit then
        large, missing = photos(wanted[: _plans(len(wanted), px, room)[0][0]], px)
        px = min(px, large.shape[1])
    packed = _large_atlas(large, wanted, room) if px > seen_px else None
    if packed is None:
        return [], missing if missing == len(large) else 0
    room -= len(packed[1].content)
    left = _at_most([np.setdiff1d(rows, packed[0]) for rows in groups], room // _LEAST_BYTES)
    rows = np.concatenate(left)
    if not len(rows):
        return [packed], missing
    small = shrunk(photos(rows, SIDE)[0])
    first, *others = np.split(np.arange(len(rows)), np.cumsum([len(part) for part in left[:-1]]))
    atlases = picture_atlases(small, first, others, room)
    return [packed, *((rows[kept], atlas) for kept, atlas in atlases)], missing


def _plans(total: int, px: int, room: int) -> list[tuple[int, int, int]]:
    """How many photos are large, in which quality, and in how many bytes: the best plan first."""
    each = {quality: share * px**2 for quality, share in _BYTES_PER_PX.items()}
    plans = [(total, quality, room) for quality, size in each.items() if total * size <= room]
    lowest, limit = min(each), max(int(_LARGE_SHARE * room), room - _SMALL_BYTES * total)
    return [*plans, (min(total, max(1, int(limit / each[lowest]))), lowest, limit)]


def _large_atlas(large: ImageArray, wanted: IntArray, room: int) -> tuple[IntArray, Atlas] | None:
    """Pack as many of the wanted rows, whose photos are `large`, as fit by the first good plan."""
    size = large.shape[1:3]
    large = np.broadcast_to(large, (*large.shape[:3], 3))
    *whole, partly = _plans(len(wanted), size[0], room)
    for count, quality, limit in (*whole, partly):
        count = min(count, len(large), max_tiles(size))
        while count:
            order = np.argsort(wanted[:count])
            columns, atlas = side_by_side(large[order])
            content = webp(atlas, quality)
            if len(content) <= limit:
                return wanted[order], Atlas("webp", content, columns, size)
            shorter = min(count - 1, count * limit // len(content))
            count = shorter if (quality, limit) == partly[1:] else 0
    return None


def _at_most(groups: Sequence[IntArray], count: int) -> list[IntArray]:
    """At most so many rows, those of the first group first, evenly from each."""
    kept: list[IntArray] = []
    for rows in groups:
        kept.append(rows[evenly_spaced(len(rows), count)])
        count -= len(kept[-1])
    return kept
