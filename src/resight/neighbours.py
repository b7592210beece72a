"""Which training images a network takes for most alike: neighbours by its last features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .datasets import Split, Statistics
from .errors import UsageError
from .evaluation import predict_split
from .recipe import Training


def features(
    model: nn.Module, split: Split, stats: Statistics, *, training: Training | None = None
) -> Tensor:
    """What the last linear layer of `model` is given, (N, D) float32, on the split's device.

    The penultimate features: pooled, right before they are turned into logits. The last linear
    layer is the one that runs last. Evaluation mode, without gradients; the model is given back
    without hooks.

    Raises:
        UsageError: no linear layer runs.
    """
    with _inputs_of_linear(model) as batches:
        predict_split(model, split, stats, classes=(), training=training)
    return torch.cat(batches)


def nearest(queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k of `candidates` (N, D) most alike to each of `queries` (M, D), by cosine.

    Returns their rows (M, k) and cosines (M, k) in [-1, 1], the most alike first; fewer than k
    where there are not as many. All zeros is like nothing: cosine 0.
    """
    cosines = F.normalize(queries, dim=1) @ F.normalize(candidates, dim=1).T  # (M, N)
    values, rows = cosines.sort(dim=1, descending=True, stable=True)
    return rows[:, :k], values[:, :k]


@contextmanager
def _inputs_of_linear(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects, for each pass through `model`, the input of the linear layer that ran last."""
    batches: list[Tensor] = []
    latest: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...]) -> None:
        latest[:] = [args[0].detach()]

    def collect(model: nn.Module, args: Any, output: Any) -> None:
        if not latest:
            raise UsageError(
                f"{type(model).__name__} has no linear layer, so images cannot be compared by "
                "what it is given"
            )
        batches.append(latest.pop().flatten(1).float())  # (n, D)

    hooks = [
        layer.register_forward_pre_hook(keep)
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    hooks.append(model.register_forward_hook(collect))
    try:
        yield batches
    finally:
        for hook in hooks:
            hook.remove()
