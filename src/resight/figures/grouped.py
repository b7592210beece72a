"""Mistakes side by side with their like: pair by pair, and beside the images of both classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ..errors import UsageError
from ..metrics.mistakes import LabelIssue, Mistake, group_by_pair
from ..records import ImageArray, Predictions
from .canvas import GAP, HEAD, Canvas
from .style import BLUE, GRAY, VERMILION, house_style

_SIDE = 0.95  # inches


@dataclass(frozen=True)
class NeighborImages:
    """The k training images most similar to an image, among those of one class."""

    pictures: ImageArray  # (k, H, W, 1 or 3)
    ids: tuple[str, ...]
    cosines: tuple[float, ...]


@house_style()
def pair_sheet(
    pictures: ImageArray,
    predictions: Predictions,
    mistakes: Sequence[Mistake],
    title: str,
    *,
    pairs: int = 8,
    columns: int = 8,
) -> Figure:
    """The most frequent confusions: a row a pair, its worst images, confidence and id under each.

    `pictures` (N, H, W, 1 or 3) are those of all predictions; `mistakes` are ranked.
    """
    if len(pictures) != len(predictions):
        raise UsageError(f"{len(pictures)} pictures but {len(predictions)} predictions")
    groups = list(group_by_pair(mistakes).items())
    chosen = groups[:pairs]
    row = _SIDE + 0.62
    columns = min(columns, max((len(group) for _, group in chosen), default=1))
    pitch = _SIDE + GAP
    width = max(GAP + columns * pitch, 6.0)
    canvas = Canvas(width, HEAD + max(len(chosen), 1) * row + 0.25, title)
    labeled = dict(zip(*np.unique(predictions.labels, return_counts=True), strict=True))
    for i, ((true, pred), group) in enumerate(chosen):
        y = HEAD + i * row
        total = labeled[predictions.labels[group[0].row]]
        look = {"fontsize": 9, "fontweight": "bold"}
        lead = f"{len(group):,} of {total:,}: "
        canvas.words(GAP, y + 0.16, lead, f"{true} taken for {pred}", width - 2 * GAP, **look)
        for j, mistake in enumerate(group[:columns]):
            x = GAP + j * pitch
            canvas.picture(x, y + 0.24, _SIDE, pictures[mistake.row])
            sure = f"{100 * mistake.confidence:.0f} % sure"
            canvas.words(x, y + 0.24 + _SIDE + 0.13, "", sure, _SIDE, fontsize=7.5)
            look = {"fontsize": 6.5, "color": GRAY}
            canvas.words(x, y + 0.24 + _SIDE + 0.25, "", mistake.id, _SIDE, **look)
    in_pairs = sum(len(group) for _, group in chosen)
    rest = f"{len(mistakes):,} mistakes of {len(predictions):,} images in {len(groups):,} pairs"
    if in_pairs < len(mistakes):
        rest += f"; the {len(chosen)} most frequent pairs hold {in_pairs:,}"
    y = HEAD + max(len(chosen), 1) * row + 0.1
    canvas.words(GAP, y, "", rest if mistakes else "no mistakes", width, fontsize=7.5, color=GRAY)
    return canvas.figure


@house_style()
def label_issue_sheet(
    pictures: ImageArray,
    issues: Sequence[LabelIssue],
    neighbors: Sequence[tuple[NeighborImages, NeighborImages]],
    title: str,
    *,
    note: str = "",
) -> Figure:
    """Is it the label? Each image beside training images of its given and its suggested class.

    `pictures` (R, H, W, 1 or 3) are those of the R labels in `issues`; `neighbors` are a pair for
    each, of the given and of the suggested class, or none at all.
    """
    if len(pictures) != len(issues) or len(neighbors) not in (0, len(issues)):
        raise UsageError(
            f"{len(issues)} labels have {len(pictures)} pictures and {len(neighbors)} pairs of "
            "neighbors; give one of each a label"
        )
    words, pitch, row = 1.6, _SIDE + 0.08, _SIDE + 0.42
    k = max((len(side.pictures) for pair in neighbors for side in pair), default=0)
    starts = [GAP + _SIDE + 0.15 + words + i * (k * pitch + 0.25) for i in range(2)]
    width = max(starts[1] + k * pitch + GAP, 6.0)
    canvas = Canvas(width, HEAD + max(len(issues), 1) * row + (0.25 if note else 0.05), title)
    for i, label in enumerate(issues):
        y = HEAD + i * row + 0.2
        canvas.picture(GAP, y, _SIDE, pictures[i])
        x = GAP + _SIDE + 0.15
        kinds = (
            ("labeled ", label.given, label.p_given, VERMILION),
            ("suggested ", label.suggested, label.p_suggested, BLUE),
        )
        for j, (lead, name, share, color) in enumerate(kinds):
            look = {"color": color, "fontweight": "bold"}
            at = y + 0.2 + 0.34 * j
            canvas.words(x, at, lead, name, words - 0.1, **look)
            text = f"the model says {100 * share:.2g} %"
            canvas.words(x, at + 0.13, "", text, words - 0.1, fontsize=7)
        canvas.words(x, y + 0.85, "", label.id, words - 0.1, fontsize=6.5, color=GRAY)
        pairs = zip(starts, neighbors[i] if neighbors else (), kinds, strict=False)
        for x, side, (_, name, _, color) in pairs:
            words_at = (x, y - 0.05, "most similar, labeled ", name, k * pitch)
            canvas.words(*words_at, fontsize=7.5, color=color)
            _draw_neighbors(canvas, side, (x, y), pitch)
    if note:
        y = HEAD + max(len(issues), 1) * row + 0.12
        canvas.words(GAP, y, "", note, width - 2 * GAP, fontsize=7.5, color=GRAY)
    return canvas.figure


def _draw_neighbors(
    canvas: Canvas, side: NeighborImages, place: tuple[float, float], pitch: float
) -> None:
    """Draw the neighbors of one class in a row, each over its cosine and id."""
    x, y = place
    neighbors = zip(side.pictures, side.ids, side.cosines, strict=True)
    for j, (picture, id, cosine) in enumerate(neighbors):
        canvas.picture(x + j * pitch, y, _SIDE, picture)
        place_of_text = (x + j * pitch, y + _SIDE + 0.1)
        canvas.words(*place_of_text, f"{cosine:.2f}  ", id, _SIDE, fontsize=6, color=GRAY)
