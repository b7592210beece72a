"""What changes over a run: loss and accuracy, learning rate and momentum."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import UsageError
from ..records import Floats, History
from .style import BLUE, GREY, VERMILION, clean, house_style


@house_style()
def training_curves(history: History, best_epoch: int | None) -> Figure:
    """Loss and accuracy of each epoch, train and validation on one scale; the best epoch marked.

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
        if best_epoch is not None:
            axes.axvline(
                best_epoch, color=GREY, linestyle=":", label=f"best epoch: {best_epoch}", zorder=1
            )
        axes.set_title(name.capitalize() + (" (%)" if scale == 100 else ""))
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        if name == "loss" or len(rows) == 1:
            axes.update_datalim([(epochs[0], 0)])
            axes.autoscale_view(scalex=False)
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def rates_as_run(history: History) -> Figure:
    """The learning rate and momentum that each step was taken with."""
    steps_per_epoch = _finished(history)[0].step
    title = "Learning rate and momentum as run"
    return schedule_curve(
        history.lrs, history.momenta, steps_per_epoch=steps_per_epoch, title=title
    )


@house_style()
def schedule_curve(lrs: Floats, momenta: Floats, *, steps_per_epoch: int, title: str) -> Figure:
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
    for axes, (name, values, colour) in zip(panels, rows, strict=True):
        axes.plot(epochs, values, color=colour, marker="o" if len(lrs) == 1 else "")
        axes.set_ylabel(name)
        axes.set_xlim(-0.02 * epochs[-1], 1.02 * epochs[-1])
        axes.margins(y=0.22)
        _write_corners(axes, epochs, values)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    above = panels[0].secondary_xaxis(
        "top", functions=(lambda x: x * steps_per_epoch, lambda x: x / steps_per_epoch)
    )
    above.set_xlabel("step")
    above.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(clean(title), x=0.01, ha="left", fontsize=10)
    return figure


def _write_corners(axes: Axes, x: Floats, values: Floats, most: int = 11) -> None:
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


def _corners(values: Floats) -> list[int]:
    """Start, end and every step where the curve changes between rising, flat and falling.

    A corner with the value of the one before says nothing new and is left out.
    """
    change = np.diff(values)
    change[np.abs(change) <= 1e-12 * np.nanmax(np.abs(values))] = 0
    turns = np.flatnonzero(np.diff(np.sign(change))) + 1
    found = [0]
    for i in [*turns.tolist(), len(values) - 1]:
        if not math.isclose(values[i], values[found[-1]], rel_tol=1e-6):
            found.append(i)
    return found


def _finished(history: History) -> Sequence[Any]:
    if not history.epochs:
        raise UsageError("the run has no finished epoch, so there is nothing to draw yet")
    return history.epochs
