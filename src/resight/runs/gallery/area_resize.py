"""Maps in fewer cells, each the mean over what it covers."""

import numpy as np

from ...records import Float32Array


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
