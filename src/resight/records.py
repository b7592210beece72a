"""The results that pass between stages, as frozen values of NumPy arrays and plain Python.

Nothing here knows torch: a report can be made from these alone.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch of training. Losses are means over images, accuracies lie in [0, 1].

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
    """A whole run: a row an epoch, and the rate, momentum and training loss of every step."""

    epochs: tuple[EpochRow, ...]
    lrs: FloatArray  # (steps,)
    momenta: FloatArray  # (steps,), NaN where the optimizer has none
    losses: FloatArray  # (steps,) mean over the step's images


@dataclass(frozen=True)
class Predictions:
    """What a model said about N images of K classes, and what was true."""

    ids: tuple[str, ...]  # file name or row, leads back to the source
    logits: NDArray[np.float32]  # (N, K)
    labels: IntArray  # (N,)
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def log_probs(self) -> FloatArray:
        """(N, K) log-softmax of the logits, in float64."""
        z = self.logits.astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
        return z

    @cached_property
    def probs(self) -> FloatArray:
        """(N, K), each row sums to 1."""
        return np.asarray(np.exp(self.log_probs))

    @cached_property
    def preds(self) -> IntArray:
        """(N,) the class with the largest logit; the first of equals."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @cached_property
    def confidence(self) -> FloatArray:
        """(N,) probability of the predicted class."""
        return np.asarray(self.probs.max(axis=1))

    @cached_property
    def losses(self) -> FloatArray:
        """(N,) cross entropy of each image, without label smoothing."""
        return np.asarray(-self.log_probs[np.arange(len(self)), self.labels])

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.asarray(self.preds == self.labels)
