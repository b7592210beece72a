"""Whether the recommendation of a learning-rate range test can be trusted, and if not, why."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..records import FloatArray

MIN_POINTS = 10  # points; fewer show no shape

# By which a rate may grow from step to step; 56 steps of the default ranges have 1.23 and 1.29. On
# a coarser grid a small fall (a part of the way from guessing to a perfect answer) shows no shape.
FINE_FACTOR = 1.3
_SMALL_FALL = 0.1

# Decades between the peak and the middle of three rules. On a good curve the rules point at the
# slope, up to a decade below the peak; half a decade more is too far.
_MAX_DECADES = 1.5

_CHECKS = "check that the optimizer holds the model's parameters and that labels match images"


@dataclass(frozen=True)
class Verdict:
    """Whether to trust the recommended rates; each reason against it names a change to make."""

    ok: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A smoothed curve of n points without NaN, and the numbers read off it.

    Losses count from the loss of a perfect answer, `floor`.

    Of three of the `picks` (steepest, valley and minimum / 10) the middle one counts, as any one
    may be fooled: steepest by the first steps of a network whose norms settle, valley by the
    length of the flat start.
    """

    lrs: FloatArray  # (n,)
    losses: FloatArray  # (n,) smoothed
    start: float  # the loss of the first rates
    initial: float | None  # the loss before the first step; None: not known
    scatter: float  # the standard deviation of single losses around the smoothed ones
    rate: float | None  # read off the curve; None: the loss does not fall
    peak: float | None  # the recommended rate
    max_lr: float  # the highest peak that the optimizer bears
    picks: Mapping[str, float | None]  # rule -> its rate
    stopped: str | None  # why the test ended early
    chance: float | None  # the loss of guessing; None: not known
    floor: float

    @property
    def low(self) -> int:
        """The point of the lowest loss."""
        return int(self.losses.argmin())

    @property
    def best(self) -> float:
        return float(self.losses[self.low])

    @property
    def fall(self) -> float:
        return self.start - self.best

    @property
    def factor(self) -> float:
        """By which the rate grows from step to step, on average."""
        return math.exp(math.log(self.lrs[-1] / self.lrs[0]) / max(1, len(self.lrs) - 1))

    @property
    def lower_start(self) -> str:
        """Where to start another test: two decades below this one."""
        return _round(self.lrs[0] / 100)

    def text(self, loss: float, digits: int = 3) -> str:
        """The loss as it was recorded."""
        return f"{loss + self.floor:.{digits}g}"


def judge(reading: Reading) -> Verdict:
    """Return whether the rate read off a curve can be trusted, with every reason if not."""
    no_rate = _no_rate(reading)
    reasons = (no_rate,) if no_rate else tuple(_weak_points(reading))
    return Verdict(not reasons, reasons)


def _no_rate(r: Reading) -> str | None:
    """The first reason why the curve shows no rate at all."""
    if len(r.lrs) == 0:
        return f"{r.stopped or 'no loss is finite'}; check the images, the labels and the loss"
    if no_fall := _no_fall_before_a_rise(r):
        return no_fall
    if len(r.lrs) < MIN_POINTS:
        return f"{len(r.lrs)} points are too few to show a shape; take at least 40 steps"
    if r.chance is not None and r.start < 0.5 * r.chance and r.fall < 0.2 * r.start:
        return (
            f"the model seems already trained: the loss starts at {r.text(r.start)}, where "
            f"guessing has {r.text(r.chance)}, and hardly falls; test an untrained model"
        )
    if r.rate is None and (early := _early_fall(r)):
        return early
    if r.rate is None and r.chance is not None and r.best < 0.99 * r.start:
        return (
            f"the loss never fell below that of guessing, {r.text(r.chance, 4)}: "
            f"{r.text(r.start, 4)} at the start, {r.text(r.best, 4)} at best; take more steps, so "
            "that there is time to learn"
        )
    if r.rate is None:
        return (
            f"the loss never fell: {r.text(r.start, 4)} at the start, {r.text(r.best, 4)} at best; "
            f"{_CHECKS}, or widen the range"
        )
    return None


def _no_fall_before_a_rise(r: Reading) -> str | None:
    """The loss is lowest at the first rates and rises from there, at once or later."""
    if r.stopped and len(r.lrs) < MIN_POINTS:
        return f"diverged at once: {r.stopped}; start the range at {r.lower_start}"
    if r.low > 2 or not (r.stopped or r.losses[-1] > 1.2 * r.best):
        return None
    high = r.losses > 1.2 * r.best
    steps = int(high.argmax()) if high.any() else len(r.lrs) - 1  # before the rise
    if steps < MIN_POINTS:
        rise = r.stopped or (
            f"the loss only climbs, from {r.text(r.best)} at lr {r.lrs[r.low]:.3g}"
        )
        return f"diverged at once: {rise}; start the range at {r.lower_start}"
    return (
        f"the loss never fell: it stayed near {r.text(r.best)} for {steps} steps and rose from lr "
        f"{r.lrs[steps]:.3g} on; {_CHECKS}, or take more steps below that rate"
    )


def _early_fall(r: Reading) -> str | None:
    """A part of the fall that is done before the curve begins is missing from the reading."""
    if r.initial is None:
        return None
    initial = r.initial if r.chance is None else min(r.initial, r.chance)
    fallen = initial - r.start
    if fallen < 0.2 * (initial - r.best) or fallen < max(3 * r.scatter, 0.01 * abs(initial)):
        return None
    return (
        f"the loss already falls at the first rate, {r.lrs[0]:.3g}: {r.text(r.initial)} before it, "
        f"{r.text(r.start)} after the first steps; start the range at {r.lower_start}"
    )


def _weak_points(r: Reading) -> Iterator[str]:
    """Every reason to doubt the rate that the curve shows."""
    assert r.rate is not None
    assert r.peak is not None
    if early := _early_fall(r):
        yield early
    at_end = r.low >= len(r.lrs) - 2 and r.losses[-1] < r.best + 0.1 * r.fall
    too_high = r.peak > r.max_lr  # then a range that goes further is no help
    if at_end and not r.stopped and not too_high:
        yield (
            f"the loss still falls at the end of the range; end it at {_round(10 * r.lrs[-1])} "
            f"instead of {r.lrs[-1]:.3g}"
        )
    if r.rate < 2.5 * r.lrs[0]:
        yield f"the pick, {r.rate:.2g}, is at the start of the range; start it at {r.lower_start}"
    if too_high:
        yield (
            f"the peak, {r.peak:.2g}, is above {r.max_lr:g}, where a step of this optimizer moves "
            "a weight by about as much as the weight is large; take more steps, so that there is "
            "time to learn at lower rates"
        )
    if r.factor > FINE_FACTOR and r.chance is not None and r.fall < _SMALL_FALL * r.chance:
        yield (
            f"too few steps: the rate grows {r.factor:.2g} times a step, and the loss fell from "
            f"{r.text(r.start)} to {r.text(r.best)} only; take at least 56 steps"
        )
    if r.scatter > 0.5 * r.fall:
        yield (
            f"too noisy: the loss scatters by {r.scatter:.2g} around a fall of {r.fall:.2g}; take "
            "a larger batch, accumulate, or score on validation batches"
        )
    rules = {name: r.picks[name] or r.rate for name in ("steepest", "valley", "minimum_10")}
    middle = float(np.median(list(rules.values())))
    if abs(math.log10(middle / r.rate)) > _MAX_DECADES:
        rates = ", ".join(f"{name} {rate:.2g}" for name, rate in rules.items())
        yield (
            f"the rules disagree by more than a decade: {rates}, against {r.rate:.2g}; take more "
            "steps over a narrower range, or a larger batch"
        )


def _round(lr: float) -> str:
    return f"{float(f'{lr:.1g}'):g}"
