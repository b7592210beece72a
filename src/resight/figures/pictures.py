"""The images themselves, with what was predicted for them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import UsageError
from ..records import ImageArray, IntArray, Predictions
from .style import BLUE, GRAY, VERMILION, fit_text, house_style, sheet


@house_style()
def image_grid(
    images: ImageArray, titles: Sequence[str], *, columns: int = 5, title: str = ""
) -> Figure:
    """(N, H, W, C) pictures in rows, each under its title; without any, the figure says so."""
    _check_images(images, titles, "titles")
    figure, cells = _grid(images, _lefts(min(columns, len(images))), title, above=0.18)
    for axes, text in zip(cells, titles, strict=True):
        _write(axes, "", text, (0, 1), 3)
    return figure


@house_style()
def prediction_grid(
    images: ImageArray, predictions: Predictions, rows: IntArray, title: str, *, columns: int = 5
) -> Figure:
    """What the model said of some images: sign, confidence, prediction, true class and id.

    `rows` (R,) chooses from `predictions`; `images` (R, H, W, C) are the pictures of these rows.
    Without rows the figure says that there are none.
    """
    _check_images(images, rows, "rows")
    n = len(predictions)
    figure, cells = _grid(
        images,
        _lefts(min(columns, len(images))),
        title,
        above=0.34,
        below=0.16,
        nothing=f"none of {n:,} images" if n else "no images",
    )
    for axes, row in zip(cells, rows, strict=True):
        sign, color = ("✓", BLUE) if predictions.correct[row] else ("✗", VERMILION)
        verdict = f"{sign} {100 * predictions.confidence[row]:.0f} %  "
        predicted = predictions.classes[predictions.preds[row]]
        true = predictions.classes[predictions.labels[row]]
        _write(axes, verdict, predicted, (0, 1), 14, color=color, fontweight="bold")
        _write(axes, "true: ", true, (0, 1), 4)
        _write(axes, "", predictions.ids[row], (0, 0), -9, fontsize=6.5, color=GRAY)
    return figure


@house_style()
def before_after(before: ImageArray, after: ImageArray, titles: Sequence[str]) -> Figure:
    """Augmentation: a row an image, the original, then its draws.

    `before` is (N, H, W, C), `after` (N, D, H, W, C): D >= 1 draws of each of the N images.
    """
    _check_images(before, titles, "titles")
    n = len(before)
    if after.ndim != 5 or len(after) != n or after.shape[1] == 0:
        raise UsageError(
            f"after has shape {after.shape}; for {n} images it must be "
            f"({n}, draws, height, width, channels)"
        )
    draws = after.shape[1]
    lefts = _lefts(draws + 1)
    lefts[1:] = [left + 2 * _GAP for left in lefts[1:]]  # sets the original apart
    together = np.concatenate([before[:, None], after], axis=1)  # (N, 1 + D, H, W, C)
    flat = together.reshape(-1, *before.shape[1:])
    figure, cells = _grid(flat, lefts, "Original, then as augmented", above=0.18)
    for axes, text in zip(cells[:: draws + 1], titles, strict=True):
        _write(axes, "", text, (0, 1), 3)
    return figure


def _check_images(images: ImageArray, partners: Sequence[Any] | IntArray, what: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UsageError(
            f"images are {images.dtype} {images.shape}; figures take uint8 (N, H, W, 1 or 3)"
        )
    if len(images) != len(partners):
        raise UsageError(f"{len(images)} images but {len(partners)} {what}; give one for each")


_SIDE, _GAP, _HEAD = 1.4, 0.12, 0.36  # inches: a picture, the space around it, the title


def _lefts(columns: int) -> list[float]:
    """Where each column begins, in inches."""
    return [_GAP + column * (_SIDE + _GAP) for column in range(max(columns, 1))]


def _grid(
    images: ImageArray,
    lefts: Sequence[float],
    title: str,
    *,
    above: float,
    below: float = 0.0,
    nothing: str = "no images",
) -> tuple[Figure, list[Axes]]:
    """(N, H, W, C) pictures, in columns that begin at `lefts`, and their axes.

    All in inches and fixed, with `above` and `below` left for text: what is written cannot
    change the size of a picture.
    """
    high = _SIDE * min(max(images.shape[1] / max(images.shape[2], 1), 0.5), 2.0)
    rows = max(1, math.ceil(len(images) / len(lefts)))
    pitch = above + high + below + _GAP
    width, height = max(lefts[-1] + _SIDE + _GAP, 4.5), _HEAD + rows * pitch
    figure = sheet(width, height)
    heading = figure.text(_GAP / width, 1 - 0.25 / height, "", fontsize=11)
    fit_text(heading, "", title, width - 2 * _GAP)
    if len(images) == 0:
        figure.text(0.5, 0.4, nothing, ha="center", fontsize=11, color=GRAY)
    cells = []
    for i, image in enumerate(images):
        row, column = divmod(i, len(lefts))
        bottom = height - _HEAD - row * pitch - above - high
        box = (lefts[column] / width, bottom / height, _SIDE / width, high / height)
        cells.append(axes := figure.add_axes(box))
        axes.axis("off")
        axes.imshow(image[:, :, 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
    return figure, cells


def _write(
    axes: Axes, lead: str, name: str, corner: tuple[int, int], lift: float, **look: Any
) -> None:
    """Write `lead` and a name, as wide as the picture at most, `lift` points over its corner."""
    text = axes.annotate(
        "",
        corner,
        (0, lift),
        xycoords="axes fraction",
        textcoords="offset points",
        **{"fontsize": 8, "annotation_clip": False, **look},
    )
    fit_text(text, lead, name, _SIDE)
