"""Checkpoints in the middle of an epoch, written while training goes on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..errors import ResightError
from ..events import Message, OnEvent
from ..training.loop import check_state
from ..training.setup import TrainSetup
from .checkpoint import snapshot, write_checkpoint


class TimedCheckpoints:
    """The checkpoints of a run within its epochs, one every `training.checkpoint_minutes`.

    The state is copied to memory between two steps, and a thread writes the copy during the next
    ones. Time decides when a file is written and nothing else: the weights do not depend on it.
    """

    def __init__(self, folder: Path, setup: TrainSetup, on_event: OnEvent) -> None:
        self._folder, self._setup, self._on_event = folder, setup, on_event
        self._interval = 60 * setup.recipe.training.checkpoint_minutes
        self._began = time.monotonic()  # the minutes until the next one
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save_if_due(self) -> None:
        """Save the state between two steps if its time has come.

        Raises:
            Diverged: the state is not worth saving.
        """
        if self._writing and self._writing.done():
            self.finish()
        if self._interval and time.monotonic() - self._began >= self._interval:
            check_state(self._setup.state, self._setup.splits)
            self.finish()
            content = snapshot(self._setup)
            self._writing = self._thread.submit(write_checkpoint, self._folder, content)

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk, and begin the minutes anew.

        A file that cannot be written is told: the run may still have its disk back when it ends.
        """
        self._began = time.monotonic()
        writing, self._writing = self._writing, None
        try:
            if writing:
                writing.result()
        except ResightError as error:
            self._on_event(Message(f"{error}; training goes on", "warning"))

    def close(self) -> None:
        """Wait for the thread, also when an error is on its way."""
        self._thread.shutdown()
