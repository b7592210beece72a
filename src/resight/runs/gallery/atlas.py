"""Pictures and heat maps made small, and laid side by side in one picture file: an atlas."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...records import Float32Array, ImageArray, IntArray, evenly_spaced

SIDE = 64  # px, the longest side of a picture that is kept
MAP_SIDES = (32, 24, 16, 12)  # cells, the longest side of a map that is kept; the first that fits
LEVELS = 16  # of a heat map: 0 is none, 15 the strongest in this image at this layer
_MAX_PX = 16_383  # a side of a WebP, and about what a browser draws

# WebP quality -> bytes a pixel, as measured on the test images of CIFAR-10; 100 is lossless.
BYTES_PER_PX = {100: 3.0, 82: 0.30, 60: 0.21, 40: 0.17, 30: 0.15, 20: 0.125, 16: 0.11}
# The qualities of mistakes and of other images: the first pair that should fit, or the last.
_QUALITIES = ((100, 100), (82, 82), (82, 30), (82, 20), (60, 20), (40, 16))

Maps = Float32Array


@dataclass(frozen=True)
class Atlas:
    """The content of a picture file: tiles of one size, row by row."""

    suffix: str  # "png" or "webp"
    content: bytes
    columns: int
    size: tuple[int, ...]  # px of a tile: height, width


def map_atlas(pred: Maps, true: Maps, correct: NDArray[np.bool_]) -> Atlas:
    """Return heat maps (M, h, w) >= 0 as a PNG, quantized on one scale for both classes.

    The tiles are all of `pred`, then those of `true` that are not `correct` (M,).
    """
    top = np.maximum(pred, true).max(axis=(1, 2), keepdims=True, initial=0)  # (M, 1, 1)
    scale = (LEVELS - 1) / np.where(top > 0, top, 1)  # no evidence at all stays 0
    tiles = np.concatenate([pred * scale, (true * scale)[~correct]])
    columns, atlas = side_by_side(np.rint(tiles).astype(np.uint8))
    image = Image.fromarray(atlas).convert("P")
    image.putpalette(np.repeat(np.arange(LEVELS) * 17, 3).astype(np.uint8).tobytes())
    return Atlas("png", _encoded(image, "PNG", bits=4, optimize=True), columns, pred.shape[1:])


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


def area_resize(maps: Float32Array, side: int) -> Float32Array:
    """(..., h, w) with at most `side` cells a side; as it is where it has no more."""
    high, wide = maps.shape[-2:]
    factor = side / max(high, wide)
    if factor >= 1:
        return maps
    down, across = (_shares(n, max(1, round(n * factor))) for n in (high, wide))
    return np.asarray(down @ maps @ across.T, dtype=np.float32)


def _shares(cells: int, kept: int) -> Float32Array:
    """(kept, cells) of each of `kept` equal parts of a line, the share that lies in each cell."""
    ends = np.arange(kept + 1)[:, None] * (cells / kept)
    start = np.arange(cells)
    shared = np.minimum(ends[1:], start + 1) - np.maximum(ends[:-1], start)
    return np.asarray(np.maximum(shared, 0) * (kept / cells), dtype=np.float32)


def picture_atlases(
    pictures: ImageArray, mistakes: IntArray, others: Sequence[IntArray], room: int
) -> list[tuple[IntArray, Atlas]]:
    """Return the rows and the WebP of the mistakes, then of each group of other rows.

    They have at most `room` bytes. Rows that do not fit are left out evenly, those of the last
    group first. An atlas has at most `max_tiles` of them.
    """
    size = pictures.shape[1:3]
    pixels = math.prod(size)
    few, many = pixels * len(mistakes), pixels * sum(map(len, others))
    fits = [few * BYTES_PER_PX[a] + many * BYTES_PER_PX[b] <= room for a, b in _QUALITIES]
    best, usual = _QUALITIES[fits.index(True) if any(fits) else -1]
    atlases = []
    for rows, quality in ((mistakes, best), *((rows, usual) for rows in others)):
        kept = rows[evenly_spaced(len(rows), max_tiles(size))]
        while len(kept):
            columns, atlas = side_by_side(pictures[kept])
            content = webp(atlas, quality)
            if len(content) <= room:
                atlases.append((kept, Atlas("webp", content, columns, size)))
                room -= len(content)
                break
            fit = min(len(kept) - 1, len(kept) * room // len(content))
            kept = kept[evenly_spaced(len(kept), fit)]
    return atlases


def max_tiles(size: tuple[int, ...]) -> int:
    """Return how many tiles of this height and width fit into one atlas."""
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


def webp(picture: ImageArray, quality: int) -> bytes:
    """Return a picture (H, W, 3) as WebP; quality 100 is lossless."""
    # Lossless, quality is effort: 100 takes 60 times as long as 60, for 2 % fewer bytes.
    lossless = quality == 100
    how = {"quality": 60, "method": 4} if lossless else {"quality": quality, "method": 6}
    return _encoded(Image.fromarray(picture), "WEBP", lossless=lossless, **how)


def _encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **how)
    return written.getvalue()
