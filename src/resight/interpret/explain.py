"""Why it was wrong: a run's mistakes, or pictures of one's own, and where the network looked."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import figures
from ..cam import METHODS
from ..cam.layers import check_layers, default_layers
from ..datasets import Dataset, Split, hold_out, read_pictures
from ..errors import ResightError, UsageError, suggest
from ..events import OnEvent
from ..figures import LayerHeatmap, SheetImages
from ..metrics.mistakes import MistakeOrder, check_order, mistakes, sheet_rows
from ..recipe import Explain
from ..recipe.toml import with_changes
from ..records import IntArray, Predictions
from ..runs.inference import load_model
from ..runs.results import draw_sheets
from ..runs.run import ModelInfo, RunFolder
from ..training.device import pick_device
from ..training.predict import predict_split
from ..training.setup import load_dataset
from .explain_run import Explanation, Subject, as_pictures, explain_run
from .layer_maps import faithfulness_areas, layer_maps, predicted_and_other


def explain(
    run: str | Path,
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
    on_event: OnEvent | None = None,
) -> Explanation:
    """Show where a finished run looked: on its mistakes, or on picture files of one's own.

    Without `images`: mistakes, heat maps of the `count` worst and of as many right answers,
    suspicious labels and report.html, all into the run folder. With `images`: heat maps of these,
    into a new folder inside it, for the predicted class and the runner-up, or the true class
    where `label` names it and the network says another.

    `layers`, `method` and `count` stand in for the settings in the recipe's section `explain`. `rank`
    says which mistakes are the worst, by default those of largest loss. `data` is the run's own
    data set, where it has moved or was passed in from Python. A lone layer or picture need not be
    in a list. Steps that fail are in `failed` of the result; the others are done.

    Raises:
        UsageError: no such run, layer, method, rank, label or picture; the data is not the run's;
            or what is for pictures goes with none, or what is for the test set with pictures.
        ResightError: the run was stopped before its end, or a file cannot be written.
    """
    paths = [Path(p) for p in ([images] if isinstance(images, str | Path) else images)]
    names = [layers] if isinstance(layers, str) else layers and list(layers)
    _check_asked(pictures=bool(paths), rank=rank, count=count, data=data, label=label)
    on_event = on_event or (lambda event: None)
    folder = RunFolder.open(Path(run))
    chosen = pick_device(device)
    module, info = load_model(folder, model, chosen)
    given = {"layers": names, "method": method, "images": count}
    changes = {"explain": {key: value for key, value in given.items() if value is not None}}
    asked = with_changes(info.recipe, changes, origin="flags").explain
    if asked.layers:
        check_layers(module, asked.layers, (info.channels, info.image_size, info.image_size))
    if paths:
        return _explain_pictures(folder, module, info, paths, asked, label=label)
    dataset = _own_data(folder, info, data, offline=offline, on_event=on_event)
    predictions = _predictions(module, info, dataset.test.to(chosen))
    train, fraction = dataset.train, info.recipe.data.val_fraction
    if fraction is not None:
        train, _ = hold_out(train, fraction, info.recipe.seed)
    subject = Subject(module, info.recipe, info.stats, train, dataset.test, predictions)
    rank = rank or "loss"
    _draw_sheets(folder.path, subject, asked.images, rank)
    return explain_run(folder, subject, asked, rank=rank, on_event=on_event)


def _check_asked(
    *,
    pictures: bool,
    rank: str | None,
    count: int | None,
    data: Dataset | str | Path | None,
    label: str | None,
) -> None:
    """UsageError unless all that is said can be heeded: before anything is loaded."""
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


def _own_data(
    folder: RunFolder,
    info: ModelInfo,
    data: Dataset | str | Path | None,
    *,
    offline: bool,
    on_event: OnEvent,
) -> Dataset:
    """The data set that the finished run was tested on."""
    finished = folder.read_summary()
    if not finished["test"]:
        raise ResightError(
            f"{folder.path} was stopped before its end, so the test set was not read; "
            f"go on with `resight resume {folder.path}`"
        )
    dataset = load_dataset(info.recipe, data, offline=offline, on_event=on_event)
    if dataset.fingerprint != finished["data"]["fingerprint"]:
        raise UsageError(
            f"the data in {dataset.name} is not what the run was tested on; give the same data, "
            "or name picture files to explain these"
        )
    return dataset


def _predictions(model: nn.Module, info: ModelInfo, split: Split) -> Predictions:
    return predict_split(
        model,
        split,
        info.stats,
        classes=info.classes,
        training=info.recipe.training,
        evaluation=info.recipe.evaluation,
    )


def _draw_sheets(path: Path, subject: Subject, count: int, rank: MistakeOrder) -> None:
    """The sheets without heat maps. Where they change, those with heat maps of old are removed.

    So the sheets of all methods in a run folder show the same images.
    """
    kinds = ("misclassified", "correct")

    def content() -> list[bytes]:
        return [file.read_bytes() for kind in kinds if (file := path / f"{kind}.png").exists()]

    before = content()
    rows = sheet_rows(subject.predictions, count, rank=rank)
    draw_sheets(path, subject.predictions, as_pictures(subject.test), rows, rank)
    if content() != before:
        for kind, method in product(kinds, METHODS):
            (path / f"{kind}_{method}.png").unlink(missing_ok=True)


def _explain_pictures(
    folder: RunFolder,
    model: nn.Module,
    info: ModelInfo,
    paths: Sequence[Path],
    asked: Explain,
    *,
    label: str | None,
) -> Explanation:
    """A sheet of all pictures and a strip of each, into a folder that is not there yet."""
    if label is not None and label not in info.classes:
        raise UsageError(
            f"there is no class {label!r}{suggest(label, info.classes)} "
            f"(valid: {', '.join(info.classes)})"
        )
    layers = asked.layers or default_layers(
        model, (info.channels, info.image_size, info.image_size)
    )
    if not layers:
        raise UsageError(f"{type(model).__name__} has no layer with a map to look at")
    split = read_pictures(paths, image_size=info.image_size, channels=info.channels)
    known = -1 if label is None else info.classes.index(label)
    split = Split(split.images, torch.full_like(split.labels, known), split.ids)
    device = next((p.device for p in model.parameters()), split.images.device)
    predictions = _predictions(model, info, split.to(device))
    both = predicted_and_other(predictions)
    maps = layer_maps(model, split, info.stats, both, layers=layers, method=asked.method)
    numbers = faithfulness_areas(model, split, info.stats, predictions.preds, maps)
    path = _new_folder(folder.path, paths[0].stem)
    rows, others, pictures = np.arange(len(split)), both[:, 1], as_pictures(split)

    def heats(at: IntArray) -> list[LayerHeatmap]:
        return [
            LayerHeatmap(layer, values[at], numbers[layer][at]) for layer, values in maps.items()
        ]

    files = []
    if len(split) > 1:
        files.append(f"pictures_{asked.method}.png")
        shown = SheetImages(pictures, predictions, rows, others)
        figure = figures.heat_sheet(shown, heats(rows), f"Where it looked: {asked.method}")
        figures.save(figure, path / files[0])
    for i, picture in enumerate(paths):
        at = rows[i : i + 1]
        shown = SheetImages(pictures[at], predictions, at, others[at])
        number = f"{i + 1:03d}-" if len(split) > 1 else ""
        files.append(f"{number}{picture.stem}_{asked.method}.png")
        figure = figures.heat_strip(shown, heats(at), f"{picture.name}: {asked.method}")
        figures.save(figure, path / files[-1])
    names = tuple(heat.name for heat in heats(rows))
    wrong = mistakes(predictions) if label is not None else []
    return Explanation(path, tuple(files), asked.method, names, tuple(wrong), (), ())


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
