"""Trainings with one error in the model, its loss or its first weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Cnn, K, Photos, fit, plain_cnn, training
from .errors_of_losses import Errors, batches_of, no_val, several_labels, two_sides


def changed(change: Callable[[Any], object], build: Callable[[], nn.Module] = Cnn) -> nn.Module:
    """Return a network whose weights are changed."""
    model = build()
    with torch.no_grad():
        change(model)
    return model


def fill_all(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        parameter.fill_(value)


def large_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.normal_()


def dead_units(model: nn.Sequential) -> None:
    model[0].bias.fill_(-30)


def frozen(*names: str) -> Callable[[], nn.Module]:
    """Return what builds a network with new weights, of which some layers are frozen."""

    def build() -> nn.Module:
        model = plain_cnn()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(names))
        return model

    return build


def trained(build: Callable[[], nn.Module], steps: int = 60) -> Callable[[], nn.Module]:
    def build_and_fit() -> nn.Module:
        model = build()
        fit(model, torch.optim.Adam(model.parameters(), lr=0.01), steps=steps)
        return model

    return build_and_fit


class LayersInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]
        self.head = nn.Linear(8, K)

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = F.relu(layer(images))
        return self.head(images.mean((2, 3)))


class WeightIsNoParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = plain_cnn(outputs=16), nn.Linear(16, K)
        self.scale = torch.ones(16, requires_grad=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.body(images)) * self.scale)


class UncalledLayer(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)


class MixesImages(nn.Module):
    """Reshapes (C, N, F) where (N, C, F) is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(128, K)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.conv(images))  # (N, 8, 4, 4)
        return self.head(x.transpose(0, 1).reshape(len(images), -1))


def sigmoids() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.Sigmoid()]
    for _ in range(9):
        layers += [nn.Linear(32, 32), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(32, K))


MODEL_ERRORS: Errors = {
    "softmax before cross entropy": (
        ("logits",),
        lambda: training(model=lambda: plain_cnn(nn.Softmax(1))),
    ),
    "two log-softmaxes": (("logits",), lambda: training(model=lambda: plain_cnn(nn.LogSoftmax(1)))),
    "likelihood of logits": (("logits",), lambda: training(loss_fn=nn.NLLLoss())),
    "likelihood of probabilities": (
        ("logits",),
        lambda: training(model=lambda: plain_cnn(nn.Softmax(1)), loss_fn=nn.NLLLoss()),
    ),
    "sigmoid before cross entropy": (
        ("logits",),
        lambda: training(model=lambda: plain_cnn(nn.Sigmoid())),
    ),
    "ReLU before cross entropy": (
        ("logits",),
        lambda: training(model=lambda: plain_cnn(nn.ReLU())),
    ),
    "tanh before cross entropy": (
        ("logits",),
        lambda: training(model=lambda: plain_cnn(nn.Tanh())),
    ),
    "two sigmoids, one output": (
        ("logits",),
        lambda: training(
            model=lambda: plain_cnn(nn.Sigmoid(), outputs=1),
            loss_fn=nn.BCEWithLogitsLoss(),
            **two_sides,
        ),
    ),
    "two sigmoids, several labels": (
        ("logits",),
        lambda: training(
            model=lambda: plain_cnn(nn.Sigmoid()),
            data=several_labels,
            loss_fn=nn.BCEWithLogitsLoss(),
            val_batches=no_val,
        ),
    ),
    "softmax over the batch": (
        ("evaluation-mode", "logits"),
        lambda: training(model=lambda: plain_cnn(nn.LogSoftmax(0)), loss_fn=nn.NLLLoss()),
    ),
    "cross entropy of one output": (
        ("num-outputs", "gradients"),
        lambda: training(
            model=lambda: plain_cnn(outputs=1),
            val_batches=no_val,
            batches=lambda: [(torch.randn(64, 3, 16, 16), torch.zeros(64).long())],
        ),
    ),
    "1000 outputs for 10 classes": (
        ("num-outputs",),
        lambda: training(model=lambda: Cnn(outputs=1000)),
    ),
    "constant weights": (
        ("initial-weights", "outputs"),
        lambda: training(model=lambda: changed(lambda m: fill_all(m, 0.01), plain_cnn)),
    ),
    "weights of 0": (
        ("initial-weights", "outputs", "gradients"),
        lambda: training(model=lambda: changed(lambda m: fill_all(m, 0.0), plain_cnn)),
    ),
    "weights of deviation 1": (
        ("first-loss",),
        lambda: training(model=lambda: changed(large_weights, plain_cnn)),
    ),
    "dead units": (("gradients",), lambda: training(model=lambda: changed(dead_units, plain_cnn))),
    "ten sigmoid layers": (("gradients",), lambda: training(model=sigmoids)),
    "dropout of 0.95": (("dropout",), lambda: training(model=lambda: Cnn(dropout=0.95))),
    "dropout while evaluating": (
        ("evaluation-mode",),
        lambda: training(model=lambda: Cnn(features=F.dropout)),
    ),
    "batch statistics while evaluating": (
        ("evaluation-mode",),
        lambda: training(
            model=lambda: Cnn(norm=lambda n: nn.BatchNorm2d(n, track_running_stats=False))
        ),
    ),
    "images mixed by a reshape": (("evaluation-mode",), lambda: training(model=MixesImages)),
    "layers in a list": (("unregistered-weights",), lambda: training(model=LayersInAList)),
    "a tensor in place of a parameter": (
        ("unregistered-weights",),
        lambda: training(model=WeightIsNoParameter),
    ),
    "a layer that is not called": (("gradients",), lambda: training(model=UncalledLayer)),
    "detached features": (
        ("gradients",),
        lambda: training(model=lambda: Cnn(features=lambda x: x.detach())),
    ),
    "features that are the same for all": (
        ("outputs", "evaluation-mode"),
        lambda: training(
            model=lambda: Cnn(features=lambda x: x.mean(0, keepdim=True).expand_as(x))
        ),
    ),
    "batch norm over 2 images": (
        ("norm-batch",),
        lambda: training(batches=batches_of(Photos(), 2)),
    ),
    "a last batch of one": (
        ("norm-batch",),
        lambda: training(
            model=lambda: nn.Sequential(
                nn.Flatten(), nn.Linear(768, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, K)
            ),
            batches=batches_of(Photos(n=161)),
        ),
    ),
    "a frozen body of new weights": (
        ("frozen-weights",),
        lambda: training(model=frozen("0.", "3.")),
    ),
    "everything is frozen": (("frozen-weights", "gradients"), lambda: training(model=frozen(""))),
    "trained, without batch norm": (
        ("untrained", "first-loss"),
        lambda: training(model=trained(plain_cnn)),
    ),
    "trained, with batch norm": (("untrained", "first-loss"), lambda: training(model=trained(Cnn))),
    "evaluation mode": (("training-mode",), lambda: training(model=lambda: Cnn().eval())),
    "NaN in the weights": (
        ("outputs",),
        lambda: training(model=lambda: changed(lambda m: m.head.weight[0, 0].fill_(torch.nan))),
    ),
}
