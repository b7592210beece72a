"""A recipe's range test: its batches, what it restores, and the rate that training then uses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import resight
import resight.networks
from resight.cli.app import main
from resight.errors import ResightError, UsageError
from resight.events import Progress, ignore_events
from resight.lr_finder.find import LRRangeOptions, lr_find, run_range_test, with_found_lr
from resight.training.setup import prepare

WIDTHS = "model.widths=[8,8,16]"
FAST = [WIDTHS, "explain={report=false,pictures=false}"]
RECIPE = resight.with_epochs(resight.with_overrides(resight.load_recipe("digits"), FAST), 2)
QUICK = LRRangeOptions(steps=30)


def setup(*settings: str, data: resight.Dataset | None = None):
    recipe = resight.with_overrides(RECIPE, list(settings))
    return prepare(
        recipe, data=data, model=None, device="cpu", offline=True, on_event=ignore_events
    )


@pytest.mark.slow
def test_training_with_the_found_rate_is_training_with_that_rate_given(tmp_path: Path) -> None:
    run = resight.train(RECIPE, out=tmp_path, name="found", find_lr=True)
    used = json.loads((run.folder / "lr_find.json").read_text())["used"]
    assert used == run.recipe.optimizer.lr != RECIPE.optimizer.lr
    assert (run.folder / "lr_find.png").exists()
    assert (run.folder / "schedule.png").exists()
    given = resight.with_overrides(RECIPE, [f"optimizer.lr={used}"])
    plain = resight.train(given, out=tmp_path, name="plain")
    assert plain.recipe == run.recipe
    for name in ("best.safetensors", "predictions.csv", "recipe.toml"):
        assert (plain.folder / name).read_bytes() == (run.folder / name).read_bytes()
    assert max(run.history.lrs) == pytest.approx(used, rel=0.05)  # the peak lies between steps


@pytest.mark.slow
def test_a_training_can_rest_on_several_tests(tmp_path: Path) -> None:
    options = LRRangeOptions(steps=30, repeats=2)
    run = resight.train(RECIPE, out=tmp_path, name="median", find_lr=options)
    written = json.loads((run.folder / "lr_find.json").read_text())
    assert written["images"] == resight.lr_find(RECIPE, options=options).images
    assert written["images"] > resight.lr_find(RECIPE, options=QUICK).images


def test_mixed_labels_have_the_references_of_plain_ones() -> None:
    mixed = setup("augment.mixup={}", "augment.cutmix={}")
    curve = run_range_test(mixed, QUICK, ignore_events)
    assert curve.chance == pytest.approx(np.log(10), abs=0.05)  # or the shares of the batch
    assert 0 <= curve.floor < curve.losses.min()
    assert curve.losses.min() < curve.chance


@pytest.mark.parametrize(
    ("schedule", "which"), [("one_cycle", "peak"), ("plateau", "constant"), ("cosine", "peak")]
)
def test_schedules_that_hold_a_rate_get_the_lower_one(schedule: str, which: str) -> None:
    before = setup(f"schedule.name={schedule}")
    curve = run_range_test(before, QUICK, ignore_events)
    after = with_found_lr(before, curve)
    assert after.recipe.optimizer.lr == pytest.approx(getattr(curve, which), rel=0.05)
    assert after.state.schedule.spec == before.recipe.schedule
    assert after.state.model is before.state.model


def test_the_loss_and_the_order_of_images_are_the_recipes() -> None:
    """Guessing has (9/10)^2 ln 10 by the focal loss; weights are of the classes in the batch."""
    digits = resight.data("digits")
    rows = [row for row, label in enumerate(digits.train.labels) if label > 4 or row % 10 == 0]
    fewer = resight.Dataset(
        "fewer", digits.classes, digits.train.select(torch.tensor(rows)), digits.test
    )
    curves = {}
    for setting in ("loss.focal_gamma=2", "loss.class_weights=balanced", "data.balance=balanced"):
        curves[setting] = run_range_test(setup(setting, data=fewer), QUICK, ignore_events)
    focal, weighted, balanced = curves.values()
    assert focal.chance == pytest.approx(0.81 * np.log(10), rel=1e-5)
    assert weighted.chance != pytest.approx(np.log(10), rel=1e-3)
    assert weighted.chance == pytest.approx(np.log(10), rel=0.3)
    assert balanced.chance == pytest.approx(np.log(10), rel=1e-5)
    plain = run_range_test(setup(data=fewer), QUICK, ignore_events)
    assert balanced.losses.tolist() != plain.losses.tolist()


def test_model_and_random_numbers_are_restored() -> None:
    before = setup()
    weights = {name: value.clone() for name, value in before.state.model.state_dict().items()}
    random_numbers = torch.random.get_rng_state()
    run_range_test(before, LRRangeOptions(steps=20, repeats=2, on_validation=True), ignore_events)
    assert all(torch.equal(weights[k], v) for k, v in before.state.model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random_numbers)
    assert before.state.step == 0


@pytest.mark.slow
def test_repeats_have_other_weights_and_images() -> None:
    one = run_range_test(setup(), QUICK, ignore_events)
    both = run_range_test(setup(), LRRangeOptions(steps=30, repeats=2), ignore_events)
    assert one.interval is None
    assert both.interval is not None
    assert one.peak in both.interval
    assert both.images > one.images
    other = 2 * both.losses[:10] - one.losses[:10]  # the median of two is their mean
    assert np.isfinite(other).all()
    assert (np.abs(other - one.losses[:10]) > 1e-4).all()


@pytest.mark.slow
def test_a_batch_is_cut_as_in_training_and_no_larger_than_needed() -> None:
    events: list[Progress] = []
    small = run_range_test(setup("training.batch_size=32"), QUICK, events.append)
    assert small.images == 32 * (len(small.lrs) + 1)
    assert [event.done for event in events] == list(range(len(small.lrs) + 2))
    assert {event.total for event in events} == {32}  # one batch is set aside
    large = run_range_test(
        setup("training.batch_size=512", "training.micro_batch=32"), QUICK, events.append
    )
    assert large.images < 512 * 16


@pytest.mark.slow
def test_a_test_that_breaks_down_early_takes_its_steps_below_that() -> None:
    """ResNet-9 with batches of 8 explodes at a rate of 0.01, in a range that goes on to 10."""
    settings = ["data.source=digits", "training.batch_size=8", "augment.cutout=none"]
    settings += ["model.logit_scale=1"]
    recipe = resight.with_overrides(resight.load_recipe("resnet9"), settings)
    before = prepare(
        recipe, data=None, model=None, device="cpu", offline=True, on_event=ignore_events
    )
    curve = run_range_test(before, LRRangeOptions(steps=24), ignore_events)
    assert len(curve.lrs) > 16
    assert curve.lrs[-1] < 0.1
    assert curve.images > 8 * (len(curve.lrs) + 1)  # with those of the first try
    by_hand = run_range_test(before, LRRangeOptions(steps=24, end=10.0), ignore_events)
    assert len(by_hand.lrs) < 16  # an end that was asked for is kept to


def test_validation_has_to_exist() -> None:
    recipe = ["data.val_fraction=none", "training.select=last"]
    with pytest.raises(UsageError, match="cannot score validation"):
        run_range_test(setup(*recipe), LRRangeOptions(on_validation=True), ignore_events)
    with pytest.raises(UsageError, match="repeats = 0"):
        run_range_test(setup(), LRRangeOptions(repeats=0), ignore_events)


@pytest.mark.slow
def test_a_bad_verdict_stops_before_there_is_a_run(tmp_path: Path) -> None:
    model = resight.networks.build_model(
        RECIPE.model, in_channels=1, num_classes=10, image_size=32, seed=0
    )
    longer = resight.with_epochs(RECIPE, 6)
    resight.train(longer, model=model, out=tmp_path, name="first")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ResightError, match="already trained") as caught:
        resight.train(longer, model=model, out=tmp_path, name="again", find_lr=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again").exists()
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["lr-find", "digits", "--set", WIDTHS, "--repeats", "1"]
    picture = tmp_path / "lr.png"
    assert main([*command, "--out", str(picture), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert picture.read_bytes().startswith(b"\x89PNG")
    for word in ("best loss", "steepest", "valley", "minimum_10", "peak", "can be trusted"):
        assert word in out
    assert main([*command, "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    curve = lr_find(resight.with_overrides(resight.load_recipe("digits"), [WIDTHS]))
    assert result["peak"] == curve.peak
    assert result["losses"] == curve.losses.tolist()
    assert result["verdict"] == {"ok": True, "reasons": []}


def test_a_rate_that_cannot_be_trusted_ends_the_command_with_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    narrow = ["--start", "1e-7", "--end", "1e-6", "--steps", "12", "--repeats", "1"]
    assert main(["lr-find", "digits", "--set", WIDTHS, *narrow, "--quiet"]) == 1
    assert "verdict    do not trust it: the loss never fell" in capsys.readouterr().out
