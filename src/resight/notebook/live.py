"""The progress of a run in a notebook: one line that is written anew, and curves that grow."""

import os
import time
from base64 import b64encode
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..events import EpochDone, Event, Message, Progress, RunEnd, StepDone
from ..figures.curves import training_curves
from ..figures.style import encoded
from ..records import EpochRow, History
from ..text import epoch_line, one_line

REFRESH_SECS = 0.5  # between two writings of the line
_COLORS = {"note": "inherit", "warning": "#9a6700", "error": "#cf222e"}
# Their pages keep every update of an output, so lines that are printed once are better there.
_PLAIN = ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")


def png_tag(picture: bytes, text: str) -> str:
    """Return a PNG as a tag of HTML that holds it."""
    code = b64encode(picture).decode()
    return f'<img src="data:image/png;base64,{code}" alt="{escape(text)}">'


class LiveProgress:
    """The listener that `%load_ext resight` shows runs by."""

    def __init__(self) -> None:
        self.is_plain = any(name in os.environ for name in _PLAIN)
        self.ipython: Any = import_module("IPython.display")
        self.last_shown, self.epochs = 0.0, 0
        self.begin()

    def begin(self, info: Any = None) -> None:
        """Forget the run or the cell before; what follows has an output of its own."""
        self.output: Any = None  # IPython's handle of the output of the cell
        self.lines: list[str] = []
        self.notes: list[str] = []  # those of the lines that a finished run folds
        self.rows: list[EpochRow] = []
        self.status, self.curves, self.epoch = "", "", ""

    def __call__(self, event: Event) -> None:
        match event:
            case Message(text, severity):
                self._add(text, severity)
            case Progress(task, done, total):
                self._tell(f"{task} {done / total:.0%}" if total else task, now=done == total)
            case StepDone():
                self.epochs = event.total_steps // event.steps_per_epoch
                if time.perf_counter() - self.last_shown > REFRESH_SECS:
                    share = f"step {event.step:,} of {event.total_steps:,}"
                    self._tell(f"{share}, loss {float(event.loss):.3f}, lr {event.lr:.3g}")
            case EpochDone(row, best):
                self.rows.append(row)
                self.epoch = epoch_line(row, star=best, epochs=self.epochs)
                if self.is_plain:
                    print(self.epoch)
                elif len(self.rows) > 1:  # a probe has one epoch, which is no curve
                    self.curves = self._draw()
                self._tell(self.epoch, now=True)
            case RunEnd(folder):
                self._fold(folder)
                self.begin()

    def _add(self, text: str, severity: str) -> None:
        """Keep a line for good."""
        if self.is_plain:
            print(one_line(text))
        line = f'<span style="color: {_COLORS[severity]}">{escape(text)}</span>'
        self.lines.append(line)
        if severity == "note":
            self.notes.append(line)
        self._tell(self.status, now=True)

    def _fold(self, folder: Path) -> None:
        """Leave of a finished run its warnings and last epoch, and all else behind a click."""
        summary = escape(f"{folder}: {self.epoch or 'no epoch is finished'}")
        folded = "<br>".join([*self.notes, self.curves])
        self.lines = [line for line in self.lines if line not in self.notes]
        self.lines.append(f"<details><summary>{summary}</summary>{folded}</details>")
        self.curves = ""
        self._tell("", now=True)

    def _tell(self, status: str, *, now: bool = False) -> None:
        """Write the line that changes anew, between the lines that stay and the curves."""
        self.status = status
        if self.is_plain or not (now or time.perf_counter() - self.last_shown > REFRESH_SECS):
            return
        self.last_shown = time.perf_counter()
        page = self.ipython.HTML("<br>".join([*self.lines, escape(status), self.curves]))
        if self.output is None:
            self.output = self.ipython.display(page, display_id=True)
        else:
            self.output.update(page)

    def _draw(self) -> str:
        """Return the curves so far as an inline picture."""
        empty = np.empty(0)
        history = History(tuple(self.rows), empty, empty, empty)
        return png_tag(encoded(training_curves(history, None)), "loss and accuracy of each epoch")
