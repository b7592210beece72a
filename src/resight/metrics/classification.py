"""The numbers made from `Predictions`, with an interval wherever images are counted.

A number that cannot be known is None, never NaN: a class without images, an empty bin.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, ClassVar

import numpy as np

from ..errors import ResightError, UsageError
from ..records import IntArray, Predictions
from .intervals import Interval, f1_interval, mean_paired_difference, mean_share, wilson

IMBALANCE = 1.5  # times the images of the smallest class; beyond, accuracy is that of large classes
MAX_CLASSES = 60  # that a figure or a table shows all of; of more, the part to look at
MIN_CLASSES_TOP5 = 20  # with fewer, the five likeliest are a quarter of all


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
    """The result of a model on a test set: accuracy and loss, per class, and calibration.

    What a run of an earlier version did not measure is empty or None.
    """

    __test__: ClassVar[bool] = False  # not a test case, whatever pytest makes of the name

    images: int
    accuracy: Interval
    loss: float  # cross entropy in nats, mean over the images
    per_class: dict[str, Interval | None]  # accuracy, which is recall; None: no images
    most_confused: tuple[ConfusedPair, ...]  # at most 10 pairs, the most frequent first
    calibration: Calibration
    balanced_accuracy: Interval | None = None  # the mean recall of the classes with images
    precision: dict[str, Interval | None] = field(default_factory=dict)  # None: never predicted
    f1: dict[str, Interval | None] = field(default_factory=dict)  # None: no images, not predicted
    macro_precision: float | None = None  # a mean over the classes with images
    macro_f1: float | None = None
    top5: Interval | None = None  # the share of images whose class is among the five likeliest

    @property
    def imbalanced(self) -> bool:
        """Whether classes differ so much in size that accuracy is that of the large ones."""
        return is_imbalanced([recall.n for recall in self.per_class.values() if recall])

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.accuracy.low, self.accuracy.high
        text = (
            f"{self.accuracy.value:.2%} (95 % interval {low:.2%} to {high:.2%}, "
            f"n = {self.accuracy.n:,}), loss {self.loss:.3f}"
        )
        if self.imbalanced and (mean := self.balanced_accuracy):
            text += f", balanced accuracy {mean.value:.2%} ({mean.low:.2%} to {mean.high:.2%})"
        if self.top5:
            text += f", top-5 accuracy {self.top5.value:.2%}"
        return text


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


def is_imbalanced(sizes: Sequence[int]) -> bool:
    """Whether classes of these numbers of images differ in size; those without do not count."""
    sizes = [size for size in sizes if size]
    return max(sizes) > IMBALANCE * min(sizes)


def balanced_accuracy(predictions: Predictions) -> Interval:
    """Return the mean of the accuracies of all classes that have images."""
    counts = confusion(predictions)
    sizes = counts.sum(axis=1)
    return mean_share(counts.diagonal()[sizes > 0], sizes[sizes > 0])


def balanced_difference(before: Predictions, after: Predictions) -> Interval:
    """Return the balanced accuracy of `after` minus that of `before`, for the same images."""
    labels = before.labels
    sizes = np.bincount(labels)
    won, lost = (
        np.bincount(labels[one.correct & ~other.correct], minlength=len(sizes))[sizes > 0]
        for one, other in ((after, before), (before, after))
    )
    return mean_paired_difference(won, lost, sizes[sizes > 0])


def per_class_precision(predictions: Predictions) -> dict[str, Interval | None]:
    """Return class -> the share of the images predicted as it that are of it; None without."""
    counts = confusion(predictions)
    return {
        name: wilson(int(column[k]), int(column.sum())) if column.any() else None
        for k, (name, column) in enumerate(zip(predictions.classes, counts.T, strict=True))
    }


def per_class_f1(predictions: Predictions) -> dict[str, Interval | None]:
    """Return class -> F1, the harmonic mean of its precision and recall.

    None for a class that has no images and is never predicted.
    """
    counts = confusion(predictions)
    both = counts.diagonal()
    cells = np.stack([both, counts.sum(axis=1) - both, counts.sum(axis=0) - both], axis=1)  # (K, 3)
    return {
        name: f1_interval(*row) if any(row) else None
        for name, row in zip(predictions.classes, cells.tolist(), strict=True)
    }


def top_k_accuracy(predictions: Predictions, k: int) -> Interval:
    """Return the share of images whose true class is among the `k` likeliest.

    Of classes of equal logits the first counts as likelier, as it does where one is predicted.
    """
    _check(predictions)
    order = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :k]  # (N, k)
    return wilson(int((order == predictions.labels[:, None]).sum()), len(predictions))


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
    """Return the accuracies, loss, most confused classes and calibration of `predictions`."""
    recall, precision = per_class_accuracy(predictions), per_class_precision(predictions)
    f1 = per_class_f1(predictions)
    return TestResult(
        images=len(predictions),
        accuracy=accuracy(predictions),
        loss=mean_loss(predictions),
        per_class=recall,
        most_confused=tuple(most_confused(predictions, limit=10)),
        calibration=calibration(predictions),
        balanced_accuracy=balanced_accuracy(predictions),
        precision=precision,
        f1=f1,
        macro_precision=_macro(precision, recall),
        macro_f1=_macro(f1, recall),
        top5=top_k_accuracy(predictions, 5) if len(recall) >= MIN_CLASSES_TOP5 else None,
    )


def _macro(figures: Mapping[str, Interval | None], recall: Mapping[str, Interval | None]) -> float:
    """The mean over the classes with images; one that is never predicted has precision 0."""
    values = [figures[name] for name, images in recall.items() if images]
    return fmean(figure.value if figure else 0.0 for figure in values)


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
