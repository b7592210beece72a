"""A linear head fitted to the features of a network that is held: logistic regression.

The quickest way to use published weights on few images (Alain & Bengio 2016, "probe"): the
features of every image are computed once, and the best linear layer on them is found exactly.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..datasets import Split
from ..datasets.augment import normalize
from ..errors import UsageError
from ..events import OnEvent, Progress, show_events
from ..metrics.classification import accuracy, mean_loss
from ..networks.eval_mode import eval_mode
from ..networks.freeze import head_of
from ..recipe import Loss, Recipe, Training
from ..recipe.sources import source_name
from ..records import EpochRow, Predictions
from .features import features, name_to_keep
from .objective import class_weights, image_losses
from .state import TrainData

# Penalties to choose from, the strongest first: each fit begins where the one before it ended.
_L2 = tuple(10 ** (power / 2) for power in range(2, -9, -1))  # 10 to 1e-4
_MAX_ITERATIONS = 200  # of L-BFGS for one penalty; it mostly ends before
_NUM_IMAGES = 8  # whose logits show how the network uses its head


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
    model: nn.Module, recipe: Recipe, data: TrainData, on_event: OnEvent = show_events
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
        raise UsageError(
            f"the head {name} is {head}, and a probe fits a linear layer with a bias; train it "
            'with training.freeze = ["backbone"] instead'
        )
    scale = _scale(model, head, data)
    x, y, val = _features_of(model, recipe, data, on_event)
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, 1.0)
    x = (x - mean) / std
    weights = class_weights(recipe.loss, data.train.labels, len(data.classes))
    if val is not None:
        val = (val[0] - mean) / std, val[1]
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


def _features_of(
    model: nn.Module, recipe: Recipe, data: TrainData, on_event: OnEvent
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Features and labels of train, with mirror images if the recipe flips images, and of val.

    The cache keeps them, so another probe of the same images takes them from there.
    """
    parts = [data.train]
    if recipe.augment.flip is not None:
        parts.append(replace(data.train, images=data.train.images.flip(-1)))
    total = sum(map(len, parts)) + (len(data.val) if data.val else 0)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress("features of images", done, total))

    def read(split: Split) -> Tensor:
        name = source_name(recipe.data.source)
        return features(
            model, split, data.stats, training=_training(recipe), keep=name, on_batch=tell
        )

    tell(0)
    x = torch.cat([read(part) for part in parts])
    val = None if data.val is None else (read(data.val), data.val.labels)
    return x, data.train.labels.repeat(len(parts)), val


def _training(recipe: Recipe) -> Training:
    """How features are computed: where the precision is chosen later, in float32."""
    training = recipe.training
    if training.precision == "auto":
        return training.model_copy(update={"precision": "float32"})
    return training


def row_of_probe(model: nn.Module, recipe: Recipe, data: TrainData) -> EpochRow:
    """Return the row of a run that ends with its probe: one epoch without steps, at a rate of 0."""
    head = head_of(model)[1]
    assert isinstance(head, nn.Linear)
    scale = _scale(model, head, data)

    @torch.no_grad()
    def predict(split: Split) -> Predictions:
        x = features(
            model, split, data.stats, training=_training(recipe), keep=name_to_keep(recipe)
        )
        logits, labels = (scale * head(x)).cpu().numpy(), split.labels.cpu().numpy()
        return Predictions(split.ids, logits, labels, data.classes)

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


@torch.no_grad()
def _scale(model: nn.Module, head: nn.Linear, data: TrainData) -> float:
    """Return the number that the network multiplies the output of its head by.

    Raises:
        UsageError: the logits are no multiple of that output.
    """
    images = data.train.select(torch.arange(min(_NUM_IMAGES, len(data.train))))
    x = features(model, images, data.stats)  # in float32, whatever the precision of the recipe
    with eval_mode(model):
        logits = model(normalize(images.images, data.stats))
    output = head(x) if x.shape[1] == head.in_features else torch.zeros(())
    scale = float((logits * output).sum() / (output * output).sum().clamp_min(1e-12))
    if not torch.allclose(logits, scale * output, rtol=1e-2, atol=1e-3 * float(logits.abs().max())):
        raise UsageError(
            "the logits of the network are no multiple of what its last linear layer makes of "
            "features (N, F), as a probe needs it; train it with "
            'training.freeze = ["backbone"] instead'
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
