"""The text of `resight schedule`: the rates of a whole run, before any training."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import text as sketch
from ..errors import UsageError
from ..optim.curve import IMAGES, Curve, length_text, schedule, trace
from ..optim.schedules import describe
from ..recipe import SGD, Constant, MultiStep, Plateau, Recipe, RMSprop
from ..recipe.toml import with_changes

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
        with_changes(recipe, {"schedule": {"name": kind}}, origin="--compare")
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
        from ..figures.curves import draw_schedule  # matplotlib: only where a file is drawn

        draw_schedule(recipe.name, curves, out)
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
    lines = [f"{recipe.name}: {length_text(curves[0])}{counted}, {recipe.optimizer.name}{beta1}"]
    for curve in curves:
        lines += [describe(curve.schedule), *_wiring(curve)]
    lines += ["", *_sketch(curves)]
    if out is not None:
        lines += ["", f"figure   {out}"]
    return "\n".join(lines)


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
    axis = sketch.plot_axis("epoch 0", f"{spec.epochs:,} (step {steps:,})")
    high = max(float(curve.lrs.max()) for curve in curves)
    if len(curves) > 1:
        by_mark = {MARKS[curve.schedule.spec.name]: curve.lrs for curve in curves}
        legend = "   ".join(f"{mark} {name}" for name, mark in MARKS.items() if mark in by_mark)
        return [f"learning rate     {legend}", *sketch.plot_marks(by_mark, high=high), axis]
    lrs, momenta = curves[0].lrs, curves[0].momenta
    lines = ["learning rate", *sketch.plot_bars(lrs, low=0.0, high=high, rows=10)]
    if momenta.min() < momenta.max():
        low, high = float(momenta.min()), float(momenta.max())
        lines += ["momentum", *sketch.plot_bars(momenta, low=low, high=high, rows=3)]
    return [*lines, axis]
