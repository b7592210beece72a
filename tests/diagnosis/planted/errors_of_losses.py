"""Trainings with one error in the loss, and labels of other kinds."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import BATCH, K, Photos, loader, plain_cnn, training

SetUp = Callable[[], dict[str, Any]]
Errors = dict[str, tuple[tuple[str, ...], SetUp]]  # name -> checks that find it, what builds it


def sides() -> Photos:
    """Photos of two classes, with a label (1,) that is 0.0 or 1.0."""
    data = Photos(classes=("animal", "thing"))
    data.targets = [torch.tensor([float(target % 2)]) for target in data.targets]  # type: ignore[misc]
    return data


def scalars() -> Photos:
    data = Photos(classes=("value",))
    data.targets = [torch.tensor(target / 10) for target in data.targets]  # type: ignore[misc]
    return data


def several_labels() -> Photos:
    data = Photos()
    hot = F.one_hot(torch.tensor(data.targets), K) | F.one_hot(torch.tensor(data.targets[::-1]), K)
    data.targets = list(hot.float())  # type: ignore[arg-type]
    return data


def batches_of(data: Photos, size: int = BATCH) -> Any:
    return lambda: loader(data, size)


def no_val() -> None:
    return None


def divided_by(number: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, labels: F.cross_entropy(outputs, labels) / number


def loss_of_argmax(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(outputs.argmax(1).float(), labels.float())


def flat_squares(outputs: Tensor, values: Tensor) -> Tensor:
    return (outputs - values).square().mean()


def flat_distance(outputs: Tensor, values: Tensor) -> Tensor:
    return (outputs - values).abs().mean()


two_sides: dict[str, Any] = {"val_batches": no_val, "data": sides}

LOSS_ERRORS: Errors = {
    "a loss divided by the data set": (
        ("mean-loss",),
        lambda: training(loss_fn=divided_by(50_000)),
    ),
    "a loss divided by the batch": (
        ("mean-loss",),
        lambda: training(loss_fn=lambda z, y: F.cross_entropy(z, y) / len(y)),
    ),
    "a sum over images": (
        ("mean-loss",),
        lambda: training(loss_fn=nn.CrossEntropyLoss(reduction="sum")),
    ),
    "a loss times 1000": (("mean-loss",), lambda: training(loss_fn=divided_by(1e-3))),
    "a loss without labels": (
        ("label-loss",),
        lambda: training(loss_fn=lambda z, y: z.square().mean()),
    ),
    "a loss of argmax": (("gradients",), lambda: training(loss_fn=loss_of_argmax)),
    "detached outputs": (
        ("gradients",),
        lambda: training(loss_fn=lambda z, y: F.cross_entropy(z.detach(), y)),
    ),
    "(N, 1) against (N,)": (
        ("label-loss",),
        lambda: training(
            model=lambda: plain_cnn(outputs=1),
            loss_fn=flat_squares,
            val_batches=no_val,
            data=scalars,
        ),
    ),
    "(N,) against (N, 1)": (
        ("label-loss",),
        lambda: training(
            model=lambda: plain_cnn(nn.Flatten(0), outputs=1), loss_fn=flat_distance, **two_sides
        ),
    ),
    "class 0 is ignored": (
        ("label-loss",),
        lambda: training(loss_fn=nn.CrossEntropyLoss(ignore_index=0)),
    ),
    "a class of weight 0": (
        ("label-loss",),
        lambda: training(loss_fn=nn.CrossEntropyLoss(weight=torch.tensor([1.0] * 9 + [0.0]))),
    ),
}
