"""What a run leaves behind for people: the summary, tables, pictures and the model card."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import figures
from ..errors import ResightError
from ..figures.curves import draw_schedule
from ..files import write_text
from ..lr_finder.suggest import LRCurve
from ..metrics.classification import calibration, confusion, per_class_accuracy, summarize, wilson
from ..metrics.mistakes import MistakeOrder, sheet_rows
from ..optim.curve import trace
from ..recipe import Explain, Recipe
from ..records import History, IntArray, Predictions
from ..training.loop import best_epoch
from ..training.setup import TrainSetup
from .run import RunFolder

SHEET_IMAGES = Explain().images  # on each sheet of misclassified and of correct images


def summarize_run(setup: TrainSetup, predictions: Predictions | None) -> dict[str, Any]:
    """The result of a run as plain Python; `test` is None where the test set was not read."""
    recipe, dataset, data, state = setup.recipe, setup.dataset, setup.splits, setup.state
    best = state.rows[best_epoch(state.rows, recipe.training.select) - 1] if state.rows else None
    validation = None
    if best and data.val and best.val_accuracy is not None:
        right = round(best.val_accuracy * len(data.val))
        validation = {"accuracy": asdict(wilson(right, len(data.val))), "loss": best.val_loss}
    return {
        "recipe": recipe.name,
        "data": {
            "source": recipe.data.source,
            "classes": len(dataset.classes),
            "train": len(data.train),
            "val": len(data.val) if data.val else 0,
            "test": len(dataset.test),
            "fingerprint": dataset.fingerprint,
            "notes": list(dataset.notes),
        },
        "model": {
            "name": recipe.model.name,
            "parameters": sum(p.numel() for p in state.model.parameters()),
        },
        "epochs": len(state.rows),
        "steps": state.step,
        "best_epoch": best.epoch if best else None,
        "selected_by": recipe.training.select,
        "validation": validation,
        "test": summarize(predictions) if predictions else None,
        "train_secs": round(sum(row.train_secs for row in state.rows) + state.epoch_secs, 3),
    }


def write_results(
    folder: RunFolder,
    recipe: Recipe,
    result: dict[str, Any],
    history: History,
    predictions: Predictions | None,
    test_images: Tensor,
) -> None:
    """Everything that `summary` and `history` say, as files in the run folder."""
    folder.write_json("summary.json", result)
    folder.write_history(history)
    write_text(folder.path / "README.md", model_card(recipe, result))
    if history.epochs:
        figures.save(
            figures.training_curves(history, result["best_epoch"]), folder.path / "curves.png"
        )
        figures.save(figures.rates_as_run(history), folder.path / "rates.png")
    if predictions:
        folder.write_predictions(predictions)
        draw_predictions(folder, predictions, test_images, count=recipe.explain.images)


def write_evaluation(
    path: Path, found: dict[str, Any], predictions: Predictions, images: Tensor
) -> None:
    """The answer of `evaluate`, in a folder of its own."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make {path}: {error.strerror}") from error
    inside = RunFolder(path)
    inside.write_json("summary.json", found)
    inside.write_predictions(predictions)
    draw_predictions(inside, predictions, images)


def draw_predictions(
    folder: RunFolder, predictions: Predictions, images: Tensor, *, count: int = SHEET_IMAGES
) -> None:
    """Confusion matrix, reliability, accuracy a class, and sheets of `count` images each.

    `images` (N, C, H, W) uint8 are the pictures as they were read, so nothing has to be undone.
    """
    counts = confusion(predictions)
    drawn = {
        "confusion_matrix": figures.confusion_matrix(counts, predictions.classes),
        "reliability": figures.reliability(calibration(predictions)),
        "per_class": figures.per_class(per_class_accuracy(predictions)),
    }
    for name, figure in drawn.items():
        figures.save(figure, folder.path / f"{name}.png")
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()  # (N, H, W, C)
    draw_sheets(folder.path, predictions, pictures, sheet_rows(predictions, count))


def draw_sheets(
    path: Path,
    predictions: Predictions,
    pictures: NDArray[np.uint8],
    rows: tuple[IntArray, IntArray],
    rank: MistakeOrder = "loss",
) -> None:
    """`misclassified.png` and `correct.png`, of the given rows; pictures are (N, H, W, C)."""
    wrong, right = rows
    worst = f"Misclassified, the {len(wrong)} of largest {rank}, pair by pair"
    for name, chosen, title in (
        ("misclassified", wrong, worst if len(wrong) else "Misclassified"),
        ("correct", right, "Correct, evenly from the test set"),
    ):
        figure = figures.prediction_grid(pictures[chosen], predictions, chosen, title)
        figures.save(figure, path / f"{name}.png")


def model_card(recipe: Recipe, result: dict[str, Any]) -> str:
    """A README for the run folder, with the head that model hubs read."""
    test = result["test"]
    lines = [
        "---",
        "library_name: pytorch",
        "pipeline_tag: image-classification",
        "tags: [resight, image-classification]",
        "---",
        "",
        f"# {recipe.model.name} trained by the recipe `{recipe.name}`",
        "",
        f"- data: {result['data']['source']}, {result['data']['train']:,} images to train on, "
        f"{result['data']['val']:,} held out of them to choose by",
        f"- parameters: {result['model']['parameters']:,}",
        f"- epochs: {result['epochs']}, the weights of epoch {result['best_epoch']} kept "
        f"(by {result['selected_by']})",
    ]
    if test:
        a = test["accuracy"]
        lines.append(
            f"- test accuracy: {a['value']:.2%} (95 % interval {a['low']:.2%} to {a['high']:.2%}, "
            f"n = {a['n']:,}), read once, after training"
        )
        if views := recipe.evaluation.views:
            lines.append(f"- by the mean of {views}")
    else:
        lines.append("- stopped before the end: the test set was not read")
    lines += [
        "",
        "`recipe.toml` has every setting, `env.json` the versions, `best.safetensors` the weights "
        "(with class names and statistics in its head).",
        "",
        "Not meant for images unlike those it was trained on.",
    ]
    return "\n".join(lines) + "\n"


def write_lr_find(folder: RunFolder, setup: TrainSetup, curve: LRCurve) -> None:
    """The range test a run began with, and the schedule that came of it, as files of the run."""
    folder.write_json("lr_find.json", {**curve.to_dict(), "used": setup.recipe.optimizer.lr})
    figures.save(figures.lr_curve(curve), folder.path / "lr_find.png")
    draw_schedule(setup.recipe.name, [trace(setup.state.schedule)], folder.path / "schedule.png")
