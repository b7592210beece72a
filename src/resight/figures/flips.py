"""Images that one run has right and another has not, with what each says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..records import ImageArray
from .canvas import GAP, HEAD, Canvas
from .style import BLUE, GRAY, VERMILION, house_style

_SIDE, _LINE = 1.5, 0.15  # inches: a picture, a line of words
_SHORT = 8  # letters of a run's name that leave room for a class


@dataclass(frozen=True)
class FlippedImage:
    """One image and what several runs say of it."""

    picture: ImageArray  # (H, W, 1 or 3)
    id: str
    true: str
    predictions: tuple[tuple[str, float, bool], ...]  # of each run: class, confidence, right


@house_style()
def flip_sheet(
    images: Sequence[FlippedImage], runs: Sequence[str], title: str, *, columns: int = 5
) -> Figure:
    """Each picture under its true class, over a line a run and its id; none are said to be none.

    Long names of `runs` are numbers in the lines, and are spelled out under the title.
    """
    named = max(map(len, runs), default=0) <= _SHORT
    labels = runs if named else [str(1 + i) for i in range(len(runs))]
    legend = [] if named else list(runs)
    columns = max(1, min(columns, len(images)))
    top = HEAD + len(legend) * _LINE
    pitch, row = _SIDE + GAP, _SIDE + (len(runs) + 2) * _LINE + 2 * GAP
    rows = max(1, math.ceil(len(images) / columns))
    width = max(GAP + columns * pitch, 5.0)
    canvas = Canvas(width, top + rows * row, title)
    for i, name in enumerate(legend):
        canvas.words(GAP, HEAD + i * _LINE, f"{1 + i}: ", name, width - 2 * GAP, fontsize=7.5)
    if not images:
        canvas.words(GAP, top + 0.5, "", "no images", 4.0, color=GRAY)
    for i, image in enumerate(images):
        x, y = GAP + i % columns * pitch, top + i // columns * row
        canvas.words(x, y + 0.13, "true: ", image.true, _SIDE)
        canvas.picture(x, y + 0.19, _SIDE, image.picture)
        y += 0.19 + _SIDE
        for label, (name, confidence, right) in zip(labels, image.predictions, strict=True):
            y += _LINE
            sign, color = ("✓", BLUE) if right else ("✗", VERMILION)
            lead = f"{sign} {label}: {100 * confidence:.0f} % "
            canvas.words(x, y, lead, name, _SIDE, fontsize=7.5, color=color)
        canvas.words(x, y + _LINE, "", image.id, _SIDE, fontsize=6.5, color=GRAY)
    return canvas.figure
