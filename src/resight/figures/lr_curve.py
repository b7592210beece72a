"""A learning-rate range test: the loss against the rate, and what the rules make of it."""

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..errors import UsageError
from ..lr_finder.suggest import LRCurve, start_loss
from .style import BLUE, GRAY, SKY, VERMILION, clean, house_style

# Another marker for each rule, so that they can be told apart in gray.
_RULES = {
    "steepest": ("steepest", "v"),
    "valley": ("valley", "D"),
    "minimum_10": ("minimum / 10", "s"),
    "slide": ("slide", "P"),
    "minimum": ("minimum", "o"),
}
# Hollow, so that one shows through another.
_HOLLOW: dict[str, Any] = {
    "color": "black",
    "markerfacecolor": "none",
    "markeredgewidth": 1.5,
    "markersize": 8,
    "zorder": 4,
}


@house_style()
def lr_curve(curve: LRCurve) -> Figure:
    """Loss over rate: raw points, the smoothed line, every rule, the peak and its interval.

    A bad verdict is the title. Losses far above the first are cut off; a step whose loss was NaN
    or infinite is a line across.

    Raises UsageError if no loss is finite.
    """
    known = np.isfinite(curve.losses)
    if not known.any():
        raise UsageError("no loss of the range test is finite, so there is nothing to draw")
    x, y = curve.lrs[known], curve.smoothed[known]
    figure = Figure(figsize=(8, 4.2))
    axes = figure.subplots()
    axes.set_xscale("log" if curve.scale == "exponential" else "linear")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.plot(x, curve.losses[known], "o", color="#B5B5B5", markersize=3, label="loss after a step")
    axes.plot(x, y, color=BLUE, linewidth=2, label="smoothed")
    _limit_losses(axes, curve)
    if curve.chance is not None and axes.get_ylim()[0] < curve.chance < axes.get_ylim()[1]:
        axes.axhline(curve.chance, color=GRAY, linestyle=":", linewidth=1, label="guessing")
    for name, (label, marker) in _RULES.items():
        rate = curve.suggestions.get(name)
        if rate is not None and x[0] <= rate <= x[-1]:
            at = float(np.interp(math.log(rate), np.log(x), y))
            axes.plot(rate, at, marker, label=f"{label}: {rate:.2g}", **_HOLLOW)
    if curve.peak is not None:
        if curve.interval is not None:
            low, high = curve.interval
            axes.axvspan(low, high, color=SKY, alpha=0.45, linewidth=0, zorder=0)
        axes.axvline(curve.peak, color=VERMILION, linestyle="--", zorder=3, label=_peak_text(curve))
    if not known.all():
        axes.axvline(curve.lrs[~known][0], color="black", linestyle="-.", label="loss not finite")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    figure.suptitle(_title(curve), x=0.01, ha="left", fontsize=10)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def _limit_losses(axes: Axes, curve: LRCurve) -> None:
    """Show the fall and the turn; what climbs far above the first losses runs out at the top."""
    known = np.isfinite(curve.losses)
    losses, y = curve.losses[known], curve.smoothed[known]
    low, start = float(y.min()), start_loss(y)
    scatter = float(np.percentile(np.abs(losses - y)[: y.argmin() + 1], 80))
    high = min(start + max(0.6 * (start - low), 0.05 * abs(start)), float(y.max())) + 2 * scatter
    low -= 2 * scatter
    margin = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _peak_text(curve: LRCurve) -> str:
    text = f"one-cycle peak: {curve.peak:.2g}"
    if curve.interval is not None:
        text += f" ({curve.interval[0]:.2g} to {curve.interval[1]:.2g})"
    return text if curve.constant is None else f"{text}\nor constant: {curve.constant:.2g}"


def _title(curve: LRCurve) -> str:
    if curve.verdict.ok:
        text = f"Learning-rate range test: {len(curve.lrs)} steps, {curve.images:,} images"
        text += f"; {curve.stopped}" if curve.stopped else ""
    else:
        text = "Do not trust this curve: " + "; ".join(curve.verdict.reasons)
    return "\n".join(textwrap.wrap(clean(text), 108))
