"""Borrowing a module for evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's `training` flag is given back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():  # in inference mode, what a module caches could not be trained with
            yield
    finally:
        for module, flag in flags:
            module.training = flag
