"""Ctrl-C, SIGTERM and SIGUSR1 as a request to stop at the next safe place.

SLURM warns of the end of a job's time by SIGUSR1, which by itself would kill a process. It never
does here: while a run is prepared it acts as Ctrl-C, between two steps it stops the run with a
checkpoint, and after the last step it is ignored, so that the results are still written.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers

_WARNING = [number for number in signal.Signals if number.name == "SIGUSR1"]  # not on Windows


@contextmanager
def interrupt_text(text: str) -> Iterator[None]:
    """Give a KeyboardInterrupt of the block a text that says what it has cut short."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(text) from error


@contextmanager
def warning_interrupts() -> Iterator[None]:
    """Have SIGUSR1 raise KeyboardInterrupt in the block, unless somebody handles it already."""
    free = [number for number in _WARNING if signal.getsignal(number) is signal.SIG_DFL]
    with _handled(dict.fromkeys(free, _interrupt_once)):
        yield


@contextmanager
def warning_ignored() -> Iterator[None]:
    """Ignore SIGUSR1 in the block."""
    with _handled(dict.fromkeys(_WARNING, signal.SIG_IGN)):
        yield


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and ignore this signal from now on.

    SLURM and torchrun may both send it, and the second must not cut short how the first ends.
    """
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def stop_requested(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT, SIGTERM or SIGUSR1 has arrived.

    The first signal only makes the function true; a second SIGINT or SIGTERM acts at once, even if
    the shell that started the process made it ignore the first kind, as for a job in the
    background. With `patient` it does not: torchrun, like SLURM, sends signals that its processes
    may have already. Off the main thread the function always returns False.
    """
    stop = threading.Event()
    at_once: dict[int, Handler] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        for other, handler in () if patient else at_once.items():
            signal.signal(other, handler)

    with _handled(dict.fromkeys([*at_once, *_WARNING], on_signal)):
        yield stop.is_set


@contextmanager
def _handled(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Handle signals so in the block; off the main thread, where Python cannot, as they were."""
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
