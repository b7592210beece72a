"""A sheet of pictures and words in rows, at fixed places in inches.

A sheet is a list of rows, and a row is a list of tiles. Words never change the size of a picture:
a line has the room up to the next tile with such a line, and its name is cut to fit.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import UsageError
from ..records import ImageArray
from .style import DPI, GRAY, fit_text, house_style

GAP, _ROW_GAP = 0.1, 0.14  # inches, between tiles and between rows
_MIN_WIDTH, _MIN_HEIGHT = 5.5, 2.0  # inches
_LARGEST = 1.4  # inches of a picture, 224 px
_MAX_INCHES = (2**16 - 1) / DPI  # matplotlib draws fewer than 2^16 px a side
_PITCH, _DESCENT = 1.35 / 72, 0.4 / 72  # inches a point: from line to line, below the baseline
_NOTE_SIZE, _NOTE_LETTER = 7, 0.058  # points; inches a letter, on average


@dataclass(frozen=True)
class Line:
    """A line of words: the name is cut to the room there is, the lead is kept."""

    lead: str = ""
    name: str = ""
    color: str = "black"
    size: float = 8  # points
    bold: bool = False


_BLANK = Line(size=0)


@dataclass(frozen=True)
class Tile:
    """A picture between lines of words; without a picture, `below` stands in its place."""

    picture: ImageArray | None = None  # (H, W, 1 or 3) uint8
    above: Sequence[Line] = ()
    below: Sequence[Line] = ()
    over: str = ""  # a short word on the picture
    width: float | None = None  # inches; None: as the sheet says
    space: float = 0.0  # inches before it, besides the gap


@dataclass(frozen=True)
class Row:
    """Tiles side by side, under lines as wide as the sheet."""

    tiles: Sequence[Tile] = ()
    heading: Sequence[Line] = ()


def side_of(pictures: ImageArray, usual: float) -> float:
    """Return how wide to draw pictures (R, H, W, C), in inches: wider than usual if they have more.

    No pixel is left out of pictures of up to 224 px.
    """
    return max(usual, min(float(pictures.shape[2]) / DPI, _LARGEST))


def in_rows(tiles: Sequence[Tile], columns: int) -> list[Row]:
    """Return the tiles in rows of so many columns."""
    return [Row(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]


@house_style()
def contact_sheet(
    rows: Sequence[Row],
    *,
    title: str,
    side: float,
    head: Row = Row(),
    legend: Row = Row(),
    notes: Sequence[str] = (),
    empty: str = "no images",
) -> Figure:
    """Draw rows of tiles `side` inches wide, between `head` and `legend`, over wrapped notes.

    A sheet without rows says `empty`. Raises UsageError if the sheet is too large to draw.
    """
    nothing = Row(heading=[Line(empty, color=GRAY, size=11)])
    layout = [row for row in (head, *(rows or [nothing]), legend) if row.tiles or row.heading]
    width = max(_MIN_WIDTH, *(_lefts(row, side)[-1] for row in layout))
    across = (GAP, width)
    # Sized when all is placed. The canvas keeps one renderer to measure words with; without it
    # every word makes a renderer.
    figure = Figure(figsize=(1, 1), layout="none")  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_autoscale_on(False)

    y = _write_lines(axes, across, [[Line(name=title, size=11)]], y=GAP) + GAP
    for row in layout:
        y = _write_lines(axes, across, [row.heading], y=y)
        y = _draw_tiles(axes, row, side, y) + _ROW_GAP
    wrapped = [part for note in notes for part in textwrap.wrap(note, int(width / _NOTE_LETTER))]
    footer = [Line(name=part, color=GRAY, size=_NOTE_SIZE) for part in wrapped]
    height = max(_MIN_HEIGHT, _write_lines(axes, across, [footer], y=y) + GAP)
    if max(width, height) > _MAX_INCHES:
        raise UsageError(
            f"a picture of {width:.0f} x {height:.0f} inches is too large to draw; show fewer "
            "layers, classes or images"
        )
    figure.set_size_inches(width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _lefts(row: Row, side: float) -> list[float]:
    """Return where each tile begins, and where another one after the last would."""
    lefts, x = [], GAP
    for tile in row.tiles:
        lefts.append(x + tile.space)
        x = lefts[-1] + (tile.width or side) + GAP
    return [*lefts, x]


def _draw_tiles(axes: Axes, row: Row, side: float, y: float) -> float:
    """Draw the tiles of a row from `y` down, their pictures level; return where the lowest ends."""
    tiles, lefts = row.tiles, _lefts(row, side)
    most = max((len(tile.above) for tile in tiles), default=0)
    above = [[*[_BLANK] * (most - len(tile.above)), *tile.above] for tile in tiles]
    y = _write_lines(axes, lefts, above, y=y)
    ends = [y]
    for tile, left in zip(tiles, lefts, strict=False):
        width = tile.width or side
        if tile.picture is None:
            ends.append(_write_lines(axes, (left, left + width + GAP), [tile.below], y=y))
        else:
            corner = (left, y)
            bottom = _draw_picture(axes, tile.picture, corner=corner, width=width, over=tile.over)
            ends.append(bottom)
    below = [() if tile.picture is None else tile.below for tile in tiles]
    return max(*ends, _write_lines(axes, lefts, below, y=max(ends) + 0.02))


def _draw_picture(
    axes: Axes, picture: ImageArray, *, corner: tuple[float, float], width: float, over: str
) -> float:
    """Draw sharp pixels, `width` inches wide and at most twice as high; return where they end."""
    high, wide = picture.shape[:2]
    scale = min(width / wide, 2 * width / high)
    w, h = scale * wide, scale * high
    x, y = corner[0] + (width - w) / 2, corner[1]
    axes.imshow(
        np.broadcast_to(picture, (high, wide, 3)),
        extent=(x, x + w, y + h, y),
        aspect="auto",
        interpolation="nearest",
    )
    if over:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
        center = (x + w / 2, y + h / 2)
        axes.text(*center, over, ha="center", va="center", fontsize=6, bbox=box)
    return float(y + h)


def _write_lines(
    axes: Axes, lefts: Sequence[float], columns: Sequence[Sequence[Line]], *, y: float
) -> float:
    """Write columns of lines from `y` down; return where they end.

    A line has the room up to the next column with a line at its height, or to the last of `lefts`,
    one more than there are columns.
    """
    for lines in zip_longest(*columns, fillvalue=_BLANK):
        y += max(line.size for line in lines) * _PITCH
        end = lefts[-1]
        for left, line in reversed(list(zip(lefts, lines, strict=False))):
            if line is not _BLANK:
                text = axes.text(left, y - line.size * _DESCENT, "", color=line.color)
                text.set(fontsize=line.size, fontweight="bold" if line.bold else "normal")
                fit_text(text, line.lead, line.name, end - left - GAP)
                end = left
    return y
