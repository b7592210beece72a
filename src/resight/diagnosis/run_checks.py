"""Check how a run went, by the files in its folder."""

import math
from collections.abc import Iterator

import numpy as np

from ..metrics.intervals import MIN_TO_TELL, share_difference, wilson
from ..recipe import Plateau, power_of
from ..records import EpochRow, FloatArray, Predictions
from ..runs.run import Run
from .issues import Issue, Skipped, by_name, error, warning

MIN_NEVER = 4  # images: where none of 4 is right, the 95 % interval ends below one half


def finished(run: Run) -> Iterator[Issue]:
    """Check that the run came to its end, and that its files can be read.

    Why is this bad:
        A run that was stopped has no test accuracy. A damaged file is missing from the report.
    Example:
        The power fails after epoch 12 of 40, or half of `predictions.npz` is lost.
    Fix:
        Resume the run with `resight resume`, or copy the file from a backup.
    """
    if not _ended(run) and not (run.summary and run.summary.test):
        yield warning(
            f"it stopped after {len(run.history.epochs)} of {run.recipe.schedule.epochs} epochs",
            f"go on with resight resume {run.folder}",
        )
    for line in run.missing:
        if " is damaged and was passed over" not in line:
            continue
        if line.startswith("gallery"):
            yield warning(line, f"resight explain {run.folder} makes it again")
        else:
            yield error(line, "take the file from a copy of the run")


def learned(run: Run) -> Iterator[Issue]:
    """Check that the training loss fell below that of guessing by how frequent each class is.

    Why is this bad:
        The network has learned nothing about the images. If one class has 90 % of them, the
        accuracy is 90 % all the same.
    Example:
        With ten equal classes guessing has a loss of 2.30, and the training loss stays at 2.30.
    Fix:
        Try the learning rate of `resight lr-find` or a longer warm-up, and check the data with
        `resight doctor RECIPE --data PATH`.
    """
    rows, labels = _rows(run), _predictions(run).labels
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    drawn = share ** (1 - power_of(run.recipe.data.balance))
    guess = drawn * share ** -power_of(run.recipe.loss.class_weights)  # the best, by the weights
    guessing = float(-(drawn / drawn.sum() * np.log(guess / guess.sum())).sum())
    lowest = min(row.train_loss for row in rows)
    if lowest > 0.98 * guessing:
        yield error(
            f"in {len(rows)} epochs the training loss came to {lowest:.3g}, where guessing has "
            f"{guessing:.3g}",
            "try a lower rate (resight lr-find) or a longer warm-up; check the data with resight "
            "doctor RECIPE --data",
        )


def long_enough(run: Run) -> Iterator[Issue]:
    """Check that the rate has fallen, and that validation no longer improves.

    Only schedules that hold their rate are checked; a cycle has a fixed length. With fewer than 60
    validation images, the lowest loss is chance, and is no issue.

    Why is this bad:
        A run that stops while it improves, or before the plateau schedule has lowered the rate,
        does not reach the accuracy of its recipe.
    Example:
        The plateau schedule has a rate of 0.1 in each of four epochs.
    Fix:
        Train for longer, or with less patience.
    """
    rows, schedule = _rows(run), run.recipe.schedule
    if not schedule.holds_rate:
        raise Skipped("a cycle has a fixed length")
    if not _ended(run):
        raise Skipped("it has not come to its end")
    if isinstance(schedule, Plateau) and rows[-1].lr == rows[0].lr:
        yield warning(
            f"the plateau never came: the rate was {rows[0].lr:g} for all of {len(rows)} epochs",
            "train for longer, or with less patience",
        )
    losses = _validation(rows)
    if len(rows) > 2 and losses.argmin() == len(rows) - 1:
        if _num_val(run) < MIN_TO_TELL:
            raise Skipped(f"{_num_val(run)} validation images are too few to tell")
        yield warning(
            f"validation loss was lowest in the last of {len(rows)} epochs: it was still learning",
            "train for longer",
        )


def overfitted(run: Run) -> Iterator[Issue]:
    """Check that validation keeps up with training.

    What the number of validation images explains by chance is no issue.

    Why is this bad:
        The network learns the training images by heart, and gets worse at new images.
    Example:
        Validation loss is 0.8 after epoch 2 and 1.1 at the end.
    Fix:
        Use more augmentation, weight decay or label smoothing. `training.select=val_loss` keeps
        the weights of the epoch with the lowest validation loss.
    """
    rows, n = _rows(run), _num_val(run)
    losses, last = _validation(rows), rows[-1]
    best = int(losses.argmin())
    climb = losses[-1] - losses[best]
    # Losses of images spread at least as far as their mean, as in an exponential distribution.
    by_chance = 1.96 * math.hypot(losses[-1], losses[best]) / math.sqrt(n)
    climbs = climb > max(0.1 * losses[best], 0.02)
    if climbs and climb > by_chance:
        yield warning(
            f"validation loss climbs from {losses[best]:.3g} after epoch {rows[best].epoch} to "
            f"{losses[-1]:.3g} at the end (accuracy from {rows[best].val_accuracy:.1%} to "
            f"{rows[-1].val_accuracy:.1%})",
            "more augmentation, weight decay or label smoothing; training.select=val_loss keeps "
            "the weights of the lowest",
        )
    assert run.summary is not None  # else n is not known
    shares = ((last.val_accuracy or 0.0, n), (last.train_accuracy, run.summary.data.train))
    gap = share_difference(*(wilson(round(share * count), count) for share, count in shares))
    if gap.value > 0.1 and gap.low > 0:
        yield warning(
            f"it ends with {last.train_accuracy:.1%} of its augmented training images right, and "
            f"{last.val_accuracy:.1%} of the {n:,} held out",
            "more augmentation, or more images",
        )
    if (climbs and climb <= by_chance) or (gap.value > 0.1 and gap.low <= 0):
        raise Skipped(f"{n} validation images are too few to tell")


def recommended_lr(run: Run) -> Iterator[Issue]:
    """Check that the range test can be trusted, and that the run used about its recommended rate.

    Why is this bad:
        A rate that is five times too low or too high costs accuracy or makes training unstable.
    Example:
        The range test recommends a peak of 0.4, and the run used 0.02.
    Fix:
        Train again with the recommended rate, and compare the two runs.
    """
    curve = run.lr_curve
    if curve is None:
        raise Skipped("there is no range test; --find-lr makes one")
    recommended = curve.constant if run.recipe.schedule.holds_rate else curve.peak
    used = run.recipe.optimizer.lr
    for reason in curve.verdict.reasons:
        yield warning(f"the range test cannot be trusted: {reason}", "test again")
    if curve.verdict.ok and recommended and not recommended / 5 <= used <= recommended * 5:
        yield warning(
            f"its rate is {used:g}, and its range test recommends {recommended:.2g}",
            f"train again with --lr {recommended:.2g}, and compare",
        )


def predicted_classes(run: Run) -> Iterator[Issue]:
    """Check that every class of the test set is predicted at least once.

    Classes with fewer than 4 test images are no issue by themselves.

    Why is this bad:
        All images of that class are mistakes, which a high total accuracy hides.
    Example:
        Of three classes in a test set of 30 images, the network never predicts the third.
    Fix:
        See that the class has training images, and train for longer.
    """
    predictions = _predictions(run)
    k = len(predictions.classes)
    num_images = np.bincount(predictions.labels, minlength=k)
    num_predicted = np.bincount(predictions.preds, minlength=k)
    if len(never := np.flatnonzero((num_predicted == 0) & (num_images > 0))):
        names = ", ".join(f"{predictions.classes[c]} ({num_images[c]} images)" for c in never[:5])
        few = num_images[never].max()
        if few < MIN_NEVER:
            raise Skipped(f"{few} test images of a class are too few to tell")
        yield (error if few >= 10 else warning)(
            f"{len(never)} of {k} classes are never predicted: {names}",
            "see that they have training images, and train for longer",
        )


def validation_and_test(run: Run) -> Iterator[Issue]:
    """Check that validation and test accuracy differ by no more than chance explains.

    Why is this bad:
        Either validation images have copies in training, or test images are of another kind. One
        of the two accuracies is not that on new images.
    Example:
        Validation accuracy is 90 % and test accuracy 80 %, with 1,000 images each.
    Fix:
        Check the data with `resight doctor RECIPE --data PATH`.
    """
    summary = run.summary
    if summary is None or summary.test is None or summary.validation is None:
        raise Skipped("needs a validation and a test accuracy")
    val, test = summary.validation.accuracy, summary.test.accuracy
    right = (val.value * val.n + test.value * test.n) / (val.n + test.n)  # if both are the same
    deviation = math.sqrt(right * (1 - right) * (1 / val.n + 1 / test.n))
    if abs(val.value - test.value) > 4 * deviation + 0.005:
        yield warning(
            f"validation accuracy is {val.value:.2%} and test accuracy {test.value:.2%}, further "
            "apart than by chance",
            "images that are held out may have copies in training, or test images be of another "
            "kind: resight doctor RECIPE --data",
        )


def _rows(run: Run) -> tuple[EpochRow, ...]:
    if not run.history.epochs:
        raise Skipped("no epoch was finished")
    return run.history.epochs


def _validation(rows: tuple[EpochRow, ...]) -> FloatArray:
    losses = [row.val_loss for row in rows if row.val_loss is not None]
    if len(losses) < len(rows):
        raise Skipped("nothing was held out")
    return np.array(losses)


def _num_val(run: Run) -> int:
    if run.summary is None:
        raise Skipped("the number of validation images is written when the run stops")
    if not run.summary.data.val:
        raise Skipped("nothing was held out")
    return run.summary.data.val


def _predictions(run: Run) -> Predictions:
    if run.predictions is None:
        raise Skipped("the test set was not read")
    return run.predictions


def _ended(run: Run) -> bool:
    return len(run.history.epochs) >= run.recipe.schedule.epochs


RUN_CHECKS = by_name(
    *(finished, learned, long_enough, overfitted),
    *(recommended_lr, predicted_classes, validation_and_test),
)
