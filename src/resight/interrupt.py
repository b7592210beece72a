"""Ctrl-C and SIGTERM as a wish to stop at the next safe place."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A question, `asked()`: has a person or the system asked to stop?

    The first SIGINT or SIGTERM only sets the answer; it also puts the earlier handlers back, so
    that the second acts at once. Off the main thread, where Python allows no handlers, the answer
    is always no.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        restore()

    for number in signals:
        signal.signal(number, on_signal)
    try:
        yield asked.is_set
    finally:
        restore()
