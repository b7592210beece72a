"""Images that one run has right and another has not, with what each says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from .canvas import GAP, HEAD, Canvas
from .style import BLUE, GREY, VERMILION, Pictures, house_style, short_names

_SIDE, _LINE = 1.5, 0.15  # inches: a picture, a line of words


@dataclass(frozen=True)
class Seen:
    """One image and what several runs say of it."""

    picture: Pictures  # (H, W, 1 or 3)
    id: str
    true: str
    said: tuple[tuple[str, str, float, bool], ...]  # run, class, confidence, whether it is right


@house_style()
def flip_sheet(images: Sequence[Seen], title: str, *, columns: int = 5) -> Figure:
    """Each picture under its true class, over a line a run and its id; none are said to be none."""
    lines = max((len(seen.said) for seen in images), default=0)
    columns = max(1, min(columns, len(images)))
    pitch, row = _SIDE + GAP, _SIDE + (lines + 2) * _LINE + 2 * GAP
    rows = max(1, math.ceil(len(images) / columns))
    canvas = Canvas(max(GAP + columns * pitch, 5.0), HEAD + rows * row, title)
    if not images:
        canvas.words(GAP, HEAD + 0.5, "", "no images", 4.0, color=GREY)
    for i, seen in enumerate(images):
        x, y = GAP + i % columns * pitch, HEAD + i // columns * row
        canvas.words(x, y + 0.13, "true: ", seen.true, _SIDE)
        canvas.picture(x, y + 0.19, _SIDE, seen.picture)
        y += 0.19 + _SIDE
        runs = short_names([run for run, *_ in seen.said], 9)
        for run, (_, name, confidence, right) in zip(runs, seen.said, strict=True):
            y += _LINE
            sign, colour = ("✓", BLUE) if right else ("✗", VERMILION)
            lead = f"{sign} {run}: {100 * confidence:.0f} % "
            canvas.words(x, y, lead, name, _SIDE, fontsize=7.5, color=colour)
        canvas.words(x, y + _LINE, "", seen.id, _SIDE, fontsize=6.5, color=GREY)
    return canvas.figure
