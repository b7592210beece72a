"""The events of a run: what `on_event` is called with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .records import EpochRow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Message:
    """Something a person should know: a conversion, a fallback, or an issue before training.

    An error here is one of the doctor's: it does not stop the run, and spoils its result.
    """

    text: str
    severity: Literal["note", "warning", "error"] = "note"


@dataclass(frozen=True)
class Progress:
    """The progress of work before training: a download, the decoding of pictures, a range test."""

    task: str
    done: int
    total: int | None  # None: not known


@dataclass(frozen=True)
class StepDone:
    """The result of one training step. Reading `loss` or `correct` may wait for the device."""

    epoch: int  # counted from 1
    step: int  # steps done in the whole run
    steps_per_epoch: int
    total_steps: int
    loss: "Tensor"  # () mean over the step's images
    correct: "Tensor"  # () number of correctly predicted images of the step
    lr: float
    images: int


@dataclass(frozen=True)
class EpochDone:
    """The result of one epoch; `best`: its weights are the best so far, and are kept.

    val_images: how many images say so. Fewer than `metrics.intervals.MIN_TO_TELL` cannot.
    """

    row: EpochRow
    best: bool
    val_images: int = 0


Event = StepDone | EpochDone | Message | Progress
OnEvent = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """Do nothing: the `on_event` of callers who do not listen."""
