"""Why it was wrong: the mistakes of a run, or your own pictures, and where the network looked."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import figures
from ..cam import METHODS
from ..cam.layers import check_layers, default_layers
from ..datasets import Dataset, Split, hold_out, read_pictures
from ..errors import ResightError, UsageError, suggest
from ..events import OnEvent, ignore_events
from ..figures import LayerHeatmap, SheetImages
from ..metrics.mistakes import MistakeOrder, check_order, mistakes, sheet_rows
from ..networks.unwrap import device_of
from ..recipe import Explain
from ..recipe.toml import with_changes
from ..records import IntArray, Predictions
from ..runs.checkpoint import ModelInfo, load_model
from ..runs.inference import predict_images
from ..runs.results import draw_sheets
from ..runs.run import Run
from ..training.device import pick_device
from ..training.setup import load_dataset
from .explain_run import Explanation, explain_run
from .layer_maps import LayerMaps, faithfulness_areas, layer_maps, predicted_and_other
from .steps import ExplainInputs, as_pictures


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
    on_event: OnEvent = ignore_events,
) -> Explanation:
    """Explain a finished run: where it looked in its mistakes, or in picture files of your own.

    Without `images`: mistakes, heat maps of the `count` worst and of as many right answers, label
    issues and report.html, all into the run folder, from the run's saved predictions. With
    `images`: heat maps of these, into a new folder inside it, for the predicted class and the
    runner-up, or the true class where `label` names it and the network predicts another.

    `layers`, `method` and `count` stand in for the settings in the recipe's section `explain`.
    `rank` says which mistakes are the worst, by default those of largest loss. `data` is the run's
    own data set, where it has moved or was passed in from Python. Steps that fail are in `failed`
    of the result; the rest are done.

    Raises:
        UsageError: no such run, layer, method, rank, label or picture; the data is not the run's;
            or what is for pictures goes with none, or what is for the test set with pictures.
        ResightError: the run was stopped before its end, or a file cannot be written.
    """
    paths = [Path(p) for p in ([images] if isinstance(images, str | Path) else images)]
    names = [layers] if isinstance(layers, str) else layers and list(layers)
    _check_arguments(pictures=bool(paths), rank=rank, count=count, data=data, label=label)
    run = run if isinstance(run, Run) else Run.open(run)
    network, info = load_model(run.folder, model, pick_device(device))
    settings = {"layers": names, "method": method, "images": count}
    changes = {"explain": {key: value for key, value in settings.items() if value is not None}}
    options = with_changes(info.recipe, changes, origin="flags").explain
    if options.layers:
        check_layers(network, options.layers, (info.channels, info.image_size, info.image_size))
    if paths:
        return _explain_pictures(run, network, info, paths, options, label=label)
    inputs = _inputs(run, network, info, data, offline=offline, on_event=on_event)
    rank = rank or "loss"
    _draw_sheets(run.folder, inputs, options.images, rank)
    return explain_run(run, inputs, options, rank=rank, on_event=on_event)


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
    """The network with the data of the finished run and the predictions that were saved."""
    predictions, summary = run.predictions, run.summary
    if predictions is None or summary is None:
        images = run.test.images  # raises if the run is not finished
        raise ResightError(
            f"{run.folder} has no predictions.npz of its {images:,} test images that can be read, "
            "so it cannot be explained; take the file from a copy of the run, or train again"
        )
    dataset = load_dataset(info.recipe, data, offline=offline, on_event=on_event)
    if dataset.fingerprint != summary.data.fingerprint:
        raise UsageError(
            f"the data in {dataset.name} is not what the run was tested on; give the same data, "
            "or name picture files to explain these"
        )
    train, fraction = dataset.train, info.recipe.data.val_fraction
    if fraction is not None:
        train, _ = hold_out(train, fraction, info.recipe.seed)
    return ExplainInputs(model, info.recipe, info.stats, train, dataset.test, predictions)


def _draw_sheets(folder: Path, inputs: ExplainInputs, count: int, rank: MistakeOrder) -> None:
    """Draw the sheets without heat maps; where they change, remove old ones with heat maps.

    So the sheets of all methods in a run folder show the same images.
    """
    kinds = ("misclassified", "correct")

    def content() -> list[bytes]:
        return [file.read_bytes() for kind in kinds if (file := folder / f"{kind}.png").exists()]

    before = content()
    rows = sheet_rows(inputs.predictions, count, rank=rank)
    draw_sheets(folder, inputs.predictions, inputs.pictures, rows, rank)
    if content() != before:
        for kind, method in product(kinds, METHODS):
            (folder / f"{kind}_{method}.png").unlink(missing_ok=True)


def _explain_pictures(
    run: Run,
    model: nn.Module,
    info: ModelInfo,
    paths: Sequence[Path],
    options: Explain,
    *,
    label: str | None,
) -> Explanation:
    """Draw a sheet of all pictures and a strip of each, into a folder that is not there yet."""
    if label is not None and label not in info.classes:
        raise UsageError(
            f"there is no class {label!r}{suggest(label, info.classes)} "
            f"(valid: {', '.join(info.classes)})"
        )
    shape = (info.channels, info.image_size, info.image_size)
    layers = options.layers or default_layers(model, shape)
    if not layers:
        raise UsageError(f"{type(model).__name__} has no layer with a map to look at")
    split = read_pictures(paths, image_size=info.image_size, channels=info.channels)
    true = -1 if label is None else info.classes.index(label)
    split = Split(split.images, torch.full_like(split.labels, true), split.ids)
    device = device_of(model, split.images.device)
    predictions = predict_images(model, split, info, info.recipe, device)
    both = predicted_and_other(predictions)
    maps = layer_maps(model, split, info.stats, both, layers=layers, method=options.method)
    areas = faithfulness_areas(model, split, info.stats, predictions.preds, maps)
    folder = _new_folder(run.folder, paths[0].stem)
    files = _draw_pictures(folder, paths, predictions, as_pictures(split), maps, areas, options)
    wrong = mistakes(predictions) if label is not None else []
    names = tuple(LayerHeatmap(layer, values).name for layer, values in maps.items())
    return Explanation(folder, files, options.method, names, tuple(wrong), (), (), of_pictures=True)


def _draw_pictures(
    folder: Path,
    paths: Sequence[Path],
    predictions: Predictions,
    pictures: NDArray[np.uint8],
    maps: LayerMaps,
    areas: LayerMaps,
    options: Explain,
) -> tuple[str, ...]:
    """Draw the sheet and the strips; return the names of the files."""
    rows, others = np.arange(len(paths)), predicted_and_other(predictions)[:, 1]

    def heatmaps(part: IntArray) -> list[LayerHeatmap]:
        return [LayerHeatmap(layer, maps[layer][part], areas[layer][part]) for layer in maps]

    files = []
    if len(paths) > 1:
        files.append(f"pictures_{options.method}.png")
        images = SheetImages(pictures, predictions, rows, others)
        figure = figures.heat_sheet(images, heatmaps(rows), f"Where it looked: {options.method}")
        figures.save(figure, folder / files[0])
    for i, path in enumerate(paths):
        part = rows[i : i + 1]
        images = SheetImages(pictures[part], predictions, part, others[part])
        number = f"{i + 1:03d}-" if len(paths) > 1 else ""
        files.append(f"{number}{path.stem}_{options.method}.png")
        figure = figures.heat_strip(images, heatmaps(part), f"{path.name}: {options.method}")
        figures.save(figure, folder / files[-1])
    return tuple(files)


def _new_folder(run: Path, stem: str) -> Path:
    """`explain-<stem>` in the run, or with the first free number behind it."""
    for number in range(1, 10_000):
        path = run / (f"explain-{stem}" + (f"-{number}" if number > 1 else ""))
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise ResightError(f"cannot make {path}: {error.strerror}") from error
    raise ResightError(f"{run} has too many folders explain-{stem}; remove some")
