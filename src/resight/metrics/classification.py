"""The numbers made from `Predictions`, with an interval wherever images are counted.

A number that cannot be known is None, never NaN: a class without images, an empty bin.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import ResightError, UsageError
from ..records import IntArray, Predictions
from .intervals import Interval, wilson


@dataclass(frozen=True)
class ConfusedPair:
    """A pair of classes: `count` images of class `true` were predicted as class `pred`."""

    true: str
    pred: str
    count: int


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose confidence lies in (low, high]; None stands for a mean of no images."""

    low: float
    high: float
    confidence: float | None  # mean
    accuracy: float | None
    count: int


@dataclass(frozen=True)
class Calibration:
    """How well confidence matches accuracy; with `ece` 0, 80 % of images at 80 % are correct."""

    ece: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class TestResult:
    """The result of a model on a test set: accuracy and loss, per class, and calibration."""

    __test__: ClassVar[bool] = False  # not a test case, whatever pytest makes of the name

    images: int
    accuracy: Interval
    loss: float  # cross entropy in nats, mean over the images
    per_class: dict[str, Interval | None]  # in the order of the classes; None: no images
    most_confused: tuple[ConfusedPair, ...]  # at most 10 pairs, the most frequent first
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.accuracy.low, self.accuracy.high
        return (
            f"{self.accuracy.value:.2%} (95 % interval {low:.2%} to {high:.2%}, "
            f"n = {self.accuracy.n:,}), loss {self.loss:.3f}"
        )


def accuracy(predictions: Predictions) -> Interval:
    """Return the share of images whose predicted class is the true one."""
    _check(predictions)
    return wilson(int(predictions.correct.sum()), len(predictions))


def mean_loss(predictions: Predictions) -> float:
    """Return the mean cross entropy of the images in nats, without label smoothing."""
    _check(predictions)
    return float(predictions.losses.mean())


def per_class_accuracy(predictions: Predictions) -> dict[str, Interval | None]:
    """Return class -> accuracy over all images of that class (its recall); None without images."""
    counts = confusion(predictions)
    return {
        name: wilson(int(row[k]), int(row.sum())) if row.any() else None
        for k, (name, row) in enumerate(zip(predictions.classes, counts, strict=True))
    }


def confusion(predictions: Predictions) -> IntArray:
    """Return (K, K), the number of images of class [true, ] that were predicted as [, pred]."""
    _check(predictions)
    k = len(predictions.classes)
    cells = predictions.labels * k + predictions.preds
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def most_confused(predictions: Predictions, limit: int | None = None) -> list[ConfusedPair]:
    """Return the pairs of classes that were confused, the most frequent first."""
    counts = confusion(predictions)
    np.fill_diagonal(counts, 0)
    classes = predictions.classes
    # A stable sort: equal counts stay in the order of the classes.
    order = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)][:limit]
    return [
        ConfusedPair(classes[true], classes[pred], int(counts[true, pred]))
        for true, pred in zip(*np.unravel_index(order, counts.shape), strict=True)
    ]


def top_losses(predictions: Predictions, limit: int | None = None) -> IntArray:
    """Return (limit,), the rows of the images with the highest loss, the highest first."""
    _check(predictions)
    return np.argsort(-predictions.losses, kind="stable")[:limit]


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """Return the expected calibration error and its bins (Guo et al. 2017, arXiv:1706.04599).

    ECE = sum over bins of (count / N) |accuracy - confidence|, with equal bins of [0, 1].
    """
    _check(predictions)
    if bins < 1:
        raise UsageError(f"bins = {bins} must be at least 1; 15 is usual")
    edges = np.linspace(0, 1, bins + 1)
    confidence = predictions.confidence
    places = np.searchsorted(edges[1:-1], confidence, side="left")  # (N,) of 0..bins - 1
    counts = np.bincount(places, minlength=bins)
    confidences = np.bincount(places, weights=confidence, minlength=bins)
    correct = np.bincount(places, weights=predictions.correct, minlength=bins)
    table = []
    for low, high, n, total, right in zip(
        edges[:-1], edges[1:], counts.tolist(), confidences, correct, strict=True
    ):
        mean, share = (float(total / n), float(right / n)) if n else (None, None)
        table.append(ReliabilityBin(float(low), float(high), mean, share, n))
    error = np.abs(correct - confidences).sum() / len(predictions)
    return Calibration(float(error), tuple(table))


def test_result(predictions: Predictions) -> TestResult:
    """Return the accuracy, loss, most confused classes and calibration of `predictions`."""
    return TestResult(
        images=len(predictions),
        accuracy=accuracy(predictions),
        loss=mean_loss(predictions),
        per_class=per_class_accuracy(predictions),
        most_confused=tuple(most_confused(predictions, limit=10)),
        calibration=calibration(predictions),
    )


def prediction_rows(predictions: Predictions) -> list[list[Any]]:
    """Return a header, then id, truth, prediction, confidence, loss and correct of each image."""
    _check(predictions)
    classes = predictions.classes
    columns: dict[str, Iterable[Any]] = {
        "id": predictions.ids,
        "truth": (classes[k] for k in predictions.labels),
        "prediction": (classes[k] for k in predictions.preds),
        "confidence": predictions.confidence.tolist(),
        "loss": predictions.losses.tolist(),
        "correct": predictions.correct.tolist(),
    }
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def confusion_rows(predictions: Predictions) -> list[list[Any]]:
    """Return a header of the predicted classes, then each true class and its counts."""
    counts = confusion(predictions).tolist()
    rows = [[name, *row] for name, row in zip(predictions.classes, counts, strict=True)]
    return [["truth", *predictions.classes], *rows]


def _check(predictions: Predictions) -> None:
    """Refuse predictions without images, without true classes or with infinite logits."""
    if len(predictions) == 0:
        raise UsageError("there are no predictions to evaluate; give at least one image")
    k = len(predictions.classes)
    unknown = np.flatnonzero((predictions.labels < 0) | (predictions.labels >= k))
    if unknown.size:
        raise UsageError(
            f"image {predictions.ids[unknown[0]]} has no true class (label "
            f"{predictions.labels[unknown[0]]}); evaluation needs labels 0 to {k - 1}"
        )
    check_finite(predictions)


def check_finite(predictions: Predictions) -> None:
    """Refuse predictions with a NaN or infinite logit, which rank no class.

    Raises:
        ResightError: the line names the first such image.
    """
    broken = np.flatnonzero(~np.isfinite(predictions.logits).all(axis=1))
    if broken.size:
        raise ResightError(
            f"the model's output for image {predictions.ids[broken[0]]} is not finite; "
            "the weights are broken or the precision is too low, try precision = float32"
        )
