"""Run folders made by hand, for tests of the report: no training, a few images."""

from pathlib import Path
from typing import Any

import numpy as np

from resight.files import write_csv
from resight.lr_finder.suggest import analyze
from resight.metrics.classification import test_result
from resight.metrics.intervals import Interval
from resight.recipe import Recipe
from resight.recipe.toml import to_toml
from resight.records import EpochRow, History, Predictions
from resight.runs.gallery import GalleryMaps, write_gallery
from resight.runs.run import Run
from resight.runs.summary import DataSummary, ModelSummary, Summary, ValidationResult

EPOCHS = 3
CLASSES = ("cat", "dog", "horse")


def make_predictions(
    n: int = 150, classes: tuple[str, ...] = CLASSES, start: str = "photos/"
) -> Predictions:
    """Return predictions of which four in five are right, at all levels of confidence."""
    rng = np.random.default_rng(5)
    k = len(classes)
    labels = rng.integers(0, k, n)
    logits = rng.normal(0, 1.5, (n, k)).astype(np.float32)
    logits[np.arange(n), labels] += 2.5
    ids = tuple(f"{start}{i:04d}.png" for i in range(n))
    return Predictions(ids, logits, labels, classes)


def make_run(
    path: Path,
    recipe: Recipe,
    predictions: Predictions | None,
    *,
    gallery: bool = True,
    environment: dict[str, Any] | None = None,
) -> Path:
    """Write all that a run leaves and a report reads; without predictions, as if interrupted."""
    path.mkdir()
    run = Run(path)
    (path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    run.write_json("env.json", environment or {"device": "cpu", "threads": 2, "gpu": None})
    run.write_json("summary.json", summary(recipe, predictions).to_dict())
    run.write_history(History(tuple(map(epoch, range(1, EPOCHS + 1))), *[np.zeros(0)] * 3))
    rates = np.geomspace(1e-4, 1, 60)
    curve = analyze(rates, 2.3 - 1.5 * np.exp(-((np.log10(rates) + 1) ** 2)), images=600)
    run.write_json("lr_find.json", {**curve.to_dict(), "used": 0.1})
    if predictions is not None:
        run.write_predictions(predictions)
        first_mistake = predictions.ids[predictions.correct.argmin()]
        rows = [
            ["id", "given", "suggested", "p_given"],
            [first_mistake, *predictions.classes[:2], 0.01234567],
        ]
        write_csv(path / "label_issues.csv", rows)
        if gallery:
            add_gallery(path, predictions)
    return path


def add_gallery(path: Path, predictions: Predictions) -> None:
    """Write pictures, and heat maps of every mistake and of as many correct predictions."""
    rng = np.random.default_rng(6)
    pictures = rng.integers(0, 256, (len(predictions), 16, 16, 3), dtype=np.uint8)
    wrong = np.flatnonzero(~predictions.correct)
    rows = np.concatenate([wrong, np.flatnonzero(predictions.correct)[: len(wrong)]])
    maps = [
        GalleryMaps(layer, *rng.normal(size=(2, len(rows), side, side)).astype(np.float32))
        for layer, side in (("block1", 8), ("block2", 4))
    ]
    write_gallery(path, pictures, predictions, rows=rows, maps=maps, method="grad-cam")


def epoch(number: int) -> EpochRow:
    return EpochRow(
        epoch=number,
        step=8 * number,
        lr=0.1,
        train_loss=2 / number,
        train_accuracy=1 - 0.5 / number,
        val_loss=2.1 / number,
        val_accuracy=1 - 0.6 / number,
        train_secs=1.0,
        images_per_sec=100.0,
    )


def summary(recipe: Recipe, predictions: Predictions | None) -> Summary:
    return Summary(
        recipe=recipe.name,
        data=DataSummary(
            source=recipe.data.source,
            classes=len(CLASSES),
            train=100,
            val=50,
            test=150,
            fingerprint="0" * 64,
            notes=("2 pictures were gray",),
        ),
        model=ModelSummary(recipe.model.name, 12345),
        epochs=EPOCHS,
        steps=8 * EPOCHS,
        best_epoch=EPOCHS,
        selected_by="val_accuracy",
        validation=ValidationResult(Interval(0.8, 0.7, 0.9, 50), 0.7),
        test=test_result(predictions) if predictions else None,
        train_secs=452.0,
    )
