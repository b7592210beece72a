"""Features of images in a network: what its last linear layer gets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets import Split, Statistics
from ..errors import UsageError
from ..recipe import Training
from .predict import predict_split


def features(
    model: nn.Module, split: Split, stats: Statistics, *, training: Training | None = None
) -> Tensor:
    """Return the penultimate features of a split, (N, D) float32, on the device of the split.

    They are the input of the linear layer that runs last: pooled maps, before they become logits.
    The model runs in evaluation mode without gradients, and comes back without hooks.

    Raises:
        UsageError: no linear layer runs.
    """
    with _inputs_of_linear(model) as batches:
        predict_split(model, split, stats, classes=(), training=training)
    return torch.cat(batches)


@contextmanager
def _inputs_of_linear(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects, for each pass through `model`, the input of the linear layer that ran last."""
    batches: list[Tensor] = []
    latest: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        latest[:] = [(args[0] if args else named["input"]).detach()]

    def collect(model: nn.Module, args: Any, output: Any) -> None:
        if not latest:
            raise UsageError(
                f"{type(model).__name__} has no linear layer, so images cannot be compared by "
                "its input"
            )
        batches.append(latest.pop().flatten(1).float())  # (n, D)

    hooks = [
        layer.register_forward_pre_hook(keep, with_kwargs=True)
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    hooks.append(model.register_forward_hook(collect))
    try:
        yield batches
    finally:
        for hook in hooks:
            hook.remove()
