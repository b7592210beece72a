"""`log.txt` of a run folder: what the run said while it went, with the time of each line."""

import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from ..events import EpochDone, Event, Message, OnEvent, Progress, RunEnd, RunStart
from ..text import epoch_line, one_line

MAX_EARLY_LINES = 1000  # kept before the run has a folder


def with_log(on_event: OnEvent) -> OnEvent:
    """Return a listener that passes every event on, and keeps it in the run folder's `log.txt`.

    What is said before the run has a folder is kept until it has. A disk that is full ends the
    log, not the run.
    """
    early: deque[str] = deque(maxlen=MAX_EARLY_LINES)
    path: Path | None = None
    last_task = ""

    def listen(event: Event) -> None:
        nonlocal path, last_task
        on_event(event)
        if isinstance(event, RunStart):
            path = event.folder / "log.txt"
        elif isinstance(event, Progress):
            if event.task == last_task:
                return
            last_task = event.task
        if text := _line(event):
            early.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {one_line(text)}\n")
        if path:
            with suppress(OSError), open(path, "a", encoding="utf-8") as file:
                file.writelines(early)
            early.clear()
        if isinstance(event, RunEnd):
            path = None

    return listen


def _line(event: Event) -> str:
    """Return what the log says of an event; of a step, nothing."""
    match event:
        case Message(text) | Progress(text):
            return text
        case EpochDone(row, best):
            return epoch_line(row, star=best)
        case RunStart(folder, step):
            return f"{folder} {f'goes on after step {step:,}' if step else 'begins'}"
        case RunEnd(folder):
            return f"{folder} ends"
    return ""
