"""Many small tiles as one picture, within so many bytes."""

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...records import Float32Array, ImageArray, IntArray

SIDE = 64  # px, the longest side of a picture that is kept
MAP_SIDES = (32, 24, 16, 12)  # cells, the longest side of a map that is kept; the first that fits
LEVELS = 16  # of a heat map: 0 is none, 15 the strongest in this image at this layer
_MAX_PX = 16_383  # a side of a WebP, and about what a browser draws
_FIRST_SHARE = 0.3  # of the room, for the pictures that matter most, at least
_QUALITIES = (100, 90, 82, 75, 68, 60, 50, 40, 30, 24, 20, 16, 12)  # of WebP; 100: lossless
_SAMPLE = 400  # pictures that a quality is judged by

Maps = Float32Array


def map_atlas(pred: Maps, true: Maps, correct: NDArray[np.bool_]) -> tuple[int, bytes]:
    """Columns and PNG of heat maps (M, h, w) >= 0, quantized on one scale for both classes.

    The tiles are all of `pred`, then those of `true` that are not `correct` (M,).
    """
    top = np.maximum(pred, true).max(axis=(1, 2), keepdims=True, initial=0)  # (M, 1, 1)
    scale = (LEVELS - 1) / np.where(top > 0, top, 1)  # no evidence at all stays 0
    tiles = np.concatenate([pred * scale, (true * scale)[~correct]])
    columns, atlas = side_by_side(np.rint(tiles).astype(np.uint8))
    image = Image.fromarray(atlas).convert("P")
    image.putpalette(np.repeat(np.arange(LEVELS) * 17, 3).astype(np.uint8).tobytes())
    return columns, _encoded(image, "PNG", bits=4, optimize=True)


def shrunk(pictures: ImageArray) -> ImageArray:
    """(N, H, W, 1 or 3) -> (N, h, w, 3) with sides of at most SIDE px."""
    high, wide = pictures.shape[1:3]
    factor = min(1, SIDE / max(high, wide))
    if factor < 1:
        size = (max(1, round(wide * factor)), max(1, round(high * factor)))
        flat = pictures[..., 0] if pictures.shape[3] == 1 else pictures
        small = [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in flat]
        pictures = np.stack(small).reshape(len(pictures), size[1], size[0], -1)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))


def picture_atlases(
    pictures: ImageArray, first: IntArray, rest: IntArray, room: int
) -> list[tuple[IntArray, int, bytes]]:
    """Rows, columns and WebP of the `first` rows, then of the `rest`; in all at most `room` bytes.

    Both are made coarser until they fit, the first less so. Where the coarsest does not fit, rows
    are left out evenly, of the rest before any of the first; likewise where one atlas is too small
    for them all.
    """
    most = max_tiles((pictures.shape[1], pictures.shape[2]))
    share = max(_FIRST_SHARE, 1.2 * len(first) / len(pictures)) if len(rest) else 1.0
    atlases = []
    for wanted, allowed in ((first, share * room), (rest, float(room))):
        rows = _evenly(wanted, most)
        while len(rows):
            allowed = min(allowed, room)
            quality = _quality_for(pictures[rows], allowed)
            columns, atlas = side_by_side(pictures[rows])
            content = _webp(atlas, quality)
            coarsest = quality == _QUALITIES[-1]
            if len(content) <= (room if coarsest else allowed):
                atlases.append((rows, columns, content))
                room -= len(content)
                break
            if coarsest:
                count = min(len(rows) - 1, int(len(rows) * room / len(content)))
                rows = _evenly(rows, count)
            else:
                allowed *= 0.97  # the sample was easier than the whole
    return atlases


def _evenly(rows: IntArray, count: int) -> IntArray:
    """At most `count` of the rows."""
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)] if count < len(rows) else rows


def _quality_for(pictures: ImageArray, room: float) -> int:
    """The best quality at which the pictures should fit, judged by a sample of them."""
    sample = pictures[:: math.ceil(len(pictures) / _SAMPLE)]
    _, atlas = side_by_side(sample)
    limit = room * len(sample) / len(pictures)
    return next((q for q in _QUALITIES if len(_webp(atlas, q)) <= limit), _QUALITIES[-1])


def max_tiles(size: tuple[int, int]) -> int:
    """How many tiles of height and width fit into one picture."""
    return (_MAX_PX // size[0]) * (_MAX_PX // size[1])


def side_by_side(tiles: ImageArray) -> tuple[int, ImageArray]:
    """(M, h, w, ...) as one picture that is about square, and how many lie in a row of it."""
    high, wide = tiles.shape[1:3]
    columns = max(1, math.ceil(math.sqrt(len(tiles) * high / wide)))
    columns = max(columns, math.ceil(len(tiles) / (_MAX_PX // high)))
    columns = min(columns, _MAX_PX // wide)
    lines = max(1, math.ceil(len(tiles) / columns))
    atlas = np.zeros((lines * columns, *tiles.shape[1:]), dtype=np.uint8)
    atlas[: len(tiles)] = tiles
    atlas = atlas.reshape(lines, columns, *tiles.shape[1:]).swapaxes(1, 2)
    return columns, atlas.reshape(lines * high, columns * wide, *tiles.shape[3:])


def _webp(atlas: ImageArray, quality: int) -> bytes:
    lossless = quality == _QUALITIES[0]
    return _encoded(Image.fromarray(atlas), "WEBP", quality=quality, lossless=lossless, method=4)


def _encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **how)
    return written.getvalue()
