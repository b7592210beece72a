"""The rates of a whole run before any training, as `resight schedule` shows them.

    base: 20 epochs of 352 steps (supposing 45,000 training images in batches of 128), sgd
    one_cycle: 0.004 at the start, 0.1 at epoch 5 (step 1760 of 7040), 4e-07 at the end; ...

Needs neither data nor torch: a schedule depends on the data by the number of steps alone.
`plateau` also needs validation metrics, and gets a made-up curve that the text names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import UsageError
from ..recipe import Plateau, Recipe
from ..recipe.presets import load_recipe
from ..records import FloatArray
from .schedules import Rates, Schedule, schedule_of
from .schedules import steps_per_epoch as count_steps

IMAGES = 45_000  # training images where none are named: CIFAR-10 less the tenth held out
MAX_STEPS = 2_000_000  # a slip in a number should not fill the memory


@dataclass(frozen=True)
class Curve:
    """The learning rate and momentum of every step of a schedule."""

    schedule: Schedule
    lrs: FloatArray  # (steps,)
    momenta: FloatArray  # (steps,)
    watched: str | None  # where the metrics of a plateau come from

    @property
    def drops(self) -> list[tuple[int, float]]:
        """(epoch whose validation made a plateau drop, rate from then on)."""
        if self.watched is None:
            return []
        rates = self.lrs[:: self.schedule.steps_per_epoch].tolist()  # (epochs,)
        return [(e, new) for e, (old, new) in enumerate(pairwise(rates), 1) if new < old]


def schedule(
    recipe: Recipe | str, *, steps_per_epoch: int | None = None, images: int | None = None
) -> Schedule:
    """Return the schedule of a recipe (a value, a preset's name or a TOML file), as it is trained.

    `steps_per_epoch` is `len(loader)` in your own loop. Without it, the steps are counted from
    `images`, the training images without those held out (by default 45,000), in batches of
    `training.batch_size`. `ScheduleLR` applies the schedule to your own optimizer.

    Raises:
        UsageError: both numbers are given, or one that is not positive.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    if steps_per_epoch is not None and images is not None:
        raise UsageError(
            f"steps_per_epoch = {steps_per_epoch} and images = {images} are both given; "
            "the steps follow from the images, so give one of them"
        )
    if images is not None and images < 1:
        raise UsageError(f"images = {images} must be at least 1")
    if steps_per_epoch is None:
        steps_per_epoch = count_steps(images or IMAGES, recipe.training.batch_size)
    return schedule_of(recipe, steps_per_epoch=steps_per_epoch)


def trace(schedule: Schedule, metrics: Sequence[float] | None = None) -> Curve:
    """Return the rates of every step; `metrics` is the metric of a plateau after each epoch.

    Raises:
        UsageError: `metrics` is empty, or the run is too long to be drawn.
    """
    spec, steps, per_epoch = schedule.spec, schedule.total_steps, schedule.steps_per_epoch
    if steps > MAX_STEPS:
        raise UsageError(
            f"{spec.epochs:,} epochs of {per_epoch:,} steps are {steps:,} steps; "
            f"at most {MAX_STEPS:,} can be shown: lower epochs or steps_per_epoch"
        )
    values, watched = _plateau_metrics(spec, metrics) if isinstance(spec, Plateau) else ([], None)
    rates = all_rates(schedule, values)
    lrs, momenta = (np.array(x) for x in zip(*((r.lr, r.momentum) for r in rates), strict=True))
    return Curve(schedule, lrs, momenta, watched)


def all_rates(schedule: Schedule, metrics: Sequence[float] = ()) -> list[Rates]:
    """Return the rates of every step; of a plateau, only in the epochs that have a metric."""
    if not isinstance(schedule.spec, Plateau):
        return [schedule.at(step) for step in range(schedule.total_steps)]
    per_epoch = schedule.steps_per_epoch
    epochs = range(min(schedule.spec.epochs, len(metrics)))
    rates = [schedule.at(epoch * per_epoch, metrics) for epoch in epochs]
    return [rate for rate in rates for _ in range(per_epoch)]


def _plateau_metrics(spec: Plateau, metrics: Sequence[float] | None) -> tuple[list[float], str]:
    """The metric of each epoch, and in words where it comes from."""
    if metrics is None:
        turn = max(1, spec.epochs // 2)
        values = [0.9 ** min(epoch, turn) for epoch in range(1, spec.epochs + 1)]
        formula = "0.9 ^ epoch"
        if spec.metric == "val_accuracy":
            values, formula = [1 - value for value in values], f"1 - {formula}"
        return values, f"made-up {spec.metric} {formula} to epoch {turn}, then flat"
    if not metrics:
        raise UsageError(f"no {spec.metric} was given; give one for at least the first epoch")
    given = list(metrics[: spec.epochs])
    missing = spec.epochs - len(given)
    words = f"given {spec.metric} of {len(given)} epochs" + (", then flat" if missing else "")
    return given + given[-1:] * missing, words


def length_text(curve: Curve) -> str:
    """Return the length of a run in words, such as "20 epochs of 352 steps"."""
    epochs, steps = curve.schedule.spec.epochs, curve.schedule.steps_per_epoch
    return f"{epochs:,} epoch{'s' * (epochs > 1)} of {steps:,} step{'s' * (steps > 1)}"
