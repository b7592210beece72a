"""Mistakes beside similar images: pair by pair, and beside training images of both classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from ..errors import UsageError
from ..metrics.mistakes import LabelIssue, Mistake, group_by_pair
from ..records import ImageArray, IntArray, Predictions
from .contact_sheet import Line, Row, Tile, contact_sheet, side_of
from .style import BLUE, GRAY, VERMILION

_SIDE = 0.95  # inches


@dataclass(frozen=True)
class NeighborImages:
    """The k training images most similar to an image, among those of one class."""

    pictures: ImageArray  # (k, H, W, 1 or 3)
    ids: tuple[str, ...]
    cosines: tuple[float, ...]


def pair_rows(mistakes: Sequence[Mistake], *, pairs: int = 8, columns: int = 8) -> IntArray:
    """Return the rows (R,) that `pair_sheet` shows, in its order."""
    groups = list(group_by_pair(mistakes).values())[:pairs]
    return np.array([m.row for group in groups for m in group[:columns]], dtype=np.int64)


def pair_sheet(
    pictures: ImageArray,
    predictions: Predictions,
    mistakes: Sequence[Mistake],
    title: str,
    *,
    pairs: int = 8,
    columns: int = 8,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw the most frequent confusions: a row for each pair of classes, the worst images first.

    `pictures` (R, H, W, 1 or 3) are those of `pair_rows`; `mistakes` are ranked.
    """
    expected = len(pair_rows(mistakes, pairs=pairs, columns=columns))
    if len(pictures) != expected:
        raise UsageError(f"{len(pictures)} pictures but {expected} mistakes to show; see pair_rows")
    groups, shown = group_by_pair(mistakes), iter(pictures)
    rows, in_rows = [], 0
    for (true, pred), group in list(groups.items())[:pairs]:
        total = np.count_nonzero(predictions.labels == predictions.labels[group[0].row])
        lead = f"{len(group):,} of {total:,}: "
        tiles = [
            Tile(
                next(shown),
                below=[
                    Line(f"{100 * mistake.confidence:.0f} % sure", size=7.5),
                    Line(name=mistake.id, size=6.5, color=GRAY),
                ],
            )
            for mistake in group[:columns]
        ]
        rows.append(Row(tiles, [Line(lead, f"{true} taken for {pred}", size=9, bold=True)]))
        in_rows += len(group)
    note = f"{len(mistakes):,} mistakes of {len(predictions):,} images in {len(groups):,} pairs"
    if in_rows < len(mistakes):
        note += f"; the {len(rows)} most frequent pairs hold {in_rows:,}"
    notes = [*notes, note] if mistakes else []
    side = side_of(pictures, _SIDE)
    return contact_sheet(rows, title=title, side=side, notes=notes, empty="no mistakes")


def label_issue_sheet(
    pictures: ImageArray,
    issues: Sequence[LabelIssue],
    neighbors: Sequence[tuple[NeighborImages, NeighborImages]],
    title: str,
    *,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw each image beside training images of its given and of its suggested class.

    `pictures` (R, H, W, 1 or 3) are those of the R labels in `issues`; `neighbors` are a pair for
    each, of the given and of the suggested class, or none at all.
    """
    if len(pictures) != len(issues) or len(neighbors) not in (0, len(issues)):
        raise UsageError(
            f"{len(issues)} labels have {len(pictures)} pictures and {len(neighbors)} pairs of "
            "neighbors; give one of each a label"
        )
    k = max((len(images.pictures) for pair in neighbors for images in pair), default=0)
    rows = []
    for i, issue in enumerate(issues):
        kinds = (
            ("labeled ", issue.given, issue.p_given, VERMILION),
            ("suggested ", issue.suggested, issue.p_suggested, BLUE),
        )
        words, tiles = [], []
        for j, (lead, name, share, color) in enumerate(kinds):
            words.append(Line(lead, name, color=color, bold=True))
            words += [Line(f"the model says {100 * share:.2g} %", size=7), Line(size=2)]
            if neighbors and k:
                heading = Line("most similar, labeled ", name, color=color, size=7.5)
                tiles += _neighbor_tiles(neighbors[i][j], heading, k)
        words.append(Line(name=issue.id, size=6.5, color=GRAY))
        rows.append(Row([Tile(pictures[i]), Tile(below=words, width=1.5), *tiles]))
    return contact_sheet(rows, title=title, side=side_of(pictures, _SIDE), notes=notes)


def _neighbor_tiles(neighbors: NeighborImages, heading: Line, k: int) -> list[Tile]:
    """Return a tile for each of the neighbors, the first under `heading`; k in all."""
    each = zip(neighbors.pictures, neighbors.ids, neighbors.cosines, strict=True)
    tiles = [
        Tile(picture, below=[Line(f"{cosine:.2f}  ", id, color=GRAY, size=6)])
        for picture, id, cosine in each
    ]
    first, *more = [*tiles, *[Tile()] * (k - len(tiles))]
    return [replace(first, above=[heading], space=0.15), *more]
