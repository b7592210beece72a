"""A linear head fitted to the features of a network that is held: logistic regression.

The quickest way to use published weights on few images (Alain & Bengio 2016, "probe"): the
features of every image are computed once, and the best linear layer on them is found exactly.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..datasets import Split, Statistics, batch_size_for
from ..errors import UsageError
from ..events import OnEvent, Progress, ignore_events
from ..metrics.classification import accuracy, mean_loss
from ..networks.eval_mode import eval_mode
from ..networks.freeze import head_of
from ..recipe import Loss, Recipe
from ..records import EpochRow
from .batches import eval_batches
from .distributed import Rank
from .objective import class_weights, image_losses
from .precision import autocast, to_memory_format
from .predict import predict_split
from .state import TrainData

# Penalties to choose from, the strongest first: each fit begins where the one before it ended.
_L2 = tuple(10 ** (power / 2) for power in range(2, -9, -1))  # 10 to 1e-4
_MAX_ITERATIONS = 200  # of L-BFGS for one penalty; it mostly ends before
_IMAGES = 250  # of 32 px in a batch of features
_INSTEAD = 'train it with training.freeze = ["backbone"] instead'


@dataclass(frozen=True)
class HeadFit:
    """The penalty that was chosen, and the losses (mean cross entropy) of train and validation."""

    l2: float
    train_loss: float
    val_loss: float | None
    features: int

    def __str__(self) -> str:
        val = f", validation loss {self.val_loss:.3f}" if self.val_loss is not None else ""
        return (
            f"head fitted to {self.features:,} features: l2 {self.l2:.2g}, "
            f"training loss {self.train_loss:.3f}{val}"
        )


def fit_head(
    model: nn.Module, recipe: Recipe, data: TrainData, on_event: OnEvent = ignore_events
) -> HeadFit:
    """Set the head of `model` to the best linear layer on its features, and return the fit.

    The loss is that of the recipe, without augmentation: of each image and, if the recipe flips
    images, of its mirror image. Features are scaled to mean 0 and deviation 1 for the fit, and the
    scale is folded into the layer. The L2 penalty l2 / 2 * |W|^2 on the scaled features is the one
    with the lowest validation loss.

    Raises:
        UsageError: the head is no linear layer, or there is no validation to choose l2 by.
    """
    assert recipe.probe is not None
    if recipe.probe.l2 == "auto" and data.val is None:
        raise UsageError(
            'probe.l2 = "auto" is chosen by validation, but nothing is held out; set '
            "data.val_fraction=0.2 or probe.l2=0.01"
        )
    name, head = head_of(model)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise UsageError(f"the head {name} is {head}; a probe fits a linear layer with a bias")
    mirrored = recipe.augment.flip is not None
    x, y, scale = _features(model, head, data.train, recipe, data.stats, mirrored, on_event)
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, 1.0)
    x = (x - mean) / std
    weights = class_weights(recipe.loss, data.train.labels, len(data.classes))
    val = None
    if data.val is not None:
        val_x, val_y, _ = _features(model, head, data.val, recipe, data.stats, False, on_event)
        val = ((val_x - mean) / std, val_y)
    grid = _L2 if recipe.probe.l2 == "auto" else (recipe.probe.l2,)
    best: tuple[HeadFit, Tensor] | None = None
    for l2, layer in _path(x, y, grid, recipe.loss, weights, len(data.classes)):
        fit = HeadFit(
            l2,
            _cross_entropy(x, y, layer),
            None if val is None else _cross_entropy(*val, layer),
            x.shape[1],
        )
        if best is None or (fit.val_loss or 0.0) < (best[0].val_loss or 0.0):
            best = fit, layer
    assert best is not None
    _set_head(head, best[1], mean, std, scale)
    return best[0]


def row_of_probe(model: nn.Module, recipe: Recipe, data: TrainData, rank: Rank) -> EpochRow:
    """Return the row of a run that ends with its probe: one epoch without steps, at a rate of 0."""
    predict = partial(
        predict_split,
        model,
        stats=data.stats,
        classes=data.classes,
        training=recipe.training,
        rank=rank,
    )
    began = time.perf_counter()
    train = predict(data.train)
    secs = time.perf_counter() - began
    val = None if data.val is None else predict(data.val)
    return EpochRow(
        epoch=1,
        step=0,
        lr=0.0,
        train_loss=mean_loss(train),
        train_accuracy=accuracy(train).value,
        val_loss=mean_loss(val) if val else None,
        val_accuracy=accuracy(val).value if val else None,
        train_secs=secs,
        images_per_sec=len(data.train) / secs,
    )


def _features(
    model: nn.Module,
    head: nn.Linear,
    split: Split,
    recipe: Recipe,
    stats: Statistics,
    mirrored: bool,
    on_event: OnEvent,
) -> tuple[Tensor, Tensor, float]:
    """Return features (N, F), labels (N,), and the logits as a multiple of the head's output.

    With `mirrored` there are 2 N rows: those of each batch, then those of its mirror images.
    """
    calls: list[tuple[Tensor, Tensor]] = []  # (input, output) of the head
    features, labels, scale = [], [], 1.0
    total = len(split) * (1 + mirrored)
    batches = eval_batches(split, stats, batch_size=batch_size_for(split.images, _IMAGES))
    hook = head.register_forward_hook(lambda _, args, output: calls.append((args[0], output)))
    try:
        with eval_mode(model), autocast(recipe.training, split.images.device):
            for images, batch_labels in batches:
                for view in (images, images.flip(-1)) if mirrored else (images,):
                    calls.clear()
                    logits = model(to_memory_format(view, recipe.training))
                    if len(calls) != 1 or calls[0][0].ndim != 2:
                        raise UsageError(
                            "the network does not use its last linear layer once on features "
                            f"(N, F), as a probe needs it; {_INSTEAD}"
                        )
                    scale = _scale(logits, calls[0][1])
                    features.append(calls[0][0].float())
                    labels.append(batch_labels)
                on_event(Progress("features", sum(map(len, labels)), total))
    finally:
        hook.remove()
    return torch.cat(features), torch.cat(labels), scale


def _scale(logits: Tensor, output: Tensor) -> float:
    """Return the number that the network multiplies the output of its head by.

    Raises:
        UsageError: the logits are no multiple of it.
    """
    logits, output = logits.float(), output.float()
    scale = float((logits * output).sum() / (output * output).sum().clamp_min(1e-12))
    if not torch.allclose(logits, scale * output, rtol=1e-2, atol=1e-3 * float(logits.abs().max())):
        raise UsageError(
            "the logits of the network are no multiple of what its last linear layer returns, so a "
            f"probe cannot fit it; {_INSTEAD}"
        )
    return scale


def _path(
    x: Tensor, y: Tensor, grid: tuple[float, ...], loss: Loss, weights: Tensor | None, classes: int
) -> Iterator[tuple[float, Tensor]]:
    """Yield each penalty with the layer (F + 1, K) that minimizes loss and penalty; bias last."""
    layer = torch.zeros(x.shape[1] + 1, classes, device=x.device)
    layer.requires_grad_(True)
    for l2 in grid:
        optimizer = torch.optim.LBFGS(
            [layer],
            max_iter=_MAX_ITERATIONS,
            tolerance_grad=1e-5,
            tolerance_change=1e-8,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure(l2: float = l2, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
            optimizer.zero_grad()
            objective = image_losses(_logits(x, layer), y, loss, weights)[1].mean()
            objective = objective + l2 / 2 * layer[:-1].square().sum()
            objective.backward()  # type: ignore[no-untyped-call]
            return objective

        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        yield l2, layer.detach().clone()


def _logits(x: Tensor, layer: Tensor) -> Tensor:
    return x @ layer[:-1] + layer[-1]


def _cross_entropy(x: Tensor, y: Tensor, layer: Tensor) -> float:
    return float(nn.functional.cross_entropy(_logits(x, layer), y))


@torch.no_grad()
def _set_head(head: nn.Linear, layer: Tensor, mean: Tensor, std: Tensor, scale: float) -> None:
    """Write a layer for scaled features into the head, which gets them unscaled."""
    weight = layer[:-1] / std[:, None] / scale  # (F, K)
    head.weight.copy_(weight.T)
    head.bias.copy_(layer[-1] / scale - mean @ weight)
