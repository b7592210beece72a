"""Curves as text, for terminals, pipes and logs: a frame of 10 + 60 characters."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from .records import FloatArray

COLUMNS, ROWS = 60, 10
BLOCKS = " ▁▂▃▄▅▆▇█"


def plot_bars(values: FloatArray, *, low: float, high: float, rows: int = ROWS) -> list[str]:
    """Draw a bar a column, from `low` up to the highest value of its column.

    The height is drawn to an eighth of a character.
    """
    share = [(float(column.max()) - low) / (high - low) for column in _columns(values)]
    eighths = [math.ceil(8 * rows * s - 1e-9) for s in share]
    lines = [
        "".join(BLOCKS[min(8, max(0, n - 8 * row))] for n in eighths)
        for row in reversed(range(rows))
    ]
    return _frame(lines, low, high)


def plot_marks(curves: Mapping[str, FloatArray], *, high: float) -> list[str]:
    """Draw curves from 0 to `high`, each with its mark; where two cross, the last is on top."""
    grid = [[" "] * COLUMNS for _ in range(ROWS)]  # the lowest row first
    for mark, values in curves.items():
        for x, column in enumerate(_columns(values)):
            low, top = (min(ROWS - 1, int(ROWS * v / high)) for v in (column.min(), column.max()))
            for y in range(low, top + 1):
                grid[y][x] = mark
    return _frame(["".join(row) for row in reversed(grid)], 0.0, high)


def plot_axis(left: str, right: str) -> str:
    """Return the line below a frame: what its left and right ends stand for."""
    return f"{'':10}{left}{right:>{COLUMNS - len(left)}}"


def _columns(values: FloatArray) -> list[FloatArray]:
    """The values of each column; fewer values than columns are repeated."""
    edges = np.linspace(0, len(values), COLUMNS + 1).tolist()
    return [values[int(a) : max(int(a) + 1, math.ceil(b))] for a, b in pairwise(edges)]


def _frame(rows: Sequence[str], low: float, high: float) -> list[str]:
    labels = [f"{high:.3g}", *[""] * (len(rows) - 2), f"{low:.3g}"]
    lines = [f"{label:>8} │{row}".rstrip() for label, row in zip(labels, rows, strict=True)]
    return [*lines, f"{'':8} └{'─' * COLUMNS}"]
