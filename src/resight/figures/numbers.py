"""What was counted: confusions, accuracy a class, reliability."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..metrics.classification import MAX_CLASSES, Calibration
from ..metrics.intervals import Interval, wilson
from ..records import FloatArray, IntArray
from .style import BLUE, GRAY, SKY, house_style, short_names, shorten

NUM_CONFUSED = 25  # classes that have room for counts
NUM_EXTREMES = 20  # classes, of the best and of the worst


@house_style()
def confusion_matrix(confusion: IntArray, classes: Sequence[str]) -> Figure:
    """(K, K) counts [true, pred]; the color is the share of the row, on a square-root scale.

    The scale makes the rare confusions visible beside the diagonal. Counts are written up to 25
    classes; beyond, only colors. Of more than 60 classes the 25 with the most frequent confusions
    are shown, and the title says so.
    """
    right, n = int(np.trace(confusion)), int(confusion.sum())
    title = f"{right:,} of {n:,} right"
    totals = confusion.sum(axis=1, keepdims=True)  # (K, 1)
    names = short_names(classes, 24)
    if len(classes) > MAX_CLASSES:
        chosen = most_confused_classes(confusion, NUM_CONFUSED)
        part = confusion[np.ix_(chosen, chosen)]
        wrong = int(part.sum() - np.trace(part))
        title += (
            f"\nThe {len(chosen)} most confused of {len(classes):,} classes, which hold "
            f"{wrong:,} of the {n - right:,} mistakes"
        )
        confusion, totals, names = part, totals[chosen], [names[k] for k in chosen]
    figure, axes = _matrix_axes(confusion, totals, names)
    axes.set_title(title)
    return figure


def most_confused_classes(confusion: IntArray, count: int) -> IntArray:
    """Return `count` classes, those of the most frequent confusions first, pair by pair.

    Classes follow by the number of their mistakes where there are fewer confusions.
    """
    wrong = confusion - np.diag(np.diag(confusion))  # (K, K)
    k = len(wrong)
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    pairs = np.stack([order // k, order % k], axis=1).ravel()  # true, predicted, true, ...
    rest = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
    return np.array(list(dict.fromkeys([*pairs[: 2 * k].tolist(), *rest.tolist()]))[:count])


def _matrix_axes(counts: IntArray, totals: IntArray, names: Sequence[str]) -> tuple[Figure, Axes]:
    """Draw counts (K, K) as shares of `totals` (K, 1), with the names of the classes."""
    k = len(names)
    shares = counts / np.maximum(totals, 1)
    side = max(2.2, 0.44 * k) if k <= NUM_CONFUSED else 10.5
    figure = Figure(figsize=(side + 2.2, side + 1.4), layout="compressed")
    axes = figure.subplots()
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    picture = axes.imshow(shares, cmap="Blues", norm=norm)
    if k <= NUM_CONFUSED:
        _write_counts(axes, counts, colormaps["Blues"](norm(shares)))

    ticks, size = np.arange(k), 8 if k <= NUM_CONFUSED else 6
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xticks(ticks, names, fontsize=size)
    if max(map(len, names)) * 0.08 > side / k:  # inches: the names do not fit side by side
        rotation = 45 if k <= NUM_CONFUSED else 90
        slant: dict[str, Any] = {"rotation": rotation, "rotation_mode": "anchor"}
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
    return figure, axes


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
    """The accuracy of each class with its 95 % interval, the best class on top.

    Of more than 60 classes the 20 best and the 20 worst are shown, and a line in between says how
    many are not.
    """
    known = {name: interval for name, interval in accuracies.items() if interval is not None}
    order = sorted(known, key=lambda name: known[name].value)
    names: list[str | None] = [
        *(name for name, interval in accuracies.items() if interval is None),
        *order,
    ]
    left = 0
    if len(accuracies) > MAX_CLASSES:
        left = max(0, len(order) - 2 * NUM_EXTREMES)
        names = [*order[:NUM_EXTREMES], None, *order[NUM_EXTREMES + left :]] if left else [*order]
    short = dict(zip(accuracies, short_names(list(accuracies), 28), strict=True))
    step, size = (0.26, 8) if len(names) <= 30 else (0.13, 6)
    figure = Figure(figsize=(6.4, 1.1 + step * max(len(names), 2)))
    axes = figure.subplots()
    for y, name in enumerate(names):
        if name is None:
            text = f"... {left:,} classes in between ..."
            axes.text(50, y, text, ha="center", va="center", fontsize=size, color=GRAY)
            continue
        text = "no images"
        if name in known:
            interval = known[name]
            value, low, high = 100 * interval.value, 100 * interval.low, 100 * interval.high
            axes.barh(y, value, height=0.7, color=SKY)
            axes.plot([low, high], [y, y], color="black", linewidth=1.2, marker="|", markersize=4)
            text = f"{value:.1f}   of {interval.n:,}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=size)
    labels = ["" if name is None else short[name] for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy (%), with its 95 % interval")
    if left:
        axes.set_title(f"The best and the worst of {len(accuracies):,} classes")
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


@house_style()
def setting_importances(importances: Mapping[str, float]) -> Figure:
    """The importance of each setting of a sweep, the largest on top; the sum of all is 1."""
    order = sorted(importances, key=importances.__getitem__)
    figure = Figure(figsize=(6.4, 1.1 + 0.3 * len(order)))
    axes = figure.subplots()
    for y, name in enumerate(order):
        share = importances[name]
        axes.barh(y, 100 * share, height=0.7, color=SKY)
        text = f"{100 * share:.0f}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(range(len(order)), [shorten(name, 36) for name in order], fontsize=8)
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("importance (%)")
    return figure
