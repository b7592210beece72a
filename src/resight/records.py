"""The results that pass between stages, as frozen values of NumPy arrays and plain Python.

Nothing here knows torch: a report can be made from these alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

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
    """The logits of a model for N images of K classes, with their labels.

    Arrays, CPU tensors and lists are converted. A label of -1 is not known.

    Raises:
        UsageError: shapes that do not belong together, or a label that is no class.
    """

    ids: Sequence[str]  # file name or row, leads back to the source
    logits: Float32Array  # (N, K)
    labels: IntArray  # (N,)
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        try:
            logits = np.asarray(self.logits, dtype=np.float32)
            labels = np.asarray(self.labels)
        except (TypeError, ValueError) as error:
            raise UsageError(f"logits and labels must be arrays of numbers: {error}") from error
        n, k = len(self.ids), len(self.classes)
        if not k and logits.ndim == 2:  # outputs that are no classes
            k = logits.shape[1]
        if logits.shape != (n, k) or labels.shape != (n,):
            raise UsageError(
                f"{n} ids and {k} classes have logits {logits.shape} and labels {labels.shape}; "
                f"give logits ({n}, {k}) and labels ({n},)"
            )
        if n and labels.dtype.kind not in "iu":
            raise UsageError(f"labels are {labels.dtype}; give the numbers of the classes, from 0")
        if n and self.classes and not -1 <= labels.min() <= labels.max() < k:
            raise UsageError(
                f"labels are {labels.min()} to {labels.max()}; give 0 to {k - 1}, the numbers of "
                f"the {k} classes, or -1 where the label is not known"
            )
        vars(self).update(logits=logits, labels=labels.astype(np.int64), classes=(*self.classes,))

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
