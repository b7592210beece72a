"""Whether the answer of a learning-rate range test can be trusted, and if not, what to change."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..records import FloatArray

MIN_POINTS = 10  # points; fewer show no shape

# Decades between the peak and the middle of three rules. They point at the slope, up to a decade
# below the peak where all is well: so this is half a decade more.
_APART = 1.5


@dataclass(frozen=True)
class Verdict:
    """Whether to trust the recommended rates; each reason not to says what to change."""

    ok: bool
    reasons: tuple[str, ...] = ()


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
    """The verdict on a curve of n points without NaN.

    Args:
        lrs: (n,) rates.
        losses: (n,) smoothed losses.
        start: the loss before the rates had an effect.
        scatter: standard deviation of single losses around the smoothed ones.
        peak: the recommended rate; None: the loss does not fall.
        picks: rule -> what it says of the same curve. The middle one of steepest, valley and
            minimum / 10 counts, as any one may be fooled: steepest by the first steps of a
            network whose norms settle, valley by the length of the flat start.
        stopped: why the test ended early.
        chance: the loss of guessing.
    """
    n = len(lrs)
    if n == 0:
        return _no(f"{stopped or 'no loss is finite'}; check the images, the labels and the loss")
    low = int(losses.argmin())
    fall = start - losses[low]
    if stopped and (n < MIN_POINTS or low <= 2):
        return _no(f"diverged at once: {stopped}; start the range at {_round(lrs[0] / 100)}")
    if low <= 2 and losses[-1] > 1.2 * losses[low]:
        return _no(
            f"diverged at once: the loss only climbs, from {losses[low]:.3g} at lr {lrs[low]:.3g}; "
            f"start the range at {_round(lrs[0] / 100)}"
        )
    if n < MIN_POINTS:
        return _no(f"{n} points are too few to show a shape; take at least 40 steps")
    if chance is not None and start < 0.5 * chance and fall < 0.2 * start:
        return _no(
            f"the model seems already trained: the loss starts at {start:.3g}, where guessing has "
            f"{chance:.3g}, and hardly falls; test a freshly built model"
        )
    if peak is None and chance is not None and losses[low] < 0.99 * start:
        return _no(
            f"the loss never fell below that of guessing, {chance:.4g}: {start:.4g} at the start, "
            f"{losses[low]:.4g} at best; take more steps, so that there is time to learn"
        )
    if peak is None:
        return _no(
            f"the loss never fell: {start:.4g} at the start, {losses[low]:.4g} at best; check that "
            "the optimizer holds the model's parameters and that labels match images, or widen "
            "the range"
        )

    reasons = []
    if low >= n - 2 and losses[-1] < losses[low] + 0.1 * fall and not stopped:
        reasons.append(
            f"the loss still falls at the end of the range; end it at {_round(10 * lrs[-1])} "
            f"instead of {lrs[-1]:.3g}"
        )
    if peak < 2.5 * lrs[0]:
        reasons.append(
            f"the pick, {peak:.2g}, is at the start of the range; "
            f"start it at {_round(lrs[0] / 100)}"
        )
    if scatter > 0.5 * fall:
        reasons.append(
            f"too noisy: the loss scatters by {scatter:.2g} around a fall of {fall:.2g}; take a "
            "larger batch, accumulate, or score on validation batches"
        )
    rules = {name: picks[name] or peak for name in ("steepest", "valley", "minimum_10")}
    middle = float(np.median(list(rules.values())))
    if abs(math.log10(middle / peak)) > _APART:
        said = ", ".join(f"{name} {pick:.2g}" for name, pick in rules.items())
        reasons.append(
            f"the rules disagree by more than a decade: {said}, against {peak:.2g}; take more "
            "steps over a narrower range, or a larger batch"
        )
    return Verdict(not reasons, tuple(reasons))


def _round(lr: float) -> str:
    return f"{float(f'{lr:.1g}'):g}"


def _no(reason: str) -> Verdict:
    return Verdict(False, (reason,))
