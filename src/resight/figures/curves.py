"""What changes over a run: loss and accuracy, learning rate and momentum."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import UsageError
from ..metrics.intervals import wilson
from ..optim.curve import Curve, length_text
from ..records import EpochRow, FloatArray, History
from .style import BLUE, GRAY, VERMILION, clean, house_style, save, shorten

# Lines that cross each other: the Okabe-Ito colors, and a dash pattern for where there is none.
_LOOKS: tuple[tuple[str, Any], ...] = (
    (BLUE, "-"),
    (VERMILION, "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#000000", (0, (8, 2))),
    ("#E69F00", (0, (6, 1, 1, 1, 1, 1))),
    ("#56B4E9", (0, (3, 1))),
    (GRAY, (0, (1, 1))),
)


@house_style()
def training_curves(history: History, kept_epoch: int | None, *, val_images: int = 0) -> Figure:
    """Loss and accuracy of each epoch, train and validation on one scale.

    The epoch whose weights are kept is marked. The band of the validation accuracy is its 95 %
    interval over so many images; 0 draws none.

    Raises UsageError if no epoch is finished.
    """
    rows = _finished(history)
    epochs = [row.epoch for row in rows]
    figure = Figure(figsize=(8, 3.4))
    panels = figure.subplots(1, 2)
    for axes, name, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=True):
        for split, look in (
            ("train", {"color": BLUE, "linestyle": "--", "marker": "o"}),
            ("val", {"color": VERMILION, "linestyle": "-", "marker": "s"}),
        ):
            values = [getattr(row, f"{split}_{name}") for row in rows]
            curve = [math.nan if v is None or not math.isfinite(v) else scale * v for v in values]
            if np.isfinite(curve).any():
                label = {"train": "train", "val": "validation"}[split]
                size = 3 if len(rows) <= 30 else 0
                axes.plot(epochs, curve, label=label, markersize=size, **look)
        if kept_epoch is not None:
            label = f"kept: epoch {kept_epoch}"
            axes.axvline(kept_epoch, color=GRAY, linestyle=":", label=label, zorder=1)
        axes.set_title(name.capitalize() + (" (%)" if scale == 100 else ""))
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        if name == "loss" or len(rows) == 1:
            axes.update_datalim([(epochs[0], 0)])
            axes.autoscale_view(scalex=False)
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _draw_intervals(panels[1], rows, val_images)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _draw_intervals(axes: Axes, rows: Sequence[EpochRow], val_images: int) -> None:
    """The band in which the validation accuracy, in percent, would lie over many more images."""
    accuracies = {row.epoch: row.val_accuracy for row in rows if row.val_accuracy is not None}
    if not val_images or not accuracies:
        return
    intervals = [wilson(round(share * val_images), val_images) for share in accuracies.values()]
    low, high = ([100 * getattr(x, end) for x in intervals] for end in ("low", "high"))
    axes.fill_between(list(accuracies), low, high, color=VERMILION, alpha=0.15, linewidth=0)


@house_style()
def compare_accuracy(curves: Mapping[str, Mapping[int, float]], *, title: str) -> Figure:
    """Accuracies in [0, 1] over epochs, a line each; those as published are points."""
    figure = Figure(figsize=(7, 3.8))
    axes = figure.subplots()
    for (name, curve), (color, dash) in zip(curves.items(), cycle(_LOOKS), strict=False):
        points = name.startswith("published")
        axes.plot(
            list(curve),
            [100 * accuracy for accuracy in curve.values()],
            color="black" if points else color,
            linestyle="none" if points else dash,
            marker="s" if points or len(curve) == 1 else "",
            label=shorten(name, 40),
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right")
    figure.suptitle(clean(title), x=0.01, ha="left", fontsize=10)
    return figure


def rates_as_run(history: History) -> Figure:
    """The learning rate and momentum that each step was taken with."""
    steps_per_epoch = _finished(history)[0].step
    title = "Learning rate and momentum as run"
    return schedule_curve(
        history.lrs, history.momenta, steps_per_epoch=steps_per_epoch, title=title
    )


@house_style()
def schedule_curve(
    lrs: FloatArray, momenta: FloatArray, *, steps_per_epoch: int, title: str
) -> Figure:
    """Learning rate over momentum, by epoch (below) and step (above), corner values written.

    `lrs` and `momenta` are (steps,); NaN in `momenta` stands for none, and an all-NaN row of
    momenta is left out. Step i is drawn at its end, (i + 1) / steps_per_epoch epochs.
    """
    if len(lrs) == 0 or len(lrs) != len(momenta):
        raise UsageError(f"{len(lrs)} learning rates and {len(momenta)} momenta make no curve")
    rows = [("learning rate", lrs, BLUE)]
    if np.isfinite(momenta).any():
        rows.append(("momentum", momenta, VERMILION))
    figure = Figure(figsize=(7, 1.4 + 1.7 * len(rows)))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    epochs = np.arange(1, len(lrs) + 1) / steps_per_epoch
    for axes, (name, values, color) in zip(panels, rows, strict=True):
        axes.plot(epochs, values, color=color, marker="o" if len(lrs) == 1 else "")
        axes.set_ylabel(name)
        axes.set_xlim(-0.02 * epochs[-1], 1.02 * epochs[-1])
        axes.margins(y=0.22)
        _write_corners(axes, epochs, values)
    _epochs_and_steps(panels[-1], panels[0], steps_per_epoch)
    figure.suptitle(shorten(title, 94), x=0.01, ha="left", fontsize=10)
    return figure


@house_style()
def compare_schedules(
    curves: Mapping[str, FloatArray], *, steps_per_epoch: int, title: str
) -> Figure:
    """Learning rates of several schedules over each other, by name; each is (steps,).

    The legend gives each one's start, peak and end. Raises UsageError for no curve, an empty one
    or more than can be told apart.
    """
    if not 1 <= len(curves) <= len(_LOOKS) or not all(map(len, curves.values())):
        raise UsageError(
            f"{len(curves)} schedules cannot be compared in one figure; "
            f"give 1 to {len(_LOOKS)}, each with at least one step"
        )
    figure = Figure(figsize=(7, 3.8))
    axes = figure.subplots()
    for (name, lrs), (color, line) in zip(curves.items(), _LOOKS, strict=False):
        epochs = np.arange(1, len(lrs) + 1) / steps_per_epoch
        turns = (lrs[0], lrs.max(), lrs[-1])
        label = f"{clean(name)}: {' → '.join(f'{lr:.3g}' for lr, _ in groupby(turns))}"
        axes.plot(epochs, lrs, color=color, linestyle=line, label=label)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    _epochs_and_steps(axes, axes, steps_per_epoch)
    figure.suptitle(shorten(title, 94), x=0.01, ha="left", fontsize=10)
    figure.legend(loc="outside lower left", ncols=2, fontsize=8, handlelength=3.5)
    return figure


def _epochs_and_steps(below: Axes, above: Axes, steps_per_epoch: int) -> None:
    """Epochs below the lower panel, steps above the upper one."""
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    steps = above.secondary_xaxis(
        "top",
        functions=(
            lambda x: np.asarray(x) * steps_per_epoch,
            lambda x: np.asarray(x) / steps_per_epoch,
        ),
    )
    steps.set_xlabel("step")
    steps.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _write_corners(axes: Axes, x: FloatArray, values: FloatArray, most: int = 11) -> None:
    """Write the value where the curve starts, turns, jumps and ends: all, or the outermost."""
    corners = _corners(values)
    if len(corners) > most:
        corners = sorted({0, int(np.nanargmax(values)), int(np.nanargmin(values)), len(values) - 1})
    for i in corners:
        around = values[[max(i - 1, 0), min(i + 1, len(values) - 1)]]
        above = values[i] >= around.mean()
        side = "left" if i == 0 else "right" if i == len(values) - 1 else "center"
        axes.plot(x[i], values[i], "o", color="black", markersize=3, zorder=3)
        axes.annotate(
            f"{values[i]:.4g}",
            (x[i], values[i]),
            xytext=(0, 4 if above else -4),
            textcoords="offset points",
            ha=side if len(values) > 1 else "center",
            va="bottom" if above else "top",
            fontsize=8,
        )


def _corners(values: FloatArray) -> list[int]:
    """Start, end and every step where the curve changes between rising, flat and falling.

    A corner with the value of the one before says nothing new and is left out.
    """
    change = np.diff(values)
    change[np.abs(change) <= 1e-12 * np.nanmax(np.abs(values))] = 0
    turns = np.flatnonzero(np.diff(np.sign(change))) + 1
    corners = [0]
    for i in [*turns.tolist(), len(values) - 1]:
        if not math.isclose(values[i], values[corners[-1]], rel_tol=1e-6):
            corners.append(i)
    return corners


def _finished(history: History) -> Sequence[Any]:
    if not history.epochs:
        raise UsageError("the run has no finished epoch, so there is nothing to draw yet")
    return history.epochs


def draw_schedule(name: str, curves: Sequence[Curve], out: Path) -> None:
    """The curves of a recipe of that name as a PNG or SVG file."""
    first, n = curves[0], curves[0].schedule.steps_per_epoch
    kind = f" {first.schedule.spec.name}," if len(curves) == 1 else ""
    title = f"{name}:{kind} {length_text(first)}"
    for watched in (curve.watched for curve in curves if curve.watched):
        title += f"; {watched}"
    if len(curves) > 1:
        by_name: dict[str, FloatArray] = {c.schedule.spec.name: c.lrs for c in curves}
        figure = compare_schedules(by_name, steps_per_epoch=n, title=title)
    else:
        peak = int(first.lrs.argmax()) + 1
        if peak > 1:
            title += f"; peak {first.lrs.max():.4g} at epoch {round(peak / n, 2):g} (step {peak:,})"
        figure = schedule_curve(first.lrs, first.momenta, steps_per_epoch=n, title=title)
    save(figure, out)
