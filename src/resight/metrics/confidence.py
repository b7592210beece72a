"""What a confidence is worth: a temperature for logits, and how often sure answers are right."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UsageError
from ..records import BoolArray, FloatArray, Predictions
from .classification import check_finite
from .intervals import Interval, wilson

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # rows of the table of answers
_MAX_RATIO = 2.0  # of the ends of a temperature's interval, which otherwise says little
_BOUND = 20.0  # of a temperature, and of its reciprocal
_HALVINGS = 40  # of log(400): a relative error below 1e-11
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Temperature:
    """The number that logits are divided by, so that confidence matches accuracy.

    Above 1 it lowers confidence. The order of the classes, and so the accuracy, stays.
    """

    value: float
    low: float | None  # of the 95 % interval; None where nothing bounds it
    high: float | None
    images: int  # of validation
    note: str = ""  # why it is not the fitted one

    def __str__(self) -> str:
        if self.note:
            return f"{self.value:.2g} ({self.note})"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}, n = {self.images:,})"


@dataclass(frozen=True)
class CoverageRow:
    """The images whose confidence reaches a threshold: their share, and the accuracy among them."""

    threshold: float
    coverage: Interval
    accuracy: Interval | None  # None: no image reaches it


def fit_temperature(predictions: Predictions | None) -> Temperature:
    """Return the temperature with the lowest mean loss on validation (Guo et al. 2017).

    Source: arXiv:1706.04599. The loss is convex in b = 1 / T, with the derivative
    mean(E_p[z] - z_label) of logits z, p = softmax(b z), so halving finds its zero. The interval is
    that of an M-estimator: var b = mean(g^2) / (n h^2), where g is each image's derivative and h
    the mean of Var_p[z]. Without validation images it is 1. Where they leave a wide interval, it is
    the value inside that is nearest 1.
    """
    if predictions is None or len(predictions) == 0:
        return Temperature(1.0, None, None, 0, "there are no validation images to fit it on")
    check_finite(predictions)
    n = len(predictions)
    z = predictions.logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    low, high = -math.log(_BOUND), math.log(_BOUND)  # of log b
    if not _derivatives(z, predictions, math.exp(low))[0].mean() < 0:
        return Temperature(1.0, None, None, n, "the logits say nothing of the validation labels")
    if not _derivatives(z, predictions, math.exp(high))[0].mean() > 0:
        right = "all" if predictions.correct.all() else "nearly all"
        note = f"{right} of the {n:,} validation images are predicted correctly"
        return Temperature(1.0, None, None, n, note)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = _derivatives(z, predictions, math.exp(middle))[0].mean() > 0
        low, high = (low, middle) if above else (middle, high)
    b = math.exp((low + high) / 2)
    slopes, curvature = _derivatives(z, predictions, b)
    half = _Z95 * math.sqrt(float((slopes**2).mean()) / n) / curvature / b  # of log b
    if not half <= math.log(_BOUND):
        return Temperature(1.0, None, None, n, f"{n:,} validation images are too few to fit it on")
    ends = math.exp(-half) / b, math.exp(half) / b
    if ends[1] > _MAX_RATIO * ends[0]:
        note = f"{n:,} validation images leave it between {ends[0]:.2f} and {ends[1]:.2f}"
        if ends[0] <= 1 <= ends[1]:
            return Temperature(1.0, *ends, n, note)
        nearest = min(ends, key=lambda end: abs(math.log(end)))
        return Temperature(nearest, *ends, n, f"{note}; this is the end nearest 1")
    return Temperature(1 / b, *ends, n)


def _derivatives(z: FloatArray, predictions: Predictions, b: float) -> tuple[FloatArray, float]:
    """The derivative of each image's loss by b, (N,), and the mean of the second derivatives."""
    p = np.exp(b * z)
    p /= p.sum(axis=1, keepdims=True)
    mean = (p * z).sum(axis=1)
    slopes = mean - z[np.arange(len(z)), predictions.labels]
    return slopes, float(((p * z**2).sum(axis=1) - mean**2).mean())


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Return predictions whose logits are divided by a temperature; the classes stay."""
    logits = (predictions.logits / temperature).astype(np.float32)
    return replace(predictions, logits=logits)


def check_threshold(unsure_below: float) -> None:
    """Raise UsageError unless a threshold of confidence lies between 0 and 1."""
    if not 0 < unsure_below < 1:
        raise UsageError(
            f"unsure_below = {unsure_below:g} must be above 0 and below 1, as in 0.8: answers with "
            "a lower probability are marked as unsure"
        )


def coverage_table(
    confidence: FloatArray, correct: BoolArray, thresholds: Iterable[float] = THRESHOLDS
) -> tuple[CoverageRow, ...]:
    """Return what is answered, and how well, if only sure answers count, by rising threshold.

    confidence, correct (N,): of images that the network was not trained on; none give no rows.
    """
    rows = []
    for threshold in sorted(set(thresholds)) if len(confidence) else ():
        sure = confidence >= threshold
        count = int(sure.sum())
        accuracy = wilson(int((sure & correct).sum()), count) if count else None
        rows.append(CoverageRow(threshold, wilson(count, len(confidence)), accuracy))
    return tuple(rows)
