"""Whether the recommendation of a learning-rate range test can be trusted, and if not, why."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..records import FloatArray

MIN_POINTS = 10  # points; fewer show no shape

# Decades between the peak and the middle of three rules. On a good curve the rules point at the
# slope, up to a decade below the peak; half a decade more is too far.
_MAX_DECADES = 1.5


@dataclass(frozen=True)
class Verdict:
    """Whether to trust the recommended rates; each reason against it names a change to make."""

    ok: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A smoothed curve of n points without NaN, and the numbers read off it.

    Of three of the `picks` (steepest, valley and minimum / 10) the middle one counts, as any one
    may be fooled: steepest by the first steps of a network whose norms settle, valley by the
    length of the flat start.
    """

    lrs: FloatArray  # (n,)
    losses: FloatArray  # (n,) smoothed
    start: float  # the loss before the rates had an effect
    scatter: float  # the standard deviation of single losses around the smoothed ones
    peak: float | None  # the recommended rate; None: the loss does not fall
    picks: Mapping[str, float | None]  # rule -> its rate
    stopped: str | None  # why the test ended early
    chance: float | None  # the loss of guessing; None: not known

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
    def lower_start(self) -> str:
        """Where to start another test: two decades below this one."""
        return _round(self.lrs[0] / 100)


def judge(reading: Reading) -> Verdict:
    """Return whether the rate read off a curve can be trusted, with every reason if not."""
    no_rate = _no_rate(reading)
    reasons = (no_rate,) if no_rate else tuple(_weak_points(reading))
    return Verdict(not reasons, reasons)


def _no_rate(r: Reading) -> str | None:
    """The first reason why the curve shows no rate at all."""
    if len(r.lrs) == 0:
        return f"{r.stopped or 'no loss is finite'}; check the images, the labels and the loss"
    if r.stopped and (len(r.lrs) < MIN_POINTS or r.low <= 2):
        return f"diverged at once: {r.stopped}; start the range at {r.lower_start}"
    if r.low <= 2 and r.losses[-1] > 1.2 * r.best:
        return (
            f"diverged at once: the loss only climbs, from {r.best:.3g} at lr {r.lrs[r.low]:.3g}; "
            f"start the range at {r.lower_start}"
        )
    if len(r.lrs) < MIN_POINTS:
        return f"{len(r.lrs)} points are too few to show a shape; take at least 40 steps"
    if r.chance is not None and r.start < 0.5 * r.chance and r.fall < 0.2 * r.start:
        return (
            f"the model seems already trained: the loss starts at {r.start:.3g}, where guessing "
            f"has {r.chance:.3g}, and hardly falls; test an untrained model"
        )
    if r.peak is None and r.chance is not None and r.best < 0.99 * r.start:
        return (
            f"the loss never fell below that of guessing, {r.chance:.4g}: {r.start:.4g} at the "
            f"start, {r.best:.4g} at best; take more steps, so that there is time to learn"
        )
    if r.peak is None:
        return (
            f"the loss never fell: {r.start:.4g} at the start, {r.best:.4g} at best; check that "
            "the optimizer holds the model's parameters and that labels match images, or widen "
            "the range"
        )
    return None


def _weak_points(r: Reading) -> Iterator[str]:
    """Every reason to doubt the rate that the curve shows."""
    assert r.peak is not None
    at_end = r.low >= len(r.lrs) - 2 and r.losses[-1] < r.best + 0.1 * r.fall
    if at_end and not r.stopped:
        yield (
            f"the loss still falls at the end of the range; end it at {_round(10 * r.lrs[-1])} "
            f"instead of {r.lrs[-1]:.3g}"
        )
    if r.peak < 2.5 * r.lrs[0]:
        yield f"the pick, {r.peak:.2g}, is at the start of the range; start it at {r.lower_start}"
    if r.scatter > 0.5 * r.fall:
        yield (
            f"too noisy: the loss scatters by {r.scatter:.2g} around a fall of {r.fall:.2g}; take "
            "a larger batch, accumulate, or score on validation batches"
        )
    rules = {name: r.picks[name] or r.peak for name in ("steepest", "valley", "minimum_10")}
    middle = float(np.median(list(rules.values())))
    if abs(math.log10(middle / r.peak)) > _MAX_DECADES:
        rates = ", ".join(f"{name} {rate:.2g}" for name, rate in rules.items())
        yield (
            f"the rules disagree by more than a decade: {rates}, against {r.peak:.2g}; take more "
            "steps over a narrower range, or a larger batch"
        )


def _round(lr: float) -> str:
    return f"{float(f'{lr:.1g}'):g}"
