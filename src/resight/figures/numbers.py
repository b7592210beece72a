"""What was counted: confusions, accuracy a class, reliability."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..metrics.classification import Calibration
from ..metrics.intervals import Interval, wilson
from ..records import FloatArray, IntArray
from .style import BLUE, GRAY, SKY, house_style, short_names


@house_style()
def confusion_matrix(confusion: IntArray, classes: Sequence[str]) -> Figure:
    """(K, K) counts [true, pred]; the color is the share of the row, on a square-root scale.

    The scale makes the rare confusions visible beside the diagonal. Counts are written up to 25
    classes; beyond, only colors; beyond 100, not every name.
    """
    k = len(classes)
    totals = confusion.sum(axis=1, keepdims=True)  # (K, 1)
    shares = confusion / np.maximum(totals, 1)
    side = max(2.2, 0.44 * k) if k <= 25 else 10.5
    figure = Figure(figsize=(side + 2.2, side + 1.4), layout="compressed")
    axes = figure.subplots()
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    picture = axes.imshow(shares, cmap="Blues", norm=norm)
    if k <= 25:
        _write_counts(axes, confusion, colormaps["Blues"](norm(shares)))

    ticks = np.arange(0, k, math.ceil(k / 100))
    names = short_names(classes, 24)[:: math.ceil(k / 100)]
    size = 8 if k <= 25 else 6
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xticks(ticks, names, fontsize=size)
    if max(map(len, names)) * 0.08 > side / k:  # inches: the names do not fit side by side
        slant: dict[str, Any] = {"rotation": 45 if k <= 25 else 90, "rotation_mode": "anchor"}
        axes.set_xticks(ticks, names, fontsize=size, ha="right", va="center", **slant)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(
        picture, ax=axes, fraction=0.04, aspect=30, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1]
    )
    bar.ax.set_yticklabels(["0", "1", "5", "20", "50", "100"])
    bar.set_label("% of the true class")
    right, n = int(np.trace(confusion)), int(confusion.sum())
    axes.set_title(f"{right:,} of {n:,} right")
    return figure


def _write_counts(axes: Axes, counts: IntArray, colors: FloatArray) -> None:
    """Write the counts but the zeros, black or white; `colors` are the cells' (K, K, 4)."""
    size = min(8.0, 40 / max(4, len(str(counts.max(initial=0)))))
    light = colors[..., :3] @ (0.299, 0.587, 0.114) > 0.55  # (K, K)
    for true, pred in zip(*np.nonzero(counts), strict=True):
        ink = "black" if light[true, pred] else "white"
        text = str(counts[true, pred])
        axes.text(pred, true, text, ha="center", va="center", fontsize=size, color=ink)


@house_style()
def per_class(accuracies: Mapping[str, Interval | None]) -> Figure:
    """The accuracy of each class with its 95 % interval, the best class on top."""
    known = {name: interval for name, interval in accuracies.items() if interval is not None}
    order = sorted(known, key=lambda name: known[name].value)
    names = [name for name, interval in accuracies.items() if interval is None] + order
    short = dict(zip(accuracies, short_names(list(accuracies), 28), strict=True))
    step, size = (0.26, 8) if len(names) <= 30 else (0.13, 6)
    figure = Figure(figsize=(6.4, 1.1 + step * max(len(names), 2)))
    axes = figure.subplots()
    for y, name in enumerate(names):
        text = "no images"
        if name in known:
            interval = known[name]
            value, low, high = 100 * interval.value, 100 * interval.low, 100 * interval.high
            axes.barh(y, value, height=0.7, color=SKY)
            axes.plot([low, high], [y, y], color="black", linewidth=1.2, marker="|", markersize=4)
            text = f"{value:.1f}   of {interval.n:,}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=size)
    axes.set_yticks(range(len(names)), [short[name] for name in names], fontsize=size)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy (%), with its 95 % interval")
    return figure


@house_style()
def reliability(calibration: Calibration) -> Figure:
    """Accuracy against confidence with 95 % intervals, above the number of images in each bin."""
    figure = Figure(figsize=(4.4, 5.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 100], [0, 100], color=GRAY, linestyle="--", linewidth=1, label="perfect")
    label = "model, with 95 % intervals"
    for row in calibration.bins:
        left, width = 100 * row.low, 100 * (row.high - row.low)
        bottom.bar(left, row.count, width, align="edge", color=SKY, edgecolor="white")
        if row.confidence is None or row.accuracy is None:
            continue
        share = wilson(round(row.accuracy * row.count), row.count)
        x = 100 * row.confidence
        top.plot([x, x], [100 * share.low, 100 * share.high], color=BLUE, linewidth=1)
        top.plot(x, 100 * share.value, "o", color=BLUE, markersize=4, clip_on=False, label=label)
        label = "_"  # one entry in the legend
    top.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
    top.set_title(f"Expected calibration error {100 * calibration.ece:.1f} %")
    figure.legend(loc="outside lower center", ncols=2)
    bottom.set(xlabel="confidence (%)", ylabel="images")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure
