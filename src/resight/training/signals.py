"""Ctrl-C and SIGTERM as a wish to stop at the next safe place."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A question, `asked()`: has a person or the system asked to stop?

    The first SIGINT or SIGTERM only sets the answer; the second acts at once, even where the shell
    that started the process told it to ignore the first kind, as for a job in the background. The
    handlers are given back at the end. Off the main thread, where Python allows no handlers, the
    answer is always no.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    at_once: dict[signal.Signals, Handler] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.getsignal(number) for number in at_once}

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        for other, handler in at_once.items():
            signal.signal(other, handler)

    for number in at_once:
        signal.signal(number, on_signal)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
