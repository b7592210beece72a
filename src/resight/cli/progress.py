"""The progress of a run on standard error: a bar on a terminal, and lines."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from ..events import EpochDone, Event, Message, OnEvent, Progress, StepDone
from ..metrics.intervals import MIN_TO_TELL
from ..text import epoch_line, one_line, printable

REFRESH_SECS = 0.25  # reading the loss off a GPU makes it wait, so not at every step
_STYLES = {"note": None, "warning": "yellow", "error": "red"}
LINE_SECS = 30.0  # between plain lines within an epoch, where there is no terminal


@contextmanager
def show_progress() -> Iterator[OnEvent]:
    """Give a listener that shows a line an epoch, and on a terminal a bar within the epoch."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(console, None)
        return
    with ProgressBar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=4,
    ) as bar:
        yield ProgressLines(console, bar)


class ProgressLines:
    """The listener: it prints lines, and moves the bar where there is one."""

    def __init__(self, console: Console, bar: ProgressBar | None) -> None:
        self.console, self.bar = console, bar
        self.last_shown = 0.0
        self.last_task = ""
        self.start: tuple[float, int] | None = None  # when this session started, and its step
        self.epochs = 0

    def __call__(self, event: Event) -> None:
        match event:
            case Message(text, severity):
                self._line(text, _STYLES[severity])
            case Progress(task, done, total):
                if self.bar:
                    figures = f"{done / total:.0%}" if total else f"{done:,}"
                    self._move_bar(task, done, total, figures)
                elif task != self.last_task:
                    self._line(task)
                self.last_task = task
            case StepDone():
                self._step(event)
            case EpochDone(row, best, val_images):
                star = best and val_images >= MIN_TO_TELL
                self._line(epoch_line(row, star=star, epochs=self.epochs))

    def _line(self, text: str, style: str | None = None) -> None:
        text = printable(text)
        with suppress(OSError):  # a run goes on where nobody can be told how
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _move_bar(self, label: str, done: int, total: int | None, figures: str) -> None:
        assert self.bar is not None
        label = one_line(label)
        if not self.bar.task_ids:
            self.bar.add_task(label, total=total, figures=figures)
        self.bar.update(
            self.bar.task_ids[0], description=label, completed=done, total=total, figures=figures
        )

    def _step(self, event: StepDone) -> None:
        now = time.perf_counter()
        if self.start is None:
            self.start, self.last_shown = (now, event.step), now
        self.epochs = event.total_steps // event.steps_per_epoch
        if now - self.last_shown < (REFRESH_SECS if self.bar else LINE_SECS):
            return
        self.last_shown = now
        start_time, start_step = self.start
        speed = (event.step - start_step) / (now - start_time)  # steps a second
        label = f"epoch {event.epoch}/{self.epochs}"
        figures = (
            f"loss {float(event.loss):.3f}  acc {int(event.correct) / event.images:.0%}  "
            f"lr {event.lr:.3g}  {speed * event.images:,.0f} images/s"
        )
        if self.bar:
            self._move_bar(label, event.step, event.total_steps, figures)
        elif speed:
            minutes = (event.total_steps - event.step) / speed / 60
            step = f"step {event.step}/{event.total_steps}"
            self._line(f"  {label}  {step}  {figures}  {minutes:.0f} min left")
