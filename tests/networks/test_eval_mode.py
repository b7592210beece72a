"""Evaluation mode for a while: modes and weights come back, whatever a module does in `train`."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resight
from cam_networks import pictures
from refusal import refused
from resight.networks.eval_mode import eval_mode


class LoRA(nn.Linear):
    """Adds its adapter to the weight in evaluation mode, and takes it out again to train."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.merged = False
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(2, inputs))
        self.up = nn.Parameter(torch.randn(outputs, 2))

    def train(self, mode: bool = True) -> "LoRA":
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (self.up @ self.down).data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, features: Tensor) -> Tensor:
        out = F.linear(features, self.weight, self.bias)
        return out if self.merged else out + features @ self.down.T @ self.up.T


class FrozenNorm(nn.Sequential):
    """Keeps its norm in evaluation mode, as fine-tuning often does."""

    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self[0].eval()
        return self


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Sequential(FrozenNorm(nn.BatchNorm2d(8), nn.Dropout()), nn.ReLU(), nn.Dropout()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Sequential(LoRA(8, 8), nn.ReLU(), LoRA(8, 3)),
    ).train()


def state(model: nn.Module) -> list[Any]:
    content: list[Any] = [
        (name, module.training, getattr(module, "merged", None))
        for name, module in model.named_modules()
    ]
    return content + [(name, value.tolist()) for name, value in model.state_dict().items()]


def merge_one(model: nn.Sequential) -> None:
    model[4][0].eval()


def monte_carlo(model: nn.Sequential) -> None:
    model.eval()
    model[1][2].train()


CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "training": lambda model: None,
    "evaluation": nn.Module.eval,
    "dropout that stays on": monte_carlo,
    "a part in evaluation": lambda model: model[1].eval(),
    "an adapter that is merged": merge_one,
    "a flag that was set alone": lambda model: setattr(model[1][2], "training", False),
}


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("error", [None, RuntimeError])
def test_modes_and_weights_come_back(change: str, error: type[Exception] | None) -> None:
    model = make_model()
    CHANGES[change](model)
    before = state(model)
    try:
        with eval_mode(model):
            assert not any(module.training for module in model.modules())
            assert all(module.merged for module in model.modules() if isinstance(module, LoRA))
            assert not torch.is_grad_enabled()
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert state(model) == before


def test_an_adapter_learns_after_evaluation() -> None:
    model, images = make_model(), pictures(2, 9)
    before = state(model)
    expected = copy.deepcopy(model).eval()(images).detach()
    torch.testing.assert_close(resight.heatmaps(model, images, "0").logits, expected)
    assert state(model) == before
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model[4].parameters())


def test_a_model_in_evaluation_mode_is_left_alone() -> None:
    class Counts(nn.Linear):
        calls = 0

        def train(self, mode: bool = True) -> "Counts":
            self.calls += 1
            return self

    model = Counts(2, 2)
    model.training = False
    with eval_mode(model):
        pass
    assert model.calls == 0


def test_an_exported_module_cannot_change_its_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    exported = torch.export.export(model, (torch.zeros(1, 4),)).module()
    with (
        refused("the GraphModule has no evaluation mode (Calling eval() is not supported yet)"),
        eval_mode(exported),
    ):
        pass
