"""Processes that a test kills or limits: forked from one that has imported resight, and no more."""

import multiprocessing
from multiprocessing.context import BaseContext


def forkserver() -> BaseContext:
    """Return what starts processes; all tests of a session share the one that they fork from.

    A process of its own would import torch each time, which takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resight.experiment"])
    return context
