"""Where a network looked: heat maps over pictures, for the predicted class and for another.

A map is shown twice: over the gray picture, smoothed to its size, and raw, cell by cell, so that
nobody reads more detail into it than is there. Positive evidence only, on one scale from 0 to the
strongest cell of either class at that layer, so the two classes can be compared. The palette,
inferno, rises evenly in brightness and reads the same with every kind of color vision.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import COARSE_CELLS, Float32Array, ImageArray, IntArray, Predictions
from .canvas import GAP, HEAD, Canvas
from .style import BLUE, GRAY, VERMILION, house_style

Maps = Float32Array

AREAS = (
    "deletion, insertion: the predicted class's mean probability while the pixels of strongest "
    "evidence go first, or come first; low deletion and high insertion are good"
)
PALETTE = np.rint(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
_OPACITY = 0.8  # of the strongest evidence
_OVERLAY_PX = 128  # a side, at least


@dataclass(frozen=True)
class LayerHeatmap:
    """Raw, signed heat maps of R pictures at one layer: for the predicted and the other class."""

    layer: str
    maps: Maps  # (R, 2, h, w)
    areas: Maps | None = None  # (R, 2) of the predicted class: deletion and insertion, see `cam`

    @property
    def name(self) -> str:
        """The layer and the size of its map."""
        h, w = self.maps.shape[2:]
        return f"{self.layer} {h}x{w}"

    @property
    def coarse(self) -> bool:
        """Whether the map has too few cells to say where."""
        return bool(min(self.maps.shape[2:]) < COARSE_CELLS)


@dataclass(frozen=True)
class SheetImages:
    """R rows of `predictions`, each with another class to compare the predicted one with."""

    pictures: ImageArray  # (R, H, W, 1 or 3) of these rows
    predictions: Predictions
    rows: IntArray  # (R,)
    others: IntArray  # (R,) class indices: the true class, or the runner-up

    def kind(self, i: int) -> str:
        """What the other class of row i is."""
        return "true" if self.others[i] == self.predictions.labels[self.rows[i]] else "runner-up"


def positive_map(maps: Maps) -> Maps:
    """(..., M, h, w) raw -> in [0, 1]: positive evidence over the largest of all M maps.

    Where no cell of the M maps is positive all are 0.
    """
    positive = np.maximum(maps, 0)
    top = positive.max(axis=(-3, -2, -1), keepdims=True)
    return np.asarray(positive / np.where(top > 0, top, 1), dtype=np.float32)


def smoothed(maps: Maps, height: int, width: int) -> Maps:
    """(..., h, w) -> (..., height, width), bilinear, as if every cell were a square."""
    return np.asarray(
        _bilinear(maps.shape[-2], height) @ maps @ _bilinear(maps.shape[-1], width).T,
        dtype=np.float32,
    )


def blend_heatmap(picture: ImageArray, heat: Maps) -> ImageArray:
    """(H, W, 1 or 3) picture in gray under a map (h, w) in [0, 1] -> (s H, s W, 3), s >= 1.

    The more evidence, the less of the picture shows through; without any it is the gray picture.
    """
    s = max(1, round(_OVERLAY_PX / max(picture.shape[:2])))
    weights = (0.299, 0.587, 0.114) if picture.shape[2] == 3 else (1.0,)
    gray = (picture @ np.array(weights)).repeat(s, axis=0).repeat(s, axis=1)  # (s H, s W)
    heat = smoothed(heat, *gray.shape)
    opacity = _OPACITY * heat[:, :, None] ** 0.7
    mixed = (1 - opacity) * gray[:, :, None] + opacity * _colored(heat)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


@house_style()
def heat_sheet(images: SheetImages, heats: Sequence[LayerHeatmap], title: str) -> Figure:
    """A row a picture; for each layer the overlay of both classes and the predicted one raw.

    Without rows the figure says that there are none.
    """
    check(images, heats)
    r, side, words = len(images.rows), 0.78, 1.75
    pitch = side + 0.06
    starts = [GAP + words + side + 0.2 + i * (3 * pitch + 0.16) for i in range(len(heats))]
    notes = _notes(heats, images.pictures)
    other = " or ".join(sorted({images.kind(i) for i in range(r)}))
    top, row = HEAD + 0.42, pitch + _area_room(heats)
    end = starts[-1] + 3 * pitch if starts else GAP + words + side
    canvas = Canvas(max(end + GAP, 4.5), top + max(r, 1) * row + 0.3 + 0.16 * len(notes), title)
    if r == 0:
        canvas.words(GAP, top + 0.3, "", "none of these pictures", 4, color=GRAY, fontsize=11)
    for x, heat in zip(starts, heats, strict=True):
        canvas.words(x, HEAD + 0.14, "", heat.name, 3 * pitch, fontsize=9, fontweight="bold")
        for i, name in enumerate(("predicted", other, "predicted, raw")):
            canvas.words(x + i * pitch, HEAD + 0.34, "", name, pitch, fontsize=7, color=GRAY)
    for i in range(r):
        y = top + i * row
        _caption(canvas, images, i, (GAP, y + 0.2), words - 0.1)
        canvas.picture(GAP + words, y, side, images.pictures[i])
        for x, heat in zip(starts, heats, strict=True):
            scaled = positive_map(heat.maps[i])  # (2, h, w)
            for j in range(2):
                _over(canvas, (x + j * pitch, y), side, images.pictures[i], scaled[j])
            canvas.picture(x + 2 * pitch, y, side, _colored(scaled[0]))
            _areas_text(canvas, heat, i, (x, y + side + 0.1), 3 * pitch)
    _legend(canvas, top + max(r, 1) * row + 0.1, notes)
    return canvas.figure


@house_style()
def heat_strip(images: SheetImages, heats: Sequence[LayerHeatmap], title: str) -> Figure:
    """One picture, large: a row for each of the two classes, overlay and raw map of each layer."""
    check(images, heats)
    if len(images.rows) != 1:
        raise UsageError(f"a strip shows one picture, not {len(images.rows)}; use heat_sheet")
    side = 1.25
    pitch, row = side + 0.06, side + 0.3
    starts = [GAP + side + 0.3 + i * (2 * pitch + 0.2) for i in range(len(heats))]
    notes, top = _notes(heats, images.pictures), HEAD + 0.24 + _area_room(heats)
    width = max((starts[-1] + 2 * pitch if starts else 0) + GAP, 4.5)
    canvas = Canvas(width, top + 2 * row + 0.3 + 0.16 * len(notes), title)
    canvas.picture(GAP, top + 0.22, side, images.pictures[0])
    _caption(canvas, images, 0, (GAP, top + row + 0.14), side)
    predictions, at = images.predictions, images.rows[0]
    kinds = (("predicted", predictions.preds[at]), (images.kind(0), images.others[0]))
    for x, heat in zip(starts, heats, strict=True):
        canvas.words(x, HEAD + 0.14, "", heat.name, 2 * pitch, fontsize=9, fontweight="bold")
        _areas_text(canvas, heat, 0, (x, HEAD + 0.28), 2 * pitch)
        scaled = positive_map(heat.maps[0])  # (2, h, w)
        for j, (kind, k) in enumerate(kinds):
            y = top + j * row + 0.22
            name = predictions.classes[k]
            canvas.words(x, y - 0.05, "for ", f"{name} ({kind})", 2 * pitch, fontsize=7.5)
            _over(canvas, (x, y), side, images.pictures[0], scaled[j])
            canvas.picture(x + pitch, y, side, _colored(scaled[j]))
    _legend(canvas, top + 2 * row + 0.1, notes)
    return canvas.figure


def check(images: SheetImages, heats: Sequence[LayerHeatmap]) -> None:
    """UsageError unless every row has a picture, another class and two maps at every layer."""
    r = len(images.rows)
    if len(images.pictures) != r or len(images.others) != r:
        raise UsageError(
            f"{r} rows have {len(images.pictures)} pictures and {len(images.others)} other "
            "classes; "
            "give one of each a row"
        )
    for heat in heats:
        if heat.maps.ndim != 4 or heat.maps.shape[:2] != (r, 2):
            raise UsageError(
                f"the heat maps at {heat.layer} are {heat.maps.shape}; for {r} rows they must be "
                f"({r}, 2, h, w)"
            )
        if heat.areas is not None and heat.areas.shape != (r, 2):
            raise UsageError(
                f"the areas at {heat.layer} are {heat.areas.shape}; for {r} rows they must be "
                f"({r}, 2)"
            )


def _bilinear(cells: int, px: int) -> NDArray[np.float64]:
    """(px, cells) weights of the cells in each pixel; the border cells reach to the edge."""
    at = np.clip((np.arange(px) + 0.5) * cells / px - 0.5, 0, cells - 1)  # in cells
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))))


def _colored(heat: Maps) -> ImageArray:
    """(h, w) in [0, 1] -> (h, w, 3)."""
    return np.asarray(PALETTE[np.rint(255 * np.clip(heat, 0, 1)).astype(np.int64)])


def _over(
    canvas: Canvas, place: tuple[float, float], side: float, picture: ImageArray, heat: Maps
) -> None:
    canvas.picture(*place, side, blend_heatmap(picture, heat))
    if not heat.any():
        x, y = place[0] + side / 2, place[1] + side / 2
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
        look = {"ha": "center", "va": "center", "fontsize": 6, "bbox": box}
        canvas.words(x, y, "", "none", side, **look)


def _caption(
    canvas: Canvas, images: SheetImages, i: int, place: tuple[float, float], room: float
) -> None:
    """Sign, confidence and predicted class; the other class and its probability; the id."""
    predictions, row, (x, y) = images.predictions, images.rows[i], place
    known = predictions.labels[row] >= 0
    sign, color = "", "black"
    if known:
        sign, color = ("✓ ", BLUE) if predictions.correct[row] else ("✗ ", VERMILION)
    for lift, k, lead, look in (
        (0.0, predictions.preds[row], sign, {"color": color, "fontweight": "bold"}),
        (0.16, images.others[i], f"{images.kind(i)} ", {}),
    ):
        share = f"{100 * predictions.probs[row, k]:.0f} %  "
        canvas.words(x, y + lift, lead + share, predictions.classes[k], room, **look)
    canvas.words(x, y + 0.31, "", predictions.ids[row], room, fontsize=6.5, color=GRAY)


def _area_room(heats: Sequence[LayerHeatmap]) -> float:
    """Inches that the line of deletion and insertion needs."""
    return 0.14 if any(heat.areas is not None for heat in heats) else 0.0


def _areas_text(
    canvas: Canvas, heat: LayerHeatmap, i: int, place: tuple[float, float], room: float
) -> None:
    """Deletion and insertion of the predicted class, where they are known."""
    if heat.areas is not None:
        deletion, insertion = heat.areas[i]
        text = f"deletion {deletion:.2f}   insertion {insertion:.2f}"
        canvas.words(*place, "", text, room, fontsize=6.5, color=GRAY)


def _legend(canvas: Canvas, y: float, notes: Sequence[str]) -> None:
    look = {"fontsize": 7, "color": GRAY}
    room = canvas.figure.get_figwidth() - 2 * GAP
    canvas.words(GAP, y + 0.09, "", "none", room, **look)
    canvas.ramp(GAP + 0.3, y, (0.9, 0.1), PALETTE)
    text = "the strongest evidence at that layer in that row, for either class"
    canvas.words(GAP + 1.26, y + 0.09, "", text, room - 1.26, **look)
    for i, note in enumerate(notes):
        canvas.words(GAP, y + 0.27 + 0.16 * i, "", note, room, **look)


def _notes(heats: Sequence[LayerHeatmap], pictures: ImageArray) -> list[str]:
    """What to keep in mind: maps of few cells, and maps without any positive evidence."""
    notes = []
    for heat in heats:
        if heat.coarse:
            px = max(pictures.shape[1] / heat.maps.shape[2], pictures.shape[2] / heat.maps.shape[3])
            notes.append(
                f"{heat.name}: a cell covers {px:.3g} px; "
                f"with under {COARSE_CELLS}x{COARSE_CELLS} cells a "
                "map is too coarse to say where"
            )
    blank = any((heat.maps.max(axis=(2, 3), initial=0) <= 0).any() for heat in heats)
    if any(heat.areas is not None for heat in heats):
        notes.append(AREAS)
    return notes + ['"none": all evidence for that class is negative or 0'] * blank
