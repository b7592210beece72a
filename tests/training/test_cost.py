"""What a recipe costs, counted and probed."""

import functools
import json

import pytest
import torch

import resight
from resight.cli.app import main
from resight.recipe.presets import PRESETS, get_preset
from resight.training import cost as cost_module
from resight.training.cost import cost, images_per_sec


def test_a_run_is_three_forward_passes_of_every_image_of_every_epoch() -> None:
    run = cost(get_preset("resnet9-onecycle"))
    assert run.parameters == 6_573_130
    assert run.images == 45_000 * 24
    assert run.run_flop == 3 * run.forward_flop * run.images
    everything = resight.with_overrides(
        get_preset("resnet9-onecycle"), ["data.val_fraction=none", "training.select=last"]
    )
    assert cost(everything).images == 50_000 * 24


def test_forward_flop_by_hand() -> None:
    # Swift at 32 px: 2x2 whitening, six 3x3 convolutions on 31, 15, 15, 7, 7 and 3 px, linear.
    products = 31**2 * 12 * 24 + 9 * (
        31**2 * 24 * 32 + 15**2 * (32 * 32 + 32 * 128) + 7**2 * 2 * 128 * 128 + 3**2 * 128 * 128
    )
    assert cost(get_preset("swift")).forward_flop == 2 * (products + 128 * 10)


def test_the_probe_takes_real_steps_and_restores_the_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert 0 < images_per_sec(get_preset("digits"), device="cpu") < 1e7
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
def test_costs_of_every_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost_module, "images_per_sec", lambda recipe, device: 100.0)
    monkeypatch.setattr(cost_module, "cost", functools.cache(cost_module.cost))  # called twice
    assert main(["recipes", "cost", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert set(costs) == set(PRESETS)
    assert costs["swift"]["secs"] == costs["swift"]["images"] / 100
    assert main(["recipes", "cost"]) == 0
    text = capsys.readouterr().out
    assert "6,573,130" in text
    assert "75 min" in text  # swift: 450,000 images
