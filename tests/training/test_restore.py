"""What is borrowed from a training is given back: all that an optimizer and a module may hold."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from resight.training.restore import preserve_state


def plain(value: Any) -> Any:
    """The value in a form that == compares, to the bit."""
    match value:
        case Tensor():
            return value.dtype, value.requires_grad, value.detach().tolist()
        case dict():
            return {key: plain(part) for key, part in value.items()}
        case list() | tuple():
            return [plain(part) for part in value]
    return value


def train(model: nn.Module, optimizer: Optimizer, steps: int = 2) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(torch.ones(4, 3)) - 1).square().mean() + model.weight.abs().sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


class Averaging(Optimizer):
    """Lookahead: it has an optimizer, and containers of its own beside its state."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.slow = base, [p.detach().clone() for p in self.param_groups[0]["params"]]
        self.count, self.past = {"steps": 0}, [set[int](), ()]

    def step(self, closure=None):
        loss = self.base.step(closure)
        self.count["steps"] += 1
        self.past[0].add(self.count["steps"])
        for mean, parameter in zip(self.slow, self.param_groups[0]["params"], strict=True):
            mean.lerp_(parameter.detach(), 0.5)
        return loss


OPTIMIZERS = {
    "sgd": lambda weights: SGD(weights, lr=torch.tensor(0.1), momentum=0.9),
    "adam": lambda weights: Adam(weights, lr=0.1, amsgrad=True, foreach=True),
    "fused": lambda weights: AdamW(weights, lr=0.1, fused=True),
    "rmsprop": lambda weights: RMSprop(weights, lr=0.1, momentum=0.5, centered=True),
    "adagrad": lambda weights: Adagrad(weights, lr=0.1),
    "lbfgs": lambda weights: LBFGS(weights, lr=0.1),
    "averaging": lambda weights: Averaging(AdamW(weights, lr=0.1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("warm", [False, True])
def test_an_optimizer_goes_on_as_if_nothing_had_been(name: str, warm: bool) -> None:
    def weights(interrupted: bool) -> list[Any]:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = OPTIMIZERS[name](model.parameters())
        if warm:
            train(model, optimizer)
        if interrupted:
            before = plain(vars(optimizer) | {"base": None})
            with preserve_state(optimizer, model):
                if isinstance(optimizer.param_groups[0]["lr"], Tensor):
                    optimizer.param_groups[0]["lr"].fill_(7.0)
                optimizer.defaults["lr"] = 7.0
                train(model, optimizer)
            assert plain(vars(optimizer) | {"base": None}) == before
        train(model, optimizer)
        return plain(list(model.parameters()))

    assert weights(interrupted=True) == weights(interrupted=False)


def test_groups_hooks_and_a_wrapped_step_are_given_back() -> None:
    model, spare = nn.Linear(3, 1), nn.Parameter(torch.zeros(1))
    optimizer = SGD(model.parameters(), lr=0.1)
    groups, calls = optimizer.param_groups, []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    with preserve_state(optimizer, model):
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        optimizer.register_step_pre_hook(lambda *_: calls.append(2))
        optimizer.add_param_group({"params": [spare]})
        train(model, optimizer, steps=1)
    assert calls == [2, 1]  # hooks run in between
    assert optimizer.param_groups is groups
    assert len(groups) == 1
    assert "initial_lr" not in groups[0]
    assert "step" not in vars(optimizer)
    train(model, optimizer, steps=1)
    assert calls == [2, 1, 1]


class Collector(nn.Module):
    """Keeps things in lists, dictionaries and tensors that are no buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.past: list[Any] = [1, [2]]
        self.by_name: dict[str, Any] = {"sum": torch.zeros(1), "teacher": [nn.Linear(1, 1)]}
        self.register_buffer("view", torch.zeros(1).expand(3))

    def forward(self, images: Tensor) -> Tensor:
        self.past[1].append(3)
        self.by_name["sum"] += images.sum()
        self.by_name["new"] = images
        self.by_name["teacher"][0].weight.data.add_(1)
        self.linear.weight.requires_grad_(False)
        return self.linear(images + self.view)


def test_what_a_module_keeps_in_containers_is_given_back() -> None:
    model = Collector()
    optimizer = SGD(model.parameters(), lr=0.1)
    total, teacher = model.by_name["sum"], copy.deepcopy(model.by_name["teacher"][0].weight)
    with preserve_state(optimizer, model):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert model.past == [1, [2]]
    assert list(model.by_name) == ["sum", "teacher"]
    assert model.by_name["sum"] is total
    assert total.item() == 0
    assert torch.equal(model.by_name["teacher"][0].weight, teacher)
    assert model.linear.weight.requires_grad
    assert model.linear.bias.grad is None


def test_a_scripted_module_is_given_back() -> None:
    with warnings.catch_warnings(action="ignore"):  # scripting is deprecated
        model = torch.jit.script(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with preserve_state(optimizer, model):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not optimizer.state
