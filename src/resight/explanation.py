"""Why it was wrong: a run's mistakes, or pictures of one's own, and where the network looked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import figures
from .artefacts import draw_sheets
from .datasets import Dataset, Split, read_pictures
from .errors import ResightError, UsageError
from .evaluation import predict_split
from .evidence import check_layers, evidence, usual_layers
from .figures import LayerHeat, Shown
from .mistakes import Rank, mistakes, sheet_rows
from .preparation import Watch, find_dataset, pick_device, split_and_measure
from .recipe import Explain
from .recipe_text import overlay, suggest
from .records import Ints
from .run_explanation import Explanation, Subject, as_pictures, explain_run, runners_up
from .run_folder import ModelInfo, RunFolder
from .trained import load_model


def explain(
    run: str | Path,
    images: Sequence[str | Path] = (),
    *,
    layers: Sequence[str] | None = None,
    method: str | None = None,
    rank: Rank = "loss",
    count: int | None = None,
    label: str | None = None,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    offline: bool = False,
    watch: Watch | None = None,
) -> Explanation:
    """Show where a finished run looked: on its mistakes, or on picture files of one's own.

    Without `images`: mistakes, heat maps of the `count` worst and of as many right answers,
    suspicious labels and report.html, all into the run folder. With `images`: heat maps of these,
    into a new folder inside it, for the predicted class and the runner-up, or the true class
    where `label` names it and the network says another.

    `layers`, `method` and `count` stand in for the knobs in the recipe's section `explain`.
    `data` is the run's own data set, where it has moved or was passed in from Python.

    Raises:
        UsageError: no such run, layer, method, label or picture, or the data is not the run's.
        ResightError: the run was stopped before its end, or a file cannot be written.
    """
    watch = watch or (lambda event: None)
    folder = RunFolder.open(Path(run))
    chosen = pick_device(device)
    module, info = load_model(folder, model, chosen)
    given = {"layers": layers and list(layers), "method": method, "images": count}
    changes = {"explain": {key: value for key, value in given.items() if value is not None}}
    asked = overlay(info.recipe, changes, origin="flags").explain
    if asked.layers:
        check_layers(module, asked.layers, (info.channels, info.image_size, info.image_size))
    if images:
        paths = [Path(image) for image in images]
        return _explain_pictures(folder, module, info, paths, asked, label=label)
    if label is not None:
        raise UsageError(f"label = {label!r} is for pictures of your own; name them as well")
    finished = folder.read_summary()
    if not finished["test"]:
        raise ResightError(
            f"{folder.path} was stopped before its end, so the test set was not read; "
            f"go on with `resight resume {folder.path}`"
        )
    dataset = find_dataset(info.recipe, data, offline=offline, watch=watch)
    if dataset.fingerprint != finished["data"]["fingerprint"]:
        raise UsageError(
            f"the data in {dataset.name} is not what the run was tested on; give the same data, "
            "or name picture files to explain these"
        )
    predictions = predict_split(
        module,
        dataset.test.to(chosen),
        info.stats,
        classes=info.classes,
        training=info.recipe.training,
        evaluation=info.recipe.evaluation,
    )
    train = split_and_measure(info.recipe, dataset, chosen).train
    subject = Subject(module, info.recipe, info.stats, train, dataset.test, predictions)
    rows = sheet_rows(predictions, asked.images, rank=rank)
    draw_sheets(folder.path, predictions, as_pictures(dataset.test), rows, rank)
    return explain_run(folder, subject, asked, rank=rank, watch=watch)


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
    layers = asked.layers or usual_layers(model, (info.channels, info.image_size, info.image_size))
    if not layers:
        raise UsageError(f"{type(model).__name__} has no layer with a map to look at")
    split = read_pictures(paths, image_size=info.image_size, channels=info.channels)
    known = -1 if label is None else info.classes.index(label)
    split = Split(split.images, torch.full_like(split.labels, known), split.ids)
    device = next((p.device for p in model.parameters()), split.images.device)
    predictions = predict_split(
        model,
        split.to(device),
        info.stats,
        classes=info.classes,
        training=info.recipe.training,
        evaluation=info.recipe.evaluation,
    )
    unsaid = predictions.correct | (predictions.labels < 0)
    others = np.where(unsaid, runners_up(predictions), predictions.labels)
    both = np.stack([predictions.preds, others], axis=1)
    maps = evidence(model, split, info.stats, both, layers=layers, method=asked.method)
    path = _new_folder(folder.path, paths[0].stem)
    rows, pictures = np.arange(len(split)), as_pictures(split)

    def heats(at: Ints) -> list[LayerHeat]:
        return [LayerHeat(layer, values[at]) for layer, values in maps.items()]

    files = []
    if len(split) > 1:
        files.append(f"pictures_{asked.method}.png")
        shown = Shown(pictures, predictions, rows, others)
        figure = figures.heat_sheet(shown, heats(rows), f"Where it looked: {asked.method}")
        figures.save(figure, path / files[0])
    for i, picture in enumerate(paths):
        at = rows[i : i + 1]
        shown = Shown(pictures[at], predictions, at, others[at])
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
