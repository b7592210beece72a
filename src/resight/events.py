"""The events of a run: what `on_event` is called with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from .records import EpochRow


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
class RunStart:
    """The first step is next; the run has a folder, which has its recipe.

    step: steps done before, in a run that is resumed.
    """

    folder: Path
    step: int = 0


@dataclass(frozen=True)
class RunEnd:
    """The run is over, was interrupted or failed; all that it writes is in its folder."""

    folder: Path


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

    row: "EpochRow"
    best: bool
    val_images: int = 0


Event = StepDone | EpochDone | Message | Progress | RunStart | RunEnd
OnEvent = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """Do nothing: the `on_event` of callers who want silence."""


def show_events(event: Event) -> None:
    """Show an event where a notebook's extension does; elsewhere do nothing: by default `on_event`.

    So a script of yours prints nothing that you have not asked for.
    """
    _listener(event)


def show_events_by(listener: OnEvent | None) -> None:
    """Have `show_events` call a listener; None makes it silent again."""
    global _listener
    _listener = listener or ignore_events


_listener: OnEvent = ignore_events
