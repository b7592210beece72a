"""The doctor on data sets, recipes and run folders with one thing wrong in each."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import resight
from report_runs import make_run
from report_runs import summary as make_summary
from resight.cli.app import main
from resight.datasets import Dataset, Split
from resight.diagnosis.dataset_checks import DATASET_CHECKS, DatasetProbe
from resight.diagnosis.issues import apply_checks
from resight.diagnosis.run_checks import RUN_CHECKS
from resight.lr_finder.suggest import analyze
from resight.metrics.intervals import Interval
from resight.recipe import Recipe
from resight.records import EpochRow, History, Predictions
from resight.runs.run import Run
from resight.runs.summary import ValidationResult

# --- data sets ------------------------------------------------------------------------------


def changed(split: Split, row: int, *, like: Split, other: int) -> Split:
    """The split with one image replaced; its label stays."""
    images = split.images.clone()
    images[row] = like.images[other]
    return replace(split, images=images)


def of_data(dataset: Dataset) -> dict[str, str]:
    """Return the message of each check that has an issue."""
    diagnosis = apply_checks(DatasetProbe(dataset), DATASET_CHECKS)
    return {f"{issue.severity} {issue.check}": issue.message for issue in diagnosis.issues}


def test_a_data_set_that_is_well(tiny: Dataset) -> None:
    assert of_data(tiny) == {}


def test_a_test_image_among_the_training_images(tiny: Dataset) -> None:
    both = changed(tiny.test, 4, like=tiny.train, other=7)  # of the same class
    issues = of_data(replace(tiny, test=both))
    assert list(issues) == ["error train-test-overlap"]
    assert "1 of 31 test images" in issues["error train-test-overlap"]
    assert "test/4 is train/7" in issues["error train-test-overlap"]


def test_one_image_with_two_labels(tiny: Dataset) -> None:
    issues = of_data(replace(tiny, train=changed(tiny.train, 4, like=tiny.train, other=6)))
    assert "error duplicates" in issues
    assert "2 training images" in issues["error duplicates"]
    assert "train/4 is bar and train/6 is disc" in issues["error duplicates"]


def test_images_that_are_there_twice(tiny: Dataset) -> None:
    issues = of_data(replace(tiny, train=changed(tiny.train, 4, like=tiny.train, other=7)))
    assert list(issues) == ["warning duplicates"]


def test_classes_without_images_and_classes_of_few(tiny: Dataset) -> None:
    without = tiny.train.select((tiny.train.labels != 1).nonzero().flatten())
    assert list(of_data(replace(tiny, train=without))) == ["error class-counts"]
    not_tested = tiny.test.select((tiny.test.labels != 1).nonzero().flatten())
    assert list(of_data(replace(tiny, test=not_tested))) == ["warning class-counts"]
    rows = torch.cat([(tiny.train.labels != 1).nonzero().flatten(), torch.tensor([1, 4])])
    issues = of_data(replace(tiny, train=tiny.train.select(rows)))
    assert "disc has 31 training images and bar 2" in issues["warning class-counts"]


def test_a_blank_image(tiny: Dataset) -> None:
    images = tiny.test.images.clone()
    images[3] = 17
    issues = of_data(replace(tiny, test=replace(tiny.test, images=images)))
    assert list(issues) == ["warning blank-images"]
    assert "test/3" in issues["warning blank-images"]


def test_a_test_set_of_another_kind(tiny: Dataset) -> None:
    darker = replace(tiny.test, images=tiny.test.images // 2)
    assert list(of_data(replace(tiny, test=darker))) == ["warning split-statistics"]


# --- recipes --------------------------------------------------------------------------------


def of_recipe(dataset: Dataset, *settings: str, recipe: str = "digits") -> dict[str, str]:
    changed_recipe = resight.with_overrides(resight.load_recipe(recipe), list(settings))
    diagnosis = resight.doctor(changed_recipe, data=dataset)
    return {f"{issue.severity} {issue.check}": issue.message for issue in diagnosis.issues}


AUTOTUNED = ("training.batch_size=16", "training.micro_batch=none")


def test_a_recipe_on_few_images(tiny: Dataset) -> None:
    issues = of_recipe(tiny, *AUTOTUNED, "schedule.epochs=40")
    assert set(issues) == {"warning validation-size", "warning heat-map-size"}
    assert issues["warning validation-size"].startswith("9 images are held out")


def test_augmentation_that_changes_nothing_of_this_data(tiny: Dataset) -> None:
    """Images that are the same from left to right, which a flip leaves as they are."""
    images = (tiny.train.images + tiny.train.images.flip(-1)) // 2
    mirrored = replace(tiny, train=replace(tiny.train, images=images))
    flips = (*AUTOTUNED, "augment.flip=random")
    assert "error augmentation" not in of_recipe(tiny, *flips)
    issues = of_recipe(mirrored, *flips)
    assert "augment.flip changes 0 of 82 images" in issues["error augmentation"]


def test_a_plateau_that_cannot_come(tiny: Dataset) -> None:
    plateau = (*AUTOTUNED, "schedule.name=plateau", "schedule.patience=3")
    assert "error plateau-patience" in of_recipe(tiny, *plateau, "schedule.epochs=5")
    assert "error plateau-patience" not in of_recipe(tiny, *plateau, "schedule.epochs=20")


def test_few_steps_and_few_images_for_batch_norm(tiny: Dataset) -> None:
    assert (
        "are 6 steps"
        in of_recipe(tiny, "training.batch_size=64", "schedule.epochs=3")["warning step-count"]
    )
    issues = of_recipe(tiny, "training.batch_size=16", "training.micro_batch=4")
    assert "4 images at a time" in issues["warning batch-norm-images"]


def test_the_network_of_a_recipe_is_looked_at(tiny: Dataset) -> None:
    coupled = ("optimizer.name=adam", "optimizer.weight_decay=0.01")
    assert "warning weight-decay" not in of_recipe(tiny, *AUTOTUNED)
    assert "Adam adds weight decay" in of_recipe(tiny, *AUTOTUNED, *coupled)["warning weight-decay"]


def test_nothing_is_chosen_by_validation_where_the_last_epoch_is_taken(tiny: Dataset) -> None:
    assert "warning validation-size" not in of_recipe(tiny, *AUTOTUNED, "training.select=last")


def test_a_recipe_leaves_everything_as_it_was(tiny: Dataset) -> None:
    before, state = tiny.train.images.clone(), torch.get_rng_state()
    of_recipe(tiny, *AUTOTUNED)
    assert torch.equal(tiny.train.images, before)
    assert torch.equal(torch.get_rng_state(), state)


# --- runs -----------------------------------------------------------------------------------


def rows(
    train: Sequence[float],
    val: Sequence[float] | None,
    *,
    lrs: Sequence[float] | None = None,
    accuracy: float = 0.8,
    val_accuracy: float = 0.8,
) -> tuple[EpochRow, ...]:
    return tuple(
        EpochRow(
            epoch=epoch,
            step=10 * epoch,
            lr=lrs[epoch - 1] if lrs else 0.1,
            train_loss=loss,
            train_accuracy=accuracy,
            val_loss=val[epoch - 1] if val else None,
            val_accuracy=val_accuracy if val else None,
            train_secs=1.0,
            images_per_sec=100.0,
        )
        for epoch, loss in enumerate(train, 1)
    )


def of_run(
    history: tuple[EpochRow, ...],
    *settings: str,
    val: float = 0.8,
    test: float = 0.8,
    labels: Sequence[int] = range(10),
) -> list[str]:
    """Return the issues of a run of as many epochs, tested on 1,000 images of these labels."""
    truth = np.resize(np.array(labels), 1000)
    logits = 20 * np.eye(10, dtype=np.float32)[truth]
    run = run_with(
        with_settings(f"schedule.epochs={len(history)}", *settings),
        history,
        Predictions(tuple(map(str, range(1000))), logits, truth, tuple("abcdefghij")),
    )
    assert run.summary is not None
    assert run.summary.test is not None
    run.summary = replace(
        run.summary,
        validation=ValidationResult(Interval(val, val, val, 1000), 0.7),
        test=replace(run.summary.test, accuracy=Interval(test, test, test, 1000)),
    )
    issues = apply_checks(run, RUN_CHECKS).issues
    return [f"{issue.severity} {issue.check}: {issue.message}" for issue in issues]


def run_with(
    recipe: Recipe, history: tuple[EpochRow, ...] = (), predictions: Predictions | None = None
) -> Run:
    """Return a run that has these parts without files."""
    run = Run("runs/x")
    run.recipe, run.missing = recipe, ()
    run.history = History(history, *[np.zeros(0)] * 3)
    run.summary, run.predictions = make_summary(recipe, predictions), predictions
    return run


def with_settings(*settings: str) -> Recipe:
    return resight.with_overrides(Recipe(), list(settings))


FALLING = (2.0, 1.0, 0.6, 0.4)


def test_a_run_that_is_well() -> None:
    assert of_run(rows(FALLING, (2.1, 1.2, 0.9, 0.8))) == []


def test_a_run_that_learned_nothing() -> None:
    flat = rows((2.31, 2.30, 2.30, 2.30), (2.3, 2.3, 2.3, 2.3))
    (issue,) = of_run(flat)
    assert issue.startswith("error learned: in 4 epochs the training loss came to 2.3, where")
    # Of 90 images in a hundred of one class, to know that much is nothing learned either.
    frequent = rows((0.4, 0.33, 0.33), (0.3, 0.3, 0.3), accuracy=0.9, val_accuracy=0.9)
    (issue,) = of_run(frequent, labels=[0] * 9 + [1])
    assert issue.startswith("error learned")
    assert of_run(rows((0.69, 0.66), (0.7, 0.66)), labels=[0, 1]) == []  # hard, and learned


def test_a_plateau_that_never_came_and_one_that_did() -> None:
    plateau = ("schedule.name=plateau",)
    (issue,) = of_run(rows(FALLING, (2.1, 0.8, 0.79, 0.81)), *plateau)
    assert issue.startswith("warning long-enough: the plateau never came: the rate was 0.1")
    still = rows(FALLING, (2.1, 0.9, 0.8, 0.7), lrs=(0.1, 0.1, 0.1, 0.01))
    (issue,) = of_run(still, *plateau)
    assert issue.startswith("warning long-enough: validation loss was lowest in the last of 4")
    stands = rows(FALLING, (2.1, 0.8, 0.8, 0.81), lrs=(0.1, 0.1, 0.1, 0.01))
    assert of_run(stands, *plateau) == []


def test_a_run_that_was_stopped_is_not_said_to_be_short() -> None:
    history = rows(FALLING, (2.1, 1.2, 0.9, 0.8))
    assert of_run(history, "schedule.name=plateau", "schedule.epochs=40") == []


def test_validation_that_falls_behind() -> None:
    (climbs,) = of_run(rows(FALLING, (1.0, 0.8, 0.9, 1.1)))
    assert climbs.startswith("warning overfitted: validation loss climbs from 0.8 after epoch 2")
    assert of_run(rows(FALLING, (0.02, 0.010, 0.011, 0.0112))) == []  # too little to speak of
    (behind,) = of_run(rows(FALLING, (2.1, 1.2, 0.9, 0.8), accuracy=0.95))
    assert "95.0% of its augmented" in behind


def test_a_test_set_that_disagrees() -> None:
    history = rows(FALLING, (2.1, 1.2, 0.9, 0.8))
    (issue,) = of_run(history, val=0.9, test=0.8)
    assert issue.startswith("warning validation-and-test")
    assert of_run(history, val=0.82, test=0.8) == []  # as chance would have it, of 1,000 images


def test_a_rate_far_from_what_the_range_test_says() -> None:
    lrs = np.geomspace(1e-4, 10, 60)
    losses = 2.3 - 1.5 / (1 + (0.05 / lrs) ** 2) + (lrs / 3) ** 2
    curve = analyze(lrs, losses, images=60, scale="exponential", stopped=None, chance=2.3)
    assert curve.verdict.ok
    assert curve.peak is not None
    for lr, far in ((curve.peak, False), (curve.peak / 20, True)):
        run = run_with(with_settings(f"optimizer.lr={lr}"))
        run.lr_curve = curve
        check = {"recommended-lr": RUN_CHECKS["recommended-lr"]}
        assert bool(apply_checks(run, check).issues) is far


def test_a_class_that_is_never_predicted(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2] * 10)
    logits = np.eye(3, dtype=np.float32)[np.where(labels == 2, 0, labels)]
    ids = tuple(map(str, range(30)))
    predictions = Predictions(ids, logits, labels, ("disc", "bar", "frame"))
    folder = make_run(tmp_path / "run", resight.load_recipe("digits"), predictions, gallery=False)
    (issue,) = resight.doctor(folder).errors
    assert issue.check == "predicted-classes"
    assert "1 of 3 classes are never predicted: frame (10 images)" in issue.message
    (folder / "predictions.npz").write_text("no, arrays\n")
    damaged = resight.doctor(folder)
    assert [issue.check for issue in damaged.errors] == ["finished"]
    assert "predicted-classes" in damaged.skipped


# --- the command ----------------------------------------------------------------------------


def test_the_exit_code_is_1_where_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(resight.to_toml(resight.load_recipe("digits")))
    assert main(["doctor", str(run)]) == 0
    assert "warning  finished: it stopped after 0 of " in capsys.readouterr().out
    (run / "summary.json").write_text('{"format": 2}')
    assert main(["doctor", str(run), "--json"]) == 1
    diagnosis = json.loads(capsys.readouterr().out)
    assert set(diagnosis) == {"issues", "passed", "skipped"}
    severities = [(issue["check"], issue["severity"]) for issue in diagnosis["issues"]]
    assert severities == [("finished", "error"), ("finished", "warning")]
    assert diagnosis["skipped"]["learned"] == "no epoch was finished"


def test_the_command_on_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "digits", "--quiet", "--set", "training.micro_batch=64"]) == 0
    assert "passed   train-test-overlap, duplicates, class-counts" in capsys.readouterr().out
