"""The command that shows the learning rate and momentum of a run before it is trained."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import UsageError
from ..files import read_text
from ..optim.curve import IMAGES, Curve, length_text, trace
from ..optim.curve import schedule as schedule_of
from ..optim.schedules import describe
from ..recipe import SGD, Constant, MultiStep, Plateau, Recipe, RMSprop
from ..recipe.presets import load_recipe
from ..recipe.toml import with_changes, with_epochs, with_overrides
from ..text import plot_axis, plot_bars, plot_marks
from .options import CommandResult, Epochs, OutputOptions, RecipeName, SetOption, emit

MARKS = {  # of each kind in a plot that compares
    "one_cycle": "o",
    "triangular": "t",
    "triangular2": "2",
    "exp_range": "e",
    "plateau": "p",
    "cosine": "c",
    "multistep": "m",
    "constant": "k",
}


def schedule(
    recipe: RecipeName,
    /,
    *,
    epochs: Epochs = None,
    images: int | None = None,
    steps_per_epoch: int | None = None,
    set_: SetOption = None,
    compare: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    metrics: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,  # -0.9,-0.8
    out: Path | None = None,
    output: OutputOptions = OutputOptions(),
) -> None:
    """Draw the learning rate and momentum of a run before it is trained.

    Parameters
    ----------
    images
        Count the steps of this many training images, without those held out; by default 45,000.
    steps_per_epoch
        Give the steps in an epoch, where you know them, in place of --images.
    compare
        Draw these kinds of schedule over each other, with the same epochs and highest rate.
    metrics
        Give the metric that plateau reads: values such as 0.9,0.8 or the folder of a run.
    out
        Draw a figure: a .png or .svg file.
    """
    chosen = load_recipe(recipe)
    if epochs is not None:
        chosen = with_epochs(chosen, epochs)
    chosen = with_overrides(chosen, set_ or [])
    recipes = [
        with_changes(chosen, {"schedule": {"name": kind}}, origin="--compare")
        for kind in dict.fromkeys(compare or [])
    ] or [chosen]
    values = plateau_metrics(recipes, metrics) if metrics is not None else None
    curves = [
        trace(schedule_of(each, steps_per_epoch=steps_per_epoch, images=images), values)
        for each in recipes
    ]
    text = schedule_text(chosen, curves, images=images, counted=steps_per_epoch is None)
    if out is not None:
        from ..figures.curves import draw_schedule  # matplotlib: only where a file is drawn

        draw_schedule(chosen.name, curves, out)
        text += f"\n\nfigure   {out}"
    content = {"recipe": chosen.name, "figure": out and str(out)}
    emit(CommandResult({**content, "curves": list(map(_curve_dict, curves))}, text), output)


def schedule_text(
    recipe: Recipe, curves: Sequence[Curve], *, images: int | None = None, counted: bool = True
) -> str:
    """Return the schedule of a recipe, or several kinds of it, as a plot with its numbers.

    `counted`: the steps are counted from `images`, or from as many as CIFAR-10 has.
    """
    optimizer = recipe.optimizer
    line = f"{recipe.name}: {length_text(curves[0])}"
    if counted:
        n = f"{images:,}" if images else f"supposing {IMAGES:,}"
        line += f" ({n} training images in batches of {recipe.training.batch_size})"
    beta1 = "" if isinstance(optimizer, SGD | RMSprop) else " (its momentum is beta1)"
    lines = [f"{line}, {optimizer.name}{beta1}"]
    for curve in curves:
        lines += [describe(curve.schedule), *_wiring(curve)]
    return "\n".join([*lines, "", *_plot(curves)])


def plateau_metrics(recipes: Sequence[Recipe], given: str) -> list[float]:
    """Return the metric of each epoch for the first plateau among the recipes' schedules.

    Raises:
        UsageError: no schedule is a plateau, or as in `read_metrics`.
    """
    for recipe in recipes:
        if isinstance(recipe.schedule, Plateau):
            return read_metrics(given, recipe.schedule.metric)
    raise UsageError(
        f"--metrics is for plateau; {recipes[0].schedule.name} does not look at validation "
        "(--set schedule.name=plateau)"
    )


def read_metrics(given: str, metric: str) -> list[float]:
    """Return a value an epoch: numbers with commas between, or `metric` of a run's metrics.jsonl.

    Raises:
        UsageError: neither, or a value is not a finite number.
    """
    try:
        values = [float(part) for part in given.split(",")]
    except ValueError:
        values = _metrics_of_run(Path(given), metric)
    invalid = [value for value in values if not math.isfinite(value)]
    if invalid:
        raise UsageError(f"--metrics: {metric} = {invalid[0]} is not a finite number")
    return values


def _metrics_of_run(path: Path, metric: str) -> list[float]:
    values: list[float] = []
    try:
        file = path / "metrics.jsonl" if path.is_dir() else path
        values.extend(float(json.loads(line)[metric]) for line in read_text(file).splitlines())
    except OSError as error:
        raise UsageError(
            f"--metrics {path}: {error.strerror}; give values with commas between, such as "
            "0.9,0.7,0.7, a run folder or its metrics.jsonl"
        ) from error
    except UsageError:  # its size or kind, which the line has
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"--metrics {path}: no number {metric} in line {len(values) + 1}; "
            "it must be the metrics.jsonl of a run with validation"
        ) from error
    return values


def _curve_dict(curve: Curve) -> dict[str, Any]:
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
            drops = [f"after epoch {epoch} to {lr:.4g}" for epoch, lr in curve.drops]
            if len(drops) > 8:
                drops = [*drops[:8], f"... {len(drops)} in all"]
            return [
                f"  wired  per epoch: looks at {metric} once an epoch, after validation",
                f"  shown  {curve.watched}",
                f"  drops  {', '.join(drops) or 'none'}",
            ]
        case Constant():
            wired = "once: never changes"
        case MultiStep():
            wired = "per step: drops at the steps named, by the step alone"
        case _:
            wired = "per step: changes before every step, by the step alone"
    return [f"  wired  {wired}"]


def _plot(curves: Sequence[Curve]) -> list[str]:
    """Learning rate from 0 to its peak; below it the momentum, where one curve changes it."""
    spec, steps = curves[0].schedule.spec, curves[0].schedule.total_steps
    axis = plot_axis("epoch 0", f"{spec.epochs:,} (step {steps:,})")
    high = max(float(curve.lrs.max()) for curve in curves)
    if len(curves) > 1:
        by_mark = {MARKS[curve.schedule.spec.name]: curve.lrs for curve in curves}
        legend = "   ".join(f"{mark} {name}" for name, mark in MARKS.items() if mark in by_mark)
        return [f"learning rate     {legend}", *plot_marks(by_mark, high=high), axis]
    lrs, momenta = curves[0].lrs, curves[0].momenta
    lines = ["learning rate", *plot_bars(lrs, low=0.0, high=high, rows=10)]
    if momenta.min() < momenta.max():
        low, high = float(momenta.min()), float(momenta.max())
        lines += ["momentum", *plot_bars(momenta, low=low, high=high, rows=3)]
    return [*lines, axis]
