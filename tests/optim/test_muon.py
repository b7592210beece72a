"""Muon against what it claims: singular values near 1, a turn of `lr` radians, SGD for the rest."""

import copy
import math

import pytest
import torch
from torch import nn

from resight import recipe
from resight.optim.muon import MuonOptimizer, orthogonal
from resight.optim.optimizers import build_optimizer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (8, 8)])
def test_singular_values_become_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    u, _, v = torch.linalg.svd(drawn(*shape), full_matrices=False)
    matrix = u * torch.logspace(0, -1.5, 8) @ v  # singular values over 1.5 decades
    result = orthogonal(matrix, rounds=5)
    inner = u.T @ result @ v.T  # (8, 8) diagonal, if the directions are those of `matrix`
    assert (inner - inner.diag().diag()).abs().max() < 1e-4
    assert inner.diag().min() > 0.6
    assert inner.diag().max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(shape), rounds=5), torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e6])  # of a gradient, which fp16 could not hold
def test_less_precision_comes_out_nearly_the_same(dtype: torch.dtype, size: float) -> None:
    matrix = size * drawn(16, 90)
    exact = orthogonal(matrix, rounds=3)
    with torch.autocast("cpu", dtype=dtype):
        result = orthogonal(matrix, rounds=3)
    assert result.dtype == torch.float32
    assert not torch.equal(result, exact)
    assert (result - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(("rounds", "smallest"), [(3, 0.03), (5, 0.003)])
def test_how_near_to_one(rounds: int, smallest: float) -> None:
    values = torch.logspace(0, math.log10(smallest), 64).double()
    values = torch.cat([values, torch.zeros(64).double()])  # rows of zeros stay zeros
    values /= values.norm()
    result = orthogonal(values.diag(), rounds).diag()
    reached = result[values >= smallest]
    assert len(reached) > 20
    assert reached.min() > 0.68
    assert reached.max() < 1.21
    assert not result[64:].any()


def test_a_step_turns_a_filter_bank_by_its_rate() -> None:
    conv = nn.Conv2d(16, 8, 3, bias=False)
    nn.init.constant_(conv.weight, 3.0)
    conv.weight.grad = drawn(8, 16, 3, 3)
    optimizer = build_optimizer(recipe.Muon(lr=0.02), conv)
    optimizer.step()
    start = torch.full_like(conv.weight, 144**-0.5)  # one a filter, as its norm
    moved = (conv.weight - start).detach()
    assert float(moved.norm()) == pytest.approx(0.02 * 8**0.5, rel=0.3)  # each value about 1
    expected = orthogonal(drawn(8, 16, 3, 3).flatten(1), rounds=3).view_as(moved)
    torch.testing.assert_close(moved, -0.02 * expected)


def test_momentum_of_filter_banks_is_that_of_nesterov() -> None:
    conv = nn.Conv2d(4, 4, 3, bias=False)
    optimizer = build_optimizer(recipe.Muon(lr=0.1, momentum=0.8), conv)
    buffer = torch.zeros_like(conv.weight)
    for step in range(3):
        conv.weight.grad = drawn(4, 4, 3, 3, seed=step)
        buffer = 0.8 * buffer + conv.weight.grad
        before = conv.weight.detach() * 4**0.5 / conv.weight.detach().norm()
        update = orthogonal((conv.weight.grad + 0.8 * buffer).flatten(1), rounds=3)
        optimizer.step()
        torch.testing.assert_close(conv.weight.detach(), before - 0.1 * update.view_as(before))


def test_the_rest_steps_as_torchs_sgd_does() -> None:
    weight, other = (nn.Parameter(drawn(5, 3)) for _ in range(2))
    rates = {"lr": 0.3, "momentum": 0.7, "weight_decay": 0.01}
    mine = MuonOptimizer([{"params": [weight], **rates}], momentum=0.0)
    theirs = torch.optim.SGD([other], nesterov=True, **rates)
    for step in range(4):
        weight.grad = drawn(5, 3, seed=step)
        other.grad = weight.grad.clone()
        mine.step()
        theirs.step()
    torch.testing.assert_close(weight, other)


def test_its_state_is_saved_and_given_back() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))

    def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        for index, weight in enumerate(net.parameters()):
            weight.grad = drawn(*weight.shape, seed=10 * seed + index)
        optimizer.step()

    one, two = model(), model()
    first = build_optimizer(recipe.Muon(), one)
    step(one, first, 1)
    second = build_optimizer(recipe.Muon(), two)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    two.load_state_dict(one.state_dict())
    step(one, first, 2)
    step(two, second, 2)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
