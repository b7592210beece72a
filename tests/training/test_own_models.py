"""A network passed to `train` works, or one line says why not before anything is written."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import resight
from refusal import refused
from resight.training.network import check_module
from tiny_runs import tiny_recipe


def own(channels: int = 3, first: nn.Module | None = None) -> nn.Sequential:
    layers = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(first or nn.Conv2d(channels, 8, 3), *layers)


def half_double() -> nn.Module:
    model = own()
    model[4].double()
    return model


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return own()


def exported() -> Any:
    return torch.export.export(own().eval(), (torch.zeros(2, 3, 16, 16),)).module()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "bf16": (
        lambda: own().bfloat16(),
        "the weight 0.weight of the model is torch.bfloat16, but weights are kept in float32: "
        'call model.float(); to compute in less, set training.precision = "bf16"',
    ),
    "float64 in part": (half_double, "the weight 4.weight of the model is torch.float64, but"),
    "lazy": (
        lambda: own(first=nn.LazyConv2d(8, 3)),
        "the weight 0.weight of the model has no shape yet; pass a batch of images through",
    ),
    "meta": (lambda: own().to("meta"), "is on the device meta, without values; build the model"),
    "inference mode": (made_in_inference_mode, "was made in inference mode; build the model"),
    "frozen": (
        lambda: own().requires_grad_(False),
        "the weights of the Sequential are all frozen (requires_grad is False), so there is "
        "nothing to train; call requires_grad_(True) on the layers to train",
    ),
    "no weights": (lambda: nn.Flatten(), "the weights of the Flatten do not exist, so there is"),
    "one channel": (
        lambda: own(channels=1),
        "the model fails on an image of this data, (3, 16, 16): Given groups=1, weight of size "
        "[8, 1, 3, 3], expected input[1, 3, 16, 16] to have 1 channels",
    ),
    "another size": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(99, 3)),
        "(1x768 and 99x3); pass a model for images (N, 3, H, W)",
    ),
    "exported": (exported, "the GraphModule has no evaluation mode"),
    "a name": (lambda: "resnet18", "model = 'resnet18' is no torch.nn.Module; pass a network, as"),
    "a class": (lambda: nn.Flatten, "model = Flatten is no torch.nn.Module; pass a network, as"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("kind", list(REFUSED))
def test_refused_before_anything_is_written(
    kind: str, tmp_path: Path, tiny: resight.Dataset
) -> None:
    make, line = REFUSED[kind]
    with refused(line):
        resight.train("digits", data=tiny, model=make(), out=tmp_path / "runs")
    assert not list(tmp_path.iterdir())


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(8, 8, bias=False) for _ in range(2))
        self.second.weight = self.first.weight

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(features).relu())
        return out


def partly_frozen() -> nn.Module:
    model = own()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "make", [partly_frozen, lambda: nn.Sequential(*own()[:4], Tied(), nn.Linear(8, 3))]
)
def test_frozen_layers_and_tied_weights_are_trained_and_kept(
    make: Callable[[], nn.Module], tmp_path: Path, tiny: resight.Dataset
) -> None:
    recipe = tiny_recipe("schedule.epochs=1")
    run = resight.train(recipe, data=tiny, model=make(), device="cpu", out=tmp_path)
    assert run.predictions is not None
    again = resight.evaluate(run.folder, data=tiny, model=make(), device="cpu")
    assert (again.predictions.logits == run.predictions.logits).all()
    with refused("is torch.float64, but weights are kept in float32"):
        resight.evaluate(run.folder, data=tiny, model=make().double(), device="cpu")


class More(nn.Module):
    """Returns more than logits: as a tuple, a mapping, or while it trains as auxiliary heads do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = own(), kind

    def forward(self, images: Tensor) -> Any:
        logits = self.body(images)
        match self.kind:
            case "tuple":
                return logits, images
            case "mapping":
                return {"loss": None, "logits": logits}
        return (logits, images) if self.training else logits


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("tuple", "outputs of type tuple: the first of its 2 parts is taken as the logits"),
        ("mapping", "the network returns outputs of type dict: its `logits` are taken"),
        ("auxiliary", ""),
    ],
)
def test_logits_are_taken_from_outputs_that_hold_more(
    kind: str, note: str, tmp_path: Path, tiny: resight.Dataset
) -> None:
    said: list[str] = []
    recipe, model = tiny_recipe("schedule.epochs=1"), More(kind)
    plain = resight.train(recipe, data=tiny, model=copy.deepcopy(model.body), out=tmp_path / "a")
    run = resight.train(
        recipe,
        data=tiny,
        model=model,
        out=tmp_path / "b",
        on_event=lambda event: said.append(getattr(event, "text", "")),
    )
    assert (run.predictions.logits == plain.predictions.logits).all()
    assert any(line.endswith(note) for line in said)
    again = resight.evaluate(run.folder, data=tiny, model=More(kind))
    assert (again.predictions.logits == run.predictions.logits).all()


def test_a_module_with_frozen_weights_can_still_predict() -> None:
    check_module(own().requires_grad_(False))


def test_a_norm_in_evaluation_mode_keeps_its_statistics(
    tmp_path: Path, tiny: resight.Dataset
) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3).eval(), *own(), nn.BatchNorm1d(3))
    recipe = tiny_recipe("schedule.epochs=1")
    resight.train(recipe, data=tiny, model=model, device="cpu", out=tmp_path)
    assert int(model[0].num_batches_tracked) == 0
    assert int(model[-1].num_batches_tracked) > 0
