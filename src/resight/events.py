"""The events of a run: what `on_event` is called with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .records import EpochRow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Message:
    """Something a person should know that is not an error: a conversion, a fallback."""

    text: str


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
    """The result of one epoch; `best`: its weights are the best so far, and are kept."""

    row: EpochRow
    best: bool


Event = StepDone | EpochDone | Message | Progress
OnEvent = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """Do nothing: the `on_event` of callers who do not listen."""
