"""Read a learning-rate range test: the rules people know, one recommendation and a verdict.

Everything here is computed from a recorded curve: rates, and the loss after a step at each. No rule
knows when it is wrong. `analyze` therefore adds a recommendation that rests on several properties
of the curve, and a verdict that says whether to trust it.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..errors import UsageError
from ..records import FloatArray
from .rules import rule_rates
from .verdict import FINE_FACTOR, MIN_POINTS, Reading, Verdict, judge

LRScale = Literal["exponential", "linear"]

# Under one cycle SGD bears more than the rate that a test from the first weights shows, on some
# networks less than twice as much. Adam does not, as its steps do not shrink with the gradient.
# Measured over grids of rates: docs/experiments.md.
HEADROOM_SGD = 1.5

# A step of Adam and its kin moves each weight by about the rate, whatever the gradient. The weights
# of a layer with 100 inputs begin at about 0.1, so at a higher rate one step replaces the layer.
MAX_LR_ADAM = 0.1

# A loss shows the effect of a rate some steps later, and the rate grows on meanwhile: the coarser
# the grid, the further. Where it is coarser than `FINE_FACTOR`, the reading is lowered by as many
# steps. Measured: docs/experiments.md.
_LATE_STEPS = 2

# One cycle is at its peak for a moment and on average near half of it; a rate that is held for
# epochs has to be lower.
_HOLD = 3.0


@dataclass(frozen=True, kw_only=True)
class LRCurve:
    """The result of a range test; rates are those of the parameter group with the highest rate."""

    lrs: FloatArray  # (steps,) increasing
    losses: FloatArray  # (steps,) after a step at each rate; the last may be NaN or infinite
    smoothed: FloatArray  # (steps,) NaN where the loss is not finite
    scale: LRScale
    stopped: str | None  # why the test ended before the last rate: at which step and rate
    images: int  # images trained on
    chance: float | None  # the loss of guessing, such as ln K of K classes; None: not known
    floor: float | None = None  # the loss of a perfect answer; None: not known
    initial_loss: float | None = None  # before the first step; None: not known
    suggestions: dict[str, float | None]  # rule -> rate
    peak: float | None  # recommended peak of one cycle; None: the curve shows none
    constant: float | None  # recommended rate to hold, or for plateau to start from
    interval: tuple[float, float] | None  # lowest and highest peak of several repeats
    verdict: Verdict

    @property
    def best_loss(self) -> float | None:
        """The lowest smoothed loss; None if no loss is finite."""
        known = np.isfinite(self.smoothed)
        return float(self.smoothed[known].min()) if known.any() else None

    @property
    def best_lr(self) -> float | None:
        """The rate at the lowest smoothed loss: where the fall ends, and too high to train with."""
        return self.suggestions["minimum"]

    def to_dict(self) -> dict[str, Any]:
        """Return the curve for JSON: lists for arrays, and None for NaN and infinity."""
        values = asdict(self) | {"best_loss": self.best_loss, "best_lr": self.best_lr}
        for name in ("lrs", "losses", "smoothed"):
            values[name] = [x if math.isfinite(x) else None for x in values[name].tolist()]
        return values


def analyze(
    lrs: FloatArray,
    losses: FloatArray,
    *,
    images: int,
    scale: LRScale = "exponential",
    stopped: str | None = None,
    chance: float | None = None,
    floor: float | None = None,
    initial_loss: float | None = None,
    headroom: float = 1.0,
    max_lr: float = math.inf,
) -> LRCurve:
    """Smooth a recorded curve, apply every rule, recommend rates and judge them.

    Losses are judged by their distance from `floor`, that of a perfect answer. `headroom` is the
    peak of one cycle over the rate read off the curve, `max_lr` the highest that is trusted.

    Raises:
        UsageError: rates and losses differ in number, or the rates do not increase.
    """
    lrs, losses = _checked(lrs, losses)
    base = floor or 0.0
    smoothed = smooth(losses - base)
    known = np.isfinite(losses)
    reading = _read(
        (lrs[known], (losses - base)[known], smoothed[known]),
        chance=chance,
        initial_loss=initial_loss,
        floor=base,
        stopped=stopped,
        headroom=headroom,
        max_lr=max_lr,
    )
    return LRCurve(
        lrs=lrs,
        losses=losses,
        smoothed=smoothed + base,
        scale=scale,
        stopped=stopped,
        images=images,
        chance=chance,
        floor=floor,
        initial_loss=initial_loss,
        suggestions=rule_rates(lrs[known], smoothed[known]),
        peak=reading.peak,
        constant=None if reading.rate is None else reading.rate / _HOLD,
        interval=None,
        verdict=judge(reading),
    )


def _checked(lrs: FloatArray, losses: FloatArray) -> tuple[FloatArray, FloatArray]:
    lrs, losses = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if lrs.shape != losses.shape or lrs.ndim != 1:
        raise UsageError(f"rates {lrs.shape} and losses {losses.shape} are not both of shape (n,)")
    if (lrs <= 0).any() or (np.diff(lrs) <= 0).any():
        raise UsageError("the learning rates of a curve must be above 0 and increase")
    return lrs, losses


def _read(
    curve: tuple[FloatArray, FloatArray, FloatArray],
    *,
    chance: float | None,
    initial_loss: float | None,
    floor: float,
    headroom: float,
    **settings: Any,
) -> Reading:
    """Read the rate off a curve (rates, losses, smoothed losses) above its floor, without NaN."""
    lrs, losses, smoothed = curve
    scatter = _scatter(losses, smoothed)
    part = _before_breakdown(smoothed, scatter)
    guess = None if chance is None else chance - floor
    rate = recommend(lrs[part], smoothed[part], guess)
    return Reading(
        lrs=lrs[part],
        losses=smoothed[part],
        start=start_loss(smoothed),
        initial=None if initial_loss is None else initial_loss - floor,
        scatter=scatter,
        rate=rate,
        peak=None if rate is None else headroom * rate,
        picks=rule_rates(lrs[part], smoothed[part]),
        chance=guess,
        floor=floor,
        **settings,
    )


def smooth(losses: FloatArray) -> FloatArray:
    """Smooth losses (steps,) without lag; NaN stays where it is and does not spread.

    A median of three takes out single spikes; then each point becomes the value of the straight
    line fitted to its neighbors with Gaussian weights (Cleveland 1979), as wide as a 25th of the
    curve. Being symmetric it moves nothing sideways, as a running average would, and at both ends
    it follows the slope where a plain kernel flattens it. A loss that exploded counts as no
    higher above the first than the lowest is below, or it would drown the steps before it.
    """
    smoothed = np.full(len(losses), np.nan)
    known = np.isfinite(losses)
    y = losses[known]
    if len(y) < 3:
        smoothed[known] = y
        return smoothed
    first = float(np.median(y[:3]))
    y = np.minimum(y, first + max(first - float(y.min()), abs(first) / 4))
    y[1:-1] = np.median([y[:-2], y[1:-1], y[2:]], axis=0)
    i = np.arange(len(y))
    away = i[None, :] - i[:, None]  # (n, n) row: from one point to every other, in steps
    weights = np.exp(-0.5 * (away / max(1.0, len(y) / 25)) ** 2)
    s0, s1, s2 = weights.sum(1), (weights * away).sum(1), (weights * away**2).sum(1)
    line = (s2 * (weights @ y) - s1 * ((weights * away) @ y)) / (s0 * s2 - s1**2)  # (n,)
    smoothed[known] = np.clip(line, y.min(), y.max())  # a line can leave a bent curve at its end
    return smoothed


def start_loss(losses: FloatArray) -> float:
    """Return the loss before the rates had an effect: the median of the first tenth, or NaN."""
    return float(np.median(losses[: max(3, len(losses) // 10)])) if len(losses) else math.nan


def _scatter(losses: FloatArray, smoothed: FloatArray) -> float:
    """The standard deviation of losses around the smoothed ones on the way down, spikes aside."""
    if len(losses) == 0:
        return 0.0
    way_down = slice(int(smoothed.argmin()) + 1)
    return 1.4826 * float(np.median(np.abs(losses - smoothed)[way_down]))  # of a normal one


def _before_breakdown(losses: FloatArray, scatter: float) -> slice:
    """The part of a smoothed curve before half of its fall is lost again; else the whole curve.

    The loss of a network with batch norm may break down and then fall again, at rates that no
    training survives. So the curve counts up to the first rise that stands out of the `scatter` of
    single losses.
    """
    lowest = np.minimum.accumulate(losses)
    fall = start_loss(losses) - lowest
    lost = losses - lowest > np.maximum(0.5 * fall, 4 * scatter)
    lost &= fall > max(0.5 * fall.max(initial=0.0), 0.005 * abs(start_loss(losses)))
    return slice(max(MIN_POINTS, int(lost.argmax()) + 1)) if lost.any() else slice(None)


def recommend(lrs: FloatArray, losses: FloatArray, chance: float | None = None) -> float | None:
    """Return the peak of one cycle that a smoothed curve shows; None if its loss does not fall.

    Half as much again as the first rate at which four fifths of the fall are done, but no more
    than the rate of the lowest loss. That side of the valley is sharp, and repeats agree on it;
    the lowest point of a wide valley is left to chance, as is how far above it a network survives
    for a few steps (Smith 2018 takes the highest rate before that), and the steepest point
    depends on the first weights. A fall above the loss of guessing counts for nothing: there the
    network only becomes less sure of its errors. The numbers come from short trainings over grids
    of rates; see docs/lr-find.md.
    """
    if len(lrs) < 3:
        return None
    low = int(losses.argmin())
    start = start_loss(losses) if chance is None else min(start_loss(losses), chance)
    fall = start - losses[low]
    if low < 2 or fall < 0.01 * abs(start):
        return None
    nearly = int(np.flatnonzero(losses <= start - 0.8 * fall)[0])
    factor = lrs[nearly] / lrs[nearly - 1] if nearly else 1.0  # by which the rate grows a step
    late = max(1.0, factor / FINE_FACTOR) ** _LATE_STEPS
    return float(min(1.5 * lrs[nearly], lrs[low]) / late)
