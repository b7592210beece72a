"""The doctor on runs with one error in each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import resight
from report_runs import epoch, make_run
from report_runs import summary as make_summary
from resight.diagnosis.issues import apply_checks
from resight.diagnosis.run_checks import RUN_CHECKS
from resight.lr_finder.suggest import analyze
from resight.metrics.intervals import Interval
from resight.recipe import Recipe
from resight.records import EpochRow, History, Predictions
from resight.runs.run import Run
from resight.runs.summary import ValidationResult

FALLING = (2.0, 1.0, 0.6, 0.4)
PLATEAU = "schedule.name=plateau"


def rows(
    val_losses: Sequence[float],
    *,
    train_losses: Sequence[float] = FALLING,
    last_lr: float = 0.1,
    accuracy: float = 0.8,
    val_accuracy: float = 0.8,
) -> tuple[EpochRow, ...]:
    """Return the epochs of a run; the learning rate is 0.1 except in the last."""
    losses = list(zip(train_losses, val_losses, strict=True))
    return tuple(
        replace(
            epoch(number),
            lr=last_lr if number == len(losses) else 0.1,
            train_loss=train_loss,
            train_accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
        )
        for number, (train_loss, val_loss) in enumerate(losses, 1)
    )


GOOD = rows((2.1, 1.2, 0.9, 0.8))


def run_issues(
    history: tuple[EpochRow, ...],
    *settings: str,
    val: float = 0.8,
    test: float = 0.8,
    labels: Sequence[int] = range(10),
    num_val: int = 1000,
) -> list[str]:
    """Return the issues of a run of as many epochs, tested on 1,000 images of these labels.

    Checks that were skipped for too few images are among them.
    """
    truth = np.resize(np.array(labels), 1000)
    logits = 20 * np.eye(10, dtype=np.float32)[truth]
    predictions = Predictions(tuple(map(str, range(1000))), logits, truth, tuple("abcdefghij"))
    run = run_with([f"schedule.epochs={len(history)}", *settings], history, predictions)
    assert run.summary is not None
    assert run.summary.test is not None
    run.summary = replace(
        run.summary,
        data=replace(run.summary.data, train=9 * num_val, val=num_val),
        validation=ValidationResult(Interval(val, val, val, 1000), 0.7),
        test=replace(run.summary.test, accuracy=Interval(test, test, test, 1000)),
    )
    diagnosis = apply_checks(run, RUN_CHECKS)
    return [
        *(f"{issue.severity} {issue.check}: {issue.message}" for issue in diagnosis.issues),
        *(f"{name}: {why}" for name, why in diagnosis.skipped.items() if "too few" in why),
    ]


def run_with(
    settings: Sequence[str],
    history: tuple[EpochRow, ...] = (),
    predictions: Predictions | None = None,
) -> Run:
    """Return a run that has these parts without files."""
    run = Run("runs/x")
    run.recipe, run.missing = resight.with_overrides(Recipe(), list(settings)), ()
    run.history = History(history, *[np.zeros(0)] * 3)
    run.summary, run.predictions = make_summary(run.recipe, predictions), predictions
    return run


def test_a_run_without_an_issue() -> None:
    assert run_issues(GOOD) == []


def test_a_run_that_learned_nothing() -> None:
    (issue,) = run_issues(rows([2.3] * 4, train_losses=(2.31, 2.30, 2.30, 2.30)))
    assert issue.startswith("error learned: in 4 epochs the training loss came to 2.3, where")
    # If one class has 90 % of the images, guessing has a loss of 0.33.
    frequent = rows([0.3] * 3, train_losses=(0.4, 0.33, 0.33), accuracy=0.9, val_accuracy=0.9)
    (issue,) = run_issues(frequent, labels=[0] * 9 + [1])
    assert issue.startswith("error learned")
    # If classes are weighed or drawn alike, guessing is not: its loss is ln 2 = 0.69.
    weighed = rows([0.6] * 3, train_losses=(0.7, 0.6, 0.5))
    for setting in ("loss.class_weights=balanced", "data.balance=balanced"):
        assert run_issues(weighed, setting, labels=[0] * 9 + [1]) == []
        (issue,) = run_issues(
            rows([0.69] * 3, train_losses=(0.7, 0.69, 0.69)), setting, labels=[0] * 9 + [1]
        )
        assert "the training loss came to 0.69, where guessing has 0.693" in issue
    hard = rows((0.7, 0.66), train_losses=(0.69, 0.66))
    assert run_issues(hard, labels=[0, 1]) == []


def test_a_plateau_schedule_that_did_not_lower_the_rate() -> None:
    (issue,) = run_issues(rows((2.1, 0.8, 0.79, 0.81)), PLATEAU)
    assert issue.startswith("warning long-enough: the plateau never came: the rate was 0.1")
    (issue,) = run_issues(rows((2.1, 0.9, 0.8, 0.7), last_lr=0.01), PLATEAU)
    assert issue.startswith("warning long-enough: validation loss was lowest in the last of 4")
    assert run_issues(rows((2.1, 0.8, 0.8, 0.81), last_lr=0.01), PLATEAU) == []


def test_a_stopped_run_is_not_called_too_short() -> None:
    assert run_issues(GOOD, PLATEAU, "schedule.epochs=40") == []


def test_validation_worse_than_training() -> None:
    (issue,) = run_issues(rows((1.0, 0.8, 0.9, 1.1)))
    assert issue.startswith("warning overfitted: validation loss climbs from 0.8 after epoch 2")
    assert run_issues(rows((0.02, 0.010, 0.011, 0.0112))) == []  # by less than 0.02
    (issue,) = run_issues(rows((2.1, 1.2, 0.9, 0.8), accuracy=0.95))
    assert "95.0% of its augmented" in issue


def test_no_verdict_from_a_handful_of_validation_images() -> None:
    too_few = ["overfitted: 10 validation images are too few to tell"]
    # From 0.8 to 1.1 on 10 images: chance explains 1.96 sqrt(0.8^2 + 1.1^2) / sqrt(10) = 0.84.
    climbing = rows((1.0, 0.8, 0.9, 1.1))
    assert run_issues(climbing, num_val=10) == too_few
    # On 100 images it explains 0.27, which is less than 0.3.
    (issue,) = run_issues(climbing, num_val=100)
    assert issue.startswith("warning overfitted: validation loss climbs")
    # 7 of 10 have an interval up to 89 %, and 77 of 90 (85.6 %) one from 77 %: the difference of
    # 15.6 points is less than sqrt(19.2^2 + 8.9^2) = 21.1.
    good = (2.1, 1.2, 0.9, 0.8)
    assert run_issues(rows(good, accuracy=0.855, val_accuracy=0.7), num_val=10) == too_few
    # 70 of 100 have one up to 78.1 %, and 770 of 900 one from 83.1 %: 15.6 > 8.5.
    (issue,) = run_issues(rows(good, accuracy=0.855, val_accuracy=0.7), num_val=100)
    assert "85.5% of its augmented training images right, and 70.0% of the 100 held out" in issue
    falling = rows((2.1, 0.9, 0.8, 0.7), last_lr=0.01)
    assert run_issues(falling, PLATEAU, num_val=59) == [
        "long-enough: 59 validation images are too few to tell"
    ]
    assert len(run_issues(falling, PLATEAU, num_val=60)) == 1


def test_a_class_of_three_test_images_that_is_never_predicted() -> None:
    # Of 3 images none is right: the interval of the share ends at 1.96^2 / (3 + 1.96^2) = 56 %.
    for count, severity in ((3, ""), (4, "warning"), (10, "error")):
        labels = np.array([0] * 50 + [1] * 50 + [2] * count)
        logits = np.eye(3, dtype=np.float32)[np.where(labels == 2, 0, labels)]
        ids = tuple(map(str, range(len(labels))))
        run = run_with([], GOOD, Predictions(ids, logits, labels, ("disc", "bar", "frame")))
        check = {"predicted-classes": RUN_CHECKS["predicted-classes"]}
        assert [i.severity for i in apply_checks(run, check).issues] == [severity] * bool(severity)


def test_validation_and_test_accuracy_that_differ() -> None:
    (issue,) = run_issues(GOOD, val=0.9, test=0.8)
    assert issue.startswith("warning validation-and-test")
    assert run_issues(GOOD, val=0.82, test=0.8) == []  # by chance, with 1,000 images each


def test_a_rate_far_from_the_recommended_one() -> None:
    lrs = np.geomspace(1e-4, 10, 60)
    losses = 2.3 - 1.5 / (1 + (0.05 / lrs) ** 2) + (lrs / 3) ** 2
    curve = analyze(lrs, losses, images=60, scale="exponential", stopped=None, chance=2.3)
    assert curve.verdict.ok
    assert curve.peak is not None
    for lr, far in ((curve.peak, False), (curve.peak / 20, True)):
        run = run_with([f"optimizer.lr={lr}"])
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
    (folder / "predictions.npz").write_text("no arrays\n")
    damaged = resight.doctor(folder)
    assert [issue.check for issue in damaged.errors] == ["finished"]
    assert "predicted-classes" in damaged.skipped
