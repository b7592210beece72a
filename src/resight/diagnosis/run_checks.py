"""What a run's folder says of how it went, and what to do about it."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..recipe import Plateau
from ..records import EpochRow, Predictions
from ..runs.run import Run
from .issues import Issue, Skipped, error, warning


def finished(run: Run) -> Iterator[Issue]:
    """It came to its end, and its files can be read."""
    if not _ended(run) and not (run.summary and run.summary.test):
        yield warning(
            f"it stopped after {len(run.history.epochs)} of {run.recipe.schedule.epochs} epochs",
            f"go on with resight resume {run.folder}",
        )
    for line in run.missing:
        if " is damaged and was passed over" in line:
            if line.startswith("gallery"):
                yield warning(line, f"resight explain {run.folder} makes it anew")
            else:
                yield error(line, "take the file from a copy of the run")


def learned(run: Run) -> Iterator[Issue]:
    """The training loss fell below that of guessing by how frequent each class is."""
    rows = _rows(run)
    counts = np.bincount(_predictions(run).labels)
    share = counts[counts > 0] / counts.sum()
    guessing = float(-(share * np.log(share)).sum())
    lowest = min(row.train_loss for row in rows)
    if lowest > 0.98 * guessing:
        yield error(
            f"in {len(rows)} epochs the training loss came to {lowest:.3g}, where guessing has "
            f"{guessing:.3g}",
            "look for a lower rate or a longer warm-up with resight lr-find, and at the data with "
            "resight doctor RECIPE --data",
        )


def long_enough(run: Run) -> Iterator[Issue]:
    """The rate has fallen, and validation stands still."""
    rows, schedule = _rows(run), run.recipe.schedule
    if not schedule.holds_rate:
        raise Skipped("a cycle is as long as it is")
    if not _ended(run):
        raise Skipped("it has not come to its end")
    if isinstance(schedule, Plateau) and rows[-1].lr == rows[0].lr:
        yield warning(
            f"the plateau never came: the rate was {rows[0].lr:g} for all of {len(rows)} epochs",
            "train for longer, or with less patience",
        )
    losses = _validation(rows)
    if len(rows) > 2 and losses.argmin() == len(rows) - 1:
        yield warning(
            f"validation loss was lowest in the last of {len(rows)} epochs: it was still learning",
            "train for longer",
        )


def overfitted(run: Run) -> Iterator[Issue]:
    """Validation keeps up with training."""
    rows = _rows(run)
    losses = _validation(rows)
    best = int(losses.argmin())
    if losses[-1] > max(1.1 * losses[best], losses[best] + 0.02):
        yield warning(
            f"validation loss climbs from {losses[best]:.3g} after epoch {rows[best].epoch} to "
            f"{losses[-1]:.3g} at the end (accuracy from {rows[best].val_accuracy:.1%} to "
            f"{rows[-1].val_accuracy:.1%})",
            "more augmentation, weight decay or label smoothing; training.select=val_loss keeps "
            "the weights of the lowest",
        )
    last = rows[-1]
    gap = last.train_accuracy - (last.val_accuracy or 0.0)
    if gap > 0.1:
        yield warning(
            f"it ends with {last.train_accuracy:.1%} of its augmented training images right, and "
            f"{last.val_accuracy:.1%} of those held out",
            "more augmentation, or more images",
        )


def rate(run: Run) -> Iterator[Issue]:
    """The range test can be trusted, and the rate is what it says."""
    curve = run.lr_curve
    if curve is None:
        raise Skipped("there is no range test; --find-lr makes one")
    holds = run.recipe.schedule.holds_rate
    said, used = curve.constant if holds else curve.peak, run.recipe.optimizer.lr
    for reason in curve.verdict.reasons:
        yield warning(f"the range test is not to be trusted: {reason}", "test again")
    if curve.verdict.ok and said and not said / 5 <= used <= said * 5:
        yield warning(
            f"its rate is {used:g}, and its range test says {said:.2g}",
            f"try --lr {said:.2g} beside it, and compare",
        )


def every_class(run: Run) -> Iterator[Issue]:
    """No class is passed over."""
    predictions = _predictions(run)
    k = len(predictions.classes)
    there, said = (np.bincount(of, minlength=k) for of in (predictions.labels, predictions.preds))
    if len(never := np.flatnonzero((said == 0) & (there > 0))):
        names = ", ".join(f"{predictions.classes[c]} ({there[c]} images)" for c in never[:5])
        yield (error if there[never].max() >= 10 else warning)(
            f"{len(never)} of {k} classes are never predicted: {names}",
            "see that they have training images, and train for longer",
        )


def held_out_alike(run: Run) -> Iterator[Issue]:
    """Validation and test agree, as far as chance lets them."""
    summary = run.summary
    if summary is None or summary.test is None or summary.validation is None:
        raise Skipped("needs a validation and a test accuracy")
    val, test = summary.validation.accuracy, summary.test.accuracy
    right = (val.value * val.n + test.value * test.n) / (val.n + test.n)  # if both are alike
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


def _validation(rows: tuple[EpochRow, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    losses = [row.val_loss for row in rows if row.val_loss is not None]
    if len(losses) < len(rows):
        raise Skipped("nothing was held out")
    return np.array(losses)


def _predictions(run: Run) -> Predictions:
    if run.predictions is None:
        raise Skipped("the test set was not read")
    return run.predictions


def _ended(run: Run) -> bool:
    return len(run.history.epochs) >= run.recipe.schedule.epochs


RUN_CHECKS: dict[str, Callable[[Run], Iterator[Issue]]] = {
    "finished": finished,
    "learned": learned,
    "long enough": long_enough,
    "overfitted": overfitted,
    "rate": rate,
    "every class": every_class,
    "held-out alike": held_out_alike,
}
