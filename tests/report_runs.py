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
from resight.records import EpochRow, History, IntArray, Predictions
from resight.runs.causes import Cause, Causes, MistakeGroup, write_causes
from resight.runs.gallery import GalleryMaps, GalleryNeighbors, write_gallery
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
            ["id", "given", "suggested", "p_given", "p_wrong"],
            [first_mistake, *predictions.classes[:2], 0.01234567, 0.9],
        ]
        write_csv(path / "label_issues.csv", rows)
        if gallery:
            add_gallery(path, predictions)
    return path


def add_gallery(path: Path, predictions: Predictions) -> None:
    """Write pictures, heat maps of every mistake and of as many right ones, and neighbors."""
    rng = np.random.default_rng(6)
    pictures = rng.integers(0, 256, (len(predictions), 16, 16, 3), dtype=np.uint8)
    wrong = np.flatnonzero(~predictions.correct)
    rows = np.concatenate([wrong, np.flatnonzero(predictions.correct)[: len(wrong)]])
    maps = [
        GalleryMaps(layer, *rng.normal(size=(2, len(rows), side, side)).astype(np.float32))
        for layer, side in (("block1", 8), ("block2", 4))
    ]
    neighbors = make_neighbors(predictions, wrong)
    write_gallery(
        path,
        pictures,
        predictions,
        rows=rows,
        maps=maps,
        method="grad-cam",
        neighbors=neighbors,
    )


def make_neighbors(predictions: Predictions, rows: IntArray) -> GalleryNeighbors:
    """Return neighbors of mistakes among 100 training images, the n-th of which is gray n."""
    rng = np.random.default_rng(7)
    nearest = rng.integers(0, 100, (len(rows), 2, 3))
    cosines = np.sort(rng.random((len(rows), 2, 3)).astype(np.float32))[..., ::-1]
    return GalleryNeighbors(
        rows,
        nearest,
        cosines,
        others=np.array([4, 9]),
        ids=tuple(f"train/{n:03d}.png" for n in range(100)),
        read=lambda rows: np.repeat(rows, 16 * 16 * 3).reshape(-1, 16, 16, 3).astype(np.uint8),
    )


def add_causes(path: Path, predictions: Predictions) -> Causes:
    """Write two causes and a group; some mistakes are left without a cause."""
    wrong = np.flatnonzero(~predictions.correct)
    wrong = wrong[np.argsort(-predictions.losses[wrong])].tolist()
    first = wrong[0]
    true, pred = (predictions.classes[k[first]] for k in (predictions.labels, predictions.preds))
    causes = Causes(
        mistakes=len(wrong),
        causes=(
            Cause(
                kind="shortcut",
                sentence=f"{pred} is said where there is a mark in the corner.",
                test="Pasted into 100 images of other classes, 80 follow.",
                rows=tuple(wrong[:12]),
                advice="Crop the corner.",
                values={"follow": 0.8},
            ),
            Cause(
                kind="wrong label",
                sentence="Some labels are wrong.",
                test="Their neighbors have another label.",
                rows=tuple(wrong[12:15]),
                advice="Mark them.",
                values={},
            ),
        ),
        groups=(
            MistakeGroup(
                true=true,
                pred=pred,
                sentence=f"{true} taken for {pred}, 1: darker than others",
                rows=(first,),
                neighbors=((4,), (9,)),
            ),
        ),
        notes=("An empty picture is taken for cat at 0.82.",),
    )
    write_causes(path, causes, predictions)
    return causes


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
