"""The heat maps of a run: on sheets of the worst mistakes, and in the gallery of the page."""

from functools import partial
from pathlib import Path

import numpy as np

from .. import figures
from ..cam.layers import default_layers
from ..datasets import Split
from ..datasets.originals import display_images, images_as_pictures
from ..events import OnEvent, Progress
from ..files import write_csv
from ..metrics.mistakes import MistakeOrder, additional_rows, sheet_rows
from ..recipe import Explain
from ..records import ImageArray, IntArray
from ..runs.gallery import GalleryMaps, GalleryNeighbors, write_gallery
from .layer_maps import (
    SLOW_METHODS,
    LayerMaps,
    areas_table,
    faithfulness_areas,
    layer_heatmaps,
    layer_maps,
    predicted_and_other,
    shrink_maps,
)
from .steps import ExplainInputs, StepLog, sheet_images

MAX_GALLERY_CELLS = 64  # a side, of a map given to the gallery, which keeps fewer


def draw_and_keep_maps(
    folder: Path,
    inputs: ExplainInputs,
    options: Explain,
    *,
    rank: MistakeOrder,
    on_event: OnEvent,
    log: StepLog,
    neighbors: GalleryNeighbors | None = None,
) -> tuple[str, ...]:
    """Draw the sheets of heat maps and write the gallery; return the layers with their map sizes.

    If the heat maps fail, or the network has no layer for them, the gallery has the pictures alone.
    """
    wrong, right = sheet_rows(inputs.predictions, options.images, rank=rank)
    sheet = np.concatenate([wrong, right])
    rows, maps, kept = sheet, LayerMaps(), list[GalleryMaps]()
    with log.step("heat maps"):
        layers, more = _choose(inputs, options, sheet, log)
        if layers:
            rows = np.concatenate([sheet, more])
            maps = _compute(inputs, options, layers, rows, slice(0, len(sheet)), on_event)
            with log.step("sheets of heat maps"):
                _draw_sheets(folder, inputs, options, maps, (wrong, right), rank=rank, log=log)
            rest: LayerMaps = {}
            if len(more):
                part, side = slice(len(sheet), None), MAX_GALLERY_CELLS
                rest = _compute(inputs, options, layers, rows, part, on_event, side=side)
            kept = _for_gallery(inputs, maps, rest, rows)
    with log.step("gallery", "gallery/"):
        write_gallery(
            folder,
            images_as_pictures(inputs.test),
            inputs.predictions,
            rows=rows if kept else rows[:0],
            maps=kept,
            method=options.method,
            photos=partial(_photos, inputs.test) if inputs.test.originals else None,
            neighbors=neighbors,
        )
    return tuple(heatmap.name for heatmap in layer_heatmaps(maps))


def _photos(test: Split, rows: IntArray, px: int) -> tuple[ImageArray, int]:
    """The pictures of rows at up to `px`, and how many of them only have what the network saw."""
    shown = display_images(test, rows, px=px)
    return shown.pictures, shown.num_stand_ins


def _choose(
    inputs: ExplainInputs, options: Explain, rows: IntArray, log: StepLog
) -> tuple[tuple[str, ...], IntArray]:
    """The layers to look at, and the rows that get maps in addition to those on the sheets."""
    layers = options.layers or default_layers(inputs.model, inputs.test.shape[1:])
    if not layers:
        log.notes.append(
            f"{type(inputs.model).__name__} has no layer whose output is a map (N, C, h, w) "
            "of a size to look at, so there are no heat maps; name layers of another size"
        )
    elif options.method not in SLOW_METHODS:
        return layers, additional_rows(inputs.predictions, options.maps, rows)
    else:
        log.notes.append(
            f"{options.method} is slow: heat maps of the {len(rows)} images on the sheets"
        )
    return layers, rows[:0]


def _compute(
    inputs: ExplainInputs,
    options: Explain,
    layers: tuple[str, ...],
    rows: IntArray,
    part: slice,
    on_event: OnEvent,
    *,
    side: int | None = None,
) -> LayerMaps:
    """The maps of a part of the rows; all rows count in the progress."""
    total = f"heat maps of {len(rows):,} images"
    return layer_maps(
        inputs.model,
        inputs.test,
        inputs.stats,
        predicted_and_other(inputs.predictions)[rows[part]],
        layers=layers,
        method=options.method,
        rows=rows[part],
        side=side,
        on_batch=lambda done: on_event(Progress(total, part.start + done, len(rows))),
    )


def _draw_sheets(
    folder: Path,
    inputs: ExplainInputs,
    options: Explain,
    maps: LayerMaps,
    rows: tuple[IntArray, IntArray],
    *,
    rank: MistakeOrder,
    log: StepLog,
) -> None:
    """The sheets, and `heatmaps.csv`; the maps are those of the wrong rows, then of the right."""
    predictions, method = inputs.predictions, options.method
    (wrong, right), both = rows, np.concatenate(rows)
    areas: LayerMaps = {}
    with log.step("deletion and insertion", "heatmaps.csv"):
        areas = faithfulness_areas(
            inputs.model, inputs.test, inputs.stats, predictions.preds[both], maps, rows=both
        )
        write_csv(folder / "heatmaps.csv", areas_table(predictions, both, areas, method))
    worst = f"Misclassified, the {len(wrong)} of largest {rank}, pair by pair"
    n = len(wrong)
    for name, chosen, part, title in (
        ("misclassified", wrong, slice(n), worst),
        ("correct", right, slice(n, None), "Correct, evenly from the test set"),
    ):
        others = predicted_and_other(predictions)[chosen, 1]
        images = sheet_images(inputs.test, predictions, chosen, others)
        figure = figures.heat_sheet(images, layer_heatmaps(maps, areas, part), f"{title}: {method}")
        file = f"{name}_{method}.png"
        figures.save(figure, folder / file)
        log.files.append(file)


def _for_gallery(
    inputs: ExplainInputs, sheet: LayerMaps, rest: LayerMaps, rows: IntArray
) -> list[GalleryMaps]:
    """The maps of all rows as the gallery takes them: those of the sheets, then the rest."""
    is_right = inputs.predictions.correct[rows][:, None, None]
    kept = []
    for layer, maps in sheet.items():
        small = shrink_maps(maps, MAX_GALLERY_CELLS)
        if rest:
            small = np.concatenate([small, rest[layer]])
        pred, other = small[:, 0], small[:, 1]
        # The other map of a right answer is of the runner-up, which the gallery has no place for.
        true = np.where(is_right, pred, other)
        kept.append(GalleryMaps(layer, pred, true, maps.shape[-2:]))
    return kept
