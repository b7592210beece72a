"""The results that a run leaves in its folder: summary, tables, pictures and the model card."""

from dataclasses import replace
from pathlib import Path

from .. import figures
from ..datasets import Split
from ..datasets.originals import display_images
from ..errors import ResightError
from ..events import EpochDone, Message, OnEvent
from ..figures.curves import draw_schedule
from ..files import write_text
from ..lr_finder.suggest import LRCurve
from ..metrics.classification import (
    calibration,
    confusion,
    per_class_accuracy,
    test_result,
)
from ..metrics.confidence import with_temperature
from ..metrics.intervals import wilson
from ..metrics.mistakes import MistakeOrder, sheet_rows
from ..optim.curve import trace
from ..recipe import Explain, Recipe
from ..records import IntArray, Predictions
from ..training.loop import best_epoch
from ..training.setup import TrainSetup
from .checkpoint import save_best, save_checkpoint
from .run import Run
from .summary import ConfidenceResult, DataSummary, ModelSummary, Summary, ValidationResult
from .trained_images import write_trained_images

CARD_HEAD = """\
library_name: pytorch
pipeline_tag: image-classification
tags: [resight, image-classification]"""
CARD_FILES = """\
`recipe.toml` has every setting, `env.json` the versions, `best.safetensors` the weights (with \
class names and statistics in its head)."""


def summarize_run(
    setup: TrainSetup, predictions: Predictions | None, confidence: ConfidenceResult | None = None
) -> Summary:
    """Return the result of a run; its `test` is None where the test set was not read."""
    recipe, dataset, splits, state = setup.recipe, setup.dataset, setup.splits, setup.state
    best = state.rows[best_epoch(state.rows, recipe.training.select) - 1] if state.rows else None
    validation = None
    if best and splits.val and best.val_accuracy is not None and best.val_loss is not None:
        right = round(best.val_accuracy * len(splits.val))
        validation = ValidationResult(wilson(right, len(splits.val)), best.val_loss)
    if confidence and predictions:
        calibrated = with_temperature(predictions, confidence.temperature.value)
        confidence = replace(confidence, ece=calibration(calibrated).ece)
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
        confidence=confidence,
    )


def save_epoch(run: Run, setup: TrainSetup, event: EpochDone, on_event: OnEvent) -> None:
    """Save the state after an epoch, its weights if they are the best, and its metrics."""
    if event.best:
        save_best(run.folder, setup, epoch=event.row.epoch)
    save_checkpoint(run.folder, setup)
    try:
        run.write_history(setup.state.history)
    except ResightError as error:  # a spreadsheet may hold it open
        on_event(Message(str(error)))


def write_results(
    run: Run,
    setup: TrainSetup,
    predictions: Predictions | None,
    confidence: ConfidenceResult | None = None,
) -> None:
    """Write history, predictions, figures, training images and summary into the run folder.

    The summary is the last: a run whose summary has a test result is complete.
    """
    recipe, history = setup.recipe, setup.state.history
    summary = summarize_run(setup, predictions, confidence)
    run.write_history(history)
    write_text(run.folder / "README.md", model_card(recipe, summary))
    if recipe.explain.pictures and history.epochs and len(history.lrs):  # a probe takes no steps
        curves = figures.training_curves(history, summary.best_epoch, val_images=summary.data.val)
        figures.save(curves, run.folder / "curves.png")
        figures.save(figures.rates_as_run(history), run.folder / "rates.png")
    write_trained_images(run, setup.splits.train)
    if predictions:
        run.write_predictions(predictions)
        draw_predictions(run.folder, predictions, setup.dataset.test, recipe.explain)
    run.write_json("summary.json", summary.to_dict())


def draw_predictions(
    folder: Path, predictions: Predictions, images: Split, options: Explain
) -> None:
    """Draw the confusion matrix, reliability, accuracy by class, and sheets of `images`.

    `images` are what was predicted. Without `options.pictures` nothing is drawn.
    """
    if not options.pictures:
        return
    matrix = figures.confusion_matrix(confusion(predictions), predictions.classes)
    figures.save(matrix, folder / "confusion_matrix.png")
    figures.save(figures.reliability(calibration(predictions)), folder / "reliability.png")
    figures.save(figures.per_class(per_class_accuracy(predictions)), folder / "per_class.png")
    draw_sheets(folder, predictions, images, sheet_rows(predictions, options.images))


def draw_sheets(
    folder: Path,
    predictions: Predictions,
    images: Split,
    rows: tuple[IntArray, IntArray],
    rank: MistakeOrder = "loss",
) -> None:
    """Draw `misclassified.png` and `correct.png`, of the given rows of what was predicted."""
    wrong, right = rows
    worst = f", the {len(wrong)} of largest {rank}, pair by pair" if len(wrong) else ""
    for name, chosen, title in (
        ("misclassified", wrong, f"Misclassified{worst}"),
        ("correct", right, "Correct, evenly from the test set"),
    ):
        shown = display_images(images, chosen)
        figure = figures.prediction_grid(
            shown.pictures, predictions, chosen, title, notes=shown.notes
        )
        figures.save(figure, folder / f"{name}.png")


def model_card(
    recipe: Recipe, summary: Summary, *, head: str = CARD_HEAD, files: str = CARD_FILES
) -> str:
    """Return a README for a run; `head` is YAML for model hubs, and `files` says what is what."""
    data = summary.data
    result = "- stopped before the end: the test set was not read"
    if summary.test:
        result = f"- test accuracy: {summary.test}, read once, after training"
        if text := summary.calibration:
            result += f"\n- {text}"
        if views := recipe.evaluation.views:
            result += f"\n- by the mean of {views}"
    return f"""---
{head.strip()}
---

# {recipe.model.name} trained by the recipe `{recipe.name}`

- data: {data.source}, {data.train:,} images to train on, {data.val:,} for validation
- parameters: {summary.model.parameters:,}
- epochs: {summary.epochs}; {summary.kept}
{result}

{files}

Not meant for images unlike those it was trained on.
"""


def write_lr_find(run: Run, setup: TrainSetup, curve: LRCurve) -> None:
    """Write the range test that a run began with, and the schedule that came of it."""
    run.write_json("lr_find.json", {**curve.to_dict(), "used": setup.recipe.optimizer.lr})
    figures.save(figures.lr_curve(curve), run.folder / "lr_find.png")
    draw_schedule(setup.recipe.name, [trace(setup.state.schedule)], run.folder / "schedule.png")
