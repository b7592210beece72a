"""Explain the mistakes of a run, or what a network predicts for your own pictures."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import figures
from ..cam import METHODS
from ..cam.layers import check_layers, default_layers
from ..datasets import Dataset, read_pictures
from ..datasets.splits import train_and_val
from ..errors import ResightError, UsageError, suggest
from ..events import Message, OnEvent, show_events
from ..figures import SheetImages
from ..metrics.confidence import with_temperature
from ..metrics.mistakes import MistakeOrder, check_order, mistakes, sheet_rows
from ..recipe import Explain, Recipe
from ..recipe.toml import with_changes
from ..runs.causes import Causes, write_causes
from ..runs.checkpoint import ModelInfo, load_model
from ..runs.inference import predict_images
from ..runs.results import draw_sheets
from ..runs.run import Run
from ..training.device import pick_device
from ..training.setup import load_dataset
from .causes import find_causes
from .explain_run import Explanation, explain_run
from .layer_maps import (
    LayerMaps,
    faithfulness_areas,
    layer_heatmaps,
    layer_maps,
    predicted_and_other,
)
from .steps import ExplainInputs, sheet_images


def explain(
    run: str | Path | Run,
    images: Sequence[str | Path] | str | Path = (),
    *,
    layers: Sequence[str] | str | None = None,
    method: str | None = None,
    rank: MistakeOrder | None = None,
    count: int | None = None,
    label: str | None = None,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> Explanation:
    """Explain a finished run: where it looked in its mistakes, or in picture files of your own.

    Without `images`, this writes mistakes, label issues, report.html and heat maps of the `count`
    worst mistakes and of as many correct images into the run folder, from the saved predictions.
    With `images`, it writes heat maps of these pictures into a new folder inside the run, for the
    predicted class and the runner-up. If `label` names the true class and the network predicts
    another, the true class takes the place of the runner-up.

    `layers`, `method` and `count` replace the settings in the recipe's section `explain`. `rank`
    says which mistakes are the worst, by default those of largest loss. `data` is the run's own
    data set, if it has moved or was passed in from Python. Steps that fail are listed in `failed`
    of the result; all other steps are done.

    Raises:
        UsageError: no such run, layer, method, rank, label or picture; the data is not the run's;
            `label` without pictures; or `rank`, `count` or `data` with pictures.
        ResightError: the run was stopped before its end, or a file cannot be written.
    """
    paths = [Path(p) for p in ([images] if isinstance(images, str | Path) else images)]
    _check_arguments(pictures=bool(paths), rank=rank, count=count, data=data, label=label)
    run = Run.open(run)
    network, info = load_model(
        run.folder, model, pick_device(device), allow_import=run.allow_import
    )
    for note in info.notes:
        on_event(Message(note))
    names = [layers] if isinstance(layers, str) else layers and list(layers)
    options = _options(info.recipe, layers=names, method=method, images=count)
    if options.layers:
        check_layers(network, options.layers, (info.channels, info.image_size, info.image_size))
    if paths:
        return _explain_pictures(run, network, info, paths, options, label=label)
    inputs = _inputs(run, network, info, data, offline=offline, on_event=on_event)
    _draw_sheets(run.folder, inputs, options.images, rank or "loss")
    return explain_run(run, inputs, options, rank=rank or "loss", on_event=on_event)


def causes(
    run: str | Path | Run,
    *,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> Causes:
    """Find why a finished run was wrong: causes of its mistakes, each confirmed by an intervention.

    This writes `causes.json` and `causes.csv` into the run folder, as `explain` does too. What
    `explain` has found is in `Run.causes`. `data` and `model` are as for `explain`.

    Raises:
        UsageError: no such run, the data is not the run's, or the network has no linear layer.
        ResightError: the run was stopped before its end, or a file cannot be written.
    """
    run = Run.open(run)
    network, info = load_model(
        run.folder, model, pick_device(device), allow_import=run.allow_import
    )
    inputs = _inputs(run, network, info, data, offline=offline, on_event=on_event)
    result = find_causes(inputs, on_event=on_event)
    write_causes(run.folder, result, inputs.predictions)
    return result


def _options(recipe: Recipe, **settings: Any) -> Explain:
    """The section `explain` of a recipe, with those settings in place that are not None."""
    changes = {key: value for key, value in settings.items() if value is not None}
    return with_changes(recipe, {"explain": changes}, origin="flags").explain


def _check_arguments(
    *,
    pictures: bool,
    rank: str | None,
    count: int | None,
    data: Dataset | str | Path | None,
    label: str | None,
) -> None:
    """Refuse arguments that do not go together, before anything is loaded."""
    if rank is not None:
        check_order(rank)
    if not pictures and label is not None:
        raise UsageError(f"label = {label!r} is for pictures of your own; name them as well")
    source = data.name if isinstance(data, Dataset) else data
    for name, value in (("images", count), ("rank", rank), ("data", source)):
        if pictures and value is not None:
            raise UsageError(
                f"{name} = {value} is for the run's own test set; leave it out, "
                "or leave out the pictures"
            )


def _inputs(
    run: Run,
    model: nn.Module,
    info: ModelInfo,
    data: Dataset | str | Path | None,
    *,
    offline: bool,
    on_event: OnEvent,
) -> ExplainInputs:
    """The network, with the data and the saved predictions of the finished run."""
    predictions, summary = run.predictions, run.summary
    if predictions is None or summary is None:
        images = run.test.images  # raises if the run is not finished
        raise ResightError(
            f"{run.folder} has no predictions.npz of its {images:,} test images that can be read, "
            "so it cannot be explained; take the file from a copy of the run, or train again"
        )
    dataset = load_dataset(
        info.recipe, data, offline=offline, on_event=on_event, run_folder=run.folder
    )
    if dataset.fingerprint != summary.data.fingerprint:
        raise UsageError(
            f"the data in {dataset.name} is not what the run was tested on; give the same data, "
            "or name picture files to explain these"
        )
    train, _ = train_and_val(dataset, info.recipe)
    return ExplainInputs(model, info.recipe, info.stats, train, dataset.test, predictions)


def _draw_sheets(folder: Path, inputs: ExplainInputs, count: int, rank: MistakeOrder) -> None:
    """Draw the sheets without heat maps; if they change, remove older sheets with heat maps.

    So the sheets of all methods in a run folder show the same images.
    """
    sheets = [folder / "misclassified.png", folder / "correct.png"]
    before = [sheet.exists() and sheet.read_bytes() for sheet in sheets]
    rows = sheet_rows(inputs.predictions, count, rank=rank)
    draw_sheets(folder, inputs.predictions, inputs.test, rows, rank)
    if [sheet.read_bytes() for sheet in sheets] != before:
        for sheet, method in product(sheets, METHODS):
            sheet.with_stem(f"{sheet.stem}_{method}").unlink(missing_ok=True)


def _explain_pictures(
    run: Run,
    model: nn.Module,
    info: ModelInfo,
    paths: Sequence[Path],
    options: Explain,
    *,
    label: str | None,
) -> Explanation:
    """Draw a sheet of all pictures and a strip of each into a new folder in the run."""
    if label is not None and label not in info.classes:
        raise UsageError(
            f"there is no class {label!r}{suggest(label, info.classes)} "
            f"(valid: {', '.join(info.classes)})"
        )
    shape = (info.channels, info.image_size, info.image_size)
    layers = options.layers or default_layers(model, shape)
    if not layers:
        raise UsageError(f"{type(model).__name__} has no layer with a map to look at")
    split = read_pictures(
        paths,
        image_size=info.image_size,
        channels=info.channels,
        resize=info.recipe.data.resize,
    )
    true = -1 if label is None else info.classes.index(label)
    split = replace(split, labels=torch.full_like(split.labels, true))
    predictions = with_temperature(predict_images(model, split, info), info.temperature)
    both = predicted_and_other(predictions)
    maps = layer_maps(model, split, info.stats, both, layers=layers, method=options.method)
    areas = faithfulness_areas(model, split, info.stats, predictions.preds, maps)
    folder = _new_folder(run.folder, paths[0].stem)
    images = sheet_images(split, predictions, np.arange(len(paths)), both[:, 1])
    files = _draw_pictures(folder, paths, images, maps, areas, method=options.method)
    names = tuple(heat.name for heat in layer_heatmaps(maps))
    wrong = () if label is None else tuple(mistakes(predictions))
    return Explanation(folder, files, options.method, names, wrong, (), (), of_pictures=True)


def _draw_pictures(
    folder: Path,
    paths: Sequence[Path],
    images: SheetImages,
    maps: LayerMaps,
    areas: LayerMaps,
    *,
    method: str,
) -> tuple[str, ...]:
    """Draw a sheet of several pictures, and a strip of each; return the names of the files."""
    files = []
    if len(paths) > 1:
        files.append(f"pictures_{method}.png")
        heats = layer_heatmaps(maps, areas)
        figure = figures.heat_sheet(images, heats, f"Where it looked: {method}")
        figures.save(figure, folder / files[0])
    for i, path in enumerate(paths):
        row = slice(i, i + 1)
        one = replace(
            images, pictures=images.pictures[row], rows=images.rows[row], others=images.others[row]
        )
        number = f"{i + 1:03d}-" if len(paths) > 1 else ""
        files.append(f"{number}{path.stem}_{method}.png")
        heats = layer_heatmaps(maps, areas, row)
        figure = figures.heat_strip(one, heats, f"{path.name}: {method}")
        figures.save(figure, folder / files[-1])
    return tuple(files)


def _new_folder(run: Path, stem: str) -> Path:
    """Make the folder `explain-<stem>` in the run, or with the first free number behind it."""
    path, number = run / f"explain-{stem}", 1
    while path.exists():
        number += 1
        path = run / f"explain-{stem}-{number}"
    try:
        path.mkdir()
    except OSError as error:
        raise ResightError(f"cannot make {path}: {error.strerror}") from error
    return path
