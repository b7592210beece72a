"""The heat maps of a run: on sheets of the worst mistakes, and in the gallery of the page."""

from pathlib import Path

import numpy as np

from .. import figures
from ..cam.layers import default_layers
from ..events import OnEvent, Progress
from ..figures import LayerHeatmap, SheetImages
from ..files import write_csv
from ..metrics.mistakes import MistakeOrder, additional_rows, sheet_rows
from ..recipe import Explain
from ..records import IntArray
from ..runs.gallery import GalleryMaps, write_gallery
from .layer_maps import (
    PER_IMAGE,
    LayerMaps,
    areas_table,
    faithfulness_areas,
    layer_maps,
    predicted_and_other,
    shrink_maps,
)
from .steps import ExplainInputs, StepLog

MAX_GALLERY_CELLS = 64  # a side, of a map that the gallery is given; it keeps fewer


def draw_and_keep_maps(
    folder: Path,
    inputs: ExplainInputs,
    options: Explain,
    *,
    rank: MistakeOrder,
    on_event: OnEvent,
    log: StepLog,
) -> tuple[str, ...]:
    """Draw the sheets of heat maps and write the gallery; return the layers with their map sizes.

    Without heat maps the gallery has the pictures.
    """
    wrong, right = sheet_rows(inputs.predictions, options.images, rank=rank)
    rows = np.concatenate([wrong, right])
    maps: LayerMaps = {}
    kept: list[GalleryMaps] = []
    with log.step("heat maps"):
        layers, more = _choose(inputs, options, rows, log)
        if layers:
            maps = _compute(inputs, options, layers, rows, len(more), on_event)
            with log.step("sheets of heat maps"):
                _draw_sheets(folder, inputs, options, maps, wrong, right, rank=rank, log=log)
            rows, kept = _for_gallery(inputs, options, maps, rows, more, on_event)
    with log.step("gallery", "gallery/"):
        write_gallery(
            folder,
            inputs.pictures,
            inputs.predictions,
            rows=rows if kept else rows[:0],
            maps=kept,
            method=options.method,
        )
    return tuple(LayerHeatmap(layer, values).name for layer, values in maps.items())


def _choose(
    inputs: ExplainInputs, options: Explain, rows: IntArray, log: StepLog
) -> tuple[tuple[str, ...], IntArray]:
    """The layers to look at, and the rows beside those on the sheets that get maps too."""
    layers = options.layers or default_layers(inputs.model, inputs.test.images.shape[1:])
    if not layers:
        log.notes.append(
            f"{type(inputs.model).__name__} has no layer whose output is a map (N, C, h, w) "
            "of a size to look at, so there are no heat maps; name layers to look at others"
        )
    elif options.method not in PER_IMAGE:
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
    waiting: int,
    on_event: OnEvent,
    *,
    done_before: int = 0,
    side: int | None = None,
) -> LayerMaps:
    """The maps of these rows; `waiting` more rows follow and count in the progress."""
    total = done_before + len(rows) + waiting
    return layer_maps(
        inputs.model,
        inputs.test,
        inputs.stats,
        predicted_and_other(inputs.predictions)[rows],
        layers=layers,
        method=options.method,
        rows=rows,
        side=side,
        on_batch=lambda done: on_event(
            Progress(f"heat maps of {total:,} images", done_before + done, total)
        ),
    )


def _draw_sheets(
    folder: Path,
    inputs: ExplainInputs,
    options: Explain,
    maps: LayerMaps,
    wrong: IntArray,
    right: IntArray,
    *,
    rank: MistakeOrder,
    log: StepLog,
) -> None:
    """The sheets, and `heatmaps.csv`; maps are those of the wrong rows, then of the right ones."""
    predictions, method = inputs.predictions, options.method
    rows, pictures = np.concatenate([wrong, right]), inputs.pictures
    others = predicted_and_other(predictions)[:, 1]
    areas: LayerMaps = {}
    with log.step("deletion and insertion", "heatmaps.csv"):
        classes = predictions.preds[rows]
        areas = faithfulness_areas(
            inputs.model, inputs.test, inputs.stats, classes, maps, rows=rows
        )
        write_csv(folder / "heatmaps.csv", areas_table(predictions, rows, areas, method))
    worst = f"Misclassified, the {len(wrong)} of largest {rank}, pair by pair"
    for name, part, title in (
        ("misclassified", slice(0, len(wrong)), worst),
        ("correct", slice(len(wrong), None), "Correct, evenly from the test set"),
    ):
        heatmaps = [
            LayerHeatmap(layer, values[part], areas[layer][part] if areas else None)
            for layer, values in maps.items()
        ]
        chosen = rows[part]
        images = SheetImages(pictures[chosen], predictions, chosen, others[chosen])
        figure = figures.heat_sheet(images, heatmaps, f"{title}: {method}")
        file = f"{name}_{method}.png"
        figures.save(figure, folder / file)
        log.files.append(file)


def _for_gallery(
    inputs: ExplainInputs,
    options: Explain,
    maps: LayerMaps,
    rows: IntArray,
    more: IntArray,
    on_event: OnEvent,
) -> tuple[IntArray, list[GalleryMaps]]:
    """All rows that have maps, the most wanted first, and the maps as the gallery takes them."""
    sizes = {layer: values.shape[-2:] for layer, values in maps.items()}
    small = {layer: shrink_maps(values, MAX_GALLERY_CELLS) for layer, values in maps.items()}
    if len(more):
        rest = _compute(
            inputs,
            options,
            tuple(maps),
            more,
            0,
            on_event,
            done_before=len(rows),
            side=MAX_GALLERY_CELLS,
        )
        small = {layer: np.concatenate([small[layer], rest[layer]]) for layer in small}
    rows = np.concatenate([rows, more])
    is_right = inputs.predictions.correct[rows][:, None, None]
    return rows, [
        # The other map of a right answer is of the runner-up, which the gallery has no place for.
        GalleryMaps(layer, both[:, 0], np.where(is_right, both[:, 0], both[:, 1]), sizes[layer])
        for layer, both in small.items()
    ]
