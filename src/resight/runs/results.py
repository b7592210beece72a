"""What a run leaves behind for people: the summary, tables, pictures and the model card."""

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
from ..metrics.classification import (
    calibration,
    confusion,
    per_class_accuracy,
    test_result,
)
from ..metrics.intervals import wilson
from ..metrics.mistakes import MistakeOrder, sheet_rows
from ..optim.curve import trace
from ..recipe import Explain, Recipe
from ..records import IntArray, Predictions
from ..training.loop import best_epoch
from ..training.setup import TrainSetup
from .run import Run
from .summary import DataSummary, ModelSummary, Summary, ValidationResult

SHEET_IMAGES = Explain().images  # on each sheet of misclassified and of correct images


def summarize_run(setup: TrainSetup, predictions: Predictions | None) -> Summary:
    """Return the result of a run; its `test` is None where the test set was not read."""
    recipe, dataset, splits, state = setup.recipe, setup.dataset, setup.splits, setup.state
    best = state.rows[best_epoch(state.rows, recipe.training.select) - 1] if state.rows else None
    validation = None
    if best and splits.val and best.val_accuracy is not None and best.val_loss is not None:
        right = round(best.val_accuracy * len(splits.val))
        validation = ValidationResult(wilson(right, len(splits.val)), best.val_loss)
    return Summary(
        recipe=recipe.name,
        data=DataSummary(
            source=recipe.data.source,
            classes=len(dataset.classes),
            train=len(splits.train),
            val=len(splits.val) if splits.val else 0,
            test=len(dataset.test),
            fingerprint=dataset.fingerprint,
            notes=tuple(dataset.notes),
        ),
        model=ModelSummary(recipe.model.name, sum(p.numel() for p in state.model.parameters())),
        epochs=len(state.rows),
        steps=state.step,
        best_epoch=best.epoch if best else None,
        selected_by=recipe.training.select,
        validation=validation,
        test=test_result(predictions) if predictions else None,
        train_secs=round(sum(row.train_secs for row in state.rows) + state.epoch_secs, 3),
    )


def write_results(run: Run, setup: TrainSetup, predictions: Predictions | None) -> None:
    """Write the summary, the history, the predictions and their figures into the run folder."""
    recipe, history = setup.recipe, setup.state.history
    summary = summarize_run(setup, predictions)
    if predictions:  # before the summary that says that they are there
        run.write_predictions(predictions)
    run.write_json("summary.json", summary.to_dict())
    run.write_history(history)
    write_text(run.folder / "README.md", model_card(recipe, summary))
    if history.epochs:
        curves = figures.training_curves(history, summary.best_epoch)
        figures.save(curves, run.folder / "curves.png")
        figures.save(figures.rates_as_run(history), run.folder / "rates.png")
    if predictions:
        images = setup.dataset.test.images
        draw_predictions(run.folder, predictions, images, count=recipe.explain.images)


def write_evaluation(
    folder: Path, summary: dict[str, Any], predictions: Predictions, images: Tensor
) -> None:
    """Write the result of `evaluate` into a folder of its own."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make {folder}: {error.strerror}") from error
    run = Run(folder)
    run.write_json("summary.json", summary)
    run.write_predictions(predictions)
    draw_predictions(folder, predictions, images)


def draw_predictions(
    folder: Path, predictions: Predictions, images: Tensor, *, count: int = SHEET_IMAGES
) -> None:
    """Draw the confusion matrix, reliability, accuracy by class, and sheets of `count` images.

    `images` (N, C, H, W) uint8 are the pictures as they were read, so nothing has to be undone.
    """
    counts = confusion(predictions)
    drawn = {
        "confusion_matrix": figures.confusion_matrix(counts, predictions.classes),
        "reliability": figures.reliability(calibration(predictions)),
        "per_class": figures.per_class(per_class_accuracy(predictions)),
    }
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.png")
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()  # (N, H, W, C)
    draw_sheets(folder, predictions, pictures, sheet_rows(predictions, count))


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


def model_card(recipe: Recipe, summary: Summary) -> str:
    """Return a README for the run folder, with the head that model hubs read."""
    data = summary.data
    lines = [
        "---",
        "library_name: pytorch",
        "pipeline_tag: image-classification",
        "tags: [resight, image-classification]",
        "---",
        "",
        f"# {recipe.model.name} trained by the recipe `{recipe.name}`",
        "",
        f"- data: {data.source}, {data.train:,} images to train on, {data.val:,} held out of them "
        "to choose by",
        f"- parameters: {summary.model.parameters:,}",
        f"- epochs: {summary.epochs}, the weights of epoch {summary.best_epoch} kept "
        f"(by {summary.selected_by})",
    ]
    if summary.test:
        accuracy = summary.test.accuracy
        lines.append(
            f"- test accuracy: {accuracy.value:.2%} (95 % interval {accuracy.low:.2%} to "
            f"{accuracy.high:.2%}, n = {accuracy.n:,}), read once, after training"
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


def write_lr_find(run: Run, setup: TrainSetup, curve: LRCurve) -> None:
    """Write the range test that a run began with, and the schedule that came of it."""
    run.write_json("lr_find.json", {**curve.to_dict(), "used": setup.recipe.optimizer.lr})
    figures.save(figures.lr_curve(curve), run.folder / "lr_find.png")
    draw_schedule(setup.recipe.name, [trace(setup.state.schedule)], run.folder / "schedule.png")
