"""Where a network looked: heat maps over pictures, for the predicted class and for another.

A map lies over the gray picture, smoothed to its size. If it has too few cells to say where, it is
shown cell by cell, with their edges, so that nobody reads more detail into it than is there.
Positive evidence only, on one scale from 0 to the
strongest cell of either class at that layer, so the two classes can be compared. The palette,
inferno, rises evenly in brightness and reads the same with every kind of color vision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import COARSE_CELLS, Float32Array, ImageArray, IntArray, Predictions
from .contact_sheet import Line, Row, Tile, contact_sheet, side_of
from .pictures import verdict_line
from .style import GRAY

Maps = Float32Array

AREAS = (
    "deletion, insertion: the predicted class's mean probability, less that of an empty picture, "
    "while the pixels of strongest evidence go first, or come first; low deletion and high "
    "insertion are good"
)
PALETTE = np.rint(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
_OPACITY = 0.8  # of the strongest evidence
_EDGE = 0.35  # of white, between the cells of a coarse map
_OVERLAY_PX = 128  # a side, at least
_CAPTION_WIDTH, _LAYER_SPACE = 1.65, 0.12  # inches
_SCALE = "the strongest evidence at that layer in that row, for either class"
_LEGEND = Row(
    [
        Tile(below=[Line("none", size=7, color=GRAY)], width=0.25),
        Tile(np.tile(PALETTE, (28, 1, 1)), width=0.9),
        Tile(below=[Line(_SCALE, size=7, color=GRAY)], width=3.5),
    ]
)


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
    seen_px: int | None = None  # a side, as the network saw the pictures, where they are larger
    notes: tuple[str, ...] = ()  # lines below the pictures

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

    A map of fewer than COARSE_CELLS cells a side is drawn as its cells, with their edges. The more
    evidence, the less of the picture shows through; without any it is the gray picture.
    """
    s = max(1, round(_OVERLAY_PX / max(picture.shape[:2])))
    weights = (0.299, 0.587, 0.114) if picture.shape[2] == 3 else (1.0,)
    gray = (picture @ np.array(weights)).repeat(s, axis=0).repeat(s, axis=1)  # (s H, s W)
    cells = heat.shape
    coarse = min(cells) < COARSE_CELLS and bool(heat.any())
    heat = _in_cells(heat, *gray.shape) if coarse else smoothed(heat, *gray.shape)
    opacity = _OPACITY * heat[:, :, None] ** 0.7
    mixed = (1 - opacity) * gray[:, :, None] + opacity * _colored(heat)
    if coarse:
        for axis, count in enumerate(cells):
            edges = np.arange(1, count) * gray.shape[axis] // count
            np.moveaxis(mixed, axis, 0)[edges] += _EDGE * (255 - np.moveaxis(mixed, axis, 0)[edges])
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _in_cells(maps: Maps, height: int, width: int) -> Maps:
    """(h, w) -> (height, width), each cell as a block of its value."""
    high, wide = maps.shape
    rows, columns = (np.arange(n) * cells // n for n, cells in ((height, high), (width, wide)))
    return np.asarray(maps[rows][:, columns], dtype=np.float32)


def heat_sheet(images: SheetImages, heats: Sequence[LayerHeatmap], title: str) -> Figure:
    """Draw a row for each picture: at each layer the map for either class over the picture."""
    _check(images, heats)
    r = len(images.rows)
    kind = " or ".join(sorted({images.kind(i) for i in range(r)}))
    head = [Tile(width=_CAPTION_WIDTH), Tile()]
    for heat in heats:
        above = [_layer_line(heat), Line("predicted", size=6, color=GRAY)]
        head.append(Tile(above=above, space=_LAYER_SPACE))
        head.append(Tile(above=[Line(kind, size=6, color=GRAY)]))
    rows = []
    for i, picture in enumerate(images.pictures):
        tiles = [Tile(below=_caption(images, i), width=_CAPTION_WIDTH), Tile(picture)]
        for heat in heats:
            predicted, other = positive_map(heat.maps[i])  # each (h, w)
            overlay = _overlay(picture, predicted)
            tiles.append(replace(overlay, below=_areas(heat, i), space=_LAYER_SPACE))
            tiles.append(_overlay(picture, other))
        rows.append(Row(tiles))
    return contact_sheet(
        rows,
        title=title,
        side=side_of(images.pictures, 0.8),
        head=Row(head),
        legend=_LEGEND,
        notes=_notes(heats, images),
        empty="none of these pictures",
    )


def heat_strip(images: SheetImages, heats: Sequence[LayerHeatmap], title: str) -> Figure:
    """Draw one picture, large: a row for each of two classes, with the map of each layer."""
    _check(images, heats)
    if len(images.rows) != 1:
        raise UsageError(f"a strip shows one picture, not {len(images.rows)}; use heat_sheet")
    picture, classes = images.pictures[0], images.predictions.classes
    predicted = classes[images.predictions.preds[images.rows[0]]]
    names = (f"{predicted} (predicted)", f"{classes[images.others[0]]} ({images.kind(0)})")
    rows = []
    for j, name in enumerate(names):
        tiles = [Tile(below=_caption(images, 0)) if j else Tile(picture)]
        for heat in heats:
            scaled = positive_map(heat.maps[0])[j]
            above = [Line("for ", name, size=7.5)]
            if j == 0:
                above = [_layer_line(heat), *_areas(heat, 0), *above]
            tiles.append(replace(_overlay(picture, scaled), above=above, space=_LAYER_SPACE))
        rows.append(Row(tiles))
    side, notes = side_of(images.pictures, 1.25), _notes(heats, images)
    return contact_sheet(rows, title=title, side=side, legend=_LEGEND, notes=notes)


def heat_grid(
    pictures: ImageArray | None,
    captions: Sequence[str],
    heats: Sequence[LayerHeatmap],
    names: Sequence[Sequence[str]],
) -> Figure:
    """Draw a row for each image: the map of every layer and class over the gray picture.

    Maps are (R, M, h, w), raw and signed; `names` are those of the M classes of each of R images,
    `captions` are what the pictures were taken for. Without `pictures` (R, H, W, 1 or 3) the maps
    are shown on black.
    """
    shapes = {heat.maps.shape[:2] for heat in heats}
    if shapes != {(len(captions), len(names[0]) if names else 0)} or len(names) != len(captions):
        raise UsageError(
            f"{len(captions)} images have {len(names)} rows of names and maps of (images, classes) "
            f"{sorted(shapes)}; give a row of names an image and a map a name"
        )
    rows = []
    for i, caption in enumerate(captions):
        picture = None if pictures is None else pictures[i]
        tiles = [Tile(picture, above=[Line(name=caption, bold=True)])]
        for heat in heats:
            behind = np.zeros((*heat.maps.shape[2:], 1), np.uint8) if picture is None else picture
            maps = zip(names[i], positive_map(heat.maps[i]), strict=True)
            row = [replace(_overlay(behind, m), above=[Line("for ", name)]) for name, m in maps]
            above = [*([] if i else [_layer_line(heat)]), *row[0].above]
            tiles += [replace(row[0], above=above, space=0.1), *row[1:]]
        rows.append(Row(tiles))
    title = "Yellow: the strongest evidence at that layer in that image"
    return contact_sheet(rows, title=title, side=1.0)


def _check(images: SheetImages, heats: Sequence[LayerHeatmap]) -> None:
    """Check that every row has a picture, another class, and two maps and areas at every layer."""
    r = len(images.rows)
    for name, shape, expected in (
        ("pictures", images.pictures.shape, (r, *images.pictures.shape[1:])),
        ("other classes", images.others.shape, (r,)),
        *((f"heat maps at {h.layer}", h.maps.shape, (r, 2, *h.maps.shape[2:])) for h in heats),
        *((f"areas at {h.layer}", h.areas.shape, (r, 2)) for h in heats if h.areas is not None),
    ):
        if shape != expected:
            raise UsageError(f"the {name} are {shape}; for {r} rows they must be {expected}")


def _bilinear(cells: int, px: int) -> NDArray[np.float64]:
    """(px, cells) weights of the cells in each pixel; the border cells reach to the edge."""
    at = np.clip((np.arange(px) + 0.5) * cells / px - 0.5, 0, cells - 1)  # in cells
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))))


def _colored(heat: Maps) -> ImageArray:
    """(h, w) in [0, 1] -> (h, w, 3)."""
    return np.asarray(PALETTE[np.rint(255 * np.clip(heat, 0, 1)).astype(np.int64)])


def _overlay(picture: ImageArray, heat: Maps) -> Tile:
    return Tile(blend_heatmap(picture, heat), over="" if heat.any() else "none")


def _layer_line(heat: LayerHeatmap) -> Line:
    return Line(name=heat.name, size=9, bold=True)


def _caption(images: SheetImages, i: int) -> list[Line]:
    """Sign, confidence and predicted class; the other class and its probability; the id."""
    predictions, row, other = images.predictions, images.rows[i], images.others[i]
    pred, probs = predictions.preds[row], predictions.probs[row]
    right = None if predictions.labels[row] < 0 else predictions.correct[row]
    return [
        verdict_line(right, f"{100 * probs[pred]:.0f} %  ", predictions.classes[pred]),
        Line(f"{images.kind(i)} {100 * probs[other]:.0f} %  ", predictions.classes[other]),
        Line(name=predictions.ids[row], size=6.5, color=GRAY),
    ]


def _areas(heat: LayerHeatmap, i: int) -> list[Line]:
    """Deletion and insertion of the predicted class, where they are known."""
    if heat.areas is None:
        return []
    deletion, insertion = np.round(heat.areas[i], 2) + 0.0  # no -0.00
    return [Line(f"deletion {deletion:.2f}   insertion {insertion:.2f}", size=6.5, color=GRAY)]


def _notes(heats: Sequence[LayerHeatmap], images: SheetImages) -> list[str]:
    """What to keep in mind: maps of few cells, and maps without any positive evidence."""
    notes = list(images.notes)
    seen = images.seen_px
    high, wide = (seen, seen) if seen else images.pictures.shape[1:3]
    whole = f" of these {seen}" if seen else ""
    for heat in heats:
        if heat.coarse:
            px = max(high / heat.maps.shape[2], wide / heat.maps.shape[3])
            notes.append(
                f"{heat.name}: a cell covers {px:.3g}{whole} px; "
                f"with under {COARSE_CELLS}x{COARSE_CELLS} cells a "
                "map is too coarse to say where"
            )
    blank = any((heat.maps.max(axis=(2, 3), initial=0) <= 0).any() for heat in heats)
    if any(heat.areas is not None for heat in heats):
        notes.append(AREAS)
    return notes + ['"none": all evidence for that class is negative or 0'] * blank
