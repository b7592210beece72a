"""What `resight schedule` shows: the rates of a whole run, before any training.

    base: 20 epochs of 352 steps (supposing 45,000 training images in batches of 128), sgd
    one_cycle: 0.004 at the start, 0.1 at epoch 5 (step 1760 of 7040), 4e-07 at the end; ...

Needs neither data nor torch: the number of steps is all a schedule asks of the data, and
`plateau`, which asks for validation as well, is shown a curve that the text names.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .. import text as sketch
from ..errors import UsageError
from ..recipe import SGD, Constant, MultiStep, Plateau, Recipe, RMSprop
from ..recipe.presets import find_recipe
from ..recipe.toml import overlay
from ..records import Floats
from .schedules import Schedule, describe, schedule_of
from .schedules import steps_per_epoch as count_steps

IMAGES = 45_000  # training images where none are named: CIFAR-10 less the tenth held out
MOST_STEPS = 2_000_000  # a slip in a number should not fill the memory

MARKS = {  # of the sketch that compares
    "one_cycle": "o",
    "triangular": "t",
    "triangular2": "2",
    "exp_range": "e",
    "plateau": "p",
    "cosine": "c",
    "multistep": "m",
    "constant": "k",
}


@dataclass(frozen=True)
class Curve:
    """A schedule step by step, and the validation curve that a plateau was shown, in words."""

    schedule: Schedule
    lrs: Floats  # (steps,)
    momenta: Floats  # (steps,), NaN where the optimizer has none
    watched: str | None

    @property
    def drops(self) -> list[tuple[int, float]]:
        """(epoch whose validation made a plateau drop, rate from then on)."""
        if self.watched is None:
            return []
        rates = self.lrs[:: self.schedule.steps_per_epoch].tolist()  # (epochs,)
        return [(e, new) for e, (old, new) in enumerate(pairwise(rates), 1) if new < old]


# --- from a recipe to curves ----------------------------------------------------------------


def schedule(
    recipe: Recipe | str, *, steps_per_epoch: int | None = None, images: int | None = None
) -> Schedule:
    """The schedule of a recipe (a value, a preset's name or a TOML file), as training will run it.

    `steps_per_epoch` is `len(loader)` in a loop of your own; where it is not given it is counted
    from `images`, the training images without those held out (by default 45,000), in batches of
    `training.batch_size`. See `ScheduleLR` for using it with an optimizer of your own.

    Raises:
        UsageError: both numbers are given, or one that is not positive.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
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
    """The rates of every step. `metrics`: what plateau watches, of each epoch.

    Raises:
        UsageError: there are no metrics in `metrics`, or the run is too long to be drawn.
    """
    spec, steps, per_epoch = schedule.spec, schedule.total_steps, schedule.steps_per_epoch
    if steps > MOST_STEPS:
        raise UsageError(
            f"{spec.epochs:,} epochs of {per_epoch:,} steps are {steps:,} steps; "
            f"at most {MOST_STEPS:,} can be shown: lower epochs or steps_per_epoch"
        )
    watched = None
    if isinstance(spec, Plateau):
        seen, watched = _watched(spec, metrics)
        firsts = range(0, steps, per_epoch)  # it changes between epochs only
        rates = [schedule.at(step, seen) for step in firsts for _ in range(per_epoch)]
    else:
        rates = [schedule.at(step) for step in range(steps)]
    return Curve(
        schedule,
        np.array([r.lr for r in rates]),
        np.array([math.nan if r.momentum is None else r.momentum for r in rates]),
        watched,
    )


def _watched(spec: Plateau, metrics: Sequence[float] | None) -> tuple[list[float], str]:
    """The metric of each epoch, and in words where it comes from."""
    if metrics is None:
        turn = max(1, spec.epochs // 2)
        values = [0.9 ** min(epoch, turn) for epoch in range(1, spec.epochs + 1)]
        formula = "0.9 ^ epoch"
        if spec.metric == "val_accuracy":
            values, formula = [1 - value for value in values], f"1 - {formula}"
        return values, f"made-up {spec.metric} {formula} to epoch {turn}, then flat"
    if not metrics:
        raise UsageError(f"there is no {spec.metric} in what was given; one of an epoch is needed")
    given = list(metrics[: spec.epochs])
    missing = spec.epochs - len(given)
    words = f"given {spec.metric} of {len(given)} epochs" + (", then flat" if missing else "")
    return given + given[-1:] * missing, words


def read_metrics(given: str, metric: str) -> list[float]:
    """One value an epoch: numbers with commas between, or `metric` from a run's metrics.jsonl.

    Raises:
        UsageError: neither, or a value is not a finite number.
    """
    try:
        values = [float(part) for part in given.split(",")]
    except ValueError:
        values = _of_run(Path(given), metric)
    odd = [value for value in values if not math.isfinite(value)]
    if odd:
        raise UsageError(f"--metrics: {metric} = {odd[0]} is not a finite number")
    return values


def _of_run(path: Path, metric: str) -> list[float]:
    values: list[float] = []
    try:
        file = path / "metrics.jsonl" if path.is_dir() else path
        values.extend(
            float(json.loads(line)[metric])
            for line in file.read_text(encoding="utf-8").splitlines()
        )
    except OSError as error:
        raise UsageError(
            f"--metrics {path}: {error.strerror}; give values with commas between, such as "
            "0.9,0.7,0.7, a run folder or its metrics.jsonl"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--metrics {path}: no number {metric} in line {len(values) + 1}; "
            "it must be the metrics.jsonl of a run with validation"
        ) from error
    return values


# --- what is shown --------------------------------------------------------------------------


def show_schedule(
    recipe: Recipe,
    *,
    compare: Sequence[str] = (),
    metrics: str | None = None,
    steps_per_epoch: int | None = None,
    images: int | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> str:
    """The recipe's schedule, or the kinds in `compare`, as a sketch with its numbers or as JSON.

    `out` is a PNG or SVG file to draw; `metrics` as in `read_metrics`.

    Raises:
        UsageError: an unknown kind, metrics without a plateau, or numbers that do not fit.
    """
    recipes = [
        overlay(recipe, {"schedule": {"name": kind}}, origin="--compare")
        for kind in dict.fromkeys(compare)
    ] or [recipe]
    seen = None
    if metrics is not None:
        watching = [r.schedule for r in recipes if isinstance(r.schedule, Plateau)]
        if not watching:
            raise UsageError(
                f"--metrics is for plateau; {recipe.schedule.name} does not look at validation "
                "(--set schedule.name=plateau)"
            )
        seen = read_metrics(metrics, watching[0].metric)
    curves = [
        trace(schedule(r, steps_per_epoch=steps_per_epoch, images=images), seen) for r in recipes
    ]
    if out is not None:
        draw(recipe.name, curves, out)
    if as_json:
        return json.dumps(
            {
                "recipe": recipe.name,
                "figure": str(out) if out else None,
                "curves": [_numbers(curve) for curve in curves],
            }
        )
    counted = ""
    if steps_per_epoch is None:
        n = f"{images:,}" if images else f"supposing {IMAGES:,}"
        counted = f" ({n} training images in batches of {recipe.training.batch_size})"
    beta1 = "" if isinstance(recipe.optimizer, SGD | RMSprop) else " (its momentum is beta1)"
    lines = [f"{recipe.name}: {_length(curves[0])}{counted}, {recipe.optimizer.name}{beta1}"]
    for curve in curves:
        lines += [describe(curve.schedule), *_wiring(curve)]
    lines += ["", *_sketch(curves)]
    if out is not None:
        lines += ["", f"figure   {out}"]
    return "\n".join(lines)


def draw(name: str, curves: Sequence[Curve], out: Path) -> None:
    """The curves of a recipe of that name as a PNG or SVG file."""
    from .. import figures

    first, n = curves[0], curves[0].schedule.steps_per_epoch
    kind = f" {first.schedule.spec.name}," if len(curves) == 1 else ""
    title = f"{name}:{kind} {_length(first)}"
    for watched in (curve.watched for curve in curves if curve.watched):
        title += f"; {watched}"
    if len(curves) > 1:
        by_name: dict[str, Floats] = {c.schedule.spec.name: c.lrs for c in curves}
        figure = figures.compare_schedules(by_name, steps_per_epoch=n, title=title)
    else:
        peak = int(first.lrs.argmax()) + 1
        if peak > 1:
            title += f"; peak {first.lrs.max():.4g} at epoch {round(peak / n, 2):g} (step {peak:,})"
        figure = figures.schedule_curve(first.lrs, first.momenta, steps_per_epoch=n, title=title)
    figures.save(figure, out)


def _length(curve: Curve) -> str:
    epochs, steps = curve.schedule.spec.epochs, curve.schedule.steps_per_epoch
    return f"{epochs:,} epoch{'s' * (epochs > 1)} of {steps:,} step{'s' * (steps > 1)}"


def _numbers(curve: Curve) -> dict[str, Any]:
    """The corners of a curve; steps are counted from 1."""

    def corner(step: int) -> dict[str, Any]:
        momentum = float(curve.momenta[step])
        return {
            "step": step + 1,
            "epoch": (step + 1) / curve.schedule.steps_per_epoch,
            "lr": float(curve.lrs[step]),
            "momentum": None if math.isnan(momentum) else momentum,
        }

    return {
        "schedule": curve.schedule.spec.name,
        "text": describe(curve.schedule),
        "epochs": curve.schedule.spec.epochs,
        "steps_per_epoch": curve.schedule.steps_per_epoch,
        "total_steps": curve.schedule.total_steps,
        "start": corner(0),
        "peak": corner(int(curve.lrs.argmax())),
        "end": corner(len(curve.lrs) - 1),
        "watched": curve.watched,
        "drops": [{"after_epoch": epoch, "lr": lr} for epoch, lr in curve.drops],
    }


def _wiring(curve: Curve) -> list[str]:
    """When the rate is set, and by what."""
    match curve.schedule.spec:
        case Plateau(metric=metric):
            shown = [f"after epoch {epoch} to {lr:.4g}" for epoch, lr in curve.drops]
            if len(shown) > 8:
                shown = [*shown[:8], f"... {len(shown)} in all"]
            return [
                f"  wired  per epoch: looks at {metric} once an epoch, after validation",
                f"  shown  {curve.watched}",
                f"  drops  {', '.join(shown) or 'none'}",
            ]
        case Constant():
            return ["  wired  once: never changes"]
        case MultiStep():
            return ["  wired  per step: drops at the steps named, by the step alone"]
        case _:
            return ["  wired  per step: changes before every step, by the step alone"]


def _sketch(curves: Sequence[Curve]) -> list[str]:
    """Learning rate from 0 to its peak; below it the momentum, where one curve changes it."""
    spec, steps = curves[0].schedule.spec, curves[0].schedule.total_steps
    axis = sketch.axis("epoch 0", f"{spec.epochs:,} (step {steps:,})")
    high = max(float(curve.lrs.max()) for curve in curves)
    if len(curves) > 1:
        by_mark = {MARKS[curve.schedule.spec.name]: curve.lrs for curve in curves}
        legend = "   ".join(f"{mark} {name}" for name, mark in MARKS.items() if mark in by_mark)
        return [f"learning rate     {legend}", *sketch.overlay(by_mark, high=high), axis]
    lrs, momenta = curves[0].lrs, curves[0].momenta
    lines = ["learning rate", *sketch.bars(lrs, low=0.0, high=high, rows=10)]
    if momenta.min() < momenta.max():
        low, high = float(momenta.min()), float(momenta.max())
        lines += ["momentum", *sketch.bars(momenta, low=low, high=high, rows=3)]
    return [*lines, axis]
