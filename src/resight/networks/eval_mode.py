"""Put a module into evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients; every `training` flag is restored at the end."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():  # in inference mode, what a module caches could not be trained with
            yield
    finally:
        for module, flag in flags:
            module.training = flag
