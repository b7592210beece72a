"""The near copies of a data set as a picture and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import figures
from ..datasets.originals import display_images
from ..figures.contact_sheet import Line, Tile, contact_sheet, in_rows, side_of
from ..figures.style import GRAY, VERMILION
from ..files import write_csv
from ..records import ImageArray, evenly_spaced
from .dataset_probe import DatasetProbe

MAX_PAIRS = 60  # in the picture
_SIDE, _COLUMNS = 0.95, 4  # inches of a picture; pairs in a row


@dataclass(frozen=True)
class CopyPair:
    """An image of a split, and the training image that it is a near copy of."""

    split: str
    id: str
    label: str
    row: int
    train_id: str
    train_label: str
    train_row: int
    details: float  # how far they agree, up to 1


def copy_pairs(probe: DatasetProbe) -> list[CopyPair]:
    """Return the near copies of training images: of different labels first, then the surest."""
    train, classes = probe.dataset.train, probe.dataset.classes
    pairs = [
        CopyPair(
            split=name,
            id=split.ids[row],
            label=classes[int(split.labels[row])],
            row=row,
            train_id=train.ids[match],
            train_label=classes[int(train.labels[match])],
            train_row=match,
            details=details,
        )
        for name, split in probe.held_out.items()
        for copies in [probe.near_copies[name]]
        for row, match, details in zip(
            copies.rows.tolist(), copies.matches.tolist(), copies.details.tolist(), strict=True
        )
    ]
    return sorted(pairs, key=lambda pair: (pair.label == pair.train_label, -pair.details))


def write_pairs(probe: DatasetProbe, path: Path) -> str:
    """Draw the near copies of training images into `path`, and write their table beside it.

    The picture has up to 60 pairs, from the surest to the least sure. The table has all. Its column
    id has the training images, so that `data.exclude` can take it. Returns a line that says what
    was written.

    Raises:
        ResightError: a file cannot be written.
    """
    pairs, table = copy_pairs(probe), path.with_suffix(".csv")
    header = ("id", "label", "copy", "copy_label", "split", "details")
    rows = [(p.train_id, p.train_label, p.id, p.label, p.split, f"{p.details:.3f}") for p in pairs]
    write_csv(table, [header, *rows])
    shown = [pairs[k] for k in evenly_spaced(len(pairs), MAX_PAIRS)] if pairs else []
    pictures = _pictures(probe, shown)
    tiles = []
    for pair, (one, other) in zip(shown, pictures, strict=True):
        color = "black" if pair.label == pair.train_label else VERMILION
        for picture, split, label, id, space in (
            (one, pair.split, pair.label, pair.id, 0.25),
            (other, "training", pair.train_label, pair.train_id, 0.0),
        ):
            below = [Line(name=label, color=color), Line(name=id, size=6.5, color=GRAY)]
            tiles.append(Tile(picture, [Line(name=split, size=7)], below, space=space))
    note = f"{len(shown)} of {len(pairs):,} pairs; all are in {table.name}. Red: other labels."
    figure = contact_sheet(
        in_rows(tiles, 2 * _COLUMNS),
        title="Near copies of training images, the surest first",
        side=side_of(np.array(pictures[0]), _SIDE) if pictures else _SIDE,
        notes=[note] if pairs else [],
        empty="no near copies",
    )
    figures.save(figure, path)
    return f"{len(pairs):,} near copies: {path} and {table}"


def _pictures(
    probe: DatasetProbe, pairs: Sequence[CopyPair]
) -> list[tuple[ImageArray, ImageArray]]:
    """Return what to show of each pair: two pictures (P, P, 1 or 3)."""
    if not pairs:
        return []
    shown: dict[CopyPair, ImageArray] = {}
    for name, split in probe.held_out.items():
        part = [pair for pair in pairs if pair.split == name]
        if part:
            rows = np.array([pair.row for pair in part])
            shown |= zip(part, display_images(split, rows).pictures, strict=True)
    matches = np.array([pair.train_row for pair in pairs], dtype=np.int64)
    others = display_images(probe.dataset.train, matches).pictures
    return [(shown[pair], other) for pair, other in zip(pairs, others, strict=True)]
