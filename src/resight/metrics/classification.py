"""Every number made from `Predictions`, with an interval wherever images are counted.

A number that cannot be known is None, never NaN: a class without images, an empty bin.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ResightError, UsageError
from ..records import IntArray, Predictions

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution: 95 % lie within +-z


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval: what it would be over many more images, or runs.

    A share of n images lies in [0, 1], the difference of two in [-1, 1]; a mean over n runs has the
    interval of Student's t, however wide.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Confused:
    """`count` images of class `true` were taken for class `pred`."""

    true: str
    pred: str
    count: int


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose confidence lies in (low, high]; None where there are none."""

    low: float
    high: float
    confidence: float | None  # mean
    accuracy: float | None
    count: int


@dataclass(frozen=True)
class Calibration:
    """Whether a confidence of 80 % means right in 80 % of cases. `ece` 0 is perfect."""

    ece: float
    bins: tuple[ReliabilityBin, ...]


def wilson(successes: int, n: int) -> Interval:
    """Wilson's 95 % score interval for `successes` out of n >= 1 (Wilson 1927).

    center = (p + z^2 / 2n) / (1 + z^2 / n),
    half width = z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2).
    Unlike p +- z sqrt(p (1 - p) / n) it stays in [0, 1] and is not empty at p = 0 or 1.
    """
    if not 0 <= successes <= n or n == 0:
        raise UsageError(f"{successes} of {n} is not a share; it takes 0 <= successes <= n, n >= 1")
    p, z2 = successes / n, _Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Exactly 0 and 1 at the ends, where the two terms cancel only up to rounding.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Interval(p, low, high, n)


# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the last is on the safe
# side.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of a figure over n >= 2 runs and its 95 % interval: mean +- t s / sqrt(n)."""
    n = len(values)
    if n < 2:
        raise UsageError(f"{n} runs give no interval; it takes at least 2")
    mean = statistics.fmean(values)
    half = _T95[min(n - 2, len(_T95) - 1)] * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def mean_difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """The mean of `after` minus that of `before`, with its 95 % interval (Welch 1947).

    Each takes at least 2 runs; they need not be as many, nor vary alike. Runs that are all the same
    say nothing of how much others would vary, so at least one of the two must vary.
    """
    one, two = mean_interval(before), mean_interval(after)
    parts = [statistics.variance(values) / len(values) for values in (before, after)]
    total = sum(parts)
    if total == 0:
        raise UsageError("neither varies, so the difference has no interval")
    # Degrees of freedom by Welch and Satterthwaite, rounded down, which is on the safe side.
    weighed = parts[0] ** 2 / (one.n - 1) + parts[1] ** 2 / (two.n - 1)
    half = _T95[min(int(total**2 / weighed), len(_T95)) - 1] * math.sqrt(total)
    difference = two.value - one.value
    return Interval(difference, difference - half, difference + half, one.n + two.n)


def paired_difference(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """The share of `after` minus that of `before`, both (N,) of the same images, in [-1, 1].

    Wald's 95 % interval with half an image more in each of the four cells, which holds for few
    images too (Agresti and Min 2005, Statistics in Medicine 24).
    """
    n = len(before)
    if n == 0 or len(after) != n:
        raise UsageError(f"{n} and {len(after)} images are no pairs; give as many, at least 1")
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    size, net = n + 2, won - lost
    center = net / size
    half = _Z95 * math.sqrt(won + lost + 1 - net * net / size) / size
    return Interval(net / n, max(-1.0, center - half), min(1.0, center + half), n)


def accuracy(predictions: Predictions) -> Interval:
    """The share of images whose likeliest class is the true one."""
    _check(predictions)
    return wilson(int(predictions.correct.sum()), len(predictions))


def mean_loss(predictions: Predictions) -> float:
    """Cross entropy in nats, the mean over images, without label smoothing."""
    _check(predictions)
    return float(predictions.losses.mean())


def per_class_accuracy(predictions: Predictions) -> dict[str, Interval | None]:
    """The accuracy over all images of each true class (its recall); None without images."""
    counts = confusion(predictions)
    return {
        name: wilson(int(row[k]), int(row.sum())) if row.any() else None
        for k, (name, row) in enumerate(zip(predictions.classes, counts, strict=True))
    }


def confusion(predictions: Predictions) -> IntArray:
    """(K, K) how many images of class [true, ] were taken for class [, pred]."""
    _check(predictions)
    k = len(predictions.classes)
    cells = predictions.labels * k + predictions.preds
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def most_confused(predictions: Predictions, limit: int | None = None) -> list[Confused]:
    """The pairs of classes that were mixed up, the most frequent first."""
    counts = confusion(predictions)
    np.fill_diagonal(counts, 0)
    classes = predictions.classes
    # A stable sort: equal counts stay in the order of the classes.
    order = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)][:limit]
    return [
        Confused(classes[true], classes[pred], int(counts[true, pred]))
        for true, pred in zip(*np.unravel_index(order, counts.shape), strict=True)
    ]


def top_losses(predictions: Predictions, limit: int | None = None) -> IntArray:
    """(limit,) the rows of the images with the highest loss, the highest first."""
    _check(predictions)
    return np.argsort(-predictions.losses, kind="stable")[:limit]


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """Expected calibration error and the table behind it (Guo et al. 2017, arXiv:1706.04599).

    ECE = sum over bins of (count / N) |accuracy - confidence|, with equal bins of [0, 1].
    """
    _check(predictions)
    if bins < 1:
        raise UsageError(f"bins = {bins} must be at least 1; 15 is usual")
    edges = np.linspace(0, 1, bins + 1)
    confidence = predictions.confidence
    which = np.searchsorted(edges[1:-1], confidence, side="left")  # (N,) of 0..bins - 1
    counts = np.bincount(which, minlength=bins)
    sure = np.bincount(which, weights=confidence, minlength=bins)
    right = np.bincount(which, weights=predictions.correct, minlength=bins)
    table = [
        ReliabilityBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            confidence=float(sure[b] / counts[b]) if counts[b] else None,
            accuracy=float(right[b] / counts[b]) if counts[b] else None,
            count=int(counts[b]),
        )
        for b in range(bins)
    ]
    return Calibration(float(np.abs(right - sure).sum() / len(predictions)), tuple(table))


def summarize(predictions: Predictions) -> dict[str, Any]:
    """All of the above as plain Python, fit for JSON."""
    table = calibration(predictions)
    return {
        "images": len(predictions),
        "accuracy": asdict(accuracy(predictions)),
        "loss": mean_loss(predictions),
        "per_class": {
            name: None if interval is None else asdict(interval)
            for name, interval in per_class_accuracy(predictions).items()
        },
        "most_confused": [asdict(pair) for pair in most_confused(predictions, limit=10)],
        "calibration": {"ece": table.ece, "bins": [asdict(row) for row in table.bins]},
    }


def prediction_rows(predictions: Predictions) -> list[list[Any]]:
    """A header, then id, truth, prediction, confidence, loss and correct of each image."""
    _check(predictions)
    classes = predictions.classes
    columns = zip(
        predictions.ids,
        (classes[k] for k in predictions.labels),
        (classes[k] for k in predictions.preds),
        predictions.confidence.tolist(),
        predictions.losses.tolist(),
        predictions.correct.tolist(),
        strict=True,
    )
    header = ["id", "truth", "prediction", "confidence", "loss", "correct"]
    return [header, *(list(row) for row in columns)]


def confusion_rows(predictions: Predictions) -> list[list[Any]]:
    """A header of predicted classes, then each true class and its counts."""
    counts = confusion(predictions).tolist()
    rows = zip(predictions.classes, counts, strict=True)
    return [["truth", *predictions.classes], *([name, *row] for name, row in rows)]


def _check(predictions: Predictions) -> None:
    """Images, each with a true class and finite logits; otherwise the numbers mean nothing."""
    if len(predictions) == 0:
        raise UsageError("there are no predictions to evaluate; give at least one image")
    k = len(predictions.classes)
    unknown = np.flatnonzero((predictions.labels < 0) | (predictions.labels >= k))
    if unknown.size:
        raise UsageError(
            f"image {predictions.ids[unknown[0]]} has no true class (label "
            f"{predictions.labels[unknown[0]]}); evaluation needs labels 0 to {k - 1}"
        )
    broken = np.flatnonzero(~np.isfinite(predictions.logits).all(axis=1))
    if broken.size:
        raise ResightError(
            f"the model's output for image {predictions.ids[broken[0]]} is not finite; "
            "the weights are broken or the precision is too low, try precision = float32"
        )
