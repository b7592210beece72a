"""The text of `resight lr-find`: the curve as a sketch, the rate of each rule, and the verdict.

peak       0.38 (0.3 to 0.66 over 3 repeats)   for one_cycle, triangular, cosine
constant   0.13                                for plateau, multistep, constant
verdict    can be trusted
"""

import numpy as np

from .. import text as sketch
from ..recipe import Recipe
from .suggest import LRCurve, start_loss

# As people know them: torch-lr-finder and fastai's names, and what the five projects report.
RULES = {
    "steepest": "steepest fall of the loss over log lr (torch-lr-finder)",
    "valley": "middle of the longest valley (fastai)",
    "slide": "where the slope turns, from the right (fastai)",
    "minimum": "at the lowest loss",
    "minimum_10": "a tenth of that (fastai's minimum)",
}


def curve_text(recipe: Recipe, curve: LRCurve) -> str:
    """Return the curve of a range test as lines for a terminal."""
    lines = [
        f"{recipe.name}: {len(curve.lrs)} steps from lr {curve.lrs[0]:.3g} to {curve.lrs[-1]:.3g} "
        f"on {curve.images:,} training images, {recipe.optimizer.name}"
        if len(curve.lrs)
        else f"{recipe.name}: no step was taken",
        *([curve.stopped] if curve.stopped else []),
        *_sketch(curve),
    ]
    if curve.best_loss is not None and curve.best_lr is not None:
        lines.append(f"best loss  {curve.best_loss:.4g} at lr {curve.best_lr:.3g}")
    for rule, meaning in RULES.items():
        rate = curve.suggestions.get(rule)
        lines.append(f"{rule:<10} {'-' if rate is None else f'{rate:.2g}':<9} {meaning}")
    lines.append("")
    if curve.peak is not None and curve.constant is not None:
        spread = ""
        if curve.interval is not None:
            spread = f" ({curve.interval[0]:.2g} to {curve.interval[1]:.2g} in repeats)"
        lines += [
            f"peak       {curve.peak:.2g}{spread}, for one_cycle, triangular and cosine",
            f"constant   {curve.constant:.2g}, for plateau, multistep and constant",
        ]
    if curve.verdict.ok:
        lines.append("verdict    can be trusted")
    else:
        lines += [f"verdict    do not trust it: {reason}" for reason in curve.verdict.reasons]
    return "\n".join(lines)


def _sketch(curve: LRCurve) -> list[str]:
    """The smoothed loss over the rates; it is cut off above its start."""
    known = np.isfinite(curve.smoothed)
    if known.sum() < 2:
        return []
    y = curve.smoothed[known]
    low, start = float(y.min()), start_loss(y)
    high = start + 0.5 * (start - low) or start + 1.0
    left, right = (f"lr {rate:.3g}" for rate in curve.lrs[known][[0, -1]])
    rows = sketch.plot_bars(np.minimum(y, high), low=low - 0.05 * (high - low), high=high, rows=8)
    return ["loss", *rows, sketch.plot_axis(left, right)]
