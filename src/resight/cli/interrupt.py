"""Ctrl-C at any time, also while modules are imported, is one line and exit code 130."""

import os
import signal
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT


def interrupt_in_one_line() -> None:
    """Have Ctrl-C during an import end the process at once, and SIGUSR1 act as Ctrl-C.

    A KeyboardInterrupt would be swallowed by some libraries while they are imported, which then
    go on with half a module. No file of resight is open at that time. SLURM warns by SIGUSR1, which
    would kill the process without a word.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
    warning = getattr(signal, "SIGUSR1", signal.SIGINT)  # Windows has none
    if signal.getsignal(warning) is signal.SIG_DFL:
        signal.signal(warning, _on_interrupt)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGINT:  # of SLURM and of torchrun: the first one is enough
        signal.signal(number, signal.SIG_IGN)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, b"resight: interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
