"""Ctrl-C, SIGTERM and SIGUSR1 as a request to stop at the next safe place."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


@contextmanager
def interrupt_text(text: str) -> Iterator[None]:
    """Give a KeyboardInterrupt of the block a text that says what it has cut short."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(text) from error


@contextmanager
def stop_requested(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT, SIGTERM or SIGUSR1 has arrived.

    The first signal only makes the function true; a second SIGINT or SIGTERM acts at once, even if
    the shell that started the process made it ignore the first kind, as for a job in the
    background. With `patient` it does not: torchrun, like SLURM, sends signals that its processes
    may have already. The handlers are restored at the end. Off the main thread, where Python allows
    no handlers, the function always returns False.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop.is_set
        return
    at_once: dict[signal.Signals, Handler] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    warning = getattr(signal, "SIGUSR1", signal.SIGTERM)  # of SLURM; Windows has none
    before = {number: signal.getsignal(number) for number in (*at_once, warning)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        for other, handler in () if patient else at_once.items():
            signal.signal(other, handler)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
