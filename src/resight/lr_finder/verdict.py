"""Whether the recommendation of a learning-rate range test can be trusted, and if not, why."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..records import FloatArray

MIN_POINTS = 10  # points; fewer show no shape

# Decades between the peak and the middle of three rules. They point at the slope, up to a decade
# below the peak where all is well: so this is half a decade more.
_MAX_DECADES = 1.5


@dataclass(frozen=True)
class Verdict:
    """Whether to trust the recommended rates; each reason not to says what to change."""

    ok: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """What `judge` is given, and what follows from it."""

    lrs: FloatArray
    losses: FloatArray
    start: float
    scatter: float
    peak: float | None
    picks: Mapping[str, float | None]
    stopped: str | None
    chance: float | None

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


def judge(
    lrs: FloatArray,
    losses: FloatArray,
    *,
    start: float,
    scatter: float,
    peak: float | None,
    picks: Mapping[str, float | None],
    stopped: str | None,
    chance: float | None,
) -> Verdict:
    """Return the verdict on a curve of n points without NaN.

    Args:
        lrs: (n,) rates.
        losses: (n,) smoothed losses.
        start: the loss before the rates had an effect.
        scatter: standard deviation of single losses around the smoothed ones.
        peak: the recommended rate; None: the loss does not fall.
        picks: rule -> its rate for the same curve. The middle one of steepest, valley and
            minimum / 10 counts, as any one may be fooled: steepest by the first steps of a
            network whose norms settle, valley by the length of the flat start.
        stopped: why the test ended early.
        chance: the loss of guessing.
    """
    reading = _Reading(lrs, losses, start, scatter, peak, picks, stopped, chance)
    for check in _NO_RATE:
        if reason := check(reading):
            return Verdict(False, (reason,))
    reasons = tuple(reason for check in _BAD_RATE if (reason := check(reading)))
    return Verdict(not reasons, reasons)


def _no_points(r: _Reading) -> str | None:
    if len(r.lrs):
        return None
    return f"{r.stopped or 'no loss is finite'}; check the images, the labels and the loss"


def _stopped_at_once(r: _Reading) -> str | None:
    if not r.stopped or (len(r.lrs) >= MIN_POINTS and r.low > 2):
        return None
    return f"diverged at once: {r.stopped}; start the range at {r.lower_start}"


def _only_rises(r: _Reading) -> str | None:
    if r.low > 2 or r.losses[-1] <= 1.2 * r.best:
        return None
    return (
        f"diverged at once: the loss only climbs, from {r.best:.3g} at lr {r.lrs[r.low]:.3g}; "
        f"start the range at {r.lower_start}"
    )


def _too_few_points(r: _Reading) -> str | None:
    if len(r.lrs) >= MIN_POINTS:
        return None
    return f"{len(r.lrs)} points are too few to show a shape; take at least 40 steps"


def _already_trained(r: _Reading) -> str | None:
    if r.chance is None or r.start >= 0.5 * r.chance or r.fall >= 0.2 * r.start:
        return None
    return (
        f"the model seems already trained: the loss starts at {r.start:.3g}, where guessing has "
        f"{r.chance:.3g}, and hardly falls; test an untrained model"
    )


def _above_guessing(r: _Reading) -> str | None:
    if r.peak is not None or r.chance is None or r.best >= 0.99 * r.start:
        return None
    return (
        f"the loss never fell below that of guessing, {r.chance:.4g}: {r.start:.4g} at the start, "
        f"{r.best:.4g} at best; take more steps, so that there is time to learn"
    )


def _never_fell(r: _Reading) -> str | None:
    if r.peak is not None:
        return None
    return (
        f"the loss never fell: {r.start:.4g} at the start, {r.best:.4g} at best; check that "
        "the optimizer holds the model's parameters and that labels match images, or widen "
        "the range"
    )


def _still_falls(r: _Reading) -> str | None:
    at_end = r.low >= len(r.lrs) - 2 and r.losses[-1] < r.best + 0.1 * r.fall
    if r.stopped or not at_end:
        return None
    return (
        f"the loss still falls at the end of the range; end it at {_round(10 * r.lrs[-1])} "
        f"instead of {r.lrs[-1]:.3g}"
    )


def _peak_at_start(r: _Reading) -> str | None:
    if r.peak is None or r.peak >= 2.5 * r.lrs[0]:
        return None
    return f"the pick, {r.peak:.2g}, is at the start of the range; start it at {r.lower_start}"


def _too_noisy(r: _Reading) -> str | None:
    if r.scatter <= 0.5 * r.fall:
        return None
    return (
        f"too noisy: the loss scatters by {r.scatter:.2g} around a fall of {r.fall:.2g}; take a "
        "larger batch, accumulate, or score on validation batches"
    )


def _rules_disagree(r: _Reading) -> str | None:
    assert r.peak is not None
    rules = {name: r.picks[name] or r.peak for name in ("steepest", "valley", "minimum_10")}
    middle = float(np.median(list(rules.values())))
    if abs(math.log10(middle / r.peak)) <= _MAX_DECADES:
        return None
    rates = ", ".join(f"{name} {rate:.2g}" for name, rate in rules.items())
    return (
        f"the rules disagree by more than a decade: {rates}, against {r.peak:.2g}; take more "
        "steps over a narrower range, or a larger batch"
    )


def _round(lr: float) -> str:
    return f"{float(f'{lr:.1g}'):g}"


# Reasons why there is no rate, of which the first is enough; reasons to doubt the one there is.
_Check = Callable[[_Reading], str | None]
_NO_RATE: tuple[_Check, ...] = (
    _no_points,
    _stopped_at_once,
    _only_rises,
    _too_few_points,
    _already_trained,
    _above_guessing,
    _never_fell,
)
_BAD_RATE: tuple[_Check, ...] = (_still_falls, _peak_at_start, _too_noisy, _rules_disagree)
