"""What a recipe costs, counted and probed."""

import copy
import functools
import json
import re

import pytest
import torch

import resight
from resight.cli.app import main
from resight.datasets import Dataset
from resight.diagnosis.doctor import tell_issues
from resight.errors import UsageError
from resight.events import Message, ignore_events
from resight.recipe.presets import PRESETS, get_preset
from resight.training import cost as cost_module
from resight.training.cost import check_minutes, cost, images_per_sec, with_epochs_in
from resight.training.setup import TrainSetup, prepare
from tiny_runs import tiny_recipe


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
    assert set(costs) == set(PRESETS) - {"probe", "finetune"}
    assert costs["swift"]["secs"] == costs["swift"]["images"] / 100
    assert main(["recipes", "cost"]) == 0
    text = capsys.readouterr().out
    assert "6,573,130" in text
    assert "75 min" in text  # swift: 450,000 images


def _setup(data: Dataset, *settings: str) -> TrainSetup:
    return prepare(
        tiny_recipe(*settings),
        data=data,
        model=None,
        device="cpu",
        offline=True,
        on_event=ignore_events,
    )


def test_epochs_in_a_time_fill_it_and_leave_the_state_as_it_is(tiny: Dataset) -> None:
    setup = _setup(tiny, "schedule.name=one_cycle", "schedule.peak_epoch=0.5")
    before = copy.deepcopy(setup.state.model.state_dict())
    messages: list[str] = []
    longer = with_epochs_in(setup, 60, lambda event: messages.append(event.text))
    epochs = longer.recipe.schedule.epochs
    per_epoch = float(re.search(r"takes about (\S+) s", messages[0])[1])
    assert epochs * per_epoch <= 60
    assert epochs > 10  # a fraction of a second each
    assert longer.recipe.schedule.peak_epoch == pytest.approx(epochs / 4)  # of 2 epochs it was 0.5
    assert longer.state.schedule.total_steps == epochs * setup.state.schedule.steps_per_epoch
    assert longer.state.step == 0
    after = longer.state.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_time_too_short_for_one_epoch_is_refused(tiny: Dataset) -> None:
    with pytest.raises(UsageError, match=r"the 0 s that are left are too few.* minutes more"):
        with_epochs_in(_setup(tiny), 0.001, ignore_events)


def test_a_time_and_what_it_does_not_measure_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="minutes and find_lr"):
        check_minutes(1, find_lr=True, devices=1)
    with pytest.raises(UsageError, match="minutes and devices = 2"):
        check_minutes(1, find_lr=False, devices=2)


@pytest.mark.parametrize(
    ("size", "fix"),
    [("32", "set training.batch_size=16, or give more minutes"), ("4", "give more minutes")],
)
def test_no_fix_asks_for_epochs_where_minutes_chose_them(
    size: str, fix: str, tiny: Dataset
) -> None:
    setup = _setup(tiny, f"training.batch_size={size}", "training.micro_batch=none")
    messages: list[Message] = []
    tell_issues(setup, messages.append)
    assert any("schedule.epochs=" in message.text for message in messages)
    messages.clear()
    tell_issues(setup, messages.append, in_minutes=True)
    assert not any("schedule.epochs=" in message.text for message in messages)
    (few,) = (message.text for message in messages if "step-count" in message.text)
    assert few.endswith(f"too few to learn; {fix}")
