"""The results that pass between stages, as frozen values of NumPy arrays and plain Python.

Nothing here knows torch: a report can be made from these alone.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
ImageArray = NDArray[np.uint8]  # pictures, (N, H, W, 1 or 3), or one of them without the N

COARSE_CELLS = 5  # cells a side; a heat map with fewer cannot say where in the image something is


def evenly_spaced(n: int, count: int) -> IntArray:
    """Return at most `count` of the rows 0 to n - 1, evenly spaced from the first to the last."""
    return np.linspace(0, n - 1, min(count, n)).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """The figures of one epoch of training. Losses are means over images, accuracies lie in [0, 1].

    The training figures are a running mean over the epoch, of augmented images and changing
    weights; the validation figures belong to the weights at its end.
    """

    epoch: int  # counted from 1
    step: int  # steps done at its end
    lr: float  # at its last step
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    train_secs: float
    images_per_sec: float


@dataclass(frozen=True)
class History:
    """The course of training: a row an epoch; learning rate, momentum and loss of every step."""

    epochs: tuple[EpochRow, ...]
    lrs: FloatArray  # (steps,)
    momenta: FloatArray  # (steps,), NaN where the optimizer has none
    losses: FloatArray  # (steps,) mean over the step's images


@dataclass(frozen=True)
class Predictions:
    """The logits of a model for N images of K classes, with their labels."""

    ids: tuple[str, ...]  # file name or row, leads back to the source
    logits: Float32Array  # (N, K)
    labels: IntArray  # (N,)
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def log_probs(self) -> FloatArray:
        """(N, K) the log-softmax of the logits."""
        z = self.logits.astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
        return z

    @cached_property
    def probs(self) -> FloatArray:
        """(N, K) the softmax of the logits; each row sums to 1."""
        return np.asarray(np.exp(self.log_probs))

    @cached_property
    def preds(self) -> IntArray:
        """(N,) the class with the largest logit; the first of equal ones."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @cached_property
    def confidence(self) -> FloatArray:
        """(N,) the probability of the predicted class."""
        return np.asarray(self.probs.max(axis=1))

    @cached_property
    def losses(self) -> FloatArray:
        """(N,) the cross entropy of each image, without label smoothing."""
        return np.asarray(-self.log_probs[np.arange(len(self)), self.labels])

    @cached_property
    def correct(self) -> BoolArray:
        """(N,) whether the predicted class is the label."""
        return np.asarray(self.preds == self.labels)
