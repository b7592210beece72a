"""The images themselves, with what was predicted for them by one run or by several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..errors import UsageError
from ..records import ImageArray, IntArray, Predictions
from .contact_sheet import Line, Row, Tile, contact_sheet, in_rows
from .style import BLUE, GRAY, VERMILION

_SIDE = 1.4  # inches
_SHORT_NAME = 8  # letters of a run's name that leave room for a class


@dataclass(frozen=True)
class FlippedImage:
    """One image and what several runs predict for it."""

    picture: ImageArray  # (H, W, 1 or 3)
    id: str
    true: str
    predictions: tuple[tuple[str, float, bool], ...]  # of each run: class, confidence, right


def image_grid(
    images: ImageArray, titles: Sequence[str], *, columns: int = 5, title: str = ""
) -> Figure:
    """Draw (N, H, W, C) pictures in rows, each under its title."""
    _check_images(images, titles, "titles")
    pairs = zip(images, titles, strict=True)
    tiles = [Tile(picture, above=[Line(name=text)]) for picture, text in pairs]
    return contact_sheet(in_rows(tiles, columns), title=title, side=_SIDE)


def prediction_grid(
    images: ImageArray,
    predictions: Predictions,
    rows: IntArray,
    title: str,
    *,
    columns: int = 5,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw images with what the model predicts: right or wrong, confidence, both classes and id.

    `rows` (R,) chooses from `predictions`; `images` (R, H, W, C) are the pictures of these rows,
    and `notes` the lines below them.
    """
    _check_images(images, rows, "rows")
    tiles = []
    for picture, row in zip(images, rows, strict=True):
        predicted = predictions.classes[predictions.preds[row]]
        true = Line("true: ", predictions.classes[predictions.labels[row]])
        verdict = verdict_line(
            predictions.correct[row], f"{100 * predictions.confidence[row]:.0f} %  ", predicted
        )
        id_line = Line(name=predictions.ids[row], size=6.5, color=GRAY)
        tiles.append(Tile(picture, above=[verdict, true], below=[id_line]))
    n = len(predictions)
    empty = f"none of {n:,} images" if n else "no images"
    rows_of_tiles = in_rows(tiles, columns)
    return contact_sheet(rows_of_tiles, title=title, side=_SIDE, notes=notes, empty=empty)


def class_sheet(
    pictures: Sequence[ImageArray], classes: Sequence[str], *, title: str, notes: Sequence[str] = ()
) -> Figure:
    """Draw a row of pictures (N, H, W, C) for each class, under its name."""
    rows = [
        Row([Tile(picture) for picture in images], heading=[Line(name=word, bold=True)])
        for images, word in zip(pictures, classes, strict=True)
    ]
    return contact_sheet(rows, title=title, side=0.8, notes=notes)


def before_after(before: ImageArray, after: ImageArray, titles: Sequence[str]) -> Figure:
    """Draw augmentation: a row for each image, the original, then its draws.

    `before` is (N, H, W, C), `after` (N, D, H, W, C): D >= 1 draws of each of the N images.
    """
    _check_images(before, titles, "titles")
    n = len(before)
    if after.ndim != 5 or len(after) != n or after.shape[1] == 0:
        raise UsageError(
            f"after has shape {after.shape}; for {n} images it must be "
            f"({n}, draws, height, width, channels)"
        )
    rows = []
    for original, (first, *more), text in zip(before, after, titles, strict=True):
        draws = [Tile(first, space=0.2), *map(Tile, more)]
        rows.append(Row([Tile(original, above=[Line(name=text)]), *draws]))
    return contact_sheet(rows, title="Original, then as augmented", side=_SIDE)


def flip_sheet(
    images: Sequence[FlippedImage], runs: Sequence[str], title: str, *, columns: int = 5
) -> Figure:
    """Draw images that one run has right and another has not, with what each run predicts.

    If the names of `runs` are long, numbers stand for them, spelled out under the title.
    """
    short = max(map(len, runs), default=0) <= _SHORT_NAME
    labels = runs if short else [str(1 + i) for i in range(len(runs))]
    tiles = []
    for image in images:
        below = [
            verdict_line(right, f"{label}: {100 * confidence:.0f} % ", name, bold=False)
            for label, (name, confidence, right) in zip(labels, image.predictions, strict=True)
        ]
        below.append(Line(name=image.id, size=6.5, color=GRAY))
        tiles.append(Tile(image.picture, above=[Line("true: ", image.true)], below=below))
    legend = [Line(f"{1 + i}: ", name, size=7.5) for i, name in enumerate(runs) if not short]
    rows = in_rows(tiles, columns)
    return contact_sheet(rows, title=title, side=_SIDE, head=Row(heading=legend))


def verdict_line(right: bool | None, lead: str, name: str, *, bold: bool = True) -> Line:
    """Return a line after a sign for right or wrong, in its color; None: the truth is unknown."""
    if right is None:
        return Line(lead, name, bold=bold)
    sign, color = ("✓", BLUE) if right else ("✗", VERMILION)
    return Line(f"{sign} {lead}", name, color=color, bold=bold)


def _check_images(images: ImageArray, partners: Sequence[Any] | IntArray, what: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UsageError(
            f"images are {images.dtype} {images.shape}; figures take uint8 (N, H, W, 1 or 3)"
        )
    if len(images) != len(partners):
        raise UsageError(f"{len(images)} images but {len(partners)} {what}; give one for each")
