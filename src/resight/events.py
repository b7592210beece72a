"""What a run says while it goes: the events that `on_event` is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .records import EpochRow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Message:
    """Something a person should know that is no fault: a conversion, a fallback."""

    text: str


@dataclass(frozen=True)
class Progress:
    """What comes before training: data fetched or decoded, a range test; None: not known."""

    what: str
    done: int
    total: int | None


@dataclass(frozen=True)
class StepDone:
    """A step was taken. `loss` stays on the device; reading it may wait for the device."""

    epoch: int  # counted from 1
    step: int  # steps done in the whole run
    steps_per_epoch: int
    total_steps: int
    loss: "Tensor"  # () mean over the step's images
    correct: "Tensor"  # () how many of them were right
    lr: float
    images: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch was finished and validated; `best`: its weights are the ones to keep so far."""

    row: EpochRow
    best: bool


Event = StepDone | EpochDone | Message | Progress
OnEvent = Callable[[Event], None]
